//! Runs.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;

use super::{Claim, JournalError, Lease};
use crate::event::NewEvent;
use crate::id::{Attempt, NamespaceId, PipelineId, RunKey, RunNumber, TaskId, Version};
use crate::pipeline::PipelineSpec;
use crate::run::{
    AttemptRecord, CancelRequest, Initiator, Reason, Run, RunState, TaskRun, TaskState,
};
use crate::time::Timestamp;

/// Runs: how one comes in, what it is, and how it changes.
#[async_trait]
pub trait Runs: Debug + Send + Sync + 'static {
    /// Commits a run: takes the pipeline's next run number, applies its `overlap`, inserts one task
    /// run per task, and the `run_created` event. A repeated idempotency key changes nothing and
    /// returns the run of the first call.
    ///
    /// The rules and the words of both are those of [`admission`](crate::admission). With
    /// `overlap: skip` and no room the run is inserted complete (cancelled, `overlap_skipped`) with
    /// both events. With `cancel_running` the oldest active runs get a cancel request before the
    /// new one is created, and are returned. `overlap` and `parallelism` are those of the
    /// pipeline's latest version; of two runs the one that was inserted first is the older.
    ///
    /// A disabled pipeline takes no run, whatever the version.
    ///
    /// Variables that [`run_variables::check`](crate::run_variables::check) refuses for the version
    /// are refused here, where no newer version can come between.
    ///
    /// A run that its namespace's quotas have no room for is refused, and nothing changes: of runs
    /// and their bytes per minute, and of pending runs unless it is claimed at once. However many
    /// are inserted at once, no quota is exceeded.
    async fn insert_run(&self, new: NewRun) -> Result<Inserted, JournalError>;

    /// The run, its spec and its task runs; `NotFound` when there is no such run.
    async fn load(&self, key: &RunKey) -> Result<RunSnapshot, JournalError>;

    /// Applies commits in one transaction, each whole or not at all, and answers for each in order.
    /// The stored `cancel` of a task run is never changed by a commit, only by
    /// [`request_cancel`](Self::request_cancel).
    async fn commit(&self, commits: Vec<Commit>) -> Result<Vec<Committed>, JournalError>;

    /// Records a cancel request of a run, or of one task of it, with its event, whoever holds the run's
    /// lease; [`load`](Self::load) shows it. The first request stays, but `force` is added to it. Returns
    /// whether anything changed; a complete run (or task run) is left alone.
    async fn request_cancel(
        &self,
        key: &RunKey,
        task: Option<&TaskId>,
        request: CancelRequest,
    ) -> Result<bool, JournalError>;
}

/// A run to be committed.
#[derive(Debug, Clone)]
pub struct NewRun {
    /// Whose.
    pub namespace: NamespaceId,
    /// Of which pipeline.
    pub pipeline: PipelineId,
    /// Of which version; `None` is the latest.
    pub version: Option<Version>,
    /// The trigger's and the run's own variables, merged.
    pub variables: BTreeMap<String, String>,
    /// Who or what starts it; also the actor of its event.
    pub initiator: Initiator,
    /// The run it repeats.
    pub retry_of: Option<RunNumber>,
    /// Tasks that are inserted complete (successful, `reused`), because they ended so in
    /// `retry_of`.
    pub reused: Vec<TaskId>,
    /// Chosen by the caller; the same key of the same pipeline never makes a second run.
    pub idempotency_key: Option<String>,
    /// See [`Run::token_nonce`].
    pub token_nonce: [u8; 16],
    /// SHA-256 of the run's API token: what a request's token is looked up by while the run is not
    /// complete.
    pub token_hash: [u8; 32],
    /// Now.
    pub at: Timestamp,
    /// Who drives the run at once, if its turn has come: its pipeline has room, and none of its
    /// runs is pending, not even one that is to be cancelled. Not for a run that repeats another.
    pub claim: Option<Claim>,
}

/// What became of a [`NewRun`].
#[derive(Debug, Clone)]
pub struct Inserted {
    /// The run, as committed.
    pub run: Run,
    /// `false`: the idempotency key was known, and this is the first call's run.
    pub new: bool,
    /// Runs that got a cancel request to make room.
    pub superseded: Vec<RunKey>,
    /// The lease, if it was claimed at once, and the run as it stood then, before its
    /// [`Claim::first`].
    pub claimed: Option<(Lease, RunSnapshot)>,
}

/// All the engine knows of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct RunSnapshot {
    /// The run.
    pub run: Run,
    /// Its pipeline version's spec.
    pub spec: Arc<PipelineSpec>,
    /// One per task of the spec.
    pub tasks: BTreeMap<TaskId, TaskRun>,
}

/// Changes of one run that become true together.
#[derive(Debug, Clone)]
pub struct Commit {
    /// With what right.
    pub lease: Lease,
    /// Task runs that change.
    pub tasks: Vec<TaskTransition>,
    /// The run's own change.
    pub run: Option<RunTransition>,
    /// What to record.
    pub events: Vec<NewEvent>,
}

/// A task run's change: compare, then set.
#[derive(Debug, Clone)]
pub struct TaskTransition {
    /// The state it must be in.
    pub from: TaskState,
    /// The attempt it must be at.
    pub from_attempt: Attempt,
    /// What it becomes, whole.
    pub to: TaskRun,
    /// The attempt that ended with this change.
    pub ended: Option<AttemptRecord>,
}

/// A run's change: compare, then set.
#[derive(Debug, Clone)]
pub struct RunTransition {
    /// The state it must be in.
    pub from: RunState,
    /// What it becomes.
    pub to: RunState,
    /// Why.
    pub reason: Option<Reason>,
    /// When.
    pub at: Timestamp,
}

/// What became of a [`Commit`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Committed {
    /// It is true and durable.
    Done,
    /// Nothing changed: the lease is no longer held. Stop working on this run.
    Fenced,
    /// Nothing changed: the stored state was not `from`, or the state machine has no such step.
    Conflict,
}
