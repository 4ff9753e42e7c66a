//! What `gofer up` makes of folders, programs, files and stdin. Without a server a pipeline that
//! compiles ends with 3, and anything else with 2 before a server is asked for.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use prost::Message as _;
use rustix::process::Signal;
use tempfile::TempDir;

use crate::harness::{
    Ended, NOBODY, eventually, finish_with_stdin, gofer, run_with_stdin, signal, text, wait,
};

const JSON: &str = r#"{"name": "tiny", "tasks": [{"id": "one", "custom": {"command": ["true"]}}]}"#;

/// A spec with a long argument.
fn json(argument: &str) -> String {
    JSON.replace("true", argument)
}

fn up(source: &Path) -> Ended {
    up_with(&[], source)
}

fn up_with(args: &[&str], source: &Path) -> Ended {
    let mut command = gofer(&[&["--addr", NOBODY, "up"], args, &[text(source)]].concat());
    // In a target folder that they shared, cargo would take projects of one name for the same
    // project.
    command.env("CARGO_TARGET_DIR", source.join("target"));
    finish_with_stdin(command, b"")
}

fn up_stdin(bytes: &[u8]) -> Ended {
    run_with_stdin(&["--addr", NOBODY, "up", "-"], bytes)
}

fn dir() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

fn file(dir: &TempDir, name: &str, content: &[u8], mode: u32) -> PathBuf {
    let path = dir.path().join(name);
    fs::write(&path, content).expect("a file");
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("permissions");
    path
}

/// A folder with a Rust program that needs no other crate.
fn project(main: &str) -> TempDir {
    let dir = dir();
    file(
        &dir,
        "Cargo.toml",
        b"[package]\nname = \"sample\"\nversion = \"0.1.0\"\nedition = \"2024\"\n[workspace]\n",
        0o644,
    );
    fs::create_dir(dir.path().join("src")).expect("a folder");
    fs::write(dir.path().join("src/main.rs"), main).expect("a file");
    dir
}

fn protobuf() -> Vec<u8> {
    gofer_proto::json::from_json_slice::<gofer_proto::v1::PipelineSpec>(JSON.as_bytes())
        .expect("a spec")
        .encode_to_vec()
}

#[test]
fn a_file_or_stdin_may_hold_protobuf_or_json() {
    let dir = dir();
    for (name, content) in [("spec.json", JSON.as_bytes().to_vec()), ("spec.pb", protobuf())] {
        up(&file(&dir, name, &content, 0o644)).expect(3);
        up_stdin(&content).expect(3);
        // As on file systems where everything is executable.
        up(&file(&dir, &format!("x-{name}"), &content, 0o755)).expect(3);
    }
}

#[test]
fn a_program_prints_the_spec() {
    let dir = dir();
    let script = format!("#!/bin/sh\necho for people >&2\ncat <<'EOF'\n{JSON}\nEOF\n");
    up(&file(&dir, "pipeline", script.as_bytes(), 0o755)).expect(3).says("for people");
}

#[test]
fn a_program_that_fails_is_reported() {
    let dir = dir();
    let ended =
        up(&file(&dir, "pipeline", b"#!/bin/sh\necho the reason >&2\nexit 7\n", 0o755)).expect(2);
    ended.says("the reason").says("exit code 7");
    up(&file(&dir, "killed", b"#!/bin/sh\nkill -9 $$\n", 0o755))
        .expect(2)
        .says("killed by signal 9");
}

#[test]
fn garbage_is_shown_with_what_was_expected() {
    let dir = dir();
    up(&file(&dir, "talks", b"#!/bin/sh\necho hello, world\n", 0o755))
        .expect(2)
        .says("\"hello, world\\n\"")
        .says("PipelineSpec");
    up(&file(&dir, "silent", b"#!/bin/sh\n", 0o755)).expect(2).says("nothing in it");
    up_stdin(&[0xff, 0xfe, 0x00]).expect(2).says("bytes ff fe 00");
    up_stdin(b"{\"name\": \"x\", \"tsks\": []}").expect(2).says("tsks");
    up_stdin(b"").expect(2);
}

#[test]
fn too_much_output_is_cut_off() {
    let dir = dir();
    let endless = b"#!/bin/sh\nexec cat /dev/zero\n";
    up(&file(&dir, "endless", endless, 0o755)).expect(2).says("more than 16 MiB");
}

#[test]
fn a_program_that_hangs_is_given_up() {
    let dir = dir();
    let path = file(&dir, "hangs", b"#!/bin/sh\nexec sleep 600\n", 0o755);
    let ended = up_with(&["--compile-timeout", "200ms"], &path).expect(2);
    ended.says("200ms").says("--compile-timeout");
}

/// A script that leaves a process with its stdout behind, and that one's number in a file.
fn daemon(dir: &TempDir, rest: &str) -> (PathBuf, PathBuf) {
    let pid = dir.path().join("pid");
    let script = format!(
        "#!/bin/sh\nsleep 600 2> /dev/null &\necho $! > {0}.new; mv {0}.new {0}\n{rest}",
        text(&pid)
    );
    (file(dir, "daemon", script.as_bytes(), 0o755), pid)
}

/// Whether the process of that number is there.
fn is_alive(pid: &Path) -> bool {
    let pid = fs::read_to_string(pid).expect("a number");
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

fn is_killed(pid: &Path) {
    eventually("it is killed", || if is_alive(pid) { Err("it lives".to_owned()) } else { Ok(()) });
}

#[test]
fn what_a_program_leaves_running_is_not_waited_for() {
    let dir = dir();
    let (program, pid) = daemon(&dir, &format!("cat <<'EOF'\n{JSON}\nEOF\n"));
    up_with(&["--compile-timeout", "10m"], &program).expect(3);
    assert!(is_alive(&pid), "a daemon that starts on first use is the user's");
    let number = fs::read_to_string(&pid).expect("a number").trim().parse().expect("a number");
    let daemon = rustix::process::Pid::from_raw(number).expect("a process id");
    rustix::process::kill_process(daemon, rustix::process::Signal::KILL).expect("it is there");
}

#[test]
fn all_of_what_is_printed_before_the_end_counts() {
    let dir = dir();
    // More than a pipe holds, the last of it just before the exit.
    let spec = json(&"x".repeat(1_000_000));
    fs::write(dir.path().join("spec"), spec).expect("a file");
    let (program, pid) = daemon(&dir, &format!("exec cat {}", text(&dir.path().join("spec"))));
    for _ in 0..10 {
        up(&program).expect(3);
        let number = fs::read_to_string(&pid).expect("a number").trim().parse().expect("a number");
        let daemon = rustix::process::Pid::from_raw(number).expect("a process id");
        rustix::process::kill_process(daemon, rustix::process::Signal::KILL).expect("it is there");
    }
}

#[test]
fn a_program_that_is_given_up_is_killed_with_what_it_started() {
    let dir = dir();
    let (program, pid) = daemon(&dir, "wait\n");
    up_with(&["--compile-timeout", "500ms"], &program).expect(2).says("500ms");
    is_killed(&pid);
}

#[test]
fn a_signal_ends_the_program_too() {
    let dir = dir();
    let (program, pid) = daemon(&dir, "wait\n");
    for (asked, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        let _ = fs::remove_file(&pid);
        let mut command = gofer(&["--addr", NOBODY, "up", text(&program)]);
        let mut child =
            command.stderr(std::process::Stdio::null()).spawn().expect("the binary starts");
        eventually("the program runs", || {
            pid.exists().then_some(()).ok_or_else(|| "it does not".to_owned())
        });
        signal(&child, asked);
        assert_eq!(wait(&mut child).code(), Some(code));
        is_killed(&pid);
    }
}

#[test]
fn a_folder_is_compiled_and_run() {
    let dir = project(&format!("fn main() {{ println!(\"{{}}\", r#\"{JSON}\"#); }}"));
    up(dir.path()).expect(3);
}

#[test]
fn a_folder_that_does_not_compile_shows_what_the_compiler_said() {
    let dir = project("fn main() { let x: u32 = \"text\"; }");
    up(dir.path()).expect(2).says("mismatched types").says("does not compile");
}

#[test]
fn a_program_that_panics_is_told_from_one_that_does_not_compile() {
    let dir = project("fn main() { panic!(\"no such branch\"); }");
    up(dir.path()).expect(2).says("no such branch").says("exit code 101");
}

#[test]
fn a_folder_with_several_programs_needs_a_choice() {
    let dir = project("fn main() { println!(\"no\"); }");
    let bin = dir.path().join("src/bin");
    fs::create_dir(&bin).expect("a folder");
    fs::write(bin.join("other.rs"), format!("fn main() {{ println!(\"{{}}\", r#\"{JSON}\"#); }}"))
        .expect("a file");
    up(dir.path()).expect(2).says("several programs").says("--bin");
    up_with(&["--bin", "other"], dir.path()).expect(3);
}

#[test]
fn what_is_no_pipeline_at_all_is_told_with_what_would_be_one() {
    let dir = dir();
    up(dir.path()).expect(2).says("no `Cargo.toml`").says("as protobuf or JSON");
    up(&dir.path().join("nothing")).expect(2).says("nothing");
}
