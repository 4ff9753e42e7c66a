//! Claims of ARCHITECTURE.md about the code, as far as they can be read off.

use std::fs;

use gofer_testbed::{SourceFile, members, repository, source_files};

use crate::imports::Imports;

/// Makes every `tonic::Status` of the server.
const STATUS: &str = "gofer-api/src/rpc/status/mod.rs";
/// The rules of a run: which come in and whose turn it is, and what becomes of them.
const RULES: [&str; 2] = ["gofer-core/src/admission", ENGINE_RULES];
/// The latter; they use nothing but themselves and the domain.
const ENGINE_RULES: &str = "gofer-engine/src/rules/";
/// What knows no wire: domain in, domain out.
const OPERATIONS: &str = "gofer-api/src/operations/";
/// The words of the wire.
const WIRE: [&str; 3] = ["gofer_proto", "tonic", "prost"];
/// Crates that speak to a database, without their tests; the last measures it.
const WITH_SQL: [&str; 2] = ["gofer-db", "gofer-bench"];

fn rust() -> Vec<SourceFile> {
    source_files()
        .into_iter()
        .filter(|file| file.extension() == "rs" && !file.is_generated())
        .collect()
}

/// The text before a file's own tests.
fn without_tests(file: &SourceFile) -> &str {
    file.text.split("#[cfg(test)]").next().unwrap_or_default()
}

/// `crate: test` in backticks, with any white space of a line's end.
fn named_tests(invariants: &str) -> Vec<(String, String)> {
    let quoted = invariants.split('`').skip(1).step_by(2);
    let names = quoted.filter_map(|text| text.split_once(": "));
    names.map(|(package, test)| (package.trim().to_owned(), test.trim().to_owned())).collect()
}

#[test]
fn every_test_that_holds_an_invariant_exists() {
    let text = fs::read_to_string(repository().join("ARCHITECTURE.md")).unwrap();
    let (_, rest) = text.split_once("## Invariants").expect("it has a list of invariants");
    let invariants = rest.split("\n## ").next().unwrap_or_default().replace(['\n', '\r'], " ");
    let collapsed = invariants.split_whitespace().collect::<Vec<_>>().join(" ");
    let named = named_tests(&collapsed);
    assert!(named.len() > 30, "only {} tests are named: {named:?}", named.len());

    for invariant in collapsed.split(" **").skip(1) {
        assert!(!named_tests(invariant).is_empty(), "an invariant without a test: {invariant}");
    }

    let members = members();
    let files = rust();
    for (package, test) in named {
        let manifest = members.get(&package).map(|package| package.manifest_path.clone());
        let dir = manifest.unwrap_or_else(|| panic!("`{package}: {test}`: there is no such crate"));
        let dir = dir
            .parent()
            .and_then(|dir| dir.strip_prefix(repository()).ok())
            .expect("a folder of the repository");
        let prefix = format!("{}/", dir.to_str().expect("text"));
        let definition = format!("fn {test}(");
        let exists = files
            .iter()
            .any(|file| file.path.starts_with(&prefix) && file.text.contains(&definition));
        assert!(
            exists,
            "`{package}: {test}` holds an invariant of ARCHITECTURE.md, and is in no file of \
             {prefix}"
        );
    }
}

#[test]
fn only_one_file_makes_a_status() {
    let constructors = [
        "new",
        "with_details",
        "with_metadata",
        "with_error_details",
        "with_error_details_vec",
        "cancelled",
        "unknown",
        "invalid_argument",
        "deadline_exceeded",
        "not_found",
        "already_exists",
        "permission_denied",
        "resource_exhausted",
        "failed_precondition",
        "aborted",
        "out_of_range",
        "unimplemented",
        "internal",
        "unavailable",
        "data_loss",
        "unauthenticated",
    ];
    let mut found = Vec::new();

    for file in
        rust().iter().filter(|file| file.path.starts_with("gofer-api/src/") && file.path != STATUS)
    {
        for (number, line) in without_tests(file).lines().enumerate() {
            let makes = |name: &&str| line.contains(&format!("Status::{name}("));
            if constructors.iter().any(makes) {
                found.push(format!("{}:{}: {}", file.path, number + 1, line.trim()));
            }
        }
    }

    assert!(
        found.is_empty(),
        "make an `ApiError`; only {STATUS} makes a status:\n{}",
        found.join("\n")
    );

    let status = fs::read_to_string(repository().join(STATUS)).unwrap();
    assert!(status.contains("with_error_details("), "{STATUS} is expected to make them");
}

#[test]
fn only_the_database_knows_sql() {
    for package in members().values().filter(|package| !WITH_SQL.contains(&package.name.as_str())) {
        let normal = package.dependencies.iter().filter(|dependency| dependency.kind.is_none());
        let of_sql = |name: &str| {
            ["diesel", "sqlite", "postgres", "sqlx"].iter().any(|word| name.contains(word))
        };
        let found: Vec<&str> =
            normal.map(|dependency| dependency.name.as_str()).filter(|name| of_sql(name)).collect();
        assert!(
            found.is_empty(),
            "`{}` depends on {found:?}; only gofer-db knows SQL",
            package.name
        );
    }
}

#[test]
fn the_rules_of_a_run_are_pure() {
    let impure = [
        "tokio",
        "async ",
        ".await",
        "Instant",
        "SystemTime",
        "Timestamp::now",
        "rand::",
        "std::fs",
        "std::env",
        "Mutex",
        "static ",
        "crate::clock",
        "dyn ",
    ];
    let files = rust();
    for rules in RULES {
        assert!(files.iter().any(|file| file.path.starts_with(rules)), "nothing is at {rules}");
    }

    let is_rule = |file: &&SourceFile| RULES.iter().any(|rules| file.path.starts_with(rules));
    for file in files.iter().filter(is_rule) {
        for (number, line) in file.text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default().replace("'static ", "");
            let found = impure.iter().find(|word| code.contains(**word));
            assert_eq!(
                found,
                None,
                "{}:{}: time and chance come in with the input",
                file.path,
                number + 1
            );
        }
    }
}

#[test]
fn the_rules_of_a_run_use_nothing_but_the_domain() {
    let rules = source_files().into_iter().filter(|file| file.path.starts_with(ENGINE_RULES));
    for file in rules {
        for path in Imports::of(&file.text).all() {
            let first = path.split("::").next().unwrap_or_default();
            let is_inside = ["super", "self"].contains(&first) || path.starts_with("crate::rules");
            let is_below = ["std", "gofer_core"].contains(&first);
            assert!(is_inside || is_below, "{}: `use {path}`", file.path);
        }
    }
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

#[test]
fn every_backend_runs_its_suite() {
    let files = rust();
    let suites =
        [("scheduler", "scheduler"), ("store", "object_store"), ("secrets", "secret_store")];
    let mut seen = 0;

    for name in members().keys() {
        let Some((kind, suite)) =
            suites.iter().find(|(kind, _)| name.starts_with(&format!("gofer-{kind}-")))
        else {
            continue;
        };

        seen += 1;
        let (prefix, call) = (format!("{name}/tests/it/"), format!("{suite}_conformance!"));
        let runs =
            files.iter().any(|file| file.path.starts_with(&prefix) && file.text.contains(&call));
        assert!(runs, "`{name}` is a {kind} backend, and no test of it calls `{call}`");
    }

    assert!(seen >= 6, "only {seen} backends are known");
}
