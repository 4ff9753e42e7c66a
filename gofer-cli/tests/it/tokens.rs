//! Tokens that nobody has to pass: what a server leaves on its machine, and how the command finds
//! it.

use std::fs::{Permissions, metadata, read_to_string, set_permissions};
use std::os::unix::fs::PermissionsExt as _;

use serde_json::json;

use crate::cutter::{Cut, Cutter};
use crate::harness::{finish_with_stdin, run, text};
use crate::pipelines::script;
use crate::serving::Serving;

#[test]
fn a_development_servers_token_is_found_by_itself_and_sent_nowhere_else() {
    let mut server = Serving::start();
    let file = server.data_dir().join("token");
    assert_eq!(metadata(&file).expect("the file").permissions().mode() & 0o7777, 0o600);
    server.up(&json!({ "name": "ci", "tasks": [script("a", "true", &[])] }));
    assert_eq!(server.json(&["token", "whoami"])["token"]["id"], "dev");
    run(&["--addr", &server.addr.replace("127.0.0.1", "localhost"), "run", "list"]).expect(0);

    // What is given wins, good or not.
    let mut command = server.command(&["run", "list"]);
    command.env("GOFER_API_TOKEN", "gofer_t_wrong");
    finish_with_stdin(command, b"").expect(4).says("the token is not known here");
    server.run(&["--token-file", text(&file), "run", "list"]).expect(0);

    // Another port leads to the same server here, and to anybody elsewhere.
    let other = Cutter::to(&server.addr, Cut::NEVER);
    run(&["--addr", &other.addr, "run", "list"])
        .expect(4)
        .says("no token was found by itself")
        .says("does not exist");
    set_permissions(&file, Permissions::from_mode(0o644)).expect("an own file");
    server.run(&["run", "list"]).expect(4).says("may be read by others (mode 0644)");
    set_permissions(&file, Permissions::from_mode(0o600)).expect("an own file");

    let before = read_to_string(&file).expect("the file");
    server.kill_and_restart();
    server.run(&["run", "list"]).expect(0);
    assert_ne!(read_to_string(&file).expect("the file"), before, "it is new at each start");
    assert_eq!(server.terminate(), Some(0));
    assert!(!file.exists());
}

#[test]
fn an_operator_bootstraps_by_a_file_and_again_after_a_reset() {
    let mut server = Serving::start_with_tokens();
    let file = server.data_dir().join("bootstrap");
    server
        .run(&["token", "bootstrap", "--code-file", "/does/not/exist"])
        .expect(2)
        .says("/does/not/exist");

    let mut wrong = server.command(&["token", "bootstrap"]);
    wrong.env("GOFER_BOOTSTRAP_CODE", "gofer_b_wrong");
    finish_with_stdin(wrong, b"").expect(4).says("`--code-file`");
    let other = Cutter::to(&server.addr, Cut::NEVER);
    let elsewhere = ["--addr", &other.addr, "token", "bootstrap"];
    run(&elsewhere).expect(4).says("no code was found by itself");
    run(&[&elsewhere[..], &["--code-file", text(&file)]].concat()).expect(0);
    assert!(!file.exists());
    server.run(&["token", "bootstrap"]).expect(4).says("--reset-bootstrap");

    let data_dir = server.data_dir().to_owned();
    let reset = ["server", "--reset-bootstrap", "--data-dir", text(&data_dir)];
    run(&reset).expect(4);
    assert_eq!(server.terminate(), Some(0));
    assert!(run(&reset).expect(0).stdout.contains(text(&file)));
    server.restart();

    let again = server.run(&["token", "bootstrap"]).expect(0);
    let mut list = server.command(&["token", "list"]);
    list.env("GOFER_API_TOKEN", again.stdout.trim());
    assert_eq!(
        finish_with_stdin(list, b"").expect(0).stdout.lines().count(),
        3,
        "both tokens are there"
    );
}

#[test]
fn the_end_of_the_last_management_token_is_told_before() {
    let mut server = Serving::start_with_tokens();
    let dir = tempfile::tempdir().expect("a folder");
    let (first, second) = (dir.path().join("first"), dir.path().join("second"));
    server.run(&["token", "bootstrap", "--out", text(&first)]).expect(0);
    server.use_token(&first);
    let id = server.json(&["token", "whoami"])["token"]["id"].as_str().expect("an id").to_owned();
    let made = ["token", "create", "--management", "--expires", "1d", "--out", text(&second)];
    let said = server.run(&made).expect(0).stderr;
    assert!(!said.contains("every management token expires"), "{said}");
    server.use_token(&second);
    server.run(&["token", "delete", &id]).expect(0).says("every management token expires");
    server.kill_and_restart();
    assert!(server.log().contains("the last management token expires"), "{}", server.log());
}
