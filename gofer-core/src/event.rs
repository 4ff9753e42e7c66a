//! Events: immutable, numbered records of what happened.

use serde::{Deserialize, Serialize};

use crate::entity::TokenKind;
use crate::id::{
    Attempt, ExecutionId, NamespaceId, PipelineId, RunKey, RunNumber, TaskId, Version,
};
use crate::quota::QuotaKind;
use crate::run::{Initiator, Reason, RunStatus, TaskStatus};
use crate::time::Timestamp;

/// The actor of what Gofer does unasked.
pub const ACTOR: &str = "gofer";

/// A record of something that happened. Ids are gapless and in commit order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Counts up from 1, without gaps.
    pub id: u64,
    /// What happened, and to whom.
    #[serde(flatten)]
    pub body: NewEvent,
}

/// An event that has no number yet; it gets one in the transaction that makes it true.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewEvent {
    /// When it happened.
    pub at: Timestamp,
    /// Who did it: a token's id, `dev`, `run:<key>`, or `gofer` for the engine itself.
    pub actor: String,
    /// What it is about.
    pub subject: Subject,
    /// What happened.
    pub details: EventDetails,
}

/// What an event is about; as much of the path as applies.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Subject {
    /// The namespace.
    pub namespace: Option<NamespaceId>,
    /// The pipeline.
    pub pipeline: Option<PipelineId>,
    /// The run.
    pub run: Option<RunNumber>,
    /// The task.
    pub task: Option<TaskId>,
    /// The attempt.
    pub attempt: Option<Attempt>,
}

impl Subject {
    /// A run.
    #[must_use]
    pub fn of_run(run: &RunKey) -> Self {
        let (namespace, pipeline) = (Some(run.namespace.clone()), Some(run.pipeline.clone()));
        Self { namespace, pipeline, run: Some(run.run), task: None, attempt: None }
    }

    /// A task of a run, or the run itself.
    #[must_use]
    pub fn of_task(run: &RunKey, task: Option<&TaskId>) -> Self {
        Self { task: task.cloned(), ..Self::of_run(run) }
    }

    /// An attempt of a task.
    #[must_use]
    pub fn of_execution(id: &ExecutionId) -> Self {
        Self { attempt: Some(id.attempt), ..Self::of_task(&id.run, Some(&id.task)) }
    }

    /// The run it is about, or that its task belongs to.
    #[must_use]
    pub fn run_key(&self) -> Option<RunKey> {
        let (namespace, pipeline) = (self.namespace.clone()?, self.pipeline.clone()?);
        Some(RunKey { namespace, pipeline, run: self.run? })
    }
}

/// What happened. Serialized with its stable name under `type`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[expect(
    missing_docs,
    reason = "the variants are what the wire contract documents; proto/gofer/v1/event.proto"
)]
pub enum EventDetails {
    ServerStarted {
        server_id: String,
        version: String,
    },
    NamespaceCreated {
        description: String,
    },
    NamespaceUpdated {
        description: String,
    },
    NamespaceDeleted {},
    NamespaceQuotaUpdated {
        quota: QuotaKind,
        /// `None`: the default counts again.
        limit: Option<u64>,
    },
    PipelineRegistered {
        version: Version,
        digest: String,
    },
    PipelineEnabled {},
    PipelineDisabled {},
    PipelineDeleted {},
    PipelineVersionsExpired {
        count: u64,
        last: Version,
    },
    RunCreated {
        version: Version,
        initiator: Initiator,
        retry_of: Option<RunNumber>,
    },
    RunStarted {},
    RunCancelRequested {
        force: bool,
        message: String,
    },
    RunCompleted {
        status: RunStatus,
        reason: Option<Reason>,
    },
    TaskRunStarting {},
    TaskRunWaiting {
        reason: Reason,
    },
    TaskRunSlotAcquired {},
    TaskRunRunning {},
    TaskRunStopRequested {
        reason: Reason,
    },
    TaskRunCancelRequested {
        force: bool,
        message: String,
    },
    TaskRunExecRequested {
        command: String,
        terminal: bool,
    },
    TaskRunRetryScheduled {
        status: TaskStatus,
        reason: Option<Reason>,
        exit_code: Option<i32>,
        next_attempt: Attempt,
        not_before: Timestamp,
    },
    TaskRunCompleted {
        status: TaskStatus,
        reason: Option<Reason>,
        exit_code: Option<i32>,
    },
    LogArchived {
        size_bytes: u64,
    },
    LogExpired {},
    ObjectPut {
        key: String,
        size_bytes: u64,
        sha256: String,
    },
    ObjectDeleted {
        key: String,
    },
    ObjectEvicted {
        key: String,
    },
    ObjectUrlIssued {
        key: String,
        upload: bool,
        expires_at: Timestamp,
    },
    RunObjectsExpired {
        count: u64,
    },
    ValueMasked {},
    RunsExpired {
        count: u64,
        last: RunNumber,
    },
    EventsExpired {
        up_to: u64,
    },
    SecretPut {
        key: String,
        allowed_namespaces: Vec<NamespaceId>,
    },
    SecretDeleted {
        key: String,
    },
    TokenCreated {
        token_id: String,
        kind: TokenKind,
        namespaces: Vec<NamespaceId>,
    },
    TokenDisabled {
        token_id: String,
    },
    TokenEnabled {
        token_id: String,
    },
    TokenDeleted {
        token_id: String,
    },
    BootstrapReset {},
}

impl EventDetails {
    /// The stable name, as `type` in the serialized form.
    #[must_use]
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::ServerStarted { .. } => "server_started",
            Self::NamespaceCreated { .. } => "namespace_created",
            Self::NamespaceUpdated { .. } => "namespace_updated",
            Self::NamespaceDeleted {} => "namespace_deleted",
            Self::NamespaceQuotaUpdated { .. } => "namespace_quota_updated",
            Self::PipelineRegistered { .. } => "pipeline_registered",
            Self::PipelineEnabled {} => "pipeline_enabled",
            Self::PipelineDisabled {} => "pipeline_disabled",
            Self::PipelineDeleted {} => "pipeline_deleted",
            Self::PipelineVersionsExpired { .. } => "pipeline_versions_expired",
            Self::RunCreated { .. } => "run_created",
            Self::RunStarted {} => "run_started",
            Self::RunCancelRequested { .. } => "run_cancel_requested",
            Self::RunCompleted { .. } => "run_completed",
            Self::TaskRunStarting {} => "task_run_starting",
            Self::TaskRunWaiting { .. } => "task_run_waiting",
            Self::TaskRunSlotAcquired {} => "task_run_slot_acquired",
            Self::TaskRunRunning {} => "task_run_running",
            Self::TaskRunStopRequested { .. } => "task_run_stop_requested",
            Self::TaskRunCancelRequested { .. } => "task_run_cancel_requested",
            Self::TaskRunExecRequested { .. } => "task_run_exec_requested",
            Self::TaskRunRetryScheduled { .. } => "task_run_retry_scheduled",
            Self::TaskRunCompleted { .. } => "task_run_completed",
            Self::LogArchived { .. } => "log_archived",
            Self::LogExpired {} => "log_expired",
            Self::ObjectPut { .. } => "object_put",
            Self::ObjectDeleted { .. } => "object_deleted",
            Self::ObjectEvicted { .. } => "object_evicted",
            Self::ObjectUrlIssued { .. } => "object_url_issued",
            Self::ValueMasked {} => "value_masked",
            Self::RunObjectsExpired { .. } => "run_objects_expired",
            Self::RunsExpired { .. } => "runs_expired",
            Self::EventsExpired { .. } => "events_expired",
            Self::SecretPut { .. } => "secret_put",
            Self::SecretDeleted { .. } => "secret_deleted",
            Self::TokenCreated { .. } => "token_created",
            Self::TokenDisabled { .. } => "token_disabled",
            Self::TokenEnabled { .. } => "token_enabled",
            Self::TokenDeleted { .. } => "token_deleted",
            Self::BootstrapReset {} => "bootstrap_reset",
        }
    }
}
