//! Wishes to cancel.

use diesel::prelude::*;
use gofer_core::event::{EventDetails, NewEvent, Subject};
use gofer_core::run::{CancelRequest, TaskRun};
use gofer_core::{Resource, RunKey, TaskId};

use super::engine::locked;
use super::{RunQueryDsl, Tx, pipelines as pipeline};
use crate::error::DbError;
use crate::rows::signed;
use crate::rows::task::{NewTaskRow, TaskChange};
use crate::schema::{runs, task_runs};
use crate::spec_cache::SpecCache;

pub(crate) async fn run(
    tx: &mut Tx<'_>,
    key: &RunKey,
    request: &CancelRequest,
) -> Result<bool, DbError> {
    let (id, state) = lock(tx, key).await?.run;
    if state == "complete" {
        return Ok(false);
    }

    let first = diesel::update(runs::table.find(id).filter(runs::cancel_at.is_null()))
        .set((
            runs::cancel_at.eq(request.at.0),
            runs::cancel_by.eq(&request.by),
            runs::cancel_force.eq(request.force),
            runs::cancel_message.eq(&request.message),
        ))
        .execute(tx.c)
        .await?;
    let mut changed = first == 1;

    if !changed && request.force {
        let forced = diesel::update(runs::table.find(id).filter(runs::cancel_force.eq(false)))
            .set(runs::cancel_force.eq(true))
            .execute(tx.c)
            .await?;
        changed = forced == 1;
    }

    if changed {
        let details = EventDetails::RunCancelRequested {
            force: request.force,
            message: request.message.clone(),
        };
        let subject = Subject::of_run(key);
        tx.record(NewEvent { at: request.at, actor: request.by.clone(), subject, details });
    }

    Ok(changed)
}

pub(crate) async fn task(
    tx: &mut Tx<'_>,
    key: &RunKey,
    task: &TaskId,
    request: &CancelRequest,
    specs: &SpecCache,
) -> Result<bool, DbError> {
    // A commit takes the same lock: the row cannot appear or complete in between.
    let Locked { run: (id, state), version: (pipeline_id, version) } = lock(tx, key).await?;
    if !pipeline::spec(tx.c, pipeline_id, version, specs).await?.has(task) {
        return Err(DbError::not_found(Resource::TaskRun, format_args!("{key}/{task}")));
    }

    if state == "complete" {
        return Ok(false);
    }

    let pending = TaskChange::new(&TaskRun::pending(task.clone()))?;
    let inserted = diesel::insert_into(task_runs::table)
        .values(NewTaskRow::new(id, task, pending, Some(request)))
        .on_conflict_do_nothing()
        .execute(tx.c)
        .await?;
    let changed = inserted == 1 || update_task(tx, id, task, request).await?;

    if changed {
        let details = EventDetails::TaskRunCancelRequested {
            force: request.force,
            message: request.message.clone(),
        };
        let subject = Subject::of_task(key, Some(task));
        tx.record(NewEvent { at: request.at, actor: request.by.clone(), subject, details });
    }

    Ok(changed)
}

async fn update_task(
    tx: &mut Tx<'_>,
    run_id: i64,
    task: &TaskId,
    request: &CancelRequest,
) -> Result<bool, DbError> {
    let unfinished =
        task_runs::table.find((run_id, task.as_str())).filter(task_runs::state.ne("complete"));
    let first = diesel::update(unfinished.filter(task_runs::cancel_at.is_null()))
        .set((
            task_runs::cancel_at.eq(request.at.0),
            task_runs::cancel_by.eq(&request.by),
            task_runs::cancel_force.eq(request.force),
            task_runs::cancel_message.eq(&request.message),
        ))
        .execute(tx.c)
        .await?;

    if first == 1 || !request.force {
        return Ok(first == 1);
    }

    let forced = diesel::update(unfinished.filter(task_runs::cancel_force.eq(false)))
        .set(task_runs::cancel_force.eq(true))
        .execute(tx.c)
        .await?;

    Ok(forced == 1)
}

struct Locked {
    /// Id and state.
    run: (i64, String),
    /// Pipeline id and version.
    version: (i64, i64),
}

async fn lock(tx: &mut Tx<'_>, key: &RunKey) -> Result<Locked, DbError> {
    let query = runs::table
        .filter(runs::namespace.eq(key.namespace.as_str()))
        .filter(runs::pipeline.eq(key.pipeline.as_str()))
        .filter(runs::number.eq(signed(key.run.0)))
        .select(((runs::id, runs::state), (runs::pipeline_id, runs::version)));
    let found: Option<((i64, String), (i64, i64))> =
        locked!(query).get_result(tx.c).await.optional()?;
    let (run, version) = found.ok_or_else(|| DbError::not_found(Resource::Run, key))?;
    Ok(Locked { run, version })
}
