//! The scheduler itself.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use gofer_core::scheduler::{
    ExecRequest, ExecSession, ExecSupport, ExecutionSpec, LogChunk, LogCursor, Observation,
    Scheduler, SchedulerCapabilities, WatchEvent,
};
use gofer_core::{BackendError, ErrorKind, ExecutionId};
use tokio::task::AbortHandle;

use crate::cgroup::CgroupBase;
use crate::config::{Launcher, LocalSchedulerConfig};
use crate::disk;
use crate::error::{blocking, io_error};
use crate::exec;
use crate::executions::{Executions, ServerLock};
use crate::logs;
use crate::table::{Found, Phase, filed, started};

/// Runs executions as processes on this machine. Cheap to clone; one instance at a time per
/// directory.
#[derive(Debug, Clone)]
pub struct LocalScheduler {
    instance: Arc<Instance>,
}

/// Dropping the last clone lets go of the directory and ends the zygote; what runs goes on running.
#[derive(Debug)]
struct Instance {
    executions: Arc<Executions>,
    watching: AbortHandle,
    _lock: ServerLock,
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.watching.abort();
        if let Some(base) = &self.executions.cgroup {
            base.leave();
        }
    }
}

/// How long `remove` waits until the end of an execution is filed away, which follows at once
/// unless the disk is broken.
const FILING_TIMEOUT: Duration = Duration::from_secs(10);

impl LocalScheduler {
    /// Opens the directory, takes up what runs there already, and starts the supervisor process.
    ///
    /// # Errors
    /// `Invalid` for a setting; `Unavailable` when the directory is in use by another server or the
    /// process cannot be started.
    pub async fn connect(
        config: LocalSchedulerConfig,
        launcher: Launcher,
    ) -> Result<Self, BackendError> {
        config.validate()?;
        let (executions, lock) = Executions::open(config, launcher).await?;
        let executions = Arc::new(executions);
        let watching = tokio::spawn(executions.clone().watch_ends()).abort_handle();
        Ok(Self { instance: Arc::new(Instance { executions, watching, _lock: lock }) })
    }

    fn executions(&self) -> &Arc<Executions> {
        &self.instance.executions
    }
}

#[async_trait]
impl Scheduler for LocalScheduler {
    fn capabilities(&self) -> SchedulerCapabilities {
        SchedulerCapabilities {
            images: false,
            host: true,
            resource_limits: self.executions().cgroup.as_ref().is_some_and(CgroupBase::limits),
            deadlines: true,
            merged_output: true,
            isolates_namespaces: self.executions().users.is_some(),
        }
    }

    fn incarnation(&self) -> u64 {
        self.executions().incarnation
    }

    async fn check(&self) -> Result<String, BackendError> {
        let executions = self.executions();
        let layout = executions.layout.clone();
        let dir = layout.root().display().to_string();
        let failed = format!("`dir` is `{dir}`: must be writable for this user");
        blocking(move || disk::probe_write(&layout).map_err(|error| io_error(failed, error)))
            .await?;

        let pid = executions.zygote.ping().await?;
        let limits = match &executions.cgroup {
            Some(base) if base.limits() => {
                format!("limits of memory and cpu in `{}`", base.dir().display())
            }
            _ => "limits of memory and cpu not enforced (no delegated cgroup)".to_owned(),
        };

        let whole = match &executions.cgroup {
            Some(base) => match base.max_processes() {
                Some(most) => format!("a cgroup each, of {most} processes at most"),
                None => "a cgroup each".to_owned(),
            },
            None => "no cgroup each".to_owned(),
        };

        let users = if executions.users.is_some() {
            "a user per namespace"
        } else {
            "one user for all namespaces"
        };

        let landlock = &executions.policy.description;
        Ok(format!(
            "local processes in `{dir}`, supervisor process {pid}, {limits}, {whole}, {users}; \
             {landlock}"
        ))
    }

    async fn start(&self, id: &ExecutionId, spec: &ExecutionSpec) -> Result<(), BackendError> {
        let (executions, id, spec) = (self.executions().clone(), id.clone(), spec.clone());
        // In a task of its own: a caller who stops waiting must not leave it half done.
        match tokio::spawn(async move { executions.start(&id, &spec).await }).await {
            Ok(result) => result,
            Err(error) => {
                Err(BackendError::new(ErrorKind::Internal, "a part of the local scheduler failed")
                    .with_source(error))
            }
        }
    }

    async fn stop(&self, id: &ExecutionId, grace: Duration) -> Result<(), BackendError> {
        let Some(found) = self.executions().table.find(id) else { return Ok(()) };
        if !started(found.phase).await {
            return Ok(());
        }

        // The launch may have been repeated since, under another name.
        let Some(Found { live, end: None, .. }) = self.executions().table.find(id) else {
            return Ok(());
        };

        let (executions, id) = (self.executions().clone(), id.clone());
        blocking(move || {
            let _turn = executions.stopping.lock().unwrap_or_else(PoisonError::into_inner);
            disk::stop(&executions.layout, &id, &live, grace).map_err(|error| {
                io_error(format!("the request to stop `{id}` could not be written"), error)
            })
        })
        .await
    }

    async fn state(&self, id: &ExecutionId) -> Result<Observation, BackendError> {
        self.executions().state(id).await
    }

    async fn watch(
        &self,
    ) -> Result<BoxStream<'static, Result<WatchEvent, BackendError>>, BackendError> {
        Ok(self.executions().table.watch())
    }

    async fn logs(
        &self,
        id: &ExecutionId,
        from: LogCursor,
        follow: bool,
    ) -> Result<BoxStream<'static, Result<LogChunk, BackendError>>, BackendError> {
        loop {
            if let Some(found) = self.executions().table.find(id) {
                started(found.phase).await;
            }

            let (executions, id) = (self.executions().clone(), id.clone());
            let opened = blocking(move || {
                let dir = executions.layout.execution(&id);
                let phase = executions.table.find(&id).map(|found| found.phase);
                if phase.as_ref().is_some_and(|phase| *phase.borrow() == Phase::Starting) {
                    // Begun since the look above: its log is not there yet, which is not the same
                    // as empty.
                    return Ok(None);
                }

                let failed =
                    |error| io_error(format!("the log of `{id}` could not be opened"), error);
                if phase.is_none() && crate::record::read(&dir).map_err(failed)?.is_none() {
                    return Err(BackendError::new(
                        ErrorKind::NotFound,
                        format!("there is no execution `{id}`"),
                    ));
                }

                logs::open(&dir, from, &executions.watcher, phase.filter(|_| follow))
                    .map(Some)
                    .map_err(failed)
            })
            .await?;

            if let Some(opened) = opened {
                return Ok(opened);
            }
        }
    }

    fn exec(&self) -> Option<&dyn ExecSupport> {
        Some(self)
    }

    async fn remove(&self, id: &ExecutionId) -> Result<(), BackendError> {
        // What the table does not know has ended, or was never there.
        if let Some(found) = self.executions().table.find(id) {
            if !self.state(id).await?.state.is_final() {
                let message = format!("`{id}` has not finished: stop it first");
                return Err(BackendError::new(ErrorKind::Invalid, message));
            }
            if tokio::time::timeout(FILING_TIMEOUT, filed(found.phase)).await.is_err() {
                let message = format!(
                    "the end of `{id}` could not be filed away; see the log, and try again"
                );
                return Err(BackendError::new(ErrorKind::Unavailable, message));
            }
        }

        let (executions, id) = (self.executions().clone(), id.clone());
        blocking(move || {
            executions
                .spares
                .discard(&executions.layout, &executions.layout.execution(&id))
                .map_err(|error| io_error(format!("`{id}` could not be removed"), error))
        })
        .await
    }
}

#[async_trait]
impl ExecSupport for LocalScheduler {
    async fn open_session(
        &self,
        id: &ExecutionId,
        request: ExecRequest,
    ) -> Result<ExecSession, BackendError> {
        exec::open(self.executions(), id, &request).await
    }
}
