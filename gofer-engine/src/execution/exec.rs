//! Commands in running tasks: where, and what may be recorded of them.

use gofer_core::run::{TaskState, TaskStatus};
use gofer_core::{ExecutionId, Resource, RunKey, TaskId};

use crate::error::EngineError;
use crate::logs::mask_source::MaskSource;
use crate::logs::run_masks::RunMasks;
use crate::ports::Ports;

/// Longest record of a command.
const MAX_SHOWN_BYTES: usize = 1024;

/// See [`crate::Engine::exec_target`].
pub(crate) async fn target(
    ports: &Ports,
    masks: &RunMasks,
    key: &RunKey,
    task: &TaskId,
    command: &[String],
) -> Result<(ExecutionId, String), EngineError> {
    if ports.scheduler.exec().is_none() {
        let message =
            "the scheduler of this server cannot run a command in a running task".to_owned();
        return Err(EngineError::Unsupported { message });
    }

    let snapshot = ports.journal.load(key).await?;
    let full = || format!("{key}/{task}");
    let found = snapshot
        .tasks
        .get(task)
        .ok_or_else(|| EngineError::NotFound { what: Resource::TaskRun, key: full() })?;

    if found.state != TaskState::Running {
        return Err(EngineError::NotRunning { key: full(), state: state_name(&found.state) });
    }

    let id = ExecutionId { run: key.clone(), task: task.clone(), attempt: found.attempt };
    let source = MaskSource { spec: snapshot.spec, run: snapshot.run };
    let mut masker = source.masker(ports, masks, &id).await?;
    let mut shown = masker.push(command.join(" ").as_bytes());
    shown.extend(masker.finish());

    Ok((id, shorten(String::from_utf8_lossy(&shown).into_owned())))
}

fn state_name(state: &TaskState) -> &'static str {
    match state {
        TaskState::Pending => "pending",
        TaskState::Starting => "starting",
        TaskState::Running => "running",
        TaskState::Complete(TaskStatus::Successful) => "complete (successful)",
        TaskState::Complete(TaskStatus::Failed) => "complete (failed)",
        TaskState::Complete(TaskStatus::Cancelled) => "complete (cancelled)",
        TaskState::Complete(TaskStatus::Skipped) => "complete (skipped)",
        TaskState::Complete(TaskStatus::TimedOut) => "complete (timed out)",
    }
}

fn shorten(mut text: String) -> String {
    if text.len() > MAX_SHOWN_BYTES {
        text.truncate(text.floor_char_boundary(MAX_SHOWN_BYTES - '…'.len_utf8()));
        text.push('…');
    }
    text
}
