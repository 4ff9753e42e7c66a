//! How many runs are running: of a pipeline, and in the hands of a server.

use diesel::expression::SqlLiteral;
use diesel::prelude::*;
use diesel::sql_types::BigInt;
use gofer_core::Timestamp;

use super::{Conn, RUNNING, RunQueryDsl, Tx, engine, is_true};
use crate::error::DbError;
use crate::prepared::prepared;
use crate::rows::signed;
use crate::schema::runs;

/// The same of each row of `pipelines` in a query written by hand.
pub(crate) const OF_PIPELINE: &str =
    "(SELECT count(*) FROM runs WHERE runs.state = 'running' AND runs.pipeline_id = pipelines.id)";
/// More transactions than these of one server are never under way at once: it has at most 500
/// connections.
const TRANSACTIONS_MAX: i64 = 512;

/// Of a pipeline, whoever drives them.
pub(crate) async fn of_pipeline(c: &mut Conn, pipeline_id: i64) -> Result<i64, DbError> {
    let running =
        runs::table.filter(is_true(RUNNING)).filter(runs::pipeline_id.eq(pipeline_id)).count();
    Ok(prepared(running).get_result(c).await?)
}

/// How many leases an owner holds that run out after this.
pub(crate) async fn held(c: &mut Conn, owner: &str, after: Timestamp) -> Result<i64, DbError> {
    let held = runs::table
        .filter(is_true(RUNNING))
        .filter(runs::lease_owner.eq(owner))
        .filter(runs::lease_until.gt(after.0))
        .count();
    Ok(prepared(held).get_result(c).await?)
}

/// Whether the owner may take one more lease and still hold at most `most`, whatever else it takes
/// meanwhile; if so, the newest run's id, or 0.
///
/// PostgreSQL lets many in at once, so they must not all see the same free place. Where the bound
/// is small they come one by one. Where it is large they do not wait for each other: as long as
/// there is room for all that can be under way, each may take one, and the last few places are left
/// to `claim`, which comes alone.
pub(crate) async fn may_hold_one_more(
    tx: &mut Tx<'_>,
    owner: &str,
    most: usize,
) -> Result<Option<i64>, DbError> {
    let most = signed(most as u64);
    let alone = engine::lock_owner(tx.c, owner, most <= 2 * TRANSACTIONS_MAX).await?;
    let held = runs::table.filter(is_true(RUNNING)).filter(runs::lease_owner.eq(owner)).count();
    // Asked together: a statement more would be felt in every start.
    let query = diesel::select((held.single_value(), newest_run()));
    let (held, newest): (Option<i64>, i64) = prepared(query).get_result(tx.c).await?;
    let taking = if alone { 1 } else { TRANSACTIONS_MAX };
    Ok((held.unwrap_or(0).saturating_add(taking) <= most).then_some(newest))
}

/// The newest run's id, or 0.
pub(crate) fn newest_run() -> SqlLiteral<BigInt> {
    diesel::dsl::sql("coalesce((SELECT max(runs.id) FROM runs), 0)")
}
