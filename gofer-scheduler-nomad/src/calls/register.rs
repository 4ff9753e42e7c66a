//! The registration of an execution's job, once.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

use gofer_core::scheduler::ExecutionSpec;
use gofer_core::{BackendError, ErrorKind, ExecutionId};
use serde_json::{Value, json};

use crate::calls::job_calls::{JobCalls, START_LOCKS};
use crate::http::client::Query;
use crate::http::error::Failure;
use crate::http::types::Job;
use crate::job::spec;

impl JobCalls {
    /// Registers the job of an execution, once.
    pub(crate) async fn start(
        &self,
        id: &ExecutionId,
        spec: &ExecutionSpec,
    ) -> Result<(), BackendError> {
        let key = self.key(id);
        let doing = format!("`{id}` could not be started");
        let template =
            self.templates.get(id.run.namespace.as_str()).or_else(|| self.templates.get(""));
        let prepared =
            spec::prepare(&self.config, template.unwrap_or(&Value::Null), &key.job_id, id, spec);

        // Nomad before 2.0.1 can take two concurrent registrations of one id for a job and its
        // update.
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(&key.job_id);
        let at = usize::try_from(hash % START_LOCKS as u64).unwrap_or(0);
        let _alone = self.start_locks[at].lock().await;
        if let Some(packed) = &prepared.secrets {
            if let Some(job) = self.job(&key).await? {
                return self.known(id, &job);
            }
            self.write_variables(&key, packed)
                .await
                .map_err(|failure| failure.backend(doing.as_str()))?;
        }

        let failure = match self.register(&prepared.job).await {
            Ok(()) => return Ok(()),
            Err(failure) => failure,
        };

        if failure.is_conflict() {
            let job = self.job(&key).await?;
            return job.map_or(Ok(()), |job| self.known(id, &job));
        }

        if let Some(reason) = failure.validation() {
            if let Some(packed) = &prepared.secrets {
                self.delete_variables(&key, packed.variables.len()).await;
            }
            let refused = spec::refused(&self.config, &key.job_id, id, &reason);
            return match self.register(&refused).await {
                Err(failure) if !failure.is_conflict() => Err(failure.backend(doing)),
                _ => Ok(()),
            };
        }

        Err(failure.backend(doing))
    }

    async fn register(&self, job: &Value) -> Result<(), Failure> {
        let body = json!({"EnforceIndex": true, "JobModifyIndex": 0, "Job": job});
        let namespace = job["Namespace"].as_str().unwrap_or_default();
        self.client.put::<Value>("/v1/jobs", &Query::namespace(namespace), &body).await.map(|_| ())
    }

    /// Whether a job of the id that is wanted is the execution that is wanted.
    fn known(&self, id: &ExecutionId, job: &Job) -> Result<(), BackendError> {
        if self.execution_of(job).as_ref() == Some(id) {
            return Ok(());
        }
        let message = format!(
            "nomad has a job `{}` that is not the execution `{id}` of this gofer: give this gofer \
             another `scheduler.nomad.job_prefix`",
            job.id
        );
        Err(BackendError::new(ErrorKind::Invalid, message))
    }
}
