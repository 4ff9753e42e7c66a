//! Runs the real binary in a clean environment.

use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long anything may take that takes moments.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// An address where nobody listens: port 1 needs a privilege that nobody uses.
pub(crate) const NOBODY: &str = "http://127.0.0.1:1";

/// What a command came to.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    fn of(output: &Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Fails the test, with everything that was said, unless the command ended with `code`.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// Fails the test unless stderr holds the text.
    #[track_caller]
    pub(crate) fn says(self, text: &str) -> Self {
        assert!(self.stderr.contains(text), "`{text}` is not in stderr:\n{}", self.stderr);
        self
    }
}

/// The binary without what the tester's own environment says about servers.
pub(crate) fn gofer(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gofer"));
    for (name, _) in
        std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("GOFER_"))
    {
        command.env_remove(name);
    }
    // Where servers leave word of their tokens, in place of the tester's own folder.
    command.env("XDG_STATE_HOME", concat!(env!("CARGO_TARGET_TMPDIR"), "/state"));
    command.args(args).stdin(Stdio::null());
    command
}

/// Runs to the end.
pub(crate) fn run(args: &[&str]) -> Ended {
    Ended::of(&gofer(args).output().expect("the binary starts"))
}

/// Runs to the end with this on stdin.
pub(crate) fn run_with_stdin(args: &[&str], stdin: &[u8]) -> Ended {
    finish_with_stdin(gofer(args), stdin)
}

/// Runs a prepared command to the end with this on stdin.
pub(crate) fn finish_with_stdin(mut command: Command, stdin: &[u8]) -> Ended {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the binary starts");
    let mut pipe = child.stdin.take().expect("stdin is piped");
    let output = std::thread::scope(|scope| {
        // A command that does not read everything is none of the test's business.
        scope.spawn(move || drop(pipe.write_all(stdin)));
        child.wait_with_output().expect("the binary ends")
    });
    Ended::of(&output)
}

/// The path as text.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("the path is UTF-8")
}

/// Sends a signal to a command.
pub(crate) fn signal(child: &Child, signal: Signal) {
    let pid = Pid::from_child(child);
    kill_process(pid, signal).expect("the process is there");
}

/// Waits for a command's end, but not for ever.
pub(crate) fn wait(child: &mut Child) -> std::process::ExitStatus {
    let pid = Pid::from_child(child);
    std::thread::scope(|scope| {
        let (sender, ended) = std::sync::mpsc::channel();
        scope.spawn(move || sender.send(child.wait()));
        match ended.recv_timeout(SOON) {
            Ok(status) => status.expect("the process can be waited for"),
            Err(_) => {
                let _ = kill_process(pid, Signal::KILL);
                panic!("the command did not end within {SOON:?}");
            }
        }
    })
}

/// Waits until it is so; the error says how it is instead.
#[track_caller]
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> Result<(), String>) {
    let since = Instant::now();
    while let Err(instead) = is_so() {
        assert!(since.elapsed() < SOON, "{what}: not within {SOON:?}: {instead}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
