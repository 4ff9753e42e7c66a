//! Values that a run adds to what is masked in its logs, while it runs.
//!
//! ```text
//! add:   the journal records where the value will lie
//!        -> the value goes to the secret store -> readers of logs look again
//! read:  the journal says where the values lie -> those that are there are masked
//! end:   retention deletes the values, and then the records, of runs whose logs are archived
//! ```
//!
//! The record comes first, so that no value is left behind by a server that dies. It is worth
//! nothing without the value, and the caller has no answer then.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use gofer_core::journal::{Hint, RunMask};
use gofer_core::object_store::PutOptions;
use gofer_core::{BackendError, ErrorKind, RunKey};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::watch;

use crate::error::{EngineError, of_journal};
use crate::layout;
use crate::ports::Ports;

/// Values read at the same time.
const READS_MAX: usize = 8;

/// What runs have added to mask, on this server and on the others.
#[derive(Debug)]
pub(crate) struct RunMasks {
    ports: Arc<Ports>,
    /// Changes when a run has added a value, here or on another server.
    added: watch::Sender<()>,
}

impl RunMasks {
    pub(crate) fn new(ports: Arc<Ports>) -> Self {
        Self { ports, added: watch::Sender::new(()) }
    }

    /// See [`crate::Engine::mask_value`].
    pub(crate) async fn add(
        &self,
        run: &RunKey,
        value: &SecretString,
        actor: String,
    ) -> Result<(), EngineError> {
        let Ports { journal, secrets, tokens, clock, .. } = &*self.ports;
        let location = layout::run_mask_path(run, &tokens.fingerprint(run, value));
        let mask = RunMask {
            run: run.clone(),
            location: location.clone(),
            size_bytes: value.expose_secret().len() as u64,
            actor,
            at: clock.now(),
        };

        journal.add_run_mask(mask).await?;
        secrets.put(&location, value, PutOptions::default()).await?;

        self.note_added();
        journal.publish_hint(Hint::Masked(run.clone())).await?;
        Ok(())
    }

    /// A run may have added a value: readers of live logs look again.
    pub(crate) fn note_added(&self) {
        self.added.send_replace(());
    }

    /// Changes with each addition.
    pub(crate) fn subscribe(&self) -> watch::Receiver<()> {
        self.added.subscribe()
    }

    /// The values that the run has added by now.
    pub(crate) async fn values(&self, run: &RunKey) -> Result<Vec<SecretString>, BackendError> {
        let locations = self.ports.journal.run_masks(run).await.map_err(of_journal)?;
        let values = stream::iter(locations).map(|location| async move {
            match self.ports.secrets.get(&location).await {
                Ok(value) => Ok(Some(value)),
                // It is about to be put; the caller that adds it has no answer yet.
                Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
                Err(error) => Err(error),
            }
        });
        let present = values.buffered(READS_MAX).try_filter_map(|value| async move { Ok(value) });
        present.try_collect().await
    }
}
