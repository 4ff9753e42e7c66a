//! Objects, secrets, events and tokens on a server.

use std::process::Stdio;

use serde_json::{Value, json};

use crate::harness::text;
use crate::pipelines::script;
use crate::serving::{Serving, wait_for_line};

fn tiny(server: &Serving, tasks: &[Value]) {
    server.up(&json!({ "name": "ci", "tasks": tasks }));
}

#[test]
fn objects_go_in_and_out_byte_for_byte() {
    let server = Serving::start();
    tiny(&server, &[script("a", "true", &[])]);
    let dir = tempfile::tempdir().expect("a folder");
    let (source, target) = (dir.path().join("in"), dir.path().join("out"));
    let bytes: Vec<u8> = (0..3_000_000_u32).flat_map(|n| n.to_le_bytes()).collect();
    std::fs::write(&source, &bytes).expect("a file");

    server.run(&["object", "put", "big/one.bin", text(&source), "--pipeline", "ci"]).expect(0);
    server.run(&["object", "get", "big/one.bin", text(&target), "--pipeline", "ci"]).expect(0);
    assert!(std::fs::read(&target).expect("a file") == bytes, "the bytes differ");
    server.run_with_stdin(&["object", "put", "small", "-", "--pipeline", "ci"], b"hello").expect(0);
    assert_eq!(
        server.run(&["object", "get", "small", "-", "--pipeline", "ci"]).expect(0).stdout,
        "hello"
    );

    let listed = server.json(&["object", "list", "--pipeline", "ci", "--prefix", "big/"]);
    assert_eq!(listed["objects"][0]["sizeBytes"], "12000000", "{listed}");
    let absent = &["object", "put", "small", "-", "--pipeline", "ci", "--if-absent"];
    server.run_with_stdin(absent, b"other").expect(4).says("small");
    server
        .run(&["object", "put", "x", text(dir.path()), "--pipeline", "ci"])
        .expect(2)
        .says("folder");
    server.run(&["object", "put", "x", "/does/not/exist", "--pipeline", "ci"]).expect(2);
    server
        .run(&["object", "put", "../x", text(&source), "--pipeline", "ci"])
        .expect(2)
        .says("../x");
    server.run(&["object", "delete", "small", "--pipeline", "ci"]).expect(0);
    server
        .run(&["object", "get", "small", text(&target), "--pipeline", "ci"])
        .expect(4)
        .says("small");
    assert_eq!(
        std::fs::read(&target).expect("a file").len(),
        bytes.len(),
        "a failed get touched the file"
    );
}

/// A server on the object store that the environment names, under a prefix of the test's own.
fn on_s3(test: &str) -> Option<Serving> {
    let Ok(endpoint) = std::env::var("GOFER_TEST_S3_ENDPOINT") else {
        let required = std::env::var("GOFER_TEST_REQUIRE").unwrap_or_default();
        assert!(
            !required.contains("s3"),
            "GOFER_TEST_REQUIRE names s3, and GOFER_TEST_S3_ENDPOINT is not set"
        );
        crate::campaign::volume::skip(test, "GOFER_TEST_S3_ENDPOINT is not set");
        return None;
    };

    let named = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"));
    let dir = tempfile::tempdir().expect("a folder");
    let config = format!(
        "[objects]\nbackend = \"s3\"\n[objects.s3]\nendpoint = {endpoint:?}\nbucket = {:?}\nprefix \
         = {:?}\naccess_key = {:?}\nsecret_key = {:?}\n",
        named("GOFER_TEST_S3_BUCKET"),
        format!("gofer-test/{}/", text(dir.path()).trim_start_matches('/').replace('/', "-")),
        named("GOFER_TEST_S3_ACCESS_KEY"),
        named("GOFER_TEST_S3_SECRET_KEY"),
    );

    Some(Serving::start_configured(dir, &config))
}

#[test]
fn objects_go_past_the_server() {
    let Some(server) = on_s3("stores::objects_go_past_the_server") else { return };
    tiny(&server, &[script("a", "true", &[])]);
    let dir = tempfile::tempdir().expect("a folder");
    let (source, target) = (dir.path().join("in"), dir.path().join("out"));
    let bytes: Vec<u8> = (0..3_000_000_u32).flat_map(|n| n.to_le_bytes()).collect();
    std::fs::write(&source, &bytes).expect("a file");

    let put = server
        .run(&["object", "put", "big/one.bin", text(&source), "--pipeline", "ci", "--direct"])
        .expect(0);
    assert!(put.stdout.contains("object `big/one.bin` stored: 11.44 MiB"), "{}", put.stdout);

    for direct in [&["--direct"][..], &[]] {
        let get = ["object", "get", "big/one.bin", text(&target), "--pipeline", "ci"];
        server.run(&[&get[..], direct].concat()).expect(0);
        assert!(std::fs::read(&target).expect("a file") == bytes, "the bytes differ");
        std::fs::remove_file(&target).expect("the file is there");
    }

    let url = server
        .run(&["object", "url", "big/one.bin", "--pipeline", "ci", "--ttl", "1m"])
        .expect(0)
        .stdout;
    assert!(
        url.starts_with("http") && url.contains("X-Amz-Expires=60&") && url.lines().count() == 1,
        "{url}"
    );
    server
        .run_with_stdin(&["object", "put", "x", "-", "--pipeline", "ci", "--direct"], b"x")
        .expect(2)
        .says("--direct");

    let absent = [
        "object",
        "put",
        "big/one.bin",
        text(&source),
        "--pipeline",
        "ci",
        "--direct",
        "--if-absent",
    ];

    server.run(&absent).expect(4).says("big/one.bin");
    server
        .run(&["object", "url", "big/one.bin", "--pipeline", "ci", "--ttl", "8days"])
        .expect(2)
        .says("ttl");
    server
        .run(&["object", "get", "none", text(&target), "--pipeline", "ci", "--direct"])
        .expect(4)
        .says("none");
    assert!(!target.exists(), "a failed get made the file");
}

#[test]
fn without_urls_the_way_through_the_server_is_named() {
    let server = Serving::start();
    tiny(&server, &[script("a", "true", &[])]);
    server.run_with_stdin(&["object", "put", "x", "-", "--pipeline", "ci"], b"x").expect(0);
    server.run(&["object", "url", "x", "--pipeline", "ci"]).expect(4).says("use GetObject");
    server
        .run(&["object", "get", "x", "-", "--pipeline", "ci", "--direct"])
        .expect(4)
        .says("use GetObject");
    let dir = tempfile::tempdir().expect("a folder");
    let source = dir.path().join("in");
    std::fs::write(&source, "x").expect("a file");
    let put = ["object", "put", "x", text(&source), "--pipeline", "ci", "--direct"];
    server.run(&put).expect(4).says("use PutObject");
}

#[test]
fn a_run_has_objects_of_its_own() {
    let server = Serving::start();
    tiny(&server, &[script("a", "echo from the task | gofer object put note -", &[])]);
    server.run(&["run", "start", "ci", "--follow", "--logs"]).expect(0);
    assert_eq!(
        server
            .run(&["object", "get", "note", "-", "--pipeline", "ci", "--run", "1"])
            .expect(0)
            .stdout,
        "from the task\n"
    );
    server.run(&["object", "get", "note", "-", "--pipeline", "ci"]).expect(4);
}

#[test]
fn secrets_are_stored_and_masked() {
    let server = Serving::start();
    let mut task = script("a", "echo the token is $TOKEN", &[]);
    task["variables"] = json!({"TOKEN": "secret{{deploy/token}}"});
    tiny(&server, &[task]);
    server.run(&["run", "start", "ci", "--follow"]).expect(1);
    server
        .run_with_stdin(&["secret", "put", "deploy/token", "--pipeline", "ci"], b"correct horse\n")
        .expect(0);
    assert_eq!(
        server.run(&["secret", "get", "deploy/token", "--pipeline", "ci"]).expect(0).stdout,
        "correct horse"
    );

    let followed = server.run(&["run", "start", "ci", "--follow", "--logs"]).expect(0);
    assert!(followed.stdout.contains("a | the token is ***\n"), "{}", followed.stdout);
    assert_eq!(
        server.run(&["task", "logs", "ci", "latest", "a"]).expect(0).stdout,
        "the token is ***\n"
    );

    let listed = server.run(&["secret", "list", "--pipeline", "ci"]).expect(0).stdout;
    assert!(listed.contains("deploy/token") && !listed.contains("correct"), "{listed}");
    server
        .run_with_stdin(&["secret", "put", "shared", "--global", "--allow", "default"], b"x")
        .expect(0);
    assert_eq!(
        server.json(&["secret", "list", "--global"])["secrets"][0]["allowedNamespaces"][0],
        "default"
    );
    server.run_with_stdin(&["secret", "put", "empty", "--pipeline", "ci"], b"").expect(2);
    server.run(&["secret", "get", "nothing", "--pipeline", "ci"]).expect(4).says("nothing");
    server.run(&["secret", "get", "nothing"]).expect(2).says("--pipeline");
    server.run(&["secret", "delete", "deploy/token", "--pipeline", "ci"]).expect(0);
    server.run(&["secret", "get", "deploy/token", "--pipeline", "ci"]).expect(4);
}

#[test]
fn events_are_listed_and_followed_from_a_cursor() {
    let server = Serving::start();
    tiny(&server, &[script("a", "true", &[])]);
    let mut follower = server.command(&["event", "list", "--follow", "--after", "0", "-o", "json"]);
    let mut follower = follower.stdout(Stdio::piped()).spawn().expect("the binary starts");
    server.run(&["run", "start", "ci", "--follow"]).expect(0);

    let lines = wait_for_line(&mut follower, |line| line.contains("runCompleted"));
    follower.kill().expect("it can be killed");
    follower.wait().expect("it has ended");
    let ids: Vec<u64> = lines
        .iter()
        .map(|line| {
            serde_json::from_str::<Value>(line).expect("JSON")["id"]
                .as_str()
                .expect("an id")
                .parse()
                .expect("a number")
        })
        .collect();

    assert!(ids.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{ids:?}");

    let listed = server.json(&["event", "list", "--type", "run_completed"]);
    assert_eq!(listed["events"].as_array().map(Vec::len), Some(1), "{listed}");
    let newest = server.run(&["event", "list", "--reverse", "--limit", "1"]).expect(0).stdout;
    assert_eq!(newest.lines().count(), 2, "{newest}");
    server.run(&["event", "list", "--type", "no_such_type"]).expect(2).says("no_such_type");
    assert!(
        server
            .run(&["event", "list", "--pipeline", "ci", "--run", "1"])
            .expect(0)
            .stdout
            .contains("default/ci #1 a")
    );
}

#[test]
fn tokens_say_who_may_call() {
    let mut server = Serving::start_with_tokens();
    let dir = tempfile::tempdir().expect("a folder");
    let (root, client) = (dir.path().join("root"), dir.path().join("client"));
    server.run(&["run", "list"]).expect(4).says("gofer token bootstrap");
    server.run(&["token", "bootstrap", "--out", text(&root)]).expect(0);
    server.run(&["token", "bootstrap", "--out", text(&client)]).expect(4);
    assert!(!client.exists(), "a refused bootstrap left a file");

    server.use_token(&root);
    assert_eq!(server.json(&["token", "whoami"])["token"]["kind"], "TOKEN_KIND_MANAGEMENT");
    server
        .run(&["token", "create", "--allow", "default", "--expires", "1d", "--out", text(&client)])
        .expect(0);

    let id = server.json(&["token", "list", "--kind", "client"])["tokens"][0]["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    tiny(&server, &[script("a", "true", &[])]);

    server.use_token(&client);
    server.run(&["run", "start", "ci", "--follow"]).expect(0);
    server.run(&["token", "list"]).expect(4).says("gofer token whoami");
    server.run(&["-n", "other", "pipeline", "list"]).expect(4);
    server.use_token(&root);
    server.run(&["token", "disable", &id]).expect(0);
    server.use_token(&client);
    server.run(&["run", "list"]).expect(4).says("disabled");
    server.use_token(&root);
    server.run(&["token", "enable", &id]).expect(0);
    server.run(&["token", "delete", &id]).expect(0);
    server.use_token(&client);
    server.run(&["run", "list"]).expect(4);
}

#[test]
fn a_new_token_is_alone_on_stdout() {
    let server = Serving::start_with_tokens();
    let ended = server.run(&["token", "bootstrap"]).expect(0);
    assert!(
        ended.stdout.starts_with("gofer_t_") && ended.stdout.lines().count() == 1,
        "stdout is not the token alone"
    );
    assert!(ended.stderr.contains("not shown again"), "{}", ended.stderr);
}
