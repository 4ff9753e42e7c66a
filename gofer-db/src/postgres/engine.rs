//! The few things PostgreSQL does its own way: rows are locked, and statements are sent without
//! waiting for each other's answers, because round trips are what takes time.

use diesel::prelude::{
    ExpressionMethods as _, OptionalExtension as _, QueryDsl as _, SelectableHelper as _,
};
use diesel::query_builder::{QueryFragment, QueryId};
use diesel::sql_types::{BigInt, Text};
use futures::future::try_join_all;
use gofer_core::{NamespaceId, RunKey, TaskId, Timestamp};

use super::{Conn, RunQueryDsl};
use crate::error::DbError;
use crate::prepared::prepared;
use crate::rows::signed;
use crate::rows::standing::{Guard, TaskStanding};
use crate::schema::{runs, task_runs};

pub(crate) type Backend = diesel::pg::Pg;

/// Key of the advisory lock that lets one claim in at a time.
const CLAIM_LOCK: i64 = 0x67_6f66_6572_0002;
/// Statements on their way at once.
const PIPELINED_STATEMENTS_MAX: usize = 256;

/// A query whose rows stay as they are until the end of the transaction.
macro_rules! locked {
    ($query:expr) => {
        $query.for_no_key_update()
    };
}
pub(crate) use locked;

/// One claim at a time.
pub(crate) async fn lock_claims(c: &mut Conn) -> Result<(), DbError> {
    prepared(diesel::sql_query(format!("SELECT pg_advisory_xact_lock({CLAIM_LOCK})")))
        .execute(c)
        .await?;
    Ok(())
}

/// Keeps the owner from taking leases elsewhere until the end of the transaction: any, or only such
/// as are taken `alone`. Returns whether this is the only one that takes some.
pub(crate) async fn lock_owner(c: &mut Conn, owner: &str, alone: bool) -> Result<bool, DbError> {
    let lock = if alone { "pg_advisory_xact_lock" } else { "pg_advisory_xact_lock_shared" };
    let query =
        diesel::sql_query(format!("SELECT {lock}(hashtextextended('gofer leases of ' || $1, 0))"));
    prepared(query.bind::<Text, _>(owner.to_owned())).execute(c).await?;
    Ok(alone)
}

/// More transactions than these are never under way at once, over all servers: PostgreSQL has a
/// connection for each.
pub(crate) const UNDER_WAY: i64 = 1_024;

/// Keeps others from counting what the namespace uses until the end of the transaction.
pub(crate) async fn lock_quotas(c: &mut Conn, namespace: &NamespaceId) -> Result<(), DbError> {
    let query = diesel::sql_query(
        "SELECT pg_advisory_xact_lock(hashtextextended('gofer quotas of ' || $1, 0))",
    );
    prepared(query.bind::<Text, _>(namespace.to_string())).execute(c).await?;
    Ok(())
}

/// The database's own clock.
pub(crate) async fn clock(c: &mut Conn) -> Result<Option<Timestamp>, DbError> {
    let now = "CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS BIGINT)";
    Ok(Some(Timestamp(diesel::select(diesel::dsl::sql::<BigInt>(now)).get_result(c).await?)))
}

/// Runs the statements in order.
pub(crate) async fn execute_all<Q>(c: &mut Conn, statements: Vec<Q>) -> Result<(), DbError>
where
    Q: QueryFragment<Backend> + QueryId + Send,
{
    change_all(c, statements).await.map(drop)
}

/// Runs the statements in order; returns how many rows they changed.
pub(crate) async fn change_all<Q>(c: &mut Conn, statements: Vec<Q>) -> Result<usize, DbError>
where
    Q: QueryFragment<Backend> + QueryId + Send,
{
    let c: &Conn = c;
    let mut changed = 0;
    let mut statements = statements.into_iter();
    loop {
        let some = statements
            .by_ref()
            .take(PIPELINED_STATEMENTS_MAX)
            .map(|statement| async move { statement.execute(&mut &*c).await });
        let counts = try_join_all(some).await?;
        if counts.is_empty() {
            return Ok(changed);
        }
        changed += counts.iter().sum::<usize>();
    }
}

/// The runs' rows in order, locked; `None` where there is no such run.
pub(crate) async fn lock_runs(
    c: &mut Conn,
    keys: &[&RunKey],
) -> Result<Vec<Option<Guard>>, DbError> {
    let c: &Conn = c;
    let mut guards = Vec::with_capacity(keys.len());
    for keys in keys.chunks(PIPELINED_STATEMENTS_MAX) {
        let some = keys.iter().map(|key| async move {
            let guard = runs::table
                .select(Guard::as_select())
                .filter(runs::namespace.eq(key.namespace.as_str()))
                .filter(runs::pipeline.eq(key.pipeline.as_str()))
                .filter(runs::number.eq(signed(key.run.0)))
                .for_no_key_update()
                .get_result(&mut &*c)
                .await;
            guard.optional()
        });
        guards.extend(try_join_all(some).await?);
    }

    Ok(guards)
}

/// How these tasks of these runs stand, as far as they have rows.
pub(crate) async fn task_standings(
    c: &mut Conn,
    wanted: &[(i64, Vec<&TaskId>)],
) -> Result<Vec<TaskStanding>, DbError> {
    let c: &Conn = c;
    let mut rows = Vec::new();
    for wanted in wanted.chunks(PIPELINED_STATEMENTS_MAX) {
        let some = wanted.iter().filter(|(_, tasks)| !tasks.is_empty()).map(
            |(run_id, tasks)| async move {
                let tasks: Vec<&str> = tasks.iter().map(|task| task.as_str()).collect();
                task_runs::table
                    .select(TaskStanding::as_select())
                    .filter(task_runs::run_id.eq(run_id))
                    .filter(task_runs::task.eq_any(tasks))
                    .load(&mut &*c)
                    .await
            },
        );
        rows.extend(try_join_all(some).await?.into_iter().flatten());
    }

    Ok(rows)
}
