//! A scheduler in memory.

mod execution;
mod script;
mod workloads;

pub use workloads::MemoryWorkloads;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use gofer_core::error::{BackendError, ErrorKind};
use gofer_core::id::ExecutionId;
use gofer_core::scheduler::{
    ExecSupport, ExecutionSpec, ExecutionState, FailureKind, LogChunk, LogCursor, LogStream,
    MAX_LOG_CHUNK_BYTES, Observation, ReportedEnd, Scheduler, SchedulerCapabilities, WatchEvent,
    WorkloadIdentity,
};
use gofer_core::time::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;

use super::lock;
use execution::{Execution, Heard, Player};

/// How many changes a watcher may lag behind before its stream breaks.
const WATCH_BUFFER: usize = 1_024;
/// Longest piece of a log.
const CHUNK_BYTES: usize = MAX_LOG_CHUNK_BYTES;

/// A scheduler whose executions are little scripts, played by tokio tasks in virtual time.
///
/// Every word of an execution's entrypoint and command is a step:
///
/// | step | what it does |
/// |---|---|
/// | `print TEXT`, `eprint TEXT` | writes a line to stdout, to stderr; both are stdout unless the spec wants them apart |
/// | `print-hex HEX`, `eprint-hex HEX` | writes bytes |
/// | `print-line N` | writes a line of N `x` |
/// | `print-env NAME`, `print-working-dir` | writes a variable's value; the working directory as a line |
/// | `mark NAME` | counts; see [`marks`](Self::marks) |
/// | `wait GATE` | waits for [`release`](Self::release) |
/// | `sleep-ms N`, `forever` | waits |
/// | `queue REASON` | is queued until [`set_running`](Self::set_running) |
/// | `ignore-stop` | from here on, only the end of the grace ends it |
/// | `on-stop TEXT` | writes a line when asked to stop |
/// | `exit N`, `die SIGNAL`, `out-of-memory` | ends; after the last step it exits with 0 |
/// | `image-unavailable TEXT`, `refuse TEXT`, `fail-setup TEXT` | fails |
///
/// A word that is no step is a command that does not exist. Clones share everything, as two
/// connections to one scheduler would; executions live on while the tokio runtime that `start` was
/// called on does.
#[derive(Clone)]
pub struct MemoryScheduler {
    shared: Arc<Shared>,
    capabilities: SchedulerCapabilities,
    gives_tokens: bool,
}

/// What all clones and players share.
struct Shared {
    executions: Mutex<BTreeMap<ExecutionId, Execution>>,
    starts: Mutex<BTreeMap<ExecutionId, usize>>,
    marks: Mutex<BTreeMap<String, usize>>,
    gates: watch::Sender<BTreeSet<String>>,
    watchers: Mutex<broadcast::Sender<WatchEvent>>,
    /// The same moment by both clocks: a test may have paused tokio's, and times must go by that
    /// one.
    made: (Timestamp, Instant),
}

impl Default for MemoryScheduler {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for MemoryScheduler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryScheduler")
            .field("executions", &lock(&self.shared.executions).len())
            .finish()
    }
}

impl MemoryScheduler {
    /// A scheduler that has run nothing yet.
    #[must_use]
    pub fn new() -> Self {
        let shared = Shared {
            executions: Mutex::default(),
            starts: Mutex::default(),
            marks: Mutex::default(),
            gates: watch::Sender::new(BTreeSet::new()),
            watchers: Mutex::new(broadcast::Sender::new(WATCH_BUFFER)),
            made: (Timestamp::now(), Instant::now()),
        };

        let capabilities = SchedulerCapabilities {
            images: true,
            host: true,
            resource_limits: false,
            deadlines: true,
            merged_output: true,
            isolates_namespaces: false,
        };

        Self { shared: Arc::new(shared), capabilities, gives_tokens: false }
    }

    /// The same scheduler with other capabilities.
    #[must_use]
    pub fn with_capabilities(mut self, capabilities: SchedulerCapabilities) -> Self {
        self.capabilities = capabilities;
        self
    }

    /// The same scheduler, whose executions have tokens or have none.
    #[must_use]
    pub fn with_identities(mut self, gives_tokens: bool) -> Self {
        self.gives_tokens = gives_tokens;
        self
    }

    /// The token that an execution has, where executions have one.
    #[must_use]
    pub fn token(id: &ExecutionId) -> SecretString {
        format!("memory.{id}.token").into()
    }

    fn named_by(&self, token: &SecretString) -> Option<(ExecutionId, ExecutionState)> {
        let name = token.expose_secret().strip_prefix("memory.")?.strip_suffix(".token")?;
        let id = name.parse().ok()?;
        let state = lock(&self.shared.executions).get(&id)?.state.clone();
        Some((id, state))
    }

    /// Opens a gate, for those who wait at it and those who will.
    pub fn release(&self, gate: &str) {
        self.shared.gates.send_modify(|gates| {
            gates.insert(gate.to_owned());
        });
    }

    /// How often the step `mark NAME` was played.
    #[must_use]
    pub fn marks(&self, name: &str) -> usize {
        lock(&self.shared.marks).get(name).copied().unwrap_or_default()
    }

    /// How often the execution was really started; more than 1 only if it was removed in between.
    #[must_use]
    pub fn starts(&self, id: &ExecutionId) -> usize {
        lock(&self.shared.starts).get(id).copied().unwrap_or_default()
    }

    /// The spec the execution was started with.
    #[must_use]
    pub fn spec(&self, id: &ExecutionId) -> Option<ExecutionSpec> {
        lock(&self.shared.executions).get(id).map(|execution| execution.spec.clone())
    }

    /// Every execution that was not removed, and its state.
    #[must_use]
    pub fn executions(&self) -> Vec<(ExecutionId, ExecutionState)> {
        let executions = lock(&self.shared.executions);
        executions.iter().map(|(id, execution)| (id.clone(), execution.state.clone())).collect()
    }

    /// Lets a queued execution run.
    pub fn set_running(&self, id: &ExecutionId) {
        self.shared.set_state(id, ExecutionState::Running);
    }

    /// Ends an execution with this state, whatever its script says; does nothing when it has ended
    /// already.
    pub fn finish(&self, id: &ExecutionId, state: ExecutionState) {
        self.shared.settle(id, state);
    }

    /// Ends an execution as the loss of its node would.
    pub fn lose(&self, id: &ExecutionId) {
        self.finish(id, ExecutionState::Lost);
    }

    /// Ends every watch stream, as a lost connection would.
    pub fn disconnect_watchers(&self) {
        *lock(&self.shared.watchers) = broadcast::Sender::new(WATCH_BUFFER);
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Scheduler for MemoryScheduler {
    fn capabilities(&self) -> SchedulerCapabilities {
        self.capabilities
    }

    fn incarnation(&self) -> u64 {
        0
    }

    async fn check(&self) -> Result<String, BackendError> {
        Ok("memory".to_owned())
    }

    async fn start(&self, id: &ExecutionId, spec: &ExecutionSpec) -> Result<(), BackendError> {
        let mut executions = lock(&self.shared.executions);
        if executions.contains_key(id) {
            return Ok(());
        }

        *lock(&self.shared.starts).entry(id.clone()).or_default() += 1;
        let mut execution = Execution::new(spec.clone());
        match script::parse(spec) {
            Ok(steps) => {
                let kill_at = execution.kill_at.subscribe();
                let (shared, id, spec) = (self.shared.clone(), id.clone(), spec.clone());
                tokio::spawn(Player { shared, id, spec, steps, kill_at }.play());
            }
            Err(word) => {
                let message = format!("command `{word}` not found");
                execution.state =
                    ExecutionState::Failed { kind: FailureKind::CommandNotFound, message };
                self.shared.tell(id, &execution);
            }
        }

        executions.insert(id.clone(), execution);
        Ok(())
    }

    async fn stop(&self, id: &ExecutionId, grace: Duration) -> Result<(), BackendError> {
        self.shared.stop(id, grace);
        Ok(())
    }

    async fn state(&self, id: &ExecutionId) -> Result<Observation, BackendError> {
        let executions = lock(&self.shared.executions);
        Ok(executions.get(id).map_or(ExecutionState::NotFound.into(), Execution::observed))
    }

    async fn watch(
        &self,
    ) -> Result<BoxStream<'static, Result<WatchEvent, BackendError>>, BackendError> {
        let changes = lock(&self.shared.watchers).subscribe();
        let stream = stream::unfold(changes, |mut changes| async move {
            // A watcher that lags behind loses its connection.
            let event = changes.recv().await.ok()?;
            Some((Ok(event), changes))
        });
        Ok(stream.boxed())
    }

    async fn logs(
        &self,
        id: &ExecutionId,
        from: LogCursor,
        follow: bool,
    ) -> Result<BoxStream<'static, Result<LogChunk, BackendError>>, BackendError> {
        let executions = lock(&self.shared.executions);
        let Some(execution) = executions.get(id) else {
            return Err(BackendError::new(
                ErrorKind::NotFound,
                format!("execution `{id}` does not exist"),
            ));
        };

        let now = LogCursor {
            stdout: execution.stdout.len() as u64,
            stderr: execution.stderr.len() as u64,
        };

        let reader = LogReader {
            shared: self.shared.clone(),
            id: id.clone(),
            at: from,
            until: (!follow).then_some(now),
            changed: execution.changed.subscribe(),
        };

        let chunks =
            stream::unfold(
                reader,
                |mut reader| async move { Some((Ok(reader.next().await?), reader)) },
            );

        Ok(chunks.boxed())
    }

    async fn remove(&self, id: &ExecutionId) -> Result<(), BackendError> {
        let mut executions = lock(&self.shared.executions);
        if executions.get(id).is_some_and(|execution| !execution.state.is_final()) {
            let message = format!("execution `{id}` has not finished; stop it first");
            return Err(BackendError::new(ErrorKind::Invalid, message));
        }
        executions.remove(id);
        Ok(())
    }

    /// There are no processes, so no command can be run beside one.
    fn exec(&self) -> Option<&dyn ExecSupport> {
        None
    }

    fn identities(&self) -> Option<&dyn WorkloadIdentity> {
        self.gives_tokens.then_some(self as &dyn WorkloadIdentity)
    }
}

#[async_trait]
impl WorkloadIdentity for MemoryScheduler {
    async fn identify(&self, token: &SecretString) -> Result<ExecutionId, BackendError> {
        self.named_by(token)
            .filter(|(_, state)| !state.is_final())
            .map(|(id, _)| id)
            .ok_or_else(unknown_token)
    }

    async fn report_end(
        &self,
        token: &SecretString,
        end: ReportedEnd,
    ) -> Result<ExecutionId, BackendError> {
        let (id, _) = self.named_by(token).ok_or_else(unknown_token)?;
        self.accept_forwarded_end(&id, end).await.map(|()| id)
    }

    async fn accept_forwarded_end(
        &self,
        id: &ExecutionId,
        end: ReportedEnd,
    ) -> Result<(), BackendError> {
        let state = lock(&self.shared.executions).get(id).map(|execution| execution.state.clone());
        let state = state.ok_or_else(unknown_token)?;
        let exited = ExecutionState::Exited { code: end.code, oom: false, signal: end.signal };
        if state.is_final() && state != exited {
            return Err(BackendError::new(
                ErrorKind::Invalid,
                format!("execution `{id}` ended otherwise"),
            ));
        }
        self.shared.set_state(id, exited);
        Ok(())
    }
}

fn unknown_token() -> BackendError {
    BackendError::new(ErrorKind::NotFound, "the token names no living execution")
}

impl Shared {
    fn now(&self) -> Timestamp {
        let (at, made) = self.made;
        at.after(made.elapsed())
    }

    /// Tells the watchers.
    fn tell(&self, id: &ExecutionId, execution: &Execution) {
        // Nobody may be watching.
        let _ = lock(&self.watchers).send(WatchEvent::new(id.clone(), execution.observed()));
    }

    /// Sets the state of an execution that has not ended.
    fn set_state(&self, id: &ExecutionId, state: ExecutionState) {
        let mut executions = lock(&self.executions);
        let Some(execution) = executions.get_mut(id) else { return };
        if execution.state.is_final() || execution.state == state {
            return;
        }
        execution.enter(state, self.now());
        execution.changed.send_replace(());
        self.tell(id, execution);
    }

    /// Ends an execution that has not ended, and its player.
    fn settle(&self, id: &ExecutionId, state: ExecutionState) {
        self.set_state(id, state);
        if let Some(execution) = lock(&self.executions).get(id) {
            execution.stop(Instant::now());
        }
    }

    /// Asks an execution to stop.
    fn stop(&self, id: &ExecutionId, grace: Duration) {
        if let Some(execution) = lock(&self.executions).get(id) {
            execution.stop(Instant::now() + grace);
        }
    }

    /// Waits until the execution has run for that long.
    async fn run_out(&self, id: &ExecutionId, timeout: Duration) {
        let Some(mut changed) =
            lock(&self.executions).get(id).map(|execution| execution.changed.subscribe())
        else {
            return;
        };
        loop {
            let since =
                lock(&self.executions).get(id).and_then(|execution| execution.running_since);
            tokio::select! {
                () = at(since.map(|since| since + timeout)) => return,
                // An error means that the execution was removed.
                changed = changed.changed() => if changed.is_err() { return },
            }
        }
    }

    fn print(&self, id: &ExecutionId, stream: LogStream, bytes: &[u8]) {
        let mut executions = lock(&self.executions);
        let Some(execution) = executions.get_mut(id) else { return };
        let stream = if execution.spec.separate_output { stream } else { LogStream::Stdout };
        match stream {
            LogStream::Stdout => execution.stdout.extend_from_slice(bytes),
            LogStream::Stderr => execution.stderr.extend_from_slice(bytes),
        }
        execution.changed.send_replace(());
    }

    fn mark(&self, name: &str) -> Heard {
        *lock(&self.marks).entry(name.to_owned()).or_default() += 1;
        Heard::Nothing
    }

    /// Waits until the gate is open.
    async fn gate(&self, gate: &str) {
        let mut gates = self.gates.subscribe();
        // The sender lives in `self`, so the wait cannot fail.
        let _ = gates.wait_for(|open| open.contains(gate)).await;
    }

    /// Is queued until somebody says that it runs.
    async fn queue(&self, id: &ExecutionId, reason: &str) {
        self.set_state(id, ExecutionState::Queued { reason: reason.to_owned() });
        let Some(mut changed) =
            lock(&self.executions).get(id).map(|execution| execution.changed.subscribe())
        else {
            return;
        };
        let queued = || {
            let executions = lock(&self.executions);
            executions
                .get(id)
                .is_some_and(|execution| matches!(execution.state, ExecutionState::Queued { .. }))
        };
        while queued() && changed.changed().await.is_ok() {}
    }
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Reads a log piece by piece.
struct LogReader {
    shared: Arc<Shared>,
    id: ExecutionId,
    at: LogCursor,
    until: Option<LogCursor>,
    changed: watch::Receiver<()>,
}

impl LogReader {
    async fn next(&mut self) -> Option<LogChunk> {
        loop {
            self.changed.mark_unchanged();
            if let Some(chunk) = self.available() {
                return chunk;
            }
            // An error means that the execution was removed.
            self.changed.changed().await.ok()?;
        }
    }

    /// The next piece, or `Some(None)` when there will be no more.
    fn available(&mut self) -> Option<Option<LogChunk>> {
        let executions = lock(&self.shared.executions);
        let Some(execution) = executions.get(&self.id) else { return Some(None) };
        for stream in [LogStream::Stdout, LogStream::Stderr] {
            let output = execution.output(stream);
            let end = self.until.map_or(output.len(), |until| {
                usize::try_from(until.of(stream)).unwrap_or(usize::MAX)
            });

            let start = usize::try_from(self.at.of(stream)).unwrap_or(usize::MAX);
            if start < end {
                let data = Bytes::copy_from_slice(&output[start..end.min(start + CHUNK_BYTES)]);
                let chunk = LogChunk { stream, offset: start as u64, data, at: None };
                self.at.advance(&chunk);
                return Some(Some(chunk));
            }
        }

        (self.until.is_some() || execution.state.is_final()).then_some(None)
    }
}
