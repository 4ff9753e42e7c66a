//! Spawns drivers, and sends to them. Where a run has no driver here, a claim looks for it.

use std::sync::Arc;

use gofer_core::journal::Lease;
use gofer_core::{RunKey, Timestamp};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::driver::{DriverParts, Driving, drive};
use super::first_step::FirstStep;
use super::registry::{DriverHandle, RunRegistry};
use crate::commit::writer::Writer;
use crate::inbox::{Inbox, Message};
use crate::lease::deadline::LeaseDeadline;
use crate::lease::{LeaseHolder, Leases};
use crate::logs::archive_queue::ArchiveQueue;
use crate::ports::Ports;
use crate::slots::Slots;

#[derive(Debug)]
pub(crate) struct RunDispatcher {
    pub(super) ports: Arc<Ports>,
    pub(super) leases: Arc<Leases>,
    pub(super) registry: RunRegistry,
    parts: Arc<DriverParts>,
}

impl RunDispatcher {
    pub(crate) fn new(
        ports: Arc<Ports>,
        leases: Arc<Leases>,
        slots: Arc<Slots>,
        writer: Writer,
        archive: Arc<ArchiveQueue>,
    ) -> Self {
        let parts = Arc::new(DriverParts { ports: ports.clone(), slots, writer, archive });
        Self { ports, leases, registry: RunRegistry::default(), parts }
    }

    /// How many runs are driven.
    pub(crate) fn active_runs(&self) -> usize {
        self.registry.len()
    }

    /// Whether this server drives the run.
    pub(crate) fn drives(&self, key: &RunKey) -> bool {
        self.registry.contains(key)
    }

    /// Whether it is worth a try to claim a run as it is inserted.
    pub(super) fn has_room(&self) -> bool {
        self.registry.len() < self.ports.config.max_active_runs
    }

    /// Drives a run from now on; `known` is how it stands, if that is known.
    pub(super) fn spawn_driver(
        self: &Arc<Self>,
        lease: Lease,
        deadline: LeaseDeadline,
        known: Option<FirstStep>,
    ) {
        let (driver, inbox) = Inbox::new();
        let (key, epoch) = (lease.run.clone(), lease.epoch);
        let (cancelled, ended) = (self.ports.shutdown.child_token(), CancellationToken::new());
        let handle = DriverHandle {
            epoch,
            serial: self.registry.count_started(),
            inbox: driver.clone(),
            deadline: deadline.clone(),
            cancelled: cancelled.clone(),
            ended: ended.clone(),
        };

        let before = self.registry.insert(&key, handle);
        let dispatcher = self.clone();
        let span = tracing::info_span!("run", run = %key);
        let driven = async move {
            let _ended = ended.drop_guard();

            // This server had lost the lease and did not know. Without this, a call that the old
            // driver has begun could arrive after what the new one repeats.
            if let Some(before) = before {
                before.cancelled.cancel();
                before.ended.cancelled().await;
            }

            let driving =
                Driving::new(dispatcher.parts.clone(), lease, deadline, cancelled, driver);
            let is_readable = drive(driving, known, inbox).await;

            dispatcher.registry.remove(key, epoch, is_readable);
            // Its end may make room for the next run of the pipeline.
            dispatcher.leases.want_claim();
        };
        self.ports.shutdown.spawn(driven.instrument(span));
    }

    /// Sends to the run's driver. A run without a driver is claimed: a cancelled one may leave its
    /// queue.
    pub(crate) async fn send(&self, key: &RunKey, message: Message) {
        match self.registry.inbox_or_note_undelivered(key) {
            Some(driver) => driver.send(message).await,
            None => self.leases.want_claim(),
        }
    }

    /// Lets the drivers of these runs look what is stored.
    pub(super) async fn reload(&self, of: impl Fn(&RunKey) -> bool) {
        self.registry.note_undelivered();
        self.registry.broadcast(of, || Message::Reload).await;
        self.leases.want_claim();
    }
}

impl LeaseHolder for Arc<RunDispatcher> {
    fn drive(&self, lease: Lease, deadline: LeaseDeadline) {
        self.spawn_driver(lease, deadline, None);
    }

    fn all_claimed(&self) {
        self.parts.slots.release_others(|run| self.registry.contains(run));
    }

    fn held_safely(&self, now: Timestamp) -> usize {
        self.registry.held_safely(now)
    }

    fn accounted(&self) -> usize {
        self.registry.len() + self.registry.unreadable()
    }

    fn unreadable(&self) -> usize {
        self.registry.unreadable()
    }

    fn drivers_started(&self) -> u64 {
        self.registry.drivers_started()
    }

    async fn extend(&self, started: u64, now: Timestamp, until: Timestamp, all: bool) {
        self.registry.extend(started, now, until, all).await;
    }

    async fn quiesce(&self) {
        self.registry.quiesce().await;
    }
}
