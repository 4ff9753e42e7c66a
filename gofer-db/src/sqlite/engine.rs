//! The few things SQLite does its own way. There is one writer, so nothing needs to be locked, and
//! a cached statement run again and again is faster than a statement per number of rows.

use diesel::prelude::*;
use diesel::query_builder::{QueryFragment, QueryId};
use gofer_core::{NamespaceId, RunKey, TaskId, Timestamp};

use super::{Conn, RunQueryDsl, dsl};
use crate::error::DbError;
use crate::rows::signed;
use crate::rows::standing::{Guard, TaskStanding};
use crate::schema::{runs, task_runs};

pub(crate) type Backend = diesel::sqlite::Sqlite;

/// A query whose rows stay as they are until the end of the transaction.
macro_rules! locked {
    ($query:expr) => {
        $query
    };
}
pub(crate) use locked;

/// One claim at a time.
pub(crate) async fn lock_claims(_: &mut Conn) -> Result<(), DbError> {
    Ok(())
}

/// Whether this is the only one that takes leases: there is one writer.
pub(crate) async fn lock_owner(_: &mut Conn, _: &str, _: bool) -> Result<bool, DbError> {
    Ok(true)
}

/// There is one writer: nothing is under way that it does not see.
pub(crate) const UNDER_WAY: i64 = 0;

/// One writer counts at a time.
pub(crate) async fn lock_quotas(_: &mut Conn, _: &NamespaceId) -> Result<(), DbError> {
    Ok(())
}

/// The file is this process's own.
pub(crate) async fn clock(_: &mut Conn) -> Result<Option<Timestamp>, DbError> {
    Ok(None)
}

/// Runs the statements in order.
pub(crate) async fn execute_all<Q>(c: &mut Conn, statements: Vec<Q>) -> Result<(), DbError>
where
    Q: QueryFragment<Backend> + QueryId,
{
    Ok(statements.into_iter().try_for_each(|statement| dsl::run(c, statement))?)
}

/// Runs the statements in order; returns how many rows they changed.
pub(crate) async fn change_all<Q>(c: &mut Conn, statements: Vec<Q>) -> Result<usize, DbError>
where
    Q: QueryFragment<Backend> + QueryId,
{
    if statements.is_empty() {
        return Ok(0);
    }
    let before = dsl::count(c, "total_changes()")?;
    execute_all(c, statements).await?;
    Ok(dsl::count(c, "total_changes()")? - before)
}

/// The runs' rows in order, locked; `None` where there is no such run.
pub(crate) async fn lock_runs(
    c: &mut Conn,
    keys: &[&RunKey],
) -> Result<Vec<Option<Guard>>, DbError> {
    let mut guards = Vec::with_capacity(keys.len());
    for key in keys {
        let guard = runs::table
            .select(Guard::as_select())
            .filter(runs::namespace.eq(key.namespace.as_str()))
            .filter(runs::pipeline.eq(key.pipeline.as_str()))
            .filter(runs::number.eq(signed(key.run.0)))
            .get_result(c)
            .await;
        guards.push(guard.optional()?);
    }
    Ok(guards)
}

/// How these tasks of these runs stand, as far as they have rows.
pub(crate) async fn task_standings(
    c: &mut Conn,
    wanted: &[(i64, Vec<&TaskId>)],
) -> Result<Vec<TaskStanding>, DbError> {
    let mut rows = Vec::new();
    for (run_id, tasks) in wanted {
        for task in tasks {
            let row = task_runs::table
                .find((run_id, task.as_str()))
                .select(TaskStanding::as_select())
                .get_result(c)
                .await;
            rows.extend(row.optional()?);
        }
    }
    Ok(rows)
}
