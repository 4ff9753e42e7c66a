//! From the claim of a run to the end of an attempt.

use std::time::Duration;

use gofer_core::event::EventDetails;
use gofer_core::run::{CancelRequest, Reason, ReasonKind, StopCause, TaskState, TaskStatus};
use gofer_core::scheduler::{ExecutionState, ExecutionTimes, Observation};

use super::decision::Effect;
use super::outcome::AttemptOutcome;
use super::reasons;
use super::step::Step;
use super::task_index::TaskIndex;

/// Time between asking an execution to end and killing it, unless the request is to force it.
pub const DEFAULT_GRACE: Duration = Duration::from_secs(10);

impl Step<'_> {
    pub(super) fn claimed(&mut self) {
        self.machine.watched_since = self.now;
        for task in self.machine.tasks.indices() {
            let current = &self.machine.tasks[task];
            let (id, attempt) = (current.task.clone(), current.attempt);
            match (current.state, &current.stop) {
                (TaskState::Starting | TaskState::Running, Some(stop)) => {
                    self.out.effects.push(Effect::Stop(id, attempt, stop.grace()));
                }
                (TaskState::Starting, None) => self.out.effects.push(Effect::Restart(id, attempt)),
                (TaskState::Running, None) => self.out.effects.push(Effect::Observe(id, attempt)),
                (TaskState::Pending, _) if self.machine.waiting[task] == 0 => {
                    self.machine.ready.push_back(task)
                }
                _ => {}
            }

            self.machine.set_timer(task);
            if let Some(request) = self.machine.tasks[task].cancel.clone() {
                self.cancel_task(task, &request);
            }
        }

        if let Some(request) = self.machine.run.cancel.clone() {
            self.cancel_run(request);
        }
    }

    /// An attempt is due: it is intended now, and started once that is committed.
    pub(super) fn start(&mut self, task: TaskIndex) {
        let mut next = self.machine.tasks[task].clone();
        next.state = TaskState::Starting;
        next.intended_at = Some(self.now);
        next.incarnation = self.machine.scheduler.incarnation;
        next.not_before = None;
        next.reason = None;

        self.machine.seen_running[task] = None;
        self.out.effects.push(Effect::Start(next.task.clone(), next.attempt));
        self.change(task, next);
        self.record(Some(task), EventDetails::TaskRunStarting {});
        self.machine.set_timer(task);
    }

    pub(super) fn observed(&mut self, task: TaskIndex, found: Observation) {
        let outcome = match found.state {
            ExecutionState::Queued { reason } => {
                return self.waits(task, Reason::new(ReasonKind::Queued, reason));
            }
            ExecutionState::Running => return self.running(task, found.times),
            ExecutionState::Exited { code: 0, .. } => AttemptOutcome::successful(),
            ExecutionState::Exited { code, oom, signal } => {
                AttemptOutcome::exited(code, oom, signal)
            }
            ExecutionState::Failed { kind, message } => {
                AttemptOutcome::failed(Reason::new(reasons::of_failure(kind), message))
            }
            ExecutionState::Stopped => AttemptOutcome::stopped_outside(),
            ExecutionState::Lost => AttemptOutcome::lost("the scheduler lost the execution"),
            ExecutionState::NotFound => {
                AttemptOutcome::lost("the scheduler no longer knows the execution")
            }
        };
        self.ended(task, outcome, found.times);
    }

    /// Says why an attempt does not run yet, unless that is said already.
    pub(super) fn waits(&mut self, task: TaskIndex, reason: Reason) {
        let current = &self.machine.tasks[task];
        if current.state == TaskState::Starting
            && !reason.message.is_empty()
            && current.reason.as_ref() != Some(&reason)
        {
            let mut next = current.clone();
            next.reason = Some(reason.clone());
            self.change(task, next);
            self.record(Some(task), EventDetails::TaskRunWaiting { reason });
        }
    }

    /// An attempt waits for a slot no longer, if it is known that it did.
    pub(super) fn slot_acquired(&mut self, task: TaskIndex) {
        let current = &self.machine.tasks[task];
        let waited =
            current.reason.as_ref().is_some_and(|reason| reason.kind == ReasonKind::Waiting);
        if current.state == TaskState::Starting && waited {
            let mut next = current.clone();
            next.reason = None;
            self.change(task, next);
            self.record(Some(task), EventDetails::TaskRunSlotAcquired {});
        }
    }

    fn running(&mut self, task: TaskIndex, times: ExecutionTimes) {
        if self.machine.tasks[task].state != TaskState::Starting {
            return;
        }

        let mut next = self.machine.tasks[task].clone();
        next.state = TaskState::Running;
        next.started_at = Some(self.began(task, times).unwrap_or(self.now));
        next.reason = None;

        self.machine.seen_running[task] = Some(self.now);
        self.change(task, next);
        self.record(Some(task), EventDetails::TaskRunRunning {});
        self.machine.set_timer(task);
    }

    pub(super) fn cancel_run(&mut self, request: CancelRequest) {
        self.machine.run.cancel = Some(request.clone());
        for task in self.machine.tasks.indices() {
            self.cancel_task(task, &request);
        }
    }

    pub(super) fn cancel_task(&mut self, task: TaskIndex, request: &CancelRequest) {
        match self.machine.tasks[task].state {
            TaskState::Pending => {
                let next = self.machine.tasks[task].clone();
                let reason = reasons::cancelled(Some(request));
                self.complete(task, next, TaskStatus::Cancelled, Some(reason), None);
            }
            TaskState::Starting | TaskState::Running => {
                let grace = if request.force { Duration::ZERO } else { DEFAULT_GRACE };
                self.stop(task, StopCause::Cancel, grace);
            }
            TaskState::Complete(_) => {}
        }
    }
}
