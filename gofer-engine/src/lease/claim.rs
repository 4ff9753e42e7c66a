//! The right to drive runs: claimed when there is something to claim, renewed while this server
//! lives, given up at its end.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use gofer_core::journal::ClaimLimit;

use crate::engine::Shared;
use crate::lease::deadline::{Freshness, certain};
use crate::retry_loop::Backoff;

/// Runs claimed at a time.
const CLAIM_PAGE: usize = 64;
/// A lease that was taken has its driver after this, unless nobody knows of it.
const ON_ITS_WAY: Duration = Duration::from_millis(300);

/// Claims whenever there may be something: a new run, an end that made room, and lease by lease
/// what other servers lost.
pub(crate) async fn claim(shared: Arc<Shared>) {
    let mut backoff = Backoff::new(("claim", &shared.config.server_id));
    loop {
        if shared.leases_doubtful.swap(false, Ordering::Relaxed) {
            give_up_unknown_leases(&shared).await;
        }

        let ttl = shared.config.lease_ttl;
        let now = shared.clock.now();
        match shared.journal.claim(&shared.config.server_id, now, ttl, limit(&shared)).await {
            Ok(leases) => {
                backoff.reset();
                let full = leases.len() == CLAIM_PAGE;
                leases.into_iter().for_each(|lease| {
                    shared.begin(lease, Freshness::until(certain(now, ttl)), None)
                });

                if full {
                    continue;
                }

                shared.places.release_others(|run| shared.runs.contains(run));
            }
            Err(error) => {
                tracing::warn!(error = %crate::chain(&error), "cannot claim runs yet, will retry");
                shared.leases_doubtful.store(true, Ordering::Relaxed);
                backoff.wait().await;
                continue;
            }
        }

        // Without news, look again when a lease of another server may have run out.
        let _ = tokio::time::timeout(ttl, shared.claim_wanted.notified()).await;
    }
}

/// How many runs may be claimed now. The choice of who is next stays open for those that are left
/// waiting. The journal counts what is held, since runs are inserted and claimed at the same time.
fn limit(shared: &Shared) -> ClaimLimit {
    ClaimLimit { runs: CLAIM_PAGE, held: shared.config.max_active_runs }
}

/// Whether it is worth a try to claim a run as it is inserted.
pub(crate) fn has_room(shared: &Shared) -> bool {
    shared.runs.len() < shared.config.max_active_runs
}

/// A call that answered with an error may have taken leases all the same. Nobody would ever drive
/// those runs, and renewing would keep them from others: if there are such leases, all are given up
/// and claimed again.
async fn give_up_unknown_leases(shared: &Shared) {
    let (owner, ttl) = (&shared.config.server_id, shared.config.lease_ttl);
    let mut backoff = Backoff::new(("unknown leases", owner));
    loop {
        // One that is just being handed to its driver counts as unknown, and one that ran out may
        // be: then all drivers rest for nothing, which costs a moment.
        let nobody_inserts = shared.inserting.write().await;
        let now = shared.clock.now();
        let known = shared.runs.holding(now) + shared.runs.unreadable();
        let settled = match shared.journal.renew(owner, now, ttl).await {
            Ok(held) if held <= known => Ok(()),
            Ok(_) => {
                shared.runs.rest().await;
                shared.journal.release(owner).await
            }
            Err(error) => Err(error),
        };

        drop(nobody_inserts);
        match settled {
            Ok(()) => return,
            Err(error) => {
                tracing::warn!(error = %crate::chain(&error), "cannot look at the leases yet, will \
                                                               retry");
                backoff.wait().await;
            }
        }
    }
}

/// Renews what this server holds, and keeps its clock with that of the others.
pub(crate) async fn renew(shared: Arc<Shared>) {
    let ttl = shared.config.lease_ttl;
    loop {
        tokio::time::sleep(ttl / 3).await;
        if let Err(error) = shared.clock.follow(shared.journal.as_ref()).await {
            tracing::warn!(error = %crate::chain(&error), "cannot ask the journal what time it is, \
                                                           will retry");
        }

        let now = shared.clock.now();
        let begun = shared.runs.begun();
        let (holding, known) = (shared.runs.holding(now), shared.runs.known());

        match shared.journal.renew(&shared.config.server_id, now, ttl).await {
            Ok(held) => {
                shared
                    .runs
                    .prolonged(begun, shared.clock.now(), certain(now, ttl), held >= holding)
                    .await;
                if held > known.max(shared.runs.known()) {
                    look_for_unknown_leases(&shared).await;
                }
            }
            Err(error) => {
                tracing::warn!(error = %crate::chain(&error), "cannot renew the leases, will retry")
            }
        }
    }
}

/// More leases were renewed than there are drivers. One may be on its way to its driver; if there
/// are too many a moment later, too, a call that was given up long ago took effect after it had
/// been looked into.
async fn look_for_unknown_leases(shared: &Shared) {
    tokio::time::sleep(ON_ITS_WAY).await;
    let (now, ttl, known) = (shared.clock.now(), shared.config.lease_ttl, shared.runs.known());
    match shared.journal.renew(&shared.config.server_id, now, ttl).await {
        Ok(held) if held > known.max(shared.runs.known()) => {
            shared.leases_doubtful.store(true, Ordering::Relaxed);
            shared.claim_wanted.notify_one();
        }
        Ok(_) => {}
        Err(error) => {
            tracing::warn!(error = %crate::chain(&error), "cannot look at the leases yet, will \
                                                           retry")
        }
    }
}
