//! Which runs come in, and whose turn it is: the rules of `overlap`, of room, and of fairness.
//!
//! They are pure: no storage, no clock, no waiting. A journal counts under its lock, asks here, and
//! writes what it is told, so that two journals differ in where things lie and not in what happens
//! or in the words that say it.

use std::collections::BTreeMap;

use crate::event::{ACTOR, EventDetails, NewEvent, Subject};
use crate::id::{NamespaceId, RunKey, RunNumber, TaskId, Version};
use crate::journal::NewRun;
use crate::pipeline::Overlap;
use crate::run::{
    CancelRequest, Reason, ReasonKind, Run, RunState, RunStatus, TaskRun, TaskState, TaskStatus,
};
use crate::time::Timestamp;

/// A run of a pipeline that is not complete; one that waits is active, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ActiveRun {
    /// Its number.
    pub run: RunNumber,
    /// A request to cancel it is recorded, so that it makes room already.
    pub cancelling: bool,
}

/// What a pipeline's `overlap` makes of a new run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// It waits for its turn.
    Queue,
    /// There is no room: it is inserted complete, for this reason.
    Skip(Reason),
    /// It waits for its turn, and these runs are cancelled for it.
    Supersede(Vec<RunNumber>),
}

/// How many runs of a pipeline may be active before its `overlap` acts. `None` when it never does:
/// then no run needs to be counted.
#[must_use]
pub fn active_limit(policy: Overlap, parallelism: Option<usize>) -> Option<usize> {
    match policy {
        Overlap::Queue => None,
        Overlap::Skip | Overlap::CancelRunning => parallelism,
    }
}

/// Applies `overlap` to a new run of a pipeline with these active runs, oldest first. Policy and
/// parallelism are those of the pipeline's latest version.
#[must_use]
pub fn overlap(policy: Overlap, parallelism: Option<usize>, active: &[ActiveRun]) -> Admission {
    let Some(limit) = active_limit(policy, parallelism) else { return Admission::Queue };

    if policy == Overlap::Skip {
        return if active.len() < limit {
            Admission::Queue
        } else {
            Admission::Skip(overlap_skipped(active.len(), limit))
        };
    }

    let staying: Vec<RunNumber> =
        active.iter().filter(|other| !other.cancelling).map(|other| other.run).collect();
    let too_many = (staying.len() + 1).saturating_sub(limit).min(staying.len());

    if too_many == 0 {
        Admission::Queue
    } else {
        Admission::Supersede(staying[..too_many].to_vec())
    }
}

fn overlap_skipped(active: usize, parallelism: usize) -> Reason {
    let message =
        format!("{active} runs of this pipeline were active, and its parallelism is {parallelism}");
    Reason::new(ReasonKind::OverlapSkipped, message)
}

/// Whether a pipeline with this many running runs may start one more.
#[must_use]
pub fn has_room(parallelism: Option<usize>, running: usize) -> bool {
    parallelism.is_none_or(|limit| running < limit)
}

impl Run {
    /// A run as it is inserted: pending, or complete where `overlap` skips it.
    #[must_use]
    pub fn created(new: &NewRun, key: RunKey, version: Version, skipped: Option<Reason>) -> Self {
        let complete = RunState::Complete(RunStatus::Cancelled);
        Self {
            key,
            version,
            state: if skipped.is_some() { complete } else { RunState::Pending },
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

    /// A task of this run to which nothing has happened. It is pending; only a run that was skipped
    /// ends without having touched its tasks, and those ended with it.
    #[must_use]
    pub fn untouched_task(&self, task: TaskId) -> TaskRun {
        let pending = TaskRun::pending(task);
        if !self.state.is_complete() {
            return pending;
        }

        let state = TaskState::Complete(TaskStatus::Cancelled);
        TaskRun { state, reason: self.reason.clone(), ended_at: self.ended_at, ..pending }
    }
}

impl TaskRun {
    /// A task that need not run again, since it was successful in the run that is repeated.
    #[must_use]
    pub fn reused(task: TaskId, repeated: RunNumber, at: Timestamp) -> Self {
        let message = format!("ended successfully in run {repeated}");
        Self {
            state: TaskState::Complete(TaskStatus::Successful),
            reason: Some(Reason::new(ReasonKind::Reused, message)),
            ended_at: Some(at),
            ..Self::pending(task)
        }
    }
}

impl CancelRequest {
    /// Gofer's own request to cancel a run, to make room for a newer one.
    #[must_use]
    pub fn superseded(newer: RunNumber, at: Timestamp) -> Self {
        let message = format!("superseded by run {newer}");
        Self { at, by: ACTOR.to_owned(), force: false, message }
    }
}

/// The events of a run as it is inserted, in order.
#[must_use]
pub fn created_events(new: &NewRun, run: &Run) -> Vec<NewEvent> {
    let event = |actor: &str, details| NewEvent {
        at: new.at,
        actor: actor.to_owned(),
        subject: Subject::of_run(&run.key),
        details,
    };

    let created = EventDetails::RunCreated {
        version: run.version,
        initiator: new.initiator.clone(),
        retry_of: new.retry_of,
    };
    let mut events = vec![event(new.initiator.name(), created)];

    if let RunState::Complete(status) = run.state {
        let completed = EventDetails::RunCompleted { status, reason: run.reason.clone() };
        events.push(event(ACTOR, completed));
    }

    events
}

/// Whose turn it is: the smallest goes next. It is the one whose namespace has the fewest, of those
/// the one whose pipeline has the fewest, of those the one that has waited longest. So a long queue
/// of one pipeline or namespace delays no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FairOrder<W> {
    /// How many its namespace has.
    pub of_namespace: usize,
    /// How many its pipeline has.
    pub of_pipeline: usize,
    /// Since when it waits; the smaller has waited longer.
    pub waits_since: W,
}

/// A pipeline with runs that wait to be claimed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitingPipeline<W> {
    /// Whose it is.
    pub namespace: NamespaceId,
    /// How many of its runs may be running, by its latest version; `None` is no limit.
    pub parallelism: Option<usize>,
    /// How many of its runs are running.
    pub running: usize,
    /// The oldest run that waits; `None` when none is left.
    pub oldest: Option<W>,
}

/// How many runs of a namespace are running, and may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ActiveRuns {
    /// Those that are.
    pub running: usize,
    /// Its quota of active runs.
    pub limit: usize,
}

/// The order in which waiting runs are claimed: by [`FairOrder`], as far as their pipelines' and
/// namespaces' limits allow.
#[derive(Debug, Clone)]
pub struct ClaimOrder<W> {
    /// With the place of each one's namespace.
    pipelines: Vec<(WaitingPipeline<W>, usize)>,
    namespaces: Vec<ActiveRuns>,
}

impl<W: Ord + Copy> ClaimOrder<W> {
    /// Of these pipelines. A namespace that is not named has no limit, and no running runs.
    #[must_use]
    pub fn new(
        pipelines: Vec<WaitingPipeline<W>>,
        active: &BTreeMap<NamespaceId, ActiveRuns>,
    ) -> Self {
        let mut places: BTreeMap<NamespaceId, usize> = BTreeMap::new();
        let mut namespaces = Vec::new();
        let mut place = |namespace: &NamespaceId| {
            *places.entry(namespace.clone()).or_insert_with(|| {
                let unknown = ActiveRuns { running: 0, limit: usize::MAX };
                namespaces.push(active.get(namespace).copied().unwrap_or(unknown));
                namespaces.len() - 1
            })
        };

        let placed = |pipeline: WaitingPipeline<W>| {
            let at = place(&pipeline.namespace);
            (pipeline, at)
        };
        let pipelines = pipelines.into_iter().map(placed).collect();
        Self { pipelines, namespaces }
    }

    /// The pipeline, by its place, whose oldest waiting run is claimed next; `None` when no run
    /// may be.
    #[must_use]
    pub fn next(&self) -> Option<usize> {
        let turn = |(at, (pipeline, namespace)): (usize, &(WaitingPipeline<W>, usize))| {
            let waits_since = pipeline.oldest?;
            let ActiveRuns { running: of_namespace, limit } = self.namespaces[*namespace];
            let of_pipeline = pipeline.running;
            let may = has_room(pipeline.parallelism, of_pipeline) && of_namespace < limit;
            may.then_some((FairOrder { of_namespace, of_pipeline, waits_since }, at))
        };
        self.pipelines.iter().enumerate().filter_map(turn).min().map(|(_, at)| at)
    }

    /// Notes that the oldest waiting run of the pipeline at this place was claimed, and which one
    /// waits behind it.
    pub fn claimed(&mut self, at: usize, behind: Option<W>) {
        let (pipeline, namespace) = &mut self.pipelines[at];
        pipeline.oldest = behind;
        pipeline.running += 1;
        self.namespaces[*namespace].running += 1;
    }
}
