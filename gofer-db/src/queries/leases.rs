//! Who may change a run.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use diesel::dsl::case_when;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Nullable, Text};
use gofer_core::admission::{ActiveRuns, ClaimOrder, WaitingPipeline};
use gofer_core::event::{ACTOR, EventDetails};
use gofer_core::journal::{ClaimLimit, Lease};
use gofer_core::{NamespaceId, Timestamp};

use super::quotas::ActiveRoom;
use super::run_counts::OF_PIPELINE;
use super::{
    Conn, PENDING, RUNNING, RunQueryDsl, Tx, engine, exec, insert, is_true, lead, quotas,
    run_counts,
};
use crate::error::DbError;
use crate::headroom::QuotaBook;
use crate::prepared::prepared;
use crate::rows::run::{NEVER, key};
use crate::rows::{counted, id, signed, unsigned};
use crate::schema::{coalesce, runs};

/// A pipeline with runs that wait for a place.
#[derive(QueryableByName)]
struct Queue {
    #[diesel(sql_type = BigInt)]
    pipeline_id: i64,
    #[diesel(sql_type = Text)]
    namespace: String,
    /// The namespace's own limits.
    #[diesel(sql_type = Text)]
    quotas: String,
    /// The newest run's id.
    #[diesel(sql_type = BigInt)]
    newest: i64,
    /// Of the latest version; `None` is no limit.
    #[diesel(sql_type = Nullable<BigInt>)]
    parallelism: Option<i64>,
    /// How many of its runs are running.
    #[diesel(sql_type = BigInt)]
    running: i64,
    /// The run that goes next; `None` when all that wait are to be cancelled.
    #[diesel(sql_type = Nullable<BigInt>)]
    next: Option<i64>,
}

impl Queue {
    /// How many runs may start.
    fn room(&self) -> i64 {
        self.parallelism.map_or(i64::MAX, |limit| limit - self.running)
    }

    fn may_start(&self) -> bool {
        self.next.is_some() && self.room() > 0
    }

    /// As the rule of fairness sees it.
    fn waiting(&self) -> Result<WaitingPipeline<i64>, DbError> {
        Ok(WaitingPipeline {
            namespace: id(&self.namespace)?,
            parallelism: self.parallelism.map(counted),
            running: counted(self.running),
            oldest: self.next,
        })
    }
}

/// How many runs of a namespace are running.
#[derive(QueryableByName)]
struct Busy {
    #[diesel(sql_type = Text)]
    namespace: String,
    #[diesel(sql_type = BigInt)]
    running: i64,
}

pub(crate) async fn claim(
    tx: &mut Tx<'_>,
    owner: &str,
    now: Timestamp,
    ttl: Duration,
    limit: ClaimLimit,
    book: &QuotaBook,
) -> Result<Vec<Lease>, DbError> {
    // Room is counted and taken under this lock, so that two servers do not take the same place.
    engine::lock_claims(tx.c).await?;
    let left = |chosen: &[i64]| limit.runs - chosen.len();
    let mut chosen = resumable(tx.c, now, signed(limit.runs as u64)).await?;
    let resumed = chosen.len();
    let to_cancel = to_cancel(tx.c, signed(left(&chosen) as u64)).await?;
    chosen.extend(to_cancel.iter().map(|(id, _)| *id));

    let wanted = left(&chosen).min(may_take(tx.c, owner, now, limit.held, chosen.len()).await?);
    if wanted > 0 {
        // Those that are to be cancelled are about to be running, and count as that.
        let mut queues = queues(tx.c).await?;
        let mut starting: Vec<NamespaceId> = Vec::new();
        for (_, pipeline_id) in to_cancel {
            let queue = queues.iter_mut().find(|queue| queue.pipeline_id == pipeline_id);
            if let Some(queue) = queue {
                queue.running += 1;
                starting.push(id(&queue.namespace)?);
            }
        }

        queues.retain(Queue::may_start);
        let active = active_runs(tx.c, &queues, starting, book).await?;
        chosen.extend(fair(tx.c, queues, &active, wanted).await?);
    }

    let starting = chosen.split_off(resumed);
    take(tx, owner, now, ttl, &chosen, &starting).await
}

/// How many more leases than those of the chosen runs the owner may hold.
async fn may_take(
    c: &mut Conn,
    owner: &str,
    now: Timestamp,
    most: usize,
    chosen: usize,
) -> Result<usize, DbError> {
    engine::lock_owner(c, owner, true).await?;
    // Those that have run out are among the chosen.
    let held = usize::try_from(run_counts::held(c, owner, now).await?).unwrap_or(usize::MAX);
    Ok(most.saturating_sub(held.saturating_add(chosen)))
}

/// The next `wanted` of the waiting runs, by [`ClaimOrder`].
async fn fair(
    c: &mut Conn,
    queues: Vec<Queue>,
    active: &BTreeMap<NamespaceId, ActiveRuns>,
    wanted: usize,
) -> Result<Vec<i64>, DbError> {
    let waiting = queues.iter().map(Queue::waiting).collect::<Result<_, _>>()?;
    let mut order = ClaimOrder::new(waiting, active);
    let mut known: HashMap<usize, std::vec::IntoIter<i64>> = HashMap::new();
    let mut chosen = Vec::new();

    while chosen.len() < wanted
        && let Some(at) = order.next()
    {
        let waiting = match known.entry(at) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => {
                let queue = &queues[at];
                let limit = signed((wanted - chosen.len()) as u64).min(queue.room());
                let ids = self::waiting(c, queue.pipeline_id, limit).await?;
                unknown.insert(ids.into_iter())
            }
        };
        chosen.extend(waiting.next());
        order.claimed(at, waiting.as_slice().first().copied());
    }

    Ok(chosen)
}

/// How many runs of the queues' namespaces are running, and may be; with one more of a namespace
/// for each that is starting.
async fn active_runs(
    c: &mut Conn,
    queues: &[Queue],
    starting: Vec<NamespaceId>,
    book: &QuotaBook,
) -> Result<BTreeMap<NamespaceId, ActiveRuns>, DbError> {
    let mut active = BTreeMap::new();
    // Of one namespace nobody needs to know how many it has, unless that is near its quota.
    if queues.iter().any(|queue| queue.namespace != queues[0].namespace) {
        for Busy { namespace, running } in namespaces(c).await? {
            let running = counted(running);
            active.insert(id(&namespace)?, ActiveRuns { running, limit: usize::MAX });
        }
    }
    active.extend(near_quota(c, queues, book).await?);

    for namespace in starting {
        let none = ActiveRuns { running: 0, limit: usize::MAX };
        active.entry(namespace).or_insert(none).running += 1;
    }

    Ok(active)
}

/// The namespaces that are near their quota of active runs.
async fn near_quota(
    c: &mut Conn,
    queues: &[Queue],
    book: &QuotaBook,
) -> Result<BTreeMap<NamespaceId, ActiveRuns>, DbError> {
    // In one order everywhere, since each is locked.
    let waiting: BTreeMap<&str, &Queue> =
        queues.iter().map(|queue| (queue.namespace.as_str(), queue)).collect();
    let mut near = BTreeMap::new();
    for (namespace, queue) in waiting {
        let limits = quotas::limits(&book.defaults, Some(&queue.quotas))?;
        let namespace = id(namespace)?;
        let room = quotas::room_for_active(c, book, &limits, &namespace, queue.newest).await?;
        if let Some(ActiveRoom { running, limit }) = room {
            let active = ActiveRuns { running: counted(running), limit: counted(limit) };
            near.insert(namespace, active);
        }
    }
    Ok(near)
}

async fn take(
    tx: &mut Tx<'_>,
    owner: &str,
    now: Timestamp,
    ttl: Duration,
    resumed: &[i64],
    starting: &[i64],
) -> Result<Vec<Lease>, DbError> {
    if resumed.is_empty() && starting.is_empty() {
        return Ok(Vec::new());
    }

    let chosen = resumed.iter().chain(starting);
    // An owner that renewed since the search keeps its run: the condition is looked at again under
    // the row's lock.
    let free = runs::table
        .filter(runs::id.eq_any(chosen.copied().collect::<Vec<_>>()))
        .filter(is_true("runs.state <> 'complete'"));
    let mut rows: Vec<(i64, String, String, i64, i64)> =
        diesel::update(free.filter(runs::lease_until.le(now.0)))
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
            insert::record(tx, &run, EventDetails::RunStarted {}, ACTOR, now);
        }
        leases.push(Lease { run, epoch: unsigned(epoch)? });
    }

    Ok(leases)
}

async fn resumable(c: &mut Conn, now: Timestamp, limit: i64) -> Result<Vec<i64>, DbError> {
    let found = prepared(
        runs::table
            .filter(is_true(RUNNING))
            .filter(runs::lease_until.le(now.0))
            .select(runs::id)
            // Not the bare column: in its order the engine would walk through all runs there ever
            // were.
            .order(diesel::dsl::sql::<BigInt>("runs.id + 0"))
            .limit(limit),
    );
    Ok(found.load(c).await?)
}

/// Runs that wait and are to be cancelled, with their pipelines: they start whether or not there is
/// room.
async fn to_cancel(c: &mut Conn, limit: i64) -> Result<Vec<(i64, i64)>, DbError> {
    let found = prepared(
        runs::table
            .filter(is_true("runs.state = 'pending' AND runs.cancel_at IS NOT NULL"))
            .select((runs::id, runs::pipeline_id))
            .order(runs::id)
            .limit(limit),
    );
    Ok(found.load(c).await?)
}

async fn waiting(c: &mut Conn, pipeline_id: i64, limit: i64) -> Result<Vec<i64>, DbError> {
    let found = prepared(
        runs::table
            .filter(is_true(PENDING))
            .filter(runs::pipeline_id.eq(pipeline_id))
            .filter(runs::cancel_at.is_null())
            .select(runs::id)
            .order(runs::id)
            .limit(limit),
    );
    Ok(found.load(c).await?)
}

/// Pipelines with waiting runs. Hops from pipeline to pipeline in the index of pending runs, so
/// that the length of a queue costs nothing.
async fn queues(c: &mut Conn) -> Result<Vec<Queue>, DbError> {
    let query = diesel::sql_query(format!(
        "WITH RECURSIVE queue (pipeline_id) AS ( SELECT min(pipeline_id) FROM runs WHERE \
         runs.state = 'pending' UNION ALL SELECT (SELECT min(runs.pipeline_id) FROM runs WHERE \
         runs.state = 'pending' AND runs.pipeline_id > queue.pipeline_id) FROM queue WHERE \
         queue.pipeline_id IS NOT NULL) SELECT pipelines.id AS pipeline_id, pipelines.namespace, \
         pipelines.parallelism, coalesce((SELECT namespaces.quotas FROM namespaces WHERE \
         namespaces.id = pipelines.namespace), '{{}}') AS quotas, coalesce((SELECT max(runs.id) \
         FROM runs), 0) AS newest, {OF_PIPELINE} AS running, (SELECT runs.id FROM runs WHERE \
         runs.state = 'pending' AND runs.pipeline_id = pipelines.id AND runs.cancel_at IS NULL \
         ORDER BY runs.id LIMIT 1) AS next FROM queue JOIN pipelines ON pipelines.id = \
         queue.pipeline_id"
    ));
    Ok(prepared(query).load(c).await?)
}

/// Namespaces with running runs, counted in the index of those alone.
async fn namespaces(c: &mut Conn) -> Result<Vec<Busy>, DbError> {
    let query = diesel::sql_query(format!(
        "WITH RECURSIVE busy (pipeline_id) AS ( \
             SELECT min(pipeline_id) FROM runs WHERE runs.state = 'running' \
             UNION ALL \
             SELECT (SELECT min(runs.pipeline_id) FROM runs \
                     WHERE runs.state = 'running' AND runs.pipeline_id > busy.pipeline_id) \
             FROM busy WHERE busy.pipeline_id IS NOT NULL) \
         SELECT pipelines.namespace, CAST(sum({OF_PIPELINE}) AS BIGINT) AS running \
         FROM busy JOIN pipelines ON pipelines.id = busy.pipeline_id GROUP BY pipelines.namespace"
    ));
    Ok(prepared(query).load(c).await?)
}

/// A call that was overtaken on its way shortens nothing.
pub(crate) async fn renew(
    tx: &mut Tx<'_>,
    owner: &str,
    now: Timestamp,
    ttl: Duration,
) -> Result<usize, DbError> {
    let held = runs::table.filter(is_true(RUNNING)).filter(runs::lease_owner.eq(owner));
    let until = now.after(ttl).0;
    let later = case_when(runs::lease_until.lt(until), until.into_sql::<BigInt>())
        .otherwise(runs::lease_until);
    Ok(prepared(diesel::update(held).set(runs::lease_until.eq(later))).execute(tx.c).await?)
}

pub(crate) async fn release(tx: &mut Tx<'_>, owner: &str) -> Result<(), DbError> {
    lead::release(tx, owner).await?;
    exec::end_all(tx, owner).await?;
    let held = runs::table.filter(is_true(RUNNING)).filter(runs::lease_owner.eq(owner));
    diesel::update(held)
        .set((runs::lease_owner.eq(None::<String>), runs::lease_until.eq(NEVER)))
        .execute(tx.c)
        .await?;
    Ok(())
}
