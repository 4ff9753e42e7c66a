//! Killing what a task leaves behind.
//!
//! The supervisor is a subreaper: whatever a task starts, however often it forks and detaches
//! itself, becomes a descendant of the supervisor and stays one.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, wait, waitpid};

use crate::{process, sys};

/// How long to wait for killed processes to be gone. One that hangs in the kernel (a dead network
/// file system) or belongs to another user can take for ever, and the execution must end all the
/// same.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// Looks again this often, in case a child was born between looking and killing. Normally a death
/// wakes us first.
const KILL_POLL_INTERVAL: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// Kills every descendant of this process and waits until none is left.
pub(super) fn kill_descendants(signals: &OwnedFd) {
    let deadline = Instant::now() + KILL_TIMEOUT;
    while reap() == Left::Some && Instant::now() < deadline {
        signal_descendants(Signal::KILL);
        let _ = poll(&mut [PollFd::new(signals, PollFlags::IN)], Some(&KILL_POLL_INTERVAL));
        sys::drain_signals(signals.as_fd());
    }
}

/// Sends every descendant a signal.
pub(super) fn signal_descendants(signal: Signal) {
    for pid in descendants(getpid()) {
        // Gone already, or not ours to signal: nothing to be done about either.
        let _ = kill_process(pid, signal);
    }
}

/// Whether there are descendants.
#[derive(PartialEq, Eq)]
pub(super) enum Left {
    /// Not one.
    None,
    /// At least one.
    Some,
}

/// Reaps the children that have exited. When there is no child, there is no descendant either:
/// orphans become children.
pub(super) fn reap() -> Left {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) => return Left::Some,
            Err(_) => return Left::None,
        }
    }
}

/// Whether the process has exited; it stays unreaped. Its adopted orphans that exited before it are
/// reaped on the way.
pub(super) fn has_exited(main: Pid) -> bool {
    loop {
        match sys::peek_exited_child() {
            Ok(Some(pid)) if pid == main => return true,
            Ok(Some(orphan)) => {
                let _ = waitpid(Some(orphan), WaitOptions::NOHANG);
            }
            Ok(None) => return false,
            // No child at all: somebody else reaped it, which cannot be; do not wait for it for
            // ever.
            Err(error) => return error == rustix::io::Errno::CHILD,
        }
    }
}

/// Kills every child of this process that is none of these, with its descendants. Each death is a
/// signal to look again.
pub(super) fn kill_strangers(known: &[Pid]) {
    for pid in descendants_but(getpid(), known) {
        let _ = kill_process(pid, Signal::KILL);
    }
}

fn descendants(root: Pid) -> Vec<Pid> {
    descendants_but(root, &[])
}

/// Without these of its children, and theirs.
fn descendants_but(root: Pid, known: &[Pid]) -> Vec<Pid> {
    let mut children: HashMap<Pid, Vec<Pid>> = HashMap::new();
    for stat in process::all() {
        children.entry(stat.parent).or_default().push(stat.pid);
    }
    let mut found = children.remove(&root).unwrap_or_default();
    found.retain(|pid| !known.contains(pid));
    let mut next = 0;
    while let Some(pid) = found.get(next) {
        let more = children.remove(pid).unwrap_or_default();
        found.extend(more);
        next += 1;
    }
    found
}
