//! Values that a run adds to what is masked in its logs, while it runs.
//!
//! ```text
//! add:   the journal records where the value will lie -> the value goes to the secret store -> readers of logs look again
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
use gofer_core::{BackendError, ErrorKind, ExecutionId, RunKey};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::watch;

use crate::engine::Shared;
use crate::error::{EngineError, of_journal};
use crate::layout;
use crate::logs::Origin;
use crate::mask::Masker;

/// Values read at the same time.
const AT_ONCE: usize = 8;

/// See [`crate::Engine::mask_value`].
pub(crate) async fn add(
    shared: &Shared,
    run: &RunKey,
    value: &SecretString,
    actor: String,
) -> Result<(), EngineError> {
    let location = layout::run_mask_path(run, &shared.tokens.fingerprint(run, value));
    let size_bytes = value.expose_secret().len() as u64;
    let mask = RunMask {
        run: run.clone(),
        location: location.clone(),
        size_bytes,
        actor,
        at: shared.clock.now(),
    };

    shared.journal.add_run_mask(mask).await?;
    shared.secrets.put(&location, value, PutOptions::default()).await?;

    shared.masked.send_replace(());
    shared.journal.publish_hint(Hint::Masked(run.clone())).await?;
    Ok(())
}

/// The values that the run has added by now.
pub(crate) async fn of_run(
    shared: &Shared,
    run: &RunKey,
) -> Result<Vec<SecretString>, BackendError> {
    let locations = shared.journal.run_masks(run).await.map_err(of_journal)?;
    let values = stream::iter(locations).map(|location| async move {
        match shared.secrets.get(&location).await {
            Ok(value) => Ok(Some(value)),
            // It is about to be put; whoever asked for it has no answer yet.
            Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    });
    values.buffered(AT_ONCE).try_filter_map(|value| async move { Ok(value) }).try_collect().await
}

/// Tells a reader of a live log when there is more to mask.
pub(crate) struct Additions {
    shared: Arc<Shared>,
    id: ExecutionId,
    origin: Origin,
    news: watch::Receiver<()>,
    /// What was added could not be read. It is tried again before anything is shown.
    stale: bool,
}

impl Additions {
    /// From now on: subscribe before the first masker is made, or an addition in between is missed.
    pub(crate) fn new(shared: &Arc<Shared>, id: &ExecutionId, origin: &Origin) -> Self {
        let news = shared.masked.subscribe();
        Self { shared: shared.clone(), id: id.clone(), origin: origin.clone(), news, stale: false }
    }

    /// A masker that knows what was added since the last call, if anything was, by whatever run.
    pub(crate) async fn next(&mut self) -> Result<Option<Masker>, BackendError> {
        // The sender lives as long as the engine.
        if !self.stale && !self.news.has_changed().unwrap_or(false) {
            return Ok(None);
        }
        self.news.borrow_and_update();
        self.stale = true;
        let masker = self.origin.masker(&self.shared, &self.id).await?;
        self.stale = false;
        Ok(Some(masker))
    }
}
