//! Deletes what has been kept long enough: archived logs by age, run objects by the number of newer
//! runs, runs by both, when nothing of them is left elsewhere, versions that no run is of, events,
//! uploads that nobody completed, values of secrets that no record names, and values to mask once
//! there is nothing left to mask.

use std::sync::Arc;
use std::time::Duration;

use gofer_core::BackendError;
use gofer_core::journal::{Expirable, JournalError, Retention};

use crate::engine::Shared;
use crate::layout;

/// Time between two walks. Retention counts in days and runs; minutes are early enough.
const PERIOD: Duration = Duration::from_secs(600);
const PAGE: usize = 100;
/// A put of a secret that has taken longer was interrupted: a call has half a minute.
const SECRET_PUT_TIMEOUT: Duration = Duration::from_secs(3600);

pub(crate) async fn run(shared: Arc<Shared>) {
    loop {
        if let Err(error) = expire_all(&shared).await {
            tracing::warn!(error = %crate::chain(&error), "cannot delete what has expired, will \
                                                           retry");
        }
        tokio::time::sleep(PERIOD).await;
    }
}

/// Deletes the bytes first and records it then: a crash between makes it delete nothing a second
/// time.
async fn expire_all(shared: &Shared) -> Result<(), JournalError> {
    let mut before = Vec::new();
    loop {
        let policy = Retention {
            logs_before: shared.clock.now().before(shared.config.log_retention),
            run_objects_keep_runs: shared.config.run_objects_keep_runs,
            runs_before: shared.clock.now().before(shared.config.run_retention),
            keep_runs: shared.config.keep_runs,
            events_before: shared.clock.now().before(shared.config.event_retention),
            keep_versions: shared.config.keep_versions,
            uploads_before: shared.clock.now().before(shared.config.upload_retention),
            secret_values_before: shared.clock.now().before(SECRET_PUT_TIMEOUT),
        };

        let page = shared.journal.expirable(&policy, PAGE).await?;
        for what in &page {
            delete(shared, what).await?;
            shared.journal.expired(what, shared.clock.now()).await?;
        }

        // What was given up can be deleted now, and a run whose logs are gone. The same page again
        // is what cannot be deleted yet: it is looked at in the next walk.
        if page.is_empty() || page == before {
            return Ok(());
        }

        before = page;
    }
}

async fn delete(shared: &Shared, what: &Expirable) -> Result<(), BackendError> {
    match what {
        Expirable::Log(id) => shared.objects.delete(&layout::log_location(id)).await,
        Expirable::RunObject { location, .. }
        | Expirable::Upload { location: Some(location), .. } => {
            shared.objects.delete(location).await
        }
        Expirable::RunMask { location } | Expirable::SecretValue { location, being_put: false } => {
            shared.secrets.delete(location).await
        }
        // Nothing of these is anywhere but in the journal.
        Expirable::Runs { .. } | Expirable::Versions { .. } | Expirable::Events { .. } => Ok(()),
        Expirable::Upload { location: None, .. }
        | Expirable::SecretValue { being_put: true, .. } => Ok(()),
    }
}
