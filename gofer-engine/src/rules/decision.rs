//! What a step leads to.

use std::time::Duration;

use gofer_core::event::NewEvent;
use gofer_core::journal::{Commit, Lease, RunTransition, TaskTransition};
use gofer_core::{Attempt, TaskId};

/// What a step leads to: `tasks`, `run` and `events` become true together; only then the `effects`
/// are carried out.
#[derive(Debug, Default)]
pub struct Decision {
    /// Task runs that change, in order.
    pub tasks: Vec<TaskTransition>,
    /// The run's own change.
    pub run: Option<RunTransition>,
    /// What to record.
    pub events: Vec<NewEvent>,
    /// What to do once all that is committed.
    pub effects: Vec<Effect>,
}

impl Decision {
    /// Whether there is nothing to commit.
    #[must_use]
    pub fn commits_nothing(&self) -> bool {
        self.tasks.is_empty() && self.run.is_none() && self.events.is_empty()
    }

    /// What is to become true, and what to do then.
    #[must_use]
    pub fn into_commit(self, lease: Lease) -> (Commit, Vec<Effect>) {
        let Self { tasks, run, events, effects } = self;
        (Commit { lease, tasks, run, events }, effects)
    }

    /// Appends a later decision, to be committed together with this one.
    pub(crate) fn append(&mut self, later: Self) {
        self.tasks.extend(later.tasks);
        self.run = later.run.or(self.run.take());
        self.events.extend(later.events);
        self.effects.extend(later.effects);
    }
}

/// Something to do at the scheduler. Each may be repeated after a crash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Start the execution, whose intent is committed.
    Start(TaskId, Attempt),
    /// The intent was committed by a server that is gone: find out whether it started the
    /// execution, and start it if not.
    Restart(TaskId, Attempt),
    /// Find out what became of an execution that was started.
    Observe(TaskId, Attempt),
    /// A deadline of the execution has come: find out whether it still runs, or waits. The answer
    /// decides.
    Confirm(TaskId, Attempt),
    /// Stop the execution.
    Stop(TaskId, Attempt, Duration),
    /// The attempt is over: its log can be archived.
    Archive(TaskId, Attempt),
}
