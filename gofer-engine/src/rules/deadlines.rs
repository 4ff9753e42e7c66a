//! Deadlines and stops: when an attempt is asked to end.

use std::time::Duration;

use gofer_core::Timestamp;
use gofer_core::event::EventDetails;
use gofer_core::run::{Reason, ReasonKind, StopCause, StopRequest, TaskState};
use gofer_core::scheduler::TIMEOUT_GRACE;

use super::machine::{Decision, Effect, Machine};

/// How long after a timeout the engine looks at an execution whose backend holds the deadline
/// itself: the grace is over by then, and a backend that failed to stop it is told to.
const HELD_SLACK: Duration = Duration::from_secs(15);

/// A deadline that is looked at later than this after it came was missed by a server that stood
/// still. Longer than any commit of a healthy database keeps a driver.
const STOOD_STILL: Duration = Duration::from_secs(1);

impl Machine {
    /// Asks that the current attempt end. A second wish keeps the first one's cause and can only
    /// hasten it.
    pub(super) fn stop(
        &mut self,
        now: Timestamp,
        at: usize,
        cause: StopCause,
        grace: Duration,
        out: &mut Decision,
    ) {
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        if self.tasks[at].stop.as_ref().is_some_and(|stop| stop.grace_ms <= grace_ms) {
            return;
        }

        let mut next = self.tasks[at].clone();
        let first = next.stop.take();
        let cause = first.as_ref().map_or(cause, |stop| stop.cause);
        next.stop = Some(StopRequest { cause, at: first.map_or(now, |stop| stop.at), grace_ms });

        let (id, attempt) = (next.task.clone(), next.attempt);
        self.change(at, next, out);
        let reason = match cause {
            StopCause::Cancel => self.cancel_reason(at),
            StopCause::Timeout => Reason::new(ReasonKind::Timeout, "runs longer than its timeout"),
            StopCause::StartTimeout => {
                Reason::new(ReasonKind::StartTimeout, "waits longer than its start timeout")
            }
        };

        self.record(now, Some(at), EventDetails::TaskRunStopRequested { reason }, out);
        out.effects.push(Effect::Stop(id, attempt, grace));
    }

    pub(super) fn tick(&mut self, now: Timestamp, out: &mut Decision) {
        while let Some(&(due, at)) = self.timers.first().filter(|(due, _)| *due <= now) {
            self.timers.remove(&(due, at));
            if self.deadline(at) != Some(due) {
                // It may have been put off.
                self.set_timer(at);
                continue;
            }

            match self.tasks[at].state {
                TaskState::Pending => self.ready.push_back(at),
                // Nobody watched it wait, so nobody could have started it either: the time does not
                // count.
                TaskState::Starting if now > due.after(STOOD_STILL) => {
                    self.watched_since = now;
                    self.set_timer(at);
                }
                // Without asking first, a server that stood still would stop what has long ended in
                // time.
                TaskState::Starting | TaskState::Running => {
                    let task = &self.tasks[at];
                    out.effects.push(Effect::Confirm(task.task.clone(), task.attempt));
                }
                TaskState::Complete(_) => {}
            }
        }
    }

    /// Stops an attempt that still ran, or waited, when the scheduler was asked at or after its
    /// deadline.
    pub(super) fn confirm(
        &mut self,
        now: Timestamp,
        at: usize,
        asked_at: Timestamp,
        out: &mut Decision,
    ) {
        let overdue = self.deadline(at).is_some_and(|due| due <= asked_at);
        match self.tasks[at].state {
            TaskState::Starting if overdue => {
                self.stop(now, at, StopCause::StartTimeout, Duration::ZERO, out)
            }
            TaskState::Running if overdue => {
                self.stop(now, at, StopCause::Timeout, TIMEOUT_GRACE, out)
            }
            TaskState::Starting | TaskState::Running => self.set_timer(at),
            TaskState::Pending | TaskState::Complete(_) => {}
        }
    }

    fn deadline(&self, at: usize) -> Option<Timestamp> {
        let (task, spec) = (&self.tasks[at], &self.spec.tasks[at]);
        match task.state {
            TaskState::Pending => task.not_before,
            _ if task.stop.is_some() => None,
            TaskState::Starting => {
                Some(task.intended_at?.max(self.watched_since).after(spec.start_timeout?))
            }
            TaskState::Running => {
                let since = self.seen_running[at].or(task.started_at)?;
                let slack = if self.scheduler.deadlines { HELD_SLACK } else { Duration::ZERO };
                Some(since.after(spec.timeout?).after(slack))
            }
            TaskState::Complete(_) => None,
        }
    }

    pub(super) fn set_timer(&mut self, at: usize) {
        if let Some(due) = self.deadline(at) {
            self.timers.insert((due, at));
        }
    }
}
