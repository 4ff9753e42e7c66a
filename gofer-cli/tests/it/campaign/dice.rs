//! Randomness that can be repeated.

use std::io::Write as _;
use std::time::Duration;

/// Enough randomness to pick moments (Knuth's MMIX generator).
#[derive(Debug, Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    /// `GOFER_CRASH_SEED`, or something new; says how the test is repeated.
    pub(crate) fn new(test: &str) -> Self {
        let from_env = std::env::var("GOFER_CRASH_SEED").ok().and_then(|seed| seed.parse().ok());
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .expect("it is after 1970");
        let seed = from_env.unwrap_or_else(|| u64::from(now.subsec_nanos()));
        // Shown with a failure; cargo keeps it to itself otherwise. What the machine does at the
        // same time differs.
        let again = format!(
            "repeat with: GOFER_CRASH_SEED={seed} cargo test -p gofer-cli --test it {test}\n"
        );
        let _ = std::io::stderr().write_all(again.as_bytes());
        Self(seed)
    }

    /// Dice of somebody's own.
    pub(crate) fn of(&self, whose: u64) -> Self {
        Self(self.0 ^ whose.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// A number below `limit`.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }

    /// A duration below `limit`.
    pub(crate) fn moment(&mut self, limit: Duration) -> Duration {
        let limit = u64::try_from(limit.as_millis()).expect("some milliseconds");
        Duration::from_millis(self.below(limit))
    }
}

/// How often to crash: `GOFER_CRASHES`, or as often as an ordinary test can afford.
pub(crate) fn crashes(ordinary: u64) -> u64 {
    std::env::var("GOFER_CRASHES").ok().and_then(|count| count.parse().ok()).unwrap_or(ordinary)
}
