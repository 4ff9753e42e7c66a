//! Deadlines and stops: when an attempt is asked to end.

use std::time::Duration;

use gofer_core::Timestamp;
use gofer_core::event::EventDetails;
use gofer_core::run::{Reason, ReasonKind, StopCause, StopRequest, TaskState};
use gofer_core::scheduler::TIMEOUT_GRACE;

use super::decision::Effect;
use super::machine::Machine;
use super::step::Step;
use super::task_index::TaskIndex;

/// How long after a timeout the engine looks at an execution whose backend holds the deadline
/// itself: the grace is over by then, and a backend that failed to stop it is told to.
const HELD_SLACK: Duration = Duration::from_secs(15);

/// A deadline that is looked at later than this after it came was missed by a server that stood
/// still. Longer than any commit of a healthy database keeps a driver.
const STOOD_STILL: Duration = Duration::from_secs(1);

impl Step<'_> {
    /// Asks that the current attempt end. A second request keeps the first one's cause and can only
    /// hasten it.
    pub(super) fn stop(&mut self, task: TaskIndex, cause: StopCause, grace: Duration) {
        let current = &self.machine.tasks[task];
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        if current.stop.as_ref().is_some_and(|stop| stop.grace_ms <= grace_ms) {
            return;
        }

        let mut next = current.clone();
        let first = next.stop.take();
        let cause = first.as_ref().map_or(cause, |stop| stop.cause);
        next.stop =
            Some(StopRequest { cause, at: first.map_or(self.now, |stop| stop.at), grace_ms });

        let (id, attempt) = (next.task.clone(), next.attempt);
        self.change(task, next);
        let reason = match cause {
            StopCause::Cancel => self.machine.cancel_reason(task),
            StopCause::Timeout => Reason::new(ReasonKind::Timeout, "runs longer than its timeout"),
            StopCause::StartTimeout => {
                Reason::new(ReasonKind::StartTimeout, "waits longer than its start timeout")
            }
        };

        self.record(Some(task), EventDetails::TaskRunStopRequested { reason });
        self.out.effects.push(Effect::Stop(id, attempt, grace));
    }

    pub(super) fn tick(&mut self) {
        let now = self.now;
        while let Some(&(due, task)) = self.machine.timers.first().filter(|(due, _)| *due <= now) {
            self.machine.timers.remove(&(due, task));
            if self.machine.deadline(task) != Some(due) {
                // It may have been put off.
                self.machine.set_timer(task);
                continue;
            }

            match self.machine.tasks[task].state {
                TaskState::Pending => self.machine.ready.push_back(task),
                // No server watched it wait, so none could have started it either: the time does
                // not count.
                TaskState::Starting if now > due.after(STOOD_STILL) => {
                    self.machine.watched_since = now;
                    self.machine.set_timer(task);
                }
                // Without asking first, a server that stood still would stop what has long ended in
                // time.
                TaskState::Starting | TaskState::Running => {
                    let current = &self.machine.tasks[task];
                    let confirm = Effect::Confirm(current.task.clone(), current.attempt);
                    self.out.effects.push(confirm);
                }
                TaskState::Complete(_) => {}
            }
        }
    }

    /// Stops an attempt that still ran, or waited, when the scheduler was asked at or after its
    /// deadline.
    pub(super) fn confirm(&mut self, task: TaskIndex, asked_at: Timestamp) {
        let is_overdue = self.machine.deadline(task).is_some_and(|due| due <= asked_at);
        match self.machine.tasks[task].state {
            TaskState::Starting if is_overdue => {
                self.stop(task, StopCause::StartTimeout, Duration::ZERO)
            }
            TaskState::Running if is_overdue => self.stop(task, StopCause::Timeout, TIMEOUT_GRACE),
            TaskState::Starting | TaskState::Running => self.machine.set_timer(task),
            TaskState::Pending | TaskState::Complete(_) => {}
        }
    }
}

impl Machine {
    fn deadline(&self, task: TaskIndex) -> Option<Timestamp> {
        let (current, spec) = (&self.tasks[task], self.spec_of(task));
        match current.state {
            TaskState::Pending => current.not_before,
            _ if current.stop.is_some() => None,
            TaskState::Starting => {
                Some(current.intended_at?.max(self.watched_since).after(spec.start_timeout?))
            }
            TaskState::Running => {
                let since = self.seen_running[task].or(current.started_at)?;
                let slack = if self.scheduler.deadlines { HELD_SLACK } else { Duration::ZERO };
                Some(since.after(spec.timeout?).after(slack))
            }
            TaskState::Complete(_) => None,
        }
    }

    pub(super) fn set_timer(&mut self, task: TaskIndex) {
        if let Some(due) = self.deadline(task) {
            self.timers.insert((due, task));
        }
    }
}
