//! A scheduler that has nothing to do: every execution has run, well, as soon as it was asked for.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt as _;
use futures::channel::mpsc;
use futures::stream::{self, BoxStream};
use gofer_core::scheduler::{
    ExecutionSpec, ExecutionState, LogChunk, LogCursor, Scheduler, SchedulerCapabilities, WatchEvent,
};
use gofer_core::{BackendError, ExecutionId};

const DONE: ExecutionState = ExecutionState::Exited { code: 0, oom: false, signal: None };

/// Keeps nothing but the one that watches.
#[derive(Debug, Default)]
pub(super) struct NullScheduler {
    watcher: Mutex<Option<mpsc::UnboundedSender<WatchEvent>>>,
}

impl NullScheduler {
    fn tell(&self, id: &ExecutionId, state: ExecutionState) {
        let watcher = self.watcher.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(watcher) = watcher.as_ref() {
            // Whoever has gone away asks for the state when it comes back.
            let _ = watcher.unbounded_send(WatchEvent { id: id.clone(), state });
        }
    }
}

#[async_trait]
impl Scheduler for NullScheduler {
    fn capabilities(&self) -> SchedulerCapabilities {
        SchedulerCapabilities {
            images: false,
            host: true,
            resource_limits: false,
            exec: false,
            workload_identity: false,
        }
    }

    async fn check(&self) -> Result<String, BackendError> {
        Ok("null".to_owned())
    }

    async fn start(&self, id: &ExecutionId, _: &ExecutionSpec) -> Result<(), BackendError> {
        self.tell(id, ExecutionState::Running);
        self.tell(id, DONE);
        Ok(())
    }

    async fn stop(&self, _: &ExecutionId, _: Duration) -> Result<(), BackendError> {
        Ok(())
    }

    async fn state(&self, _: &ExecutionId) -> Result<ExecutionState, BackendError> {
        Ok(DONE)
    }

    async fn watch(&self) -> Result<BoxStream<'static, Result<WatchEvent, BackendError>>, BackendError> {
        let (sender, events) = mpsc::unbounded();
        *self.watcher.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        Ok(events.map(Ok).boxed())
    }

    async fn logs(
        &self,
        _: &ExecutionId,
        _: LogCursor,
        _: bool,
    ) -> Result<BoxStream<'static, Result<LogChunk, BackendError>>, BackendError> {
        Ok(stream::empty().boxed())
    }

    async fn remove(&self, _: &ExecutionId) -> Result<(), BackendError> {
        Ok(())
    }
}
