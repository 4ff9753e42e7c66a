//! What is old enough to be deleted.

use diesel::dsl::exists;
use diesel::prelude::*;
use gofer_core::Timestamp;
use gofer_core::entity::ObjectScope;
use gofer_core::event::{ACTOR, EventDetails, NewEvent, Subject};
use gofer_core::journal::{Expirable, Retention};
use gofer_core::quota::Quotas;
use gofer_core::run::LogState;

use super::logs::{EXECUTION, ExecutionRow, execution};
use super::{
    Conn, RunQueryDsl, Tx, expiry, is_true, logs, objects as object, run_masks, secret_values,
    uploads,
};
use crate::error::DbError;
use crate::headroom::QuotaBook;
use crate::rows::run::key;
use crate::rows::{id, signed};
use crate::schema::{attempts, objects, pipelines, runs};

/// Logs first, each kind oldest first.
pub(crate) async fn expirable(
    c: &mut Conn,
    policy: &Retention,
    limit: usize,
    quotas: &Quotas,
) -> Result<Vec<Expirable>, DbError> {
    let rows: Vec<ExecutionRow> = attempts::table
        .inner_join(runs::table.on(runs::id.eq(attempts::run_id)))
        .filter(is_true("attempts.log = 'archived'"))
        .filter(attempts::ended_at.lt(policy.logs_before.0))
        .order(attempts::ended_at)
        .limit(signed(limit as u64))
        .select(EXECUTION)
        .load(c)
        .await?;
    let mut found = rows
        .into_iter()
        .map(|row| execution(row).map(Expirable::Log))
        .collect::<Result<Vec<_>, _>>()?;
    let rest = limit - found.len();

    if rest > 0 {
        found.extend(run_objects(c, policy.run_objects_keep_runs, rest).await?);
    }

    let rest = limit - found.len();
    if rest > 0 {
        found.extend(expiry::runs(c, policy, rest).await?);
    }

    let rest = limit - found.len();
    if rest > 0 {
        found.extend(expiry::versions(c, policy.keep_versions, rest).await?);
    }

    let rest = limit - found.len();
    if rest > 0 {
        found.extend(expiry::events(c, policy.events_before).await?);
    }

    let rest = limit - found.len();
    if rest > 0 {
        found.extend(uploads::expirable(c, policy.uploads_before, rest).await?);
    }

    let rest = limit - found.len();
    if rest > 0 {
        found.extend(secret_values::expirable(c, policy.secret_values_before, rest).await?);
    }

    let rest = limit - found.len();
    if rest > 0 {
        found.extend(run_masks::expirable(c, rest).await?);
    }

    // Every log is looked at for this: once in a walk, when nothing else is left.
    if found.is_empty() {
        found = expiry::logs_beyond_quota(c, quotas, limit).await?;
    }

    Ok(found)
}

/// Objects of runs that are complete and have as many newer ones of their pipeline as are kept.
async fn run_objects(c: &mut Conn, keep: u64, limit: usize) -> Result<Vec<Expirable>, DbError> {
    let complete = runs::table
        .filter(runs::namespace.eq(pipelines::namespace))
        .filter(runs::pipeline.eq(pipelines::name))
        .filter(runs::number.eq(objects::run))
        .filter(runs::state.eq("complete"));

    // Asked per object: joined, the engine would begin with all runs there ever were.
    let rows: Vec<(String, String, i64, String, String)> = pipelines::table
        .inner_join(objects::table.on(objects::pipeline_id.eq(pipelines::id)))
        .filter(objects::run.gt(0))
        .filter(objects::run.le(pipelines::last_run - signed(keep)))
        .filter(exists(complete))
        .order((objects::pipeline_id, objects::run, objects::key))
        .limit(signed(limit as u64))
        .select((
            pipelines::namespace,
            pipelines::name,
            objects::run,
            objects::key,
            objects::location,
        ))
        .load(c)
        .await?;

    rows.into_iter()
        .map(|(namespace, pipeline, run, object_key, location)| {
            Ok(Expirable::RunObject {
                run: key(&namespace, &pipeline, run)?,
                key: id(&object_key)?,
                location: id(&location)?,
            })
        })
        .collect()
}

pub(crate) async fn expired(
    tx: &mut Tx<'_>,
    what: &Expirable,
    at: Timestamp,
    book: &QuotaBook,
) -> Result<(), DbError> {
    match what {
        Expirable::Log(id) => {
            let subject = Subject::of_execution(id);
            let event = NewEvent {
                at,
                actor: ACTOR.to_owned(),
                subject,
                details: EventDetails::LogExpired {},
            };
            logs::set_state(tx, id, LogState::Archived, LogState::Expired, Some(event)).await?;
        }
        Expirable::RunObject { run, key, location } => {
            let scope = ObjectScope {
                namespace: run.namespace.clone(),
                pipeline: run.pipeline.clone(),
                run: Some(run.run),
            };
            // An object that was put again has another location, and stays.
            if object::remove(tx, &scope, key, Some(location)).await?.is_some() {
                object::record(tx, &scope, EventDetails::RunObjectsExpired { count: 1 }, ACTOR, at);
            }
        }
        Expirable::Runs { namespace, pipeline, runs } => {
            expiry::expire_runs(tx, namespace, pipeline, runs, at, book).await?;
        }
        Expirable::Versions { namespace, pipeline, versions } => {
            expiry::expire_versions(tx, namespace, pipeline, versions, at).await?;
        }
        Expirable::Events { up_to } => expiry::expire_events(tx, *up_to, at).await?,
        Expirable::Upload { id, location } => uploads::expired(tx, id, location.is_some()).await?,
        Expirable::RunMask { location } => run_masks::expired(tx, location).await?,
        Expirable::SecretValue { location, being_put } => {
            secret_values::expired(tx, location, *being_put).await?
        }
    }
    Ok(())
}
