//! What one server does for all that share a database: logs a dead server left, and retention.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::engine::Shared;
use crate::{archiver, retention};

/// Asks for the lead again and again, and works while this server has it.
pub(crate) async fn run(shared: Arc<Shared>) {
    let ttl = shared.config.lease_ttl;
    let mut work: Option<CancellationToken> = None;
    loop {
        let now = shared.clock.now();
        let leads = match shared
            .journal
            .acquire_leadership(&shared.config.server_id, now, ttl)
            .await
        {
            Ok(leads) => leads,
            Err(error) => {
                tracing::warn!(error = %crate::chain(&error), "cannot ask for the lead, will retry");
                false
            }
        };

        if leads {
            work.get_or_insert_with(|| begin(&shared));
        } else if let Some(work) = work.take() {
            work.cancel();
        }

        tokio::time::sleep(ttl / 3).await;
    }
}

/// Everything it does may be repeated, so that who loses the lead may finish the step it is at.
fn begin(shared: &Arc<Shared>) -> CancellationToken {
    let leading = shared.stop.child_token();
    let (shared, ends) = (shared.clone(), leading.clone());
    shared.tasks.clone().spawn(async move {
        let work = async {
            tokio::join!(archiver::sweep(shared.clone()), retention::run(shared));
        };
        tokio::select! {
            biased;
            () = ends.cancelled() => {}
            () = work => {}
        }
    });
    leading
}
