//! What is recorded of where a run's time went.

use diesel::prelude::*;
use gofer_core::event::Event;
use gofer_core::{RunKey, RunNumber, TaskId, Timestamp};

use super::{Conn, RunQueryDsl, runs as run};
use crate::error::DbError;
use crate::rows::event::EventRow;
use crate::rows::{signed, unsigned};
use crate::schema::{attempts, events, runs};
use crate::types::{MAX_PAGE, RunRecords};

/// Most events of one answer; beyond, a timeline has less to say.
const MAX_EVENTS: i64 = 20_000;
/// How many runs before a run are looked at for the one that made room for it.
const LOOK_BACK: i64 = 1_000;

pub(crate) async fn records(c: &mut Conn, key: &RunKey) -> Result<RunRecords, DbError> {
    let row = run::find(c, key).await?;
    let live: i64 = attempts::table
        .filter(attempts::run_id.eq(row.id))
        .filter(attempts::log.eq("live"))
        .count()
        .get_result(c)
        .await?;
    let last_archived: Option<i64> = events::table
        .filter(events::namespace.eq(key.namespace.as_str()))
        .filter(events::pipeline.eq(key.pipeline.as_str()))
        .filter(events::run.eq(signed(key.run.0)))
        .filter(events::kind.eq("log_archived"))
        .select(events::at)
        .order(events::id.desc())
        .first(c)
        .await
        .optional()?;
    let number = signed(key.run.0);
    let (created_at, started_at) = row.waited();
    let ended_before: Option<i64> = match started_at {
        None => None,
        Some(started_at) => runs::table
            .filter(runs::namespace.eq(key.namespace.as_str()))
            .filter(runs::pipeline.eq(key.pipeline.as_str()))
            .filter(runs::number.between(number.saturating_sub(LOOK_BACK), number - 1))
            .filter(runs::ended_at.gt(created_at))
            .filter(runs::ended_at.le(started_at))
            .select(runs::number)
            .order(runs::ended_at.desc())
            .first(c)
            .await
            .optional()?,
    };

    Ok(RunRecords {
        live_logs: unsigned(live)?,
        last_archived: last_archived.map(Timestamp),
        ended_before: ended_before.map(unsigned).transpose()?.map(RunNumber),
    })
}

pub(crate) async fn events(
    c: &mut Conn,
    key: &RunKey,
    tasks: &[TaskId],
    types: &'static [&'static str],
) -> Result<Vec<Event>, DbError> {
    let rows: Vec<EventRow> = events::table
        .filter(events::namespace.eq(key.namespace.as_str()))
        .filter(events::pipeline.eq(key.pipeline.as_str()))
        .filter(events::run.eq(signed(key.run.0)))
        .filter(events::task.eq_any(tasks.iter().take(MAX_PAGE).map(TaskId::as_str)))
        .filter(events::kind.eq_any(types))
        .select(EventRow::as_select())
        .order(events::id)
        .limit(MAX_EVENTS)
        .load(c)
        .await?;
    rows.into_iter().map(Event::try_from).collect()
}
