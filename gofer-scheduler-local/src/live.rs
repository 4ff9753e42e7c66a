//! Live entries: one file per execution that has not ended, locked by its supervisor for as long as
//! that lives.
//!
//! The lock is the truth about being alive: the kernel drops it whatever way the supervisor ends,
//! and a process id that is used again does not hold it. The text in the file is the truth about
//! having launched: the supervisor writes its line under the lock before it starts anything, so
//! that an unlocked entry without text proves that nothing was started. The last thing in it is the
//! record of the end; the server then moves the file to its place as `exit`. So an execution costs
//! one file for all of this, and deletes none.
//!
//! ```text
//! S <supervisor's pid>
//! T <task's pid> <not before this tick> <not after this tick> <when it began, in microseconds since 1970>
//! X <record>
//! ```

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write as _};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use gofer_core::Timestamp;
use gofer_core::scheduler::{ExecutionTimes, Observation};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::process::Pid;
use rustix::time::{ClockId, clock_gettime};

use crate::record;

/// Makes the entry; fails if it exists. Opened for reading only, because closing a file that was
/// opened for writing is what the server watches for.
pub(crate) fn create(path: &Path) -> io::Result<()> {
    let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::EXCL | rustix::fs::OFlags::CLOEXEC;
    rustix::fs::open(path, flags, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)?;
    Ok(())
}

/// What the supervisor wrote into its entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LiveRecord {
    /// The supervisor.
    pub(crate) supervisor: Pid,
    /// The last process it started; its session and process group have the same number.
    pub(crate) task: Option<StartedTask>,
    /// How it ended.
    pub(crate) end: Option<Observation>,
}

impl LiveRecord {
    /// Reads an entry's text; `None` if nothing was launched.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let number = |word: Option<&str>| word?.parse::<u64>().ok();
        let pid = |word: Option<&str>| Pid::from_raw(word?.parse().ok()?);
        let mut lines = text.lines();
        let supervisor = pid(lines.next()?.strip_prefix("S "))?;
        let tasks = lines.map_while(|line| {
            let mut words = line.strip_prefix("T ")?.split(' ');
            Some(StartedTask {
                pid: pid(words.next())?,
                earliest: number(words.next())?,
                latest: number(words.next())?,
                at: words.next().and_then(|at| at.parse().ok()).map(Timestamp),
            })
        });
        Some(Self { supervisor, task: tasks.last(), end: record::decode(text) })
    }
}

impl LiveRecord {
    /// What is known of its times while it runs.
    pub(crate) fn times(&self) -> ExecutionTimes {
        self.task
            .and_then(|task| task.at)
            .map_or_else(ExecutionTimes::default, ExecutionTimes::since)
    }
}

/// A process and between which clock ticks since boot it started; together they name it even if its
/// number is used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StartedTask {
    /// Its process id.
    pub(crate) pid: Pid,
    /// Not before this tick.
    pub(crate) earliest: u64,
    /// Not after this tick.
    pub(crate) latest: u64,
    /// By the wall clock; an older supervisor did not tell.
    pub(crate) at: Option<Timestamp>,
}

/// The supervisor's side: the entry, locked.
#[derive(Debug)]
pub(crate) struct Claim {
    file: File,
}

impl Claim {
    /// Locks the entry and notes that launching begins. `None` when this launch is void: the entry
    /// is gone or was taken.
    pub(crate) fn take(path: &Path) -> io::Result<Option<Self>> {
        let file = match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };

        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => return Ok(None),
            other => other?,
        }

        // Removed or used between the opening and the lock?
        let metadata = file.metadata()?;
        if metadata.nlink() == 0 || metadata.len() > 0 {
            return Ok(None);
        }

        let mut claim = Self { file };
        claim
            .file
            .write_all(format!("S {}\n", rustix::process::getpid().as_raw_nonzero()).as_bytes())?;

        Ok(Some(claim))
    }

    /// Notes which process was started, between two ticks of [`ticks_since_boot`].
    pub(crate) fn note_task(&mut self, task: StartedTask) -> io::Result<()> {
        let mut line = String::new();
        let at = task.at.map_or(String::new(), |at| format!(" {}", at.0));
        // Writing to a string cannot fail.
        let _ =
            writeln!(line, "T {} {} {}{at}", task.pid.as_raw_nonzero(), task.earliest, task.latest);
        self.file.write_all(line.as_bytes())
    }

    /// Records the end. In one write, which a reader sees whole or not at all; a torn one counts as
    /// none.
    pub(crate) fn record(&mut self, end: &Observation) -> io::Result<()> {
        self.file.write_all(record::encode(end).as_bytes())
    }
}

/// How the execution ended, if its supervisor has recorded that.
pub(crate) fn read_end(path: &Path) -> io::Result<Option<Observation>> {
    match std::fs::read(path) {
        Ok(text) => Ok(record::decode(&String::from_utf8_lossy(&text))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The server's side: what an entry says.
#[derive(Debug)]
pub(crate) enum Probe {
    /// There is none.
    Gone,
    /// Its supervisor lives.
    Held(Option<LiveRecord>),
    /// Its supervisor does not. While the lock in here is held, none can begin.
    Free(Option<LiveRecord>, File),
}

/// Looks at an entry without waiting.
pub(crate) fn probe(path: &Path) -> io::Result<Probe> {
    look(path, FlockOperation::NonBlockingLockExclusive)
}

/// Looks at an entry whose supervisor is ending: waits the moment until its lock is gone.
pub(crate) fn probe_ended(path: &Path) -> io::Result<Probe> {
    look(path, FlockOperation::LockExclusive)
}

fn look(path: &Path, lock: FlockOperation) -> io::Result<Probe> {
    let mut file = match OpenOptions::new().read(true).custom_flags(libc::O_CLOEXEC).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Probe::Gone),
        Err(error) => return Err(error),
    };

    let held = match flock(&file, lock) {
        Err(Errno::WOULDBLOCK) => true,
        other => {
            other?;
            false
        }
    };

    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    let record = LiveRecord::parse(&String::from_utf8_lossy(&text));

    Ok(if held { Probe::Held(record) } else { Probe::Free(record, file) })
}

/// Now, in the unit of the start time in `/proc/<pid>/stat`: hundredths of a second since boot,
/// whatever the kernel's own tick is.
pub(crate) fn ticks_since_boot() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    u64::try_from(now.tv_sec * 100 + now.tv_nsec / 10_000_000).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use gofer_core::scheduler::ExecutionState;

    use super::*;

    #[test]
    fn an_entry_is_taken_once() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("entry");
        assert!(matches!(probe(&path).unwrap(), Probe::Gone));
        create(&path).unwrap();
        assert!(create(&path).is_err());
        assert!(matches!(probe(&path).unwrap(), Probe::Free(None, _)));

        let mut claim = Claim::take(&path).unwrap().expect("the first claim");
        assert!(Claim::take(&path).unwrap().is_none(), "taken while locked");
        let task = StartedTask {
            pid: Pid::from_raw(77).unwrap(),
            earliest: 5,
            latest: 6,
            at: Some(Timestamp(7)),
        };

        claim.note_task(task).unwrap();
        let Probe::Held(Some(record)) = probe(&path).unwrap() else { panic!("not held") };
        assert_eq!(
            record,
            LiveRecord { supervisor: rustix::process::getpid(), task: Some(task), end: None }
        );

        let end = Observation::from(ExecutionState::Exited { code: 3, oom: false, signal: None });
        claim.record(&end).unwrap();
        assert_eq!(read_end(&path).unwrap(), Some(end));

        drop(claim);
        assert!(Claim::take(&path).unwrap().is_none(), "taken again after it was used");
        assert!(matches!(probe(&path).unwrap(), Probe::Free(Some(_), _)));
    }

    #[test]
    fn a_probe_keeps_supervisors_out() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("entry");
        create(&path).unwrap();
        let probed = probe(&path).unwrap();
        assert!(Claim::take(&path).unwrap().is_none());
        drop(probed);
        assert!(Claim::take(&path).unwrap().is_some());
    }
}
