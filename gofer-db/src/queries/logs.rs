//! Where attempts' logs are.

use diesel::prelude::*;
use gofer_core::event::{EventDetails, NewEvent};
use gofer_core::run::LogState;
use gofer_core::{Attempt, ExecutionId, Timestamp};

use super::{Conn, RunQueryDsl, Tx, is_true};
use crate::error::DbError;
use crate::prepared::prepared;
use crate::rows::run::key;
use crate::rows::task::{log_columns, log_state};
use crate::rows::{id, signed, small};
use crate::schema::{attempts, runs};

/// Oldest first is by id, which grows with every end that is committed.
pub(crate) async fn live(
    c: &mut Conn,
    before: Timestamp,
    after: Option<&ExecutionId>,
    limit: usize,
) -> Result<Vec<ExecutionId>, DbError> {
    let after = match after {
        Some(after) => find(c, after).await?.map_or(0, |(id, _)| id),
        None => 0,
    };

    let rows: Vec<ExecutionRow> = prepared(
        attempts::table
            .inner_join(runs::table.on(runs::id.eq(attempts::run_id)))
            .filter(is_true("attempts.log = 'live'"))
            .filter(attempts::id.gt(after))
            .filter(attempts::ended_at.lt(before.0))
            .order(attempts::id)
            .limit(signed(limit as u64))
            .select(EXECUTION),
    )
    .load(c)
    .await?;
    rows.into_iter().map(execution).collect()
}

pub(crate) type ExecutionRow = (String, String, i64, String, i64);

/// The columns of an [`ExecutionRow`].
pub(crate) const EXECUTION: (
    runs::namespace,
    runs::pipeline,
    runs::number,
    attempts::task,
    attempts::attempt,
) = (runs::namespace, runs::pipeline, runs::number, attempts::task, attempts::attempt);

pub(crate) fn execution(
    (namespace, pipeline, run, task, attempt): ExecutionRow,
) -> Result<ExecutionId, DbError> {
    Ok(ExecutionId {
        run: key(&namespace, &pipeline, run)?,
        task: id(&task)?,
        attempt: Attempt(small(attempt)?),
    })
}

/// A finished attempt's row id and log state.
async fn find(c: &mut Conn, id: &ExecutionId) -> Result<Option<(i64, LogState)>, DbError> {
    let found: Option<(i64, String, bool)> = attempts::table
        .inner_join(runs::table.on(runs::id.eq(attempts::run_id)))
        .filter(runs::namespace.eq(id.run.namespace.as_str()))
        .filter(runs::pipeline.eq(id.run.pipeline.as_str()))
        .filter(runs::number.eq(signed(id.run.run.0)))
        .filter(attempts::task.eq(id.task.as_str()))
        .filter(attempts::attempt.eq(i64::from(id.attempt.0)))
        .select((attempts::id, attempts::log, attempts::silent))
        .get_result(c)
        .await
        .optional()?;
    found.map(|(id, log, silent)| Ok((id, log_state(&log, silent)?))).transpose()
}

pub(crate) async fn state(c: &mut Conn, id: &ExecutionId) -> Result<Option<LogState>, DbError> {
    Ok(find(c, id).await?.map(|(_, log)| log))
}

pub(crate) async fn set_state(
    tx: &mut Tx<'_>,
    id: &ExecutionId,
    from: LogState,
    to: LogState,
    event: Option<NewEvent>,
) -> Result<bool, DbError> {
    let Some((row, _)) = find(tx.c, id).await? else { return Ok(false) };
    let ((from, was_silent), (to, silent)) = (log_columns(from), log_columns(to));
    let row = attempts::table
        .find(row)
        .filter(attempts::log.eq(from))
        .filter(attempts::silent.eq(was_silent));
    let log_bytes = event.as_ref().and_then(|event| match event.details {
        EventDetails::LogArchived { size_bytes } => {
            Some(attempts::log_bytes.eq(signed(size_bytes)))
        }
        _ => None,
    });

    let change =
        diesel::update(row).set((attempts::log.eq(to), attempts::silent.eq(silent), log_bytes));
    let changed = prepared(change).execute(tx.c).await? == 1;
    if let Some(event) = event.filter(|_| changed) {
        tx.record(event);
    }

    Ok(changed)
}
