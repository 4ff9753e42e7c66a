//! The `exit` file: how an execution ended, in one short text that appears whole or not at all.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;

use gofer_core::scheduler::{ExecutionState, FailureKind};

use crate::layout::ExecutionDir;

/// The first word, so that a later version can tell its own records from these.
const VERSION: &str = "1";

/// Writes the state under its final name. `sync` says when the data has to be on the disk itself.
pub(crate) fn write(dir: &ExecutionDir, state: &ExecutionState) -> io::Result<fs::File> {
    let temporary = dir.path().join("exit.tmp");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(encode(state).as_bytes())?;
    fs::rename(&temporary, dir.exit())?;
    Ok(file)
}

/// Puts a written record on the disk itself.
pub(crate) fn sync(dir: &ExecutionDir, file: &fs::File) -> io::Result<()> {
    file.sync_data()?;
    fs::File::open(dir.path())?.sync_all()
}

/// How the execution ended; `None` if that has not been recorded. A record that cannot be understood (a power failure
/// can leave an empty one) is `Lost`: something ended, and how cannot be known.
pub(crate) fn read(dir: &ExecutionDir) -> io::Result<Option<ExecutionState>> {
    match fs::read_to_string(dir.exit()) {
        Ok(text) => Ok(Some(decode(&text).unwrap_or(ExecutionState::Lost))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(Some(ExecutionState::Lost)),
        Err(error) => Err(error),
    }
}

fn encode(state: &ExecutionState) -> String {
    let text = match state {
        ExecutionState::Exited { code, oom, signal } => {
            format!("exited {code} {} {}", u8::from(*oom), signal.unwrap_or(0))
        }
        ExecutionState::Failed { kind, message } => format!("failed {} {message}", failure_name(*kind)),
        ExecutionState::Stopped => "stopped".to_owned(),
        ExecutionState::Lost | ExecutionState::Queued { .. } | ExecutionState::Running | ExecutionState::NotFound => {
            "lost".to_owned()
        }
    };
    format!("{VERSION} {text}\n")
}

fn decode(text: &str) -> Option<ExecutionState> {
    let text = text.strip_prefix(VERSION)?.strip_prefix(' ')?.strip_suffix('\n')?;
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    match word {
        "exited" => {
            let mut fields = rest.split(' ');
            let code = fields.next()?.parse().ok()?;
            let oom = fields.next()? == "1";
            let signal: i32 = fields.next()?.parse().ok()?;
            Some(ExecutionState::Exited { code, oom, signal: (signal != 0).then_some(signal) })
        }
        "failed" => {
            let (kind, message) = rest.split_once(' ')?;
            Some(ExecutionState::Failed { kind: parse_failure(kind)?, message: message.to_owned() })
        }
        "stopped" => Some(ExecutionState::Stopped),
        "lost" => Some(ExecutionState::Lost),
        _ => None,
    }
}

fn failure_name(kind: FailureKind) -> &'static str {
    match kind {
        FailureKind::CommandNotFound => "command_not_found",
        FailureKind::ImageUnavailable => "image_unavailable",
        FailureKind::Refused => "refused",
        FailureKind::Setup => "setup",
    }
}

fn parse_failure(name: &str) -> Option<FailureKind> {
    [FailureKind::CommandNotFound, FailureKind::ImageUnavailable, FailureKind::Refused, FailureKind::Setup]
        .into_iter()
        .find(|&kind| failure_name(kind) == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir() -> (tempfile::TempDir, ExecutionDir) {
        let root = tempfile::tempdir().unwrap();
        let dir = ExecutionDir::at(root.path().to_owned());
        (root, dir)
    }

    #[test]
    fn every_final_state_round_trips() {
        let (_root, dir) = dir();
        assert_eq!(read(&dir).unwrap(), None);
        for state in [
            ExecutionState::Exited { code: 0, oom: false, signal: None },
            ExecutionState::Exited { code: 137, oom: true, signal: Some(9) },
            ExecutionState::Failed {
                kind: FailureKind::CommandNotFound,
                message: "two\nlines, and a space at the end ".into(),
            },
            ExecutionState::Stopped,
            ExecutionState::Lost,
        ] {
            sync(&dir, &write(&dir, &state).unwrap()).unwrap();
            assert_eq!(read(&dir).unwrap(), Some(state));
        }
    }

    #[test]
    fn a_torn_record_is_lost_and_never_a_success() {
        let (_root, dir) = dir();
        for text in ["", "1 exited 0 0 0", "1 exited 0\n", "2 exited 0 0 0\n", "1 fine\n"] {
            fs::write(dir.exit(), text).unwrap();
            assert_eq!(read(&dir).unwrap(), Some(ExecutionState::Lost), "{text:?}");
        }
    }
}
