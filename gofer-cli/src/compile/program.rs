//! Runs a pipeline program and takes what it prints.

use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::ExitStatus;

use tokio::process::Command;

use super::foreign::Foreign;
use super::{MAX_SPEC_BYTES, too_long};
use crate::errors::Failure;

/// What the program writes to stdout; its stderr is the user's. `None` when the file is no program
/// for this machine (for example a JSON file on a file system where every file is executable).
pub(super) async fn stdout_of(
    program: &Path,
    dir: Option<&Path>,
) -> Result<Option<Vec<u8>>, Failure> {
    let shown = program.display();
    let mut command = Command::new(program);
    if let Some(dir) = dir {
        // As `cargo run` does.
        command.current_dir(dir).env("CARGO_MANIFEST_DIR", dir);
    }

    let running = match Foreign::start(&mut command) {
        Ok(running) => running,
        Err(error) if error.raw_os_error() == Some(ENOEXEC) => return Ok(None),
        Err(error) => return Err(Failure::usage(format!("cannot start `{shown}`: {error}"))),
    };

    let mut bytes = Vec::new();
    let status = running
        .until_exit(|piece| {
            bytes.extend_from_slice(piece);
            let too_long = bytes.len() as u64 > MAX_SPEC_BYTES;
            if too_long { Err(self::too_long(&format!("the program `{shown}`"))) } else { Ok(()) }
        })
        .await?;

    if !status.success() {
        return Err(Failure::usage(format!("the pipeline program `{shown}` {}", ending(status)))
            .hint(
                "its own message, if any, is above; the program must print the pipeline and end \
                   with 0",
            ));
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
