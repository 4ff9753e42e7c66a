//! Claims runs when there is something to claim, and releases leases that have no driver.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use gofer_core::journal::ClaimLimit;

use super::deadline::{LeaseDeadline, safe_until};
use super::{LeaseHolder, Leases};
use crate::retry_loop::{Backoff, retry};

/// Runs claimed at a time.
const CLAIM_PAGE: usize = 64;

/// Claims whenever there may be something: a new run, an end that made room, and lease by lease
/// what other servers lost.
pub(crate) async fn run(leases: Arc<Leases>, holder: impl LeaseHolder) {
    let Leases { ports, claim_wanted, maybe_orphaned, .. } = &*leases;
    let (owner, ttl) = (&ports.config.server_id, ports.config.lease_ttl);
    let mut backoff = Backoff::new(("claim", owner));

    loop {
        if maybe_orphaned.swap(false, Ordering::Relaxed) {
            release_orphaned(&leases, &holder).await;
        }

        // How many of them may be held is counted by the journal, since runs are inserted and
        // claimed at the same time. Which runs are next is decided anew for each page.
        let limit = ClaimLimit { runs: CLAIM_PAGE, held: ports.config.max_active_runs };
        let now = ports.clock.now();
        match ports.journal.claim(owner, now, ttl, limit).await {
            Ok(claimed) => {
                backoff.reset();
                let is_full = claimed.len() == CLAIM_PAGE;
                for lease in claimed {
                    holder.drive(lease, LeaseDeadline::at(safe_until(now, ttl)));
                }

                if is_full {
                    continue;
                }

                holder.all_claimed();
            }
            Err(error) => {
                tracing::warn!(error = %crate::chain(&error), "cannot claim runs yet, will retry");
                leases.note_maybe_orphaned();
                backoff.wait().await;
                continue;
            }
        }

        // Without news, look again when a lease of another server may have run out.
        let _ = tokio::time::timeout(ttl, claim_wanted.notified()).await;
    }
}

/// Releases all leases, to be claimed again, if this server holds more than it drives.
///
/// A call that answered with an error may have taken leases. Without this, those runs would never
/// have a driver, and renewals would keep them from other servers.
async fn release_orphaned(leases: &Leases, holder: &impl LeaseHolder) {
    let ports = &leases.ports;
    let (owner, ttl) = (&ports.config.server_id, ports.config.lease_ttl);

    retry(("unknown leases", owner), || async {
        // A lease that is just being handed to its driver counts as orphaned, and one that ran out
        // may be. All drivers then end for nothing, which costs a moment.
        let nobody_inserts = leases.inserting.write().await;
        let now = ports.clock.now();
        let driven = holder.held_safely(now) + holder.unreadable();
        let released = match ports.journal.renew(owner, now, ttl).await {
            Ok(held) if held <= driven => Ok(()),
            Ok(_) => {
                holder.quiesce().await;
                ports.journal.release(owner).await
            }
            Err(error) => Err(error),
        };
        drop(nobody_inserts);

        let Err(error) = released else { return ControlFlow::Break(()) };
        tracing::warn!(error = %crate::chain(&error), "cannot look at the leases yet, will retry");
        ControlFlow::Continue(())
    })
    .await;
}
