//! How an execution ended, as text: the last line its supervisor writes into the live entry, or the
//! whole of an `exit` file that the server made itself.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use gofer_core::Timestamp;
use gofer_core::scheduler::{ExecutionState, ExecutionTimes, FailureKind, Observation};

use crate::layout::ExecutionDir;

/// What the line begins with: its tag, and a version so that a later one can tell its own records
/// from these.
const BEGIN: &str = "X 2 ";
/// The same of a supervisor that an older server had started. It knew no times.
const BEGIN_1: &str = "X 1 ";
/// A time that is not known.
const UNKNOWN: &str = "-";

/// Makes an `exit` file, in one step, for an execution that has no supervisor to record its end.
pub(crate) fn write(dir: &ExecutionDir, end: &Observation) -> io::Result<()> {
    let temporary = dir.path().join("exit.tmp");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(encode(end).as_bytes())?;
    fs::rename(&temporary, dir.exit())
}

/// What the `exit` file says; `None` if there is none. One that cannot be understood (a power
/// failure can leave an empty one) is `Lost`: something ended, and how cannot be known.
pub(crate) fn read(dir: &ExecutionDir) -> io::Result<Option<Observation>> {
    match fs::read(dir.exit()) {
        Ok(text) => {
            Ok(Some(decode(&String::from_utf8_lossy(&text)).unwrap_or(ExecutionState::Lost.into())))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The text of a record, with the newline that makes it whole.
pub(crate) fn encode(end: &Observation) -> String {
    let text = match &end.state {
        ExecutionState::Exited { code, oom, signal } => {
            format!("exited {code} {} {}", u8::from(*oom), signal.unwrap_or(0))
        }
        ExecutionState::Failed { kind, message } => {
            format!("failed {} {message}", failure_name(*kind))
        }
        ExecutionState::Stopped => "stopped".to_owned(),
        ExecutionState::Lost
        | ExecutionState::Queued { .. }
        | ExecutionState::Running
        | ExecutionState::NotFound => "lost".to_owned(),
    };

    let ExecutionTimes { started_at, ended_at, ran } = end.times;
    let instant = |at: Option<Timestamp>| at.map_or(UNKNOWN.to_owned(), |at| at.0.to_string());
    let ran = ran.map_or(UNKNOWN.to_owned(), |ran| ran.as_micros().to_string());

    format!("{BEGIN}{} {} {ran} {text}\n", instant(started_at), instant(ended_at))
}

/// The record in a text; `None` if there is none, or not a whole one. It is the last thing in the
/// text, and may itself go over several lines.
pub(crate) fn decode(text: &str) -> Option<Observation> {
    let begin = |tag| {
        text.match_indices(tag).map(|(at, _)| at).find(|&at| at == 0 || text[..at].ends_with('\n'))
    };

    if let Some(at) = begin(BEGIN_1) {
        return decode_state(text[at + BEGIN_1.len()..].strip_suffix('\n')?).map(Observation::from);
    }

    let text = text[begin(BEGIN)? + BEGIN.len()..].strip_suffix('\n')?;
    let mut words = text.splitn(4, ' ');
    let mut micros = || -> Option<Option<i64>> {
        let word = words.next()?;
        if word == UNKNOWN { Some(None) } else { word.parse().ok().map(Some) }
    };

    let (started_at, ended_at) = (micros()?.map(Timestamp), micros()?.map(Timestamp));
    let ran = micros()?.and_then(|ran| u64::try_from(ran).ok()).map(Duration::from_micros);
    Some(Observation {
        state: decode_state(words.next()?)?,
        times: ExecutionTimes { started_at, ended_at, ran },
    })
}

fn decode_state(text: &str) -> Option<ExecutionState> {
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
    [
        FailureKind::CommandNotFound,
        FailureKind::ImageUnavailable,
        FailureKind::Refused,
        FailureKind::Setup,
    ]
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
            let known = ExecutionTimes {
                started_at: Some(Timestamp(1_700_000_000_000_000)),
                ended_at: Some(Timestamp(1_700_000_001_500_000)),
                ran: Some(Duration::from_millis(1_400)),
            };
            for times in [ExecutionTimes::default(), ExecutionTimes { ran: None, ..known }, known] {
                let end = Observation { state: state.clone(), times };
                write(&dir, &end).unwrap();
                assert_eq!(read(&dir).unwrap(), Some(end));
            }
        }
    }

    #[test]
    fn a_record_of_an_older_supervisor_is_read() {
        let end = ExecutionState::Exited { code: 3, oom: false, signal: None };
        assert_eq!(decode("S 1\nT 1 1 1\nX 1 exited 3 0 0\n"), Some(end.into()));
    }

    #[test]
    fn a_torn_record_is_lost_and_never_a_success() {
        let (_root, dir) = dir();
        for text in [
            "",
            "X 1 exited 0 0 0",
            "X 1 exited 0\n",
            "X 2 exited 0 0 0\n",
            "X 2 1 2 3 exited 0 0 0",
            "X 2 1 2 exited 0 0 0\n",
            "X 3 1 2 3 exited 0 0 0\n",
            "X 1 fine\n",
            "S 1\nT 1 1 X 1 exited 0 0 0\n",
        ] {
            fs::write(dir.exit(), text).unwrap();
            assert_eq!(read(&dir).unwrap(), Some(ExecutionState::Lost.into()), "{text:?}");
        }
    }
}
