//! Registering pipelines and running them on a server.

use serde_json::{Value, json};

use crate::serving::Serving;

/// A task that runs a shell script.
pub(crate) fn script(id: &str, script: &str, after: &[&str]) -> Value {
    let parents: Vec<_> = after.iter().map(|parent| json!({ "task": parent })).collect();
    json!({"id": id, "custom": {"command": ["/bin/sh", "-c", script]}, "dependsOn": parents})
}

fn pipeline(name: &str, tasks: Vec<Value>) -> Value {
    json!({ "name": name, "tasks": tasks })
}

#[test]
fn a_plan_shows_what_would_change_and_changes_nothing() {
    let server = Serving::start();
    let first = pipeline("ci", vec![script("build", "true", &[])]);
    let planned =
        server.run_with_stdin(&["up", "--plan", "-"], first.to_string().as_bytes()).expect(0);
    assert!(
        planned.stdout.contains("+ ") && planned.stdout.contains("would become version 1"),
        "{}",
        planned.stdout
    );
    assert!(server.json(&["pipeline", "list"])["pipelines"].is_null());

    server.up(&first);
    let same = server.run_with_stdin(&["up", "-"], first.to_string().as_bytes()).expect(0);
    assert!(same.stdout.contains("default/ci is unchanged: version 1"), "{}", same.stdout);

    let second = pipeline(
        "ci",
        vec![script("build", "echo other", &[]), script("test", "true", &["build"])],
    );
    let changed = server.run_with_stdin(&["up", "-"], second.to_string().as_bytes()).expect(0);
    assert!(
        changed.stdout.contains("~ tasks.build") && changed.stdout.contains("+ tasks.test"),
        "{}",
        changed.stdout
    );
    assert!(changed.stdout.contains("now version 2"), "{}", changed.stdout);

    let got = server.run(&["pipeline", "get", "ci"]).expect(0).stdout;
    assert!(got.contains("default/ci") && got.contains("2 (latest: 2)"), "{got}");
    assert_eq!(
        server.json(&["pipeline", "get", "ci", "--version", "1"])["version"]["spec"]["tasks"][0]["id"],
        "build"
    );
    assert_eq!(
        server.json(&["pipeline", "versions", "ci"])["versions"].as_array().map(Vec::len),
        Some(2)
    );

    let expected = server
        .run_with_stdin(&["up", "--expect", "1", "-"], first.to_string().as_bytes())
        .expect(4);
    assert!(expected.stderr.contains("latest version is 2"), "{}", expected.stderr);
}

#[test]
fn a_wrong_spec_is_refused_field_by_field() {
    let server = Serving::start();
    let unnamed = pipeline("Bad Name", vec![script("a", "true", &[])]);
    server
        .run_with_stdin(&["up", "-"], unnamed.to_string().as_bytes())
        .expect(2)
        .says("error: spec.name: ")
        .says("Bad Name");

    let wrong = pipeline("ci", vec![script("a", "true", &["nobody"]), script("a", "true", &[])]);
    let ended = server.run_with_stdin(&["up", "-"], wrong.to_string().as_bytes()).expect(2);
    let lines: Vec<_> = ended.stderr.lines().filter(|line| line.starts_with("  ")).collect();
    assert!(lines.len() >= 2 && ended.stderr.contains("nobody"), "{}", ended.stderr);

    let cycle = pipeline("cycle", vec![script("a", "true", &["b"]), script("b", "true", &["a"])]);
    server.run_with_stdin(&["up", "-"], cycle.to_string().as_bytes()).expect(2).says("a -> b -> a");
    server
        .run_with_stdin(&["-n", "nowhere", "up", "-"], pipeline("x", vec![]).to_string().as_bytes())
        .expect(2);

    let lost = pipeline("x", vec![script("a", "true", &[])]);
    server
        .run_with_stdin(&["-n", "nowhere", "up", "-"], lost.to_string().as_bytes())
        .expect(4)
        .says("nowhere");
    assert!(server.json(&["pipeline", "list"])["pipelines"].is_null());
}

#[test]
fn a_run_is_followed_to_its_end() {
    let server = Serving::start();
    server.up(&pipeline(
        "ci",
        vec![script("build", "echo made $NAME", &[]), script("test", "true", &["build"])],
    ));

    let ended =
        server.run(&["run", "start", "ci", "--var", "NAME=it", "--follow", "--logs"]).expect(0);
    assert!(ended.stdout.contains("build | made it\n"), "{}", ended.stdout);
    assert!(ended.stdout.contains("test   successful"), "{}", ended.stdout);
    assert!(ended.stdout.contains("default/ci #1 successful in"), "{}", ended.stdout);

    assert_eq!(server.run(&["run", "logs", "ci"]).expect(0).stdout, "build | made it\n");
    let run = server.json(&["run", "get", "ci", "1"]);
    assert_eq!(run["run"]["status"], "RUN_STATUS_SUCCESSFUL");
    assert_eq!(run["timeline"]["spans"][0]["beganAt"], run["run"]["createdAt"]);

    let told = server.run(&["run", "get", "ci", "1"]).expect(0).stdout;
    assert!(told.contains("task `build` was the last parent to end, successfully"), "{told}");
    assert_eq!(server.json(&["run", "list", "ci"])["runs"][0]["run"], "1");
    let table = server.run(&["run", "list"]).expect(0).stdout;
    assert!(table.contains("ci        1    successful"), "{table}");
    server.run(&["run", "get", "ci", "99"]).expect(4).says("99");
    server.run(&["run", "get", "nothing"]).expect(4).says("nothing");
}

#[test]
fn a_task_masks_a_value_that_it_made_itself() {
    let server = Serving::start();
    let gofer = env!("CARGO_BIN_EXE_gofer");
    let line = format!(
        "token=zebra-$((6 * 7)); printf %s \"$token\" | '{gofer}' secret mask && echo \"<$token>\""
    );
    server.up(&pipeline("ci", vec![script("login", &line, &[])]));
    let ended = server.run(&["run", "start", "ci", "--follow", "--logs"]).expect(0);
    assert!(
        ended.stdout.contains("login | <***>\n") && !ended.stdout.contains("zebra-42"),
        "{}",
        ended.stdout
    );
    // Whoever is no run has no logs of its own.
    server.run_with_stdin(&["secret", "mask"], b"zebra-42").expect(4).says("token of a run");
}

#[test]
fn a_run_that_fails_ends_with_1_and_shows_the_log_of_what_failed() {
    let server = Serving::start();
    let tasks = vec![
        script("good", "echo fine", &[]),
        script("bad", "echo why >&2; exit 3", &[]),
        script("next", "true", &["bad"]),
    ];

    server.up(&pipeline("ci", tasks));
    let ended = server.run(&["run", "start", "ci", "--follow"]).expect(1);
    assert!(ended.stdout.contains("bad  | why\n"), "{}", ended.stdout);
    assert!(!ended.stdout.contains("| fine"), "{}", ended.stdout);
    assert!(ended.stdout.contains("next  skipped"), "{}", ended.stdout);
    assert!(ended.stdout.contains("default/ci #1 failed in"), "{}", ended.stdout);
    server.run(&["run", "follow", "ci"]).expect(1);

    let task = server.run(&["task", "get", "ci", "latest", "bad"]).expect(0).stdout;
    assert!(task.contains("exit code  3") && task.contains("ATTEMPT"), "{task}");
}

#[test]
fn a_followed_run_as_json_is_one_object_per_line() {
    let server = Serving::start();
    server.up(&pipeline("ci", vec![script("build", "echo hello", &[])]));
    let ended = server.run(&["run", "start", "ci", "--follow", "--logs", "-o", "json"]).expect(0);
    let lines: Vec<Value> =
        ended.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let last_run = lines.iter().rev().find(|line| !line["run"].is_null()).expect("the run");
    assert_eq!(last_run["run"]["status"], "RUN_STATUS_SUCCESSFUL");
    assert!(lines.iter().any(|line| line["taskRun"]["task"] == "build"), "{}", ended.stdout);
    assert!(lines.iter().any(|line| line["log"]["task"] == "build"), "{}", ended.stdout);
}

#[test]
fn logs_are_bytes_and_the_streams_stay_apart() {
    let server = Serving::start();
    let mut build = script("build", "printf 'a\\001b'; printf err >&2", &[]);
    build["custom"]["separateOutput"] = true.into();
    server.up(&pipeline("ci", vec![build]));
    server.run(&["run", "start", "ci", "--follow", "-q"]).expect(0);
    let ended = server.run(&["task", "logs", "ci", "1", "build"]).expect(0);
    assert_eq!((ended.stdout.as_str(), ended.stderr.as_str()), ("a\u{1}b", "err"));
    server.run(&["task", "logs", "ci", "1", "nobody"]).expect(4).says("nobody");
    server.run(&["task", "logs", "ci", "1", "build", "--attempt", "9"]).expect(4);
}

#[test]
fn a_disabled_pipeline_starts_nothing() {
    let server = Serving::start();
    server.up(&pipeline("ci", vec![script("build", "true", &[])]));
    server.run(&["pipeline", "disable", "ci"]).expect(0);
    server.run(&["run", "start", "ci"]).expect(4).says("disabled");
    server.run(&["pipeline", "enable", "ci"]).expect(0);
    server.run(&["run", "start", "ci", "--follow"]).expect(0);
    server.run(&["pipeline", "delete", "ci"]).expect(2).says("--yes");
    server.run(&["pipeline", "delete", "ci", "--yes"]).expect(0);
    server.run(&["pipeline", "get", "ci"]).expect(4).says("ci");
}

#[test]
fn an_idempotency_key_starts_one_run() {
    let server = Serving::start();
    server.up(&pipeline("ci", vec![script("build", "true", &[])]));
    for _ in 0..2 {
        let started = server.json(&["run", "start", "ci", "--idempotency-key", "nightly"]);
        assert_eq!(started["run"]["run"], "1");
    }
}

#[test]
fn a_run_can_be_cancelled_and_repeated_from_where_it_failed() {
    let server = Serving::start();
    server.up(&pipeline(
        "ci",
        vec![script("first", "true", &[]), script("long", "exec sleep 600", &["first"])],
    ));
    server.run(&["run", "start", "ci"]).expect(0);

    let running = |value: &Value| value["taskRun"]["state"] == "TASK_RUN_STATE_RUNNING";
    server.eventually(&["task", "get", "ci", "1", "long"], running);
    server.run(&["run", "retry", "ci", "1"]).expect(4);
    server.run(&["run", "cancel", "ci", "latest", "--reason", "enough"]).expect(0);
    server.run(&["run", "follow", "ci", "1"]).expect(1);
    assert_eq!(server.json(&["run", "get", "ci", "1"])["run"]["status"], "RUN_STATUS_CANCELLED");

    let retried = server.json(&["run", "retry", "ci", "1", "--from-failed"]);
    assert_eq!(retried["run"]["retryOf"], "1");
    server.eventually(&["task", "get", "ci", "2", "long"], running);
    server.run(&["task", "cancel", "ci", "2", "long", "--force"]).expect(0);
    server.run(&["run", "follow", "ci", "2"]).expect(1);

    let first = server.json(&["task", "get", "ci", "2", "first"]);
    assert_eq!(first["taskRun"]["reason"]["kind"], "reused", "{first:#}");
    let said = server.run(&["run", "retry", "ci", "2", "--from-failed"]).expect(0).stdout;
    assert_eq!(
        said,
        "default/ci #3 started, a retry of #2\n  executed: long\n  taken over: first\n"
    );
    server.run(&["run", "cancel", "ci", "3", "--force"]).expect(0);
}

#[test]
fn the_table_says_how_often_a_task_was_tried_that_could_not_be_started() {
    let server = Serving::start();
    let mut task = json!({"id": "missing", "custom": {"command": ["gofer-no-such-program"]}});
    task["retries"] = json!({"attempts": 2, "backoff": "0.01s"});
    server.up(&pipeline("ci", vec![task]));
    let ended = server.run(&["run", "start", "ci", "--follow"]).expect(1);
    let row =
        ended.stdout.lines().find(|line| line.starts_with("missing ")).expect("a row of the table");
    assert_eq!(
        row.split_whitespace().take(3).collect::<Vec<_>>(),
        ["missing", "failed", "3"],
        "{}",
        ended.stdout
    );
}

#[test]
fn namespaces_are_made_listed_and_removed() {
    let server = Serving::start();
    server.run(&["namespace", "create", "web", "--description", "the web team"]).expect(0);
    server.run(&["namespace", "create", "web"]).expect(4).says("web");
    server.run(&["namespace", "create", "Not An Id"]).expect(2).says("Not An Id");
    server.run(&["namespace", "update", "web", "--description", "web and mobile"]).expect(0);
    assert_eq!(
        server.json(&["namespace", "get", "web"])["namespace"]["description"],
        "web and mobile"
    );

    let listed = server.json(&["namespace", "list", "--limit", "1"]);
    assert_eq!(listed["namespaces"].as_array().map(Vec::len), Some(1));
    assert!(!listed["nextPageToken"].is_null(), "{listed}");
    let more = server.run(&["namespace", "list", "--limit", "1"]).expect(0);
    assert!(more.stderr.contains("there are more"), "{}", more.stderr);
    server
        .run_with_stdin(
            &["-n", "web", "up", "-"],
            pipeline("ci", vec![script("a", "true", &[])]).to_string().as_bytes(),
        )
        .expect(0);
    server.run(&["namespace", "delete", "web"]).expect(4);
    server.run(&["-n", "web", "pipeline", "delete", "ci", "--yes"]).expect(0);
    server.run(&["namespace", "delete", "web"]).expect(0);
}
