//! One run, indexed so that a step costs the number of tasks it touches, not the size of the DAG.
//! A step changes the machine in place.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use gofer_core::journal::RunSnapshot;
use gofer_core::pipeline::{PipelineSpec, TaskSpec};
use gofer_core::run::{Run, TaskRun};
use gofer_core::{Attempt, TaskId, Timestamp};

use super::input::SchedulerFacts;
use super::task_index::{PerTask, TaskIndex};

/// The state machine of one run.
#[derive(Debug)]
pub struct Machine {
    pub(super) run: Run,
    pub(super) spec: Arc<PipelineSpec>,
    pub(super) tasks: PerTask<TaskRun>,
    pub(super) index: HashMap<TaskId, TaskIndex>,
    pub(super) children: PerTask<Vec<TaskIndex>>,
    /// Per task, how many of its parents are not complete.
    pub(super) waiting: PerTask<usize>,
    pub(super) incomplete: usize,
    /// Deadlines, checked against the task's state when they come: a stale one does nothing.
    pub(super) timers: BTreeSet<(Timestamp, TaskIndex)>,
    /// Pending tasks whose last parent completed during the current step.
    pub(super) ready: VecDeque<TaskIndex>,
    pub(super) scheduler: SchedulerFacts,
    /// When this machine saw each task's current attempt running for the first time. The deadline
    /// of an attempt is counted from then: not by the clock of its node, which may be wrong.
    pub(super) seen_running: PerTask<Option<Timestamp>>,
    /// Since when a server has watched the run without standing still.
    pub(super) watched_since: Timestamp,
}

impl Machine {
    /// Indexes a snapshot, to be driven with this scheduler. Linear in tasks and edges.
    ///
    /// # Panics
    /// When the snapshot lacks a task of its spec, which the journal's contract excludes.
    #[must_use]
    pub fn new(snapshot: RunSnapshot, scheduler: SchedulerFacts) -> Self {
        let RunSnapshot { run, spec, mut tasks } = snapshot;
        let positions = spec.tasks.iter().enumerate();
        let index: HashMap<TaskId, TaskIndex> =
            positions.map(|(at, task)| (task.id.clone(), TaskIndex::new(at))).collect();
        let runs = spec
            .tasks
            .iter()
            .map(|task| tasks.remove(&task.id).expect("a snapshot has every task of its spec"));
        let tasks = PerTask::new(runs.collect());

        let mut children = PerTask::new(vec![Vec::new(); spec.tasks.len()]);
        let mut waiting = PerTask::new(vec![0; spec.tasks.len()]);
        for (child, task) in tasks.indices().zip(&spec.tasks) {
            for edge in &task.depends_on {
                let parent = index[&edge.task];
                children[parent].push(child);
                if !tasks[parent].state.is_complete() {
                    waiting[child] += 1;
                }
            }
        }

        let incomplete = tasks.as_slice().iter().filter(|task| !task.state.is_complete()).count();
        Self {
            run,
            seen_running: PerTask::new(vec![None; spec.tasks.len()]),
            spec,
            tasks,
            index,
            children,
            waiting,
            incomplete,
            timers: BTreeSet::new(),
            ready: VecDeque::new(),
            scheduler,
            watched_since: Timestamp(i64::MIN),
        }
    }

    /// The run as of the last step.
    #[must_use]
    pub fn run(&self) -> &Run {
        &self.run
    }

    /// The spec it executes.
    #[must_use]
    pub fn spec(&self) -> &Arc<PipelineSpec> {
        &self.spec
    }

    /// A task run and its spec.
    #[must_use]
    pub fn task(&self, id: &TaskId) -> Option<(&TaskRun, &TaskSpec)> {
        let task = *self.index.get(id)?;
        Some((&self.tasks[task], self.spec_of(task)))
    }

    /// Whether the scheduler may have forgotten what was intended of this task: that was in another
    /// incarnation of it.
    #[must_use]
    pub fn may_be_forgotten(&self, id: &TaskId) -> bool {
        self.task(id).is_some_and(|(task, _)| task.incarnation != self.scheduler.incarnation)
    }

    /// Every task run, in the spec's order.
    #[must_use]
    pub fn tasks(&self) -> &[TaskRun] {
        self.tasks.as_slice()
    }

    /// When the machine wants an [`Input::Tick`](super::Input::Tick), at the latest.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Timestamp> {
        self.timers.first().map(|(due, _)| *due)
    }

    pub(super) fn spec_of(&self, task: TaskIndex) -> &TaskSpec {
        &self.spec.tasks[task.position()]
    }

    /// A task whose current attempt may have an execution, if that attempt is `attempt`.
    pub(super) fn active(&self, id: &TaskId, attempt: Attempt) -> Option<TaskIndex> {
        let task = *self.index.get(id)?;
        let found = &self.tasks[task];
        (found.attempt == attempt && found.state.is_active()).then_some(task)
    }
}
