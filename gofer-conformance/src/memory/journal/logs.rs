//! Where the logs of finished attempts are.

use gofer_core::event::NewEvent;
use gofer_core::id::ExecutionId;
use gofer_core::run::{AttemptRecord, LogState};
use gofer_core::time::Timestamp;

use super::state::State;

impl State {
    /// Every finished attempt, oldest first.
    pub(super) fn attempts_by_age(&self) -> Vec<(ExecutionId, &AttemptRecord)> {
        let of_run = |entry: &super::state::RunEntry| entry.run.key.clone();
        let mut attempts: Vec<_> = self
            .runs
            .values()
            .flat_map(|entry| entry.attempts.iter().map(move |attempt| (of_run(entry), attempt)))
            .map(|(run, ((task, attempt), record))| {
                (ExecutionId { run, task: task.clone(), attempt: *attempt }, record)
            })
            .collect();
        attempts.sort_by(|(id, record), (other, later)| {
            (record.ended_at, id).cmp(&(later.ended_at, other))
        });
        attempts
    }

    pub(super) fn live_logs(
        &self,
        before: Timestamp,
        after: Option<&ExecutionId>,
        limit: usize,
    ) -> Vec<ExecutionId> {
        let attempts = self.attempts_by_age();
        let seen = after.and_then(|after| attempts.iter().position(|(id, _)| id == after));
        let rest = attempts.into_iter().skip(seen.map_or(0, |index| index + 1));
        let live = |record: &AttemptRecord| record.log.is_unsettled() && record.ended_at < before;
        rest.filter(|(_, record)| live(record)).take(limit).map(|(id, _)| id).collect()
    }

    pub(super) fn set_log_state(
        &mut self,
        id: &ExecutionId,
        from: LogState,
        to: LogState,
        event: Option<NewEvent>,
    ) -> bool {
        let Some(attempt) = self.attempt_mut(id).filter(|attempt| attempt.log == from) else {
            return false;
        };
        attempt.log = to;
        if let Some(event) = event {
            self.record(event);
        }
        true
    }
}
