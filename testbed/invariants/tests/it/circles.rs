//! The files of a crate form no circle, and neither do its folders: whoever opens one reads what it
//! names, and comes to an end.
//!
//! ```text
//! src/**.rs ──> a module each ──> the paths it names (`use …`, `crate::…`, `super::…`)
//!                                  └── through re-exports, to the file that defines the name
//! peel off what names nothing else, and what nothing else names ──> what is left is a circle
//! ```
//!
//! Of a folder's `mod.rs`, its front, see [`CRATES`]. Tests are left out.

use std::collections::{BTreeMap, BTreeSet};

use gofer_testbed::{SourceFile, source_files};

use crate::imports::Imports;

/// The crates that are held to it, and whether a folder's front counts as a user of what it
/// re-exports: where it does, no file of the folder may use the front.
const CRATES: [(&str, bool); 10] = [
    ("gofer-api", false),
    ("gofer-cli", true),
    ("gofer-db", false),
    ("gofer-engine", true),
    ("gofer-scheduler-local", false),
    ("gofer-scheduler-nomad", true),
    ("gofer-secrets-local", true),
    ("gofer-secrets-vault", true),
    ("gofer-store-local", true),
    ("gofer-store-s3", true),
];
/// Uses that are there, between what lies directly below `src`: without them nothing was found.
const KNOWN: [(&str, &str, &str); 3] = [
    ("gofer-api", "services", "operations"),
    ("gofer-api", "server", "compose"),
    ("gofer-engine", "run", "rules"),
];
/// Re-exports of re-exports that are followed.
const MAX_REEXPORTS: usize = 8;

/// Who names whom.
type Arrows = BTreeMap<String, BTreeSet<String>>;

/// What a module names, as paths from the crate's root.
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

/// Reads what a file names.
fn read(name: &str, text: &str, known: &BTreeSet<String>, fronts_count: bool) -> Module {
    let imports = Imports::of(text);
    let own = |paths: &[String]| -> Vec<String> {
        paths.iter().filter_map(|path| from_root(name, path, known)).collect()
    };

    let (public, mut named) = (own(&imports.public), own(&imports.private));
    named.extend(own(&imports.in_code));
    if fronts_count {
        named.extend(public.iter().cloned());
    }

    let last = |path: &String| path.rsplit("::").next().unwrap_or_default().to_owned();
    let reexported = public.into_iter().map(|path| (last(&path), path)).collect();
    Module { named, reexported }
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
fn arrows(sources: &[(&str, &str)], fronts_count: bool) -> Arrows {
    let named = sources.iter().filter_map(|(path, text)| Some((module_name(path)?, *text)));
    let named: BTreeMap<String, &str> = named.collect();
    let known: BTreeSet<String> = named.keys().cloned().collect();
    let modules: BTreeMap<String, Module> = named
        .iter()
        .map(|(name, text)| (name.clone(), read(name, text, &known, fronts_count)))
        .collect();

    let targets = |name: &String, module: &Module| {
        let found = module.named.iter().filter_map(|path| defined_in(path, &modules));
        found.filter(|target| target != name).collect()
    };
    modules.iter().map(|(name, module)| (name.clone(), targets(name, module))).collect()
}

/// The same between what lies in one folder, for each folder: `""` is `src` itself. A folder's
/// `mod.rs` is its front: it names what lies in the folder, and what lies there may use the front.
fn between_siblings(arrows: &Arrows) -> BTreeMap<String, Arrows> {
    let mut between: BTreeMap<String, Arrows> = BTreeMap::new();
    for (from, targets) in arrows {
        let from: Vec<&str> = from.split("::").collect();
        for target in targets {
            let to: Vec<&str> = target.split("::").collect();
            let common = from.iter().zip(&to).take_while(|(from, to)| from == to).count();
            let (Some(user), Some(used)) = (from.get(common), to.get(common)) else { continue };
            let folder = between.entry(from[..common].join("::")).or_default();
            folder.entry((*user).to_owned()).or_default().insert((*used).to_owned());
        }
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

fn circles_of_siblings(arrows: &Arrows) -> Vec<String> {
    let lines = |(folder, between): (&String, &Arrows)| {
        circles(between).into_iter().map(|line| format!("{folder}: {line}")).collect::<Vec<_>>()
    };
    between_siblings(arrows).iter().flat_map(lines).collect()
}

#[test]
fn no_files_and_no_folders_of_a_crate_form_a_circle() {
    let files: Vec<SourceFile> = source_files();
    let mut found = Vec::new();

    for (name, fronts_count) in CRATES {
        let prefix = format!("{name}/src/");
        let own = files.iter().filter(|file| file.extension() == "rs" && !file.is_generated());
        let sources: Vec<(&str, &str)> = own
            .filter_map(|file| Some((file.path.strip_prefix(&prefix)?, file.text.as_str())))
            .collect();
        let arrows = arrows(&sources, fronts_count);
        assert!(arrows.values().any(|targets| !targets.is_empty()), "`{name}` has no arrows");
        for (_, user, used) in KNOWN.iter().filter(|(of, ..)| *of == name) {
            let uses = &between_siblings(&arrows)[""][*user];
            assert!(uses.contains(*used), "`{name}`: `{user}` uses `{used}`, and more: {uses:?}");
        }

        let lines = circles(&arrows).into_iter().chain(circles_of_siblings(&arrows));
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
    let found = circles(&arrows(&sources, false));
    assert_eq!(found, ["a::x -> b", "b -> a::x"]);

    let sources = [("a/mod.rs", "pub(crate) use x::X;"), ("a/x.rs", "use super::Y;")];
    assert_eq!(circles(&arrows(&sources, false)), [""; 0]);
    assert_eq!(circles(&arrows(&sources, true)), ["a -> a::x", "a::x -> a"]);

    let sources = [("a/x.rs", "use crate::b::y;"), ("a/z.rs", ""), ("b/y.rs", "use crate::a::z;")];
    assert_eq!(circles(&arrows(&sources, false)), [""; 0]);
    assert_eq!(circles_of_siblings(&arrows(&sources, false)), [": a -> b", ": b -> a"]);

    let sources = [
        ("s/run/x.rs", "use super::super::object::y;"),
        ("s/run/z.rs", ""),
        ("s/object/y.rs", "use crate::s::run::z;"),
    ];
    assert_eq!(circles(&arrows(&sources, false)), [""; 0]);
    assert_eq!(
        circles_of_siblings(&arrows(&sources, false)),
        ["s: object -> run", "s: run -> object"]
    );
}
