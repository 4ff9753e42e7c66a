//! How far the event stream has told of each job.
//!
//! Nomad publishes an event before the change can be read (2.0.5, `nomad/state/state_changes.go`:
//! `Commit`), so what is read right after an event may be older than the event.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::calls::Place;
use crate::http::types::{Alloc, Job};

/// The jobs, each with what was heard last.
#[derive(Debug, Default)]
pub(crate) struct Heard(Mutex<HashMap<Place, Indexes>>);

/// Raft indexes of the last changes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Indexes {
    job: u64,
    allocs: u64,
}

impl Indexes {
    /// Whether a job and its allocations, as they were read, are as new as this.
    pub(crate) fn are_seen_in(self, job: &Job, allocs: &[Alloc]) -> bool {
        let newest = allocs.iter().map(|alloc| alloc.modify_index).max().unwrap_or(0);
        self.job <= job.modify_index && self.allocs <= newest
    }
}

impl Heard {
    /// The event stream told of a job.
    pub(crate) fn job(&self, namespace: &str, job: &Job) {
        self.note(place(namespace, &job.id), Indexes { job: job.modify_index, allocs: 0 });
    }

    /// The event stream told of an allocation.
    pub(crate) fn alloc(&self, namespace: &str, alloc: &Alloc) {
        self.note(place(namespace, &alloc.job_id), Indexes { job: 0, allocs: alloc.modify_index });
    }

    fn note(&self, place: Place, now: Indexes) {
        let mut all = self.lock();
        let heard = all.entry(place).or_default();
        *heard = Indexes { job: heard.job.max(now.job), allocs: heard.allocs.max(now.allocs) };
    }

    pub(crate) fn of(&self, place: &Place) -> Indexes {
        self.lock().get(place).copied().unwrap_or_default()
    }

    /// Forgets the jobs of a namespace that are not among these.
    pub(crate) fn keep(&self, namespace: &str, jobs: &HashSet<String>) {
        self.lock().retain(|place, _| place.namespace != namespace || jobs.contains(&place.job_id));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Place, Indexes>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn place(namespace: &str, job_id: &str) -> Place {
    Place { namespace: namespace.to_owned(), job_id: job_id.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_older_than_what_was_heard_is_known() {
        let heard = Heard::default();
        let job = |index| Job { id: "j".into(), modify_index: index, ..Job::default() };
        let alloc = |index| Alloc { job_id: "j".into(), modify_index: index, ..Alloc::default() };
        let place = place("ns", "j");
        assert!(heard.of(&place).are_seen_in(&job(1), &[]), "nothing was heard");
        heard.job("ns", &job(7));
        heard.alloc("ns", &alloc(9));
        heard.alloc("ns", &alloc(8));

        for (job_index, alloc_index, seen) in
            [(7, 9, true), (9, 9, true), (6, 9, false), (7, 8, false)]
        {
            let are_seen =
                heard.of(&place).are_seen_in(&job(job_index), &[alloc(2), alloc(alloc_index)]);
            assert_eq!(are_seen, seen, "{job_index} {alloc_index}");
        }

        heard.keep("other", &HashSet::new());
        heard.keep("ns", &HashSet::from(["j".to_owned()]));
        assert_ne!(heard.of(&place), Indexes::default());
        heard.keep("ns", &HashSet::new());
        assert_eq!(heard.of(&place), Indexes::default());
    }
}
