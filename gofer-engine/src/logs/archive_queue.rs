//! Where finished attempts wait for the archiver.

use gofer_core::ExecutionId;
use tokio::sync::{Notify, mpsc};

use super::mask_source::MaskSource;

/// Attempts that may wait; those beyond are found by the sweep.
pub(super) const QUEUE: usize = 4_096;

/// An attempt that is over.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) id: ExecutionId,
    pub(crate) source: MaskSource,
    /// It was seen to end in another life of this server, or by another one.
    pub(crate) left_behind: bool,
}

/// Where drivers send finished attempts.
#[derive(Debug)]
pub(crate) struct ArchiveQueue {
    attempts: mpsc::Sender<Finished>,
    sweep: Notify,
}

impl ArchiveQueue {
    pub(crate) fn new() -> (Self, mpsc::Receiver<Finished>) {
        let (attempts, inbox) = mpsc::channel(QUEUE);
        (Self { attempts, sweep: Notify::new() }, inbox)
    }

    /// Sends; where there is no room, the sweep finds it.
    pub(crate) fn send(&self, finished: Finished) {
        if self.attempts.try_send(finished).is_err() {
            self.want_sweep();
        }
    }

    /// How many attempts wait.
    pub(crate) fn len(&self) -> usize {
        self.attempts.max_capacity() - self.attempts.capacity()
    }

    /// There may be finished attempts that were not sent.
    pub(crate) fn want_sweep(&self) {
        self.sweep.notify_one();
    }

    /// Waits until somebody wants a sweep.
    pub(super) async fn sweep_wanted(&self) {
        self.sweep.notified().await;
    }
}
