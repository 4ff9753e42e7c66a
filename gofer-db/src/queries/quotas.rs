//! What a namespace may use and uses. Counted in the database: of runs in their own table, of the
//! rest in the pipelines' rows.
//!
//! PostgreSQL lets transactions in at once, so that two could see the same last piece of room.
//! Whoever counts holds the namespace's lock until its commit. Those who need not count, because
//! there is room for all that can be under way ([`engine::UNDER_WAY`]), do not wait for each other.

use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Text};
use gofer_core::journal::NewRun;
use gofer_core::quota::{
    QuotaKind, QuotaOverrides, QuotaUse, Quotas, SMALL_RUN_BYTES, minute, run_bytes,
};
use gofer_core::{NamespaceId, Resource, Timestamp};

use super::{Conn, RunQueryDsl, Tx, engine};
use crate::error::DbError;
use crate::headroom::QuotaBook;
use crate::prepared::prepared;
use crate::rows::entity::PipelineRow;
use crate::rows::{parsed, signed, unsigned};
use crate::schema::{namespaces, pipelines};

/// The limits of a namespace, from its column `quotas`.
pub(crate) fn limits(defaults: &Quotas, own: Option<&str>) -> Result<Quotas, DbError> {
    match own {
        None | Some("{}") => Ok(defaults.clone()),
        Some(text) => Ok(defaults.with(&overrides(text)?)),
    }
}

/// The limits of a namespace.
pub(crate) async fn limits_of(
    c: &mut Conn,
    defaults: &Quotas,
    namespace: &NamespaceId,
) -> Result<Quotas, DbError> {
    let own: Option<String> = namespaces::table
        .find(namespace.as_str())
        .select(namespaces::quotas)
        .get_result(c)
        .await
        .optional()?;
    limits(defaults, own.as_deref())
}

/// The limits that a namespace has of its own. A kind that this version does not know is a newer
/// one's.
pub(crate) fn overrides(text: &str) -> Result<QuotaOverrides, DbError> {
    let named: std::collections::BTreeMap<String, u64> = parsed(text)?;
    Ok(named.iter().filter_map(|(name, limit)| Some((QuotaKind::parse(name)?, *limit))).collect())
}

/// Refuses what the namespace has no room for, and returns its limits. Whoever calls this makes the
/// use greater only in the same transaction.
pub(crate) async fn admit(
    tx: &mut Tx<'_>,
    book: &QuotaBook,
    namespace: &NamespaceId,
    wanted: &[(QuotaKind, u64)],
    at: Timestamp,
) -> Result<Quotas, DbError> {
    engine::lock_quotas(tx.c, namespace).await?;
    let limits = limits_of(tx.c, &book.defaults, namespace).await?;

    for (quota, wanted) in wanted {
        let used = used(tx.c, namespace, *quota, at).await?;
        quota.admit(namespace, limits.get(*quota), used, *wanted)?;
    }
    Ok(limits)
}

/// The same of one that is counted already.
pub(crate) async fn admit_counted(
    tx: &mut Tx<'_>,
    book: &QuotaBook,
    namespace: &NamespaceId,
    quota: QuotaKind,
    at: Timestamp,
) -> Result<(), DbError> {
    engine::lock_quotas(tx.c, namespace).await?;
    let limits = limits_of(tx.c, &book.defaults, namespace).await?;
    let used = used(tx.c, namespace, quota, at).await?;
    Ok(quota.admit(namespace, limits.get(quota), used.saturating_sub(1), 1)?)
}

/// A pipeline's minute with one more run in it: the number of the minute, of its runs, and of their
/// variables' bytes.
#[derive(Clone, Copy)]
pub(crate) struct Minute {
    pub(crate) number: i64,
    pub(crate) runs: i64,
    pub(crate) bytes: i64,
}

impl Minute {
    pub(crate) fn with(row: &PipelineRow, new: &NewRun) -> Self {
        let (now, bytes) = (minute(new.at), signed(run_bytes(&new.variables)));
        // Servers' clocks are a little apart: a minute that another has begun is not begun again.
        let number = if row.minute == now + 1 { row.minute } else { now };
        let (runs, others) =
            if row.minute == number { (row.minute_runs, row.minute_bytes) } else { (0, 0) };
        Self { number, runs: runs + 1, bytes: others.saturating_add(bytes) }
    }
}

/// Refuses a run that was just inserted, and counted in its pipeline's minute, if its namespace has
/// no room for it.
pub(crate) async fn admit_run(
    tx: &mut Tx<'_>,
    book: &QuotaBook,
    limits: &Quotas,
    new: &NewRun,
    inserted: Inserted,
) -> Result<(), DbError> {
    let (namespace, newest) = (&new.namespace, inserted.id);
    let far = |bound: Option<i64>, quota| is_far(bound, limits.get(quota));
    let check = |quota: QuotaKind, used: i64, wanted: u64| -> Result<(), DbError> {
        Ok(quota.admit(
            namespace,
            limits.get(quota),
            unsigned(used)?.saturating_sub(wanted),
            wanted,
        )?)
    };

    let minute = inserted.minute;
    if !far(book.started_at_most(namespace, minute, newest), QuotaKind::RunsPerMinute) {
        engine::lock_quotas(tx.c, namespace).await?;
        let started = in_minute(tx.c, RUNS_IN_MINUTE, namespace, minute).await?;
        book.counted_started(namespace, minute, started, newest);
        check(QuotaKind::RunsPerMinute, started, 1)?;
    }

    let bytes = run_bytes(&new.variables);
    if bytes > SMALL_RUN_BYTES {
        engine::lock_quotas(tx.c, namespace).await?;
        let used = in_minute(tx.c, BYTES_IN_MINUTE, namespace, minute).await?;
        check(QuotaKind::RunBytesPerMinute, used, bytes)?;
    }

    if inserted.waits && !far(book.unfinished_at_most(namespace, newest), QuotaKind::PendingRuns) {
        engine::lock_quotas(tx.c, namespace).await?;
        let unfinished = count_unfinished(tx.c, book, namespace, newest).await?;
        check(QuotaKind::PendingRuns, unfinished.pending, 1)?;
    }

    Ok(())
}

/// What a new run's admission depends on.
#[derive(Clone, Copy)]
pub(crate) struct Inserted {
    /// Of the run, and so the newest.
    pub(crate) id: i64,
    /// The number of the minute it counts in.
    pub(crate) minute: i64,
    /// It is pending.
    pub(crate) waits: bool,
}

/// How many runs more of the namespace may be running; `None` is as many as can be under way.
/// `newest` is an id that no committed run's is above.
pub(crate) async fn room_for_active(
    c: &mut Conn,
    book: &QuotaBook,
    limits: &Quotas,
    namespace: &NamespaceId,
    newest: i64,
) -> Result<Option<ActiveRoom>, DbError> {
    let limit = limits.get(QuotaKind::ActiveRuns);
    // One more than those that are there: the run that asks may not be inserted yet.
    let bound = book.unfinished_at_most(namespace, newest).map(|bound| bound.saturating_add(1));
    if is_far(bound, limit) {
        return Ok(None);
    }
    engine::lock_quotas(c, namespace).await?;
    let Unfinished { running, .. } = count_unfinished(c, book, namespace, newest).await?;
    Ok(Some(ActiveRoom { running, limit: signed(limit) }))
}

/// How many runs of a namespace are running, and may.
#[derive(Clone, Copy)]
pub(crate) struct ActiveRoom {
    pub(crate) running: i64,
    pub(crate) limit: i64,
}

/// Whether all that can be under way have room, however many of them there are.
fn is_far(bound: Option<i64>, limit: u64) -> bool {
    bound.is_some_and(|bound| bound.saturating_add(engine::UNDER_WAY) <= signed(limit))
}

/// Runs of a namespace that are not complete.
#[derive(QueryableByName)]
pub(crate) struct Unfinished {
    #[diesel(sql_type = BigInt)]
    pub(crate) pending: i64,
    #[diesel(sql_type = BigInt)]
    pub(crate) running: i64,
}

async fn count_unfinished(
    c: &mut Conn,
    book: &QuotaBook,
    namespace: &NamespaceId,
    newest: i64,
) -> Result<Unfinished, DbError> {
    let found = unfinished(c, namespace).await?;
    book.counted_unfinished(namespace, found.pending + found.running, newest);
    Ok(found)
}

async fn unfinished(c: &mut Conn, namespace: &NamespaceId) -> Result<Unfinished, DbError> {
    let query = diesel::sql_query(
        "SELECT CAST(coalesce(sum(CASE WHEN runs.state = 'pending' THEN 1 ELSE 0 END), 0) AS \
         BIGINT) AS pending, CAST(coalesce(sum(CASE WHEN runs.state = 'running' THEN 1 ELSE 0 \
         END), 0) AS BIGINT) AS running FROM runs WHERE runs.namespace = $1 AND runs.state <> \
         'complete'",
    );
    Ok(prepared(query.bind::<Text, _>(namespace.to_string())).get_result(c).await?)
}

const RUNS_IN_MINUTE: &str = "SELECT coalesce(sum(minute_runs), 0)";
const BYTES_IN_MINUTE: &str = "SELECT coalesce(sum(minute_bytes), 0)";

async fn in_minute(
    c: &mut Conn,
    sum: &str,
    namespace: &NamespaceId,
    minute: i64,
) -> Result<i64, DbError> {
    let query = sql::<BigInt>(&format!("CAST(({sum} FROM pipelines WHERE namespace = "))
        .bind::<Text, _>(namespace.to_string())
        .sql(" AND minute = ")
        .bind::<BigInt, _>(minute)
        .sql(") AS BIGINT)");
    Ok(prepared(diesel::select(query)).get_result(c).await?)
}

/// How much a namespace uses.
pub(crate) async fn used(
    c: &mut Conn,
    namespace: &NamespaceId,
    quota: QuotaKind,
    at: Timestamp,
) -> Result<u64, DbError> {
    let number = match quota {
        QuotaKind::PendingRuns => unfinished(c, namespace).await?.pending,
        QuotaKind::ActiveRuns => unfinished(c, namespace).await?.running,
        QuotaKind::RunsPerMinute => in_minute(c, RUNS_IN_MINUTE, namespace, minute(at)).await?,
        QuotaKind::RunBytesPerMinute => {
            in_minute(c, BYTES_IN_MINUTE, namespace, minute(at)).await?
        }
        QuotaKind::Executions => {
            let counted = "count(*) FROM runs JOIN task_runs ON task_runs.run_id = runs.id WHERE \
                           runs.state = 'running' AND task_runs.state IN ('starting', 'running') \
                           AND runs.namespace = ";
            of_namespace(c, counted, namespace, "").await?
        }
        QuotaKind::Pipelines => {
            of_namespace(c, "count(*) FROM pipelines WHERE namespace = ", namespace, "").await?
        }
        QuotaKind::PipelineVersions => sum_of_pipelines(c, "versions", namespace).await?,
        QuotaKind::PipelineBytes => sum_of_pipelines(c, "version_bytes", namespace).await?,
        QuotaKind::ObjectBytes => {
            sum_of_pipelines(c, "object_bytes + upload_bytes", namespace).await?
        }
        QuotaKind::LogBytes => {
            let counted = "coalesce(sum(attempts.log_bytes), 0) FROM runs JOIN attempts ON \
                           attempts.run_id = runs.id WHERE attempts.log = 'archived' AND \
                           runs.namespace = ";
            of_namespace(c, counted, namespace, "").await?
        }
        QuotaKind::ExecSessions => {
            of_namespace(c, "count(*) FROM exec_sessions WHERE namespace = ", namespace, "").await?
        }
        QuotaKind::ExecSessionsPerTask => {
            let counted = "coalesce(max(of_task), 0) FROM (SELECT count(*) AS of_task FROM \
                           exec_sessions WHERE namespace = ";
            of_namespace(c, counted, namespace, " GROUP BY pipeline, run, task) AS tasks").await?
        }
        QuotaKind::Secrets => {
            let counted = "count(*) FROM pipelines JOIN secrets ON secrets.pipeline_id = \
                           pipelines.id WHERE pipelines.namespace = ";
            of_namespace(c, counted, namespace, "").await?
        }
    };
    unsigned(number)
}

async fn sum_of_pipelines(
    c: &mut Conn,
    column: &str,
    namespace: &NamespaceId,
) -> Result<i64, DbError> {
    let counted = format!("coalesce(sum({column}), 0) FROM pipelines WHERE namespace = ");
    of_namespace(c, &counted, namespace, "").await
}

/// A number that `SELECT {before}'namespace'{after}` gives.
async fn of_namespace(
    c: &mut Conn,
    before: &str,
    namespace: &NamespaceId,
    after: &str,
) -> Result<i64, DbError> {
    let query = sql::<BigInt>(&format!("CAST((SELECT {before}"))
        .bind::<Text, _>(namespace.to_string())
        .sql(&format!("{after}) AS BIGINT)"));
    Ok(prepared(diesel::select(query)).get_result(c).await?)
}

/// Every quota of a namespace, with its use.
pub(crate) async fn list(
    c: &mut Conn,
    namespace: &NamespaceId,
    defaults: &Quotas,
    at: Timestamp,
) -> Result<Vec<QuotaUse>, DbError> {
    let own: Option<String> = namespaces::table
        .find(namespace.as_str())
        .select(namespaces::quotas)
        .get_result(c)
        .await
        .optional()?;
    let own = overrides(&own.ok_or_else(|| DbError::not_found(Resource::Namespace, namespace))?)?;
    let limits = defaults.with(&own);

    let mut found = Vec::with_capacity(QuotaKind::ALL.len());
    for quota in QuotaKind::ALL.iter().copied() {
        let used = used(c, namespace, quota, at).await?;
        found.push(QuotaUse {
            quota,
            limit: limits.get(quota),
            overridden: own.contains_key(&quota),
            used,
        });
    }

    Ok(found)
}

/// One of them; the default where there is no such namespace.
pub(crate) async fn get(
    c: &mut Conn,
    namespace: &NamespaceId,
    defaults: &Quotas,
    quota: QuotaKind,
    at: Timestamp,
) -> Result<QuotaUse, DbError> {
    let limit = limits_of(c, defaults, namespace).await?.get(quota);
    let used = used(c, namespace, quota, at).await?;
    Ok(QuotaUse { quota, limit, overridden: limit != defaults.get(quota), used })
}

/// Changes what is counted of a pipeline, under its lock.
pub(crate) async fn count_versions(
    tx: &mut Tx<'_>,
    pipeline_id: i64,
    more: i64,
    bytes: i64,
) -> Result<(), DbError> {
    let change = diesel::update(pipelines::table.find(pipeline_id)).set((
        pipelines::versions.eq(pipelines::versions + more),
        pipelines::version_bytes.eq(pipelines::version_bytes + bytes),
    ));
    prepared(change).execute(tx.c).await?;
    Ok(())
}

/// The same of its objects, and of its uploads that are open.
pub(crate) async fn count_objects(
    tx: &mut Tx<'_>,
    pipeline_id: i64,
    bytes: i64,
    open: i64,
) -> Result<(), DbError> {
    if bytes == 0 && open == 0 {
        return Ok(());
    }
    let change = diesel::update(pipelines::table.find(pipeline_id)).set((
        pipelines::object_bytes.eq(pipelines::object_bytes + bytes),
        pipelines::upload_bytes.eq(pipelines::upload_bytes + open),
    ));
    prepared(change).execute(tx.c).await?;
    Ok(())
}
