//! What every part of a simulation shares: virtual time, randomness, the trace, and the first rule
//! that was broken.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gofer_core::Timestamp;

use crate::plan::{Faults, Plan};
use crate::rng::Rng;

/// Microseconds of a millisecond; tokio's clock has no finer steps.
pub(crate) const MS: i64 = 1_000;
/// Microseconds of a second.
pub(crate) const SECOND: i64 = 1_000 * MS;

/// Faults end after this long, so that nothing has an excuse not to end.
const STORM: i64 = 300 * SECOND;

/// Locks, also after a panic that is reported elsewhere.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A stretch of virtual time during which a part of the world answers nothing but errors.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outage {
    pub(crate) part: Part,
    pub(crate) from: i64,
    pub(crate) until: i64,
}

/// What a server depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Journal,
    Scheduler,
    Objects,
    Secrets,
}

#[derive(Debug)]
pub(crate) struct World {
    inner: Mutex<Inner>,
    pub(crate) faults: Faults,
    pub(crate) outages: Vec<Outage>,
    late_inserts: u32,
    slow_inserts: u32,
    /// Shared by what is still to take effect.
    under_way: Arc<()>,
    /// Nothing fails and nobody dies, so nothing is very late.
    pub(crate) steady: bool,
    /// Task runs that change in one commit at most.
    pub(crate) max_changes: usize,
    traced: bool,
}

#[derive(Debug)]
struct Inner {
    now: i64,
    rng: Rng,
    late: Rng,
    calm: bool,
    trace: Vec<String>,
    violation: Option<String>,
}

impl World {
    pub(crate) fn new(seed: u64, plan: &Plan, traced: bool) -> Self {
        let (faults, outages, steady) = (plan.faults, plan.outages.clone(), plan.is_steady());
        let (max_changes, slow_inserts) = (plan.max_changes, plan.slow_inserts);
        let rng = Rng::of(seed, "faults");
        let (late, late_inserts) = (Rng::of(seed, "late inserts"), plan.late_inserts);
        let inner = Inner { now: 0, rng, late, calm: false, trace: Vec::new(), violation: None };

        Self {
            inner: Mutex::new(inner),
            faults,
            outages,
            late_inserts,
            slow_inserts,
            under_way: Arc::default(),
            steady,
            max_changes,
            traced,
        }
    }

    /// The latest instant any part has seen. Servers that run side by side differ by less than a
    /// step of the simulation.
    pub(crate) fn now(&self) -> Timestamp {
        Timestamp(lock(&self.inner).now)
    }

    pub(crate) fn reach(&self, now: i64) {
        let mut inner = lock(&self.inner);
        inner.now = inner.now.max(now);
    }

    pub(crate) fn random<T>(&self, draw: impl FnOnce(&mut Rng) -> T) -> T {
        draw(&mut lock(&self.inner).rng)
    }

    /// How long after its error an insert takes effect, in milliseconds; `None` for one that has no
    /// such fate.
    pub(crate) fn late_insert(&self) -> Option<u64> {
        let calm = self.is_calm();
        let mut inner = lock(&self.inner);
        if calm || !inner.late.chance(self.late_inserts) {
            return None;
        }
        // Before whoever asked asks again, or long after.
        let longest_ms = inner.late.pick(&[190, 10_000]);
        Some(inner.late.below(longest_ms))
    }

    /// How long after it took effect an insert is answered, in milliseconds, if it takes especially
    /// long.
    pub(crate) fn slow_insert(&self) -> Option<u64> {
        let calm = self.is_calm();
        let mut inner = lock(&self.inner);
        (!calm && inner.late.chance(self.slow_inserts)).then(|| inner.late.below(5_000))
    }

    /// Held by what was given up and will take effect all the same.
    pub(crate) fn under_way(&self) -> Arc<()> {
        self.under_way.clone()
    }

    pub(crate) fn is_anything_under_way(&self) -> bool {
        Arc::strong_count(&self.under_way) > 1
    }

    /// From now on nothing fails: the end is looked at in peace.
    pub(crate) fn calm_down(&self) {
        lock(&self.inner).calm = true;
    }

    pub(crate) fn is_calm(&self) -> bool {
        let inner = lock(&self.inner);
        inner.calm || inner.now > STORM
    }

    pub(crate) fn is_out(&self, part: Part, at: i64) -> bool {
        self.outages
            .iter()
            .any(|outage| outage.part == part && outage.from <= at && at < outage.until)
    }

    /// Notes what happened, for whoever replays the seed.
    pub(crate) fn trace(&self, at: i64, who: &str, what: impl FnOnce() -> String) {
        if self.traced {
            let line = format!("{:>10.3} {who:<6} {}", at as f64 / SECOND as f64, what());
            lock(&self.inner).trace.push(line);
        }
    }

    /// A rule was broken; the first counts.
    pub(crate) fn violate(&self, what: impl FnOnce() -> String) {
        let mut inner = lock(&self.inner);
        if inner.violation.is_none() {
            let text = format!("at {:.3} s: {}", inner.now as f64 / SECOND as f64, what());
            if self.traced {
                inner.trace.push(format!("VIOLATION {text}"));
            }
            inner.violation = Some(text);
        }
    }

    pub(crate) fn check(&self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.violate(what);
        }
    }

    pub(crate) fn violation(&self) -> Option<String> {
        lock(&self.inner).violation.clone()
    }

    pub(crate) fn take_trace(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.inner).trace)
    }
}
