use diesel::prelude::*;
use gofer_core::object_store::ListPage;
use gofer_core::run::{Run, RunState, RunStatus};
use gofer_core::{NamespaceId, PipelineId, Resource, RunKey, Timestamp};

use super::{Conn, PENDING, RUNNING, RunQueryDsl, UNFINISHED, is_true};
use crate::error::DbError;
use crate::prepared::prepared;
use crate::rows::run::{RunListRow, RunRow, key};
use crate::rows::{number_cursor, page, page_rows, signed, unsigned};
use crate::schema::{event_counter, runs};
use crate::types::{Counts, Page, RunFilter};

/// The run's row; `NotFound` when there is none.
pub(crate) async fn find(c: &mut Conn, key: &RunKey) -> Result<RunRow, DbError> {
    let row: Option<RunRow> = runs::table
        .filter(runs::namespace.eq(key.namespace.as_str()))
        .filter(runs::pipeline.eq(key.pipeline.as_str()))
        .filter(runs::number.eq(signed(key.run.0)))
        .select(RunRow::as_select())
        .get_result(c)
        .await
        .optional()?;
    row.ok_or_else(|| DbError::not_found(Resource::Run, key))
}

pub(crate) async fn get(c: &mut Conn, key: &RunKey) -> Result<Run, DbError> {
    find(c, key).await?.try_into()
}

pub(crate) async fn latest(
    c: &mut Conn,
    namespace: &NamespaceId,
    pipeline: &PipelineId,
) -> Result<Run, DbError> {
    let row: Option<RunRow> = runs::table
        .filter(runs::namespace.eq(namespace.as_str()))
        .filter(runs::pipeline.eq(pipeline.as_str()))
        .select(RunRow::as_select())
        .order(runs::number.desc())
        .first(c)
        .await
        .optional()?;
    row.ok_or_else(|| {
        DbError::not_found(Resource::Run, format_args!("{namespace}/{pipeline}/latest"))
    })?
    .try_into()
}

/// Newest first is by id, which grows with every insert.
pub(crate) async fn list(
    c: &mut Conn,
    namespace: &NamespaceId,
    filter: &RunFilter,
    wanted: &ListPage,
) -> Result<Page<Run>, DbError> {
    let mut query = runs::table
        .select(RunListRow::as_select())
        .filter(runs::namespace.eq(namespace.as_str()))
        .into_boxed();
    if let Some(before) = number_cursor(wanted.after.as_deref())? {
        query = query.filter(runs::id.lt(before));
    }

    let by_pipeline = filter.pipeline.is_some();
    if let Some(pipeline) = &filter.pipeline {
        query = query.filter(runs::pipeline.eq(pipeline.as_str()));
    }

    if !filter.states.is_empty() {
        // Said in the words of the partial index, which is small however many runs are complete.
        if !filter.states.iter().any(|state| state.is_complete()) {
            query = query.filter(is_true(UNFINISHED));
        }
        query = query
            .filter(runs::state.eq_any(filter.states.iter().map(|state: &RunState| state.name())));
    }

    if !filter.statuses.is_empty() {
        if !filter.statuses.contains(&RunStatus::Successful) {
            query = query.filter(is_true("runs.status <> 'successful'"));
        }
        query =
            query.filter(runs::status.eq_any(filter.statuses.iter().map(|status| status.as_str())));
    }

    // Within one pipeline the number orders as the id does, and has the index.
    let query = if by_pipeline && filter.states.is_empty() && filter.statuses.is_empty() {
        query.order(runs::number.desc())
    } else {
        query.order(runs::id.desc())
    };

    let rows = query.limit(page_rows(wanted.limit)).load(c).await?;
    page(rows, wanted.limit, |row: &RunListRow| row.id.to_string(), Run::try_from)
}

pub(crate) async fn by_token_hash(
    c: &mut Conn,
    hash: &[u8; 32],
) -> Result<Option<RunKey>, DbError> {
    let found: Option<(String, String, i64)> = prepared(
        runs::table.filter(runs::token_hash.eq(&hash[..])).filter(is_true(UNFINISHED)).select((
            runs::namespace,
            runs::pipeline,
            runs::number,
        )),
    )
    .get_result(c)
    .await
    .optional()?;
    found.map(|(namespace, pipeline, number)| key(&namespace, &pipeline, number)).transpose()
}

pub(crate) async fn is_unfinished(c: &mut Conn, key: &RunKey) -> Result<bool, DbError> {
    let found: Option<i64> = runs::table
        .filter(runs::namespace.eq(key.namespace.as_str()))
        .filter(runs::pipeline.eq(key.pipeline.as_str()))
        .filter(runs::number.eq(signed(key.run.0)))
        .filter(is_true(UNFINISHED))
        .select(runs::number)
        .get_result(c)
        .await
        .optional()?;
    Ok(found.is_some())
}

/// Those of these runs that are not complete, in no order.
pub(crate) async fn unfinished(c: &mut Conn, keys: &[RunKey]) -> Result<Vec<RunKey>, DbError> {
    let mut found = Vec::new();
    for key in keys {
        if is_unfinished(c, key).await? {
            found.push(key.clone());
        }
    }
    Ok(found)
}

/// When the oldest run that waits was created.
pub(crate) async fn oldest_pending(c: &mut Conn) -> Result<Option<Timestamp>, DbError> {
    let oldest = runs::table.filter(is_true(PENDING)).select(diesel::dsl::min(runs::created_at));
    let oldest: Option<i64> = oldest.get_result(c).await?;
    Ok(oldest.map(Timestamp))
}

pub(crate) async fn counts(c: &mut Conn) -> Result<Counts, DbError> {
    let pending: i64 = runs::table.filter(is_true(PENDING)).count().get_result(c).await?;
    let running: i64 = runs::table.filter(is_true(RUNNING)).count().get_result(c).await?;
    let last: i64 = event_counter::table.find(1).select(event_counter::last).get_result(c).await?;
    Ok(Counts {
        pending_runs: unsigned(pending)?,
        running_runs: unsigned(running)?,
        last_event_id: unsigned(last)?,
    })
}
