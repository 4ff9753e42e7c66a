//! The first step of a run's driver: from what is stored, or already made with the run's insert.

use gofer_core::Timestamp;
use gofer_core::journal::{Commit, Lease, RunSnapshot};
use gofer_core::scheduler::Scheduler;

use crate::rules::{Effect, Input, Machine, SchedulerFacts};

/// A run of more tasks than these makes its first decision in a commit of its own: the caller that
/// starts the run need not wait for it.
const MAX_TASKS: usize = 64;

/// A run as its driver finds it.
#[derive(Debug)]
pub(super) struct FirstStep {
    pub(super) machine: Machine,
    /// What the first decision, which is committed, leads to; `None` when there was none yet.
    pub(super) effects: Option<Vec<Effect>>,
}

impl FirstStep {
    /// From a stored run: nothing was decided yet under the present lease.
    pub(super) fn from_snapshot(snapshot: RunSnapshot, scheduler: SchedulerFacts) -> Self {
        Self { machine: Machine::new(snapshot, scheduler), effects: None }
    }

    /// The first decision, to be committed together with the run itself: one wait for the disk less
    /// before its first task.
    pub(super) fn with_insert(
        at: Timestamp,
        lease: &Lease,
        inserted: &RunSnapshot,
        scheduler: SchedulerFacts,
    ) -> Option<(Self, Commit)> {
        if inserted.spec.tasks.len() > MAX_TASKS {
            return None;
        }
        let mut machine = Machine::new(inserted.clone(), scheduler);
        let (commit, effects) = machine.step(at, Input::Claimed).into_commit(lease.clone());
        Some((Self { machine, effects: Some(effects) }, commit))
    }
}

/// What a machine is to know of this backend.
pub(super) fn facts(scheduler: &dyn Scheduler) -> SchedulerFacts {
    SchedulerFacts {
        incarnation: scheduler.incarnation(),
        deadlines: scheduler.capabilities().deadlines,
    }
}
