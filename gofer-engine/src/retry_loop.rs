//! Waits between tries at something outside that failed: doubling, with jitter, so that many
//! waiters spread out.
//!
//! The jitter comes from who waits and how often it has waited: it spreads as well as a random one,
//! and a simulation sees the same wait each time.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    jitter: DefaultHasher,
}

impl Backoff {
    /// For this waiter, whatever tells it from others.
    pub(crate) fn new(waiter: impl Hash) -> Self {
        let mut jitter = DefaultHasher::new();
        waiter.hash(&mut jitter);
        Self { next: FIRST, jitter }
    }

    /// The next wait: between half of and the whole current step.
    pub(crate) fn next_delay(&mut self) -> Duration {
        let step = self.next;
        self.next = (step * 2).min(LONGEST);
        step.hash(&mut self.jitter);
        let fraction = f64::from((self.jitter.finish() >> 32) as u32) / f64::from(u32::MAX);
        step.mul_f64(0.5 + fraction / 2.0)
    }

    pub(crate) async fn wait(&mut self) {
        tokio::time::sleep(self.next_delay()).await;
    }

    pub(crate) fn reset(&mut self) {
        self.next = FIRST;
    }
}
