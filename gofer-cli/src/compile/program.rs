//! Runs a pipeline program and takes what it prints.

use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{ExitStatus, Stdio};

use tokio::process::Command;

use crate::errors::Failure;

/// What the program writes to stdout; its stderr is the user's. `None` when the file is no program for this machine
/// (for example a JSON file on a file system where every file is executable).
pub(super) async fn stdout_of(program: &Path, dir: Option<&Path>) -> Result<Option<Vec<u8>>, Failure> {
    let shown = program.display();
    let mut command = Command::new(program);
    if let Some(dir) = dir {
        // As `cargo run` does.
        command.current_dir(dir).env("CARGO_MANIFEST_DIR", dir);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).kill_on_drop(true);
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) if error.raw_os_error() == Some(ENOEXEC) => return Ok(None),
        Err(error) => return Err(Failure::usage(format!("cannot start `{shown}`: {error}"))),
    };
    let stdout = child.stdout.take().expect("stdout is piped");
    let bytes = super::read_bounded(stdout, &format!("the program `{shown}`")).await?;
    let status = child.wait().await.map_err(|error| Failure::usage(format!("cannot wait for `{shown}`: {error}")))?;
    if !status.success() {
        return Err(Failure::usage(format!("the pipeline program `{shown}` {}", ending(status)))
            .hint("its own message, if any, is above; the program must print the pipeline and end with 0"));
    }
    Ok(Some(bytes))
}

/// "Exec format error", the same number on every Unix.
const ENOEXEC: i32 = 8;

fn ending(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(101), _) => "ended with exit code 101, as Rust programs do that panic".to_owned(),
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended in an unknown way".to_owned(),
    }
}
