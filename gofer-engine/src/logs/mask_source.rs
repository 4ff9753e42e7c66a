//! What to mask in the log of an execution, and where its values lie.

use std::sync::Arc;

use gofer_core::journal::JournalError;
use gofer_core::pipeline::{PipelineSpec, TaskKind};
use gofer_core::run::Run;
use gofer_core::{BackendError, ErrorKind, ExecutionId};
use secrecy::{ExposeSecret, SecretString};

use super::mask::Masker;
use super::run_masks::RunMasks;
use crate::layout;
use crate::ports::Ports;
use crate::rules::variables;

/// What an execution was made from: it tells what to mask in its log.
#[derive(Debug, Clone)]
pub(crate) struct MaskSource {
    pub(crate) spec: Arc<PipelineSpec>,
    pub(crate) run: Run,
}

impl MaskSource {
    pub(crate) async fn load(ports: &Ports, id: &ExecutionId) -> Result<Self, BackendError> {
        let snapshot = ports.journal.load(&id.run).await.map_err(|error| match error {
            JournalError::Backend(error) => error,
            other => BackendError::new(ErrorKind::NotFound, other.to_string()),
        })?;
        Ok(Self { spec: snapshot.spec, run: snapshot.run })
    }

    /// Whether values to mask were left in the secret store when the execution was started.
    pub(crate) fn keeps_masks(&self, id: &ExecutionId) -> Kept {
        let Some(task) = self.spec.task(&id.task) else { return Kept::No };
        let has_login =
            matches!(&task.kind, TaskKind::Custom(custom) if custom.registry_auth.is_some());
        if has_login || variables::names_secrets(&self.spec, task, &self.run) {
            return Kept::Yes;
        }
        if variables::run_mentions_secrets(&self.run) { Kept::Perhaps } else { Kept::No }
    }

    /// Masks the run's token, what the execution was started with, what the run has added since,
    /// and tokens that the scheduler may have given to it.
    pub(crate) async fn masker(
        &self,
        ports: &Ports,
        run_masks: &RunMasks,
        id: &ExecutionId,
    ) -> Result<Masker, BackendError> {
        let mut masks = vec![ports.tokens.token(&self.run.token_nonce)];
        let kept = self.keeps_masks(id);
        if kept != Kept::No {
            match ports.secrets.get(&layout::mask_path(id)).await {
                Ok(stored) => masks.extend(kept_values(id, &stored)?),
                Err(error) if error.kind == ErrorKind::NotFound && kept == Kept::Perhaps => {}
                // Missing: the execution was never started, so it has no log either.
                Err(error) => return Err(error),
            }
        }
        masks.extend(run_masks.values(&self.run.key).await?);
        Ok(Masker::new(&masks).with_tokens(ports.scheduler.identities().is_some()))
    }
}

/// Whether there are values to mask in the secret store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    Yes,
    /// A run's value reads like a template. It was one in versions before, and an execution of then
    /// may still have a log.
    Perhaps,
    No,
}

fn kept_values(
    id: &ExecutionId,
    stored: &SecretString,
) -> Result<impl Iterator<Item = SecretString>, BackendError> {
    let values: Vec<String> = serde_json::from_str(stored.expose_secret()).map_err(|_| {
        BackendError::new(ErrorKind::Corrupt, format!("the values to mask for `{id}` are damaged"))
    })?;
    Ok(values.into_iter().map(SecretString::from))
}
