//! Slots: the right of an execution to be in flight. They bound how many a server starts: in all,
//! of one pipeline, and of one namespace. A fair queue waits before them.
//!
//! An execution that a server finds running, because another server or an earlier life started it,
//! has a slot too, if need be one too many. New ones then wait the longer.
//!
//! ```text
//!  execution/start ──acquire(run)──► Slots ──join──► Queue (fair_queue): whose turn is it?
//!        ▲                            │ ▲              ▲
//!        └────────── Slot ────────────┘ │              │ bound(namespaces)
//!  run/driver ──occupy, release(id)─────┘           SlotShares ◄──heartbeat── journal
//!  run/dispatcher ──release_others──────┘              ▲ quotas_changed
//! ```

pub(crate) mod fair_queue;
pub(crate) mod shares;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use gofer_core::{ExecutionId, RunKey};
use tokio::sync::oneshot;

use self::fair_queue::{Bounds, Owner, Queue, Ticket};
use crate::metrics::EngineMetrics;

#[derive(Debug)]
pub(crate) struct Slots {
    queue: Mutex<Queue<oneshot::Sender<()>>>,
    /// Those of executions that are in flight. The driver of the run releases them, also when that
    /// is another driver than the one that acquired them.
    assigned: Mutex<BTreeMap<ExecutionId, Slot>>,
    metrics: EngineMetrics,
}

/// One slot; dropped, it is free for the next.
#[derive(Debug)]
pub(crate) struct Slot {
    slots: Arc<Slots>,
    owner: Owner,
}

impl Slots {
    /// So many in all, and so many of one pipeline.
    pub(crate) fn new(
        limit: usize,
        limit_per_pipeline: Option<usize>,
        metrics: EngineMetrics,
    ) -> Arc<Self> {
        Arc::new(Self {
            queue: Mutex::new(Queue::new(limit, limit_per_pipeline)),
            assigned: Mutex::default(),
            metrics,
        })
    }

    /// Waits for a slot for an execution of this run.
    pub(crate) async fn acquire(self: &Arc<Self>, run: &RunKey) -> Slot {
        let owner = Owner::from(run);
        let (turn, my_turn) = oneshot::channel();
        let mut waiting = {
            let mut queue = self.queue();
            if queue.try_take(&owner) {
                return Slot { slots: self.clone(), owner };
            }
            let ticket = queue.join(&owner, turn);
            Waiting { slots: self, owner: owner.clone(), ticket: Some(ticket) }
        };

        let _measured = self.metrics.slot_wanted();
        my_turn.await.expect("the queue drops no wait that was not given up");
        waiting.ticket = None;
        Slot { slots: self.clone(), owner }
    }

    /// Why an execution of this run waits for its slot.
    pub(crate) fn why(&self, run: &RunKey) -> String {
        self.queue().why(&Owner::from(run))
    }

    /// Gives the execution this slot, until [`Self::release`].
    pub(crate) fn assign(&self, id: &ExecutionId, slot: Slot) {
        self.assigned().entry(id.clone()).or_insert(slot);
    }

    /// Counts an execution that is in flight already, unless it has a slot.
    pub(crate) fn occupy(self: &Arc<Self>, id: &ExecutionId) {
        self.assigned().entry(id.clone()).or_insert_with(|| self.occupy_one(&id.run));
    }

    /// The execution has ended.
    pub(crate) fn release(&self, id: &ExecutionId) {
        self.assigned().remove(id);
    }

    /// Releases those of the run that are not in flight.
    pub(crate) fn release_run(&self, run: &RunKey, in_flight: impl Fn(&ExecutionId) -> bool) {
        let mut assigned = self.assigned();
        let of_run = assigned.keys().filter(|id| id.run == *run && !in_flight(id));
        for id in of_run.cloned().collect::<Vec<_>>() {
            assigned.remove(&id);
        }
    }

    /// Releases those of runs that are not driven here: they are another server's, or over.
    pub(crate) fn release_others(&self, driven: impl Fn(&RunKey) -> bool) {
        self.assigned().retain(|id, _| driven(&id.run));
    }

    /// How many are taken.
    pub(crate) fn taken(&self) -> usize {
        self.queue().taken()
    }

    fn occupy_one(self: &Arc<Self>, run: &RunKey) -> Slot {
        let owner = Owner::from(run);
        self.queue().take(&owner);
        Slot { slots: self.clone(), owner }
    }

    /// Bounds namespaces from now on. One that has more than that keeps it.
    pub(crate) fn bound(&self, bounds: Bounds) {
        let mut queue = self.queue();
        queue.bound(bounds);
        Self::admit(&mut queue);
    }

    /// A slot came free: the wait whose turn it is gets it.
    fn give_back(&self, owner: &Owner) {
        let mut queue = self.queue();
        queue.give_back(owner);
        Self::admit(&mut queue);
    }

    fn admit(queue: &mut Queue<oneshot::Sender<()>>) {
        while let Some(turn) = queue.admit() {
            // A wait that is given up just now gives the slot back as well.
            let _ = turn.send(());
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue<oneshot::Sender<()>>> {
        crate::lock(&self.queue)
    }

    /// Slots are dropped under this lock, which takes the queue's: never the other way round.
    fn assigned(&self) -> MutexGuard<'_, BTreeMap<ExecutionId, Slot>> {
        crate::lock(&self.assigned)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.give_back(&self.owner);
    }
}

/// A wait; dropped before its end, it leaves no hole in the queue.
struct Waiting<'a> {
    slots: &'a Slots,
    owner: Owner,
    ticket: Option<Ticket>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket.take() else { return };
        let still_waiting = self.slots.queue().leave(&self.owner, ticket);
        if !still_waiting {
            // It was its turn, and it is not there to have it.
            self.slots.give_back(&self.owner);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use gofer_core::{NamespaceId, PipelineId, RunNumber};

    use super::*;

    fn run(pipeline: &str) -> RunKey {
        let (namespace, pipeline) =
            (NamespaceId::new("default").unwrap(), PipelineId::new(pipeline).unwrap());
        RunKey { namespace, pipeline, run: RunNumber(1) }
    }

    #[test]
    fn what_is_found_running_counts_though_nothing_is_free() {
        let slots = Slots::new(1, None, EngineMetrics::default());
        let (first, found) = (slots.occupy_one(&run("ci")), slots.occupy_one(&run("ci")));
        assert_eq!(slots.taken(), 2);
        drop(first);
        assert!(
            slots.acquire(&run("ci")).now_or_never().is_none(),
            "one is still in flight, and one is allowed"
        );
        drop(found);
        assert!(slots.acquire(&run("ci")).now_or_never().is_some());
        assert_eq!(slots.taken(), 0);
    }

    #[tokio::test]
    async fn a_wait_that_is_given_up_leaves_no_hole() {
        let slots = Slots::new(1, None, EngineMetrics::default());
        let ci = run("ci");
        let first = slots.acquire(&ci).await;
        let (mut one, mut two) = (Box::pin(slots.acquire(&ci)), Box::pin(slots.acquire(&ci)));
        assert!(one.as_mut().now_or_never().is_none() && two.as_mut().now_or_never().is_none());
        drop(first);
        // It is the turn of the first, which goes away before it looks.
        drop(one);
        drop(two.await);
        assert_eq!(slots.taken(), 0);
    }

    #[tokio::test]
    async fn a_flood_of_one_pipeline_keeps_no_other_waiting() {
        let slots = Slots::new(2, None, EngineMetrics::default());
        let in_flight = [slots.acquire(&run("flood")).await, slots.acquire(&run("flood")).await];
        let flood_run = run("flood");
        let mut flood: Vec<_> = (0..10_000).map(|_| Box::pin(slots.acquire(&flood_run))).collect();
        assert!(flood.iter_mut().all(|wait| wait.as_mut().now_or_never().is_none()));
        let other_run = run("other");
        let mut other = Box::pin(slots.acquire(&other_run));
        assert!(other.as_mut().now_or_never().is_none());
        assert_eq!(slots.why(&other_run), "waiting: 2 of 2 executions of this server in flight");
        drop(in_flight);
        assert!(
            other.as_mut().now_or_never().is_some(),
            "its slot came with the first that was free"
        );
    }
}
