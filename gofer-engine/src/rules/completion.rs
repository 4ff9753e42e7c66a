//! The end of an attempt, of a task, and of the run; and what each makes ready.

use std::time::Duration;

use gofer_core::event::EventDetails;
use gofer_core::journal::RunTransition;
use gofer_core::pipeline::Condition;
use gofer_core::run::{
    AttemptRecord, LogState, Reason, ReasonKind, RunState, TaskRun, TaskState, TaskStatus,
};
use gofer_core::scheduler::ExecutionTimes;

use super::decision::Effect;
use super::judgement::within;
use super::machine::Machine;
use super::outcome::AttemptOutcome;
use super::reasons;
use super::retry;
use super::step::Step;
use super::task_index::TaskIndex;

impl Step<'_> {
    /// The current attempt is over: schedules another, or completes the task.
    pub(super) fn ended(
        &mut self,
        task: TaskIndex,
        outcome: AttemptOutcome,
        times: ExecutionTimes,
    ) {
        let outcome = self.machine.judged(task, outcome, times);
        let mut next = self.machine.tasks[task].clone();
        let record = self.attempt_record(task, &outcome, times);

        self.out.effects.push(Effect::Archive(next.task.clone(), next.attempt));
        if let Some((delay, losses)) = self.machine.retry_after(task, &outcome) {
            let not_before = self.now.after(delay);
            let details = EventDetails::TaskRunRetryScheduled {
                status: outcome.status,
                reason: outcome.reason.clone(),
                exit_code: outcome.exit_code,
                next_attempt: next.attempt.next(),
                not_before,
            };
            self.record(Some(task), details);

            next = TaskRun { attempt: next.attempt.next(), losses, ..TaskRun::pending(next.task) };
            next.cancel = self.machine.tasks[task].cancel.clone();
            next.reason = outcome.reason;
            next.not_before = Some(not_before);
            self.change_with(task, next, Some(record));
            self.machine.ready.push_back(task);
        } else {
            next.started_at = record.started_at;
            next.exit_code = outcome.exit_code;
            self.complete(task, next, outcome.status, outcome.reason, Some(record));
        }
    }

    fn attempt_record(
        &self,
        task: TaskIndex,
        outcome: &AttemptOutcome,
        times: ExecutionTimes,
    ) -> AttemptRecord {
        let current = &self.machine.tasks[task];

        // An end that overtakes the news of the start: the intent is the nearest known instant.
        let started_at = current.started_at.or_else(|| self.began(task, times));
        let started_at = started_at.or(if outcome.ran { current.intended_at } else { None });
        let earliest = started_at.or(current.intended_at).unwrap_or(self.now);
        let ended_at =
            times.ended_at.map_or(self.now, |ended_at| within(ended_at, earliest, self.now));

        AttemptRecord {
            attempt: current.attempt,
            status: outcome.status,
            reason: outcome.reason.clone(),
            exit_code: outcome.exit_code,
            intended_at: current.intended_at.unwrap_or(self.now),
            started_at,
            ended_at,
            log: LogState::Live,
        }
    }

    /// Completes a task, with the record of the attempt that ended just now, if one did.
    pub(super) fn complete(
        &mut self,
        task: TaskIndex,
        mut next: TaskRun,
        status: TaskStatus,
        reason: Option<Reason>,
        ended: Option<AttemptRecord>,
    ) {
        next.state = TaskState::Complete(status);
        next.reason.clone_from(&reason);
        next.ended_at = Some(ended.as_ref().map_or(self.now, |record| record.ended_at));
        next.not_before = None;

        let exit_code = next.exit_code;
        self.change_with(task, next, ended);
        self.record(Some(task), EventDetails::TaskRunCompleted { status, reason, exit_code });

        let Machine { children, waiting, ready, incomplete, .. } = &mut *self.machine;
        *incomplete -= 1;
        for &child in &children[task] {
            waiting[child] -= 1;
            if waiting[child] == 0 {
                ready.push_back(child);
            }
        }
    }

    /// Starts or skips what became ready, until nothing more follows from it; then completes the
    /// run if all is done.
    pub(super) fn schedule(&mut self) {
        while let Some(task) = self.machine.ready.pop_front() {
            let current = &self.machine.tasks[task];
            if current.state != TaskState::Pending || self.machine.waiting[task] != 0 {
                continue;
            }

            if current.not_before.is_some_and(|not_before| not_before > self.now) {
                self.machine.set_timer(task);
            } else if let Some(reason) = self.machine.unsatisfied(task) {
                let next = current.clone();
                self.complete(task, next, TaskStatus::Skipped, Some(reason), None);
            } else {
                self.start(task);
            }
        }

        if self.machine.incomplete == 0 {
            self.complete_run();
        }
    }

    fn complete_run(&mut self) {
        let (status, reason) = self.machine.verdict();
        let state = RunState::Complete(status);
        self.out.run = Some(RunTransition {
            from: self.machine.run.state,
            to: state,
            reason: reason.clone(),
            at: self.now,
        });
        self.record(None, EventDetails::RunCompleted { status, reason: reason.clone() });

        let run = &mut self.machine.run;
        (run.state, run.reason, run.ended_at) = (state, reason, Some(self.now));
    }
}

impl Machine {
    /// How long to wait before the next attempt, and the task's losses then; `None` when there is
    /// to be none.
    fn retry_after(&self, task: TaskIndex, outcome: &AttemptOutcome) -> Option<(Duration, u32)> {
        let current = &self.tasks[task];
        if self.run.cancel.is_some() || current.cancel.is_some() {
            return None;
        }
        let AttemptOutcome { status, reason, lost, .. } = outcome;
        retry::after(&self.spec_of(task).retries, current, *status, reason.as_ref(), *lost)
    }

    /// The first edge that is not satisfied, as a reason; all parents are complete.
    fn unsatisfied(&self, task: TaskIndex) -> Option<Reason> {
        self.spec_of(task).depends_on.iter().find_map(|edge| {
            let parent = self.index[&edge.task];
            let status = self.tasks[parent].state.status()?;
            let tolerated =
                self.spec_of(parent).continue_on_failure && status != TaskStatus::Cancelled;
            let satisfied = match edge.condition {
                Condition::Any => true,
                Condition::Success => {
                    status == TaskStatus::Successful || (status.is_failure() && tolerated)
                }
                Condition::Failure => status.is_failure(),
            };

            let wanted = if edge.condition == Condition::Success { "succeed" } else { "fail" };
            (!satisfied).then(|| {
                let message = format!(
                    "waits for task `{}` to {wanted}, and that ended {}",
                    edge.task,
                    reasons::word(status)
                );
                Reason::new(ReasonKind::ParentUnsatisfied, message)
            })
        })
    }
}
