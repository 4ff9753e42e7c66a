//! This server's share of what namespaces may have in flight: it tells the journal that it lives,
//! and learns how many servers share the quotas.

use std::sync::Arc;

use gofer_core::journal::Cluster;
use gofer_core::quota::share_of_server;
use tokio::sync::Notify;

use super::Slots;
use super::fair_queue::Bounds;
use crate::ports::Ports;

/// Keeps the bounds of the slots as the quotas and the number of servers say.
#[derive(Debug)]
pub(crate) struct SlotShares {
    ports: Arc<Ports>,
    slots: Arc<Slots>,
    quotas_changed: Notify,
}

impl SlotShares {
    pub(crate) fn new(ports: Arc<Ports>, slots: Arc<Slots>) -> Self {
        Self { ports, slots, quotas_changed: Notify::new() }
    }

    /// Reads the quotas at once, and not only at the next heartbeat.
    pub(crate) fn quotas_changed(&self) {
        self.quotas_changed.notify_one();
    }

    /// Tells the journal three times per lease that this server lives.
    pub(crate) async fn run(self: Arc<Self>) {
        let Ports { journal, clock, config, .. } = &*self.ports;
        loop {
            match journal.heartbeat(&config.server_id, clock.now(), config.lease_ttl).await {
                Ok(cluster) => self.slots.bound(bounds(cluster)),
                Err(error) => {
                    tracing::warn!(error = %crate::chain(&error), "cannot tell that this server \
                                                                   lives, will retry")
                }
            }
            let period = config.lease_ttl / 3;
            let _ = tokio::time::timeout(period, self.quotas_changed.notified()).await;
        }
    }
}

/// This server's part of what namespaces may have in flight.
fn bounds(cluster: Cluster) -> Bounds {
    let share = |limit| share_of_server(limit, cluster.servers);
    Bounds {
        per_namespace: share(cluster.executions),
        of_namespace: cluster
            .executions_of
            .iter()
            .map(|(namespace, limit)| (namespace.clone(), share(*limit)))
            .collect(),
        keeps_some_free: cluster.namespaces > 1,
    }
}
