//! The server is killed at random moments, again and again; nothing may be lost, and nothing may run twice.
//!
//! `GOFER_CRASHES` says how often (50), `GOFER_CRASH_SEED` repeats the moments of an earlier time.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::text;
use crate::pipelines::script;
use crate::serving::{Serving, wait};

/// The longest that a server lives: a bit more than a run takes.
const LONGEST_LIFE_MS: u64 = 400;

/// Enough randomness to pick moments (Knuth's MMIX generator).
struct Moments(u64);

impl Moments {
    fn new() -> Self {
        let from_env = std::env::var("GOFER_CRASH_SEED").ok().and_then(|seed| seed.parse().ok());
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("it is after 1970");
        let seed = from_env.unwrap_or_else(|| u64::from(now.subsec_nanos()));
        // Shown with a failure; cargo keeps it to itself otherwise.
        let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("GOFER_CRASH_SEED={seed}\n"));
        Self(seed)
    }

    fn next(&mut self) -> Duration {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        Duration::from_millis((self.0 >> 33) % LONGEST_LIFE_MS)
    }
}

/// A DAG of the shape of `examples/rust/ci`, whose tasks leave a mark each time they are executed: parallel steps, one
/// that fails at first, one that may fail, a report whatever happened, and a notification of a failure.
fn pipeline(marks: &Path) -> Value {
    let step = |id: &str, then: &str, after: &[&str]| {
        let mark =
            format!("echo $GOFER_RUN/$GOFER_TASK/$GOFER_ATTEMPT >> {}; echo out of $GOFER_TASK; {then}", text(marks));
        script(id, &mark, after)
    };
    let mut flaky = step("flaky", "sleep 0.02; test $GOFER_ATTEMPT = 2", &["fmt"]);
    flaky["retries"] = json!({ "attempts": 1, "backoff": "0.010s" });
    let mut lint = step("lint", "exit 1", &["fmt"]);
    lint["continueOnFailure"] = json!(true);
    let mut report = step("report", "true", &[]);
    report["dependsOn"] = json!([
        { "task": "package", "condition": "DEPENDENCY_CONDITION_ANY" },
        { "task": "broken", "condition": "DEPENDENCY_CONDITION_ANY" },
    ]);
    let mut notify = step("notify", "true", &[]);
    notify["dependsOn"] = json!([{ "task": "broken", "condition": "DEPENDENCY_CONDITION_FAILURE" }]);
    let tasks = vec![
        step("fmt", "true", &[]),
        lint,
        flaky,
        step("test", "sleep 0.05", &["fmt"]),
        step("build", "sleep 0.1", &["fmt"]),
        step("package", "true", &["lint", "flaky", "test", "build"]),
        step("broken", "exit 7", &["fmt"]),
        step("skipped", "true", &["broken"]),
        report,
        notify,
    ];
    json!({ "name": "ci", "tasks": tasks })
}

/// What every run of it executes, each exactly once.
const EXECUTED: [(&str, u32); 10] = [
    ("fmt", 1),
    ("lint", 1),
    ("flaky", 1),
    ("flaky", 2),
    ("test", 1),
    ("build", 1),
    ("package", 1),
    ("broken", 1),
    ("report", 1),
    ("notify", 1),
];

#[test]
fn killing_the_server_at_random_moments_loses_nothing_and_runs_nothing_twice() {
    let crashes: u64 = std::env::var("GOFER_CRASHES").ok().and_then(|count| count.parse().ok()).unwrap_or(50);
    let mut moments = Moments::new();
    let dir = tempfile::tempdir().expect("a folder");
    let marks = dir.path().join("marks");
    let mut server = Serving::start();
    server.up(&pipeline(&marks));

    for key in 1..=crashes {
        // The kill may come before the run is committed, after it and before the client knows, or while it runs.
        let key = format!("run-{key}");
        let start = ["run", "start", "ci", "--idempotency-key", &key];
        let mut client =
            server.command(&start).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the binary starts");
        std::thread::sleep(moments.next());
        server.kill_and_restart();
        wait(&mut client);
        // Whatever became of the call: repeating it makes sure that there is one run, and only one.
        server.run(&start).expect(0);
    }

    let all = crashes.to_string();
    let complete = |value: &Value| {
        let runs = value["runs"].as_array().map_or(0, Vec::len);
        runs as u64 == crashes
            && value["runs"].as_array().is_some_and(|runs| runs.iter().all(|run| run["state"] == "RUN_STATE_COMPLETE"))
    };
    let runs = server.eventually(&["run", "list", "ci", "--limit", &all], complete);
    for run in runs["runs"].as_array().expect("runs") {
        assert_eq!(run["status"], "RUN_STATUS_SUCCESSFUL", "{run:#}");
    }
    each_was_executed_once(&marks, crashes);
    events_are_whole(&server, crashes);
    for run in 1..=crashes {
        logs_are_whole(&server, run);
    }
}

fn each_was_executed_once(marks: &Path, runs: u64) {
    let text = std::fs::read_to_string(marks).expect("marks");
    let mut seen: BTreeMap<&str, u32> = BTreeMap::new();
    for mark in text.lines() {
        *seen.entry(mark).or_default() += 1;
    }
    let expected: BTreeMap<String, u32> =
        (1..=runs).flat_map(|run| EXECUTED.map(|(task, attempt)| (format!("{run}/{task}/{attempt}"), 1))).collect();
    let seen: BTreeMap<String, u32> = seen.into_iter().map(|(mark, count)| (mark.to_owned(), count)).collect();
    let wrong: Vec<_> = expected
        .keys()
        .chain(seen.keys())
        .filter(|mark| seen.get(*mark) != expected.get(*mark))
        .map(|mark| format!("{mark}: {} times", seen.get(mark).unwrap_or(&0)))
        .collect();
    assert!(wrong.is_empty(), "not executed as often as expected: {wrong:#?}");
}

fn events_are_whole(server: &Serving, runs: u64) {
    let (mut last, mut starting) = (0, BTreeMap::<String, u32>::new());
    loop {
        let page = server.json(&["event", "list", "--after", &last.to_string(), "--limit", "500"]);
        let Some(events) = page["events"].as_array().filter(|events| !events.is_empty()) else { break };
        for event in events {
            let id: u64 = event["id"].as_str().and_then(|id| id.parse().ok()).expect("an id");
            assert_eq!(id, last + 1, "a gap in the events");
            last = id;
            if !event["taskRunStarting"].is_null() {
                let attempt = format!("{}/{}/{}", event["run"], event["task"], event["attempt"]);
                *starting.entry(attempt).or_default() += 1;
            }
        }
    }
    let twice: Vec<_> = starting.iter().filter(|(_, count)| **count != 1).collect();
    assert!(twice.is_empty(), "{twice:#?}");
    assert_eq!(starting.len() as u64, runs * EXECUTED.len() as u64);
}

fn logs_are_whole(server: &Serving, run: u64) {
    let logs = server.run(&["run", "logs", "ci", &run.to_string()]).expect(0).stdout;
    let mut lines: Vec<&str> = logs.lines().filter_map(|line| line.split_once("| ").map(|(_, text)| text)).collect();
    lines.sort_unstable();
    // Of a task with several attempts the last one's log is shown.
    let mut expected: Vec<String> =
        EXECUTED.iter().filter(|wanted| **wanted != ("flaky", 1)).map(|(task, _)| format!("out of {task}")).collect();
    expected.sort_unstable();
    assert_eq!(lines, expected, "run {run}");
}
