//! The scheduler itself.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use gofer_core::scheduler::{
    ExecRequest, ExecSession, ExecutionSpec, ExecutionState, LogChunk, LogCursor, Observation,
    ReportedEnd, Scheduler, SchedulerCapabilities, WatchEvent,
};
use gofer_core::{BackendError, ErrorKind, ExecutionId, Timestamp};
use secrecy::SecretString;
use tokio::task::AbortHandle;

use crate::calls::Shared;
use crate::calls::kill;
use crate::config::NomadConfig;
use crate::exec;
use crate::http::client::Client;
use crate::identity;
use crate::identity::reports;
use crate::logs;
use crate::preflight;
use crate::stream::watch;

/// Runs executions as jobs of a Nomad cluster. Cheap to clone.
#[derive(Debug, Clone)]
pub struct NomadScheduler {
    instance: Arc<Instance>,
}

/// Dropping the last clone closes the event stream; what runs goes on running.
#[derive(Debug)]
struct Instance {
    shared: Arc<Shared>,
    watching: Vec<AbortHandle>,
    incarnation: u64,
}

impl Drop for Instance {
    fn drop(&mut self) {
        for task in &self.watching {
            task.abort();
        }
    }
}

impl NomadScheduler {
    /// Checks the settings, lets Nomad parse and validate the job templates, if there are any, and
    /// begins to listen to what happens in the cluster. Without templates Nomad need not be
    /// reachable yet.
    ///
    /// # Errors
    /// `Invalid` for a setting or a template; `Unavailable` or `Denied` when a template cannot be
    /// parsed for another reason.
    pub async fn connect(config: NomadConfig) -> Result<Self, BackendError> {
        config.validate()?;
        let client = Client::new(&config)?;
        let templates = preflight::load_templates(&config, &client).await?;
        let shared = Shared::new(config, client, templates);
        let namespaces = shared.config.nomad_namespaces();
        let watching = namespaces
            .into_iter()
            .map(|namespace| tokio::spawn(watch::run(shared.clone(), namespace)).abort_handle())
            .collect();
        let incarnation = u64::try_from(Timestamp::now().0).unwrap_or(0);
        Ok(Self { instance: Arc::new(Instance { shared, watching, incarnation }) })
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.instance.shared
    }
}

#[async_trait]
impl Scheduler for NomadScheduler {
    fn capabilities(&self) -> SchedulerCapabilities {
        let config = &self.shared().config;
        let resource_limits = config.host_driver.enforces_limits();
        SchedulerCapabilities {
            images: true,
            host: true,
            resource_limits,
            exec: true,
            deadlines: false,
            // Nomad has a file for each output, and no image is sure to have a shell that could
            // join them.
            merged_output: false,
            workload_identity: config.identity,
            isolates_namespaces: config.host_driver.isolates(),
        }
    }

    /// One per connection: while no Gofer looked, Nomad's garbage collection may have taken a job
    /// that ran.
    fn incarnation(&self) -> u64 {
        self.instance.incarnation
    }

    async fn check(&self) -> Result<String, BackendError> {
        preflight::check(self.shared()).await
    }

    async fn start(&self, id: &ExecutionId, spec: &ExecutionSpec) -> Result<(), BackendError> {
        let (shared, id, spec) = (self.shared().clone(), id.clone(), spec.clone());
        // In a task of its own: a caller who stops waiting must not leave secrets behind and no
        // job.
        match tokio::spawn(async move { shared.start(&id, &spec).await }).await {
            Ok(result) => result,
            Err(error) => {
                Err(BackendError::new(ErrorKind::Internal, "a part of the nomad scheduler failed")
                    .with_source(error))
            }
        }
    }

    async fn stop(&self, id: &ExecutionId, grace: Duration) -> Result<(), BackendError> {
        let Some(inspected) = self.shared().inspect(id).await? else { return Ok(()) };
        if inspected.view.state.is_final() {
            return Ok(());
        }
        let place = self.shared().place(id);
        if !inspected.job.stop {
            self.shared().stop_job(&place).await?;
        }
        kill::kill_after(self.shared(), place, grace);
        Ok(())
    }

    async fn state(&self, id: &ExecutionId) -> Result<Observation, BackendError> {
        let inspected = self.shared().inspect(id).await?;
        Ok(inspected.map_or(ExecutionState::NotFound.into(), |inspected| inspected.observed()))
    }

    async fn watch(
        &self,
    ) -> Result<BoxStream<'static, Result<WatchEvent, BackendError>>, BackendError> {
        watch::subscribe(self.shared()).await
    }

    async fn logs(
        &self,
        id: &ExecutionId,
        from: LogCursor,
        follow: bool,
    ) -> Result<BoxStream<'static, Result<LogChunk, BackendError>>, BackendError> {
        logs::open(self.shared(), id, from, follow).await
    }

    async fn exec(
        &self,
        id: &ExecutionId,
        request: ExecRequest,
    ) -> Result<ExecSession, BackendError> {
        exec::open(self.shared(), id, &request).await
    }

    async fn remove(&self, id: &ExecutionId) -> Result<(), BackendError> {
        let place = self.shared().place(id);
        let Some(inspected) = self.shared().inspect(id).await? else {
            return self.shared().delete_stray_variables(&place).await;
        };
        if !inspected.view.state.is_final() {
            let message = format!("`{id}` has not finished: stop it first");
            return Err(BackendError::new(ErrorKind::Invalid, message));
        }
        if inspected.reported {
            // Purged while it is still running, it would be killed, and its log lost.
            reports::settle(self.shared(), &place).await?;
        }
        self.shared().purge(&place, &inspected).await
    }

    async fn identify(&self, token: &SecretString) -> Result<ExecutionId, BackendError> {
        identity::identify(self.shared(), token).await
    }

    async fn report(
        &self,
        token: &SecretString,
        end: ReportedEnd,
    ) -> Result<ExecutionId, BackendError> {
        reports::report(self.shared(), token, end).await
    }

    async fn reported(&self, id: &ExecutionId, end: ReportedEnd) -> Result<(), BackendError> {
        reports::passed_on(self.shared(), id, end).await
    }
}
