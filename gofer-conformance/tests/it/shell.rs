//! The shell workloads do what their docs say, run without any scheduler.

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use gofer_conformance::eventually;
use gofer_conformance::scheduler::{ShellWorkloads, Workloads};
use gofer_core::scheduler::ExecutionSpec;

/// A directory of this test's own, removed at its end; what still runs ends with it.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> (Self, ShellWorkloads) {
        let path =
            std::env::temp_dir().join(format!("gofer-conformance-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        (Self(path.clone()), ShellWorkloads::new(path))
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

fn command(spec: &ExecutionSpec) -> Command {
    let mut command = Command::new(&spec.command[0]);
    command.args(&spec.command[1..]).stdin(Stdio::null());
    command
}

fn run(spec: &ExecutionSpec) -> Output {
    command(spec).output().unwrap()
}

/// Starts it and waits for its first line.
fn start(spec: &ExecutionSpec) -> Child {
    let mut child = command(spec).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = [0; 6];
    child.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
    assert_eq!(&line, b"ready\n");
    child
}

fn send(signal: &str, child: &Child) {
    let sent = Command::new("/bin/sh")
        .args(["-c", "kill -\"$0\" \"$1\"", signal, &child.id().to_string()])
        .status();
    assert!(sent.unwrap().success());
}

#[test]
fn they_write_what_they_are_told() {
    let (dir, workloads) = Dir::new("write");
    let all: Vec<u8> = (0..=255).cycle().take(16 * 1024).collect();
    let output = run(&workloads.print(&all, b"\0%s\\n"));
    assert!(output.stdout == all && output.stderr == b"\0%s\\n" && output.status.success());
    assert_eq!(run(&workloads.print_line(100_000)).stdout, [&[b'x'; 100_000][..], b"\n"].concat());
    assert_eq!(run(&workloads.print_env("GOFER_UNSET")).stdout, b"");
    let value = "two\nlines, 'quotes\" and $HOME\n";
    let output =
        command(&workloads.print_env("GOFER_SET")).env("GOFER_SET", value).output().unwrap();
    assert_eq!(output.stdout, value.as_bytes());
    let output = command(&workloads.print_working_dir()).current_dir("/").output().unwrap();
    assert_eq!(output.stdout, b"/\n");
    drop(dir);
}

#[test]
fn they_end_as_they_are_told() {
    let (_dir, workloads) = Dir::new("end");
    assert_eq!(run(&workloads.exit(7)).status.code(), Some(7));
    for signal in [9, 15] {
        assert_eq!(run(&workloads.die(signal)).status.signal(), Some(signal));
    }

    let mut child = start(&workloads.until_stopped());
    send("TERM", &child);
    let mut rest = String::new();
    child.stdout.as_mut().unwrap().read_to_string(&mut rest).unwrap();
    assert_eq!((child.wait().unwrap().code(), rest.as_str()), (Some(7), "stopped\n"));

    let mut child = start(&workloads.ignoring_stop());
    send("TERM", &child);
    send("KILL", &child);
    assert_eq!(child.wait().unwrap().signal(), Some(9), "SIGTERM was ignored");

    let mut child = start(&workloads.leave_a_child());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[tokio::test]
async fn gates_and_marks_are_seen_from_outside() {
    let (_dir, workloads) = Dir::new("gates");
    let mut child = command(&workloads.gated(b"ready\n", "g", b"after"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut before = [0; 6];

    child.stdout.as_mut().unwrap().read_exact(&mut before).unwrap();
    assert_eq!((&before, child.try_wait().unwrap()), (b"ready\n", None));
    workloads.release("g").await;
    assert_eq!(child.wait_with_output().unwrap().stdout, b"after");
    assert_eq!(workloads.marks("m").await, 0);

    for code in [0, 3] {
        assert_eq!(run(&workloads.mark("m", code)).status.code(), Some(i32::from(code)));
    }

    assert_eq!(workloads.marks("m").await, 2);
    let mut tree = start(&workloads.tree("t"));
    send("TERM", &tree);
    assert_eq!(tree.wait().unwrap().signal(), Some(15));

    let seen = workloads.marks("t").await;
    eventually("the child outlives its parent", async || {
        let marks = workloads.marks("t").await;
        if marks > seen + 3 { Ok(()) } else { Err(format!("{marks} marks")) }
    })
    .await;
}
