//! How far the event stream has told of each job.
//!
//! Nomad publishes an event before the change can be read (2.0.5, `nomad/state/state_changes.go`:
//! `Commit`), so what is read right after an event may be older than the event.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::calls::key::JobKey;
use crate::http::types::{Alloc, Job};

/// How new each job must be when it is read.
#[derive(Debug, Default)]
pub(crate) struct MinIndexes(Mutex<HashMap<JobKey, MinIndex>>);

/// Raft indexes of the last changes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct MinIndex {
    job: u64,
    allocs: u64,
}

impl MinIndex {
    /// Whether a job and its allocations, as they were read, are as new as this.
    pub(crate) fn is_reached_by(self, job: &Job, allocs: &[Alloc]) -> bool {
        let newest = allocs.iter().map(|alloc| alloc.modify_index).max().unwrap_or(0);
        self.job <= job.modify_index && self.allocs <= newest
    }
}

impl MinIndexes {
    /// The event stream told of a job.
    pub(crate) fn raise_job(&self, namespace: &str, job: &Job) {
        self.raise(key(namespace, &job.id), MinIndex { job: job.modify_index, allocs: 0 });
    }

    /// The event stream told of an allocation.
    pub(crate) fn raise_alloc(&self, namespace: &str, alloc: &Alloc) {
        self.raise(key(namespace, &alloc.job_id), MinIndex { job: 0, allocs: alloc.modify_index });
    }

    fn raise(&self, key: JobKey, now: MinIndex) {
        let mut all = self.lock();
        let known = all.entry(key).or_default();
        *known = MinIndex { job: known.job.max(now.job), allocs: known.allocs.max(now.allocs) };
    }

    pub(crate) fn of(&self, key: &JobKey) -> MinIndex {
        self.lock().get(key).copied().unwrap_or_default()
    }

    /// Forgets the jobs of a namespace that are not among these.
    pub(crate) fn keep(&self, namespace: &str, jobs: &HashSet<String>) {
        self.lock().retain(|key, _| key.namespace != namespace || jobs.contains(&key.job_id));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<JobKey, MinIndex>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(namespace: &str, job_id: &str) -> JobKey {
    JobKey { namespace: namespace.to_owned(), job_id: job_id.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_older_than_what_was_heard_is_known() {
        let min_indexes = MinIndexes::default();
        let job = |index| Job { id: "j".into(), modify_index: index, ..Job::default() };
        let alloc = |index| Alloc { job_id: "j".into(), modify_index: index, ..Alloc::default() };
        let key = key("ns", "j");
        assert!(min_indexes.of(&key).is_reached_by(&job(1), &[]), "nothing was heard");
        min_indexes.raise_job("ns", &job(7));
        min_indexes.raise_alloc("ns", &alloc(9));
        min_indexes.raise_alloc("ns", &alloc(8));

        for (job_index, alloc_index, seen) in
            [(7, 9, true), (9, 9, true), (6, 9, false), (7, 8, false)]
        {
            let are_seen = min_indexes
                .of(&key)
                .is_reached_by(&job(job_index), &[alloc(2), alloc(alloc_index)]);
            assert_eq!(are_seen, seen, "{job_index} {alloc_index}");
        }

        min_indexes.keep("other", &HashSet::new());
        min_indexes.keep("ns", &HashSet::from(["j".to_owned()]));
        assert_ne!(min_indexes.of(&key), MinIndex::default());
        min_indexes.keep("ns", &HashSet::new());
        assert_eq!(min_indexes.of(&key), MinIndex::default());
    }
}
