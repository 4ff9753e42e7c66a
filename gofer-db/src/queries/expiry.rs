//! The end of runs, versions and events. Each is found on a connection that reads, and deleted a
//! little at a time: no transaction is long, and what has changed meanwhile is looked at again
//! under the pipeline's lock.

use std::collections::HashSet;

use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Text};
use gofer_core::event::{ACTOR, EventDetails, NewEvent, Subject};
use gofer_core::journal::{Expirable, Retention};
use gofer_core::quota::{QuotaKind, Quotas};
use gofer_core::{NamespaceId, PipelineId, RunNumber, Timestamp, Version};

use super::logs::{EXECUTION, ExecutionRow, execution};
use super::{Conn, RunQueryDsl, Tx, is_true, pipelines as pipeline, quotas};
use crate::error::DbError;
use crate::headroom::QuotaBook;
use crate::rows::run::key;
use crate::rows::{id, signed, unsigned};
use crate::schema::{attempts, events, objects, pipeline_versions, pipelines, runs};

/// Most runs that are deleted in one transaction.
const RUNS_PER_TRANSACTION_MAX: usize = 50;
/// Most of their task runs: a run of ten thousand goes alone.
const TASKS_PER_TRANSACTION_MAX: i64 = 2_000;
/// Most events that are deleted in one transaction.
const EVENTS_PER_TRANSACTION_MAX: i64 = 1_000;
/// A few events wait for company, since their deletion is an event, too.
const FEW_EVENTS_WAIT: std::time::Duration = std::time::Duration::from_secs(24 * 3600);
/// Pipelines that are looked at for versions in one page.
const PIPELINES_PER_PAGE: i64 = 100;

/// A run that is old enough, or has enough newer ones.
#[derive(QueryableByName)]
struct OldRun {
    #[diesel(sql_type = BigInt)]
    id: i64,
    #[diesel(sql_type = BigInt)]
    pipeline_id: i64,
    #[diesel(sql_type = Text)]
    namespace: String,
    #[diesel(sql_type = Text)]
    pipeline: String,
    #[diesel(sql_type = BigInt)]
    number: i64,
    /// Its task runs.
    #[diesel(sql_type = BigInt)]
    tasks: i64,
    /// Whether the store has logs of it.
    #[diesel(sql_type = Bool)]
    has_logs: bool,
    /// Whether the store has objects of it.
    #[diesel(sql_type = Bool)]
    has_objects: bool,
}

const OLD_RUN: &str = "SELECT runs.id, runs.pipeline_id, runs.namespace, runs.pipeline, \
                       runs.number, (SELECT count(*) FROM task_runs WHERE task_runs.run_id = \
                       runs.id) AS tasks, EXISTS (SELECT 1 FROM attempts WHERE attempts.run_id = \
                       runs.id AND attempts.log = 'archived') AS has_logs, EXISTS (SELECT 1 FROM \
                       objects WHERE objects.pipeline_id = runs.pipeline_id AND objects.run = \
                       runs.number) AS has_objects";
/// Complete, with no log that the scheduler may still have, and repeated by no run that is not
/// complete.
const IS_OVER: &str = "runs.state = 'complete' AND NOT EXISTS (SELECT 1 FROM attempts WHERE \
                       attempts.run_id = runs.id AND attempts.log = 'live') AND NOT EXISTS (SELECT \
                       1 FROM runs AS pending WHERE pending.state = 'pending' AND \
                       pending.pipeline_id = runs.pipeline_id AND pending.retry_of = runs.number) \
                       AND NOT EXISTS (SELECT 1 FROM runs AS running WHERE running.state = \
                       'running' AND running.pipeline_id = runs.pipeline_id AND running.retry_of = \
                       runs.number)";

/// Logs and objects of old runs, and runs that have none left.
pub(crate) async fn runs(
    c: &mut Conn,
    policy: &Retention,
    limit: usize,
) -> Result<Vec<Expirable>, DbError> {
    let old = format!(
        "{OLD_RUN} FROM runs WHERE {IS_OVER} AND runs.ended_at < $1 ORDER BY runs.ended_at LIMIT \
         $2"
    );
    let old = diesel::sql_query(old)
        .bind::<BigInt, _>(policy.runs_before.0)
        .bind::<BigInt, _>(signed(limit as u64));
    let mut found: Vec<OldRun> = old.load(c).await?;

    if found.is_empty() {
        let many = format!(
            "{OLD_RUN} FROM pipelines JOIN runs ON runs.namespace = pipelines.namespace \
                 AND runs.pipeline = pipelines.name AND runs.number <= pipelines.last_run - $1 \
             WHERE {IS_OVER} ORDER BY pipelines.id, runs.number LIMIT $2"
        );
        let many = diesel::sql_query(many).bind::<BigInt, _>(signed(policy.keep_runs));
        found = many.bind::<BigInt, _>(signed(limit as u64)).load(c).await?;
    }

    let mut expirable = Vec::new();
    for run in found.iter().filter(|run| run.has_logs || run.has_objects) {
        let rest = limit.saturating_sub(expirable.len());
        if rest == 0 {
            return Ok(expirable);
        }
        expirable.extend(held_bytes(c, run, rest).await?);
    }

    let rest = limit.saturating_sub(expirable.len());
    let bare = found.into_iter().filter(|run| !run.has_logs && !run.has_objects);
    expirable.extend(batches(bare)?.into_iter().take(rest));

    Ok(expirable)
}

/// What the store has of a run.
async fn held_bytes(c: &mut Conn, run: &OldRun, limit: usize) -> Result<Vec<Expirable>, DbError> {
    let rows: Vec<ExecutionRow> = attempts::table
        .inner_join(runs::table.on(runs::id.eq(attempts::run_id)))
        .filter(attempts::run_id.eq(run.id))
        .filter(attempts::log.eq("archived"))
        .limit(signed(limit as u64))
        .select(EXECUTION)
        .load(c)
        .await?;
    let mut held = rows
        .into_iter()
        .map(|row| execution(row).map(Expirable::Log))
        .collect::<Result<Vec<_>, _>>()?;

    let rows: Vec<(String, String)> = objects::table
        .filter(objects::pipeline_id.eq(run.pipeline_id))
        .filter(objects::run.eq(run.number))
        .limit(signed((limit - held.len()) as u64))
        .select((objects::key, objects::location))
        .load(c)
        .await?;

    for (object_key, location) in rows {
        let run = key(&run.namespace, &run.pipeline, run.number)?;
        held.push(Expirable::RunObject { run, key: id(&object_key)?, location: id(&location)? });
    }

    Ok(held)
}

/// What the archived logs of a namespace take.
#[derive(QueryableByName)]
struct LogBytes {
    #[diesel(sql_type = Text)]
    namespace: String,
    #[diesel(sql_type = Text)]
    quotas: String,
    #[diesel(sql_type = BigInt)]
    bytes: i64,
}

/// The oldest logs of namespaces whose logs take more than they may, as many as make room.
pub(crate) async fn logs_beyond_quota(
    c: &mut Conn,
    defaults: &Quotas,
    limit: usize,
) -> Result<Vec<Expirable>, DbError> {
    let query = diesel::sql_query(
        "SELECT namespaces.id AS namespace, namespaces.quotas, CAST(sum(attempts.log_bytes) AS \
         BIGINT) AS bytes FROM attempts JOIN runs ON runs.id = attempts.run_id JOIN namespaces ON \
         namespaces.id = runs.namespace WHERE attempts.log = 'archived' GROUP BY namespaces.id, \
         namespaces.quotas",
    );
    let used: Vec<LogBytes> = query.load(c).await?;

    let mut expirable = Vec::new();
    for of in used {
        let most = quotas::limits(defaults, Some(&of.quotas))?.get(QuotaKind::LogBytes);
        let mut surplus = of.bytes.saturating_sub(signed(most));
        if surplus <= 0 || expirable.len() >= limit {
            continue;
        }

        let oldest: Vec<(ExecutionRow, i64)> = attempts::table
            .inner_join(runs::table.on(runs::id.eq(attempts::run_id)))
            .filter(is_true("attempts.log = 'archived'"))
            .filter(runs::namespace.eq(&of.namespace))
            .filter(attempts::log_bytes.gt(0))
            .order(attempts::ended_at)
            .limit(signed((limit - expirable.len()) as u64))
            .select((EXECUTION, attempts::log_bytes))
            .load(c)
            .await?;

        for (row, bytes) in oldest {
            if surplus <= 0 {
                break;
            }
            surplus -= bytes;
            expirable.push(Expirable::Log(execution(row)?));
        }
    }

    Ok(expirable)
}

/// As many runs of one pipeline together as one transaction may delete.
fn batches(found: impl Iterator<Item = OldRun>) -> Result<Vec<Expirable>, DbError> {
    let mut batches: Vec<(String, String, i64, Vec<RunNumber>)> = Vec::new();
    for run in found {
        let number = RunNumber(unsigned(run.number)?);
        match batches.last_mut() {
            Some((namespace, pipeline, tasks, numbers))
                if *namespace == run.namespace
                    && *pipeline == run.pipeline
                    && numbers.len() < RUNS_PER_TRANSACTION_MAX
                    && *tasks + run.tasks <= TASKS_PER_TRANSACTION_MAX =>
            {
                *tasks += run.tasks;
                numbers.push(number);
            }
            _ => batches.push((run.namespace, run.pipeline, run.tasks, vec![number])),
        }
    }

    let expirable = |(namespace, pipeline, _, runs): (String, String, i64, Vec<RunNumber>)| {
        Ok(Expirable::Runs { namespace: id(&namespace)?, pipeline: id(&pipeline)?, runs })
    };

    batches.into_iter().map(expirable).collect()
}

/// Deletes those that are still over and bare. An object is put, and a run repeated, under the same
/// lock.
pub(crate) async fn expire_runs(
    tx: &mut Tx<'_>,
    namespace: &NamespaceId,
    name: &PipelineId,
    numbers: &[RunNumber],
    at: Timestamp,
    book: &QuotaBook,
) -> Result<(), DbError> {
    let Some(pipeline_id) = locked(tx, namespace, name).await? else { return Ok(()) };
    let mut gone = Vec::new();
    for number in numbers {
        let bare = "NOT EXISTS (SELECT 1 FROM attempts WHERE attempts.run_id = runs.id AND \
                    attempts.log = 'archived') AND NOT EXISTS (SELECT 1 FROM objects WHERE \
                    objects.pipeline_id = runs.pipeline_id AND objects.run = runs.number)";
        let query = format!(
            "DELETE FROM runs WHERE runs.namespace = $1 AND runs.pipeline = $2 AND runs.number = \
             $3 AND runs.pipeline_id = $4 AND {IS_OVER} AND {bare}"
        );
        let query = diesel::sql_query(query)
            .bind::<Text, _>(namespace.to_string())
            .bind::<Text, _>(name.to_string())
            .bind::<BigInt, _>(signed(number.0))
            .bind::<BigInt, _>(pipeline_id);

        // Task runs and attempts go with their run.
        if crate::prepared::prepared(query).execute(tx.c).await? == 1 {
            gone.push(*number);
        }
    }

    if let Some(last) = gone.iter().max() {
        book.forget();
        let details = EventDetails::RunsExpired { count: gone.len() as u64, last: *last };
        pipeline::record(tx, namespace, name, details, ACTOR, at);
    }

    Ok(())
}

/// The pipeline's id, locked; `None` when it has been deleted.
async fn locked(
    tx: &mut Tx<'_>,
    namespace: &NamespaceId,
    name: &PipelineId,
) -> Result<Option<i64>, DbError> {
    match pipeline::lock(tx, namespace, name).await {
        Ok(row) => Ok(Some(row.id)),
        Err(DbError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Versions that have as many newer ones as are kept, and that no run is of.
pub(crate) async fn versions(
    c: &mut Conn,
    keep: u64,
    limit: usize,
) -> Result<Vec<Expirable>, DbError> {
    let found: Vec<(i64, String, String, i64)> = pipelines::table
        .filter(pipelines::deleted_at.is_null())
        .filter(pipelines::versions.gt(signed(keep)))
        .order(pipelines::id)
        .limit(PIPELINES_PER_PAGE)
        .select((pipelines::id, pipelines::namespace, pipelines::name, pipelines::latest_version))
        .load(c)
        .await?;

    let mut expirable = Vec::new();
    for (pipeline_id, namespace, name, latest) in found {
        let old: Vec<i64> = pipeline_versions::table
            .filter(pipeline_versions::pipeline_id.eq(pipeline_id))
            .filter(pipeline_versions::version.le(latest - signed(keep.max(1))))
            .order(pipeline_versions::version)
            .select(pipeline_versions::version)
            .limit(signed(crate::types::MAX_PAGE as u64))
            .load(c)
            .await?;
        let used = used_versions(c, pipeline_id, &namespace, &name).await?;
        let versions: Vec<Version> = old
            .into_iter()
            .filter(|version| !used.contains(version))
            .take(limit)
            .map(|version| unsigned(version).map(Version))
            .collect::<Result<_, _>>()?;

        if !versions.is_empty() && expirable.len() < limit {
            expirable.push(Expirable::Versions {
                namespace: id(&namespace)?,
                pipeline: id(&name)?,
                versions,
            });
        }
    }

    Ok(expirable)
}

async fn used_versions(
    c: &mut Conn,
    pipeline_id: i64,
    namespace: &str,
    name: &str,
) -> Result<HashSet<i64>, DbError> {
    let used: Vec<i64> = runs::table
        .filter(runs::namespace.eq(namespace))
        .filter(runs::pipeline.eq(name))
        .filter(runs::pipeline_id.eq(pipeline_id))
        .select(runs::version)
        .distinct()
        .load(c)
        .await?;
    Ok(used.into_iter().collect())
}

/// Deletes those that no run has begun to use since.
pub(crate) async fn expire_versions(
    tx: &mut Tx<'_>,
    namespace: &NamespaceId,
    name: &PipelineId,
    versions: &[Version],
    at: Timestamp,
) -> Result<(), DbError> {
    // A run of an old version is inserted under the same lock.
    let Some(pipeline_id) = locked(tx, namespace, name).await? else { return Ok(()) };
    let used = used_versions(tx.c, pipeline_id, namespace.as_str(), name.as_str()).await?;
    let (mut count, mut bytes, mut last) = (0_u64, 0, 0);

    for version in
        versions.iter().map(|version| signed(version.0)).filter(|version| !used.contains(version))
    {
        let deleted: Option<String> =
            diesel::delete(pipeline_versions::table.find((pipeline_id, version)))
                .returning(pipeline_versions::spec)
                .get_result(tx.c)
                .await
                .optional()?;
        if let Some(spec) = deleted {
            (count, bytes, last) =
                (count + 1, bytes + signed(spec.len() as u64), last.max(version));
        }
    }

    if count > 0 {
        quotas::count_versions(tx, pipeline_id, -signed(count), -bytes).await?;
        let details =
            EventDetails::PipelineVersionsExpired { count, last: Version(unsigned(last)?) };
        pipeline::record(tx, namespace, name, details, ACTOR, at);
    }

    Ok(())
}

/// The oldest events, if they are old enough: ids are in the order of time.
pub(crate) async fn events(c: &mut Conn, before: Timestamp) -> Result<Option<Expirable>, DbError> {
    let oldest: Vec<(i64, i64)> = events::table
        .order(events::id)
        .limit(EVENTS_PER_TRANSACTION_MAX)
        .select((events::id, events::at))
        .load(c)
        .await?;
    let old = oldest.iter().take_while(|(_, at)| *at < before.0).count();
    let waits = old < oldest.len() || signed(old as u64) < EVENTS_PER_TRANSACTION_MAX;
    let is_patient =
        oldest.as_slice().first().is_none_or(|(_, at)| *at >= before.before(FEW_EVENTS_WAIT).0);

    match old.checked_sub(1) {
        Some(last) if !(waits && is_patient) => {
            Ok(Some(Expirable::Events { up_to: unsigned(oldest[last].0)? }))
        }
        _ => Ok(None),
    }
}

pub(crate) async fn expire_events(
    tx: &mut Tx<'_>,
    up_to: u64,
    at: Timestamp,
) -> Result<(), DbError> {
    let deleted =
        diesel::delete(events::table.filter(events::id.le(signed(up_to)))).execute(tx.c).await?;
    if deleted > 0 {
        let details = EventDetails::EventsExpired { up_to };
        tx.record(NewEvent { at, actor: ACTOR.to_owned(), subject: Subject::default(), details });
    }
    Ok(())
}
