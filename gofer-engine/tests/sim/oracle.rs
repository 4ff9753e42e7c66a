//! How everything must have ended: from the plan, what happened at the cluster, and the rules.

use std::time::Duration;

use gofer_core::journal::Runs;
use gofer_core::pipeline::TaskSpec;
use gofer_core::run::{AttemptRecord, ReasonKind, StopCause, TaskRun, TaskStatus};
use gofer_core::scheduler::ExecutionState;
use gofer_core::{ExecutionId, RunKey};

use crate::behaviour::{Behaviour, End};
use crate::cluster::Execution;
use crate::model::{Intent, RunModel};
use crate::rules;
use crate::server::Remains;
use crate::world::{SECOND, World, lock};

/// How long after its end an attempt's end may be recorded while nothing fails: the news, its
/// commit and what was under way before them may all be slow.
const LATEST: i64 = 15 * SECOND;
/// And for each commit that a decision about the whole run is cut into: it may have to wait for
/// one, and be last in the next.
const PER_PIECE: i64 = 2 * SECOND;

/// By how much a server's clock may be wrong: it follows the journal's, which may take this long to
/// answer.
const CLOCK: i64 = 3 * SECOND;

/// And where events are lost: until it is known that some were, and the scheduler is asked.
const BLIND: i64 = 30 * SECOND;

#[expect(
    clippy::await_holding_lock,
    reason = "the journal in memory answers at once, and nothing else runs any more"
)]
pub(crate) async fn check(remains: &Remains, starts: usize) {
    let world = &remains.world;
    let model = lock(&remains.model);
    let mut asked_for = 0;

    for (key, run) in &model.runs {
        let stored = remains.journal.load(key).await.expect("it was inserted");
        world.check(stored.run.state == run.state, || {
            format!("`{key}` is stored as {:?}", stored.run.state)
        });

        world.check(run.state.is_complete(), || format!("`{key}` is {:?} at the end", run.state));
        asked_for += usize::from(stored.run.retry_of.is_none());
        for task in &run.spec.tasks {
            let case = Case { remains, world, key, run, task, stored: &stored.tasks[&task.id] };
            case.check(&remains.journal.attempts(key, &task.id), stored.run.retry_of.is_some());
        }
    }

    world.check(asked_for == starts, || {
        format!("{starts} runs were asked for, and there are {asked_for}")
    });
}

/// One task run to be judged.
struct Case<'a> {
    remains: &'a Remains,
    world: &'a World,
    key: &'a RunKey,
    run: &'a RunModel,
    task: &'a TaskSpec,
    stored: &'a TaskRun,
}

impl Case<'_> {
    fn violate(&self, what: impl FnOnce() -> String) {
        self.world.violate(|| format!("`{}/{}`: {}", self.key, self.task.id, what()));
    }

    fn check(&self, records: &[AttemptRecord], repeats: bool) {
        let seen = &self.run.tasks[&self.task.id];
        if self.stored.state != seen.state || self.stored.attempt != seen.attempt {
            self.violate(|| {
                format!("stored as {:?}, and {:?} was committed", self.stored.state, seen.state)
            });
        }

        let numbers: Vec<u32> = records.iter().map(|record| record.attempt.0).collect();
        let intents: Vec<u32> = seen.intents.keys().map(|attempt| attempt.0).collect();
        if numbers != (1..=u32::try_from(records.len()).expect("few")).collect::<Vec<_>>()
            || numbers != intents
        {
            return self.violate(|| {
                format!("attempts {numbers:?} are recorded, and {intents:?} were begun")
            });
        }

        let Some(status) = self.stored.state.status() else {
            return self.violate(|| format!("is {:?} at the end", self.stored.state));
        };

        for record in records {
            self.check_attempt(record, &seen.intents[&record.attempt]);
        }

        let cancelled = self.run.cancel.is_some() || seen.cancel.is_some();
        let waits = rules::waits(self.task, records);
        for (at, pair) in records.windows(2).enumerate() {
            match waits[at] {
                None => self.violate(|| format!("attempt {} should have been the last", at + 1)),
                Some(wait) if pair[1].intended_at < pair[0].ended_at.after(wait) => {
                    self.violate(|| {
                        format!("attempt {} came before its wait of {wait:?} was over", at + 2)
                    });
                }
                Some(_) => {}
            }
        }

        let right = match records.last() {
            None => self.without_attempts(status, cancelled, repeats),
            Some(last) if self.stored.attempt == last.attempt => {
                status == last.status && (waits[records.len() - 1].is_none() || cancelled)
            }
            // It was cancelled while it waited for its next attempt.
            Some(_) => {
                status == TaskStatus::Cancelled && waits[records.len() - 1].is_some() && cancelled
            }
        };

        if !right {
            self.violate(|| format!("ended {status:?} after {records:?}"));
        }

        self.check_edges(status, !records.is_empty());
    }

    /// What ran, and what was taken over as if it had run, is justified by its parents in this very
    /// run.
    fn check_edges(&self, status: TaskStatus, ran: bool) {
        let edges = rules::edges_satisfied(&self.run.spec, self.task, |id| self.run.status(id));
        if (ran || status == TaskStatus::Successful) && edges != Some(true) {
            self.violate(|| {
                format!("ended {status:?}, and whether its edges are satisfied is {edges:?}")
            });
        }
    }

    fn without_attempts(&self, status: TaskStatus, cancelled: bool, repeats: bool) -> bool {
        let reason = self.stored.reason.as_ref().map(|reason| reason.kind);
        match status {
            TaskStatus::Skipped => {
                rules::edges_satisfied(&self.run.spec, self.task, |id| self.run.status(id))
                    == Some(false)
            }
            TaskStatus::Cancelled => cancelled || reason == Some(ReasonKind::OverlapSkipped),
            TaskStatus::Successful => repeats && reason == Some(ReasonKind::Reused),
            _ => false,
        }
    }

    fn check_attempt(&self, record: &AttemptRecord, intent: &Intent) {
        let id = ExecutionId {
            run: self.key.clone(),
            task: self.task.id.clone(),
            attempt: record.attempt,
        };

        let cluster = lock(&self.remains.site.cluster);
        let execution = cluster.executions.get(&id);
        let missing = self.task.variables.values().any(|value| value.contains("absent"));
        if missing && execution.is_some() {
            self.violate(|| "was started without its secret".to_owned());
        }

        let behaviour = Behaviour::of(self.remains.site.seed, &id, self.task);
        if let Some(stop) = &intent.stop {
            self.check_timeout(stop.cause, stop.at, intent);
        }

        let reason = record.reason.as_ref().map(|reason| reason.kind);
        let by_cause = |cause| match cause {
            StopCause::Cancel => (TaskStatus::Cancelled, Some(ReasonKind::Cancelled)),
            StopCause::Timeout => (TaskStatus::TimedOut, Some(ReasonKind::Timeout)),
            StopCause::StartTimeout => (TaskStatus::TimedOut, Some(ReasonKind::StartTimeout)),
        };

        let stopped = intent.stop.as_ref().map(|stop| by_cause(stop.cause));
        let ran = execution.and_then(|execution| execution.ran()).zip(self.task.timeout);
        let ran_too_long = ran.is_some_and(|(ran, timeout)| ran > timeout);
        let ran_up = ran.is_some_and(|(ran, timeout)| ran >= timeout);
        let end = (record.status, reason);
        let right = match execution.map(|execution| &execution.state) {
            None => {
                let refused = behaviour.end == End::Refused
                    && end == (TaskStatus::Failed, Some(ReasonKind::SchedulerRefused));
                let missed = missing && end == (TaskStatus::Failed, Some(ReasonKind::MissingValue));
                refused || missed || stopped == Some(end)
            }
            Some(ExecutionState::Exited { .. }) if ran_too_long => {
                end == by_cause(StopCause::Timeout)
            }
            Some(ExecutionState::Exited { code: 0, .. }) => {
                (record.status, record.exit_code) == (TaskStatus::Successful, Some(0))
            }
            Some(ExecutionState::Exited { code, .. }) => {
                (record.status, record.exit_code) == (TaskStatus::Failed, Some(*code))
            }
            Some(ExecutionState::Failed { .. }) => {
                record.status == TaskStatus::Failed && !rules::is_lost(record)
            }
            Some(ExecutionState::Stopped) => {
                let outside = (TaskStatus::Failed, Some(ReasonKind::StoppedOutside));
                let unasked = if ran_up { by_cause(StopCause::Timeout) } else { outside };
                end == stopped.unwrap_or(unasked)
            }
            Some(ExecutionState::Lost) => stopped
                .map_or(record.status == TaskStatus::Failed && rules::is_lost(record), |stopped| {
                    end == stopped
                }),
            Some(_) => false,
        };

        let right = right && self.is_undisturbed(record, intent, &behaviour);
        let seen_at = intent.ended_at.map_or(record.ended_at.0, |at| at.0);
        let ended_at = execution.and_then(|execution| execution.ended_at);
        let late = ended_at.map(|at| seen_at - at);
        let pieces = self.run.spec.tasks.len().div_ceil(self.world.max_changes);
        let blind = if self.world.faults.lost_events > 0 { BLIND } else { 0 };
        let latest = LATEST + blind + PER_PIECE * i64::try_from(pieces).expect("few");

        if self.world.steady && late.is_some_and(|late| late > latest) {
            self.violate(|| {
                format!(
                    "attempt {} was seen to end {late:?} microseconds after it had",
                    record.attempt
                )
            });
        }

        self.check_times(record, execution);
        if !right {
            let state = execution.map(|execution| (execution.state.clone(), execution.ran()));
            self.violate(|| {
                format!("{record:?}, stop {:?}, and the execution {state:?}", intent.stop)
            });
        }
    }

    /// "The server is away, or stands still, for so long, anywhere: no status changes, whatever the
    /// timeouts." What nobody cancels, and what did not wait too long to start, ends by what it
    /// would do alone.
    fn is_undisturbed(
        &self,
        record: &AttemptRecord,
        intent: &Intent,
        behaviour: &Behaviour,
    ) -> bool {
        let cancelled = self.run.cancel.is_some() || self.run.tasks[&self.task.id].cancel.is_some();
        let waited = intent.stop.as_ref().is_some_and(|stop| stop.cause == StopCause::StartTimeout);
        let missing =
            record.reason.as_ref().is_some_and(|reason| reason.kind == ReasonKind::MissingValue);
        let Some(timeout) = self.task.timeout.filter(|_| !cancelled && !waited && !missing) else {
            return true;
        };
        let in_time = Duration::from_millis(behaviour.run_ms) <= timeout;
        match behaviour.end {
            End::Exits { .. } => (record.status == TaskStatus::TimedOut) != in_time,
            // What was lost before its deadline did not run too long, whenever that is looked at.
            End::Lost { running: true } if in_time => rules::is_lost(record),
            _ => true,
        }
    }

    /// What people see is when the execution ran, not when somebody noticed.
    fn check_times(&self, record: &AttemptRecord, execution: Option<&Execution>) {
        let began = record.started_at.unwrap_or(record.intended_at);
        if record.intended_at > began || began > record.ended_at {
            return self.violate(|| format!("{record:?}: its times are in no order"));
        }

        let Some(execution) = execution
            .filter(|execution| self.world.steady && execution.observed().times.ran.is_some())
        else {
            return;
        };

        let truly = execution.ended_at.zip(execution.ran_at).filter(|_| execution.skew == 0);
        if let Some((ended_at, ran_at)) = truly {
            let off = (record.ended_at.0 - ended_at).abs().max((began.0 - ran_at).abs());
            if off > CLOCK {
                self.violate(|| format!("{record:?}: truly it ran from {ran_at} to {ended_at}"));
            }
        }
    }

    fn check_timeout(&self, cause: StopCause, at: gofer_core::Timestamp, intent: &Intent) {
        let due = match cause {
            StopCause::Cancel => return,
            StopCause::Timeout => intent.running_at.zip(self.task.timeout),
            StopCause::StartTimeout => Some(intent.at).zip(self.task.start_timeout),
        };
        if due.is_none_or(|(since, timeout)| at < since.after(timeout)) {
            self.violate(|| format!("was stopped for {cause:?} at {at}, and that is due {due:?}"));
        }
    }
}
