//! What an end means: whose it was, and when.

use std::cmp::Ordering;

use gofer_core::Timestamp;
use gofer_core::run::{Reason, ReasonKind, StopCause, TaskStatus};
use gofer_core::scheduler::ExecutionTimes;

use super::machine::Machine;
use crate::rules::outcome::{End, EndKind};

impl Machine {
    /// When the process began, by its own clock as far as that can be right: not before it was
    /// intended, and not later than it was seen.
    pub(super) fn began(
        &self,
        now: Timestamp,
        at: usize,
        times: ExecutionTimes,
    ) -> Option<Timestamp> {
        let earliest = self.tasks[at].intended_at.unwrap_or(now);
        times.started_at.map(|started_at| within(started_at, earliest, now))
    }

    /// What an end means. It is dated by what ended, not by who saw it: a server that was away, or
    /// stood still, while a process ended in time must not say that it ran too long, or that a stop
    /// which never reached it ended it.
    ///
    /// - One that ended by itself has its own result, unless it ran longer than its timeout.
    /// - One that was stopped ends as the stop's cause says, whatever its exit code: a process that
    ///   exits with 0 because it was asked to end has not done its work.
    pub(super) fn judged(&self, at: usize, end: End, times: ExecutionTimes) -> End {
        let (task, spec) = (&self.tasks[at], &self.spec.tasks[at]);
        let ran_to_timeout =
            times.run_time().zip(spec.timeout).map(|(ran, timeout)| ran.cmp(&timeout));
        let cause = task.stop.as_ref().map(|stop| stop.cause);
        let cause = match (end.kind, cause, ran_to_timeout) {
            (EndKind::Own, _, Some(Ordering::Greater)) if end.ran => Some(StopCause::Timeout),
            // Nobody knows how long it ran. It ran on when its deadline was looked at, so that was
            // too long.
            (EndKind::Own, Some(StopCause::Timeout), None) if end.ran => Some(StopCause::Timeout),
            (EndKind::Own, _, _) => None,
            // The backend held the deadline itself.
            (EndKind::Stopped, None, Some(Ordering::Greater | Ordering::Equal)) => {
                Some(StopCause::Timeout)
            }
            (EndKind::Stopped | EndKind::Unknown, cause, _) => cause,
        };

        let Some(cause) = cause else { return end };
        let (status, reason) = match cause {
            StopCause::Cancel => (TaskStatus::Cancelled, self.cancel_reason(at)),
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

        End { status, reason: Some(reason), lost: false, ..end }
    }
}

/// The instant, or the nearest that is possible.
pub(super) fn within(at: Timestamp, earliest: Timestamp, latest: Timestamp) -> Timestamp {
    // The engine's clock may have been set back since `earliest`.
    at.min(latest).max(earliest)
}
