//! How an attempt ended, as the state machine sees it.

use gofer_core::run::{Reason, ReasonKind, TaskStatus};

/// How an attempt ended.
pub(super) struct AttemptOutcome {
    pub(super) status: TaskStatus,
    pub(super) reason: Option<Reason>,
    pub(super) exit_code: Option<i32>,
    pub(super) lost: bool,
    /// Its process is known to have run.
    pub(super) ran: bool,
    /// What tells whether the end was its own.
    pub(super) kind: EndKind,
}

/// What an end says about a stop that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EndKind {
    /// Its own: no stop had reached it.
    Own,
    /// A stop had reached it, on anybody's request.
    Stopped,
    /// It is gone, and whether a stop had reached it cannot be known.
    Unknown,
}

impl AttemptOutcome {
    pub(super) fn successful() -> Self {
        Self {
            status: TaskStatus::Successful,
            reason: None,
            exit_code: Some(0),
            lost: false,
            ran: true,
            kind: EndKind::Own,
        }
    }

    pub(super) fn exited(code: i32, oom: bool, signal: Option<i32>) -> Self {
        let reason = super::reasons::of_exit(code, oom, signal);
        Self {
            status: TaskStatus::Failed,
            reason: Some(reason),
            exit_code: Some(code),
            lost: false,
            ran: true,
            kind: EndKind::Own,
        }
    }

    pub(super) fn failed(reason: Reason) -> Self {
        Self {
            status: TaskStatus::Failed,
            reason: Some(reason),
            exit_code: None,
            lost: false,
            ran: false,
            kind: EndKind::Own,
        }
    }

    pub(super) fn stopped_outside() -> Self {
        let reason = Reason::new(
            ReasonKind::StoppedOutside,
            "stopped at the scheduler by somebody else than gofer",
        );
        Self { ran: true, kind: EndKind::Stopped, ..Self::failed(reason) }
    }

    pub(super) fn lost(message: &str) -> Self {
        Self {
            lost: true,
            kind: EndKind::Unknown,
            ..Self::failed(Reason::new(ReasonKind::Lost, message))
        }
    }
}
