//! What a supervisor that was killed leaves behind.
//!
//! A supervisor is the parent of all that comes of its task. Once it is gone the zygote is, since
//! it is a subreaper, too: every child of the zygote that it has not forked is such an orphan, and
//! is killed with all its descendants. (One whose zygote was killed first, or belonged to an
//! earlier server and had ended, is not found like this: there a cgroup has to do.)

use std::os::fd::{AsFd, OwnedFd};

use rustix::process::{Pid, WaitOptions, wait};

use super::tree;
use crate::sys;

/// The children of the zygote.
pub(super) struct Children {
    supervisors: Vec<Pid>,
    /// Where their ends are told.
    signals: OwnedFd,
    /// Whether any child is alive.
    any: bool,
}

impl Children {
    pub(super) fn new() -> rustix::io::Result<Self> {
        Ok(Self { supervisors: Vec::new(), signals: sys::blocked_signals()?, any: false })
    }

    /// Readable when one has ended.
    pub(super) fn signals(&self) -> &OwnedFd {
        &self.signals
    }

    /// The zygote has forked one.
    pub(super) fn add(&mut self, supervisor: Pid) {
        self.supervisors.push(supervisor);
        self.any = true;
    }

    /// Whether any is alive.
    pub(super) fn any(&self) -> bool {
        self.any
    }

    /// Some may have ended: takes note, and kills what those that were killed have left.
    pub(super) fn look(&mut self) {
        sys::drain_signals(self.signals.as_fd());
        let mut orphans = false;
        self.any = loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    let known = self.supervisors.iter().position(|supervisor| *supervisor == pid);
                    let orderly = known.is_some() && status.exit_status() == Some(0);
                    // An orphan's death makes orphans of its children.
                    orphans |= !orderly;
                    known.map(|at| self.supervisors.swap_remove(at));
                }
                Ok(None) => break true,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => break false,
            }
        };

        if orphans && self.any {
            tree::kill_strangers(&self.supervisors);
        }
    }
}
