//! The contract of a scheduler backend: where executions run.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use crate::error::{BackendError, ErrorKind};
use crate::id::ExecutionId;
use crate::pipeline::Resources;
use crate::time::Timestamp;

pub use crate::exec::{ExecInput, ExecOutput, ExecRequest, ExecSession, TerminalSize};

/// Runs executions somewhere, and tells truthfully what became of them.
///
/// The caller names every execution and never uses a name twice. An execution outlives the Gofer
/// server: after a restart `state` and `logs` still answer. Every method may be called concurrently
/// and again; none may guess.
#[async_trait]
pub trait Scheduler: Debug + Send + Sync + 'static {
    /// What this backend can do, as far as that is no ability with calls of its own
    /// ([`exec`](Scheduler::exec), [`identities`](Scheduler::identities)). Constant for the life of the value.
    fn capabilities(&self) -> SchedulerCapabilities;

    /// Names the time in which the backend forgets nothing: what was intended in another
    /// incarnation and is `NotFound` now may have been started, and counts as lost. Constant for
    /// the life of the value; one that never forgets has only one.
    fn incarnation(&self) -> u64 {
        0
    }

    /// Proves that the backend can be used, and says in one line what was found, such as
    /// `nomad 2.0.5 at https://…`.
    ///
    /// # Errors
    /// With the next step for an operator in the message.
    async fn check(&self) -> Result<String, BackendError>;

    /// Starts the execution, once. When it returns `Ok`, the execution exists durably.
    ///
    /// `start` on a name that exists does nothing and succeeds, whatever state it is in and
    /// whatever the spec says; two concurrent starts of one name start one execution. A command
    /// that does not exist or an image that cannot be had is not an error of this call: the
    /// execution exists and its `state` is `Failed`.
    ///
    /// # Errors
    /// When the kind is retryable, the execution may or may not exist; the same call again is
    /// always safe.
    async fn start(&self, id: &ExecutionId, spec: &ExecutionSpec) -> Result<(), BackendError>;

    /// Asks the execution to end (SIGTERM or the product's word for it), waits `grace`, then kills
    /// its whole process tree. Returns once the request is durable, without waiting for the end;
    /// the state becomes `Stopped`. A process that had ended before the request reached it is
    /// `Exited`, however close the two were. Stopping what is finished or unknown succeeds. A
    /// second call with a shorter grace hastens.
    ///
    /// # Errors
    /// When the request could not be delivered.
    async fn stop(&self, id: &ExecutionId, grace: Duration) -> Result<(), BackendError>;

    /// What is known of the execution now. A fate that is not known is `Lost`, never guessed; a
    /// name this backend has never seen, or that was removed, is `NotFound`. The times are the
    /// execution's own, however late somebody asks, and stay the same once it has ended.
    ///
    /// # Errors
    /// When the backend cannot answer, which says nothing about the execution.
    async fn state(&self, id: &ExecutionId) -> Result<Observation, BackendError>;

    /// One stream of changes for all executions of this instance, from now on. It may drop or
    /// repeat events; it ends or yields an error when the connection is lost. After every
    /// (re)connect the caller reconciles with `state`: what changed after the stream was handed out
    /// is either on the stream or followed by its end.
    ///
    /// # Errors
    /// When the stream cannot be opened.
    async fn watch(
        &self,
    ) -> Result<BoxStream<'static, Result<WatchEvent, BackendError>>, BackendError>;

    /// The bytes of stdout and stderr, in order per stream, from a position. Where both are one
    /// stream, that is their order, too. Without `follow` the stream ends with what there is now;
    /// with it, it goes on and ends by itself after the execution did and everything was delivered.
    /// Lines of any length and any bytes survive. Logs of an execution that was never seen or was
    /// removed are `NotFound`.
    ///
    /// # Errors
    /// `NotFound`, or when the backend cannot answer.
    async fn logs(
        &self,
        id: &ExecutionId,
        from: LogCursor,
        follow: bool,
    ) -> Result<BoxStream<'static, Result<LogChunk, BackendError>>, BackendError>;

    /// Forgets a finished execution and frees what the backend keeps of it, its logs included.
    /// Afterwards its state is `NotFound`. Removing what is unknown succeeds; removing what has not
    /// finished is `Invalid` and changes nothing.
    ///
    /// # Errors
    /// `Invalid`, or when the backend cannot answer.
    async fn remove(&self, id: &ExecutionId) -> Result<(), BackendError>;

    /// What runs commands in running executions; `None` where the product cannot. Constant for the
    /// life of the value.
    fn exec(&self) -> Option<&dyn ExecSupport> {
        None
    }

    /// What knows the tokens that the backend gives its executions; `None` where it gives none.
    /// Where there is one, each execution gets a token of its own as `GOFER_API_TOKEN`, and nobody
    /// needs to hand it one. Constant for the life of the value.
    fn identities(&self) -> Option<&dyn WorkloadIdentity> {
        None
    }
}

impl dyn Scheduler {
    /// [`exec`](Scheduler::exec), for those who cannot do without.
    ///
    /// # Errors
    /// `Unsupported` where there is none.
    pub fn require_exec(&self) -> Result<&dyn ExecSupport, BackendError> {
        let message = "this scheduler cannot run a command in a running execution";
        self.exec().ok_or_else(|| BackendError::new(ErrorKind::Unsupported, message))
    }

    /// [`identities`](Scheduler::identities), for those who were shown a token.
    ///
    /// # Errors
    /// `NotFound` where there are none: then no token names an execution.
    pub fn require_identities(&self) -> Result<&dyn WorkloadIdentity, BackendError> {
        let message = "this scheduler gives its executions no tokens";
        self.identities().ok_or_else(|| BackendError::new(ErrorKind::NotFound, message))
    }
}

/// Runs commands in running executions.
#[async_trait]
pub trait ExecSupport: Debug + Send + Sync + 'static {
    /// Runs a command in a running execution, beside its own: with the same environment, working
    /// directory and limits. The answer comes once the command runs. The execution itself goes on
    /// as if nothing had been: its log, its state and its exit are its own command's. However the
    /// session ends (the command exits, the session is dropped, the execution ends, the server
    /// dies), no process of it is left. Both directions apply back-pressure.
    ///
    /// # Errors
    /// `NotFound` for an execution that was never seen or was removed; `Invalid` for one that does
    /// not run (yet, or any more), for a bad request, or for a command that cannot be run; `Denied`
    /// when the backend does not let Gofer do this.
    async fn open_session(
        &self,
        id: &ExecutionId,
        request: ExecRequest,
    ) -> Result<ExecSession, BackendError>;
}

/// Gives each execution a token of its own, and knows whose a token is.
#[async_trait]
pub trait WorkloadIdentity: Debug + Send + Sync + 'static {
    /// Which execution was given this token by the backend itself, and is not over: the backend
    /// proved who made the token, for whom, and that it has not expired.
    ///
    /// # Errors
    /// `NotFound`, with the reason, for a token that names no living execution of this instance; or
    /// when the backend cannot answer. Never with the token.
    async fn identify(&self, token: &SecretString) -> Result<ExecutionId, BackendError>;

    /// An execution tells its own end, by the token that the backend gave it, before the backend
    /// does. From then on `state` and `watch` say so; `logs` with `follow` still end with the whole
    /// log, and a report is forgotten with the value: the backend's own word comes in any case. The
    /// same report again succeeds. Returns whose end it is.
    ///
    /// # Errors
    /// `NotFound` as for `identify`; `Invalid` for an end that what the backend knows contradicts:
    /// it ended otherwise, was stopped or is lost; or when the backend cannot answer.
    async fn report_end(
        &self,
        token: &SecretString,
        end: ReportedEnd,
    ) -> Result<ExecutionId, BackendError>;

    /// The same, of an execution whose token another server that shares this one's database was
    /// shown, and has proved. What the backend knows may still contradict it.
    ///
    /// # Errors
    /// `NotFound` for an execution that does not exist; `Invalid` as for `report_end`; or when the
    /// backend cannot answer.
    async fn accept_forwarded_end(
        &self,
        id: &ExecutionId,
        end: ReportedEnd,
    ) -> Result<(), BackendError>;
}

/// How and when an execution's own process ended, as its supervisor saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportedEnd {
    /// The exit code; 128 + the signal's number when a signal ended it.
    pub code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// When that was.
    #[serde(default)]
    pub times: ExecutionTimes,
}

/// What a scheduler can do, as data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SchedulerCapabilities {
    /// Tasks with an image.
    pub images: bool,
    /// Tasks without one, on the host executor.
    pub host: bool,
    /// `Resources` are enforced, not only hints.
    pub resource_limits: bool,
    /// `ExecutionSpec::timeout` is held where the execution runs, also while no server does.
    pub deadlines: bool,
    /// Both outputs of an execution are one stream, in the order in which they were written, unless
    /// it wants them apart. Otherwise they are always apart, and of one with the other there is no
    /// order.
    pub merged_output: bool,
    /// An execution of one namespace can neither read what another namespace's executions or the
    /// server have (environment, directories, memory, files) nor signal their processes, whatever
    /// its command does.
    pub isolates_namespaces: bool,
}

/// What to execute.
#[derive(Debug, Clone)]
pub struct ExecutionSpec {
    /// Runs once, or is kept alive.
    pub kind: ExecutionKind,
    /// Container image; `None` is the host executor.
    pub image: Option<String>,
    /// Replaces the image's entrypoint; prepended to `command` on the host executor.
    pub entrypoint: Vec<String>,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Host executor only: an absolute directory; `None` is a fresh one per execution.
    pub working_dir: Option<String>,
    /// The environment, complete but for what the executor itself needs (`PATH`, `HOME`, …).
    pub env: BTreeMap<String, EnvValue>,
    /// Set aside, and limited to, where the backend can.
    pub resources: Resources,
    /// How long it may run. A backend with the capability `deadlines` then stops it by itself, with
    /// [`TIMEOUT_GRACE`]; for others the engine does. Time during which the machine is suspended
    /// does not count. Nothing for a service.
    pub timeout: Option<Duration>,
    /// Credentials for pulling the image.
    pub registry_auth: Option<RegistryLogin>,
    /// Stdout and stderr are told apart, at the price of the order between them. Otherwise all
    /// output is stdout, where the backend can do that.
    pub separate_output: bool,
}

/// The value of an environment variable.
#[derive(Debug, Clone)]
pub enum EnvValue {
    /// May be shown.
    Plain(String),
    /// Holds a secret: never in a job spec, a log, a process list or a file others can read.
    Secret(SecretString),
}

/// Credentials for pulling an image.
#[derive(Debug, Clone)]
pub struct RegistryLogin {
    /// Registry user.
    pub username: String,
    /// Its password.
    pub password: SecretString,
}

/// How long an execution is meant to live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ExecutionKind {
    /// Runs once; the backend never restarts it.
    Task,
    /// A trigger; the backend keeps it alive until it is stopped.
    Service,
}

/// Time between asking an execution that ran longer than its timeout to end and killing it.
pub const TIMEOUT_GRACE: Duration = Duration::from_secs(10);

/// What a backend says of an execution.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observation {
    /// What it is.
    pub state: ExecutionState,
    /// When it became that.
    pub times: ExecutionTimes,
}

impl Observation {
    /// Of one that does not run yet, for this reason.
    #[must_use]
    pub fn queued(reason: impl Into<String>) -> Self {
        ExecutionState::Queued { reason: reason.into() }.into()
    }

    /// Of one that began then and runs.
    #[must_use]
    pub fn running(since: Timestamp) -> Self {
        Self { state: ExecutionState::Running, times: ExecutionTimes::since(since) }
    }
}

impl From<ExecutionState> for Observation {
    /// Of an execution whose times are not known.
    fn from(state: ExecutionState) -> Self {
        Self { state, times: ExecutionTimes::default() }
    }
}

/// When an execution's process began and ended, by the clock of the machine it runs on, whoever
/// looks and whenever. What a backend does not know is absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ExecutionTimes {
    /// When its process began.
    pub started_at: Option<Timestamp>,
    /// When its process ended.
    pub ended_at: Option<Timestamp>,
    /// How long its process ran, measured by a clock that nobody sets, without the time its machine
    /// was suspended.
    pub ran: Option<Duration>,
}

impl ExecutionTimes {
    /// Nothing is known.
    pub const UNKNOWN: Self = Self { started_at: None, ended_at: None, ran: None };

    /// Of one that began then and runs.
    #[must_use]
    pub fn since(started_at: Timestamp) -> Self {
        Self { started_at: Some(started_at), ended_at: None, ran: None }
    }

    /// How long its process ran, as exactly as can be told once it has ended.
    #[must_use]
    pub fn run_time(&self) -> Option<Duration> {
        self.ran.or_else(|| Some(self.ended_at?.since(self.started_at?)))
    }
}

/// What is known of an execution.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExecutionState {
    /// Accepted, not running yet; why, in the backend's words.
    Queued {
        /// Such as `no node has 4096 MB free`; may be empty.
        reason: String,
    },
    /// Its process runs.
    Running,
    /// Its process ended by itself.
    Exited {
        /// The exit code; 128 + the signal's number when a signal ended it.
        code: i32,
        /// The kernel killed it for want of memory.
        oom: bool,
        /// The signal that ended it.
        signal: Option<i32>,
    },
    /// It never ran, or could not be set up.
    Failed {
        /// What to tell the user.
        kind: FailureKind,
        /// In the backend's words.
        message: String,
    },
    /// Ended after it was asked to (by `stop`, at its timeout, or by somebody else), whatever the
    /// exit code was.
    Stopped,
    /// It existed, and what became of it cannot be known.
    Lost,
    /// Never seen, or removed.
    NotFound,
}

impl ExecutionState {
    /// Whether nothing more will happen to it.
    #[must_use]
    pub fn is_final(&self) -> bool {
        !matches!(self, Self::Queued { .. } | Self::Running)
    }
}

/// Why an execution never ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FailureKind {
    /// The program does not exist or may not be executed.
    CommandNotFound,
    /// The image cannot be had.
    ImageUnavailable,
    /// The backend refuses the spec.
    Refused,
    /// Anything else on the way to the first instruction.
    Setup,
}

/// One change on the watch stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchEvent {
    /// Whose.
    pub id: ExecutionId,
    /// What it became.
    pub state: ExecutionState,
    /// When, as far as is known by now.
    pub times: ExecutionTimes,
}

impl WatchEvent {
    /// What was observed of an execution, as an event.
    #[must_use]
    pub fn new(id: ExecutionId, Observation { state, times }: Observation) -> Self {
        Self { id, state, times }
    }
}

/// One of a process's two outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// The longest piece of a log.
pub const MAX_LOG_CHUNK_BYTES: usize = 64 * 1024;

/// A piece of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogChunk {
    /// Which output.
    pub stream: LogStream,
    /// Position of the first byte in that output.
    pub offset: u64,
    /// At most [`MAX_LOG_CHUNK_BYTES`], never empty; cut anywhere.
    pub data: Bytes,
    /// When the first byte was read from the execution, where the backend knows; never goes back
    /// within a log.
    pub at: Option<Timestamp>,
}

/// A position in a log: how many bytes of each output were seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogCursor {
    /// Bytes of standard output.
    pub stdout: u64,
    /// Bytes of standard error.
    pub stderr: u64,
}

impl LogCursor {
    /// The position of a stream.
    #[must_use]
    pub fn of(self, stream: LogStream) -> u64 {
        match stream {
            LogStream::Stdout => self.stdout,
            LogStream::Stderr => self.stderr,
        }
    }

    /// Moves past a chunk.
    pub fn advance(&mut self, chunk: &LogChunk) {
        let end = chunk.offset + chunk.data.len() as u64;
        match chunk.stream {
            LogStream::Stdout => self.stdout = end,
            LogStream::Stderr => self.stderr = end,
        }
    }
}
