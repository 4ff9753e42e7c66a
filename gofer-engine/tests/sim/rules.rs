//! Section 4 of the design and docs/src/pipelines.md in their own words; nothing here has seen the
//! engine.

use std::time::Duration;

use gofer_core::TaskId;
use gofer_core::pipeline::{Condition, PipelineSpec, RetryOn, TaskSpec};
use gofer_core::run::{AttemptRecord, ReasonKind, RunStatus, TaskState, TaskStatus};

/// "An attempt that the infrastructure lost is made good by Gofer up to three times, without using
/// up retries."
const FREE_LOSSES: u32 = 3;

/// "A task starts when all its parents are complete and every edge is satisfied." `None`: a parent
/// is not complete.
pub(crate) fn edges_satisfied(
    spec: &PipelineSpec,
    task: &TaskSpec,
    status: impl Fn(&TaskId) -> Option<TaskStatus>,
) -> Option<bool> {
    let mut all = true;
    for edge in &task.depends_on {
        let ended = status(&edge.task)?;
        let continues = spec.task(&edge.task).expect("a parent").continue_on_failure;
        all &= match (edge.condition, ended) {
            (Condition::Any, _) | (Condition::Success, TaskStatus::Successful) => true,
            (Condition::Success, TaskStatus::Failed | TaskStatus::TimedOut) => continues,
            (
                Condition::Failure,
                TaskStatus::Failed | TaskStatus::TimedOut | TaskStatus::Cancelled,
            ) => true,
            _ => false,
        };
    }

    Some(all)
}

/// How a run ends that nobody cancelled.
pub(crate) fn verdict(spec: &PipelineSpec, status: impl Fn(&TaskId) -> TaskStatus) -> RunStatus {
    let failed = |id: &TaskId| {
        matches!(status(id), TaskStatus::Failed | TaskStatus::TimedOut | TaskStatus::Cancelled)
    };

    let handled = |id: &TaskId| {
        spec.tasks.iter().any(|child| {
            status(&child.id) == TaskStatus::Successful
                && child
                    .depends_on
                    .iter()
                    .any(|edge| edge.task == *id && edge.condition == Condition::Failure)
        })
    };

    let fails =
        |task: &TaskSpec| failed(&task.id) && !task.continue_on_failure && !handled(&task.id);
    if spec.tasks.iter().any(fails) { RunStatus::Failed } else { RunStatus::Successful }
}

/// Which step may follow which.
pub(crate) fn is_step(from: TaskState, to: TaskState) -> bool {
    use TaskState::{Complete, Pending, Running, Starting};
    matches!(
        (from, to),
        (Pending, Starting | Complete(TaskStatus::Skipped | TaskStatus::Cancelled))
            | (Starting, Starting | Running | Pending)
            | (Running, Running | Pending)
            | (
                Starting | Running,
                Complete(
                    TaskStatus::Successful
                        | TaskStatus::Failed
                        | TaskStatus::Cancelled
                        | TaskStatus::TimedOut
                )
            )
    )
}

pub(crate) fn is_lost(record: &AttemptRecord) -> bool {
    record.reason.as_ref().is_some_and(|reason| reason.kind == ReasonKind::Lost)
}

/// The waits after each attempt but the last, and whether the last may not be followed by another:
/// what the attempts' ends lead to when nobody cancels. `None` as a wait: there should have been no
/// further attempt.
pub(crate) fn waits(task: &TaskSpec, ended: &[AttemptRecord]) -> Vec<Option<Duration>> {
    let (mut losses, mut used) = (0, 0);
    let mut waits = Vec::new();
    for record in ended {
        let lost = is_lost(record);
        if lost && losses < FREE_LOSSES {
            waits.push(Some(doubled(Duration::from_secs(1), losses, Duration::from_secs(300))));
            losses += 1;
            continue;
        }

        let missing =
            record.reason.as_ref().is_some_and(|reason| reason.kind == ReasonKind::MissingValue);
        let named = match record.status {
            _ if lost => task.retries.on.contains(&RetryOn::Lost),
            TaskStatus::Failed => task.retries.on.contains(&RetryOn::Failed),
            TaskStatus::TimedOut => task.retries.on.contains(&RetryOn::TimedOut),
            _ => false,
        };

        let again = named && !missing && used < task.retries.attempts;
        let first = task.retries.backoff.unwrap_or(Duration::from_secs(1));
        let longest = task.retries.max_backoff.unwrap_or(Duration::from_secs(300));
        waits.push(again.then(|| doubled(first, used, longest)));
        used += 1;
    }

    waits
}

fn doubled(first: Duration, times: u32, longest: Duration) -> Duration {
    (first * 2u32.pow(times)).min(longest)
}
