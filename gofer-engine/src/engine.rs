//! The engine: how its parts are put together, and the requests it takes. The only file that knows
//! every part.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;
use gofer_core::journal::{Journal, JournalError, NewRun};
use gofer_core::reuse::reused_tasks;
use gofer_core::run::{CancelRequest, Initiator, Run};
use gofer_core::scheduler::{ExecRequest, ExecSession, LogChunk, LogCursor, ReportedEnd};
use gofer_core::secret_store::SecretStore;
use gofer_core::{ExecutionId, NamespaceId, PipelineId, RunKey, TaskId, Version, validate};
use secrecy::SecretString;

use crate::clock::Clock;
use crate::commit::news::CommitNews;
use crate::commit::writer::Writer;
use crate::config::{Backends, EngineConfig};
use crate::error::EngineError;
use crate::execution::end_reports::EndReports;
use crate::execution::exec;
use crate::inbox::Message;
use crate::lease::deadline::clock_error_max;
use crate::lease::{Leases, claim, leader, renew};
use crate::logs::archive_queue::ArchiveQueue;
use crate::logs::archiver::Archiver;
use crate::logs::read::LogReader;
use crate::logs::run_masks::RunMasks;
use crate::metrics::{EngineMetrics, EngineStats};
use crate::ports::{Ports, Shutdown};
use crate::retention;
use crate::retry_loop::retry;
use crate::rules::Input;
use crate::run::dispatcher::RunDispatcher;
use crate::run::events::RunEvents;
use crate::run_token::RunTokens;
use crate::slots::Slots;
use crate::slots::shares::SlotShares;
use crate::timeouts::WithTimeout;

/// Longest wait for drivers to end.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// A request to start a run.
#[derive(Debug, Clone)]
pub struct StartRun {
    /// The pipeline's namespace.
    pub namespace: NamespaceId,
    /// The pipeline.
    pub pipeline: PipelineId,
    /// Which version; `None` is the latest.
    pub version: Option<Version>,
    /// Variables of this run; they win over all others.
    pub variables: BTreeMap<String, String>,
    /// The person or program that starts it.
    pub initiator: Initiator,
    /// The same key never starts a second run of this pipeline.
    pub idempotency_key: Option<String>,
}

/// A handle on a running engine.
#[derive(Debug, Clone)]
pub struct Engine {
    ports: Arc<Ports>,
    runs: Arc<RunDispatcher>,
    leases: Arc<Leases>,
    slots: Arc<Slots>,
    shares: Arc<SlotShares>,
    logs: Arc<LogReader>,
    masks: Arc<RunMasks>,
    end_reports: Arc<EndReports>,
    archive: Arc<ArchiveQueue>,
}

impl Engine {
    /// Starts an engine: claims every unfinished run that no server holds and goes on with it.
    ///
    /// # Errors
    /// When the key for run tokens can neither be read nor made.
    pub async fn start(
        journal: Arc<dyn Journal>,
        backends: Backends,
        config: EngineConfig,
    ) -> Result<Self, EngineError> {
        let ports = Arc::new(open_ports(journal, backends, config).await?);
        let Ports { journal, config, shutdown, .. } = &*ports;

        let commits = CommitNews::new();
        let writer = Writer::start(journal.clone(), commits.clone(), config.metrics.clone());
        let slots = Slots::new(
            config.max_executions,
            config.max_executions_per_pipeline,
            config.metrics.clone(),
        );
        let shares = Arc::new(SlotShares::new(ports.clone(), slots.clone()));
        let leases = Arc::new(Leases::new(ports.clone()));

        let masks = Arc::new(RunMasks::new(ports.clone()));
        let (archive, finished) = ArchiveQueue::new();
        let archive = Arc::new(archive);
        let archiver = Arc::new(Archiver::new(ports.clone(), masks.clone(), archive.clone()));
        let logs = Arc::new(LogReader::new(ports.clone(), commits.clone(), masks.clone()));

        let end_reports = Arc::new(EndReports::new(ports.clone()));
        let runs = RunDispatcher::new(
            ports.clone(),
            leases.clone(),
            slots.clone(),
            writer,
            archive.clone(),
        );
        let runs = Arc::new(runs);
        let events = Arc::new(RunEvents {
            dispatcher: runs.clone(),
            commits,
            masks: masks.clone(),
            end_reports: end_reports.clone(),
        });

        shutdown.spawn_until_requested(events.clone().watch_scheduler());
        shutdown.spawn_until_requested(events.follow_hints());
        shutdown.spawn_until_requested(claim::run(leases.clone(), runs.clone()));
        shutdown.spawn_until_requested(renew::run(leases.clone(), runs.clone()));
        shutdown.spawn_until_requested(shares.clone().run());
        shutdown.spawn_until_requested(leader::run(ports.clone(), {
            let (ports, archiver) = (ports.clone(), archiver.clone());
            move || lead(ports.clone(), archiver.clone())
        }));
        shutdown.spawn(archiver.run(finished));

        Ok(Self { ports, runs, leases, slots, shares, logs, masks, end_reports, archive })
    }

    /// Commits a run. When this returns, the run will be executed, whatever happens to this server.
    ///
    /// # Errors
    /// `Invalid` for bad variables, `NotFound`, `Disabled`, or the database's own.
    pub async fn start_run(&self, request: StartRun) -> Result<Run, EngineError> {
        let mut violations = Vec::new();
        validate::plain_variables("variables", &request.variables, &mut violations);
        if !violations.is_empty() {
            return Err(EngineError::Invalid(violations));
        }
        let StartRun { namespace, pipeline, version, variables, initiator, idempotency_key } =
            request;
        let new = self.runs.new_run(namespace, pipeline, variables, initiator);
        self.runs.insert(NewRun { version, idempotency_key, ..new }).await
    }

    /// Repeats a complete run: the whole of it, or only what did not end successfully.
    ///
    /// # Errors
    /// `NotFound`, `NotComplete`, `Disabled`, or the database's own.
    pub async fn retry_run(
        &self,
        key: &RunKey,
        from_failed: bool,
        initiator: Initiator,
    ) -> Result<Run, EngineError> {
        let old = self.ports.journal.load(key).await?;
        if !old.run.state.is_complete() {
            return Err(EngineError::NotComplete { key: key.to_string() });
        }

        let reused = match from_failed {
            true => reused_tasks(&old.spec, |task| old.tasks.get(task)?.state.status()),
            false => Vec::new(),
        };

        let (namespace, pipeline) = (key.namespace.clone(), key.pipeline.clone());
        let new = self.runs.new_run(namespace, pipeline, old.run.variables, initiator);
        let (version, retry_of) = (Some(old.run.version), Some(key.run));
        self.runs.insert(NewRun { version, retry_of, reused, ..new }).await
    }

    /// Asks that a run end. Returns whether there was anything left to cancel.
    ///
    /// # Errors
    /// `NotFound`, or the database's own.
    pub async fn cancel_run(
        &self,
        key: &RunKey,
        request: CancelRequest,
    ) -> Result<bool, EngineError> {
        let changed = self.ports.journal.request_cancel(key, None, request.clone()).await;
        self.send_cancel(key, &changed, Input::CancelRun(request)).await;
        Ok(changed?)
    }

    /// Asks that one task of a run end. Returns whether there was anything left to cancel.
    ///
    /// # Errors
    /// `NotFound`, or the database's own.
    pub async fn cancel_task(
        &self,
        key: &RunKey,
        task: &TaskId,
        request: CancelRequest,
    ) -> Result<bool, EngineError> {
        let changed = self.ports.journal.request_cancel(key, Some(task), request.clone()).await;
        self.send_cancel(key, &changed, Input::CancelTask(task.clone(), request)).await;
        Ok(changed?)
    }

    /// An attempt's log, masked, from a position; live while it runs, else from the archive. With
    /// `follow` it waits for an attempt that has not started, and ends after the attempt did.
    ///
    /// # Errors
    /// `NotFound` when there is no such attempt or its log has expired, or a backend's own.
    pub async fn logs(
        &self,
        id: &ExecutionId,
        from: LogCursor,
        follow: bool,
    ) -> Result<BoxStream<'static, Result<LogChunk, EngineError>>, EngineError> {
        self.logs.open(id.clone(), from, follow).await
    }

    /// The execution in which a command can be run now, and the command as it may be recorded: in
    /// one line of bounded length, with the secret values of the task masked.
    ///
    /// # Errors
    /// `NotFound`, `NotRunning`, `Unsupported`, or the database's own.
    pub async fn exec_target(
        &self,
        key: &RunKey,
        task: &TaskId,
        command: &[String],
    ) -> Result<(ExecutionId, String), EngineError> {
        exec::target(&self.ports, &self.masks, key, task, command).await
    }

    /// Runs a command in an execution that [`exec_target`](Self::exec_target) named.
    ///
    /// # Errors
    /// The scheduler's own, see [`gofer_core::scheduler::ExecSupport::open_session`].
    pub async fn exec(
        &self,
        id: &ExecutionId,
        request: ExecRequest,
    ) -> Result<ExecSession, EngineError> {
        Ok(self.ports.scheduler.require_exec()?.open_session(id, request).await?)
    }

    /// An execution tells its own end, by the token that the scheduler gave it. The server that
    /// drives its run learns of it.
    ///
    /// # Errors
    /// The scheduler's own, see [`gofer_core::scheduler::WorkloadIdentity::report_end`].
    pub async fn report_end(
        &self,
        token: &SecretString,
        end: ReportedEnd,
    ) -> Result<(), EngineError> {
        self.end_reports.accept(token, end, |run| self.runs.drives(run)).await
    }

    /// Masks a value in the logs of a run that is not complete, on every server: in what is read
    /// from now on, and in all of each log that is not archived yet. Doing it again changes
    /// nothing.
    ///
    /// # Errors
    /// `NotFound`, `TooManyMasks`, or a backend's own.
    pub async fn mask_value(
        &self,
        run: &RunKey,
        value: &SecretString,
        actor: String,
    ) -> Result<(), EngineError> {
        self.masks.add(run, value, actor).await
    }

    /// How this server is named among those that share the journal.
    #[must_use]
    pub fn server_id(&self) -> &str {
        &self.ports.config.server_id
    }

    /// Quotas were changed by this server: those of executions are read at once, by the others
    /// within a third of the lease.
    pub fn quotas_changed(&self) {
        self.shares.quotas_changed();
        self.leases.want_claim();
    }

    /// What the engine is busy with.
    #[must_use]
    pub fn stats(&self) -> EngineStats {
        EngineStats {
            active_runs: self.runs.active_runs(),
            max_active_runs: self.ports.config.max_active_runs,
            executions: self.slots.taken(),
            max_executions: self.ports.config.max_executions,
            archive_backlog: self.archive.len(),
        }
    }

    /// What it counts and measures.
    #[must_use]
    pub fn metrics(&self) -> &EngineMetrics {
        &self.ports.config.metrics
    }

    /// Stops driving. Executions go on; the leases are released, so that the next server takes over
    /// at once.
    pub async fn shutdown(&self) {
        let shutdown = &self.ports.shutdown;
        shutdown.request();

        // A driver may be waiting for a database that is away; its intent is committed, another
        // server goes on.
        if tokio::time::timeout(SHUTDOWN_TIMEOUT, shutdown.tasks_ended()).await.is_err() {
            // With its lease released, a call still under way could meet what the next server does.
            tracing::warn!(
                "some runs did not come to rest in time; they go on when their leases run out"
            );
            return;
        }

        if let Err(error) = self.ports.journal.release(&self.ports.config.server_id).await {
            tracing::warn!(error = %crate::chain(&error), "cannot give up the leases; they run out \
                                                           by themselves");
        }
    }

    /// Sends a cancel request to the run's driver.
    ///
    /// A driver that is sent the request itself spares a read. It is sent only if this call stored
    /// it. After an error it may be stored or not, and where nothing changed, a request that was
    /// stored before may be one whose call failed: then the driver looks what is stored.
    async fn send_cancel(
        &self,
        key: &RunKey,
        changed: &Result<bool, JournalError>,
        request: Input,
    ) {
        let message = match changed {
            Ok(true) => Message::Input(request),
            Ok(false) | Err(_) => Message::Reload,
        };
        self.runs.send(key, message).await;
    }
}

async fn open_ports(
    journal: Arc<dyn Journal>,
    backends: Backends,
    config: EngineConfig,
) -> Result<Ports, EngineError> {
    // Before anything is waited for: the time that was given is the time now.
    let clock = Clock::new(config.starts_at);
    set_clock(&clock, journal.as_ref(), config.lease_ttl).await?;
    let secrets: Arc<dyn SecretStore> =
        Arc::new(WithTimeout::new(backends.secrets, &config.metrics));
    let tokens = RunTokens::open(secrets.as_ref()).await?;
    Ok(Ports {
        journal,
        scheduler: Arc::new(WithTimeout::new(backends.scheduler, &config.metrics)),
        objects: Arc::new(WithTimeout::new(backends.objects, &config.metrics)),
        secrets,
        tokens,
        clock,
        config,
        shutdown: Shutdown::default(),
    })
}

/// Sets the clock by the journal's. Before anything is claimed: by a clock that is wrong this
/// server would take what others hold.
async fn set_clock(
    clock: &Clock,
    journal: &dyn Journal,
    ttl: Duration,
) -> Result<(), JournalError> {
    retry("clock", || async {
        match clock.follow(journal).await {
            Ok(apart) if apart <= clock_error_max(ttl) => ControlFlow::Break(Ok(())),
            Ok(apart) => {
                tracing::warn!(
                    milliseconds = apart.as_millis(),
                    "the database takes too long to say what time it is, will retry"
                );
                ControlFlow::Continue(())
            }
            Err(error) => ControlFlow::Break(Err(error)),
        }
    })
    .await
}

/// What the leader does for all servers.
async fn lead(ports: Arc<Ports>, archiver: Arc<Archiver>) {
    tokio::join!(archiver.sweep(), retention::run(ports));
}
