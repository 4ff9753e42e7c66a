//! The scheduler itself.

use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use gofer_core::scheduler::{
    ExecutionSpec, ExecutionState, LogChunk, LogCursor, Scheduler, SchedulerCapabilities, WatchEvent,
};
use gofer_core::{BackendError, ErrorKind, ExecutionId};

use crate::config::{Launcher, LocalSchedulerConfig};

/// Runs executions as processes on this machine. Cheap to clone; one instance at a time per directory.
#[derive(Debug, Clone)]
pub struct LocalScheduler {
    config: LocalSchedulerConfig,
}

impl LocalScheduler {
    /// Opens the directory, takes up what runs there already, and starts the supervisor process.
    ///
    /// # Errors
    /// `Invalid` for a setting; `Unavailable` when the directory is in use by another server or the process cannot be
    /// started.
    pub async fn connect(config: LocalSchedulerConfig, launcher: Launcher) -> Result<Self, BackendError> {
        config.validate()?;
        drop(launcher);
        Ok(Self { config })
    }
}

fn not_ready() -> BackendError {
    BackendError::new(ErrorKind::Unavailable, "the local scheduler is not ready")
}

#[async_trait]
impl Scheduler for LocalScheduler {
    fn capabilities(&self) -> SchedulerCapabilities {
        SchedulerCapabilities { images: false, host: true, resource_limits: false }
    }

    async fn check(&self) -> Result<String, BackendError> {
        Ok(format!("local processes in `{}`", self.config.dir.display()))
    }

    async fn start(&self, _id: &ExecutionId, _spec: &ExecutionSpec) -> Result<(), BackendError> {
        Err(not_ready())
    }

    async fn stop(&self, _id: &ExecutionId, _grace: Duration) -> Result<(), BackendError> {
        Err(not_ready())
    }

    async fn state(&self, _id: &ExecutionId) -> Result<ExecutionState, BackendError> {
        Err(not_ready())
    }

    async fn watch(&self) -> Result<BoxStream<'static, Result<WatchEvent, BackendError>>, BackendError> {
        Err(not_ready())
    }

    async fn logs(
        &self,
        _id: &ExecutionId,
        _from: LogCursor,
        _follow: bool,
    ) -> Result<BoxStream<'static, Result<LogChunk, BackendError>>, BackendError> {
        Err(not_ready())
    }

    async fn remove(&self, _id: &ExecutionId) -> Result<(), BackendError> {
        Err(not_ready())
    }
}
