//! What a machine is told.

use gofer_core::run::{CancelRequest, Reason};
use gofer_core::scheduler::Observation;
use gofer_core::{Attempt, TaskId, Timestamp};

/// What the machine knows of the scheduler that its executions run on.
#[derive(Debug, Clone, Copy, Default)]
pub struct SchedulerFacts {
    /// In which incarnation what is intended now is started.
    pub incarnation: u64,
    /// It stops what runs longer than its timeout.
    pub deadlines: bool,
}

/// Something that happened to a run.
#[derive(Debug, Clone)]
pub enum Input {
    /// It was claimed: for the first time, or after a server was lost. What the scheduler knows is
    /// not known.
    Claimed,
    /// The scheduler says what an execution is. `NotFound` only after its start is known to have
    /// succeeded, or its stop.
    Observed(TaskId, Attempt, Observation),
    /// The same in answer to a question of that instant: what it says is at least as new, so it may
    /// confirm a deadline.
    Answered(TaskId, Attempt, Observation, Timestamp),
    /// An execution that is to be started has waited a while for a slot; why.
    Waiting(TaskId, Attempt, String),
    /// An execution that may have waited has its slot, and goes to the scheduler.
    SlotAcquired(TaskId, Attempt),
    /// An execution was not started, for good.
    Refused(TaskId, Attempt, Reason),
    /// A request to cancel the run.
    CancelRun(CancelRequest),
    /// A request to cancel one task.
    CancelTask(TaskId, CancelRequest),
    /// A deadline of [`super::Machine::next_deadline`] has come.
    Tick,
}
