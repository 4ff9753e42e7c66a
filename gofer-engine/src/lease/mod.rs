//! Leases: the right to drive a run, for a while and by one server.
//!
//! ```text
//!  run/insert ──want_claim, note_maybe_orphaned──► Leases ◄──want_claim── run/events, quotas
//!                                                    │ wakes
//!                              journal ◄──claim──  claim  ──drive(lease, deadline)──► LeaseHolder
//!                              journal ◄──renew──  renew  ──extend(deadlines)───────► (run/)
//!                                 │                  │ more leases than drivers?
//!                                 │                  └──note_maybe_orphaned──► Leases
//!                                 └──what time it is──► clock
//!  journal ◄──who leads?── leader ──start, stop──► retention, sweep of logs
//! ```

pub(crate) mod claim;
pub(crate) mod deadline;
pub(crate) mod leader;
pub(crate) mod renew;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use gofer_core::Timestamp;
use gofer_core::journal::Lease;
use tokio::sync::{Notify, RwLock, RwLockReadGuard};

use crate::ports::Ports;

use self::deadline::LeaseDeadline;

/// What this server knows of its leases beside those that are driven.
#[derive(Debug)]
pub(crate) struct Leases {
    ports: Arc<Ports>,
    claim_wanted: Notify,
    /// A call that may take leases was answered with an error: this server may hold some for
    /// which it has no driver.
    maybe_orphaned: AtomicBool,
    /// Read while a run is inserted, until its driver is registered; written while all leases are
    /// released. Without this, the lease that an insert has just taken would be released with the
    /// others, and its driver would not know.
    inserting: RwLock<()>,
}

impl Leases {
    pub(crate) fn new(ports: Arc<Ports>) -> Self {
        Self {
            ports,
            claim_wanted: Notify::new(),
            maybe_orphaned: AtomicBool::new(false),
            inserting: RwLock::new(()),
        }
    }

    /// There may be a run to claim.
    pub(crate) fn want_claim(&self) {
        self.claim_wanted.notify_one();
    }

    /// There may be leases of this server without a driver; the next claim looks.
    pub(crate) fn note_maybe_orphaned(&self) {
        self.maybe_orphaned.store(true, Ordering::Relaxed);
    }

    /// To be held while a run is inserted, until its driver is registered.
    pub(crate) async fn inserting(&self) -> RwLockReadGuard<'_, ()> {
        self.inserting.read().await
    }
}

/// Drives the runs whose leases this server holds.
pub(crate) trait LeaseHolder: Send + Sync {
    /// Drives a run that was claimed.
    fn drive(&self, lease: Lease, deadline: LeaseDeadline);

    /// Everything that could be claimed is: what is kept for runs of other servers can go.
    fn all_claimed(&self);

    /// How many leases are certainly held at `now`.
    fn held_safely(&self, now: Timestamp) -> usize;

    /// How many leases are accounted for, at most: of drivers, and of runs that cannot be driven.
    fn accounted(&self) -> usize;

    /// How many runs are held that cannot be loaded.
    fn unreadable(&self) -> usize;

    /// How many drivers there have been.
    fn drivers_started(&self) -> u64;

    /// Extends the deadline of every lease held when the renewal was sent, see
    /// [`crate::run::registry::RunRegistry::extend`].
    fn extend(
        &self,
        started: u64,
        now: Timestamp,
        until: Timestamp,
        all: bool,
    ) -> impl Future<Output = ()> + Send;

    /// Makes every driver end, and waits until no call of theirs is under way. All leases are about
    /// to be released.
    fn quiesce(&self) -> impl Future<Output = ()> + Send;
}
