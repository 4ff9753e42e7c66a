//! Signs of life among the servers of one journal, and what comes back: how many share a quota of
//! executions, and whose it is.

use std::sync::Arc;

use gofer_core::journal::Cluster;
use gofer_core::quota::share_of_server;

use crate::engine::Shared;
use crate::slots::Bounds;

/// Tells the journal three times per lease that this server lives.
pub(crate) async fn run(shared: Arc<Shared>) {
    let ttl = shared.config.lease_ttl;
    loop {
        let now = shared.clock.now();
        match shared.journal.heartbeat(&shared.config.server_id, now, ttl).await {
            Ok(cluster) => shared.places.bound(bounds(cluster)),
            Err(error) => {
                tracing::warn!(error = %crate::chain(&error), "cannot tell that this server lives, \
                                                               will retry")
            }
        }
        let _ = tokio::time::timeout(ttl / 3, shared.quotas_changed.notified()).await;
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
