//! What `gofer supervise` is to Nomad: its program, with the same output, exit code and signal,
//! whoever listens.

use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// As a Nomad job runs it, with nobody to report to but a closed port.
fn supervise(alloc: &Path, command: &[&str]) -> Command {
    let mut supervise = Command::new(env!("CARGO_BIN_EXE_gofer"));
    supervise.env_clear().env("NOMAD_ALLOC_DIR", alloc);
    supervise.env("GOFER_API_ADDR", "http://127.0.0.1:9").env("NOMAD_TOKEN_gofer", "a.b.c");
    supervise.arg("supervise").arg("--").args(command).stdin(Stdio::null());
    supervise
}

/// What is left beside the log, without its times.
fn left_in(alloc: &Path) -> Value {
    let text = std::fs::read(alloc.join("gofer-exit.json")).expect("gofer-exit.json");
    let mut left: Value = serde_json::from_slice(&text).expect("JSON");
    for time in ["started_us", "ended_us", "ran_us"] {
        left.as_object_mut().expect("an object").remove(time);
    }
    left
}

fn ran_ms(alloc: &Path) -> u64 {
    let text = std::fs::read(alloc.join("gofer-exit.json")).expect("gofer-exit.json");
    serde_json::from_slice::<Value>(&text).expect("JSON")["ran_us"].as_u64().expect("a number")
        / 1_000
}

/// Lets another program begin in the same allocation.
fn afresh(alloc: &Path) {
    std::fs::remove_file(alloc.join(".gofer-begun")).expect("the mark of the one before");
}

fn signal(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(child.id().try_into().expect("a pid")).expect("a pid");
    kill_process(pid, signal).expect("it is there");
}

#[test]
fn it_ends_as_its_program_did() {
    let alloc = tempfile::tempdir().expect("a directory");
    let ended = supervise(alloc.path(), &["sh", "-c", "echo out; echo err >&2; exit 3"])
        .output()
        .expect("it runs");
    assert_eq!(
        (ended.status.code(), &*ended.stdout, &*ended.stderr),
        (Some(3), &b"out\n"[..], &b"err\n"[..])
    );
    assert_eq!(left_in(alloc.path()), json!({"exit_code": 3, "signal": null}));
    afresh(alloc.path());
    let ended = supervise(alloc.path(), &["sh", "-c", "kill -TERM $$"]).output().expect("it runs");
    assert_eq!((ended.status.signal(), ended.status.core_dumped()), (Some(15), false), "{ended:?}");
    assert_eq!(left_in(alloc.path()), json!({"exit_code": null, "signal": 15}));
}

#[test]
fn a_program_that_cannot_be_started_is_told_apart_from_one_that_exits_with_127() {
    let alloc = tempfile::tempdir().expect("a directory");
    let ended = supervise(alloc.path(), &["gofer-no-such-program"]).output().expect("it runs");
    assert_eq!((ended.status.code(), &*ended.stderr), (Some(127), &b""[..]), "{ended:?}");
    let why = left_in(alloc.path())["failed"].as_str().expect("a reason").to_owned();
    assert!(why.contains("`gofer-no-such-program`"), "{why}");
    afresh(alloc.path());
    let ended = supervise(alloc.path(), &["sh", "-c", "exit 127"]).output().expect("it runs");
    assert_eq!(ended.status.code(), Some(127));
    assert_eq!(left_in(alloc.path()), json!({"exit_code": 127, "signal": null}));
}

#[test]
fn signals_are_its_programs() {
    let alloc = tempfile::tempdir().expect("a directory");
    let ready = alloc.path().join("ready");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &ready,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .expect("a pipe");

    let text = "trap 'exit 9' TERM; echo ready > \"$1\"; while :; do sleep 0.01; done";
    let child =
        supervise(alloc.path(), &["sh", "-c", text, "sh"]).arg(&ready).process_group(0).spawn();
    let mut child = child.expect("it runs");

    // Blocks until the program has set its trap.
    assert_eq!(std::fs::read(&ready).expect("the pipe"), b"ready\n");
    signal(&child, Signal::TERM);
    assert_eq!(child.wait().expect("its end").code(), Some(9));
}

#[test]
fn a_program_that_had_begun_is_not_started_again() {
    let alloc = tempfile::tempdir().expect("a directory");
    let mut again = supervise(alloc.path(), &["sh", "-c", "echo begun; exit 3"]);
    let first = again.output().expect("it runs");
    assert_eq!((first.status.code(), &*first.stdout), (Some(3), &b"begun\n"[..]));
    let second = again.output().expect("it runs");
    assert_eq!(
        (second.status.code(), &*second.stdout, &*second.stderr),
        (Some(118), &b""[..], &b""[..])
    );
    assert_eq!(left_in(alloc.path()), json!({"again": true}));
}

/// Runs it with a deadline, in a group of its own as Nomad does.
fn with_deadline(alloc: &Path, timeout_ms: &str, script: &str) -> std::process::Output {
    let mut command = supervise(alloc, &["sh", "-c", script]);
    command
        .env("GOFER_SUPERVISE_TIMEOUT_MS", timeout_ms)
        .process_group(0)
        .output()
        .expect("it runs")
}

#[test]
fn at_its_deadline_a_program_and_its_children_are_asked_to_end() {
    let alloc = tempfile::tempdir().expect("a directory");
    // The output ends when its child has, too.
    let script = "trap 'echo asked; kill -0 $child || echo gone; exit 9' TERM; sleep 1000 & \
                  child=$!; wait; wait";
    let ended = with_deadline(alloc.path(), "300", script);
    let stdout = String::from_utf8(ended.stdout).expect("text");
    assert!(
        ended.status.code() == Some(9) && stdout.starts_with("asked\n"),
        "{:?} {stdout}",
        ended.status
    );
    assert_eq!(left_in(alloc.path()), json!({"exit_code": 9, "signal": null}));
    assert!(ran_ms(alloc.path()) >= 300);
}

#[test]
fn what_does_not_end_is_killed_after_the_grace() {
    let alloc = tempfile::tempdir().expect("a directory");
    let ended =
        with_deadline(alloc.path(), "100", "trap '' TERM; sleep 1000; sleep 1000; sleep 1000");
    assert_eq!(ended.status.signal(), Some(9), "{ended:?}");
    assert!(ran_ms(alloc.path()) >= 10_100);
}

#[test]
fn an_end_in_time_is_one() {
    let alloc = tempfile::tempdir().expect("a directory");
    let ended =
        with_deadline(alloc.path(), "60000", "echo \"<$GOFER_SUPERVISE_TIMEOUT_MS>\"; exit 4");
    assert_eq!(
        (ended.status.code(), &*ended.stdout),
        (Some(4), &b"<>\n"[..]),
        "the variable is the supervisor's"
    );
    assert!(ran_ms(alloc.path()) <= 60_000);
    let none = tempfile::tempdir().expect("a directory");
    assert_eq!(with_deadline(none.path(), "soon", "exit 5").status.code(), Some(5), "no deadline");
}

#[test]
fn wrong_use_is_no_task() {
    for words in [&["supervise"][..], &["supervise", "--"], &["supervise", "true"]] {
        let ended =
            Command::new(env!("CARGO_BIN_EXE_gofer")).args(words).output().expect("it runs");
        assert_eq!(ended.status.code(), Some(2), "{words:?}");
    }
}
