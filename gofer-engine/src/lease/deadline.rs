//! Until when a lease is certainly this server's. A server that stood still, or whose journal was
//! away, may have lost its leases without knowing. Fencing keeps its commits out, and the deadline
//! its calls of the scheduler.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use gofer_core::Timestamp;

use crate::clock::Clock;

/// How far the clocks of two servers may be apart: this part of a lease.
const SKEW_FRACTION: u32 = 10;

/// Until when a lease that was asked for at `now` is trusted: another server's clock may run ahead
/// of ours.
pub(crate) fn safe_until(now: Timestamp, ttl: Duration) -> Timestamp {
    now.after(ttl - ttl / SKEW_FRACTION)
}

/// How well a server must know the time: two of them may both be off by that much.
pub(crate) fn clock_error_max(ttl: Duration) -> Duration {
    ttl / SKEW_FRACTION / 2
}

/// The deadline of one lease, shared by all that work on its run.
#[derive(Debug, Clone)]
pub(crate) struct LeaseDeadline(Arc<AtomicI64>);

impl LeaseDeadline {
    pub(crate) fn at(until: Timestamp) -> Self {
        Self(Arc::new(AtomicI64::new(until.0)))
    }

    /// Whether no other server can have taken the lease at `now`.
    pub(crate) fn holds(&self, now: Timestamp) -> bool {
        now.0 < self.0.load(Ordering::Relaxed)
    }

    /// Waits until it is no longer certain that the lease is held.
    pub(crate) async fn passed(&self, clock: &Clock) {
        loop {
            let until = Timestamp(self.0.load(Ordering::Relaxed));
            if until <= clock.now() {
                return;
            }
            tokio::time::sleep_until(clock.instant(until)).await;
        }
    }

    /// The lease was renewed while it was held.
    pub(crate) fn extend(&self, until: Timestamp) {
        self.0.fetch_max(until.0, Ordering::Relaxed);
    }
}
