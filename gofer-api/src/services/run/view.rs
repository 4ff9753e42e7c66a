//! A run as clients see it: its task runs with their attempts, gathered from what the database
//! keeps apart.

use std::collections::{BTreeMap, BTreeSet};

use gofer_core::journal::{RunSnapshot, Runs};
use gofer_core::run::{AttemptRecord, Run, TaskRun};
use gofer_core::{RunKey, TaskId};
use gofer_db::Db;
use gofer_engine::EngineError;
use gofer_proto::v1;

use crate::convert;
use crate::error::ApiError;

/// Most tasks whose attempts are asked for by name; beyond, all of the run's are read.
pub(in crate::services) const NAMED_TASKS: usize = 100;

/// The run with everything the engine knows of it.
pub(in crate::services) async fn snapshot(db: &Db, key: &RunKey) -> Result<RunSnapshot, ApiError> {
    Ok(Runs::load(db, key).await.map_err(EngineError::from)?)
}

/// Which attempts of a task run to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::services) enum Attempts {
    All,
    Newest,
}

/// These task runs of a run, in this order.
pub(in crate::services) async fn task_runs(
    db: &Db,
    snapshot: &RunSnapshot,
    tasks: &[&TaskRun],
    attempts: Attempts,
) -> Result<Vec<v1::TaskRun>, ApiError> {
    let names: Vec<TaskId> = tasks.iter().map(|task| task.task.clone()).collect();
    let only = (names.len() <= NAMED_TASKS).then_some(names.as_slice());
    let records = db.attempt_list(&snapshot.run.key, only).await?;
    Ok(task_runs_with(snapshot, tasks, records, attempts))
}

/// These task runs of a run, in this order, with the records of their finished attempts.
pub(in crate::services) fn task_runs_with(
    snapshot: &RunSnapshot,
    tasks: &[&TaskRun],
    records: Vec<(TaskId, AttemptRecord)>,
    attempts: Attempts,
) -> Vec<v1::TaskRun> {
    let mut by_task: BTreeMap<TaskId, Vec<AttemptRecord>> = BTreeMap::new();
    for (task, record) in records {
        by_task.entry(task).or_default().push(record);
    }
    let none = Vec::new();
    let wanted: BTreeSet<&TaskId> = tasks.iter().map(|task| &task.task).collect();
    let specs = snapshot.spec.tasks.iter().filter(|spec| wanted.contains(&spec.id));
    let specs: BTreeMap<_, _> = specs.map(|spec| (&spec.id, spec)).collect();
    let view = |task: &&TaskRun| {
        let records = by_task.get(&task.task).unwrap_or(&none);
        task_run(&snapshot.run, specs.get(&task.task).copied(), task, records, attempts)
    };
    tasks.iter().map(view).collect()
}

fn task_run(
    run: &Run,
    spec: Option<&gofer_core::pipeline::TaskSpec>,
    task: &TaskRun,
    records: &[AttemptRecord],
    attempts: Attempts,
) -> v1::TaskRun {
    // The records were read after the task run, so that they may hold the end of an attempt that
    // the task run still shows as running.
    let mut shown =
        convert::attempts_of(task, records.iter().filter(|record| record.attempt <= task.attempt));
    shown.dedup_by_key(|attempt| attempt.attempt);
    if attempts == Attempts::Newest {
        shown.drain(..shown.len().saturating_sub(1));
    }
    convert::task_run(run, spec, task, shown)
}
