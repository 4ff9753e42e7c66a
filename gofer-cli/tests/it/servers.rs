//! The server as a process: its start, its end, and its sudden end.

use std::process::Stdio;

use serde_json::json;

use crate::harness::{run, text};
use crate::pipelines::script;
use crate::serving::{Serving, wait};

#[test]
fn it_says_where_it_listens_and_ends_when_asked() {
    let mut server = Serving::start();
    let info = server.json(&["system", "info", "--check"]);
    assert_eq!(info["devMode"], true, "{info:#}");
    assert!(
        info["backends"]
            .as_array()
            .is_some_and(|backends| backends.iter().all(|backend| backend["ok"] == true)),
        "{info:#}"
    );
    assert_eq!(server.terminate(), Some(0));
    server.run(&["system", "info"]).expect(3);
}

#[test]
fn a_second_server_on_the_same_folder_is_refused() {
    let server = Serving::start();
    let ended = run(&["server", "--listen", "127.0.0.1:0", "--data-dir", text(server.data_dir())])
        .expect(4);
    assert!(!ended.stdout.contains("listening"), "{}", ended.stdout);
    server.run(&["run", "list"]).expect(0);
}

#[test]
fn an_address_in_use_is_refused() {
    let server = Serving::start();
    let dir = tempfile::tempdir().expect("a folder");
    let listen = server.addr.trim_start_matches("http://");
    run(&["server", "--listen", listen, "--data-dir", text(dir.path())]).expect(4).says(listen);
}

#[test]
fn a_wrong_configuration_ends_with_2() {
    let dir = tempfile::tempdir().expect("a folder");
    let config = dir.path().join("gofer.toml");
    for (content, word) in
        [("[server]\nlisten = 7\n", "listen"), ("[sever]\n", "sever"), ("not toml", "gofer.toml")]
    {
        std::fs::write(&config, content).expect("a file");
        run(&["server", "--config", text(&config)]).expect(2).says(word);
        run(&["server", "--config", text(&config), "--check"]).expect(2).says(word);
    }
    run(&["server", "--config", "/does/not/exist"]).expect(2).says("/does/not/exist");
    run(&["server", "--listen", "0.0.0.0:0", "--data-dir", text(dir.path())])
        .expect(2)
        .says("server.");
}

#[test]
fn a_check_tries_everything_and_starts_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let ended = run(&["server", "--check", "--data-dir", text(&dir.path().join("data"))]).expect(0);
    assert!(
        ended.stdout.contains("database") && !ended.stdout.contains("WRONG"),
        "{}",
        ended.stdout
    );
}

#[test]
fn the_secret_stores_key_is_rotated_while_no_server_runs() {
    let mut server = Serving::start();
    server
        .run_with_stdin(&["secret", "put", "--global", "--allow", "default", "token"], b"s3cret")
        .expect(0);

    let data_dir = server.data_dir().to_owned();
    let rotate = ["server", "--rotate-secrets-key", "--data-dir", text(&data_dir)];
    run(&rotate).expect(4);
    assert_eq!(server.terminate(), Some(0));

    let before = std::fs::read(data_dir.join("secrets.key")).expect("the key file");
    assert!(run(&rotate).expect(0).stdout.contains("has a new key"));
    assert_ne!(std::fs::read(data_dir.join("secrets.key")).expect("the key file"), before);
    let server = Serving::start_on(tempfile::tempdir().expect("a folder"), &data_dir);
    assert_eq!(
        server.run(&["secret", "get", "--global", "token"]).expect(0).stdout.trim_end(),
        "s3cret"
    );
}

#[test]
fn a_followed_run_survives_a_killed_server() {
    let mut server = Serving::start();
    let dir = tempfile::tempdir().expect("a folder");
    let gate = dir.path().join("gate");
    let waiting =
        format!("echo begun; while ! test -e {}; do sleep 0.05; done; echo over", text(&gate));
    server.up(&json!({ "name": "ci", "tasks": [script("long", &waiting, &[]), script("after", "true", &["long"])] }));

    let mut follow = server.command(&["run", "start", "ci", "--follow", "--logs"]);
    let mut follow =
        follow.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts");
    let lines = crate::serving::wait_for_line(&mut follow, |line| line.contains("| begun"));

    server.kill_and_restart();
    std::fs::write(&gate, "").expect("a file");
    let rest = crate::serving::rest(&mut follow);
    assert_eq!(wait(&mut follow).code(), Some(0), "{lines:?}\n{rest}");
    assert!(rest.contains("| over\n") && rest.contains("successful in"), "{rest}");
    assert_eq!(
        server.run(&["run", "logs", "ci"]).expect(0).stdout,
        "long  | begun\nlong  | over\n"
    );

    let events = server.json(&["event", "list", "--type", "task_run_starting", "--limit", "100"]);
    assert_eq!(
        events["events"].as_array().map(Vec::len),
        Some(2),
        "something ran twice: {events:#}"
    );
}
