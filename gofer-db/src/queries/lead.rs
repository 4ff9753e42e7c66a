//! Leadership: the one server that does what is done once for all.

use std::collections::BTreeMap;
use std::time::Duration;

use diesel::dsl::exists;
use diesel::prelude::*;
use gofer_core::Timestamp;
use gofer_core::journal::Cluster;
use gofer_core::quota::{QuotaKind, Quotas};

use super::namespaces::DEFAULT;
use super::{Conn, RunQueryDsl, Tx, engine, exec, quotas};
use crate::error::DbError;
use crate::rows::id;
use crate::schema::{lead, namespaces, pipelines, servers};

/// The time of whoever may share the database; `None` when nobody does.
pub(crate) async fn clock(c: &mut Conn) -> Result<Option<Timestamp>, DbError> {
    engine::clock(c).await
}

pub(crate) async fn take(
    tx: &mut Tx<'_>,
    owner: &str,
    now: Timestamp,
    ttl: Duration,
) -> Result<bool, DbError> {
    let until = now.after(ttl).0;
    // The holder's own lead is only ever prolonged: a call that was overtaken on its way shortens
    // nothing.
    let free = lead::until.le(now.0).or(lead::owner.eq(owner).and(lead::until.le(until)));
    let taken = diesel::update(lead::table.find(1).filter(free))
        .set((lead::owner.eq(owner), lead::until.eq(until)))
        .execute(tx.c)
        .await?;
    if taken == 1 {
        return Ok(true);
    }
    let holder: String = lead::table.find(1).select(lead::owner).get_result(tx.c).await?;
    Ok(holder == owner)
}

pub(crate) async fn release(tx: &mut Tx<'_>, owner: &str) -> Result<(), DbError> {
    let held = lead::table.find(1).filter(lead::owner.eq(owner));
    diesel::update(held).set(lead::until.eq(0)).execute(tx.c).await?;
    diesel::delete(servers::table.find(owner)).execute(tx.c).await?;
    Ok(())
}

/// A sign of life, and what servers share. What the dead have left is forgotten.
pub(crate) async fn heartbeat(
    tx: &mut Tx<'_>,
    owner: &str,
    now: Timestamp,
    ttl: Duration,
    defaults: &Quotas,
) -> Result<Cluster, DbError> {
    let row = (servers::name.eq(owner), servers::until.eq(now.after(ttl).0));
    let later = diesel::insert_into(servers::table)
        .values(row)
        .on_conflict(servers::name)
        .do_update()
        .set(servers::until.eq(now.after(ttl).0));

    // A call that was overtaken on its way shortens nothing.
    diesel::query_dsl::methods::FilterDsl::filter(later, servers::until.lt(now.after(ttl).0))
        .execute(tx.c)
        .await?;
    diesel::delete(servers::table.filter(servers::until.le(now.0))).execute(tx.c).await?;
    exec::end_those_of_the_dead(tx, now.before(ttl)).await?;

    let living: i64 = servers::table.count().get_result(tx.c).await?;
    let own: Vec<(String, String)> = namespaces::table
        .filter(namespaces::quotas.ne("{}"))
        .select((namespaces::id, namespaces::quotas))
        .load(tx.c)
        .await?;
    let mut executions_of = BTreeMap::new();

    for (namespace, text) in own {
        if let Some(limit) = quotas::overrides(&text)?.get(&QuotaKind::Executions) {
            executions_of.insert(id(&namespace)?, *limit);
        }
    }

    Ok(Cluster {
        servers: usize::try_from(living).unwrap_or(usize::MAX),
        namespaces: owners(tx.c).await?,
        executions: defaults.get(QuotaKind::Executions),
        executions_of,
    })
}

/// Namespaces that own pipelines, or were made to.
async fn owners(c: &mut Conn) -> Result<usize, DbError> {
    let owned = pipelines::table
        .filter(pipelines::namespace.eq(DEFAULT))
        .filter(pipelines::deleted_at.is_null());
    let default_is_used: bool = diesel::select(exists(owned)).get_result(c).await?;
    let made: i64 =
        namespaces::table.filter(namespaces::id.ne(DEFAULT)).count().get_result(c).await?;
    Ok(usize::try_from(made).unwrap_or(usize::MAX).saturating_add(usize::from(default_is_used)))
}
