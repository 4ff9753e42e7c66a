use std::collections::HashMap;
use std::sync::Arc;

use diesel::prelude::*;
use gofer_core::journal::RunSnapshot;
use gofer_core::object_store::ListPage;
use gofer_core::run::{AttemptRecord, Run, TaskRun};
use gofer_core::{Resource, RunKey, TaskId};

use super::{Conn, RunQueryDsl, padded, pipelines as pipeline, runs as run};
use crate::error::DbError;
use crate::prepared::prepared;
use crate::rows::page;
use crate::rows::run::RunRow;
use crate::rows::task::{AttemptRow, TaskRow};
use crate::schema::{attempts, task_runs};
use crate::spec_cache::SpecCache;
use crate::types::{MAX_PAGE, Page, SomeTasks};

pub(crate) async fn load(
    c: &mut Conn,
    key: &RunKey,
    specs: &SpecCache,
) -> Result<RunSnapshot, DbError> {
    let row = run::find(c, key).await?;
    let spec = Arc::clone(&pipeline::spec(c, row.pipeline_id, row.version, specs).await?.spec);
    let rows: Vec<TaskRow> = task_runs::table
        .filter(task_runs::run_id.eq(row.id))
        .select(TaskRow::as_select())
        .load(c)
        .await?;
    let mut stored = by_task(rows);
    let run = Run::try_from(row)?;
    let tasks = spec
        .tasks
        .iter()
        .map(|task| Ok((task.id.clone(), take(&run, &mut stored, &task.id)?)))
        .collect::<Result<_, DbError>>()?;

    Ok(RunSnapshot { run, spec, tasks })
}

/// A run and some of its task runs, with their finished attempts; those that are not of its
/// pipeline are left out.
pub(crate) async fn some(
    c: &mut Conn,
    key: &RunKey,
    tasks: &[TaskId],
    specs: &SpecCache,
) -> Result<SomeTasks, DbError> {
    let row = run::find(c, key).await?;
    let run_id = row.id;
    let (run, tasks) = of_run(c, row, tasks, specs).await?;
    // Read after the task runs, they may already know of the end of one.
    let attempts = finished(c, run_id, Some(padded(tasks.iter().map(|task| &task.task)))).await?;
    Ok(SomeTasks { run, tasks, attempts })
}

async fn of_run(
    c: &mut Conn,
    row: RunRow,
    tasks: &[TaskId],
    specs: &SpecCache,
) -> Result<(Run, Vec<TaskRun>), DbError> {
    let spec = pipeline::spec(c, row.pipeline_id, row.version, specs).await?;
    let tasks: Vec<&TaskId> = tasks.iter().filter(|task| spec.has(task)).take(MAX_PAGE).collect();
    let wanted = task_runs::table
        .filter(task_runs::run_id.eq(row.id))
        .filter(task_runs::task.eq_any(padded(tasks.iter().copied())))
        .select(TaskRow::as_select());
    let mut stored = by_task(prepared(wanted).load(c).await?);
    let run = Run::try_from(row)?;
    let tasks =
        tasks.into_iter().map(|task| take(&run, &mut stored, task)).collect::<Result<_, _>>()?;
    Ok((run, tasks))
}

fn by_task(rows: Vec<TaskRow>) -> HashMap<String, TaskRow> {
    rows.into_iter().map(|row| (row.task.clone(), row)).collect()
}

fn take(
    run: &Run,
    stored: &mut HashMap<String, TaskRow>,
    task: &TaskId,
) -> Result<TaskRun, DbError> {
    // A task without a row is one that nothing has happened to yet.
    let untouched = || Ok(run.untouched_task(task.clone()));
    stored.remove(task.as_str()).map_or_else(untouched, TaskRun::try_from)
}

pub(crate) async fn get(
    c: &mut Conn,
    key: &RunKey,
    task: &TaskId,
    specs: &SpecCache,
) -> Result<TaskRun, DbError> {
    let row = run::find(c, key).await?;
    let (_, mut tasks) = of_run(c, row, std::slice::from_ref(task), specs).await?;
    tasks.pop().ok_or_else(|| DbError::not_found(Resource::TaskRun, format_args!("{key}/{task}")))
}

pub(crate) async fn list(
    c: &mut Conn,
    key: &RunKey,
    wanted: &ListPage,
    specs: &SpecCache,
) -> Result<Page<TaskRun>, DbError> {
    let row = run::find(c, key).await?;
    let spec = Arc::clone(&pipeline::spec(c, row.pipeline_id, row.version, specs).await?.spec);
    let after = wanted.after.as_deref().unwrap_or_default();
    let mut tasks: Vec<&TaskId> =
        spec.tasks.iter().map(|task| &task.id).filter(|id| id.as_str() > after).collect();
    tasks.sort_unstable();
    tasks.truncate(wanted.limit.clamp(1, MAX_PAGE) + 1);

    let (Some(first), Some(last)) = (tasks.as_slice().first(), tasks.last()) else {
        return Ok(Page { items: Vec::new(), next: None });
    };

    let rows: Vec<TaskRow> = task_runs::table
        .filter(task_runs::run_id.eq(row.id))
        .filter(task_runs::task.between(first.as_str(), last.as_str()))
        .select(TaskRow::as_select())
        .load(c)
        .await?;
    let mut stored = by_task(rows);
    let run = Run::try_from(row)?;

    page(tasks, wanted.limit, |task| task.to_string(), |task| take(&run, &mut stored, task))
}

pub(crate) async fn attempts(
    c: &mut Conn,
    key: &RunKey,
    tasks: Option<&[TaskId]>,
) -> Result<Vec<(TaskId, AttemptRecord)>, DbError> {
    let row = run::find(c, key).await?;
    finished(c, row.id, tasks.map(|tasks| padded(tasks.iter()))).await
}

async fn finished(
    c: &mut Conn,
    run_id: i64,
    tasks: Option<Vec<&str>>,
) -> Result<Vec<(TaskId, AttemptRecord)>, DbError> {
    let mut query = attempts::table
        .filter(attempts::run_id.eq(run_id))
        .select(AttemptRow::as_select())
        .into_boxed();
    if let Some(tasks) = tasks {
        query = query.filter(attempts::task.eq_any(tasks));
    }
    let rows: Vec<AttemptRow> =
        prepared(query.order((attempts::task, attempts::attempt))).load(c).await?;
    rows.into_iter().map(TryInto::try_into).collect()
}
