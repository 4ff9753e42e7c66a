//! A new run.

use std::sync::Arc;

use diesel::prelude::*;
use gofer_core::event::{EventDetails, NewEvent, Subject};
use gofer_core::journal::{Claim, Committed, Inserted, Lease, NewRun, RunSnapshot};
use gofer_core::pipeline::{Overlap, PipelineSpec};
use gofer_core::quota::Quotas;
use gofer_core::run::{
    CancelRequest, Initiator, Reason, ReasonKind, Run, RunState, RunStatus, TaskRun, TaskState,
    TaskStatus,
};
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
use crate::rows::{signed, unsigned};
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

    let (skipped, superseded) = make_room(tx, &row, &key, new).await?;
    let mut run = new_run(new, key, version, skipped);
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

    let created = EventDetails::RunCreated {
        version,
        initiator: new.initiator.clone(),
        retry_of: new.retry_of,
    };

    record(tx, &run.key, created, actor(&new.initiator), new.at);
    if let RunState::Complete(status) = run.state {
        let completed = EventDetails::RunCompleted { status, reason: run.reason.clone() };
        record(tx, &run.key, completed, "gofer", new.at);
    }

    let claimed = match claim {
        Some(claim) => {
            record(tx, &run.key, EventDetails::RunStarted {}, "gofer", new.at);
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

    if let Some(parallelism) = row.parallelism
        && run_counts::of_pipeline(tx.c, row.id).await? >= parallelism
    {
        return Ok(None);
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
        .map(|task| (task.id.clone(), TaskRun::pending(task.id.clone())))
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

fn new_run(new: &NewRun, key: RunKey, version: Version, skipped: Option<Reason>) -> Run {
    Run {
        key,
        version,
        state: if skipped.is_some() {
            RunState::Complete(RunStatus::Cancelled)
        } else {
            RunState::Pending
        },
        ended_at: skipped.is_some().then_some(new.at),
        reason: skipped,
        initiator: new.initiator.clone(),
        variables: new.variables.clone(),
        retry_of: new.retry_of,
        cancel: None,
        token_nonce: new.token_nonce,
        created_at: new.at,
        started_at: None,
    }
}

/// Applies the pipeline's `overlap`, as its latest version has it: the reason to skip the run, or
/// the runs that got a cancel request for it. Active is every run that is not complete, queued ones
/// included.
async fn make_room(
    tx: &mut Tx<'_>,
    row: &PipelineRow,
    key: &RunKey,
    new: &NewRun,
) -> Result<(Option<Reason>, Vec<RunKey>), DbError> {
    let overlap = overlap_of(&row.overlap)?;
    let Some(parallelism) = row.parallelism.filter(|_| overlap != Overlap::Queue) else {
        return Ok((None, Vec::new()));
    };

    let active: Vec<(i64, Option<i64>)> = prepared(
        runs::table
            .filter(runs::namespace.eq(&row.namespace))
            .filter(runs::pipeline_id.eq(row.id))
            .filter(is_true(UNFINISHED))
            .select((runs::number, runs::cancel_at))
            .order(runs::id),
    )
    .load(tx.c)
    .await?;
    let room = usize::try_from(parallelism).unwrap_or(0);

    if overlap == Overlap::Skip {
        let full = active.len() >= room;
        let text = || {
            format!(
                "{} runs of this pipeline were active, and its parallelism is {parallelism}",
                active.len()
            )
        };
        return Ok((full.then(|| Reason::new(ReasonKind::OverlapSkipped, text())), Vec::new()));
    }

    let staying: Vec<i64> =
        active.iter().filter(|(_, cancel)| cancel.is_none()).map(|(number, _)| *number).collect();
    let too_many = (staying.len() + 1).saturating_sub(room);
    let mut superseded = Vec::new();

    for number in staying.into_iter().take(too_many) {
        let old = RunKey { run: RunNumber(unsigned(number)?), ..key.clone() };
        let request = CancelRequest {
            at: new.at,
            by: "gofer".to_owned(),
            force: false,
            message: format!("superseded by run {}", key.run),
        };

        if cancel::run(tx, &old, &request).await? {
            superseded.push(old);
        }
    }

    Ok((None, superseded))
}

/// Rows for tasks that need not run again; all others have none until something happens to them.
async fn insert_reused(tx: &mut Tx<'_>, run_id: i64, new: &NewRun) -> Result<(), DbError> {
    let Some(old) = new.retry_of else { return Ok(()) };
    let reason = Reason::new(ReasonKind::Reused, format!("ended successfully in run {old}"));
    let mut rows = Vec::with_capacity(new.reused.len());

    for task in &new.reused {
        let done = TaskRun {
            state: TaskState::Complete(TaskStatus::Successful),
            reason: Some(reason.clone()),
            ended_at: Some(new.at),
            ..TaskRun::pending(task.clone())
        };
        let row = NewTaskRow::new(run_id, task, TaskChange::new(&done)?, None);
        rows.push(diesel::insert_into(task_runs::table).values(row));
    }

    engine::execute_all(tx.c, rows).await?;
    Ok(())
}

fn actor(initiator: &Initiator) -> &str {
    match initiator {
        Initiator::Token(name) | Initiator::Trigger(name) => name,
    }
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
