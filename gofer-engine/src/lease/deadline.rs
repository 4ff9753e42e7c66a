//! Until when a lease is certainly this server's. A server that stood still, or whose journal was
//! away, may have lost its leases without knowing; fencing keeps its commits out, and this its
//! calls of the scheduler.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use gofer_core::Timestamp;

use crate::clock::Clock;

/// How far the clocks of two servers may be apart: this part of a lease.
const APART: u32 = 10;

/// Until when a lease that was asked for at `now` is trusted: whoever may take it has a clock that
/// may be ahead.
pub(crate) fn certain(now: Timestamp, ttl: Duration) -> Timestamp {
    now.after(ttl - ttl / APART)
}

/// How well a server must know the time: two of them may both be off by that much.
pub(crate) fn precision(ttl: Duration) -> Duration {
    ttl / APART / 2
}

/// Shared by everybody who works on one run.
#[derive(Debug, Clone)]
pub(crate) struct Freshness(Arc<AtomicI64>);

impl Freshness {
    pub(crate) fn until(at: Timestamp) -> Self {
        Self(Arc::new(AtomicI64::new(at.0)))
    }

    /// Whether nobody else can have taken the lease at `now`.
    pub(crate) fn holds(&self, now: Timestamp) -> bool {
        now.0 < self.0.load(Ordering::Relaxed)
    }

    /// Waits until it is no longer certain that the lease is held.
    pub(crate) async fn run_out(&self, clock: &Clock) {
        loop {
            let until = Timestamp(self.0.load(Ordering::Relaxed));
            if until <= clock.now() {
                return;
            }
            tokio::time::sleep_until(clock.instant(until)).await;
        }
    }

    /// The lease was prolonged while it was held.
    pub(crate) fn prolong(&self, until: Timestamp) {
        self.0.fetch_max(until.0, Ordering::Relaxed);
    }
}
