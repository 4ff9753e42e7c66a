//! Dependencies that the light crates must not pull in, directly or not.

use gofer_testbed::{members, tree};

fn assert_without(package: &str, flags: &[&str], banned: &[&str], why: &str) {
    let tree = tree(package, flags);
    assert!(tree.contains_key(package), "cargo tree says nothing of `{package}`");
    let found: Vec<&&str> = banned.iter().filter(|name| tree.contains_key(**name)).collect();
    assert!(
        found.is_empty(),
        "`{package}` pulls in {found:?}; {why}: cargo tree -p {package} -i {}",
        found[0]
    );
}

/// Crates that speak to the network, a database, or a terminal.
const HEAVY: [&str; 12] = [
    "tonic",
    "diesel",
    "diesel-async",
    "reqwest",
    "hyper",
    "axum",
    "rustls",
    "mio",
    "socket2",
    "tokio-postgres",
    "libsqlite3-sys",
    "clap",
];

#[test]
fn core_does_no_input_or_output() {
    assert_without("gofer-core", &["--all-features"], &HEAVY, "it only speaks of things");
    assert_without("gofer-core", &["--all-features"], &["tokio"], "it waits for nothing");
}

#[test]
fn suites_and_memory_backends_do_no_input_or_output() {
    assert_without("gofer-conformance", &["--all-features"], &HEAVY, "it keeps things in memory");
    let tree = tree("gofer-conformance", &["--all-features"]);
    let tokio = tree.get("tokio").cloned().unwrap_or_default();
    for feature in ["net", "fs", "process", "signal", "io-std", "full"] {
        assert!(
            !tokio.iter().any(|found| found == feature),
            "gofer-conformance has tokio's feature `{feature}`"
        );
    }
}

#[test]
fn no_server_has_what_tests_are_written_with() {
    assert_without("gofer-cli", &["--all-features"], &["gofer-conformance"], "only tests link it");
}

#[test]
fn a_pipeline_program_is_small() {
    let banned = [&HEAVY[..], &["tokio", "gofer-db", "gofer-engine", "gofer-api"]].concat();
    assert_without("gofer-sdk", &[], &banned, "users compile it for every pipeline");
}

#[test]
fn messages_alone_need_no_grpc() {
    assert_without(
        "gofer-proto",
        &[],
        &["tonic", "tokio", "hyper"],
        "its features `client` and `server` add them",
    );
}

#[test]
fn the_engine_knows_no_database_and_no_wire() {
    let banned =
        ["tonic", "diesel", "diesel-async", "prost", "gofer-db", "gofer-proto", "reqwest", "hyper"];
    assert_without(
        "gofer-engine",
        &["--all-features"],
        &banned,
        "it has the Journal port and the three traits",
    );
}

#[test]
fn the_slim_client_has_no_server() {
    let mut banned: Vec<String> =
        ["gofer-api", "gofer-db", "gofer-engine", "diesel", "libsqlite3-sys", "tonic-reflection"]
            .map(str::to_owned)
            .to_vec();
    let is_backend = |name: &&String| name.matches('-').count() == 2;
    banned.extend(members().keys().filter(is_backend).cloned());
    let banned: Vec<&str> = banned.iter().map(String::as_str).collect();
    assert_without(
        "gofer-cli",
        &["--no-default-features"],
        &banned,
        "its feature `server` adds them",
    );
}
