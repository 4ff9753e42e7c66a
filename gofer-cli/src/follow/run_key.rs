//! Which run is followed.

use gofer_proto::v1::{CancelRunRequest, Run, StreamLogsRequest};

use crate::interrupts::Interrupt;

/// The run's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RunKey {
    pub(crate) namespace: String,
    pub(crate) pipeline: String,
    pub(crate) run: u64,
}

impl RunKey {
    pub(crate) fn of(run: &Run) -> Self {
        Self { namespace: run.namespace.clone(), pipeline: run.pipeline.clone(), run: run.run }
    }

    /// Asks for the log of an attempt from its beginning.
    pub(crate) fn log_request(&self, task: &str, attempt: u32, follow: bool) -> StreamLogsRequest {
        StreamLogsRequest {
            namespace: self.namespace.clone(),
            pipeline: self.pipeline.clone(),
            run: self.run,
            task: task.to_owned(),
            attempt,
            follow,
            cursor: None,
        }
    }

    /// Asks for its cancellation, and says which signal asked for it.
    pub(super) fn cancel_request(&self, force: bool, why: Interrupt) -> CancelRunRequest {
        CancelRunRequest {
            namespace: self.namespace.clone(),
            pipeline: self.pipeline.clone(),
            run: self.run,
            force,
            reason: why.reason().to_owned(),
        }
    }
}
