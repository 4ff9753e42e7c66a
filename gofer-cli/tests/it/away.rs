//! Executions that end while the server is away, or stands still: their ends are their own.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{eventually, text};
use crate::serving::Serving;

/// Long enough for a loaded machine to take the server away before it is over.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A deploy that ends when it is told to, may run twice and has a time limit; and what rolls it
/// back.
fn release(dir: &Path) -> Value {
    let deploy =
        r#"echo >> "$0/begun"; while [ ! -e "$0/go" ]; do sleep 0.02; done; echo >> "$0/deploys""#;
    let command = |script: &str| json!({"command": ["/bin/sh", "-c", script, text(dir)]});
    json!({"name": "release", "tasks": [
        {"id": "deploy", "custom": command(deploy), "timeout": "5s", "retries": {"attempts": 1, "backoff": "0.1s"}},
        {"id": "rollback", "custom": command(r#"echo >> "$0/rollbacks""#),
         "dependsOn": [{"task": "deploy", "condition": "DEPENDENCY_CONDITION_FAILURE"}]},
    ]})
}

/// Starts a run, takes the server away as `absent` does, lets the deploy end, and brings the server
/// back when the deploy's time limit is over.
fn ends_unseen(absent: impl FnOnce(&mut Serving, &mut dyn FnMut())) {
    let dir = tempfile::tempdir().expect("a folder");
    let mut server = Serving::start();
    server.up(&release(dir.path()));
    server.run(&["run", "start", "release"]).expect(0);
    eventually("the deploy runs", || match dir.path().join("begun").exists() {
        true => Ok(()),
        false => Err("it has not begun".to_owned()),
    });

    let begun = Instant::now();

    absent(&mut server, &mut || {
        fs::write(dir.path().join("go"), "").expect("a file");
        // It is the passing of time that must not matter.
        let over = TIMEOUT + Duration::from_millis(500);
        eventually("the time limit is over", || match begun.elapsed() {
            passed if passed > over => Ok(()),
            passed => Err(format!("{passed:?} passed")),
        });
    });

    let over = |value: &Value| value["run"]["state"] == "RUN_STATE_COMPLETE";
    let run = server.eventually(&["run", "get", "release", "1"], over);
    assert_eq!(run["run"]["status"], "RUN_STATUS_SUCCESSFUL", "{run:#}");
    let deploy = server.json(&["task", "get", "release", "1", "deploy"]);
    let attempts = deploy["taskRun"]["attempts"].as_array().expect("attempts");
    assert_eq!(attempts.len(), 1, "{deploy:#}");

    let marks = |name: &str| fs::read(dir.path().join(name)).map_or(0, |marks| marks.len());
    assert_eq!([marks("begun"), marks("deploys"), marks("rollbacks")], [1, 1, 0]);
    let at = |key: &str| {
        attempts[0][key].as_str().expect("a time").parse::<jiff::Timestamp>().expect("a time")
    };

    let took = at("endedAt").duration_since(at("startedAt"));
    assert!(took.unsigned_abs() < TIMEOUT, "it is shown to have taken {took}");
}

#[test]
fn what_ends_while_the_server_is_away_ended_in_time() {
    ends_unseen(|server, meanwhile| {
        server.terminate();
        meanwhile();
        server.restart();
    });
}

#[test]
fn what_ends_while_the_server_is_dead_ended_in_time() {
    ends_unseen(|server, meanwhile| {
        server.kill();
        meanwhile();
        server.restart();
    });
}

#[test]
fn what_ends_while_the_server_stands_still_ended_in_time() {
    ends_unseen(|server, meanwhile| server.while_stopped(meanwhile));
}
