//! The engine's time: the system's to begin with (or what a simulation says), then moved by tokio's clock, so that it
//! never goes back and a test can pause it.

use gofer_core::Timestamp;
use tokio::time::Instant;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    wall: Timestamp,
    start: Instant,
}

impl Clock {
    pub(crate) fn new(starts_at: Option<Timestamp>) -> Self {
        Self { wall: starts_at.unwrap_or_else(Timestamp::now), start: Instant::now() }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.wall.after(self.start.elapsed())
    }

    /// When tokio's clock will show `at`.
    pub(crate) fn instant(&self, at: Timestamp) -> Instant {
        self.start + at.since(self.wall)
    }
}
