//! What others wrote, at a terminal.

use serde_json::json;

use crate::harness::gofer;
use crate::pipelines::script;
use crate::serving::{Serving, wait};
use crate::terminal::Terminal;

/// A colour that is not ended, a progress bar, a forged line, and what moves the cursor and sets
/// the title.
const HOSTILE: &str =
    r"printf '\033[31mred\n10%%\r100%%\nx\rfake | forged\n\033[1A\033[2K\033]0;title\007up\n'";

/// Everything the command shows at a terminal.
fn shown(server: &Serving, args: &[&str]) -> String {
    let mut terminal = Terminal::open(30, 90);
    let mut child = terminal.run(&server.command(args));
    assert_eq!(wait(&mut child).code(), Some(0));
    // Only then is it certain that nothing more comes.
    terminal.types("over\n");
    terminal.reads("over");
    std::mem::take(&mut terminal.seen)
}

#[test]
fn logs_are_text_and_colours() {
    let server = Serving::start();
    server.up(&json!({"name": "ci", "tasks": [script("t", HOSTILE, &[])]}));
    let followed = shown(&server, &["run", "start", "ci", "--follow", "--logs"]);
    let lines =
        ["t | \u{1b}[31mred\u{1b}[0m\r\n", "t | 100%\r\n", "t | fake | forged\r\n", "t | up\r\n"];

    for line in lines {
        assert!(followed.contains(line), "{line:?} is not in {followed:?}");
    }

    // What moves the cursor is of the live view alone, which sets no title.
    assert!(!followed.contains("\u{1b}]") && !followed.contains("10%\r1"), "{followed:?}");

    let logs = shown(&server, &["run", "logs", "ci"]);
    assert!(logs.starts_with(&lines.concat()), "{logs:?}");

    // One log alone may overwrite its own lines.
    let expected = "\u{1b}[31mred\u{1b}[0m\r\n10%\r100%\r\nx\rfake | forged\r\nup\r\n";
    let logs = shown(&server, &["task", "logs", "ci", "1", "t"]);
    assert!(logs.starts_with(expected), "{logs:?}");
    let raw = shown(&server, &["task", "logs", "ci", "1", "t", "--raw"]);
    assert!(raw.contains("\u{1b}[1A\u{1b}[2K\u{1b}]0;title\u{7}up"), "{raw:?}");
}

#[test]
fn files_and_programs_get_every_byte() {
    let server = Serving::start();
    server.up(&json!({"name": "ci", "tasks": [script("t", HOSTILE, &[])]}));
    server.run(&["run", "start", "ci", "--follow"]).expect(0);
    let bytes =
        "\u{1b}[31mred\n10%\r100%\nx\rfake | forged\n\u{1b}[1A\u{1b}[2K\u{1b}]0;title\u{7}up\n";
    assert_eq!(server.run(&["task", "logs", "ci", "1", "t"]).expect(0).stdout, bytes);
    let prefixed: String = bytes.split_inclusive('\n').map(|line| format!("t | {line}")).collect();
    assert_eq!(server.run(&["run", "logs", "ci"]).expect(0).stdout, prefixed);
}

#[test]
fn what_a_server_says_is_text() {
    let server = Serving::start();
    let ended = server.run(&["pipeline", "get", "a\u{1b}[2Kb"]);
    assert!(ended.code != 0 && !ended.stderr.contains('\u{1b}'), "{ended:?}");
    server.up(&json!({"name": "ci", "tasks": [script("t", "sleep 600", &[])]}));
    server.run(&["run", "start", "ci"]).expect(0);

    // What is for people to read has no such characters; a command may have any, and events tell of
    // it.
    let controls = "x\u{9b}2Ky\u{1b}]0;title\u{7}";
    server.eventually(&["task", "get", "ci", "1", "t"], |found| {
        found["taskRun"]["state"] == "TASK_RUN_STATE_RUNNING"
    });

    server.run(&["task", "exec", "ci", "1", "t", "--", "true", controls]).expect(0);
    server
        .run(&["run", "cancel", "ci", "1", "--force", "--reason", controls])
        .expect(2)
        .says("(got `U+009B`)");
    server.run(&["run", "cancel", "ci", "1", "--force", "--reason", "enough"]).expect(0);
    server.eventually(&["run", "get", "ci", "1"], |found| {
        found["run"]["state"] == "RUN_STATE_COMPLETE"
    });

    for command in [
        &["run", "get", "ci", "1"][..],
        &["run", "list"],
        &["event", "list"],
        &["-o", "json", "run", "list"],
    ] {
        let text = shown(&server, command);
        assert!(!text.contains(['\u{1b}', '\u{9b}', '\u{7}']), "{command:?}: {text:?}");
    }

    let address = gofer(&["--addr", "http://127.0.0.1:1/\u{1b}[2K", "run", "list"])
        .output()
        .expect("the binary starts");
    assert!(!address.stderr.contains(&0x1b), "{address:?}");
}
