//! Runs, task runs, attempts and logs.

use gofer_core::Timestamp;
use gofer_core::pipeline::TaskSpec;
use gofer_core::run::{
    AttemptRecord, CancelRequest, Initiator, LogState, Run, RunState, RunStatus, TaskRun,
    TaskState, TaskStatus,
};
use gofer_core::scheduler::{LogChunk, LogCursor, LogStream};
use gofer_proto::v1;

use super::pipeline::dependency_to_wire;
use super::{REASON_MAX_BYTES, free_text, optional_timestamp, reason, timestamp};
use crate::error::ApiError;

/// A run.
pub(crate) fn run(run: &Run) -> v1::Run {
    v1::Run {
        namespace: run.key.namespace.to_string(),
        pipeline: run.key.pipeline.to_string(),
        run: run.key.run.0,
        version: run.version.0,
        state: run_state_to_wire(run.state).into(),
        status: run_status_to_wire(run.state.status()).into(),
        reason: run.reason.as_ref().map(reason),
        initiator: Some(initiator(&run.initiator, run.retry_of.is_some())),
        variables: run.variables.clone(),
        retry_of: run.retry_of.map_or(0, |number| number.0),
        created_at: Some(timestamp(run.created_at)),
        started_at: optional_timestamp(run.started_at),
        ended_at: optional_timestamp(run.ended_at),
        cancel_requested: run.cancel.is_some(),
    }
}

/// A run as lists show it.
pub(crate) fn run_summary(whole: &Run) -> v1::RunSummary {
    let run = run(whole);
    v1::RunSummary {
        namespace: run.namespace,
        pipeline: run.pipeline,
        run: run.run,
        version: run.version,
        state: run.state,
        status: run.status,
        reason: run.reason,
        initiator: run.initiator,
        retry_of: run.retry_of,
        created_at: run.created_at,
        started_at: run.started_at,
        ended_at: run.ended_at,
        cancel_requested: run.cancel_requested,
    }
}

/// Who started a run; a repeated run says so itself.
pub(super) fn initiator(initiator: &Initiator, is_retry: bool) -> v1::Initiator {
    let (kind, name) = match initiator {
        Initiator::Token(name) if is_retry => (v1::InitiatorKind::Retry, name),
        Initiator::Token(name) => (v1::InitiatorKind::Token, name),
        Initiator::Trigger(name) => (v1::InitiatorKind::Trigger, name),
    };
    v1::Initiator { kind: kind.into(), name: name.clone() }
}

fn run_state_to_wire(state: RunState) -> v1::RunState {
    match state {
        RunState::Pending => v1::RunState::Pending,
        RunState::Running => v1::RunState::Running,
        RunState::Complete(_) => v1::RunState::Complete,
    }
}

/// How a run ended, if it did.
pub(super) fn run_status_to_wire(status: Option<RunStatus>) -> v1::RunStatus {
    match status {
        None => v1::RunStatus::Unspecified,
        Some(RunStatus::Successful) => v1::RunStatus::Successful,
        Some(RunStatus::Failed) => v1::RunStatus::Failed,
        Some(RunStatus::Cancelled) => v1::RunStatus::Cancelled,
    }
}

/// A state to filter by; the status inside means nothing.
pub(crate) fn run_state(value: i32) -> Result<RunState, ApiError> {
    match v1::RunState::try_from(value) {
        Ok(v1::RunState::Pending) => Ok(RunState::Pending),
        Ok(v1::RunState::Running) => Ok(RunState::Running),
        Ok(v1::RunState::Complete) => Ok(RunState::Complete(RunStatus::Successful)),
        Ok(v1::RunState::Unspecified) | Err(_) => Err(ApiError::invalid(
            "states",
            value.to_string(),
            "one of PENDING, RUNNING and COMPLETE",
        )),
    }
}

/// A status to filter by.
pub(crate) fn run_status(value: i32) -> Result<RunStatus, ApiError> {
    match v1::RunStatus::try_from(value) {
        Ok(v1::RunStatus::Successful) => Ok(RunStatus::Successful),
        Ok(v1::RunStatus::Failed) => Ok(RunStatus::Failed),
        Ok(v1::RunStatus::Cancelled) => Ok(RunStatus::Cancelled),
        Ok(v1::RunStatus::Unspecified) | Err(_) => Err(ApiError::invalid(
            "statuses",
            value.to_string(),
            "one of SUCCESSFUL, FAILED and CANCELLED",
        )),
    }
}

/// How a task run or an attempt ended, if it did.
pub(super) fn task_status_to_wire(status: Option<TaskStatus>) -> v1::TaskRunStatus {
    match status {
        None => v1::TaskRunStatus::Unspecified,
        Some(TaskStatus::Successful) => v1::TaskRunStatus::Successful,
        Some(TaskStatus::Failed) => v1::TaskRunStatus::Failed,
        Some(TaskStatus::Cancelled) => v1::TaskRunStatus::Cancelled,
        Some(TaskStatus::Skipped) => v1::TaskRunStatus::Skipped,
        Some(TaskStatus::TimedOut) => v1::TaskRunStatus::TimedOut,
    }
}

/// A task run of `run`, with the attempts given.
pub(crate) fn task_run(
    run: &Run,
    spec: Option<&TaskSpec>,
    task: &TaskRun,
    attempts: Vec<v1::Attempt>,
) -> v1::TaskRun {
    v1::TaskRun {
        namespace: run.key.namespace.to_string(),
        pipeline: run.key.pipeline.to_string(),
        run: run.key.run.0,
        task: task.task.to_string(),
        state: match task.state {
            TaskState::Pending => v1::TaskRunState::Pending,
            TaskState::Starting => v1::TaskRunState::Starting,
            TaskState::Running => v1::TaskRunState::Running,
            TaskState::Complete(_) => v1::TaskRunState::Complete,
        }
        .into(),
        status: task_status_to_wire(task.state.status()).into(),
        attempt: task.attempt.0,
        reason: task.reason.as_ref().map(reason),
        exit_code: task.exit_code,
        created_at: Some(timestamp(run.created_at)),
        started_at: optional_timestamp(task.started_at),
        ended_at: optional_timestamp(task.ended_at),
        not_before: optional_timestamp(task.not_before),
        attempts,
        depends_on: spec
            .map(|spec| spec.depends_on.iter().map(dependency_to_wire).collect())
            .unwrap_or_default(),
        cancel_requested: task.cancel.is_some(),
        continue_on_failure: spec.is_some_and(|spec| spec.continue_on_failure),
        losses: task.losses,
    }
}

/// A task run's attempts: those on record, then the one at work, if one is.
pub(crate) fn attempts_of<'a>(
    task: &TaskRun,
    records: impl IntoIterator<Item = &'a AttemptRecord>,
) -> Vec<v1::Attempt> {
    let mut attempts: Vec<_> = records.into_iter().map(ended_attempt).collect();
    if task.state.is_active() {
        attempts.push(v1::Attempt {
            attempt: task.attempt.0,
            status: v1::TaskRunStatus::Unspecified.into(),
            reason: task.reason.as_ref().map(reason),
            exit_code: None,
            started_at: optional_timestamp(task.started_at),
            ended_at: None,
            log_state: v1::LogState::Live.into(),
            intended_at: optional_timestamp(task.intended_at),
        });
    }
    attempts
}

fn ended_attempt(record: &AttemptRecord) -> v1::Attempt {
    v1::Attempt {
        attempt: record.attempt.0,
        status: task_status_to_wire(Some(record.status)).into(),
        reason: record.reason.as_ref().map(reason),
        exit_code: record.exit_code,
        started_at: optional_timestamp(record.started_at),
        ended_at: Some(timestamp(record.ended_at)),
        log_state: match record.log {
            LogState::Empty => v1::LogState::None,
            LogState::Live | LogState::EmptyUnsettled => v1::LogState::Live,
            LogState::Archived => v1::LogState::Archived,
            LogState::Expired => v1::LogState::Expired,
            LogState::Lost => v1::LogState::Lost,
        }
        .into(),
        intended_at: Some(timestamp(record.intended_at)),
    }
}

/// Where in a log to begin.
pub(crate) fn log_cursor(cursor: Option<v1::LogCursor>) -> LogCursor {
    cursor
        .map(|cursor| LogCursor { stdout: cursor.stdout_offset, stderr: cursor.stderr_offset })
        .unwrap_or_default()
}

/// A piece of a log.
pub(crate) fn log_chunk(chunk: LogChunk) -> v1::LogChunk {
    let stream = match chunk.stream {
        LogStream::Stdout => v1::LogStream::Stdout,
        LogStream::Stderr => v1::LogStream::Stderr,
    };
    v1::LogChunk {
        stream: stream.into(),
        offset: chunk.offset,
        data: chunk.data,
        at: chunk.at.map(timestamp),
    }
}

/// A cancel request, by the one who makes it.
pub(crate) fn cancel_request(
    by: String,
    force: bool,
    reason: String,
) -> Result<CancelRequest, ApiError> {
    free_text("reason", &reason, REASON_MAX_BYTES)?;
    Ok(CancelRequest { at: Timestamp::now(), by, force, message: reason })
}
