//! What a run's driver is sent, and how.

use gofer_core::run::Reason;
use gofer_core::scheduler::Observation;
use gofer_core::{ExecutionId, Timestamp};
use tokio::sync::mpsc;

use crate::rules::Input;

/// Messages that may wait for one run's driver; senders wait beyond it.
const QUEUE: usize = 256;

/// What a run's driver is sent.
#[derive(Debug)]
pub(crate) enum Message {
    /// Something for the machine.
    Input(Input),
    /// The scheduler's events say this of an execution.
    Observed(ExecutionId, Observation),
    /// The scheduler was asked about an execution.
    Answered(ExecutionId, Observation, Asked),
    /// Nothing more will be done by this start.
    StartFinished(StartFinished),
    /// The scheduler's events may have been missed: ask about every execution.
    Reconcile,
    /// The lease was extended until then, if it was still held: find out.
    LeaseExtended(Timestamp),
    /// The stored run may have changed, for instance by a cancel request: look.
    Reload,
}

/// When the scheduler was asked about an execution: the answer is at least as new.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    pub(crate) at: Timestamp,
    /// How many starts the driver had begun.
    pub(crate) starts: u64,
}

/// The end of a start, whatever came of it.
#[derive(Debug)]
pub(crate) struct StartFinished {
    pub(crate) id: ExecutionId,
    /// Which of the driver's starts.
    pub(crate) serial: u64,
    /// The execution was not started, for good.
    pub(crate) refused: Option<Reason>,
}

/// Where messages to a driver go. They are boxed since a queue takes room for 32 of them at once,
/// and most drivers of many wait for a single one.
#[derive(Debug, Clone)]
pub(crate) struct Inbox(mpsc::Sender<Box<Message>>);

impl Inbox {
    pub(crate) fn new() -> (Self, mpsc::Receiver<Box<Message>>) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        (Self(sender), receiver)
    }

    /// Sends; a driver that has ended needs no message. It has completed its run, or the next
    /// driver looks for itself.
    pub(crate) async fn send(&self, message: Message) {
        let _ = self.0.send(Box::new(message)).await;
    }

    pub(crate) fn is_half_full(&self) -> bool {
        self.0.capacity() <= self.0.max_capacity() / 2
    }

    /// Whether the driver has ended.
    pub(crate) fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    /// Waits until the driver has ended.
    pub(crate) async fn closed(&self) {
        self.0.closed().await;
    }
}
