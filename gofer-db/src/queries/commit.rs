//! Group commit: the transitions of many runs, judged and applied together.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use diesel::prelude::*;
use diesel::query_builder::QueryFragment;
use gofer_core::journal::{Commit, Committed, RunTransition, TaskTransition};
use gofer_core::run::{RunState, RunStatus, TaskRun, TaskState, TaskStatus};
use gofer_core::{Attempt, RunKey, TaskId};

use super::engine::{self, Backend};
use super::{Tx, pipelines as pipeline};
use crate::error::DbError;
use crate::prepared::{Prepared, prepared};
use crate::rows::standing::Guard;
use crate::rows::task::{NewAttemptRow, NewTaskRow, TaskChange};
use crate::rows::{json_option, name, signed};
use crate::schema::{attempts, coalesce, runs, task_runs};
use crate::spec_cache::{KnownSpec, SpecCache};

/// A task's state and attempt.
type Standing = (TaskState, Attempt);

/// What a task run without a row is.
const FIRST: Standing = (TaskState::Pending, Attempt::FIRST);

/// Judges every commit by the rows as they are under the runs' locks (and as the commits before it
/// in this call leave them), then applies those that hold. The statements that apply them compare
/// again.
pub(crate) async fn commit(
    tx: &mut Tx<'_>,
    commits: &[Commit],
    specs: &SpecCache,
) -> Result<Vec<Committed>, DbError> {
    // Each run once, and in one order everywhere, so that two servers cannot wait for each other.
    let wanted: BTreeMap<&RunKey, Vec<&TaskId>> =
        commits.iter().fold(BTreeMap::new(), |mut wanted, commit| {
            let tasks: &mut Vec<&TaskId> = wanted.entry(&commit.lease.run).or_default();
            tasks.extend(commit.tasks.iter().map(|transition| &transition.to.task));
            wanted
        });

    let keys: Vec<&RunKey> = wanted.keys().copied().collect();
    let guards = engine::lock_runs(tx.c, &keys).await?;
    let mut batch = Batch::default();
    let mut standings = Vec::new();

    for ((key, tasks), guard) in wanted.into_iter().zip(guards) {
        let Some(guard) = guard else { continue };
        standings.push((guard.id, tasks));
        batch.runs.insert(key, RunStanding::new(guard)?);
    }

    for row in engine::task_standings(tx.c, &standings).await? {
        let status = row.status.as_deref().map(|text| name(text, TaskStatus::parse)).transpose()?;
        let state = name(&row.state, |text| TaskState::parse(text, status))?;
        batch
            .tasks
            .insert((row.run_id, row.task), (state, Attempt(crate::rows::small(row.attempt)?)));
    }

    let rowless = |(id, tasks): &(i64, Vec<&TaskId>)| {
        let mut tasks = tasks.iter();
        tasks.any(|task| !batch.tasks.contains_key(&(*id, task.to_string()))).then_some(*id)
    };

    let unsure: HashSet<i64> = standings.iter().filter_map(rowless).collect();
    for run in batch.runs.values_mut().filter(|run| unsure.contains(&run.id)) {
        run.spec = Some(pipeline::spec(tx.c, run.pipeline_id, run.version, specs).await?);
    }

    let mut results = Vec::with_capacity(commits.len());
    for commit in commits {
        let result = batch.judge(commit)?;
        if result == Committed::Done {
            commit.events.iter().for_each(|event| tx.record(event.clone()));
        }
        results.push(result);
    }

    batch.apply(tx).await?;
    Ok(results)
}

struct RunStanding {
    id: i64,
    state: RunState,
    /// Of the lease somebody holds; a lease ends with its run.
    epoch: Option<i64>,
    pipeline_id: i64,
    version: i64,
    /// Loaded when some task has no row: says whether the task exists.
    spec: Option<Arc<KnownSpec>>,
}

impl RunStanding {
    fn new(guard: Guard) -> Result<Self, DbError> {
        let status =
            guard.status.as_deref().map(|text| name(text, RunStatus::parse)).transpose()?;
        let state = name(&guard.state, |text| RunState::parse(text, status))?;
        let held = state == RunState::Running && guard.lease_owner.is_some();
        let Guard { id, pipeline_id, version, lease_epoch, .. } = guard;
        Ok(Self { id, state, epoch: held.then_some(lease_epoch), pipeline_id, version, spec: None })
    }
}

/// What is true so far, and what is to be written.
#[derive(Default)]
struct Batch<'a> {
    runs: HashMap<&'a RunKey, RunStanding>,
    tasks: HashMap<(i64, String), Standing>,
    task_writes: Vec<TaskWrite<'a>>,
    /// Where in `task_writes` a task's write is: several changes of one task become one write.
    written: HashMap<(i64, &'a TaskId), usize>,
    run_writes: Vec<(i64, &'a RunTransition)>,
    ended: Vec<NewAttemptRow>,
}

struct TaskWrite<'a> {
    run_id: i64,
    from: Standing,
    to: &'a TaskRun,
}

impl<'a> Batch<'a> {
    /// Takes a commit in whole, or not at all.
    fn judge(&mut self, commit: &'a Commit) -> Result<Committed, DbError> {
        let Some(run) = self.runs.get_mut(&commit.lease.run) else { return Ok(Committed::Fenced) };
        if run.epoch != Some(signed(commit.lease.epoch)) {
            return Ok(Committed::Fenced);
        }

        let id = run.id;
        if commit
            .run
            .as_ref()
            .is_some_and(|change| run.state != change.from || !run.state.may_become(change.to))
        {
            return Ok(Committed::Conflict);
        }

        let mut after: HashMap<&TaskId, Standing> = HashMap::new();
        for change in &commit.tasks {
            let task = &change.to.task;
            let exists = || run.spec.as_ref().is_some_and(|spec| spec.has(task));
            let stored = || {
                self.tasks
                    .get(&(id, task.to_string()))
                    .copied()
                    .or_else(|| exists().then_some(FIRST))
            };

            let now = after.get(task).copied().or_else(stored);
            if now != Some((change.from, change.from_attempt)) || !may_follow(change) {
                return Ok(Committed::Conflict);
            }

            after.insert(task, (change.to.state, change.to.attempt));
        }

        if let Some(change) = &commit.run {
            run.state = change.to;
            run.epoch = run.epoch.filter(|_| !change.to.is_complete());
            self.run_writes.push((id, change));
        }

        for change in &commit.tasks {
            self.take(id, change)?;
        }

        Ok(Committed::Done)
    }

    fn take(&mut self, run_id: i64, change: &'a TaskTransition) -> Result<(), DbError> {
        let task = &change.to.task;
        self.tasks.insert((run_id, task.to_string()), (change.to.state, change.to.attempt));
        match self.written.get(&(run_id, task)) {
            Some(&at) => self.task_writes[at].to = &change.to,
            None => {
                self.written.insert((run_id, task), self.task_writes.len());
                let from = (change.from, change.from_attempt);
                self.task_writes.push(TaskWrite { run_id, from, to: &change.to });
            }
        }
        if let Some(record) = &change.ended {
            self.ended.push(NewAttemptRow::new(run_id, task, record)?);
        }
        Ok(())
    }

    async fn apply(self, tx: &mut Tx<'_>) -> Result<(), DbError> {
        let (mut changes, mut updates) = (Vec::new(), Vec::new());
        for write in &self.task_writes {
            let change = TaskChange::new(write.to)?;
            if write.from == FIRST {
                changes.push(first_write(write, change));
            } else {
                updates.push(later_write(write, change));
            }
        }

        changes.append(&mut updates);
        for (id, change) in &self.run_writes {
            changes.push(run_write(*id, change)?);
        }

        // A repeated record is the same record: the attempt's own compare-and-set decides.
        let ended = self
            .ended
            .into_iter()
            .map(|row| {
                prepared(diesel::insert_into(attempts::table).values(row).on_conflict_do_nothing())
            })
            .collect();
        let expected = changes.len();
        let written = engine::change_all(tx.c, changes).await?;

        engine::execute_all(tx.c, ended).await?;
        if written == expected {
            Ok(())
        } else {
            let message = format!(
                "{written} of {expected} transitions were applied, under the lock of their runs"
            );
            Err(DbError::Internal { message, source: None })
        }
    }
}

/// The state machine, and its rule for attempts: only a return to `Pending` begins the next one.
fn may_follow(change: &TaskTransition) -> bool {
    let attempt = match change.to.state {
        TaskState::Pending => change.from_attempt.next(),
        _ => change.from_attempt,
    };
    change.from.may_become(change.to.state) && change.to.attempt == attempt
}

/// A statement that changes one row.
type Change = Prepared<Box<dyn QueryFragment<Backend> + Send>>;

/// A task run's first change may be its first row; a request to cancel it may have made that
/// already.
fn first_write(write: &TaskWrite<'_>, change: TaskChange) -> Change {
    let (from, attempt) = write.from;
    let row = NewTaskRow::new(write.run_id, &write.to.task, change.clone(), None);
    let insert = diesel::insert_into(task_runs::table)
        .values(row)
        .on_conflict((task_runs::run_id, task_runs::task))
        .do_update()
        .set(change);
    prepared(Box::new(diesel::query_dsl::methods::FilterDsl::filter(
        insert,
        task_runs::state.eq(from.name()).and(task_runs::attempt.eq(i64::from(attempt.0))),
    )))
}

fn later_write(write: &TaskWrite<'_>, change: TaskChange) -> Change {
    let (from, attempt) = write.from;
    let row = task_runs::table
        .filter(task_runs::run_id.eq(write.run_id))
        .filter(task_runs::task.eq(write.to.task.to_string()))
        .filter(task_runs::state.eq(from.name()))
        .filter(task_runs::attempt.eq(i64::from(attempt.0)));
    prepared(Box::new(diesel::update(row).set(change)))
}

fn run_write(id: i64, change: &RunTransition) -> Result<Change, DbError> {
    // One of the two times is set; the other stays as it is.
    let at = |set: bool| set.then_some(change.at.0);
    let values = (
        runs::state.eq(change.to.name()),
        runs::status.eq(change.to.status().map(RunStatus::as_str)),
        runs::reason.eq(json_option(change.reason.as_ref())?),
        runs::started_at.eq(coalesce(at(!change.to.is_complete()), runs::started_at)),
        runs::ended_at.eq(coalesce(at(change.to.is_complete()), runs::ended_at)),
    );
    let row = runs::table.find(id).filter(runs::state.eq(change.from.name()));
    Ok(prepared(Box::new(diesel::update(row).set(values))))
}
