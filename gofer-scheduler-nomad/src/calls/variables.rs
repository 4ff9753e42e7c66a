//! The Nomad variables in which an execution's secrets travel.

use std::collections::BTreeMap;

use gofer_core::BackendError;
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use crate::calls::job_calls::JobCalls;
use crate::calls::key::JobKey;
use crate::http::error::Failure;
use crate::http::types::VariableMeta;
use crate::job::secrets::{self, Packed};

impl JobCalls {
    /// Writes the secrets of an execution whose job is about to be registered.
    pub(crate) async fn write_variables(
        &self,
        key: &JobKey,
        packed: &Packed,
    ) -> Result<(), Failure> {
        for (path, items) in &packed.variables {
            let items: BTreeMap<&str, &str> =
                items.iter().map(|(key, value)| (key.as_str(), value.expose_secret())).collect();
            let body = json!({"Namespace": key.namespace, "Path": path, "Items": items});
            self.client.put::<Value>(&format!("/v1/var/{path}"), &key.query(), &body).await?;
        }
        Ok(())
    }

    /// Deletes the variables of an execution that needs them no more. What fails here is done by
    /// `remove`, or by the sweep.
    pub(crate) async fn delete_variables(&self, key: &JobKey, count: usize) {
        for path in secrets::paths(&key.job_id).iter().take(count) {
            if let Err(failure) = self.delete_variable(key, path).await {
                let error = failure
                    .backend(format!("the nomad variable `{path}` could not be deleted yet"));
                tracing::warn!(error = %error.chain(), "a secret stays in nomad until its \
                                                        execution is removed");
            }
        }
    }

    pub(crate) async fn delete_variable(&self, key: &JobKey, path: &str) -> Result<(), Failure> {
        match self.client.delete(&format!("/v1/var/{path}"), &key.query()).await {
            Err(failure) if failure.is_not_found() => Ok(()),
            other => other,
        }
    }

    /// Deletes what an execution without a job left: its secrets are written before the job is
    /// registered.
    pub(crate) async fn delete_stray_variables(&self, key: &JobKey) -> Result<(), BackendError> {
        let failed = |failure: Failure| {
            failure.backend(format!("the secrets of `{}` cannot be removed", key.job_id))
        };
        for variable in self.variables(key, &key.job_id).await.map_err(failed)? {
            if secrets::job_of(&variable.path) == Some(&key.job_id) {
                self.delete_variable(key, &variable.path).await.map_err(failed)?;
            }
        }
        Ok(())
    }

    /// Variables of jobs whose id begins so.
    pub(crate) async fn variables(
        &self,
        key: &JobKey,
        job_prefix: &str,
    ) -> Result<Vec<VariableMeta>, Failure> {
        let query = key.query().with("prefix", &format!("nomad/jobs/{job_prefix}"));
        self.client.pages("/v1/vars", &query).await
    }
}
