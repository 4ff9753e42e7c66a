//! Which crate may depend on which. Arrows point down only.

use std::collections::{BTreeMap, BTreeSet};

use gofer_testbed::{Package, members};

/// Crate → the crates of this workspace that it may depend on. Backends are listed by their kind
/// below.
const ARROWS: &[(&str, &[&str])] = &[
    ("gofer-core", &[]),
    // What tests are written with; no server links it.
    ("gofer-conformance", &["gofer-core"]),
    ("gofer-proto", &[]),
    ("gofer-db", &["gofer-core"]),
    ("gofer-engine", &["gofer-core"]),
    ("gofer-sdk", &["gofer-core", "gofer-proto"]),
    ("gofer-secrets-local", &["gofer-core", "gofer-db"]),
    ("gofer-triggers", &["gofer-core", "gofer-proto", "gofer-sdk"]),
    ("gofer-api", &["gofer-core", "gofer-proto", "gofer-db", "gofer-engine", BACKENDS]),
    ("gofer-cli", &["gofer-core", "gofer-proto", "gofer-api"]),
    // The database and the engine without a server around them: their own speed cannot be seen
    // through the binary.
    (
        "gofer-bench",
        &["gofer-core", "gofer-conformance", "gofer-proto", "gofer-db", "gofer-engine"],
    ),
    ("gofer-testbed", &[]),
    // The guide's example: a backend as somebody else writes it.
    ("backend-processes", &["gofer-core"]),
];

/// Stands for every backend crate.
const BACKENDS: &str = "gofer-{scheduler,store,secrets}-*";
const BACKEND_KINDS: [&str; 3] = ["gofer-scheduler-", "gofer-store-", "gofer-secrets-"];

fn is_backend(name: &str) -> bool {
    BACKEND_KINDS.iter().any(|kind| name.starts_with(kind))
}

/// The crates that `name` may depend on; `None` for a crate that has no line.
fn allowed(name: &str) -> Option<Vec<&'static str>> {
    let line = ARROWS.iter().find(|(from, _)| *from == name).map(|(_, to)| to.to_vec());
    line.or_else(|| is_backend(name).then(|| vec!["gofer-core"]))
}

fn is_allowed(allowed: &[&str], to: &str) -> bool {
    allowed.contains(&to) || (allowed.contains(&BACKENDS) && is_backend(to))
}

#[test]
fn every_arrow_is_on_the_list() {
    let members = members();
    let mut wrong = Vec::new();
    for package in members.values() {
        let Some(allowed) = allowed(&package.name) else {
            wrong.push(format!(
                "`{}` has no line in ARROWS; say what it may depend on",
                package.name
            ));
            continue;
        };
        for to in ours(package, &members, |kind| kind != Some("dev")) {
            if !is_allowed(&allowed, to) {
                wrong.push(format!(
                    "`{}` must not depend on `{to}`; it may on {allowed:?}",
                    package.name
                ));
            }
        }
    }

    assert!(wrong.is_empty(), "arrows that point up or sideways:\n{}", wrong.join("\n"));
}

/// Tests may reach further, but not so far that a crate cannot be built before those above it.
#[test]
fn no_crate_needs_itself_even_for_its_tests() {
    let members = members();
    let arrows: BTreeMap<&str, Vec<&str>> = members
        .values()
        .map(|package| (package.name.as_str(), ours(package, &members, |_| true)))
        .collect();

    for start in arrows.keys() {
        let mut seen = BTreeSet::new();
        let mut open: Vec<&str> = arrows[start].clone();
        while let Some(next) = open.pop() {
            if seen.insert(next) {
                open.extend(&arrows[next]);
            }
        }

        assert!(
            !seen.contains(start),
            "`{start}` depends on itself, through one of {:?}",
            arrows[start]
        );
    }
}

/// A backend's tests need no other backend: the author of a new one copies a crate that stands
/// alone.
#[test]
fn backends_do_not_know_each_other() {
    let members = members();
    for package in members.values().filter(|package| is_backend(&package.name)) {
        let others: Vec<&str> =
            ours(package, &members, |_| true).into_iter().filter(|to| is_backend(to)).collect();
        assert!(others.is_empty(), "`{}` knows {others:?}", package.name);
    }
}

fn ours<'a>(
    package: &'a Package,
    members: &BTreeMap<String, Package>,
    kinds: impl Fn(Option<&str>) -> bool,
) -> Vec<&'a str> {
    let of_kind =
        package.dependencies.iter().filter(|dependency| kinds(dependency.kind.as_deref()));
    of_kind
        .map(|dependency| dependency.name.as_str())
        .filter(|name| members.contains_key(*name))
        .collect()
}
