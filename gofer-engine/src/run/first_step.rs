//! Where the driver of a run begins.

use gofer_core::Timestamp;
use gofer_core::journal::{Commit, Lease, RunSnapshot};
use gofer_core::scheduler::Scheduler;

use crate::rules::machine::{Effect, Input, Machine, SchedulerFacts};

/// More tasks than these begin in a commit of their own: whoever starts the run need not wait for
/// it.
const MAX_TASKS: usize = 64;

/// A run as its driver finds it.
#[derive(Debug)]
pub(crate) struct Begun {
    pub(crate) machine: Machine,
    /// What the first decision, which is committed, leads to; `None` when there was none yet.
    pub(crate) effects: Option<Vec<Effect>>,
}

impl Begun {
    /// Nothing was decided yet by whoever has the lease now.
    pub(crate) fn not(snapshot: RunSnapshot, scheduler: SchedulerFacts) -> Self {
        Self { machine: Machine::new(snapshot, scheduler), effects: None }
    }

    /// The first decision, to be committed together with the run itself: one wait for the disk less
    /// before its first task.
    pub(crate) fn by(
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
pub(crate) fn facts(scheduler: &dyn Scheduler) -> SchedulerFacts {
    SchedulerFacts {
        incarnation: scheduler.incarnation(),
        deadlines: scheduler.capabilities().deadlines,
    }
}
