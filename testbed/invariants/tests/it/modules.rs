//! Which file of a crate may use which. In these crates no files and no folders use each other in a
//! circle: a reader can take them one after the other, and a part can be tested without the others.

use std::collections::{BTreeMap, BTreeSet};

use gofer_testbed::source_files;

/// Crates without circles.
const CRATES: [&str; 1] = ["gofer-engine"];
/// Uses nothing but itself and the domain.
const RULES: &str = "gofer-engine/src/rules/";

/// Which file uses which, by path below `src`, tests left out.
type Arrows = BTreeMap<String, BTreeSet<String>>;

#[test]
fn no_files_and_no_folders_use_each_other_in_a_circle() {
    for name in CRATES {
        let files = arrows(name);
        assert!(files.values().map(BTreeSet::len).sum::<usize>() > 10, "{name}: {files:?}");
        let circle = circle(&files);
        assert!(circle.is_empty(), "{name}: these files use each other in a circle: {circle:?}");

        let folders = by_folder(&files);
        let circle = self::circle(&folders);
        assert!(circle.is_empty(), "{name}: these folders use each other in a circle: {circle:?}");
    }
}

#[test]
fn the_rules_of_a_run_use_nothing_but_the_domain() {
    let rules = source_files().into_iter().filter(|file| file.path.starts_with(RULES));
    for file in rules {
        for path in paths(&file.text) {
            let first = path.split("::").next().unwrap_or_default();
            let is_inside = ["super", "self"].contains(&first) || path.starts_with("crate::rules");
            let is_below = ["std", "gofer_core"].contains(&first);
            assert!(is_inside || is_below, "{}: `use {path}`", file.path);
        }
    }
}

fn arrows(name: &str) -> Arrows {
    let root = format!("{name}/src/");
    let files: BTreeMap<String, String> = source_files()
        .into_iter()
        .filter(|file| file.extension() == "rs")
        .filter_map(|file| Some((file.path.strip_prefix(&root)?.to_owned(), file.text)))
        .collect();

    let mut arrows = Arrows::new();
    for (file, text) in &files {
        let module = module_of(file);
        let used = paths(text).filter_map(|path| {
            let segments = absolute(&module, &path)?;
            find(&segments, &files).filter(|found| found != file)
        });
        arrows.insert(file.clone(), used.collect());
    }

    // The root only says what there is, and holds what is used everywhere.
    arrows.retain(|file, _| !["lib.rs", "main.rs"].contains(&file.as_str()));
    arrows
}

/// The module that a file is: `["run", "driver"]`.
fn module_of(file: &str) -> Vec<String> {
    let path = file.trim_end_matches(".rs").trim_end_matches("/mod");
    path.split('/')
        .filter(|part| !["lib", "main", "mod"].contains(part))
        .map(str::to_owned)
        .collect()
}

/// What a path of this crate names, from its root; `None` for one of another crate.
fn absolute(module: &[String], path: &str) -> Option<Vec<String>> {
    let mut at = None;
    for segment in path.split("::") {
        match (segment, &mut at) {
            ("crate", None) => at = Some(Vec::new()),
            ("self", None) => at = Some(module.to_vec()),
            ("super", None) => at = Some(module[..module.len().checked_sub(1)?].to_vec()),
            ("super", Some(at)) => drop(at.pop()),
            (name, Some(at)) => at.push(name.to_owned()),
            (_, None) => return None,
        }
    }
    at
}

/// The file in which that is.
fn find(segments: &[String], files: &BTreeMap<String, String>) -> Option<String> {
    (1..=segments.len()).rev().find_map(|length| {
        let path = segments[..length].join("/");
        let names = [format!("{path}.rs"), format!("{path}/mod.rs")];
        names.into_iter().find(|name| files.contains_key(name))
    })
}

/// Every path that a file imports, and those that its code names in full, without its own tests.
fn paths(text: &str) -> impl Iterator<Item = String> {
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let lines = code.lines().map(|line| line.split("//").next().unwrap_or_default());
    let code = format!("\n{}", lines.collect::<Vec<_>>().join("\n"));

    let mut found = Vec::new();
    for statement in code.split(';') {
        let start = statement.rfind("\nuse ").map(|at| at + 5);
        let start = start.or_else(|| statement.rfind(" use ").map(|at| at + 5));
        if let Some(start) = start {
            expand("", statement[start..].trim(), &mut found);
        }
    }

    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at..];
        let end = rest.find(|char: char| !char.is_alphanumeric() && !"_:".contains(char));
        found.push(rest[..end.unwrap_or(rest.len())].trim_end_matches(':').to_owned());
    }
    found.into_iter()
}

/// `a::{b, c::d}` as `a::b` and `a::c::d`.
fn expand(before: &str, tree: &str, found: &mut Vec<String>) {
    let tree = tree.trim();
    let Some((prefix, inner)) = tree.split_once('{') else {
        let name = tree.split(" as ").next().unwrap_or_default().trim();
        found.push(format!("{before}{name}").trim_end_matches("::self").to_owned());
        return;
    };

    let inner = inner.trim_end();
    let inner = inner.strip_suffix('}').unwrap_or(inner);
    let (mut depth, mut start) = (0, 0);
    let before = format!("{before}{prefix}");
    for (at, char) in inner.char_indices() {
        match char {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                expand(&before, &inner[start..at], found);
                start = at + 1;
            }
            _ => {}
        }
    }
    if !inner[start..].trim().is_empty() {
        expand(&before, &inner[start..], found);
    }
}

fn by_folder(files: &Arrows) -> Arrows {
    let folder = |file: &str| file.split('/').next().unwrap_or_default().to_owned();
    let mut folders = Arrows::new();
    for (file, used) in files {
        let from = folder(file);
        let others = used.iter().map(|file| folder(file)).filter(|to| *to != from);
        folders.entry(from.clone()).or_default().extend(others);
    }
    folders
}

/// What is left when all is taken away that uses nothing, again and again; and of that one circle.
fn circle(arrows: &Arrows) -> Vec<String> {
    let mut left = arrows.clone();
    loop {
        let done: Vec<String> = left
            .iter()
            .filter(|(_, used)| used.iter().all(|to| !left.contains_key(to)))
            .map(|(from, _)| from.clone())
            .collect();
        if done.is_empty() {
            break;
        }
        left.retain(|from, _| !done.contains(from));
    }

    let mut walked: Vec<String> = Vec::new();
    let mut next = left.keys().next().cloned();
    while let Some(at) = next {
        if let Some(start) = walked.iter().position(|before| *before == at) {
            walked.drain(..start);
            walked.push(at);
            break;
        }
        next = left[&at].iter().find(|to| left.contains_key(*to)).cloned();
        walked.push(at);
    }
    walked
}

#[test]
fn a_circle_is_found() {
    let arrow = |from: &str, to: &str| (from.to_owned(), BTreeSet::from([to.to_owned()]));
    let arrows =
        BTreeMap::from([arrow("a", "b"), arrow("b", "c"), arrow("c", "b"), arrow("d", "e")]);
    assert_eq!(circle(&arrows), ["b", "c", "b"]);

    let text = "use crate::{a::{self, B}, c};\nuse super::d::{E, F};\nfn f() { crate::g::h(); }";
    let found: Vec<String> = paths(text).collect();
    let expected = ["crate::a", "crate::a::B", "crate::c", "super::d::E", "super::d::F"];
    assert!(expected.iter().all(|path| found.iter().any(|one| one == path)), "{found:?}");
    assert!(found.iter().any(|path| path == "crate::g::h"), "{found:?}");
}
