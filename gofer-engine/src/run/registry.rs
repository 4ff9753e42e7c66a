//! Who drives which run on this server.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use gofer_core::journal::Lease;
use gofer_core::{RunKey, Timestamp};
use tokio_util::sync::CancellationToken;

use crate::engine::Shared;
use crate::inbox::{Inbox, Message};
use crate::lease::deadline::Freshness;
use crate::run::driver::{Driving, drive};
use crate::run::first_step::Begun;

#[derive(Debug, Default)]
pub(crate) struct Drivers {
    running: Mutex<BTreeMap<RunKey, Driver>>,
    /// Runs that are held and cannot be loaded: nobody can drive them, and nobody else need try.
    unreadable: Mutex<BTreeSet<RunKey>>,
    /// How many drivers there were.
    begun: AtomicU64,
    /// How often something was told that may have missed a driver: one of a run whose insert is not
    /// answered yet.
    missed: AtomicU64,
}

#[derive(Debug)]
struct Driver {
    epoch: u64,
    /// How many drivers there had been when it began, itself included.
    serial: u64,
    inbox: Inbox,
    freshness: Freshness,
    /// Makes it end.
    gone: CancellationToken,
    /// Cancelled once it has.
    ended: CancellationToken,
}

impl Drivers {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<RunKey, Driver>> {
        crate::lock(&self.running)
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    /// How many leases are accounted for, at most: of drivers, and of runs that cannot be driven.
    pub(crate) fn known(&self) -> usize {
        self.len() + self.unreadable()
    }

    /// How many runs are held that cannot be loaded.
    pub(crate) fn unreadable(&self) -> usize {
        crate::lock(&self.unreadable).len()
    }

    pub(crate) fn contains(&self, key: &RunKey) -> bool {
        self.lock().contains_key(key)
    }

    /// How many certainly hold their lease at `now`.
    pub(crate) fn holding(&self, now: Timestamp) -> usize {
        self.lock().values().filter(|run| run.freshness.holds(now)).count()
    }

    /// How many drivers there have been.
    pub(crate) fn begun(&self) -> u64 {
        self.begun.load(Ordering::Relaxed)
    }

    /// Where to reach the run's driver.
    pub(crate) fn inbox(&self, key: &RunKey) -> Option<Inbox> {
        self.lock().get(key).map(|run| run.inbox.clone())
    }

    /// Where to reach the run's driver; where there is none, one that is about to begin learns that
    /// it missed something.
    pub(crate) fn reach(&self, key: &RunKey) -> Option<Inbox> {
        self.inbox(key).or_else(|| {
            self.miss();
            self.inbox(key)
        })
    }

    /// Something may be told to nobody. A driver that began before this is told itself; one that
    /// begins later sees it.
    pub(crate) fn miss(&self) {
        self.missed.fetch_add(1, Ordering::Relaxed);
    }

    /// Changes whenever a driver may have been missed.
    pub(crate) fn missed(&self) -> u64 {
        self.missed.load(Ordering::Relaxed)
    }

    /// Tells the drivers of these runs. One that is gone has completed its run.
    pub(crate) async fn tell_all(
        &self,
        of: impl Fn(&RunKey) -> bool,
        message: impl Fn() -> Message,
    ) {
        let inboxes: Vec<_> = self
            .lock()
            .iter()
            .filter(|(key, _)| of(key))
            .map(|(_, run)| run.inbox.clone())
            .collect();
        for inbox in inboxes {
            inbox.tell(message()).await;
        }
    }

    /// Whatever leases this server held when so many drivers had begun were renewed until then;
    /// `all` unless fewer were than it thought. Who may have lost its lease finds out by a commit.
    /// Later ones were claimed when the renewal was on its way, and perhaps after it.
    pub(crate) async fn prolonged(&self, begun: u64, now: Timestamp, until: Timestamp, all: bool) {
        let mut doubtful = Vec::new();
        for run in self.lock().values().filter(|run| run.serial <= begun) {
            if all && run.freshness.holds(now) {
                run.freshness.prolong(until);
            } else {
                doubtful.push(run.inbox.clone());
            }
        }
        for driver in doubtful {
            driver.tell(Message::Prolonged(until)).await;
        }
    }

    /// Makes every driver end, and waits until no call of theirs is under way. All leases are about
    /// to be given up.
    pub(crate) async fn rest(&self) {
        crate::lock(&self.unreadable).clear();
        let ended: Vec<_> = self
            .lock()
            .values()
            .inspect(|run| run.gone.cancel())
            .map(|run| run.ended.clone())
            .collect();
        for ended in ended {
            ended.cancelled().await;
        }
    }
}

impl Shared {
    /// Drives a run from now on; `known` is how it stands, if that is known.
    pub(crate) fn begin(
        self: &Arc<Self>,
        lease: Lease,
        freshness: Freshness,
        known: Option<Begun>,
    ) {
        let (driver, inbox) = Inbox::new();
        let (key, epoch) = (lease.run.clone(), lease.epoch);
        let (gone, ended) = (self.stop.child_token(), CancellationToken::new());
        let entry = Driver {
            epoch,
            serial: self.runs.begun.fetch_add(1, Ordering::Relaxed) + 1,
            inbox: driver.clone(),
            freshness: freshness.clone(),
            gone: gone.clone(),
            ended: ended.clone(),
        };

        let before = self.runs.lock().insert(key.clone(), entry);
        crate::lock(&self.runs.unreadable).remove(&key);
        let shared = self.clone();
        self.tasks.spawn(async move {
            let _ended = ended.drop_guard();
            // This server had lost the lease and did not know; what it began must be over before
            // anything is repeated.
            if let Some(before) = before {
                before.gone.cancel();
                before.ended.cancelled().await;
            }

            let readable =
                drive(Driving::new(shared.clone(), lease, freshness, gone, driver), known, inbox)
                    .await;
            let mut runs = shared.runs.lock();

            if runs.get(&key).is_some_and(|run| run.epoch == epoch) {
                runs.remove(&key);
                if !readable {
                    crate::lock(&shared.runs.unreadable).insert(key);
                }
            }

            drop(runs);
            // Its end may make room for the next run of the pipeline.
            shared.claim_wanted.notify_one();
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use gofer_core::ExecutionId;

    use super::*;

    fn driver(serial: u64, until: Timestamp) -> Driver {
        let ((inbox, _), freshness) = (Inbox::new(), Freshness::until(until));
        Driver {
            epoch: 1,
            serial,
            inbox,
            freshness,
            gone: CancellationToken::new(),
            ended: CancellationToken::new(),
        }
    }

    #[tokio::test]
    async fn a_renewal_prolongs_only_what_was_held_when_it_was_sent() {
        let drivers = Drivers::default();
        let [asked, soon, later] =
            [0, 1, 2].map(|seconds| Timestamp(0).after(Duration::from_secs(seconds)));

        for serial in [1, 2] {
            let id: ExecutionId = format!("n/p/{serial}/t/1").parse().unwrap();
            drivers.lock().insert(id.run, driver(serial, soon));
        }

        drivers.prolonged(1, asked, later, true).await;
        let held: Vec<bool> =
            drivers.lock().values().map(|run| run.freshness.holds(soon)).collect();
        assert_eq!(
            held,
            [true, false],
            "the second was claimed since, and perhaps after the renewal took effect"
        );
    }
}
