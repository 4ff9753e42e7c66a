//! Whether and when there is another attempt.

use std::time::Duration;

use gofer_core::pipeline::{RetryOn, RetryPolicy};
use gofer_core::run::{Reason, ReasonKind, TaskRun, TaskStatus};

/// How many losses of one task the engine makes good without the user's retries. Nodes fail one at
/// a time; a task that loses its node four times is more likely the reason than the victim.
pub const MAX_LOSSES: u32 = 3;

/// Wait after the first loss; doubles with each further one.
const LOSS_BACKOFF: Duration = Duration::from_secs(1);

/// The wait before the next attempt and the losses counted by then; `None` when there is to be no
/// further attempt.
pub(crate) fn after(
    policy: &RetryPolicy,
    task: &TaskRun,
    status: TaskStatus,
    reason: Option<&Reason>,
    lost: bool,
) -> Option<(Duration, u32)> {
    if lost && task.losses < MAX_LOSSES {
        return Some((
            doubled(LOSS_BACKOFF, task.losses, RetryPolicy::DEFAULT_MAX_BACKOFF),
            task.losses + 1,
        ));
    }

    let kind = match status {
        _ if lost => RetryOn::Lost,
        TaskStatus::Failed => RetryOn::Failed,
        TaskStatus::TimedOut => RetryOn::TimedOut,
        TaskStatus::Successful | TaskStatus::Cancelled | TaskStatus::Skipped => return None,
    };

    let hopeless = reason.is_some_and(|reason| {
        matches!(reason.kind, ReasonKind::MissingValue | ReasonKind::Unsupported)
    });

    let used = task.attempt.0 - 1 - task.losses;
    if hopeless || used >= policy.attempts || !policy.on.contains(&kind) {
        return None;
    }

    let first = policy.backoff.unwrap_or(RetryPolicy::DEFAULT_BACKOFF);
    let longest = policy.max_backoff.unwrap_or(RetryPolicy::DEFAULT_MAX_BACKOFF);
    Some((doubled(first, used, longest), task.losses))
}

fn doubled(first: Duration, times: u32, longest: Duration) -> Duration {
    first.saturating_mul(2u32.saturating_pow(times)).min(longest)
}
