//! The drivers of this server by run: where to reach them, and until when their leases hold.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use gofer_core::{RunKey, Timestamp};
use tokio_util::sync::CancellationToken;

use crate::inbox::{Inbox, Message};
use crate::lease::deadline::LeaseDeadline;

#[derive(Debug, Default)]
pub(crate) struct RunRegistry {
    running: Mutex<BTreeMap<RunKey, DriverHandle>>,
    /// Runs that are held and cannot be loaded: they have no driver, and no other server need try.
    unreadable: Mutex<BTreeSet<RunKey>>,
    /// How many drivers there were.
    started: AtomicU64,
    /// How often a message found no driver, perhaps that of a run whose insert is not answered yet.
    undelivered: AtomicU64,
}

/// One driver, seen from outside.
#[derive(Debug)]
pub(super) struct DriverHandle {
    pub(super) epoch: u64,
    /// How many drivers there had been when it began, itself included.
    pub(super) serial: u64,
    pub(super) inbox: Inbox,
    pub(super) deadline: LeaseDeadline,
    /// Makes it end.
    pub(super) cancelled: CancellationToken,
    /// Cancelled once it has.
    pub(super) ended: CancellationToken,
}

impl RunRegistry {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<RunKey, DriverHandle>> {
        crate::lock(&self.running)
    }

    /// How many runs are driven.
    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    /// How many runs are held that cannot be loaded.
    pub(crate) fn unreadable(&self) -> usize {
        crate::lock(&self.unreadable).len()
    }

    pub(crate) fn contains(&self, key: &RunKey) -> bool {
        self.lock().contains_key(key)
    }

    /// How many certainly hold their lease at `now`.
    pub(super) fn held_safely(&self, now: Timestamp) -> usize {
        self.lock().values().filter(|run| run.deadline.holds(now)).count()
    }

    /// How many drivers there have been.
    pub(super) fn drivers_started(&self) -> u64 {
        self.started.load(Ordering::Relaxed)
    }

    /// Counts a driver that starts; its number.
    pub(super) fn count_started(&self) -> u64 {
        self.started.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Registers the driver of a run; the one that there was before.
    pub(super) fn insert(&self, key: &RunKey, driver: DriverHandle) -> Option<DriverHandle> {
        let before = self.lock().insert(key.clone(), driver);
        crate::lock(&self.unreadable).remove(key);
        before
    }

    /// A driver of this epoch has ended; there may be a later one by now.
    pub(super) fn remove(&self, key: RunKey, epoch: u64, is_readable: bool) {
        let mut running = self.lock();
        if running.get(&key).is_some_and(|run| run.epoch == epoch) {
            running.remove(&key);
            if !is_readable {
                crate::lock(&self.unreadable).insert(key);
            }
        }
    }

    /// The inbox of the run's driver.
    pub(super) fn inbox(&self, key: &RunKey) -> Option<Inbox> {
        self.lock().get(key).map(|run| run.inbox.clone())
    }

    /// The inbox of the run's driver; where there is none, a driver that is about to begin learns
    /// that it missed a message.
    pub(super) fn inbox_or_note_undelivered(&self, key: &RunKey) -> Option<Inbox> {
        self.inbox(key).or_else(|| {
            self.note_undelivered();
            self.inbox(key)
        })
    }

    /// Records that a message may find no driver.
    ///
    /// Without this, a cancel that arrives while a run's insert is in flight would be lost: there
    /// is no inbox yet. A driver registered before this is sent the message; for one registered
    /// later, the insert compares [`Self::undelivered_epoch`] and has it reload the run.
    pub(super) fn note_undelivered(&self) {
        self.undelivered.fetch_add(1, Ordering::Relaxed);
    }

    /// Changes whenever a message may have found no driver.
    pub(super) fn undelivered_epoch(&self) -> u64 {
        self.undelivered.load(Ordering::Relaxed)
    }

    /// Sends to the drivers of these runs. One that has ended has completed its run.
    pub(super) async fn broadcast(
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
            inbox.send(message()).await;
        }
    }

    /// Extends the deadline of every lease held when the renewal was sent: of the first `started`
    /// drivers. Leases claimed since then are left alone: the renewal may have run before the
    /// claim.
    ///
    /// Where not `all` were renewed that this server thought it held, or a deadline had passed,
    /// another server may have the lease. Such a driver finds out by a commit.
    pub(super) async fn extend(&self, started: u64, now: Timestamp, until: Timestamp, all: bool) {
        let mut uncertain = Vec::new();
        for run in self.lock().values().filter(|run| run.serial <= started) {
            if all && run.deadline.holds(now) {
                run.deadline.extend(until);
            } else {
                uncertain.push(run.inbox.clone());
            }
        }
        for driver in uncertain {
            driver.send(Message::LeaseExtended(until)).await;
        }
    }

    /// Makes every driver end, and waits until no call of theirs is under way. All leases are about
    /// to be released.
    pub(super) async fn quiesce(&self) {
        crate::lock(&self.unreadable).clear();
        let ended: Vec<_> = self
            .lock()
            .values()
            .inspect(|run| run.cancelled.cancel())
            .map(|run| run.ended.clone())
            .collect();
        for ended in ended {
            ended.cancelled().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use gofer_core::ExecutionId;

    use super::*;

    fn driver(serial: u64, until: Timestamp) -> DriverHandle {
        let ((inbox, _), deadline) = (Inbox::new(), LeaseDeadline::at(until));
        DriverHandle {
            epoch: 1,
            serial,
            inbox,
            deadline,
            cancelled: CancellationToken::new(),
            ended: CancellationToken::new(),
        }
    }

    #[tokio::test]
    async fn a_renewal_prolongs_only_what_was_held_when_it_was_sent() {
        let registry = RunRegistry::default();
        let [asked, soon, later] =
            [0, 1, 2].map(|seconds| Timestamp(0).after(Duration::from_secs(seconds)));

        for serial in [1, 2] {
            let id: ExecutionId = format!("n/p/{serial}/t/1").parse().unwrap();
            registry.insert(&id.run, driver(serial, soon));
        }

        registry.extend(1, asked, later, true).await;
        let held: Vec<bool> =
            registry.lock().values().map(|run| run.deadline.holds(soon)).collect();
        assert_eq!(
            held,
            [true, false],
            "the second was claimed since, and perhaps after the renewal took effect"
        );
    }
}
