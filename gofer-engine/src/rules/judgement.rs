//! What an end means: whose it was, and when.

use std::cmp::Ordering;

use gofer_core::Timestamp;
use gofer_core::run::{Reason, ReasonKind, StopCause, TaskStatus};
use gofer_core::scheduler::ExecutionTimes;

use super::machine::Machine;
use super::outcome::{AttemptOutcome, EndKind};
use super::reasons;
use super::step::Step;
use super::task_index::TaskIndex;

impl Step<'_> {
    /// When the process began, by its own clock as far as that can be right: not before it was
    /// intended, and not later than it was seen.
    pub(super) fn began(&self, task: TaskIndex, times: ExecutionTimes) -> Option<Timestamp> {
        let earliest = self.machine.tasks[task].intended_at.unwrap_or(self.now);
        times.started_at.map(|started_at| within(started_at, earliest, self.now))
    }
}

impl Machine {
    /// The outcome that an end means. The end is dated by the process, not by the server that saw
    /// it. A server that was away, or stood still, while a process ended in time must not say that
    /// it ran too long, or that a stop which never reached it ended it.
    ///
    /// - An end of its own has its own result, unless it ran longer than its timeout.
    /// - One that was stopped ends as the stop's cause says, whatever its exit code: a process that
    ///   exits with 0 because it was asked to end has not done its work.
    pub(super) fn judged(
        &self,
        task: TaskIndex,
        outcome: AttemptOutcome,
        times: ExecutionTimes,
    ) -> AttemptOutcome {
        let (current, spec) = (&self.tasks[task], self.spec_of(task));
        let ran_to_timeout =
            times.run_time().zip(spec.timeout).map(|(ran, timeout)| ran.cmp(&timeout));
        let cause = current.stop.as_ref().map(|stop| stop.cause);
        let cause = match (outcome.kind, cause, ran_to_timeout) {
            (EndKind::Own, _, Some(Ordering::Greater)) if outcome.ran => Some(StopCause::Timeout),
            // How long it ran is not known. It still ran when its deadline was looked at, so that
            // was too long.
            (EndKind::Own, Some(StopCause::Timeout), None) if outcome.ran => {
                Some(StopCause::Timeout)
            }
            (EndKind::Own, _, _) => None,
            // The backend held the deadline itself.
            (EndKind::Stopped, None, Some(Ordering::Greater | Ordering::Equal)) => {
                Some(StopCause::Timeout)
            }
            (EndKind::Stopped | EndKind::Unknown, cause, _) => cause,
        };

        let Some(cause) = cause else { return outcome };
        let (status, reason) = match cause {
            StopCause::Cancel => (TaskStatus::Cancelled, self.cancel_reason(task)),
            StopCause::Timeout => {
                let text = format!(
                    "ran longer than its timeout of {:?}",
                    spec.timeout.unwrap_or_default()
                );
                (TaskStatus::TimedOut, Reason::new(ReasonKind::Timeout, text))
            }
            StopCause::StartTimeout => {
                let limit = spec.start_timeout.unwrap_or_default();
                let text = format!("waited longer than its start timeout of {limit:?}");
                (TaskStatus::TimedOut, Reason::new(ReasonKind::StartTimeout, text))
            }
        };

        AttemptOutcome { status, reason: Some(reason), lost: false, ..outcome }
    }

    pub(super) fn cancel_reason(&self, task: TaskIndex) -> Reason {
        reasons::cancelled(self.run.cancel.as_ref().or(self.tasks[task].cancel.as_ref()))
    }
}

/// The instant, or the nearest that is possible.
pub(super) fn within(at: Timestamp, earliest: Timestamp, latest: Timestamp) -> Timestamp {
    // The engine's clock may have been set back since `earliest`.
    at.min(latest).max(earliest)
}
