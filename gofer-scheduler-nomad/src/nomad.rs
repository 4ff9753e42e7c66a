//! The scheduler itself.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use gofer_core::scheduler::{
    ExecRequest, ExecSession, ExecSupport, ExecutionSpec, ExecutionState, LogChunk, LogCursor,
    Observation, ReportedEnd, Scheduler, SchedulerCapabilities, WatchEvent, WorkloadIdentity,
};
use gofer_core::{BackendError, ErrorKind, ExecutionId, Timestamp};
use secrecy::SecretString;
use tokio::task::AbortHandle;

use crate::calls::{JobCalls, kill};
use crate::config::NomadConfig;
use crate::http::client::Client;
use crate::identity::Identities;
use crate::identity::reports::{self, EndReports};
use crate::stream::{Changes, watch};
use crate::{exec, logs, preflight};

/// Runs executions as jobs of a Nomad cluster. Cheap to clone.
#[derive(Debug, Clone)]
pub struct NomadScheduler {
    instance: Arc<Instance>,
}

/// Dropping the last clone closes the event stream; what runs goes on running.
#[derive(Debug)]
struct Instance {
    calls: Arc<JobCalls>,
    changes: Arc<Changes>,
    identities: Identities,
    reports: EndReports,
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
        let calls = JobCalls::new(config, client, templates);
        let namespaces = calls.config.nomad_namespaces();

        let changes = Arc::new(Changes::new(namespaces.clone()));
        let identities = Identities::new(calls.clone());
        let (reports, receivers) = EndReports::new(calls.clone(), namespaces);
        let watching = receivers
            .into_iter()
            .map(|(namespace, reports)| {
                let listening = watch::run(calls.clone(), changes.clone(), namespace, reports);
                tokio::spawn(listening).abort_handle()
            })
            .collect();

        let incarnation = u64::try_from(Timestamp::now().0).unwrap_or(0);
        let instance = Instance { calls, changes, identities, reports, watching, incarnation };
        Ok(Self { instance: Arc::new(instance) })
    }

    fn calls(&self) -> &Arc<JobCalls> {
        &self.instance.calls
    }
}

#[async_trait]
impl Scheduler for NomadScheduler {
    fn capabilities(&self) -> SchedulerCapabilities {
        let config = &self.calls().config;
        let resource_limits = config.host_driver.enforces_limits();
        SchedulerCapabilities {
            images: true,
            host: true,
            resource_limits,
            deadlines: false,
            // Nomad has a file for each output, and no image is sure to have a shell that could
            // join them.
            merged_output: false,
            isolates_namespaces: config.host_driver.isolates(),
        }
    }

    /// One per connection: while no Gofer looked, Nomad's garbage collection may have taken a job
    /// that ran.
    fn incarnation(&self) -> u64 {
        self.instance.incarnation
    }

    async fn check(&self) -> Result<String, BackendError> {
        preflight::check(self.calls()).await
    }

    async fn start(&self, id: &ExecutionId, spec: &ExecutionSpec) -> Result<(), BackendError> {
        let (calls, id, spec) = (self.calls().clone(), id.clone(), spec.clone());
        // In a task of its own: a caller who stops waiting must not leave secrets behind and no
        // job.
        match tokio::spawn(async move { calls.start(&id, &spec).await }).await {
            Ok(result) => result,
            Err(error) => {
                Err(BackendError::new(ErrorKind::Internal, "a part of the nomad scheduler failed")
                    .with_source(error))
            }
        }
    }

    async fn stop(&self, id: &ExecutionId, grace: Duration) -> Result<(), BackendError> {
        let Some(inspected) = self.calls().inspect(id).await? else { return Ok(()) };
        if inspected.view.state.is_final() {
            return Ok(());
        }
        let key = self.calls().key(id);
        if !inspected.job.stop {
            self.calls().stop_job(&key).await?;
        }
        kill::kill_after(self.calls(), key, grace);
        Ok(())
    }

    async fn state(&self, id: &ExecutionId) -> Result<Observation, BackendError> {
        let inspected = self.calls().inspect(id).await?;
        Ok(inspected.map_or(ExecutionState::NotFound.into(), |inspected| inspected.observed()))
    }

    async fn watch(
        &self,
    ) -> Result<BoxStream<'static, Result<WatchEvent, BackendError>>, BackendError> {
        self.instance.changes.subscribe(self.calls().config.request_timeout).await
    }

    async fn logs(
        &self,
        id: &ExecutionId,
        from: LogCursor,
        follow: bool,
    ) -> Result<BoxStream<'static, Result<LogChunk, BackendError>>, BackendError> {
        logs::open(self.calls(), id, from, follow).await
    }

    async fn remove(&self, id: &ExecutionId) -> Result<(), BackendError> {
        let key = self.calls().key(id);
        let Some(inspected) = self.calls().inspect(id).await? else {
            return self.calls().delete_stray_variables(&key).await;
        };
        if !inspected.view.state.is_final() {
            let message = format!("`{id}` has not finished: stop it first");
            return Err(BackendError::new(ErrorKind::Invalid, message));
        }
        if inspected.reported {
            // Purged while it is still running, it would be killed, and its log lost.
            reports::settle(self.calls(), &key).await?;
        }
        self.calls().purge(&key, &inspected.job).await
    }

    fn exec(&self) -> Option<&dyn ExecSupport> {
        Some(self)
    }

    fn identities(&self) -> Option<&dyn WorkloadIdentity> {
        self.calls().config.identity.then_some(self as &dyn WorkloadIdentity)
    }
}

#[async_trait]
impl ExecSupport for NomadScheduler {
    async fn open_session(
        &self,
        id: &ExecutionId,
        request: ExecRequest,
    ) -> Result<ExecSession, BackendError> {
        exec::open(self.calls(), self.instance.changes.receiver(), id, &request).await
    }
}

#[async_trait]
impl WorkloadIdentity for NomadScheduler {
    async fn identify(&self, token: &SecretString) -> Result<ExecutionId, BackendError> {
        self.instance.identities.identify(token).await
    }

    async fn report_end(
        &self,
        token: &SecretString,
        end: ReportedEnd,
    ) -> Result<ExecutionId, BackendError> {
        let owner = self.instance.identities.owner(token).await?;
        self.instance.reports.accept(owner, end)
    }

    async fn accept_forwarded_end(
        &self,
        id: &ExecutionId,
        end: ReportedEnd,
    ) -> Result<(), BackendError> {
        self.instance.reports.accept_forwarded(id, end).await
    }
}
