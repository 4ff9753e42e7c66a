//! The engine's time. It begins with the system's, or with a simulation's. Tokio's clock moves it,
//! so that a test can pause it. It follows the journal's where servers share one, and never goes
//! back.
//!
//! A lease is certain only as far as the clocks of two servers agree: a server whose clock is ahead
//! would take what another still holds. How far they may be apart is bounded by the time that the
//! journal took to answer. Therefore a lease is trusted for less than it lasts
//! ([`crate::lease::deadline`]).

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use gofer_core::Timestamp;
use gofer_core::journal::{Journal, JournalError};
use tokio::time::Instant;

#[derive(Debug)]
pub(crate) struct Clock {
    start: Instant,
    /// What it showed at `start`, in microseconds, as is known by now.
    wall: AtomicI64,
    /// The latest time it has shown.
    shown: AtomicI64,
}

impl Clock {
    pub(crate) fn new(starts_at: Option<Timestamp>) -> Self {
        let wall = starts_at.unwrap_or_else(Timestamp::now).0;
        Self { start: Instant::now(), wall: AtomicI64::new(wall), shown: AtomicI64::new(i64::MIN) }
    }

    pub(crate) fn now(&self) -> Timestamp {
        let now = self.at(Instant::now());
        Timestamp(self.shown.fetch_max(now.0, Ordering::Relaxed).max(now.0))
    }

    /// When tokio's clock will show `at`, as far as is known.
    pub(crate) fn instant(&self, at: Timestamp) -> Instant {
        self.start + at.since(Timestamp(self.wall.load(Ordering::Relaxed)))
    }

    fn at(&self, instant: Instant) -> Timestamp {
        Timestamp(self.wall.load(Ordering::Relaxed))
            .after(instant.saturating_duration_since(self.start))
    }

    /// Follows the journal's clock, and returns how far apart the two may still be.
    ///
    /// # Errors
    /// The journal's own.
    pub(crate) async fn follow(&self, journal: &dyn Journal) -> Result<Duration, JournalError> {
        let asked = Instant::now();
        let Some(theirs) = journal.clock().await? else { return Ok(Duration::ZERO) };
        let answered = Instant::now();
        let off = self.agree(asked, answered, theirs);
        if off.unsigned_abs() > 1_000_000 {
            tracing::warn!(
                microseconds = off,
                "this host's clock and the database's disagree; the database's counts. Is the \
                 host's time synchronised?"
            );
        }
        Ok(answered.saturating_duration_since(asked))
    }

    /// Their clock showed `theirs` at some moment between the two. Where ours certainly showed
    /// something else, it is set to the nearest that it may have shown; returns by how many
    /// microseconds.
    fn agree(&self, asked: Instant, answered: Instant, theirs: Timestamp) -> i64 {
        let (earliest, latest) = (self.at(asked).0, self.at(answered).0);
        let off = if theirs.0 > latest { theirs.0 - latest } else { (theirs.0 - earliest).min(0) };
        self.wall.fetch_add(off, Ordering::Relaxed);
        off
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn it_is_set_only_where_it_is_certainly_wrong() {
        let clock = Clock::new(Some(Timestamp(10_000_000)));
        let asked = Instant::now();
        tokio::time::advance(SECOND).await;
        let answered = Instant::now();
        for possible in [10_000_000, 10_500_000, 11_000_000] {
            assert_eq!(clock.agree(asked, answered, Timestamp(possible)), 0);
        }
        assert_eq!(clock.now(), Timestamp(11_000_000));
        assert_eq!(clock.agree(asked, answered, Timestamp(15_000_000)), 4_000_000, "it was behind");
        assert_eq!(clock.now(), Timestamp(15_000_000));
        assert_eq!(clock.instant(Timestamp(16_000_000)), answered + SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_was_ahead_stands_still_until_it_is_right() {
        let clock = Clock::new(Some(Timestamp(10_000_000)));
        assert_eq!(clock.now(), Timestamp(10_000_000));
        let now = Instant::now();
        assert_eq!(clock.agree(now, now, Timestamp(7_000_000)), -3_000_000);
        assert_eq!(clock.now(), Timestamp(10_000_000));
        tokio::time::advance(SECOND * 4).await;
        assert_eq!(clock.now(), Timestamp(11_000_000));
    }
}
