//! What `gofer local` started ends with it, whatever way it ends.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;
use serde_json::json;
use tempfile::TempDir;

use crate::harness::{eventually, gofer, text};
use crate::pipelines::script;
use crate::serving::{rest, signal, wait, wait_for_line};
use crate::terminal::Terminal;

/// A command that runs one task, with a folder of its own for everything temporary, by which its
/// processes are known.
fn local(dir: &TempDir, script_text: &str) -> Command {
    let file = dir.path().join("spec.json");
    let spec = json!({"name": "ci", "tasks": [script("a", script_text, &[])]});
    std::fs::write(&file, spec.to_string()).expect("a file");
    let tmp = dir.path().join("tmp");
    std::fs::create_dir_all(&tmp).expect("a folder");
    let mut command = gofer(&["local", text(&file), "--logs"]);
    command.env("TMPDIR", tmp).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Started, and its task has begun.
fn begun(dir: &TempDir, script_text: &str) -> Child {
    let mut child = local(dir, script_text).spawn().expect("the binary starts");
    wait_for_line(&mut child, |line| line.contains("| begun"));
    child
}

/// Two processes, one of them in a session of its own.
const SLEEPS: &str = "setsid sleep 600 & echo begun; sleep 600";

/// Waits until no process knows of the folder any more, and nothing is in it.
fn nothing_is_left(dir: &TempDir) {
    let tmp = dir.path().join("tmp");
    eventually("all is gone", || match (processes_of(&tmp), left_in(&tmp)) {
        (processes, files) if processes.is_empty() && files.is_empty() => Ok(()),
        left => Err(format!("{left:#?}")),
    });
}

/// The processes that this one has started.
fn children_of(parent: u32) -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").expect("/proc").flatten();
    let stats = entries.filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok());
    let child = |stat: String| {
        // After the name, which is in brackets: the state, and the parent.
        let ours = stat.rsplit_once(") ")?.1.split(' ').nth(1)? == parent.to_string();
        ours.then(|| stat.split(' ').next()?.parse().ok())?
    };
    stats.filter_map(child).collect()
}

/// The processes with the folder in their environment: tasks have it as `TMPDIR`, and the zygote as
/// what it is to remove.
fn processes_of(tmp: &Path) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").expect("/proc").flatten();
    let about = |entry: std::fs::DirEntry| {
        let environment = std::fs::read(entry.path().join("environ")).ok()?;
        let found = String::from_utf8_lossy(&environment).contains(text(tmp));
        found.then(|| std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default())
    };
    entries.filter_map(about).collect()
}

fn left_in(tmp: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(tmp).expect("the folder").flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn signals_cancel_the_run_and_are_the_exit_code() {
    for (asked, code) in [(Signal::HUP, 129), (Signal::INT, 130), (Signal::TERM, 143)] {
        let dir = tempfile::tempdir().expect("a folder");
        let mut child = begun(&dir, SLEEPS);
        signal(&child, asked);
        let rest = rest(&mut child);
        assert_eq!(wait(&mut child).code(), Some(code), "{rest}");
        assert!(rest.contains("default/ci #1 cancelled in"), "{rest}");

        let why = match code {
            129 => "the terminal was closed (SIGHUP)",
            130 => "interrupted with Ctrl-C",
            _ => "ended by SIGTERM",
        };

        assert!(rest.contains(&format!("cancelled by gofer-local: {why}")), "{rest}");
        nothing_is_left(&dir);
    }
}

#[test]
fn a_hangup_is_ignored_under_nohup() {
    let dir = tempfile::tempdir().expect("a folder");
    let gate = dir.path().join("gate");
    let waits =
        format!("echo begun; while ! test -e {}; do sleep 0.02; done; echo over", text(&gate));
    let local = local(&dir, &waits);
    let mut command = Command::new("sh");

    command
        .args(["-c", "trap '' HUP; exec \"$@\"", "sh"])
        .arg(local.get_program())
        .args(local.get_args());
    command.env("TMPDIR", dir.path().join("tmp")).stdout(Stdio::piped()).stderr(Stdio::piped());

    let mut child = command.spawn().expect("sh is there");
    wait_for_line(&mut child, |line| line.contains("| begun"));
    signal(&child, Signal::HUP);
    std::fs::write(&gate, "").expect("a file");

    let rest = rest(&mut child);
    assert_eq!(wait(&mut child).code(), Some(0), "{rest}");
    assert!(rest.contains("a | over\n"), "{rest}");
    nothing_is_left(&dir);
}

#[test]
fn a_closed_terminal_ends_the_run() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut terminal = Terminal::open(30, 90);
    let mut child = terminal.run(&local(&dir, SLEEPS));
    terminal.reads("| begun");
    drop(terminal);
    assert_eq!(wait(&mut child).code(), Some(129));
    nothing_is_left(&dir);
}

#[test]
fn what_a_killed_command_started_ends_with_it() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut child = begun(&dir, SLEEPS);
    assert!(
        processes_of(&dir.path().join("tmp")).len() >= 4,
        "the command, zygote, supervisor and task"
    );
    signal(&child, Signal::KILL);
    wait(&mut child);
    nothing_is_left(&dir);
}

#[test]
fn a_task_has_time_to_clean_up_when_the_command_is_killed() {
    let dir = tempfile::tempdir().expect("a folder");
    let cleaned = dir.path().join("cleaned");
    let trap = format!(
        "trap 'echo done > {}; exit' TERM; echo begun; while :; do sleep 0.01; done",
        text(&cleaned)
    );
    let mut child = begun(&dir, &trap);
    signal(&child, Signal::KILL);
    wait(&mut child);
    nothing_is_left(&dir);
    assert_eq!(std::fs::read_to_string(&cleaned).expect("it was told to end"), "done\n");
}

#[test]
fn a_task_that_does_not_listen_is_killed_after_the_grace() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut child =
        begun(&dir, "trap '' TERM; (trap '' TERM; while :; do sleep 0.1; done) & echo begun; wait");
    signal(&child, Signal::KILL);
    wait(&mut child);
    nothing_is_left(&dir);
}

#[test]
fn the_last_supervisor_cleans_up_when_the_zygote_was_killed_too() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut child = begun(&dir, SLEEPS);
    let zygote = children_of(child.id());
    assert_eq!(zygote.len(), 1, "{zygote:?}");
    signal(&child, Signal::STOP);
    let zygote = rustix::process::Pid::from_raw(zygote[0]).expect("a process id");
    rustix::process::kill_process(zygote, Signal::KILL).expect("it is there");
    signal(&child, Signal::KILL);
    wait(&mut child);
    nothing_is_left(&dir);
}

#[test]
fn a_kept_folder_is_kept_whatever_happens() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut command = local(&dir, SLEEPS);
    let mut child = command.arg("--keep").spawn().expect("the binary starts");
    wait_for_line(&mut child, |line| line.contains("| begun"));
    signal(&child, Signal::KILL);
    wait(&mut child);
    let tmp = dir.path().join("tmp");
    eventually("all processes are gone", || match processes_of(&tmp) {
        processes if processes.is_empty() => Ok(()),
        processes => Err(format!("{processes:#?}")),
    });
    assert_eq!(left_in(&tmp).len(), 1);
}
