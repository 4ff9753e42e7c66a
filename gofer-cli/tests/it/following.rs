//! Commands that follow lose nothing when their connection is cut, wherever that is; or they say so
//! and end with a code that is not 0.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::sync::Mutex;

use gofer_proto::v1::LogChunk;
use serde_json::{Value, json};

use crate::cutter::{Cut, Cutter};
use crate::harness::{Ended, eventually, finish_with_stdin, text};
use crate::pipelines::script;
use crate::serving::{Serving, rest, wait, wait_for_line};

/// Cases at once: each mostly waits for its tasks.
const AT_ONCE: usize = 8;

/// One that speaks all the time, and one that is silent until its end.
fn server() -> Serving {
    let server = Serving::start();
    let loud = script("loud", "for i in 1 2 3; do echo loud $i; sleep 0.1; done", &[]);
    let quiet = script("quiet", "sleep 0.4; echo important; echo error >&2", &[]);
    server.up(&json!({ "name": "fol", "tasks": [loud, quiet] }));
    server
}

/// A new run's number.
fn start(server: &Serving) -> String {
    server.json(&["run", "start", "fol"])["run"]["run"].as_str().expect("a number").to_owned()
}

/// What the command says when its connection is cut like this, with the run's number for `RUN`.
fn through(server: &Serving, cut: Cut, command: &[&str]) -> (Ended, Cutter) {
    let run = if command.contains(&"RUN") { start(server) } else { String::new() };
    let cutter = Cutter::to(&server.addr, cut);
    let words: Vec<_> =
        command.iter().map(|word| if *word == "RUN" { run.as_str() } else { word }).collect();
    let ended = finish_with_stdin(server.command_by(&cutter.addr, &words), b"");
    (ended, cutter)
}

/// The lines of logs, which may come in any order.
fn logs(ended: &Ended) -> Vec<String> {
    let mut lines: Vec<_> =
        ended.stdout.lines().filter(|line| line.contains(" | ")).map(str::to_owned).collect();
    lines.sort();
    lines
}

/// Cuts the command after each frame of the server's, and in the middle of some. `answered` is how
/// many frames of headers there are once the server has answered what cannot be asked twice.
fn cut_everywhere(command: &[&str], answered: usize, shown: fn(&Ended) -> Vec<String>) {
    let server = server();
    let (whole, cutter) = through(&server, Cut::NEVER, command);
    let whole = whole.expect(0);
    let (expected, frames) = (shown(&whole), cutter.frames());
    assert!(!expected.is_empty() && frames > 5, "{whole:?}");

    let halves = (0..frames).step_by(3).map(|frames| Cut { half: true, ..Cut::after(frames) });
    let cuts = (0..frames).map(Cut::after).chain(halves);
    let cuts = Mutex::new(cuts.collect::<Vec<_>>());
    let next = || cuts.lock().expect("the cuts").pop();
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(cut) = next() {
                    let (ended, cutter) = through(&server, cut, command);
                    let is_whole = ended.code == 0 && shown(&ended) == expected;
                    let must_be = cutter.headers() >= answered;
                    assert!(
                        is_whole || ended.code != 0 && !must_be,
                        "{cut:?}, {must_be}: {ended:?}"
                    );
                }
            });
        }
    });
}

#[test]
fn logs_of_a_run_survive_any_cut() {
    cut_everywhere(&["run", "logs", "fol", "RUN", "-f"], 1, logs);
}

#[test]
fn logs_of_a_task_survive_any_cut() {
    let all = |ended: &Ended| vec![ended.stdout.clone()];
    cut_everywhere(&["task", "logs", "fol", "RUN", "loud", "-f"], 1, all);
    cut_everywhere(&["task", "logs", "fol", "RUN", "quiet", "-f"], 1, all);
}

#[test]
fn a_followed_run_survives_any_cut() {
    let logs_and_end = |ended: &Ended| {
        assert!(ended.code != 0 || ended.stdout.contains("successful in"), "{ended:?}");
        logs(ended)
    };
    cut_everywhere(&["run", "follow", "fol", "RUN", "--logs"], 1, logs_and_end);
    // The run is started once: only then its number is known. An answer and its end, and the
    // beginning of a stream.
    cut_everywhere(&["run", "start", "fol", "--follow", "--logs"], 3, logs_and_end);
}

#[test]
fn a_run_followed_as_json_survives_any_cut() {
    let logs = |ended: &Ended| {
        let lines =
            ended.stdout.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        let mut logs = BTreeMap::<String, Vec<u8>>::new();

        for log in lines.map(|line| line["log"].clone()).filter(|log| !log.is_null()) {
            let chunk: LogChunk =
                gofer_proto::json::from_json_slice(log["chunk"].to_string().as_bytes())
                    .expect("a chunk");
            let text = logs.entry(format!("{} {:?}", log["task"], chunk.stream())).or_default();
            assert_eq!(text.len() as u64, chunk.offset, "{log}");
            text.extend_from_slice(&chunk.data);
        }

        logs.into_iter()
            .map(|(log, text)| format!("{log}: {}", String::from_utf8_lossy(&text)))
            .collect()
    };
    cut_everywhere(&["-o", "json", "run", "follow", "fol", "RUN", "--logs"], 1, logs);
}

#[test]
fn followed_events_survive_any_cut() {
    let server = server();
    let follow = |cut: Cut| {
        let cutter = Cutter::to(&server.addr, cut);
        let run = start(&server);
        let mut command = server.command_by(&cutter.addr, &["event", "list", "-f", "--after", "0"]);
        command
            .args(["--pipeline", "fol", "--run", &run])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());

        let mut child = command.spawn().expect("the binary starts");
        let mut types = Vec::new();
        for line in BufReader::new(child.stdout.take().expect("stdout is piped")).lines() {
            let line = line.expect("text");
            types.push(line.split("  ").nth(2).unwrap_or_default().to_owned());
            if line.contains("run_completed") {
                let _ = child.kill();
                wait(&mut child);
                types.sort();
                return (0, types, cutter);
            }
        }

        (wait(&mut child).code().unwrap_or(-1), types, cutter)
    };

    let (_, expected, cutter) = follow(Cut::NEVER);
    for frames in 0..cutter.frames() {
        let (code, types, cutter) = follow(Cut { half: frames % 2 == 1, ..Cut::after(frames) });
        assert!(
            code == 0 && types == expected || code != 0 && cutter.headers() == 0,
            "{frames}: {code} {types:?}"
        );
    }
}

#[test]
fn only_new_events_are_shown_and_all_of_them() {
    let server = server();
    start(&server);
    server.eventually(&["run", "get", "fol", "1"], |found| {
        found["run"]["state"] == "RUN_STATE_COMPLETE"
    });

    // The answer to what the newest event is, its end, and the beginning of the stream; but nothing
    // of it.
    let cutter = Cutter::to(&server.addr, Cut::NEVER);
    let mut command =
        server.command_by(&cutter.addr, &["event", "list", "-f", "--type", "run_created"]);
    let mut child =
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts");
    eventually_answered(&cutter, 3);
    cutter.cut();
    start(&server);

    let line = wait_for_line(&mut child, |line| line.contains("run_created"));
    assert!(line.len() == 1 && line[0].contains("fol #2"), "{line:?}");
    let _ = child.kill();
    wait(&mut child);
}

/// Follows a run with a task that is silent until the gate is there; once that many answers have
/// begun, the server ends and another begins. Gives the command's end.
fn over_a_restart(command: &[&str], answers: usize, kill: bool) -> (Option<i32>, String) {
    let mut server = Serving::start();
    let dir = tempfile::tempdir().expect("a folder");
    let gate = dir.path().join("gate");
    let waits = format!("while ! test -e {}; do sleep 0.05; done; echo important", text(&gate));
    let tasks = [script("loud", "echo begun; sleep 600", &[]), script("quiet", &waits, &[])];
    server.up(&json!({ "name": "ci", "tasks": tasks }));
    server.run(&["run", "start", "ci"]).expect(0);

    let quiet = ["task", "get", "ci", "1", "quiet"];
    server.eventually(&quiet, |found| found["taskRun"]["state"] == "TASK_RUN_STATE_RUNNING");

    let cutter = Cutter::to(&server.addr, Cut::NEVER);
    let mut command = server.command_by(&cutter.addr, command);
    let mut child =
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts");
    eventually_answered(&cutter, answers);

    if kill {
        server.kill();
    } else {
        server.terminate();
    }

    server.restart();
    std::fs::write(&gate, "").expect("a file");
    server.eventually(&quiet, |found| found["taskRun"]["state"] == "TASK_RUN_STATE_COMPLETE");
    server.run(&["run", "cancel", "ci", "1", "--force"]).expect(0);

    let rest = rest(&mut child);
    (wait(&mut child).code(), rest)
}

fn eventually_answered(cutter: &Cutter, answers: usize) {
    eventually("the streams are open", || match cutter.headers() {
        begun if begun >= answers => Ok(()),
        begun => Err(format!("{begun} of {answers} answers have begun")),
    });
}

#[test]
fn what_a_silent_task_says_after_a_restart_is_shown() {
    for kill in [true, false] {
        // The run and the logs of two tasks.
        let (code, rest) = over_a_restart(&["run", "logs", "ci", "1", "-f"], 3, kill);
        assert_eq!((code, rest.contains("quiet | important\n")), (Some(0), true), "{rest}");
        let (code, rest) = over_a_restart(&["task", "logs", "ci", "1", "quiet", "-f"], 1, kill);
        assert_eq!((code, rest.as_str()), (Some(0), "important\n"));
    }
}

#[test]
fn a_log_that_cannot_be_shown_is_said_and_is_no_success() {
    let server = server();
    start(&server);
    let archived =
        |found: &Value| found["taskRun"]["attempts"][0]["logState"] == "LOG_STATE_ARCHIVED";
    server.eventually(&["task", "get", "fol", "1", "loud"], archived);
    server.eventually(&["task", "get", "fol", "1", "quiet"], archived);
    server.run(&["run", "logs", "fol", "1"]).expect(0);
    std::fs::remove_dir_all(server.data_dir().join("objects")).expect("the objects");
    let ended = server.run(&["run", "logs", "fol", "1"]);
    assert_ne!(ended.code, 0, "{ended:?}");
    ended.says("the output is not complete: the logs of `loud`, `quiet` were given up");
}

#[test]
fn attempts_that_are_not_shown_are_said() {
    let server = Serving::start();
    let mut task = script("flaky", "echo attempt $GOFER_ATTEMPT; test $GOFER_ATTEMPT = 3", &[]);
    task["retries"] = json!({"attempts": 2, "backoff": "0.01s"});
    server.up(&json!({ "name": "ci", "tasks": [task] }));
    server.run(&["run", "start", "ci", "--follow"]).expect(0);

    let ended = server.run(&["run", "logs", "ci"]).expect(0);
    assert_eq!(ended.stdout, "flaky | attempt 3\n");
    ended.says("attempts 1–2 of `flaky` not shown: --attempt all\n");
    let all = "flaky (1) | attempt 1\nflaky (2) | attempt 2\nflaky (3) | attempt 3\n";
    let ended = server.run(&["run", "logs", "ci", "--attempt", "all"]).expect(0);
    assert_eq!((ended.stdout.as_str(), ended.stderr.as_str()), (all, ""));
    assert_eq!(
        server.run(&["run", "logs", "ci", "--attempt", "2"]).expect(0).stdout,
        "flaky | attempt 2\n"
    );
    assert_eq!(
        server.run(&["run", "logs", "ci", "-f", "--attempt", "2"]).expect(0).stdout,
        "flaky | attempt 2\n"
    );
    server.run(&["run", "logs", "ci", "--attempt", "0"]).expect(2);
}
