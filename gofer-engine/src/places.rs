//! Places for executions in flight: a bound on how many a server starts. What a server finds running, because another
//! server or an earlier life started it, takes a place too, if need be one too many: new ones then wait the longer.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use gofer_core::{ExecutionId, RunKey};
use tokio::sync::Semaphore;

#[derive(Debug)]
pub(crate) struct Places {
    free: Semaphore,
    /// Places taken though none was free.
    excess: Mutex<usize>,
    /// Whose they are; whoever drives the run gives them back, also when that is another driver than before.
    kept: Mutex<BTreeMap<ExecutionId, Place>>,
    limit: usize,
}

/// One place; dropped, it is free for the next.
#[derive(Debug)]
pub(crate) struct Place(Arc<Places>);

impl Places {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { free: Semaphore::new(limit), excess: Mutex::new(0), kept: Mutex::default(), limit })
    }

    /// Waits for a place; who waits longest goes first.
    pub(crate) async fn wait(self: &Arc<Self>) -> Place {
        self.free.acquire().await.expect("the semaphore is never closed").forget();
        Place(self.clone())
    }

    /// Gives the execution this place, until [`Self::release`].
    pub(crate) fn keep(&self, id: &ExecutionId, place: Place) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).entry(id.clone()).or_insert(place);
    }

    /// Takes a place for an execution that is in flight already, unless it has one.
    pub(crate) fn take(self: &Arc<Self>, id: &ExecutionId) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.entry(id.clone()).or_insert_with(|| self.take_one());
    }

    /// The execution has ended.
    pub(crate) fn release(&self, id: &ExecutionId) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    /// Releases those of the run that are not in flight.
    pub(crate) fn release_run(&self, run: &RunKey, in_flight: impl Fn(&ExecutionId) -> bool) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let of_run = kept.keys().filter(|id| id.run == *run && !in_flight(id));
        for id in of_run.cloned().collect::<Vec<_>>() {
            kept.remove(&id);
        }
    }

    /// Releases those of runs that nobody here drives: they are another server's, or over.
    pub(crate) fn release_others(&self, driven: impl Fn(&RunKey) -> bool) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).retain(|id, _| driven(&id.run));
    }

    fn take_one(self: &Arc<Self>) -> Place {
        match self.free.try_acquire() {
            Ok(permit) => permit.forget(),
            Err(_) => *self.excess.lock().unwrap_or_else(PoisonError::into_inner) += 1,
        }
        Place(self.clone())
    }

    /// How many are taken.
    pub(crate) fn taken(&self) -> usize {
        let excess = *self.excess.lock().unwrap_or_else(PoisonError::into_inner);
        self.limit - self.free.available_permits() + excess
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut excess = self.0.excess.lock().unwrap_or_else(PoisonError::into_inner);
        match excess.checked_sub(1) {
            Some(less) => *excess = less,
            None => self.0.free.add_permits(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn what_is_found_running_counts_though_nothing_is_free() {
        let places = Places::new(1);
        let (first, found) = (places.take_one(), places.take_one());
        assert_eq!(places.taken(), 2);
        drop(first);
        assert!(places.wait().now_or_never().is_none(), "one is still in flight, and one is allowed");
        drop(found);
        assert!(places.wait().now_or_never().is_some());
        assert_eq!(places.taken(), 0);
    }
}
