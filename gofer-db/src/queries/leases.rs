//! Who may change a run.

use std::collections::HashMap;
use std::time::Duration;

use diesel::prelude::*;
use diesel::sql_types::BigInt;
use gofer_core::Timestamp;
use gofer_core::event::EventDetails;
use gofer_core::journal::Lease;

use super::{Conn, PENDING, RUNNING, RunQueryDsl, Tx, engine, insert, is_true, lead};
use crate::cached::cached;
use crate::error::DbError;
use crate::rows::run::{NEVER, key};
use crate::rows::{signed, unsigned};
use crate::schema::{coalesce, runs};

/// A run that may be claimed.
struct Candidate {
    id: i64,
    pipeline_id: i64,
    how: How,
}

#[derive(PartialEq, Eq)]
enum How {
    /// It runs, and nobody holds it.
    Resume,
    /// It waits, and takes one of its pipeline's places if one is free.
    Start,
    /// It waits, but is to be cancelled: it starts whether or not there is room.
    StartToCancel,
}

pub(crate) async fn claim(
    tx: &mut Tx<'_>,
    owner: &str,
    now: Timestamp,
    ttl: Duration,
    limit: usize,
) -> Result<Vec<Lease>, DbError> {
    // Room is counted and taken under this lock, so that two servers do not take the same place.
    engine::lock_claims(tx.c).await?;
    let most = signed(limit as u64);
    let mut found = resumable(tx.c, now, most).await?;
    found.extend(to_cancel(tx.c, most).await?);
    let mut room = HashMap::new();
    for Queue { pipeline_id, places } in queues(tx.c).await? {
        let places = places.unwrap_or(i64::MAX);
        room.insert(pipeline_id, places);
        if places > 0 {
            found.extend(waiting(tx.c, pipeline_id, places.min(most)).await?);
        }
    }
    found.sort_by_key(|candidate| candidate.id);
    let mut chosen = Vec::new();
    let mut starting = Vec::new();
    for candidate in found {
        if chosen.len() == limit {
            break;
        }
        let places = room.entry(candidate.pipeline_id).or_insert(i64::MAX);
        if candidate.how == How::Start && *places <= 0 {
            continue;
        }
        if candidate.how != How::Resume {
            *places -= 1;
            starting.push(candidate.id);
        }
        chosen.push(candidate.id);
    }
    take(tx, owner, now, ttl, &chosen, &starting).await
}

async fn take(
    tx: &mut Tx<'_>,
    owner: &str,
    now: Timestamp,
    ttl: Duration,
    chosen: &[i64],
    starting: &[i64],
) -> Result<Vec<Lease>, DbError> {
    if chosen.is_empty() {
        return Ok(Vec::new());
    }
    // An owner that renewed since the search keeps its run: the condition is looked at again under the row's lock.
    let free = runs::table.filter(runs::id.eq_any(chosen)).filter(is_true("runs.state <> 'complete'"));
    let mut rows: Vec<(i64, String, String, i64, i64)> = diesel::update(free.filter(runs::lease_until.le(now.0)))
        .set((
            runs::state.eq("running"),
            runs::started_at.eq(coalesce(runs::started_at, now.0)),
            runs::lease_owner.eq(owner),
            runs::lease_until.eq(now.after(ttl).0),
            runs::lease_epoch.eq(runs::lease_epoch + 1),
        ))
        .returning((runs::id, runs::namespace, runs::pipeline, runs::number, runs::lease_epoch))
        .load(tx.c)
        .await?;
    rows.sort_by_key(|row| row.0);
    let mut leases = Vec::with_capacity(rows.len());
    for (id, namespace, pipeline, number, epoch) in rows {
        let run = key(&namespace, &pipeline, number)?;
        if starting.contains(&id) {
            insert::record(tx, &run, EventDetails::RunStarted {}, "gofer", now);
        }
        leases.push(Lease { run, epoch: unsigned(epoch)? });
    }
    Ok(leases)
}

async fn resumable(c: &mut Conn, now: Timestamp, limit: i64) -> Result<Vec<Candidate>, DbError> {
    let rows: Vec<(i64, i64)> = cached(
        runs::table
            .filter(is_true(RUNNING))
            .filter(runs::lease_until.le(now.0))
            .select((runs::id, runs::pipeline_id))
            // Not the bare column: in its order the engine would walk through all runs there ever were.
            .order(diesel::dsl::sql::<BigInt>("runs.id + 0"))
            .limit(limit),
    )
    .load(c)
    .await?;
    Ok(rows.into_iter().map(|(id, pipeline_id)| Candidate { id, pipeline_id, how: How::Resume }).collect())
}

async fn to_cancel(c: &mut Conn, limit: i64) -> Result<Vec<Candidate>, DbError> {
    let rows: Vec<(i64, i64)> = cached(
        runs::table
            .filter(is_true("runs.state = 'pending' AND runs.cancel_at IS NOT NULL"))
            .select((runs::id, runs::pipeline_id))
            .order(runs::id)
            .limit(limit),
    )
    .load(c)
    .await?;
    Ok(rows.into_iter().map(|(id, pipeline_id)| Candidate { id, pipeline_id, how: How::StartToCancel }).collect())
}

async fn waiting(c: &mut Conn, pipeline_id: i64, limit: i64) -> Result<Vec<Candidate>, DbError> {
    let rows: Vec<i64> = cached(
        runs::table
            .filter(is_true(PENDING))
            .filter(runs::pipeline_id.eq(pipeline_id))
            .filter(runs::cancel_at.is_null())
            .select(runs::id)
            .order(runs::id)
            .limit(limit),
    )
    .load(c)
    .await?;
    Ok(rows.into_iter().map(|id| Candidate { id, pipeline_id, how: How::Start }).collect())
}

#[derive(QueryableByName)]
struct Queue {
    #[diesel(sql_type = BigInt)]
    pipeline_id: i64,
    /// Free places; `None` is no limit.
    #[diesel(sql_type = diesel::sql_types::Nullable<BigInt>)]
    places: Option<i64>,
}

/// Pipelines with waiting runs, and how many of them may start. Hops from pipeline to pipeline in the index of pending
/// runs, so that the length of a queue costs nothing.
async fn queues(c: &mut Conn) -> Result<Vec<Queue>, DbError> {
    let query = diesel::sql_query(
        "WITH RECURSIVE queue (pipeline_id) AS ( \
             SELECT min(pipeline_id) FROM runs WHERE runs.state = 'pending' \
             UNION ALL \
             SELECT (SELECT min(runs.pipeline_id) FROM runs \
                     WHERE runs.state = 'pending' AND runs.pipeline_id > queue.pipeline_id) \
             FROM queue WHERE queue.pipeline_id IS NOT NULL) \
         SELECT pipelines.id AS pipeline_id, pipelines.parallelism - \
             (SELECT count(*) FROM runs WHERE runs.state = 'running' AND runs.pipeline_id = pipelines.id) AS places \
         FROM queue JOIN pipelines ON pipelines.id = queue.pipeline_id",
    );
    Ok(cached(query).load(c).await?)
}

pub(crate) async fn renew(tx: &mut Tx<'_>, owner: &str, now: Timestamp, ttl: Duration) -> Result<usize, DbError> {
    let held = runs::table.filter(is_true(RUNNING)).filter(runs::lease_owner.eq(owner));
    let until = now.after(ttl).0;
    Ok(cached(diesel::update(held).set(runs::lease_until.eq(until))).execute(tx.c).await?)
}

pub(crate) async fn release(tx: &mut Tx<'_>, owner: &str) -> Result<(), DbError> {
    lead::release(tx, owner).await?;
    let held = runs::table.filter(is_true(RUNNING)).filter(runs::lease_owner.eq(owner));
    diesel::update(held).set((runs::lease_owner.eq(None::<String>), runs::lease_until.eq(NEVER))).execute(tx.c).await?;
    Ok(())
}
