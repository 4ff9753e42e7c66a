//! A command in a running task, through pipes and at a terminal.

use std::time::Instant;

use rustix::process::Signal;
use serde_json::json;

use crate::pipelines::script;
use crate::serving::{SOON, Serving, signal, wait};
use crate::terminal::Terminal;

/// A server with a task that runs until it is ended.
fn running() -> Serving {
    let server = Serving::start();
    server.up(&json!({"name": "ci", "tasks": [script("t", "exec sleep 600", &[])]}));
    server.run(&["run", "start", "ci"]).expect(0);
    server.eventually(&["task", "get", "ci", "1", "t"], |found| {
        found["taskRun"]["state"] == "TASK_RUN_STATE_RUNNING"
    });
    server
}

#[test]
fn a_command_has_pipes_and_its_exit_code_is_this_ones() {
    let server = running();
    let command = [
        "task",
        "exec",
        "ci",
        "latest",
        "t",
        "--",
        "sh",
        "-c",
        "cat; echo bad >&2; test -t 0 || exit 7",
    ];
    let ended = server.run_with_stdin(&command, b"typed\n").expect(7).says("bad\n");

    assert_eq!(ended.stdout, "typed\n");
    // Without a command it is a shell.
    let ended = server
        .run_with_stdin(&["task", "exec", "ci", "1", "t"], b"echo $((6 * 7)); exit 3\n")
        .expect(3);
    assert_eq!(ended.stdout, "42\n");

    let ended =
        server.run(&["-o", "json", "task", "exec", "ci", "1", "t", "--", "echo", "out"]).expect(0);
    let lines: Vec<serde_json::Value> = ended
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line of JSON"))
        .collect();

    assert_eq!(
        (&lines[0], &lines[1]),
        (&json!({"started": {"attempt": 1}}), &json!({"stdout": "b3V0Cg=="}))
    );
    server
        .run(&["task", "exec", "ci", "1", "t", "--", "gofer-no-such"])
        .expect(4)
        .says("`gofer-no-such` was not found");
    server.run(&["run", "cancel", "ci", "1", "--force"]).expect(0);
    server.eventually(&["run", "get", "ci", "1"], |found| {
        found["run"]["state"] == "RUN_STATE_COMPLETE"
    });

    server.run(&["task", "exec", "ci", "1", "t"]).expect(4).says("complete (cancelled)");
}

#[test]
fn a_shell_at_a_terminal_is_resized_and_leaves_the_terminal_as_it_was() {
    let server = running();
    let mut terminal = Terminal::open(30, 90);
    assert!(terminal.shows_what_is_typed());
    let mut child = terminal.run(&server.command(&["task", "exec", "ci", "1", "t"]));

    // What the shell echoes is not what it prints.
    terminal.types("stty size; echo rea''dy\n");
    terminal.reads("ready");
    assert!(terminal.seen.contains("30 90"), "{:?}", terminal.seen);
    assert!(!terminal.shows_what_is_typed(), "the keys go to the task");
    terminal.resize(25, 77);

    // The new size goes its own way; ask until it has arrived.
    terminal.types("until stty size | grep '25 77'; do :; done; echo resi''zed\n");
    terminal.reads("resized");

    // Said by the very process that is to be interrupted: the shell itself would survive it, and go
    // on to start the command.
    terminal.types("sh -c \"echo sle''eping; exec sleep 600\"\n");
    terminal.reads("sleeping");

    // It throws away what was typed and not read yet.
    terminal.types("\u{3}");
    terminal.reads("^C");
    terminal.types("echo inter''rupted; exit 5\n");
    terminal.reads("interrupted");
    assert_eq!(wait(&mut child).code(), Some(5));
    assert!(terminal.shows_what_is_typed());
}

#[test]
fn a_session_that_is_ended_from_outside_leaves_the_terminal_as_it_was() {
    let mut server = running();
    let mut terminal = Terminal::open(30, 90);
    let waiting = ["task", "exec", "ci", "1", "t", "--", "sh", "-c", "echo waiting $$.; exec cat"];
    let mut child = terminal.run(&server.command(&waiting));
    terminal.reads("waiting");
    signal(&child, Signal::TERM);
    assert_eq!(wait(&mut child).code(), Some(143));
    assert!(terminal.shows_what_is_typed());

    let mut terminal = Terminal::open(30, 90);
    let mut child = terminal.run(&server.command(&waiting));
    terminal.reads(".\r\n");
    let pid = terminal.seen.split([' ', '.']).nth(1).expect("a process id").to_owned();
    server.kill();
    assert_eq!(wait(&mut child).code(), Some(3));
    assert!(terminal.shows_what_is_typed());
    eventually_gone(&pid);
    server.restart();
    server.run(&["run", "cancel", "ci", "1", "--force"]).expect(0);
    server.eventually(&["run", "get", "ci", "1"], |found| {
        found["run"]["state"] == "RUN_STATE_COMPLETE"
    });
}

/// A command ends with the server, also with one that is killed.
fn eventually_gone(pid: &str) {
    let until = Instant::now() + SOON;
    while let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        if stat.contains(") Z ") {
            return;
        }
        assert!(Instant::now() < until, "process {pid} is there after {SOON:?}: {stat}");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}
