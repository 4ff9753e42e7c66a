//! Renews what this server holds, and keeps its clock with that of the other servers.

use std::sync::Arc;
use std::time::Duration;

use super::deadline::safe_until;
use super::{LeaseHolder, Leases};

/// A lease that was taken has its driver after this, or it is orphaned.
const HANDOVER_TIMEOUT: Duration = Duration::from_millis(300);

/// Renews three times per lease.
pub(crate) async fn run(leases: Arc<Leases>, holder: impl LeaseHolder) {
    let ports = &leases.ports;
    let (owner, ttl) = (&ports.config.server_id, ports.config.lease_ttl);

    loop {
        tokio::time::sleep(ttl / 3).await;
        if let Err(error) = ports.clock.follow(ports.journal.as_ref()).await {
            tracing::warn!(error = %crate::chain(&error), "cannot ask the journal what time it is, \
                                                           will retry");
        }

        // Before the call: a lease that is claimed while it is under way may not be renewed by it.
        let now = ports.clock.now();
        let started = holder.drivers_started();
        let (held_safely, accounted) = (holder.held_safely(now), holder.accounted());

        match ports.journal.renew(owner, now, ttl).await {
            Ok(held) => {
                ports.config.metrics.leases_renewed(now);
                let all = held >= held_safely;
                holder.extend(started, ports.clock.now(), safe_until(now, ttl), all).await;
                if held > accounted.max(holder.accounted()) {
                    look_for_orphaned(&leases, &holder).await;
                }
            }
            Err(error) => {
                tracing::warn!(error = %crate::chain(&error), "cannot renew the leases, will retry")
            }
        }
    }
}

/// More leases were renewed than there are drivers. One may be on its way to its driver. If there
/// are too many a moment later, too, some are orphaned.
///
/// Without this, a claim that timed out and took effect only after [`super::claim`] had looked
/// would keep its runs from every server: renewals would hold their leases for ever.
async fn look_for_orphaned(leases: &Leases, holder: &impl LeaseHolder) {
    tokio::time::sleep(HANDOVER_TIMEOUT).await;
    let ports = &leases.ports;
    let (now, ttl, accounted) = (ports.clock.now(), ports.config.lease_ttl, holder.accounted());
    match ports.journal.renew(&ports.config.server_id, now, ttl).await {
        Ok(held) if held > accounted.max(holder.accounted()) => {
            leases.note_maybe_orphaned();
            leases.want_claim();
        }
        Ok(_) => {}
        Err(error) => {
            tracing::warn!(error = %crate::chain(&error), "cannot look at the leases yet, will \
                                                           retry")
        }
    }
}
