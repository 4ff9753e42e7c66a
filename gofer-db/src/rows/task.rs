use diesel::prelude::*;
use gofer_core::run::{AttemptRecord, CancelRequest, LogState, TaskRun, TaskState, TaskStatus};
use gofer_core::{Attempt, TaskId, Timestamp};

use super::{id, json_option, name, parsed_option, small};
use crate::error::DbError;
use crate::schema::{attempts, task_runs};

#[derive(Queryable, Selectable)]
#[diesel(table_name = task_runs)]
pub(crate) struct TaskRow {
    pub(crate) task: String,
    state: String,
    status: Option<String>,
    attempt: i64,
    losses: i64,
    reason: Option<String>,
    exit_code: Option<i32>,
    not_before: Option<i64>,
    intended_at: Option<i64>,
    started_at: Option<i64>,
    ended_at: Option<i64>,
    cancel_at: Option<i64>,
    cancel_by: Option<String>,
    cancel_force: Option<bool>,
    cancel_message: Option<String>,
    stop: Option<String>,
    incarnation: i64,
}

impl TryFrom<TaskRow> for TaskRun {
    type Error = DbError;

    fn try_from(row: TaskRow) -> Result<Self, DbError> {
        let status = row.status.as_deref().map(|text| name(text, TaskStatus::parse)).transpose()?;
        Ok(Self {
            task: id(&row.task)?,
            state: name(&row.state, |text| TaskState::parse(text, status))?,
            attempt: Attempt(small(row.attempt)?),
            losses: small(row.losses)?,
            reason: parsed_option(row.reason.as_deref())?,
            exit_code: row.exit_code,
            not_before: row.not_before.map(Timestamp),
            intended_at: row.intended_at.map(Timestamp),
            started_at: row.started_at.map(Timestamp),
            ended_at: row.ended_at.map(Timestamp),
            cancel: super::run::cancel(
                row.cancel_at,
                row.cancel_by,
                row.cancel_force,
                row.cancel_message,
            ),
            stop: parsed_option(row.stop.as_deref())?,
            incarnation: row.incarnation.cast_unsigned(),
        })
    }
}

/// What a commit sets: everything but `cancel`, which only `request_cancel` touches.
#[derive(Clone, Insertable, AsChangeset)]
#[diesel(table_name = task_runs, treat_none_as_null = true, treat_none_as_default_value = false)]
pub(crate) struct TaskChange {
    pub(crate) state: &'static str,
    status: Option<&'static str>,
    attempt: i64,
    losses: i64,
    reason: Option<String>,
    exit_code: Option<i32>,
    not_before: Option<i64>,
    intended_at: Option<i64>,
    started_at: Option<i64>,
    ended_at: Option<i64>,
    stop: Option<String>,
    incarnation: i64,
}

impl TaskChange {
    pub(crate) fn new(task: &TaskRun) -> Result<Self, DbError> {
        Ok(Self {
            state: task.state.name(),
            status: task.state.status().map(TaskStatus::as_str),
            attempt: i64::from(task.attempt.0),
            losses: i64::from(task.losses),
            reason: json_option(task.reason.as_ref())?,
            exit_code: task.exit_code,
            not_before: task.not_before.map(|at| at.0),
            intended_at: task.intended_at.map(|at| at.0),
            started_at: task.started_at.map(|at| at.0),
            ended_at: task.ended_at.map(|at| at.0),
            stop: json_option(task.stop.as_ref())?,
            incarnation: task.incarnation.cast_signed(),
        })
    }
}

/// The first row of a task run.
#[derive(Insertable)]
#[diesel(table_name = task_runs, treat_none_as_default_value = false)]
pub(crate) struct NewTaskRow {
    run_id: i64,
    task: String,
    #[diesel(embed)]
    change: TaskChange,
    cancel_at: Option<i64>,
    cancel_by: Option<String>,
    cancel_force: Option<bool>,
    cancel_message: Option<String>,
}

impl NewTaskRow {
    pub(crate) fn new(
        run_id: i64,
        task: &TaskId,
        change: TaskChange,
        cancel: Option<&CancelRequest>,
    ) -> Self {
        Self {
            run_id,
            task: task.to_string(),
            change,
            cancel_at: cancel.map(|request| request.at.0),
            cancel_by: cancel.map(|request| request.by.clone()),
            cancel_force: cancel.map(|request| request.force),
            cancel_message: cancel.map(|request| request.message.clone()),
        }
    }
}

/// A log state from its two columns.
pub(crate) fn log_state(log: &str, silent: bool) -> Result<LogState, DbError> {
    let state = name(log, LogState::parse)?;
    Ok(if silent && state == LogState::Live { LogState::EmptyUnsettled } else { state })
}

/// The two columns of a log state: one that is settled is the first alone.
pub(crate) fn log_columns(state: LogState) -> (&'static str, bool) {
    match state {
        LogState::EmptyUnsettled => (LogState::Live.as_str(), true),
        other => (other.as_str(), false),
    }
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = attempts)]
pub(crate) struct AttemptRow {
    pub(crate) task: String,
    attempt: i64,
    status: String,
    reason: Option<String>,
    exit_code: Option<i32>,
    intended_at: i64,
    started_at: Option<i64>,
    ended_at: i64,
    log: String,
    silent: bool,
}

impl TryFrom<AttemptRow> for (TaskId, AttemptRecord) {
    type Error = DbError;

    fn try_from(row: AttemptRow) -> Result<Self, DbError> {
        let record = AttemptRecord {
            attempt: Attempt(small(row.attempt)?),
            status: name(&row.status, TaskStatus::parse)?,
            reason: parsed_option(row.reason.as_deref())?,
            exit_code: row.exit_code,
            intended_at: Timestamp(row.intended_at),
            started_at: row.started_at.map(Timestamp),
            ended_at: Timestamp(row.ended_at),
            log: log_state(&row.log, row.silent)?,
        };
        Ok((id(&row.task)?, record))
    }
}

#[derive(Insertable)]
#[diesel(table_name = attempts, treat_none_as_default_value = false)]
pub(crate) struct NewAttemptRow {
    run_id: i64,
    task: String,
    attempt: i64,
    status: &'static str,
    reason: Option<String>,
    exit_code: Option<i32>,
    intended_at: i64,
    started_at: Option<i64>,
    ended_at: i64,
    log: &'static str,
    silent: bool,
}

impl NewAttemptRow {
    pub(crate) fn new(run_id: i64, task: &TaskId, record: &AttemptRecord) -> Result<Self, DbError> {
        let (log, silent) = log_columns(record.log);
        Ok(Self {
            run_id,
            task: task.to_string(),
            attempt: i64::from(record.attempt.0),
            status: record.status.as_str(),
            reason: json_option(record.reason.as_ref())?,
            exit_code: record.exit_code,
            intended_at: record.intended_at.0,
            started_at: record.started_at.map(|at| at.0),
            ended_at: record.ended_at.0,
            log,
            silent,
        })
    }
}
