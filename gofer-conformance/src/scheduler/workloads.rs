//! What the cases let a scheduler execute.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use gofer_core::pipeline::Resources;
use gofer_core::scheduler::{ExecutionKind, ExecutionSpec};

/// What the cases let a scheduler execute. [`ShellWorkloads`] has them as `sh` scripts; a scheduler
/// that has no shell brings its own.
#[async_trait]
pub trait Workloads: Send + Sync {
    /// Ends at once with this exit code.
    fn exit(&self, code: u8) -> ExecutionSpec;

    /// Ends by sending itself this signal.
    fn die(&self, signal: i32) -> ExecutionSpec;

    /// A program that does not exist.
    fn command_not_found(&self) -> ExecutionSpec;

    /// Writes these bytes, at most 16 KiB each, and exits with 0. Its outputs are apart.
    fn print(&self, stdout: &[u8], stderr: &[u8]) -> ExecutionSpec;

    /// Writes the lines `out 1`, `err 1`, `out 2`, `err 2` and so on in this order, to stdout and
    /// to stderr, and exits with 0.
    fn print_in_turn(&self, times: usize) -> ExecutionSpec;

    /// Writes one line of `length` times `x`, with its newline, to stdout and exits with 0.
    fn print_line(&self, length: usize) -> ExecutionSpec;

    /// Writes the value of a variable to stdout, nothing else (and nothing if it is not set), and
    /// exits with 0.
    fn print_env(&self, name: &str) -> ExecutionSpec;

    /// Whether the host executor gives each execution a root of its own, so that the same path is
    /// another directory.
    fn has_own_root(&self) -> bool;

    /// Writes its working directory and a newline to stdout and exits with 0.
    fn print_working_dir(&self) -> ExecutionSpec;

    /// Writes `ready` and a newline and runs; on SIGTERM it writes `stopped` and a newline and
    /// exits with 7.
    fn until_stopped(&self) -> ExecutionSpec;

    /// Ignores SIGTERM, writes `ready` and a newline, and runs.
    fn ignoring_stop(&self) -> ExecutionSpec;

    /// Starts a child that ignores SIGTERM, keeps stdout and stderr open, and makes a mark every
    /// few milliseconds; writes `ready` and a newline, and runs until SIGTERM ends it, but not the
    /// child.
    fn tree(&self, mark: &str) -> ExecutionSpec;

    /// Starts a child that keeps stdout and stderr open and runs on; writes `ready` and a newline
    /// and exits with 0.
    fn leave_a_child(&self) -> ExecutionSpec;

    /// Writes some bytes to stdout, waits for [`release`](Self::release), writes more, and exits
    /// with 0.
    fn gated(&self, before: &[u8], gate: &str, after: &[u8]) -> ExecutionSpec;

    /// Lets those who wait at this gate go on.
    async fn release(&self, gate: &str);

    /// Makes a mark and exits with this code.
    fn mark(&self, mark: &str, code: u8) -> ExecutionSpec;

    /// How many such marks were made.
    async fn marks(&self, mark: &str) -> usize;

    /// This POSIX shell script with arguments, `$1` the first. `None` without a shell, and where
    /// processes that a fake runs are the test's own.
    fn probe(&self, script: &str, arguments: &[String]) -> Option<ExecutionSpec>;
}

/// A task without an image, with this command and nothing else.
pub fn host_command<W: Into<String>>(command: impl IntoIterator<Item = W>) -> ExecutionSpec {
    ExecutionSpec {
        kind: ExecutionKind::Task,
        image: None,
        entrypoint: Vec::new(),
        command: command.into_iter().map(Into::into).collect(),
        working_dir: None,
        env: BTreeMap::new(),
        resources: Resources::default(),
        registry_auth: None,
        timeout: None,
        separate_output: false,
    }
}

/// The workloads as POSIX shell scripts, for schedulers that execute on this machine.
///
/// Gates and marks are files in a directory. Everything that would run for ever ends when that
/// directory is removed, so that a failed test leaves nothing behind.
#[derive(Debug)]
pub struct ShellWorkloads {
    dir: PathBuf,
    probes: bool,
}

impl ShellWorkloads {
    /// Workloads that keep their gates and marks in `dir`, which exists.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), probes: false }
    }

    /// The same for a scheduler that keeps executions from each other, and shows it.
    #[must_use]
    pub fn with_probes(self) -> Self {
        Self { probes: true, ..self }
    }

    /// A script with arguments; `$0` is the directory. Its outputs are apart: shells say on stderr
    /// which child a signal has ended.
    fn script<const N: usize>(&self, script: &str, arguments: [&str; N]) -> ExecutionSpec {
        let dir = text(&self.dir);
        let command = host_command(["/bin/sh", "-c", script, &dir].into_iter().chain(arguments));
        ExecutionSpec { separate_output: true, ..command }
    }

    fn file(&self, kind: &str, name: &str) -> PathBuf {
        self.dir.join(format!("{kind}-{name}"))
    }
}

const RUN: &str = r#"while [ -d "$0" ]; do sleep 0.05; done"#;

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Workloads for ShellWorkloads {
    fn exit(&self, code: u8) -> ExecutionSpec {
        self.script(r#"exit "$1""#, [&code.to_string()])
    }

    fn die(&self, signal: i32) -> ExecutionSpec {
        self.script(&format!(r#"kill -"$1" $$; {RUN}"#), [&signal.to_string()])
    }

    fn command_not_found(&self) -> ExecutionSpec {
        host_command(["gofer-no-such-command", "argument"])
    }

    fn print(&self, stdout: &[u8], stderr: &[u8]) -> ExecutionSpec {
        self.script(r#"printf "$1"; printf "$2" >&2"#, [&octal(stdout), &octal(stderr)])
    }

    fn print_in_turn(&self, times: usize) -> ExecutionSpec {
        let script = r#"i=1; while [ "$i" -le "$1" ]; do echo "out $i"; echo "err $i" >&2; i=$((i + 1)); done"#;
        ExecutionSpec { separate_output: false, ..self.script(script, [&times.to_string()]) }
    }

    fn print_line(&self, length: usize) -> ExecutionSpec {
        self.script(r#"head -c "$1" /dev/zero | tr '\0' x; echo"#, [&length.to_string()])
    }

    fn print_env(&self, name: &str) -> ExecutionSpec {
        self.script(&format!(r#"printf %s "${{{name}-}}""#), [])
    }

    fn has_own_root(&self) -> bool {
        false
    }

    fn print_working_dir(&self) -> ExecutionSpec {
        self.script("pwd", [])
    }

    fn until_stopped(&self) -> ExecutionSpec {
        self.script(&format!("trap 'echo stopped; exit 7' TERM; echo ready; {RUN}"), [])
    }

    fn ignoring_stop(&self) -> ExecutionSpec {
        self.script(&format!("trap '' TERM; echo ready; {RUN}"), [])
    }

    fn tree(&self, mark: &str) -> ExecutionSpec {
        let child = r#"(trap '' TERM; while [ -d "$0" ]; do echo >> "$1"; sleep 0.01; done) &"#;
        let first_mark = r#"while [ ! -e "$1" ]; do sleep 0.01; done"#;
        self.script(
            &format!("{child} {first_mark}; echo ready; {RUN}"),
            [&text(&self.file("mark", mark))],
        )
    }

    fn leave_a_child(&self) -> ExecutionSpec {
        self.script(&format!("({RUN}) & echo ready"), [])
    }

    fn gated(&self, before: &[u8], gate: &str, after: &[u8]) -> ExecutionSpec {
        let wait = r#"while [ -d "$0" ] && [ ! -e "$2" ]; do sleep 0.01; done"#;
        let script = format!(r#"printf "$1"; {wait}; printf "$3""#);
        self.script(&script, [&octal(before), &text(&self.file("gate", gate)), &octal(after)])
    }

    async fn release(&self, gate: &str) {
        std::fs::write(self.file("gate", gate), "").expect("write the gate's file");
    }

    fn mark(&self, mark: &str, code: u8) -> ExecutionSpec {
        self.script(
            r#"echo >> "$1"; exit "$2""#,
            [&text(&self.file("mark", mark)), &code.to_string()],
        )
    }

    async fn marks(&self, mark: &str) -> usize {
        std::fs::read(self.file("mark", mark)).map_or(0, |marks| marks.len())
    }

    fn probe(&self, script: &str, arguments: &[String]) -> Option<ExecutionSpec> {
        let words = ["/bin/sh", "-c", script, "sh"].map(str::to_owned);
        let command = host_command(words.into_iter().chain(arguments.iter().cloned()));
        self.probes.then_some(ExecutionSpec { separate_output: true, ..command })
    }
}

/// Bytes as a format of `printf`.
fn octal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("\\{byte:03o}")).collect()
}

fn text(path: &Path) -> String {
    path.to_str().expect("the directory's name is UTF-8").to_owned()
}
