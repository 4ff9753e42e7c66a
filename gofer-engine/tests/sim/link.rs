//! One server's connection to the world: every call of a backend or the journal goes through it,
//! and may be late, fail before or after it took effect, or be the last thing the server does.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use gofer_core::{BackendError, ErrorKind};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::world::{MS, Part, World};

/// When a server dies, beside at an instant: around its n-th call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DieAt {
    pub(crate) call: u64,
    /// After the call took effect, or before.
    pub(crate) after: bool,
}

#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) world: Arc<World>,
    /// Such as `a#2`: the second life of server a.
    pub(crate) name: String,
    pub(crate) dead: CancellationToken,
    die_at: Option<DieAt>,
    calls: AtomicU64,
    /// How often it stood still.
    pauses: AtomicU64,
    started: Instant,
    started_at: i64,
}

/// What is to happen around a call.
#[derive(Debug, Default)]
struct Fate {
    before_ms: u64,
    fails_before: bool,
    fails_after: bool,
    after_ms: u64,
    dies_before: bool,
    dies_after: bool,
}

impl Link {
    /// Called inside the server's runtime: its clock starts now.
    pub(crate) fn new(
        world: Arc<World>,
        name: String,
        die_at: Option<DieAt>,
        started_at: i64,
    ) -> Self {
        let (dead, calls, pauses) =
            (CancellationToken::new(), AtomicU64::new(0), AtomicU64::new(0));
        Self { world, name, dead, die_at, calls, pauses, started: Instant::now(), started_at }
    }

    /// This server's time, in microseconds of the world.
    pub(crate) fn now(&self) -> i64 {
        self.started_at
            + i64::try_from(self.started.elapsed().as_micros()).expect("a short simulation")
    }

    /// When this server's clock shows `at`.
    pub(crate) fn instant(&self, at: i64) -> Instant {
        self.started + Duration::from_micros(u64::try_from(at - self.started_at).unwrap_or(0))
    }

    pub(crate) fn trace(&self, what: impl FnOnce() -> String) {
        self.world.trace(self.now(), &self.name, what);
    }

    /// Carries out a call as the world allows.
    pub(crate) async fn call<T, E: From<BackendError> + std::fmt::Display>(
        &self,
        part: Part,
        what: &str,
        effect: impl Future<Output = Result<T, E>> + Send,
    ) -> Result<T, E> {
        self.survive().await;
        let fate = self.fate(part);
        let pauses = self.pauses.load(Ordering::Relaxed);
        sleep(fate.before_ms).await;
        self.survive().await;

        // What had not arrived when its server stood still never does: the connection is gone.
        let cut = self.pauses.load(Ordering::Relaxed) != pauses;
        if fate.dies_before {
            self.die(what, "before").await;
        }

        if cut
            || fate.fails_before
            || (self.world.is_out(part, self.now()) && !self.world.is_calm())
        {
            self.trace(|| format!("{what} -> fails before"));
            return Err(unavailable(what).into());
        }

        self.world.reach(self.now());
        let result = effect.await;
        self.trace(|| match &result {
            Ok(_) if fate.fails_after => format!("{what} -> ok, but fails after"),
            Ok(_) => format!("{what} -> ok"),
            Err(error) => format!("{what} -> {error}"),
        });

        if fate.dies_after {
            self.die(what, "after").await;
        }

        self.linger(fate.after_ms).await;
        if fate.fails_after { Err(unavailable(what).into()) } else { result }
    }

    /// An answer is on its way.
    pub(crate) async fn linger(&self, ms: u64) {
        sleep(ms).await;
        self.survive().await;
    }

    fn fate(&self, part: Part) -> Fate {
        let call = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        if self.world.is_calm() {
            return Fate::default();
        }

        let dies = self.die_at.filter(|die| die.call == call);
        let faults = &self.world.faults;
        let mut fate = self.world.random(|rng| {
            let delay = |rng: &mut crate::rng::Rng| match rng.below(1_000) {
                draw if draw < u64::from(faults.hang) => rng.between(25_000, 40_000),
                draw if draw < u64::from(faults.hang + faults.slow) => {
                    rng.below(faults.slow_ms + 1)
                }
                _ => rng.below(faults.usual_ms + 1),
            };

            let (before_ms, after_ms) = (delay(rng), delay(rng));
            let fails = rng.chance(faults.error);
            let fails_before = fails && rng.chance(500);

            Fate {
                before_ms,
                after_ms,
                fails_before,
                fails_after: fails && !fails_before,
                ..Fate::default()
            }
        });

        // The writer has no limit of time of its own around the journal; a database answers or
        // fails.
        if part == Part::Journal {
            (fate.before_ms, fate.after_ms) = (fate.before_ms.min(5_000), fate.after_ms.min(5_000));
        }

        (fate.dies_before, fate.dies_after) =
            (dies.is_some_and(|die| !die.after), dies.is_some_and(|die| die.after));
        fate
    }

    /// Unless peace has come since the call began.
    async fn die(&self, what: &str, when: &str) {
        if self.world.is_calm() {
            return;
        }
        self.trace(|| format!("DIES {when} {what}"));
        self.dead.cancel();
        std::future::pending().await
    }

    /// Never returns on a dead server.
    pub(crate) async fn survive(&self) {
        if self.dead.is_cancelled() {
            std::future::pending().await
        }
    }

    /// It stood still until now.
    pub(crate) fn wakes_up(&self) {
        self.pauses.fetch_add(1, Ordering::Relaxed);
    }

    /// Kills the server at this instant.
    pub(crate) fn kill(&self) {
        if !self.dead.is_cancelled() {
            self.trace(|| "KILLED".to_owned());
            self.dead.cancel();
        }
    }
}

async fn sleep(ms: u64) {
    if ms > 0 {
        tokio::time::sleep(Duration::from_micros(ms * MS.unsigned_abs())).await;
    }
}

pub(crate) fn unavailable(what: &str) -> BackendError {
    BackendError::new(
        ErrorKind::Unavailable,
        format!("`{what}` failed because the simulation wanted it"),
    )
}
