//! Runs and task runs: their states, which state may follow which, and why they ended as they did.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::id::{Attempt, RunKey, RunNumber, TaskId, Version};
use crate::time::Timestamp;

/// One execution of one pipeline version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Which run.
    pub key: RunKey,
    /// The pipeline version it executes.
    pub version: Version,
    /// Where it stands.
    pub state: RunState,
    /// Why it stands there, when that needs saying.
    pub reason: Option<Reason>,
    /// Who or what started it.
    pub initiator: Initiator,
    /// The trigger's and the run's own variables, merged.
    pub variables: BTreeMap<String, String>,
    /// The run this one repeats.
    pub retry_of: Option<RunNumber>,
    /// Somebody asked that it be cancelled.
    pub cancel: Option<CancelRequest>,
    /// What the run's API token is derived from; worthless without the server's key.
    pub token_nonce: [u8; 16],
    /// When it was committed.
    pub created_at: Timestamp,
    /// When it left the queue.
    pub started_at: Option<Timestamp>,
    /// When it completed.
    pub ended_at: Option<Timestamp>,
}

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state", content = "status")]
pub enum RunState {
    /// Committed, waiting in its pipeline's queue.
    Pending,
    /// Admitted; its tasks are being executed.
    Running,
    /// Over, for good.
    Complete(RunStatus),
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunStatus {
    /// No task failed, or every failure was handled.
    Successful,
    /// A task failed and nothing handled it.
    Failed,
    /// It was cancelled, or skipped because others were active.
    Cancelled,
}

impl RunState {
    /// Whether the state machine of design.md section 4 allows this step.
    #[must_use]
    pub fn may_become(self, next: Self) -> bool {
        matches!(
            (self, next),
            (Self::Pending, Self::Running | Self::Complete(RunStatus::Cancelled))
                | (Self::Running, Self::Complete(_))
        )
    }

    /// Whether it is over.
    #[must_use]
    pub fn is_complete(self) -> bool {
        matches!(self, Self::Complete(_))
    }
}

/// One task inside one run, as its current (or last) attempt stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskRun {
    /// Which task.
    pub task: TaskId,
    /// Where it stands.
    pub state: TaskState,
    /// The current or last attempt.
    pub attempt: Attempt,
    /// How many attempts were lost by the infrastructure; they do not count against the user's
    /// retries.
    pub losses: u32,
    /// Why it stands there, when that needs saying.
    pub reason: Option<Reason>,
    /// The process's exit code, once it ended by itself.
    pub exit_code: Option<i32>,
    /// While pending after a retry: not to be started before.
    pub not_before: Option<Timestamp>,
    /// When the current attempt's intent was committed.
    pub intended_at: Option<Timestamp>,
    /// When the current attempt began to run, by its own clock; when that was noticed, where the
    /// scheduler does not know.
    pub started_at: Option<Timestamp>,
    /// When the task completed.
    pub ended_at: Option<Timestamp>,
    /// Somebody asked that this task be cancelled, whatever attempt it is at.
    pub cancel: Option<CancelRequest>,
    /// The engine has decided to stop the current attempt.
    pub stop: Option<StopRequest>,
    /// In which incarnation of the scheduler the current attempt was intended, see
    /// [`Scheduler::incarnation`](crate::scheduler::Scheduler::incarnation).
    #[serde(default)]
    pub incarnation: u64,
}

impl TaskRun {
    /// A task nothing has happened to yet.
    #[must_use]
    pub fn pending(task: TaskId) -> Self {
        Self {
            task,
            state: TaskState::Pending,
            attempt: Attempt::FIRST,
            losses: 0,
            reason: None,
            exit_code: None,
            not_before: None,
            intended_at: None,
            started_at: None,
            ended_at: None,
            cancel: None,
            stop: None,
            incarnation: 0,
        }
    }
}

/// Where a task run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state", content = "status")]
pub enum TaskState {
    /// Waits for its parents, or for its next attempt.
    Pending,
    /// The intent to start this attempt is committed; the scheduler may or may not know of it yet.
    Starting,
    /// The scheduler reported it running.
    Running,
    /// Over, for good.
    Complete(TaskStatus),
}

/// How a task run, or one attempt of it, ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskStatus {
    /// Exit code 0.
    Successful,
    /// Another exit code, a signal, or it could not be started.
    Failed,
    /// Somebody cancelled it or its run.
    Cancelled,
    /// Its parents did not end as its edges ask.
    Skipped,
    /// It ran, or waited to start, longer than allowed.
    TimedOut,
}

impl TaskStatus {
    /// Whether a `failure` edge counts this as a failure.
    #[must_use]
    pub fn is_failure(self) -> bool {
        matches!(self, Self::Failed | Self::TimedOut | Self::Cancelled)
    }
}

impl TaskState {
    /// Whether the state machine of design.md section 4 allows this step. `Pending` follows
    /// `Starting` and `Running` only with the next attempt.
    #[must_use]
    pub fn may_become(self, next: Self) -> bool {
        use TaskStatus::{Cancelled, Skipped};
        match (self, next) {
            (Self::Pending, Self::Starting | Self::Complete(Cancelled | Skipped))
            | (Self::Starting, Self::Starting | Self::Running | Self::Pending)
            | (Self::Running, Self::Running | Self::Pending) => true,
            (Self::Starting | Self::Running, Self::Complete(status)) => status != Skipped,
            _ => false,
        }
    }

    /// Whether it is over.
    #[must_use]
    pub fn is_complete(self) -> bool {
        matches!(self, Self::Complete(_))
    }

    /// Whether an execution may exist at the scheduler.
    #[must_use]
    pub fn is_active(self) -> bool {
        matches!(self, Self::Starting | Self::Running)
    }

    /// How it ended.
    #[must_use]
    pub fn status(self) -> Option<TaskStatus> {
        match self {
            Self::Complete(status) => Some(status),
            _ => None,
        }
    }
}

/// One finished attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptRecord {
    /// Which attempt.
    pub attempt: Attempt,
    /// How it ended.
    pub status: TaskStatus,
    /// Why.
    pub reason: Option<Reason>,
    /// The process's exit code, if it ended by itself.
    pub exit_code: Option<i32>,
    /// When its intent was committed.
    pub intended_at: Timestamp,
    /// When it began to run, likewise.
    pub started_at: Option<Timestamp>,
    /// When it ended, by its own clock; when that was noticed, where the scheduler does not know.
    pub ended_at: Timestamp,
    /// Where its log is.
    pub log: LogState,
}

/// Where an attempt's log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogState {
    /// At the scheduler; to be archived.
    Live,
    /// It ended without a byte of output, and the scheduler may have forgotten it since; it becomes
    /// [`LogState::Empty`]. Without this step, a log that was empty could not be told from one that
    /// was lost, after a crash in between.
    EmptyUnsettled,
    /// In the object store, compressed and masked.
    Archived,
    /// It ended without a byte of output; there is nothing to archive.
    Empty,
    /// Deleted by retention.
    Expired,
    /// The scheduler no longer had it.
    Lost,
}

impl LogState {
    /// Whether something is left to do: to archive the log, or to let the scheduler forget the
    /// execution.
    #[must_use]
    pub fn is_unsettled(self) -> bool {
        matches!(self, Self::Live | Self::EmptyUnsettled)
    }
}

/// Why the engine stops an attempt, and since when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopRequest {
    /// What made it.
    pub cause: StopCause,
    /// When.
    pub at: Timestamp,
    /// Time between asking and killing.
    pub grace_ms: u64,
}

impl StopRequest {
    /// Time between asking and killing.
    #[must_use]
    pub fn grace(&self) -> Duration {
        Duration::from_millis(self.grace_ms)
    }
}

/// What makes the engine stop an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopCause {
    /// The run, or this task of it, was cancelled.
    Cancel,
    /// It ran longer than `timeout`.
    Timeout,
    /// It waited longer than `start_timeout`.
    StartTimeout,
}

/// A cancel request, of a run or a task run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CancelRequest {
    /// When it was made.
    pub at: Timestamp,
    /// Who made it.
    pub by: String,
    /// Kill at once instead of asking first.
    pub force: bool,
    /// In the words of who made it; may be empty.
    pub message: String,
}

/// Who or what started a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", content = "name")]
pub enum Initiator {
    /// Somebody with this token (its id, or `dev` in dev mode).
    Token(String),
    /// A trigger's subscription, as `trigger/subscription`.
    Trigger(String),
}

impl Initiator {
    /// Its name, as the actor of what it does.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Token(name) | Self::Trigger(name) => name,
        }
    }
}

/// Why something stands as it does: a stable kind to act on and a text for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// Stable, for programs.
    pub kind: ReasonKind,
    /// For people; never holds a secret.
    pub message: String,
}

impl Reason {
    /// A reason.
    pub fn new(kind: ReasonKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// The stable part of a [`Reason`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReasonKind {
    /// The process ended with another exit code than 0.
    ExitCode,
    /// A signal ended the process.
    Signal,
    /// The kernel killed it for want of memory.
    OutOfMemory,
    /// The command does not exist or cannot be executed.
    CommandNotFound,
    /// The image cannot be had.
    ImageUnavailable,
    /// The scheduler refuses the execution or failed to set it up.
    SchedulerRefused,
    /// A secret or object that a variable names is missing or may not be read.
    MissingValue,
    /// The infrastructure lost it.
    Lost,
    /// It ran longer than `timeout`.
    Timeout,
    /// It waited longer than `start_timeout`.
    StartTimeout,
    /// Somebody cancelled it.
    Cancelled,
    /// Stopped by somebody at the scheduler, not by Gofer.
    StoppedOutside,
    /// A parent did not end as the edge asks.
    ParentUnsatisfied,
    /// Other runs were active and the pipeline's `overlap` is `skip`.
    OverlapSkipped,
    /// A newer run of a pipeline with `overlap: cancel_running` took its place.
    Superseded,
    /// The task ended successfully in the run that this one repeats.
    Reused,
    /// One or more tasks failed and nothing handled it.
    TasksFailed,
    /// Waiting in the scheduler's queue, for the reason given.
    Queued,
    /// Waiting in Gofer, for the reason given.
    Waiting,
    /// Gofer cannot do this yet, or not with this configuration.
    Unsupported,
}

macro_rules! stable_names {
    ($type:ident { $($variant:ident = $name:literal),+ $(,)? }) => {
        impl $type {
            /// The stable name, as the database and the wire have it.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }

            /// The value of a stable name.
            #[must_use]
            pub fn parse(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$variant),)+ _ => None }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

stable_names!(RunStatus { Successful = "successful", Failed = "failed", Cancelled = "cancelled" });
stable_names!(TaskStatus {
    Successful = "successful", Failed = "failed", Cancelled = "cancelled", Skipped = "skipped", TimedOut = "timed_out",
});
stable_names!(LogState {
    Live = "live",
    EmptyUnsettled = "empty_unsettled",
    Archived = "archived",
    Empty = "empty",
    Expired = "expired",
    Lost = "lost",
});
stable_names!(StopCause { Cancel = "cancel", Timeout = "timeout", StartTimeout = "start_timeout" });
stable_names!(ReasonKind {
    ExitCode = "exit_code", Signal = "signal", OutOfMemory = "out_of_memory", CommandNotFound = "command_not_found",
    ImageUnavailable = "image_unavailable", SchedulerRefused = "scheduler_refused", MissingValue = "missing_value",
    Lost = "lost", Timeout = "timeout", StartTimeout = "start_timeout", Cancelled = "cancelled",
    StoppedOutside = "stopped_outside", ParentUnsatisfied = "parent_unsatisfied", OverlapSkipped = "overlap_skipped",
    Superseded = "superseded", Reused = "reused", TasksFailed = "tasks_failed", Queued = "queued",
    Waiting = "waiting", Unsupported = "unsupported",
});

impl RunState {
    /// The stable name of the state without its status.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Complete(_) => "complete",
        }
    }

    /// How it ended.
    #[must_use]
    pub fn status(self) -> Option<RunStatus> {
        match self {
            Self::Complete(status) => Some(status),
            _ => None,
        }
    }

    /// The state of a stable name and, when complete, a status.
    #[must_use]
    pub fn parse(name: &str, status: Option<RunStatus>) -> Option<Self> {
        match (name, status) {
            ("pending", None) => Some(Self::Pending),
            ("running", None) => Some(Self::Running),
            ("complete", Some(status)) => Some(Self::Complete(status)),
            _ => None,
        }
    }
}

impl TaskState {
    /// The stable name of the state without its status.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Complete(_) => "complete",
        }
    }

    /// The state of a stable name and, when complete, a status.
    #[must_use]
    pub fn parse(name: &str, status: Option<TaskStatus>) -> Option<Self> {
        match (name, status) {
            ("pending", None) => Some(Self::Pending),
            ("starting", None) => Some(Self::Starting),
            ("running", None) => Some(Self::Running),
            ("complete", Some(status)) => Some(Self::Complete(status)),
            _ => None,
        }
    }
}
