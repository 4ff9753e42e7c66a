//! Deletes what has been kept long enough:
//!
//! - archived logs and events by age, run objects by the number of newer runs;
//! - runs by both, when nothing of them is left elsewhere, and versions without runs;
//! - uploads that were not completed, and values of secrets that no record names;
//! - values to mask, once there is nothing left to mask.

use std::sync::Arc;
use std::time::Duration;

use gofer_core::BackendError;
use gofer_core::journal::{Expirable, JournalError, Retention};

use crate::layout;
use crate::ports::Ports;

/// Time between two walks. Retention counts in days and runs; minutes are early enough.
const PERIOD: Duration = Duration::from_secs(600);
const PAGE: usize = 100;
/// A put of a secret that has taken longer was interrupted: a call has half a minute.
const SECRET_PUT_TIMEOUT: Duration = Duration::from_secs(3600);

pub(crate) async fn run(ports: Arc<Ports>) {
    loop {
        if let Err(error) = expire_all(&ports).await {
            tracing::warn!(error = %crate::chain(&error), "cannot delete what has expired, will \
                                                           retry");
        }
        tokio::time::sleep(PERIOD).await;
    }
}

/// Deletes the bytes first and records it then: a crash between makes it delete nothing a second
/// time.
async fn expire_all(ports: &Ports) -> Result<(), JournalError> {
    let mut before = Vec::new();
    loop {
        let policy = Retention {
            logs_before: ports.clock.now().before(ports.config.log_retention),
            run_objects_keep_runs: ports.config.run_objects_keep_runs,
            runs_before: ports.clock.now().before(ports.config.run_retention),
            keep_runs: ports.config.keep_runs,
            events_before: ports.clock.now().before(ports.config.event_retention),
            keep_versions: ports.config.keep_versions,
            uploads_before: ports.clock.now().before(ports.config.upload_retention),
            secret_values_before: ports.clock.now().before(SECRET_PUT_TIMEOUT),
        };

        let page = ports.journal.expirable(&policy, PAGE).await?;
        for what in &page {
            delete(ports, what).await?;
            ports.journal.expired(what, ports.clock.now()).await?;
        }

        // A deletion may make room for the next: a run can go once its logs are gone. The same page
        // again is what cannot be deleted yet; the next walk looks at it.
        if page.is_empty() || page == before {
            return Ok(());
        }

        before = page;
    }
}

async fn delete(ports: &Ports, what: &Expirable) -> Result<(), BackendError> {
    match what {
        Expirable::Log(id) => ports.objects.delete(&layout::log_location(id)).await,
        Expirable::RunObject { location, .. }
        | Expirable::Upload { location: Some(location), .. } => {
            ports.objects.delete(location).await
        }
        Expirable::RunMask { location } | Expirable::SecretValue { location, being_put: false } => {
            ports.secrets.delete(location).await
        }
        // Nothing of these is anywhere but in the journal.
        Expirable::Runs { .. } | Expirable::Versions { .. } | Expirable::Events { .. } => Ok(()),
        Expirable::Upload { location: None, .. }
        | Expirable::SecretValue { being_put: true, .. } => Ok(()),
    }
}
