//! Places for executions in flight: a bound on how many a server starts, in all and of one
//! pipeline, and a fair queue before it. What a server finds running, because another server or an
//! earlier life started it, takes a place too, if need be one too many: new ones then wait the
//! longer.

mod fair_queue;
pub(crate) mod shares;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use gofer_core::{ExecutionId, RunKey};
use tokio::sync::oneshot;

pub(crate) use fair_queue::Bounds;
use fair_queue::{Owner, Queue, Ticket};

#[derive(Debug)]
pub(crate) struct Places {
    queue: Mutex<Queue<oneshot::Sender<()>>>,
    /// Whose they are; whoever drives the run gives them back, also when that is another driver
    /// than before.
    kept: Mutex<BTreeMap<ExecutionId, Place>>,
}

/// One place; dropped, it is free for the next.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    owner: Owner,
}

impl Places {
    /// So many in all, and so many of one pipeline.
    pub(crate) fn new(limit: usize, limit_per_pipeline: Option<usize>) -> Arc<Self> {
        Arc::new(Self {
            queue: Mutex::new(Queue::new(limit, limit_per_pipeline)),
            kept: Mutex::default(),
        })
    }

    /// Waits for a place for an execution of this run.
    pub(crate) async fn wait(self: &Arc<Self>, run: &RunKey) -> Place {
        let owner = Owner::from(run);
        let (turn, my_turn) = oneshot::channel();
        let mut waiting = {
            let mut queue = self.queue();
            if queue.try_take(&owner) {
                return Place { places: self.clone(), owner };
            }
            let ticket = queue.join(&owner, turn);
            Waiting { places: self, owner: owner.clone(), ticket: Some(ticket) }
        };
        my_turn.await.expect("the queue drops no wait that was not given up");
        waiting.ticket = None;
        Place { places: self.clone(), owner }
    }

    /// Why an execution of this run waits for its place.
    pub(crate) fn why(&self, run: &RunKey) -> String {
        self.queue().why(&Owner::from(run))
    }

    /// Gives the execution this place, until [`Self::release`].
    pub(crate) fn keep(&self, id: &ExecutionId, place: Place) {
        self.kept().entry(id.clone()).or_insert(place);
    }

    /// Takes a place for an execution that is in flight already, unless it has one.
    pub(crate) fn take(self: &Arc<Self>, id: &ExecutionId) {
        self.kept().entry(id.clone()).or_insert_with(|| self.take_one(&id.run));
    }

    /// The execution has ended.
    pub(crate) fn release(&self, id: &ExecutionId) {
        self.kept().remove(id);
    }

    /// Releases those of the run that are not in flight.
    pub(crate) fn release_run(&self, run: &RunKey, in_flight: impl Fn(&ExecutionId) -> bool) {
        let mut kept = self.kept();
        let of_run = kept.keys().filter(|id| id.run == *run && !in_flight(id));
        for id in of_run.cloned().collect::<Vec<_>>() {
            kept.remove(&id);
        }
    }

    /// Releases those of runs that nobody here drives: they are another server's, or over.
    pub(crate) fn release_others(&self, driven: impl Fn(&RunKey) -> bool) {
        self.kept().retain(|id, _| driven(&id.run));
    }

    /// How many are taken.
    pub(crate) fn taken(&self) -> usize {
        self.queue().taken()
    }

    fn take_one(self: &Arc<Self>, run: &RunKey) -> Place {
        let owner = Owner::from(run);
        self.queue().take(&owner);
        Place { places: self.clone(), owner }
    }

    /// Bounds namespaces from now on. Who has more than that keeps it.
    pub(crate) fn bound(&self, bounds: Bounds) {
        let mut queue = self.queue();
        queue.bound(bounds);
        Self::admit(&mut queue);
    }

    /// A place came free: whose turn it is gets it.
    fn give_back(&self, owner: &Owner) {
        let mut queue = self.queue();
        queue.give_back(owner);
        Self::admit(&mut queue);
    }

    fn admit(queue: &mut Queue<oneshot::Sender<()>>) {
        while let Some(turn) = queue.admit() {
            // Who gives up just now gives the place back as well.
            let _ = turn.send(());
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue<oneshot::Sender<()>>> {
        crate::lock(&self.queue)
    }

    /// Places are dropped under this lock, which takes the queue's: never the other way round.
    fn kept(&self) -> MutexGuard<'_, BTreeMap<ExecutionId, Place>> {
        crate::lock(&self.kept)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.give_back(&self.owner);
    }
}

/// A wait; dropped before its end, it leaves no hole in the queue.
struct Waiting<'a> {
    places: &'a Places,
    owner: Owner,
    ticket: Option<Ticket>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket.take() else { return };
        let still_waiting = self.places.queue().leave(&self.owner, ticket);
        if !still_waiting {
            // It was its turn, and nobody came.
            self.places.give_back(&self.owner);
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
        let places = Places::new(1, None);
        let (first, found) = (places.take_one(&run("ci")), places.take_one(&run("ci")));
        assert_eq!(places.taken(), 2);
        drop(first);
        assert!(
            places.wait(&run("ci")).now_or_never().is_none(),
            "one is still in flight, and one is allowed"
        );
        drop(found);
        assert!(places.wait(&run("ci")).now_or_never().is_some());
        assert_eq!(places.taken(), 0);
    }

    #[tokio::test]
    async fn a_wait_that_is_given_up_leaves_no_hole() {
        let places = Places::new(1, None);
        let ci = run("ci");
        let first = places.wait(&ci).await;
        let (mut one, mut two) = (Box::pin(places.wait(&ci)), Box::pin(places.wait(&ci)));
        assert!(one.as_mut().now_or_never().is_none() && two.as_mut().now_or_never().is_none());
        drop(first);
        // It is the turn of the first, which goes away before it looks.
        drop(one);
        drop(two.await);
        assert_eq!(places.taken(), 0);
    }

    #[tokio::test]
    async fn a_flood_of_one_pipeline_keeps_no_other_waiting() {
        let places = Places::new(2, None);
        let in_flight = [places.wait(&run("flood")).await, places.wait(&run("flood")).await];
        let flood_run = run("flood");
        let mut flood: Vec<_> = (0..10_000).map(|_| Box::pin(places.wait(&flood_run))).collect();
        assert!(flood.iter_mut().all(|wait| wait.as_mut().now_or_never().is_none()));
        let other_run = run("other");
        let mut other = Box::pin(places.wait(&other_run));
        assert!(other.as_mut().now_or_never().is_none());
        assert_eq!(places.why(&other_run), "waiting: 2 of 2 executions of this server in flight");
        drop(in_flight);
        assert!(
            other.as_mut().now_or_never().is_some(),
            "its place came with the first that was free"
        );
    }
}
