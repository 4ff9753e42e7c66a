//! The files of a crate form no circle, and neither do its folders: whoever opens one reads what it
//! names, and comes to an end.
//!
//! ```text
//! src/**.rs ──> a module each ──> the paths it names (`use …`, `crate::…`, `super::…`)
//!                                  └── through re-exports, to the file that defines the name
//! peel off what names nothing else, and what nothing else names ──> what is left is a circle
//! ```
//!
//! A `mod.rs` may re-export what its files define; that alone is no arrow. Tests are left out.

use std::collections::{BTreeMap, BTreeSet};

use gofer_testbed::{SourceFile, source_files};

/// The crates that are held to it.
const CRATES: [&str; 8] = [
    "gofer-cli",
    "gofer-db",
    "gofer-scheduler-local",
    "gofer-scheduler-nomad",
    "gofer-secrets-local",
    "gofer-secrets-vault",
    "gofer-store-local",
    "gofer-store-s3",
];
/// Re-exports of re-exports that are followed.
const MAX_REEXPORTS: usize = 8;

/// Who names whom.
type Arrows = BTreeMap<String, BTreeSet<String>>;

/// What a module names, as paths from the crate's root.
#[derive(Default)]
struct Module {
    named: Vec<String>,
    /// Where a name that it passes on is defined.
    reexported: BTreeMap<String, String>,
}

/// The module that a file is, unless it is the crate's root or holds tests alone.
fn module_name(path_in_src: &str) -> Option<String> {
    let path = path_in_src.strip_suffix(".rs")?;
    let path = path.strip_suffix("/mod").unwrap_or(path);
    let mut parts = path.split('/');
    let is_root = ["lib", "main"].contains(&path) || path.starts_with("bin/");
    let is_test = parts.any(|part| part == "tests");
    (!is_root && !is_test).then(|| path.replace('/', "::"))
}

/// The paths that a `use` tree names: `a::{b, c::d}` names `a::b` and `a::c::d`.
fn leaves(prefix: &str, tree: &str) -> Vec<String> {
    let tree = tree.trim();
    let Some((before, rest)) = tree.split_once('{') else {
        let path = tree.split(" as ").next().unwrap_or_default();
        return if tree.is_empty() { Vec::new() } else { vec![format!("{prefix}{path}")] };
    };

    let inner = rest.rsplit_once('}').map_or(rest, |(inner, _)| inner);
    let prefix = format!("{prefix}{before}");
    let (mut depth, mut branches) = (0, vec![String::new()]);
    for char in inner.chars() {
        match char {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                branches.push(String::new());
                continue;
            }
            _ => {}
        }
        branches.last_mut().expect("there is one from the start").push(char);
    }

    branches.iter().flat_map(|branch| leaves(&prefix, branch)).collect()
}

/// A path from the crate's root, if it leads into the crate at all.
fn from_root(module: &str, path: &str, known: &BTreeSet<String>) -> Option<String> {
    let mut here: Vec<&str> = module.split("::").collect();
    let mut parts: Vec<&str> = path.split("::").collect();
    match parts[0] {
        "crate" => here.clear(),
        "self" => {}
        "super" => {
            while parts.first() == Some(&"super") {
                here.pop();
                parts.remove(0);
            }
            return Some([here, parts].concat().join("::"));
        }
        // A child of this module; anything else is another crate's.
        child => {
            let child = format!("{module}::{child}");
            return known.contains(&child).then(|| format!("{module}::{path}"));
        }
    }
    Some([&here[..], &parts[1..]].concat().join("::"))
}

/// The paths in code that begin like this one, such as `crate::`.
fn paths_in(code: &str, beginning: &str) -> Vec<String> {
    let is_part_of_name = |char: char| char.is_alphanumeric() || char == '_';
    let begins = code.match_indices(beginning);
    let begins = begins
        .filter(|(at, _)| !code[..*at].ends_with(|char| is_part_of_name(char) || char == ':'));
    let path = |at: usize| {
        let rest = &code[at..];
        let end = rest.find(|char| !is_part_of_name(char) && char != ':').unwrap_or(rest.len());
        rest[..end].trim_end_matches(':').to_owned()
    };
    begins.map(|(at, _)| path(at)).collect()
}

/// The declaration that a statement ends with: what stands before it, whether it passes on what it
/// names, and its tree.
fn declaration(statement: &str) -> Option<(&str, bool, &str)> {
    let statement = statement.trim_end_matches(';');
    [("use ", false), ("pub use ", true), ("pub(crate) use ", true), ("pub(super) use ", true)]
        .into_iter()
        .find_map(|(word, is_public)| {
            let indent = statement.len() - statement.trim_start().len();
            let at = match statement.trim_start().starts_with(word) {
                true => indent,
                false => statement.rfind(&format!("\n{word}"))? + 1,
            };
            Some((&statement[..at], is_public, &statement[at + word.len()..]))
        })
}

/// Reads what a file names.
fn read(name: &str, text: &str, known: &BTreeSet<String>) -> Module {
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let lines = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    let code = lines.collect::<Vec<_>>().join("\n");
    let (mut module, mut rest) = (Module::default(), String::new());

    for statement in code.split_inclusive(';') {
        let Some((before, is_public, tree)) = declaration(statement) else {
            rest.push_str(statement);
            continue;
        };

        rest.push_str(before);
        let tree = tree.split_whitespace().collect::<Vec<_>>().join(" ");
        for path in leaves("", &tree) {
            let Some(path) = from_root(name, &path, known) else { continue };
            if is_public {
                let last = path.rsplit("::").next().unwrap_or_default().to_owned();
                module.reexported.insert(last, path);
            } else {
                module.named.push(path);
            }
        }
    }

    for path in [paths_in(&rest, "crate::"), paths_in(&rest, "super::")].concat() {
        module.named.extend(from_root(name, &path, known));
    }

    module
}

/// The module that defines what a path names.
fn defined_in(path: &str, modules: &BTreeMap<String, Module>) -> Option<String> {
    let mut path = path.to_owned();
    for _ in 0..MAX_REEXPORTS {
        let parts: Vec<&str> = path.split("::").collect();
        let prefixes = (1..=parts.len()).rev().map(|length| (length, parts[..length].join("::")));
        let (length, name) = prefixes.into_iter().find(|(_, name)| modules.contains_key(name))?;
        let reexported = parts.get(length).and_then(|item| modules[&name].reexported.get(*item));
        match reexported {
            Some(origin) if *origin != path => path = origin.clone(),
            _ => return Some(name),
        }
    }
    None
}

/// Who names whom, among the modules of these sources: path below `src`, and text.
fn arrows(sources: &[(&str, &str)]) -> Arrows {
    let named = sources.iter().filter_map(|(path, text)| Some((module_name(path)?, *text)));
    let named: BTreeMap<String, &str> = named.collect();
    let known: BTreeSet<String> = named.keys().cloned().collect();
    let modules: BTreeMap<String, Module> =
        named.iter().map(|(name, text)| (name.clone(), read(name, text, &known))).collect();

    let targets = |name: &String, module: &Module| {
        let found = module.named.iter().filter_map(|path| defined_in(path, &modules));
        found.filter(|target| target != name).collect()
    };
    modules.iter().map(|(name, module)| (name.clone(), targets(name, module))).collect()
}

/// The same between what lies directly below `src`.
fn between_folders(arrows: &Arrows) -> Arrows {
    let top = |name: &String| name.split("::").next().unwrap_or_default().to_owned();
    let mut between = Arrows::new();
    for (from, targets) in arrows {
        let targets = targets.iter().map(top).filter(|target| *target != top(from));
        between.entry(top(from)).or_default().extend(targets);
    }
    between
}

/// The arrows of circles, and of what lies between two of them.
fn circles(arrows: &Arrows) -> Vec<String> {
    let mut left = arrows.clone();
    loop {
        let names: BTreeSet<String> = left.keys().cloned().collect();
        left.values_mut().for_each(|targets| targets.retain(|target| names.contains(target)));
        let aimed_at: BTreeSet<String> = left.values().flatten().cloned().collect();
        left.retain(|name, targets| !targets.is_empty() && aimed_at.contains(name));
        if left.len() == names.len() {
            break;
        }
    }

    let lines = left.iter().map(|(from, targets)| {
        format!("{from} -> {}", targets.iter().cloned().collect::<Vec<_>>().join(", "))
    });
    lines.collect()
}

#[test]
fn no_files_and_no_folders_of_a_crate_form_a_circle() {
    let files: Vec<SourceFile> = source_files();
    let mut found = Vec::new();

    for name in CRATES {
        let prefix = format!("{name}/src/");
        let own = files.iter().filter(|file| file.extension() == "rs" && !file.is_generated());
        let sources: Vec<(&str, &str)> = own
            .filter_map(|file| Some((file.path.strip_prefix(&prefix)?, file.text.as_str())))
            .collect();
        let arrows = arrows(&sources);
        assert!(arrows.values().any(|targets| !targets.is_empty()), "`{name}` has no arrows");

        let folders = circles(&between_folders(&arrows));
        let lines = circles(&arrows).into_iter().chain(folders);
        found.extend(lines.map(|line| format!("{name}: {line}")));
    }

    assert!(
        found.is_empty(),
        "move what two files need of each other into a third:\n{}",
        found.join("\n")
    );
}

#[test]
fn a_circle_is_found_through_re_exports_and_between_folders() {
    let sources = [
        ("lib.rs", "mod a; mod b; mod c; mod d;"),
        ("a/mod.rs", "mod x;\npub(crate) use x::{X, y::Y};\n"),
        ("a/x.rs", "#[cfg(unix)]\nuse crate::b::{self, B};\n"),
        ("b.rs", "// use crate::c::C;\nfn f() { crate::a::X::new() }\n"),
        ("c.rs", "use std::fmt;\nuse super::b::B;\n#[cfg(test)]\nmod tests { use crate::d; }\n"),
        ("d/mod.rs", "mod e;\n"),
        ("d/e.rs", "use crate::c::C;\n"),
    ];
    let found = circles(&arrows(&sources));
    assert_eq!(found, ["a::x -> b", "b -> a::x"]);

    let sources = [("a/x.rs", "use crate::b::y;"), ("a/z.rs", ""), ("b/y.rs", "use crate::a::z;")];
    assert_eq!(circles(&arrows(&sources)), [""; 0]);
    assert_eq!(circles(&between_folders(&arrows(&sources))), ["a -> b", "b -> a"]);
}
