//! The calls about one job that everything else is made of.

use std::collections::BTreeMap;
use std::sync::Arc;

use gofer_core::{BackendError, ExecutionId};
use serde_json::Value;
use tokio::sync::Mutex;

use crate::calls::key::JobKey;
use crate::calls::min_index::MinIndexes;
use crate::calls::reported::ReportedEnds;
use crate::config::NomadConfig;
use crate::http::client::Client;
use crate::http::error::Failure;
use crate::http::types::{Alloc, Evaluation, Job};
use crate::job::names::{self, META_EXECUTION, META_INSTANCE};
use crate::job::secrets;
use crate::state::marks::secret_count;

/// Locks that starts share by their id's hash: far more than calls in flight, so that few wait for
/// another's.
pub(crate) const START_LOCKS: usize = 1_024;

/// The settings, the client, and what these calls remember from one to the next.
#[derive(Debug)]
pub(crate) struct JobCalls {
    pub(crate) config: NomadConfig,
    pub(crate) client: Client,
    /// Job templates by Gofer namespace; the empty name is all others'.
    pub(crate) templates: BTreeMap<String, Value>,
    pub(crate) min_indexes: MinIndexes,
    pub(crate) reported: ReportedEnds,
    pub(crate) start_locks: Vec<Mutex<()>>,
}

impl JobCalls {
    pub(crate) fn new(
        config: NomadConfig,
        client: Client,
        templates: BTreeMap<String, Value>,
    ) -> Arc<Self> {
        Arc::new(Self {
            config,
            client,
            templates,
            min_indexes: MinIndexes::default(),
            reported: ReportedEnds::default(),
            start_locks: (0..START_LOCKS).map(|_| Mutex::new(())).collect(),
        })
    }

    pub(crate) fn key(&self, id: &ExecutionId) -> JobKey {
        JobKey {
            namespace: self.config.namespace_of(&id.run.namespace).to_owned(),
            job_id: names::job_id(&self.config.job_prefix, id),
        }
    }

    /// The execution that a job is, if it is one of this Gofer's.
    pub(crate) fn execution_of(&self, job: &Job) -> Option<ExecutionId> {
        if job.meta.get(META_INSTANCE)? != &self.config.job_prefix {
            return None;
        }
        job.meta.get(META_EXECUTION)?.parse().ok()
    }

    pub(crate) async fn job(&self, key: &JobKey) -> Result<Option<Job>, BackendError> {
        match self.client.get::<Job>(&key.path(""), &key.query()).await {
            Ok(answer) => Ok(Some(answer.value)),
            Err(failure) if failure.is_not_found() => Ok(None),
            Err(failure) => {
                Err(failure.backend(format!("the job `{}` cannot be read", key.job_id)))
            }
        }
    }

    pub(crate) async fn allocs(&self, key: &JobKey) -> Result<Vec<Alloc>, BackendError> {
        let answer =
            self.client.get::<Option<Vec<Alloc>>>(&key.path("/allocations"), &key.query()).await;
        let failed =
            |failure: Failure| failure.backend(format!("the job `{}` cannot be read", key.job_id));
        Ok(answer.map_err(failed)?.value.unwrap_or_default())
    }

    pub(crate) async fn evaluations(&self, key: &JobKey) -> Result<Vec<Evaluation>, BackendError> {
        let answer = self
            .client
            .get::<Option<Vec<Evaluation>>>(&key.path("/evaluations"), &key.query())
            .await;
        let failed =
            |failure: Failure| failure.backend(format!("the job `{}` cannot be read", key.job_id));
        Ok(answer.map_err(failed)?.value.unwrap_or_default())
    }

    /// Stops a job: durably, for every allocation it has or will get.
    pub(crate) async fn stop_job(&self, key: &JobKey) -> Result<(), BackendError> {
        let query = key.query().with("purge", "false").with("no_shutdown_delay", "true");
        let stopped = self.client.delete(&key.path(""), &query).await;
        stopped.or_else(|failure| {
            let failed = format!("the job `{}` could not be stopped", key.job_id);
            if failure.is_not_found() { Ok(()) } else { Err(failure.backend(failed)) }
        })
    }

    /// Deletes a job, its secrets first: while the job is there, somebody will come back for them.
    pub(crate) async fn purge(&self, key: &JobKey, job: &Job) -> Result<(), BackendError> {
        let failed = |failure: Failure| {
            failure.backend(format!("the job `{}` could not be removed", key.job_id))
        };
        for path in secrets::paths(&key.job_id).iter().take(secret_count(job)) {
            self.delete_variable(key, path).await.map_err(failed)?;
        }
        self.client
            .delete(&key.path(""), &key.query().with("purge", "true"))
            .await
            .map_err(failed)?;
        self.reported.forget(key);
        Ok(())
    }
}
