//! One step of a machine: the time it happens at, and what it leads to.

use gofer_core::Timestamp;
use gofer_core::event::{ACTOR, EventDetails, NewEvent, Subject};
use gofer_core::journal::TaskTransition;
use gofer_core::run::{AttemptRecord, Reason, ReasonKind, TaskRun};
use gofer_core::scheduler::ExecutionTimes;

use super::decision::Decision;
use super::input::Input;
use super::machine::Machine;
use super::outcome::AttemptOutcome;
use super::task_index::TaskIndex;

impl Machine {
    /// Takes one input.
    pub fn step(&mut self, now: Timestamp, input: Input) -> Decision {
        let mut step = Step { machine: self, now, out: Decision::default() };
        if !step.machine.run.state.is_complete() {
            step.handle(input);
            step.schedule();
        }
        step.out
    }
}

/// A step under way.
pub(super) struct Step<'m> {
    pub(super) machine: &'m mut Machine,
    pub(super) now: Timestamp,
    pub(super) out: Decision,
}

impl Step<'_> {
    fn handle(&mut self, input: Input) {
        match input {
            Input::Claimed => self.claimed(),
            Input::Observed(id, attempt, found) => {
                if let Some(task) = self.machine.active(&id, attempt) {
                    self.observed(task, found);
                }
            }
            Input::Answered(id, attempt, found, asked_at) => {
                if let Some(task) = self.machine.active(&id, attempt) {
                    self.observed(task, found);
                    self.confirm(task, asked_at);
                }
            }
            Input::Waiting(id, attempt, why) => {
                if let Some(task) = self.machine.active(&id, attempt) {
                    self.waits(task, Reason::new(ReasonKind::Waiting, why));
                }
            }
            Input::SlotAcquired(id, attempt) => {
                if let Some(task) = self.machine.active(&id, attempt) {
                    self.slot_acquired(task);
                }
            }
            Input::Refused(id, attempt, reason) => {
                if let Some(task) = self.machine.active(&id, attempt) {
                    let outcome = AttemptOutcome::failed(reason);
                    self.ended(task, outcome, ExecutionTimes::default());
                }
            }
            Input::CancelRun(request) => self.cancel_run(request),
            Input::CancelTask(id, request) => {
                if let Some(&task) = self.machine.index.get(&id) {
                    self.machine.tasks[task].cancel = Some(request.clone());
                    self.cancel_task(task, &request);
                }
            }
            Input::Tick => self.tick(),
        }
    }

    /// Changes a task run.
    pub(super) fn change(&mut self, task: TaskIndex, next: TaskRun) {
        self.change_with(task, next, None);
    }

    /// Changes a task run, one of whose attempts has ended.
    pub(super) fn change_with(
        &mut self,
        task: TaskIndex,
        next: TaskRun,
        ended: Option<AttemptRecord>,
    ) {
        let current = &mut self.machine.tasks[task];
        debug_assert!(
            current.state.may_become(next.state),
            "{:?} may not become {:?}",
            current.state,
            next.state
        );
        self.out.tasks.push(TaskTransition {
            from: current.state,
            from_attempt: current.attempt,
            to: next.clone(),
            ended,
        });
        *current = next;
    }

    /// Records an event of a task run, or of the run itself.
    pub(super) fn record(&mut self, task: Option<TaskIndex>, details: EventDetails) {
        let task = task.map(|task| &self.machine.tasks[task]);
        let subject = Subject {
            attempt: task.map(|task| task.attempt),
            ..Subject::of_task(&self.machine.run.key, task.map(|task| &task.task))
        };
        self.out.events.push(NewEvent { at: self.now, actor: ACTOR.to_owned(), subject, details });
    }
}
