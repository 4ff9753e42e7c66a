//! The engine's only door to storage.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};

use crate::entity::{ObjectRecord, ObjectScope, SecretRecord, SecretScope};
use crate::error::BackendError;
use crate::event::{EventDetails, NewEvent};
use crate::id::{
    Attempt, ExecutionId, NamespaceId, ObjectKey, PipelineId, RunKey, RunNumber, SecretPath,
    TaskId, Version,
};
use crate::pipeline::PipelineSpec;
use crate::quota::QuotaExceeded;
use crate::resource::Resource;
use crate::run::{
    AttemptRecord, CancelRequest, Initiator, LogState, Reason, Run, RunState, TaskRun, TaskState,
};
use crate::scheduler::ReportedEnd;
use crate::time::Timestamp;
use crate::validate::Violation;

/// Durable storage of runs.
///
/// Every change is a compare-and-set inside one transaction with its events; when a call returns
/// `Ok`, it is durable. A call whose caller goes away takes effect whole or not at all. Errors are
/// retryable unless their kind says otherwise, and after an error the change may or may not have
/// happened: every call is safe to repeat.
#[async_trait]
pub trait Journal: Debug + Send + Sync + 'static {
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

    /// Takes leases on unfinished runs whose lease nobody holds at `now`, and returns them oldest
    /// first. Each lease has a higher epoch than any before it.
    ///
    /// Running runs are taken first, then pending ones whose cancellation was requested, each
    /// oldest first. Other pending runs are taken only while fewer runs of their pipeline than its
    /// `parallelism` are running, and in the order of [`ClaimOrder`](crate::admission::ClaimOrder):
    /// next is always a run of the namespace with the fewest running runs, of those one of the
    /// pipeline with the fewest, of those the oldest. Taking a pending run makes it `Running` (with
    /// `run_started`). A namespace that has as many running
    /// runs as its quota of active runs waits.
    async fn claim(
        &self,
        owner: &str,
        now: Timestamp,
        ttl: Duration,
        limit: ClaimLimit,
    ) -> Result<Vec<Lease>, JournalError>;

    /// Prolongs every lease of this owner that it still holds to at least `now + ttl`, and returns
    /// how many that are. A lease that ran out but was not taken by anybody is held.
    async fn renew(
        &self,
        owner: &str,
        now: Timestamp,
        ttl: Duration,
    ) -> Result<usize, JournalError>;

    /// Gives up every lease of this owner, and the lead if it has it, so that another may take them
    /// at once.
    async fn release(&self, owner: &str) -> Result<(), JournalError>;

    /// Takes the lead or prolongs it to at least `now + ttl`, and returns whether this owner has
    /// it: the right to do what one server does for all. It is free at first, when it was released,
    /// and when it ran out.
    async fn lead(&self, owner: &str, now: Timestamp, ttl: Duration) -> Result<bool, JournalError>;

    /// A sign of life, good until `now + ttl`: this owner counts as a server until then, or until
    /// it [releases](Self::release) what it holds. Returns what a server has to know of those it
    /// shares with.
    async fn heartbeat(
        &self,
        owner: &str,
        now: Timestamp,
        ttl: Duration,
    ) -> Result<Cluster, JournalError>;

    /// What time it is for everybody who uses this journal, since the clocks of several hosts are
    /// apart; `None` when nobody else can use it, and one's own will do.
    async fn clock(&self) -> Result<Option<Timestamp>, JournalError>;

    /// What others change from now on; and every wish to cancel, also one's own, since a call that
    /// was given up may take effect later. The stream ends when something may have been missed;
    /// whoever follows it then looks at everything, and follows again. A journal that nobody else
    /// can use has a stream that never says anything.
    async fn hints(&self) -> Result<BoxStream<'static, Hint>, JournalError>;

    /// Gives the others a hint that no event does. It may be lost, and a journal that nobody else
    /// can use drops it.
    async fn tell(&self, hint: Hint) -> Result<(), JournalError>;

    /// The run, its spec and its task runs; `NotFound` when there is no such run.
    async fn load(&self, key: &RunKey) -> Result<RunSnapshot, JournalError>;

    /// Applies commits in one transaction, each whole or not at all, and answers for each in order.
    /// The stored `cancel` of a task run is never changed by a commit, only by
    /// [`Journal::request_cancel`].
    async fn commit(&self, commits: Vec<Commit>) -> Result<Vec<Committed>, JournalError>;

    /// Records a wish to cancel a run, or one task of it, with its event, whoever holds the run's
    /// lease; [`Journal::load`] shows it. The first wish stays, but `force` is added to it. Returns
    /// whether anything changed; a complete run (or task run) is left alone.
    async fn request_cancel(
        &self,
        key: &RunKey,
        task: Option<&TaskId>,
        request: CancelRequest,
    ) -> Result<bool, JournalError>;

    /// Attempts that ended before `before` and whose log is [unsettled](LogState::is_unsettled),
    /// oldest first, after `after`.
    async fn live_logs(
        &self,
        before: Timestamp,
        after: Option<ExecutionId>,
        limit: usize,
    ) -> Result<Vec<ExecutionId>, JournalError>;

    /// The log state of a finished attempt; `None` while it has not finished (or never existed).
    async fn log_state(&self, id: &ExecutionId) -> Result<Option<LogState>, JournalError>;

    /// Sets the log state if it is `from`, with its event if one is given; returns whether it was.
    async fn set_log_state(
        &self,
        id: &ExecutionId,
        from: LogState,
        to: LogState,
        event: Option<NewEvent>,
    ) -> Result<bool, JournalError>;

    /// The record of an object.
    async fn object(
        &self,
        scope: &ObjectScope,
        key: &ObjectKey,
    ) -> Result<Option<ObjectRecord>, JournalError>;

    /// The record of a secret. Whoever may read it, and where its value lies, belong together: both
    /// are of one put.
    async fn secret(
        &self,
        scope: &SecretScope,
        key: &str,
    ) -> Result<Option<SecretRecord>, JournalError>;

    /// Records where a value lies that an unfinished run wants masked in its logs, with its event.
    /// A location that is known changes nothing; `NotFound` when there is no such run, or it is
    /// complete; `TooManyMasks` beyond [`MAX_RUN_MASKS`] and [`MAX_RUN_MASK_BYTES`], also of
    /// several at once.
    async fn add_run_mask(&self, mask: RunMask) -> Result<(), JournalError>;

    /// Where the values lie that a run has added to what is masked.
    async fn run_masks(&self, key: &RunKey) -> Result<Vec<SecretPath>, JournalError>;

    /// What retention should delete now, at most `limit` items.
    async fn expirable(
        &self,
        policy: &Retention,
        limit: usize,
    ) -> Result<Vec<Expirable>, JournalError>;

    /// Records that the thing was deleted, with its event.
    async fn expired(&self, what: &Expirable, at: Timestamp) -> Result<(), JournalError>;
}

/// Most values that a run may add to what is masked in its logs.
pub const MAX_RUN_MASKS: usize = 100;
/// Most bytes of them together: each reader of a log holds them in memory.
pub const MAX_RUN_MASK_BYTES: u64 = 256 * 1024;

/// A value that a run adds to what is masked in its logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunMask {
    /// Whose logs.
    pub run: RunKey,
    /// Where the value lies, or is about to.
    pub location: SecretPath,
    /// Its length.
    pub size_bytes: u64,
    /// Who wants it.
    pub actor: String,
    /// Now.
    pub at: Timestamp,
}

/// Why the journal did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The named thing does not exist.
    #[error("{what} `{key}` does not exist")]
    NotFound {
        /// Of which kind.
        what: Resource,
        /// Its name.
        key: String,
    },
    /// The pipeline is disabled.
    #[error("pipeline `{key}` is disabled; enable it with `gofer pipeline enable`")]
    Disabled {
        /// `namespace/pipeline`.
        key: String,
    },
    /// The run's variables are not what its pipeline's version takes.
    #[error("{}", crate::validate::joined(.0))]
    Variables(Vec<Violation>),
    /// The run masks as many values as a run may.
    #[error(transparent)]
    TooManyMasks(#[from] TooManyMasks),
    /// The namespace has as much as it may.
    #[error(transparent)]
    Quota(#[from] QuotaExceeded),
    /// The storage's own error.
    #[error(transparent)]
    Backend(#[from] BackendError),
}

/// A run masks as many values as a run may.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "run `{run}` has {MAX_RUN_MASKS} values to mask, or {MAX_RUN_MASK_BYTES} bytes of them, and \
     may have no more; put secrets into `gofer secret put`"
)]
pub struct TooManyMasks {
    /// Which.
    pub run: RunKey,
}

impl JournalError {
    /// Whether the same call may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Backend(error) if error.is_retryable())
    }
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

/// A wish for a lease.
#[derive(Debug, Clone)]
pub struct Claim {
    /// Whose it will be.
    pub owner: String,
    /// How long, unless it is renewed.
    pub ttl: Duration,
    /// Nothing is claimed if the owner would hold more runs than these, whatever else it takes at
    /// the same time.
    pub most: usize,
    /// What becomes true with it.
    pub first: Option<FirstCommit>,
}

/// Makes the first commit of a run that is claimed as it is inserted, so that both are one
/// transaction. Called inside of it, and again when it is repeated; a commit that does not hold is
/// an error of the insert, which then changed nothing.
#[derive(Clone)]
pub struct FirstCommit(Arc<OfInserted>);

type OfInserted = dyn Fn(&Lease, &RunSnapshot) -> Option<Commit> + Send + Sync;

impl FirstCommit {
    /// From what to do with the lease and the run as it was inserted.
    pub fn new(
        of: impl Fn(&Lease, &RunSnapshot) -> Option<Commit> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(of))
    }

    /// The commit; `None` leaves it at the insert.
    #[must_use]
    pub fn of(&self, lease: &Lease, inserted: &RunSnapshot) -> Option<Commit> {
        (self.0)(lease, inserted)
    }
}

impl Debug for FirstCommit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FirstCommit")
    }
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

/// How many runs to claim at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClaimLimit {
    /// In all.
    pub runs: usize,
    /// Pending ones that are not merely to be cancelled are taken only as long as the owner holds
    /// no more than these.
    pub held: usize,
}

impl From<usize> for ClaimLimit {
    /// So many, whatever their state, and whatever else the owner holds.
    fn from(runs: usize) -> Self {
        Self { runs, held: usize::MAX }
    }
}

/// The right to change a run, until somebody else takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Which run.
    pub run: RunKey,
    /// Grows with each lease of this run; a commit with an older one is refused (fencing).
    pub epoch: u64,
}

/// What the servers of one journal share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// Servers that live, this one included.
    pub servers: usize,
    /// Namespaces that own or may get pipelines: all but a `default` without any.
    pub namespaces: usize,
    /// How many executions of a namespace may be in flight, in all servers together, where it has
    /// no limit of its own.
    pub executions: u64,
    /// The limits of those that have.
    pub executions_of: BTreeMap<NamespaceId, u64>,
}

/// Where to look, because another user of the journal changed something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hint {
    /// There may be something to claim: a run was committed, or one ended and made room.
    Claimable,
    /// A wish to cancel this run, or a task of it, was recorded.
    Cancel(RunKey),
    /// A run added a value to what is masked in its logs. No event tells that, since the value
    /// comes after the event.
    Masked(RunKey),
    /// Something was committed with events.
    Committed,
    /// An execution told its own end to a server that does not drive its run. A report is not the
    /// truth, and is not stored.
    Reported(ExecutionId, ReportedEnd),
}

impl Hint {
    /// What events that were committed together hint at, without repetition.
    #[must_use]
    pub fn of<'a>(events: impl IntoIterator<Item = &'a NewEvent>) -> Vec<Self> {
        let mut hints = Vec::new();
        for event in events {
            let hint = match &event.details {
                EventDetails::RunCreated { .. } | EventDetails::RunCompleted { .. } => {
                    Some(Self::Claimable)
                }
                EventDetails::RunCancelRequested { .. }
                | EventDetails::TaskRunCancelRequested { .. } => {
                    event.subject.run_key().map(Self::Cancel)
                }
                _ => None,
            };
            for hint in hint.into_iter().chain([Self::Committed]) {
                if !hints.contains(&hint) {
                    hints.push(hint);
                }
            }
        }

        hints
    }
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

/// What is kept, and how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retention {
    /// Archived logs of attempts that ended before this are deleted.
    pub logs_before: Timestamp,
    /// Run objects are kept for this many newest runs of a pipeline.
    pub run_objects_keep_runs: u64,
    /// Runs that ended before this are deleted.
    pub runs_before: Timestamp,
    /// Runs are kept for this many newest runs of a pipeline, younger ones included.
    pub keep_runs: u64,
    /// Events from before this are deleted.
    pub events_before: Timestamp,
    /// Versions are kept for this many newest versions of a pipeline, and those that a kept run is
    /// of.
    pub keep_versions: u64,
    /// Uploads by URL are forgotten whose URL ended before this.
    pub uploads_before: Timestamp,
    /// Values of secrets that were written before this and that no record names are deleted.
    pub secret_values_before: Timestamp,
}

/// Something retention should delete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expirable {
    /// An archived log.
    Log(ExecutionId),
    /// One object of a run, at its location in the store.
    RunObject {
        /// The run.
        run: RunKey,
        /// The user's key.
        key: ObjectKey,
        /// Where the bytes lie.
        location: ObjectKey,
    },
    /// Runs of one pipeline that are complete, have neither archived logs nor objects left, and
    /// that no unfinished run repeats. Their numbers are not used again.
    Runs {
        /// The pipeline's namespace.
        namespace: NamespaceId,
        /// The pipeline.
        pipeline: PipelineId,
        /// Which.
        runs: Vec<RunNumber>,
    },
    /// Versions of a pipeline. Those that a run has begun to use meanwhile stay.
    Versions {
        /// The pipeline's namespace.
        namespace: NamespaceId,
        /// The pipeline.
        pipeline: PipelineId,
        /// Which.
        versions: Vec<Version>,
    },
    /// Every event up to this id.
    Events {
        /// Of the last one.
        up_to: u64,
    },
    /// An upload by URL.
    Upload {
        /// Its id.
        id: String,
        /// Where bytes may lie that no record names or ever will; `None` while a record may.
        /// Without it, recording this ends an upload that is open, so that its bytes are named the
        /// next time, and forgets one whose object is there.
        location: Option<ObjectKey>,
    },
    /// A value that was masked in the logs of a run, all of which are archived.
    RunMask {
        /// Where it lies.
        location: SecretPath,
    },
    /// The value of a secret that no record names.
    SecretValue {
        /// Where it lies.
        location: SecretPath,
        /// Whether a put may still be about to name it. If so, recording this refuses that put, so
        /// that the value is named again the next time, to be deleted.
        being_put: bool,
    },
}
