//! The lines of a log come in the order in which they were written, whole, and with their time,
//! wherever they are read.

use std::io::Read as _;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::harness::text;
use crate::pipelines::script;
use crate::serving::{Serving, rest, wait};

const TURNS: &str = "i=1; while [ $i -le 50 ]; do echo out $i; echo err $i >&2; i=$((i + 1)); done";
const TRACE: &str = "set -x; for i in 1 2 3; do echo step $i; done";
/// Whose outputs share every line, as far as a terminal is concerned. The pauses let each piece be
/// read before the next.
const TORN: &str = "i=1; while [ $i -le 20 ]; do printf 'out '; sleep 0.01; echo err $i >&2; sleep \
                    0.01; echo $i; i=$((i + 1)); done";

/// What a command writes to a pipe that is both its outputs.
fn joined(mut command: Command) -> String {
    let (mut reader, writer) = std::io::pipe().expect("a pipe");
    command.stdout(writer.try_clone().expect("a descriptor")).stderr(writer);
    let mut child = command.spawn().expect("it starts");
    // With its ends of the pipe.
    drop(command);
    let mut text = String::new();
    reader.read_to_string(&mut text).expect("text");
    assert!(wait(&mut child).success(), "{text}");
    text
}

fn apart(id: &str, text: &str) -> Value {
    let mut task = script(id, text, &[]);
    task["custom"]["separateOutput"] = true.into();
    task
}

/// Waits until the log is in the object store.
fn archived(server: &Serving, task: &str) {
    server.eventually(&["task", "get", "ci", "1", task], |found| {
        found["taskRun"]["attempts"][0]["logState"] == "LOG_STATE_ARCHIVED"
    });
}

#[test]
fn both_outputs_come_in_the_order_of_writing() {
    let mut server = Serving::start();
    let scripts = [("trace", TRACE), ("turns", TURNS)];
    let tasks: Vec<_> = scripts.iter().map(|(id, text)| script(id, text, &[])).collect();
    server.up(&json!({ "name": "ci", "tasks": tasks }));
    server.run(&["run", "start", "ci"]).expect(0);

    let expected = scripts.map(|(id, text)| {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", text]);
        (id, joined(shell))
    });

    for (id, expected) in &expected {
        let logs = ["task", "logs", "ci", "1", id, "--follow"];
        assert_eq!(joined(server.command(&logs)), *expected, "followed");
        archived(&server, id);
    }

    for when in ["archived", "after a restart"] {
        let mut prefixed = String::new();
        for (id, expected) in &expected {
            assert_eq!(
                joined(server.command(&["task", "logs", "ci", "1", id])),
                *expected,
                "{when}"
            );
            prefixed.extend(expected.lines().map(|line| format!("{id} | {line}\n")));
        }

        let mut shown: Vec<_> = server
            .run(&["run", "logs", "ci"])
            .expect(0)
            .stdout
            .lines()
            .map(str::to_owned)
            .collect();

        // One task after the other, as they were started.
        shown.sort_by_key(|line| line.starts_with("turns"));
        assert_eq!(shown, prefixed.lines().collect::<Vec<_>>(), "{when}");
        server.kill_and_restart();
    }
}

#[test]
fn outputs_that_are_apart_never_share_a_line() {
    let server = Serving::start();
    server.up(&json!({ "name": "ci", "tasks": [apart("torn", TORN)] }));
    server.run(&["run", "start", "ci"]).expect(0);
    let lines = |name: &str| (1..=20).map(|turn| format!("{name} {turn}\n")).collect::<String>();
    let (out, err) = (lines("out"), lines("err"));

    let check = |when: &str, more: &[&str]| {
        let logs = [&["task", "logs", "ci", "1", "torn"], more].concat();
        let shown = joined(server.command(&logs));
        let of = |name: &str| -> String {
            shown
                .lines()
                .filter(|line| line.starts_with(name))
                .map(|line| format!("{line}\n"))
                .collect()
        };

        assert_eq!((of("out"), of("err")), (out.clone(), err.clone()), "{when}: {shown}");
        let ended = server.run(&logs).expect(0);
        assert_eq!((ended.stdout, ended.stderr), (out.clone(), err.clone()), "{when}");
    };

    check("followed", &["--follow"]);
    archived(&server, "torn");
    check("archived", &[]);

    // A file that was opened twice (`> all 2> all`) has two positions.
    let dir = tempfile::tempdir().expect("a folder");
    let all = dir.path().join("all");
    let mut logs = server.command(&["task", "logs", "ci", "1", "torn"]);
    let open = || std::fs::File::create(&all).expect("a file");
    assert!(logs.stdout(open()).stderr(open()).status().expect("the binary starts").success());

    let written = std::fs::read_to_string(&all).expect("text");
    assert_eq!(written.len(), out.len() + err.len(), "one overwrites the other: {written}");
}

#[test]
fn each_line_has_its_time() {
    let server = Serving::start();
    let task =
        script("slow", "echo one; sleep 0.05; printf two; sleep 0.05; echo; echo three >&2", &[]);
    server.up(&json!({ "name": "ci", "tasks": [task] }));
    server.run(&["run", "start", "ci"]).expect(0);

    for args in [&["--follow"][..], &[]] {
        let logs = |command: &[&str]| {
            let ended = server.run(&[command, &["--timestamps"], args].concat()).expect(0);
            ended.stdout.lines().map(str::to_owned).collect::<Vec<_>>()
        };

        let lines = logs(&["task", "logs", "ci", "1", "slow"]);
        let (times, texts): (Vec<_>, Vec<_>) =
            lines.iter().map(|line| line.split_once(' ').expect("two words")).unzip();
        assert_eq!(texts, ["one", "two", "three"]);

        let at: Vec<jiff::Timestamp> =
            times.iter().map(|time| time.parse().expect("RFC 3339")).collect();
        assert!(at[0] < at[1] && at[1] < at[2], "{lines:?}");
        assert!(
            times.iter().all(|time| time.len() == "2026-11-30T08:19:52.123Z".len()),
            "{times:?}"
        );

        let prefixed: Vec<_> = lines.iter().map(|line| format!("slow | {line}")).collect();
        assert_eq!(logs(&["run", "logs", "ci"]), prefixed);
        let json = server
            .run(&[&["task", "logs", "ci", "1", "slow", "-o", "json"][..], args].concat())
            .expect(0);
        let first: Value =
            serde_json::from_str(json.stdout.lines().next().expect("a line")).expect("JSON");
        let exact: jiff::Timestamp =
            first["chunk"]["at"].as_str().expect("a time").parse().expect("RFC 3339");

        assert_eq!(exact.as_millisecond(), at[0].as_millisecond(), "{first:#}");
        archived(&server, "slow");
    }
}

#[test]
fn a_prompt_is_shown_while_it_waits() {
    let server = Serving::start();
    let dir = tempfile::tempdir().expect("a folder");
    let gate = dir.path().join("gate");
    let asking = format!(
        "printf 'name? '; while ! test -e {}; do sleep 0.02; done; echo thanks",
        text(&gate)
    );

    server.up(&json!({ "name": "ci", "tasks": [script("ask", &asking, &[])] }));
    server.run(&["run", "start", "ci"]).expect(0);
    let mut follow = server.command(&["task", "logs", "ci", "1", "ask", "--follow"]);
    let mut follow = follow.stdout(Stdio::piped()).spawn().expect("the binary starts");
    let mut prompt = [0; 6];
    follow.stdout.as_mut().expect("stdout is piped").read_exact(&mut prompt).expect("the prompt");
    assert_eq!(&prompt, b"name? ");
    std::fs::write(&gate, "").expect("a file");
    assert_eq!(rest(&mut follow), "thanks\n");
    assert!(wait(&mut follow).success());
}
