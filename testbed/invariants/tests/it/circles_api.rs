//! The folders and files of gofer-api: which uses which, and that no use leads back.

use std::collections::{BTreeMap, BTreeSet};

use gofer_testbed::source_files;

/// Where the crate lies.
const CRATE: &str = "gofer-api/src/";
/// What knows no wire: domain in, domain out.
const OPERATIONS: &str = "gofer-api/src/operations/";
/// The words of the wire.
const WIRE: [&str; 3] = ["gofer_proto", "tonic", "prost"];

/// A module's path below the crate, such as `services`, `run`, `follow`. A folder's `mod.rs` has
/// the folder's.
type Module = Vec<String>;

/// The code of each module that is no test's, without comments.
fn modules() -> BTreeMap<Module, String> {
    let mut found = BTreeMap::new();
    for file in source_files() {
        let Some(below) = file.path.strip_prefix(CRATE).and_then(|path| path.strip_suffix(".rs"))
        else {
            continue;
        };

        let mut module: Module = below.split('/').map(str::to_owned).collect();
        let name = module.last().map(String::as_str).unwrap_or_default();
        if ["tests", "testing", "lib"].contains(&name) {
            continue;
        }

        if name == "mod" {
            module.pop();
        }

        let code = file.text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let lines = code.lines().map(|line| line.split("//").next().unwrap_or_default());
        found.insert(module, lines.collect::<Vec<_>>().join("\n"));
    }

    assert!(found.len() > 50, "only {} modules of {CRATE}", found.len());
    found
}

/// The modules and items that a module's code names: `crate::a::b`, `super::c`, and each of
/// `crate::{a::b, c}`.
fn named(module: &Module, is_folder: bool, code: &str) -> BTreeSet<Module> {
    let mut found = BTreeSet::new();
    let parent = &module[..module.len() - usize::from(!is_folder)];
    let above = &parent[..parent.len().saturating_sub(usize::from(is_folder))];
    // `super` of a file is its folder, `super` of a folder's `mod.rs` the folder above.
    let starts = [("crate::", Vec::new()), ("super::", above.to_vec())];

    for (word, base) in starts {
        for (at, _) in code.match_indices(word) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|character| character.is_alphanumeric() || character == '_') {
                continue;
            }

            let rest = &code[at + word.len()..];
            let entries = match rest.strip_prefix('{') {
                Some(group) => top_level_entries(group),
                None => vec![rest],
            };
            for entry in entries {
                let mut path = base.clone();
                path.extend(segments(entry));
                found.insert(path);
            }
        }
    }

    found
}

/// The path that a text begins with, such as `a::b`.
fn segments(text: &str) -> Vec<String> {
    let is_path = |character: char| character.is_alphanumeric() || "_:".contains(character);
    let path = text.trim_start().split(|character| !is_path(character)).next().unwrap_or_default();
    path.split("::").filter(|segment| !segment.is_empty()).map(str::to_owned).collect()
}

/// The entries of a group of imports, up to its closing brace.
fn top_level_entries(group: &str) -> Vec<&str> {
    let (mut depth, mut start, mut found) = (0, 0, Vec::new());
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => {
                found.push(&group[start..at]);
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                found.push(&group[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    found
}

/// A circle among what lies in one folder, if there is one.
fn circle(uses: &BTreeMap<&str, BTreeSet<&str>>) -> Option<Vec<String>> {
    fn visit<'a>(
        at: &'a str,
        uses: &BTreeMap<&'a str, BTreeSet<&'a str>>,
        path: &mut Vec<&'a str>,
        done: &mut BTreeSet<&'a str>,
    ) -> Option<Vec<String>> {
        if let Some(start) = path.iter().position(|known| *known == at) {
            return Some(
                path[start..].iter().chain([&at]).map(|name| (*name).to_owned()).collect(),
            );
        }

        if !done.insert(at) {
            return None;
        }

        path.push(at);
        let found =
            uses.get(at).into_iter().flatten().find_map(|next| visit(next, uses, path, done));
        path.pop();
        found
    }

    let mut done = BTreeSet::new();
    uses.keys().find_map(|start| visit(start, uses, &mut Vec::new(), &mut done))
}

/// Folders of the crate, and what lies in one of them, use each other in one direction. A folder's
/// `mod.rs` is its front: it names what lies in the folder, and what lies there may use the front.
#[test]
fn folders_and_files_of_gofer_api_form_no_circle() {
    let modules = modules();
    let folders: BTreeSet<&[String]> =
        modules.keys().filter_map(|module| Some(module.split_last()?.1)).collect();
    let mut uses: BTreeMap<&[String], BTreeMap<&str, BTreeSet<&str>>> = BTreeMap::new();
    let paths: Vec<(&Module, BTreeSet<Module>)> = modules
        .iter()
        .map(|(module, code)| (module, named(module, folders.contains(module.as_slice()), code)))
        .collect();

    for (from, targets) in &paths {
        for to in targets {
            let common = from.iter().zip(to).take_while(|(from, to)| from == to).count();
            let (Some(user), Some(used)) = (from.get(common), to.get(common)) else { continue };
            let is_module = modules.contains_key(&to[..=common]);
            if is_module {
                let folder = uses.entry(&from[..common]).or_default();
                folder.entry(user).or_default().insert(used);
            }
        }
    }

    let circles: Vec<String> = uses
        .iter()
        .filter_map(|(folder, uses)| {
            Some(format!("{CRATE}{}: {}", folder.join("/"), circle(uses)?.join(" -> ")))
        })
        .collect();
    assert!(
        circles.is_empty(),
        "what each needs of the other belongs below:\n{}",
        circles.join("\n")
    );

    let known =
        |user: &str, used: &str| uses[&[][..]].get(user).is_some_and(|all| all.contains(used));
    assert!(known("services", "operations") && known("server", "compose"), "uses are not found");
}

#[test]
fn operations_know_no_wire() {
    let mut wrong = Vec::new();
    for file in source_files().iter().filter(|file| file.path.starts_with(OPERATIONS)) {
        for (number, line) in file.text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if WIRE.iter().any(|word| code.contains(word)) {
                wrong.push(format!("{}:{}: {}", file.path, number + 1, line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "a handler decodes, calls and encodes:\n{}", wrong.join("\n"));
}
