//! Schedulers that keep nothing. One has nothing to do: every execution has succeeded as soon as it
//! was asked for. The other starts the program, in this process, and waits for it.

use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt as _;
use futures::channel::mpsc;
use futures::stream::{self, BoxStream};
use gofer_core::error::ErrorKind;
use gofer_core::scheduler::{
    ExecutionSpec, ExecutionState, ExecutionTimes, LogChunk, LogCursor, Observation, Scheduler,
    SchedulerCapabilities, WatchEvent,
};
use gofer_core::{BackendError, ExecutionId};
use tokio::process::Command;

const DONE: ExecutionState = ExecutionState::Exited { code: 0, oom: false, signal: None };

/// A scheduler that keeps nothing but its watcher.
#[derive(Debug, Default)]
pub(crate) struct NullScheduler {
    watcher: Arc<Mutex<Option<mpsc::UnboundedSender<WatchEvent>>>>,
    spawns: bool,
}

impl NullScheduler {
    /// One that starts the programs.
    pub(crate) fn that_spawns() -> Self {
        Self { spawns: true, ..Self::default() }
    }

    fn teller(&self, id: &ExecutionId) -> impl Fn(ExecutionState) + Send + 'static {
        let (watcher, id) = (self.watcher.clone(), id.clone());
        move |state| {
            let watcher = watcher.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(watcher) = watcher.as_ref() {
                // A watcher that was away asks for the state when it comes back.
                let _ = watcher.unbounded_send(WatchEvent {
                    id: id.clone(),
                    state,
                    times: ExecutionTimes::default(),
                });
            }
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
            deadlines: false,
            merged_output: false,
            isolates_namespaces: false,
        }
    }

    async fn check(&self) -> Result<String, BackendError> {
        Ok("null".to_owned())
    }

    async fn start(&self, id: &ExecutionId, spec: &ExecutionSpec) -> Result<(), BackendError> {
        let tell = self.teller(id);
        tell(ExecutionState::Running);
        match spec.command.split_first() {
            Some((program, args)) if self.spawns => {
                let mut command = Command::new(program);
                command.args(args).stdin(Stdio::null()).stdout(Stdio::null());
                let cannot = |error| {
                    BackendError::new(ErrorKind::Internal, "cannot start the program")
                        .with_source(error)
                };

                let mut child = command.spawn().map_err(cannot)?;
                // Ends with the program.
                tokio::spawn(async move {
                    let ended = child.wait().await.ok().filter(ExitStatus::success);
                    tell(ended.map_or(ExecutionState::Lost, |_| DONE));
                });
            }
            _ => tell(DONE),
        }

        Ok(())
    }

    async fn stop(&self, _: &ExecutionId, _: Duration) -> Result<(), BackendError> {
        Ok(())
    }

    async fn state(&self, _: &ExecutionId) -> Result<Observation, BackendError> {
        Ok(DONE.into())
    }

    async fn watch(
        &self,
    ) -> Result<BoxStream<'static, Result<WatchEvent, BackendError>>, BackendError> {
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
