//! A new run.

use std::sync::Arc;

use diesel::prelude::*;
use gofer_core::admission::{self, ActiveRun, Admission};
use gofer_core::event::{ACTOR, EventDetails, NewEvent, Subject};
use gofer_core::journal::{Claim, Committed, Inserted, Lease, NewRun, RunSnapshot};
use gofer_core::pipeline::PipelineSpec;
use gofer_core::quota::Quotas;
use gofer_core::run::{CancelRequest, Run, RunState, TaskRun};
use gofer_core::run_variables;
use gofer_core::{NamespaceId, PipelineId, RunKey, RunNumber, Timestamp, Version};

use super::quotas::Minute;
use super::{
    Conn, PENDING, RunQueryDsl, Tx, UNFINISHED, cancel, commit, engine, is_true,
    pipelines as pipeline, quotas, run_counts,
};
use crate::error::DbError;
use crate::headroom::QuotaBook;
use crate::prepared::prepared;
use crate::rows::entity::{PipelineRow, overlap_of};
use crate::rows::run::{NewRunRow, RunRow};
use crate::rows::task::{NewTaskRow, TaskChange};
use crate::rows::{counted, signed, unsigned};
use crate::schema::{pipeline_versions, pipelines, runs, task_runs};
use crate::spec_cache::SpecCache;

/// The run an idempotency key has already made.
pub(crate) async fn known(
    c: &mut Conn,
    namespace: &NamespaceId,
    pipeline: &PipelineId,
    idempotency_key: &str,
) -> Result<Option<Inserted>, DbError> {
    let row: Option<RunRow> = runs::table
        .inner_join(pipelines::table.on(pipelines::id.eq(runs::pipeline_id)))
        .filter(pipelines::namespace.eq(namespace.as_str()))
        .filter(pipelines::name.eq(pipeline.as_str()))
        .filter(runs::idempotency_key.eq(idempotency_key))
        .select(RunRow::as_select())
        .get_result(c)
        .await
        .optional()?;
    row.map(|row| {
        Ok(Inserted { run: row.try_into()?, new: false, superseded: Vec::new(), claimed: None })
    })
    .transpose()
}

pub(crate) async fn insert(
    tx: &mut Tx<'_>,
    new: &NewRun,
    specs: &SpecCache,
    book: &QuotaBook,
) -> Result<Inserted, DbError> {
    // Concurrent inserts of one pipeline wait here for each other: numbers, keys and room are
    // counted under this lock.
    let (row, limits) = pipeline::lock_with_limits(tx, &new.namespace, &new.pipeline, book).await?;
    if let Some(key) = &new.idempotency_key
        && let Some(known) = known(tx.c, &new.namespace, &new.pipeline, key).await?
    {
        return Ok(known);
    }

    if !row.enabled {
        return Err(DbError::Disabled { key: format!("{}/{}", new.namespace, new.pipeline) });
    }

    let version = version(tx.c, new, &row).await?;
    check_variables(tx.c, new, &row, version, specs).await?;
    let key = RunKey {
        namespace: new.namespace.clone(),
        pipeline: new.pipeline.clone(),
        run: RunNumber(unsigned(row.last_run + 1)?),
    };

    let minute = Minute::with(&row, new);
    let numbered = diesel::update(pipelines::table.find(row.id)).set((
        pipelines::last_run.eq(row.last_run + 1),
        pipelines::minute.eq(minute.number),
        pipelines::minute_runs.eq(minute.runs),
        pipelines::minute_bytes.eq(minute.bytes),
    ));

    prepared(numbered).execute(tx.c).await?;
    if row.parallelism.is_some() && may_be_claimed(new).is_some() {
        // Room is counted and taken under this lock, here and by those who claim what waits. Before
        // any run's row, as there.
        engine::lock_claims(tx.c).await?;
    }

    let (skipped, superseded) = match overlap(tx.c, &row).await? {
        Admission::Queue => (None, Vec::new()),
        Admission::Skip(reason) => (Some(reason), Vec::new()),
        Admission::Supersede(runs) => (None, supersede(tx, &key, runs, new.at).await?),
    };
    let mut run = Run::created(new, key, version, skipped);
    let events = admission::created_events(new, &run);
    let claim = if run.state == RunState::Pending {
        claim_at_once(tx, &row, new, &limits, book).await?
    } else {
        None
    };

    if claim.is_some() {
        (run.state, run.started_at) = (RunState::Running, Some(new.at));
    }

    let values = NewRunRow::new(row.id, new, &run, claim)?;
    let insert = diesel::insert_into(runs::table).values(values).returning(runs::id);
    let id: i64 = insert.get_result(tx.c).await?;
    let inserted =
        quotas::Inserted { id, minute: minute.number, waits: run.state == RunState::Pending };
    quotas::admit_run(tx, book, &limits, new, inserted).await?;
    insert_reused(tx, id, new).await?;

    for event in events {
        tx.record(event);
    }

    let claimed = match claim {
        Some(claim) => {
            record(tx, &run.key, EventDetails::RunStarted {}, ACTOR, new.at);
            let known = pipeline::spec(tx.c, row.id, signed(version.0), specs).await?;
            let (lease, snapshot) =
                (Lease { run: run.key.clone(), epoch: 1 }, untouched(&run, &known.spec));
            begin(tx, claim, &lease, &snapshot, specs).await?;
            Some((lease, snapshot))
        }
        None => None,
    };

    Ok(Inserted { run, new: true, superseded, claimed })
}

/// The claim that comes with a new run, unless that repeats another.
fn may_be_claimed(new: &NewRun) -> Option<&Claim> {
    new.claim.as_ref().filter(|_| new.retry_of.is_none())
}

/// The claim that comes with a new run, if its turn has come.
async fn claim_at_once<'n>(
    tx: &mut Tx<'_>,
    row: &PipelineRow,
    new: &'n NewRun,
    limits: &Quotas,
    book: &QuotaBook,
) -> Result<Option<&'n Claim>, DbError> {
    let Some(claim) = may_be_claimed(new) else { return Ok(None) };
    let waiting = runs::table
        .filter(is_true(PENDING))
        .filter(runs::pipeline_id.eq(row.id))
        .select(runs::id)
        .limit(1);

    if prepared(waiting).get_result::<i64>(tx.c).await.optional()?.is_some() {
        return Ok(None);
    }

    if row.parallelism.is_some() {
        let running = run_counts::of_pipeline(tx.c, row.id).await?;
        if !admission::has_room(row.parallelism.map(counted), counted(running)) {
            return Ok(None);
        }
    }

    let Some(newest) = run_counts::may_hold_one_more(tx, &claim.owner, claim.most).await? else {
        return Ok(None);
    };

    let room = quotas::room_for_active(tx.c, book, limits, &new.namespace, newest).await?;
    Ok(room.is_none_or(|room| room.running < room.limit).then_some(claim))
}

/// The first commit of a run that is claimed as it is inserted.
async fn begin(
    tx: &mut Tx<'_>,
    claim: &Claim,
    lease: &Lease,
    snapshot: &RunSnapshot,
    specs: &SpecCache,
) -> Result<(), DbError> {
    let Some(first) = claim.first.as_ref().and_then(|first| first.of(lease, snapshot)) else {
        return Ok(());
    };
    match commit::commit(tx, &[first], specs).await?.as_slice() {
        [Committed::Done] => Ok(()),
        refused => {
            let message =
                format!("the first commit of run `{}` does not hold: {refused:?}", lease.run);
            Err(DbError::Internal { message, source: None })
        }
    }
}

fn untouched(run: &Run, spec: &Arc<PipelineSpec>) -> RunSnapshot {
    let tasks = spec
        .tasks
        .iter()
        .map(|task| (task.id.clone(), run.untouched_task(task.id.clone())))
        .collect();
    RunSnapshot { run: run.clone(), spec: Arc::clone(spec), tasks }
}

async fn version(c: &mut Conn, new: &NewRun, row: &PipelineRow) -> Result<Version, DbError> {
    let Some(version) = new.version else { return Ok(Version(unsigned(row.latest_version)?)) };
    let number = signed(version.0);
    let found: Option<i64> = pipeline_versions::table
        .find((row.id, number))
        .select(pipeline_versions::version)
        .get_result(c)
        .await
        .optional()?;
    found
        .map(|_| version)
        .ok_or_else(|| pipeline::no_version(&new.namespace, &new.pipeline, number))
}

/// Under the pipeline's lock, where the version that the run gets is certain.
async fn check_variables(
    c: &mut Conn,
    new: &NewRun,
    row: &PipelineRow,
    version: Version,
    specs: &SpecCache,
) -> Result<(), DbError> {
    if new.variables.is_empty() {
        return Ok(());
    }
    let known = pipeline::spec(c, row.id, signed(version.0), specs).await?;
    let refused = run_variables::check(&known.spec, &new.variables);
    if refused.is_empty() { Ok(()) } else { Err(DbError::Variables(refused)) }
}

/// What the pipeline's `overlap`, as its latest version has it, makes of a new run. Active is every
/// run that is not complete, queued ones included.
async fn overlap(c: &mut Conn, row: &PipelineRow) -> Result<Admission, DbError> {
    let (policy, parallelism) = (overlap_of(&row.overlap)?, row.parallelism.map(counted));
    if admission::active_limit(policy, parallelism).is_none() {
        return Ok(Admission::Queue);
    }

    let active: Vec<(i64, Option<i64>)> = prepared(
        runs::table
            .filter(runs::namespace.eq(&row.namespace))
            .filter(runs::pipeline_id.eq(row.id))
            .filter(is_true(UNFINISHED))
            .select((runs::number, runs::cancel_at))
            .order(runs::id),
    )
    .load(c)
    .await?;

    let active = active
        .into_iter()
        .map(|(number, cancel_at)| {
            let run = RunNumber(unsigned(number)?);
            Ok(ActiveRun { run, cancelling: cancel_at.is_some() })
        })
        .collect::<Result<Vec<_>, DbError>>()?;

    Ok(admission::overlap(policy, parallelism, &active))
}

/// Asks runs to cancel, to make room for a newer one; those that were not asked before.
async fn supersede(
    tx: &mut Tx<'_>,
    newer: &RunKey,
    runs: Vec<RunNumber>,
    at: Timestamp,
) -> Result<Vec<RunKey>, DbError> {
    let mut superseded = Vec::with_capacity(runs.len());
    for run in runs {
        let old = RunKey { run, ..newer.clone() };
        if cancel::run(tx, &old, &CancelRequest::superseded(newer.run, at)).await? {
            superseded.push(old);
        }
    }
    Ok(superseded)
}

/// Rows for tasks that need not run again; all others have none until something happens to them.
async fn insert_reused(tx: &mut Tx<'_>, run_id: i64, new: &NewRun) -> Result<(), DbError> {
    let Some(old) = new.retry_of else { return Ok(()) };
    let mut rows = Vec::with_capacity(new.reused.len());

    for task in &new.reused {
        let done = TaskRun::reused(task.clone(), old, new.at);
        let row = NewTaskRow::new(run_id, task, TaskChange::new(&done)?, None);
        rows.push(diesel::insert_into(task_runs::table).values(row));
    }

    engine::execute_all(tx.c, rows).await?;
    Ok(())
}

pub(crate) fn record(
    tx: &mut Tx<'_>,
    key: &RunKey,
    details: EventDetails,
    actor: &str,
    at: Timestamp,
) {
    let subject = Subject::of_run(key);
    tx.record(NewEvent { at, actor: actor.to_owned(), subject, details });
}
