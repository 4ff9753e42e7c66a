//! Commands that run in tasks: a row each, as long as its server lives.

use diesel::prelude::*;
use gofer_core::event::NewEvent;
use gofer_core::quota::QuotaKind;
use gofer_core::{ExecutionId, Timestamp};

use super::{RunQueryDsl, Tx, quotas};
use crate::error::DbError;
use crate::headroom::QuotaBook;
use crate::rows::{signed, unsigned};
use crate::schema::exec_sessions;

/// Counts one more, with its event, unless its task or namespace has as many as it may.
pub(crate) async fn begin(
    tx: &mut Tx<'_>,
    book: &QuotaBook,
    session: &str,
    server: &str,
    id: &ExecutionId,
    event: NewEvent,
) -> Result<(), DbError> {
    let (run, namespace, at) = (&id.run, &id.run.namespace, event.at);
    let limits = quotas::admit(tx, book, namespace, &[(QuotaKind::ExecSessions, 1)], at).await?;
    let of_task: i64 = exec_sessions::table
        .filter(exec_sessions::namespace.eq(namespace.as_str()))
        .filter(exec_sessions::pipeline.eq(run.pipeline.as_str()))
        .filter(exec_sessions::run.eq(signed(run.run.0)))
        .filter(exec_sessions::task.eq(id.task.as_str()))
        .count()
        .get_result(tx.c)
        .await?;
    let quota = QuotaKind::ExecSessionsPerTask;

    quota.admit(namespace, limits.get(quota), unsigned(of_task)?, 1)?;

    let row = (
        exec_sessions::id.eq(session),
        exec_sessions::server.eq(server),
        exec_sessions::namespace.eq(namespace.as_str()),
        exec_sessions::pipeline.eq(run.pipeline.as_str()),
        exec_sessions::run.eq(signed(run.run.0)),
        exec_sessions::task.eq(id.task.as_str()),
        exec_sessions::at.eq(at.0),
    );

    diesel::insert_into(exec_sessions::table).values(row).execute(tx.c).await?;
    tx.record(event);
    Ok(())
}

/// It has ended.
pub(crate) async fn end(tx: &mut Tx<'_>, session: &str) -> Result<(), DbError> {
    diesel::delete(exec_sessions::table.find(session)).execute(tx.c).await?;
    Ok(())
}

/// Those of a server that ends, or that began before it did.
pub(crate) async fn end_all(tx: &mut Tx<'_>, server: &str) -> Result<(), DbError> {
    diesel::delete(exec_sessions::table.filter(exec_sessions::server.eq(server)))
        .execute(tx.c)
        .await?;
    Ok(())
}

/// Those of servers that have shown no sign of life, but for sessions that are newer than `before`:
/// their server may just have begun.
pub(crate) async fn end_those_of_the_dead(
    tx: &mut Tx<'_>,
    before: Timestamp,
) -> Result<(), DbError> {
    let living = crate::schema::servers::table.select(crate::schema::servers::name);
    let dead = exec_sessions::table
        .filter(exec_sessions::server.ne_all(living))
        .filter(exec_sessions::at.lt(before.0));
    diesel::delete(dead).execute(tx.c).await?;
    Ok(())
}
