//! What must be true after every step, kept beside the journal from what is asked of it and what it
//! answers.

use std::collections::BTreeMap;
use std::sync::Arc;

use gofer_core::event::{Event, EventDetails};
use gofer_core::journal::{Commit, Committed, Lease, RunSnapshot, RunTransition, TaskTransition};
use gofer_core::pipeline::PipelineSpec;
use gofer_core::run::{RunState, RunStatus, StopRequest, TaskState, TaskStatus};
use gofer_core::{Attempt, ExecutionId, RunKey, TaskId, Timestamp};

use crate::rules;
use crate::world::World;

#[derive(Debug, Clone, Default)]
pub(crate) struct Model {
    pub(crate) runs: BTreeMap<RunKey, RunModel>,
    pub(crate) last_event: u64,
    /// How long after a cancel was acknowledged a decision may still be unaware of it.
    pub(crate) unaware: i64,
}

#[derive(Debug, Clone)]
pub(crate) struct RunModel {
    pub(crate) spec: Arc<PipelineSpec>,
    pub(crate) state: RunState,
    /// As the events tell it.
    told: RunState,
    epoch: u64,
    /// Which server has its lease, or had it last.
    pub(crate) holder: Option<String>,
    /// When it was asked for.
    pub(crate) cancel: Option<Timestamp>,
    /// When who asked was answered.
    pub(crate) cancel_acknowledged: Option<Timestamp>,
    pub(crate) tasks: BTreeMap<TaskId, TaskModel>,
}

#[derive(Debug, Clone)]
pub(crate) struct TaskModel {
    pub(crate) state: TaskState,
    pub(crate) attempt: Attempt,
    told: (TaskState, Attempt),
    pub(crate) cancel: Option<Timestamp>,
    pub(crate) cancel_acknowledged: Option<Timestamp>,
    pub(crate) intents: BTreeMap<Attempt, Intent>,
}

/// An attempt whose intent was committed.
#[derive(Debug, Clone)]
pub(crate) struct Intent {
    pub(crate) at: Timestamp,
    pub(crate) running_at: Option<Timestamp>,
    pub(crate) stop: Option<StopRequest>,
    pub(crate) ended: bool,
    /// When its end was committed.
    pub(crate) ended_at: Option<Timestamp>,
}

impl Model {
    pub(crate) fn spec(&self, run: &RunKey) -> Option<&PipelineSpec> {
        self.runs.get(run).map(|run| run.spec.as_ref())
    }

    /// Takes note of a run that was just inserted.
    pub(crate) fn insert(&mut self, snapshot: RunSnapshot) {
        let task = |(id, task): (TaskId, gofer_core::run::TaskRun)| {
            let told = (task.state, task.attempt);
            let (cancel, cancel_acknowledged, intents) = (None, None, BTreeMap::new());
            (
                id,
                TaskModel {
                    state: task.state,
                    attempt: task.attempt,
                    told,
                    cancel,
                    cancel_acknowledged,
                    intents,
                },
            )
        };

        let run = RunModel {
            spec: snapshot.spec,
            state: snapshot.run.state,
            told: snapshot.run.state,
            epoch: 0,
            holder: None,
            cancel: None,
            cancel_acknowledged: None,
            tasks: snapshot.tasks.into_iter().map(task).collect(),
        };

        self.runs.insert(snapshot.run.key, run);
    }

    pub(crate) fn claimed(&mut self, world: &World, owner: &str, leases: &[Lease]) {
        for lease in leases {
            let Some(run) = self.runs.get_mut(&lease.run) else { continue };
            world.check(lease.epoch > run.epoch, || {
                format!("a lease of `{}` has an old epoch", lease.run)
            });
            (run.epoch, run.holder) = (lease.epoch, Some(owner.to_owned()));
        }
    }

    /// Who took the last lease of the run.
    pub(crate) fn holder(&self, run: &RunKey) -> Option<&str> {
        self.runs.get(run)?.holder.as_deref()
    }

    /// The epoch of the run's last lease; 0 before the first.
    pub(crate) fn epoch(&self, run: &RunKey) -> u64 {
        self.runs.get(run).map_or(0, |run| run.epoch)
    }

    /// Everybody who asked to cancel this has been answered.
    pub(crate) fn acknowledge_cancels(&mut self, of: impl Fn(&RunKey) -> bool, at: Timestamp) {
        for (_, run) in self.runs.iter_mut().filter(|(key, _)| of(key)) {
            if run.cancel.is_some() {
                run.cancel_acknowledged.get_or_insert(at);
            }
        }
    }

    pub(crate) fn acknowledge_task_cancel(&mut self, run: &RunKey, task: &TaskId, at: Timestamp) {
        let task = self.runs.get_mut(run).and_then(|run| run.tasks.get_mut(task));
        if let Some(task) = task.filter(|task| task.cancel.is_some()) {
            task.cancel_acknowledged.get_or_insert(at);
        }
    }

    pub(crate) fn events(&mut self, world: &World, events: Vec<Event>) {
        for event in events {
            let expected = self.last_event + 1;
            world.check(event.id == expected, || {
                format!("event {} comes where {expected} should", event.id)
            });
            self.last_event = event.id;
            self.event(world, event);
        }
    }

    fn event(&mut self, world: &World, event: Event) {
        let subject = &event.body.subject;
        let (Some(namespace), Some(pipeline), Some(run)) =
            (&subject.namespace, &subject.pipeline, subject.run)
        else {
            return;
        };

        let key = RunKey { namespace: namespace.clone(), pipeline: pipeline.clone(), run };
        let of_pipeline = self.runs.iter().filter(|(other, _)| other.pipeline == key.pipeline);
        let running = of_pipeline.filter(|(_, run)| run.told == RunState::Running).count();
        let Some(run) = self.runs.get_mut(&key) else { return };
        let at = event.body.at;

        if let (Some(id), Some(attempt)) = (&subject.task, subject.attempt) {
            let Some(task) = run.tasks.get_mut(id) else { return };
            match &event.body.details {
                EventDetails::TaskRunStarting {} => task.told = (TaskState::Starting, attempt),
                EventDetails::TaskRunRunning {} => task.told = (TaskState::Running, attempt),
                EventDetails::TaskRunRetryScheduled { next_attempt, .. } => {
                    task.told = (TaskState::Pending, *next_attempt)
                }
                EventDetails::TaskRunCompleted { status, .. } => {
                    task.told = (TaskState::Complete(*status), attempt)
                }
                _ => {}
            }

            return;
        }

        match &event.body.details {
            EventDetails::RunStarted {} => {
                run.told = RunState::Running;
                run.state = RunState::Running;
                let limit = run.spec.parallelism.map_or(usize::MAX, |limit| limit as usize);
                let room = run.cancel.is_some() || running < limit;
                world.check(room, || {
                    format!(
                        "run `{key}` was started beside {running} others, and {limit} are allowed"
                    )
                });
            }
            EventDetails::RunCompleted { status, .. } => run.told = RunState::Complete(*status),
            EventDetails::RunCancelRequested { .. } => drop(run.cancel.get_or_insert(at)),
            EventDetails::TaskRunCancelRequested { .. } => {
                if let Some(task) = subject.task.as_ref().and_then(|id| run.tasks.get_mut(id)) {
                    task.cancel.get_or_insert(at);
                }
            }
            _ => {}
        }
    }

    /// Checks a commit that was accepted, after its events were taken.
    pub(crate) fn committed(&mut self, world: &World, commit: &Commit, result: Committed) {
        if result != Committed::Done {
            return;
        }

        let key = &commit.lease.run;
        let unaware = self.unaware;
        let Some(run) = self.runs.get_mut(key) else { return };
        let rightful = run.holder.is_some() && commit.lease.epoch == run.epoch;
        world.check(rightful, || {
            format!(
                "a commit of `{key}` with epoch {} was taken, and the lease has {}",
                commit.lease.epoch, run.epoch
            )
        });

        for change in &commit.tasks {
            run.task_changes(world, key, change, unaware);
        }

        if let Some(change) = &commit.run {
            run.completes(world, key, change, unaware);
        }

        for (id, task) in &run.tasks {
            let told = task.told == (task.state, task.attempt);
            world.check(told, || {
                format!(
                    "`{key}/{id}` is {:?}, and its events say {:?}",
                    (task.state, task.attempt),
                    task.told
                )
            });
        }

        world.check(run.told == run.state, || {
            format!("`{key}` is {:?}, and its events say {:?}", run.state, run.told)
        });
    }

    /// Checks that an execution may be started now.
    pub(crate) fn check_start(&self, world: &World, id: &ExecutionId, by: &str) {
        let intent = self
            .runs
            .get(&id.run)
            .and_then(|run| run.tasks.get(&id.task)?.intents.get(&id.attempt));
        match intent {
            None => {
                world.violate(|| format!("`{id}` was started, and its intent is not committed"))
            }
            Some(intent) if intent.ended => {
                world.violate(|| {
                    format!("`{id}` was started by {by}, and its end is committed already")
                });
            }
            Some(_) => {}
        }
    }
}

impl RunModel {
    pub(crate) fn status(&self, task: &TaskId) -> Option<TaskStatus> {
        self.tasks.get(task)?.state.status()
    }

    fn task_changes(&mut self, world: &World, key: &RunKey, change: &TaskTransition, unaware: i64) {
        let id = &change.to.task;
        let Some(task) = self.tasks.get(id) else {
            return world.violate(|| format!("`{key}` has no task `{id}`"));
        };

        let from = (change.from, change.from_attempt);
        world.check(from == (task.state, task.attempt), || {
            format!(
                "`{key}/{id}` was changed from {from:?}, and it was {:?}",
                (task.state, task.attempt)
            )
        });

        world.check(rules::is_step(task.state, change.to.state), || {
            format!("`{key}/{id}` became {:?} after {:?}", change.to.state, task.state)
        });

        let leaves = task.state.is_active() && !change.to.state.is_active();
        world.check(leaves == change.ended.is_some(), || {
            format!("`{key}/{id}`: an ended attempt must be recorded, once")
        });

        self.edges_respected(world, key, change);
        let cancelled = self.cancel.is_some() || task.cancel.is_some();
        if change.to.state == TaskState::Complete(TaskStatus::Cancelled) {
            world.check(cancelled, || format!("`{key}/{id}` ended cancelled, and nobody asked"));
        }

        if (task.state, change.to.state) == (TaskState::Pending, TaskState::Starting) {
            let at = change.to.intended_at.unwrap_or(Timestamp(i64::MAX));
            let late = [self.cancel_acknowledged, task.cancel_acknowledged]
                .into_iter()
                .any(|known| is_late(known, at, unaware));
            world.check(!late, || format!("`{key}/{id}` was started long after it was cancelled"));
        }

        self.take(change, world.now());
    }

    fn edges_respected(&self, world: &World, key: &RunKey, change: &TaskTransition) {
        let id = &change.to.task;
        let satisfied =
            rules::edges_satisfied(&self.spec, self.spec.task(id).expect("a task"), |id| {
                self.status(id)
            });

        let wanted = match (change.from, change.to.state) {
            (TaskState::Pending, TaskState::Starting) => Some(true),
            (TaskState::Pending, TaskState::Complete(TaskStatus::Skipped)) => Some(false),
            _ => return,
        };

        world.check(satisfied == wanted, || {
            format!(
                "`{key}/{id}` became {:?}, and whether its edges are satisfied is {satisfied:?}",
                change.to.state
            )
        });
    }

    fn take(&mut self, change: &TaskTransition, now: Timestamp) {
        let task = self.tasks.get_mut(&change.to.task).expect("it was found");
        let attempt = change.from_attempt;
        if change.to.state == TaskState::Starting && change.from == TaskState::Pending {
            let at = change.to.intended_at.unwrap_or_default();
            task.intents.insert(
                attempt,
                Intent { at, running_at: None, stop: None, ended: false, ended_at: None },
            );
        }

        if let Some(intent) = task.intents.get_mut(&attempt) {
            if change.to.attempt == attempt {
                intent.running_at = change
                    .to
                    .started_at
                    .filter(|_| change.to.state == TaskState::Running)
                    .or(intent.running_at);
                if change.to.state.is_active() {
                    intent.stop.clone_from(&change.to.stop);
                }
            }

            intent.ended |= change.ended.is_some();
            intent.ended_at = intent.ended_at.or(change.ended.is_some().then_some(now));
        }

        (task.state, task.attempt) = (change.to.state, change.to.attempt);
    }

    fn completes(&mut self, world: &World, key: &RunKey, change: &RunTransition, unaware: i64) {
        world.check(self.state == change.from, || {
            format!("run `{key}` ended from {:?} and was {:?}", change.from, self.state)
        });

        let open: Vec<&TaskId> = self
            .tasks
            .iter()
            .filter(|(_, task)| !task.state.is_complete())
            .map(|(id, _)| id)
            .collect();

        world.check(open.is_empty(), || format!("run `{key}` ended before its tasks {open:?}"));
        self.state = change.to;
        if !open.is_empty() {
            return;
        }

        let verdict = RunState::Complete(rules::verdict(&self.spec, |id| {
            self.status(id).expect("it is complete")
        }));

        let allowed = match change.to {
            RunState::Complete(RunStatus::Cancelled) => self.cancel.is_some(),
            _ => change.to == verdict && !is_late(self.cancel_acknowledged, change.at, unaware),
        };

        world.check(allowed, || {
            let cancel = (self.cancel, self.cancel_acknowledged);
            format!(
                "run `{key}` ended {:?}; by its tasks it should be {verdict:?}; cancel {cancel:?}",
                change.to
            )
        });
    }
}

/// Whether a decision should have known of a cancel.
fn is_late(acknowledged: Option<Timestamp>, decided: Timestamp, unaware: i64) -> bool {
    acknowledged.is_some_and(|known| decided.0 > known.0 + unaware)
}
