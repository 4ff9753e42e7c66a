//! The answer to one request of the server's.

use std::os::fd::OwnedFd;

use gofer_core::Timestamp;
use rustix::net::{SendFlags, send};
use rustix::process::{Pid, getpid};

use crate::wire::{Outcome, Reply};

/// Answers one request.
pub(super) struct Responder<'a> {
    socket: &'a OwnedFd,
    /// The process that the server asks for when it asks for nothing else.
    zygote: u32,
    sequence: u64,
}

impl<'a> Responder<'a> {
    pub(super) fn new(socket: &'a OwnedFd, zygote: u32, sequence: u64) -> Self {
        Self { socket, zygote, sequence }
    }

    /// The process runs, since then.
    pub(super) fn running(self, began: Timestamp) {
        self.send(Outcome::Running, Some(began));
    }

    pub(super) fn reply(self, outcome: Outcome) {
        self.send(outcome, None);
    }

    /// The server may be gone: then the next one finds the same in the files.
    fn send(self, outcome: Outcome, began: Option<Timestamp>) {
        let pid = if outcome == Outcome::Pong { self.zygote } else { own_pid() };
        let started_at = began.unwrap_or_default().0;
        let packet = Reply { sequence: self.sequence, outcome, pid, started_at }.encode();
        let _ = rustix::io::retry_on_intr(|| send(self.socket, &packet, SendFlags::NOSIGNAL));
    }
}

pub(super) fn own_pid() -> u32 {
    number(getpid())
}

pub(super) fn number(pid: Pid) -> u32 {
    u32::try_from(pid.as_raw_nonzero().get()).unwrap_or(0)
}
