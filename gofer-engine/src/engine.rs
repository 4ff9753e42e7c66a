//! The engine: what it is made of, and the orders it takes.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::stream::BoxStream;
use gofer_core::journal::{Claim, FirstCommit, Journal, JournalError, NewRun};
use gofer_core::object_store::ObjectStore;
use gofer_core::reuse::reused_tasks;
use gofer_core::run::{CancelRequest, Initiator, Run};
use gofer_core::scheduler::{
    ExecRequest, ExecSession, LogChunk, LogCursor, ReportedEnd, Scheduler,
};
use gofer_core::secret_store::SecretStore;
use gofer_core::{
    ExecutionId, NamespaceId, PipelineId, RunKey, TaskId, Timestamp, Version, validate,
};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::{Notify, RwLock, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backoff::Backoff;
use crate::begun::{Begun, facts};
use crate::clock::Clock;
use crate::drivers::Drivers;
use crate::error::EngineError;
use crate::freshness::{Freshness, certain, precision};
use crate::guard::Timed;
use crate::inbox::Message;
use crate::machine::Input;
use crate::places::Places;
use crate::token::{RunTokens, run_token_hash};
use crate::writer::Writer;
use crate::{added, archiver, cluster, exec, lead, leases, listen, lock, logs, reports};

/// Longest wait for drivers to come to rest.
const SHUTDOWN: Duration = Duration::from_secs(5);

/// Limits and periods of an engine.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Names this server among those that share a database.
    pub server_id: String,
    /// Where tasks reach the API, such as `http://127.0.0.1:8469`; `None` leaves `GOFER_API_ADDR`
    /// out.
    pub api_addr: Option<String>,
    /// How long a run stays this server's without being renewed; renewed three times as often.
    pub lease_ttl: Duration,
    /// Executions in flight at once; further ones wait for a place, which pipelines get by turns.
    pub max_executions: usize,
    /// The same of one pipeline; `None` is no limit but `max_executions`.
    pub max_executions_per_pipeline: Option<usize>,
    /// Runs driven at once; further ones stay pending. Runs whose server is gone are taken over all
    /// the same.
    pub max_active_runs: usize,
    /// Task runs that change in one commit at most; a larger decision becomes true in several.
    pub max_changes: usize,
    /// Archived logs are kept this long after their attempt ended.
    pub log_retention: Duration,
    /// Run objects are kept for this many newest runs of each pipeline.
    pub run_objects_keep_runs: u64,
    /// Runs are kept this long after they ended.
    pub run_retention: Duration,
    /// Runs are kept for this many newest runs of each pipeline.
    pub keep_runs: u64,
    /// Events are kept this long.
    pub event_retention: Duration,
    /// Versions are kept for this many newest versions of each pipeline, and those that a kept run
    /// is of.
    pub keep_versions: u64,
    /// Uploads by URL are remembered this long after their URL ended, and then what was never
    /// completed is deleted. Longer than an upload may last that began while its URL was good.
    pub upload_retention: Duration,
    /// The time it is when the engine starts; `None` asks the system. A simulation has a time of
    /// its own.
    pub starts_at: Option<Timestamp>,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            server_id: "local".to_owned(),
            api_addr: None,
            lease_ttl: Duration::from_secs(15),
            max_executions: 64,
            max_executions_per_pipeline: None,
            max_active_runs: 10_000,
            // A database that does 1,000 statements a second does these in two.
            max_changes: 500,
            log_retention: Duration::from_secs(90 * 24 * 3600),
            run_objects_keep_runs: 20,
            run_retention: Duration::from_secs(365 * 24 * 3600),
            keep_runs: 100_000,
            event_retention: Duration::from_secs(365 * 24 * 3600),
            keep_versions: 100,
            upload_retention: Duration::from_secs(24 * 3600),
            starts_at: None,
        }
    }
}

/// The backends an engine works with.
#[derive(Debug, Clone)]
pub struct Backends {
    /// Where executions run.
    pub scheduler: Arc<dyn Scheduler>,
    /// Where objects and archived logs lie.
    pub objects: Arc<dyn ObjectStore>,
    /// Where secrets lie.
    pub secrets: Arc<dyn SecretStore>,
}

/// A wish to start a run.
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
    /// Who or what starts it.
    pub initiator: Initiator,
    /// The same key never starts a second run of this pipeline.
    pub idempotency_key: Option<String>,
}

/// What an engine is busy with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineStats {
    /// Runs this server drives.
    pub active_runs: usize,
    /// How many that may be.
    pub max_active_runs: usize,
    /// Executions in flight.
    pub executions: usize,
}

/// What every part of the engine works with.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) scheduler: Arc<dyn Scheduler>,
    pub(crate) objects: Arc<dyn ObjectStore>,
    pub(crate) secrets: Arc<dyn SecretStore>,
    pub(crate) config: EngineConfig,
    pub(crate) tokens: RunTokens,
    pub(crate) clock: Clock,
    pub(crate) writer: Writer,
    pub(crate) places: Arc<Places>,
    pub(crate) archive: archiver::Queue,
    /// Changes after each transaction of the writer, and when another server committed something.
    pub(crate) commits: watch::Sender<()>,
    /// Changes when a run has added a value to mask, here or on another server.
    pub(crate) masked: watch::Sender<()>,
    pub(crate) stop: CancellationToken,
    pub(crate) claim_wanted: Notify,
    /// Limits of executions have changed.
    pub(crate) quotas_changed: Notify,
    /// A call that may take leases was answered with an error: some may be held that nobody knows
    /// of.
    pub(crate) leases_doubtful: AtomicBool,
    /// Read while a run is inserted, until its driver is known; written while all leases are given
    /// up. A lease that an insert took would be given up with the others, and its driver would not
    /// know.
    pub(crate) inserting: RwLock<()>,
    /// Turns of reports that other servers pass on.
    pub(crate) reports: Arc<Semaphore>,
    pub(crate) runs: Drivers,
    pub(crate) tasks: TaskTracker,
}

/// A handle on a running engine.
#[derive(Debug, Clone)]
pub struct Engine {
    shared: Arc<Shared>,
}

impl Engine {
    /// Starts an engine: claims every unfinished run nobody holds and goes on with it.
    ///
    /// # Errors
    /// When the key for run tokens can neither be read nor made.
    pub async fn start(
        journal: Arc<dyn Journal>,
        backends: Backends,
        config: EngineConfig,
    ) -> Result<Self, EngineError> {
        // Before anything is waited for: the time that was given is the time now.
        let clock = Clock::new(config.starts_at);
        know_the_time(&clock, journal.as_ref(), config.lease_ttl).await?;
        let secrets: Arc<dyn SecretStore> = Arc::new(Timed(backends.secrets));
        let tokens = RunTokens::open(secrets.as_ref()).await?;
        let commits = watch::Sender::new(());
        let (archive, finished) = archiver::queue();
        let shared = Arc::new(Shared {
            writer: Writer::start(journal.clone(), commits.clone()),
            journal,
            scheduler: Arc::new(Timed(backends.scheduler)),
            objects: Arc::new(Timed(backends.objects)),
            secrets,
            tokens,
            clock,
            places: Places::new(config.max_executions, config.max_executions_per_pipeline),
            config,
            archive,
            commits,
            masked: watch::Sender::new(()),
            stop: CancellationToken::new(),
            claim_wanted: Notify::new(),
            quotas_changed: Notify::new(),
            leases_doubtful: AtomicBool::new(false),
            inserting: RwLock::new(()),
            reports: Arc::new(Semaphore::new(reports::AT_ONCE)),
            runs: Drivers::default(),
            tasks: TaskTracker::new(),
        });

        shared.spawn(listen::scheduler);
        shared.spawn(listen::servers);
        shared.spawn(leases::claim);
        shared.spawn(leases::renew);
        shared.spawn(cluster::run);
        shared.spawn(lead::run);
        shared.tasks.spawn(archiver::run(shared.clone(), finished));

        Ok(Self { shared })
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
        let new = self.new_run(namespace, pipeline, variables, initiator);
        self.insert(NewRun { version, idempotency_key, ..new }).await
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
        let old = self.shared.journal.load(key).await?;
        if !old.run.state.is_complete() {
            return Err(EngineError::NotComplete { key: key.to_string() });
        }

        let reused = match from_failed {
            true => reused_tasks(&old.spec, |task| old.tasks.get(task)?.state.status()),
            false => Vec::new(),
        };

        let new =
            self.new_run(key.namespace.clone(), key.pipeline.clone(), old.run.variables, initiator);
        self.insert(NewRun {
            version: Some(old.run.version),
            retry_of: Some(key.run),
            reused,
            ..new
        })
        .await
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
        let changed = self.shared.journal.request_cancel(key, None, request.clone()).await;
        self.shared.tell_of_cancel(key, &changed, Input::CancelRun(request)).await;
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
        let changed = self.shared.journal.request_cancel(key, Some(task), request.clone()).await;
        self.shared.tell_of_cancel(key, &changed, Input::CancelTask(task.clone(), request)).await;
        Ok(changed?)
    }

    /// An attempt's log, masked, from a position; live while it runs, else from the archive. With
    /// `follow` it waits for an attempt that has not started, and ends by itself after the attempt
    /// did.
    ///
    /// # Errors
    /// `NotFound` when there is no such attempt or its log has expired, or a backend's own.
    pub async fn logs(
        &self,
        id: &ExecutionId,
        from: LogCursor,
        follow: bool,
    ) -> Result<BoxStream<'static, Result<LogChunk, EngineError>>, EngineError> {
        logs::open(self.shared.clone(), id.clone(), from, follow).await
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
        exec::target(&self.shared, key, task, command).await
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
        Ok(self.shared.scheduler.require_exec()?.open_session(id, request).await?)
    }

    /// An execution tells its own end, by the token that the scheduler gave it. Whoever drives its
    /// run hears of it.
    ///
    /// # Errors
    /// The scheduler's own, see [`gofer_core::scheduler::WorkloadIdentity::report_end`].
    pub async fn report_end(
        &self,
        token: &SecretString,
        end: ReportedEnd,
    ) -> Result<(), EngineError> {
        reports::take(&self.shared, token, end).await
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
        added::add(&self.shared, run, value, actor).await
    }

    /// How this server is named among those that share the journal.
    #[must_use]
    pub fn server_id(&self) -> &str {
        &self.shared.config.server_id
    }

    /// Quotas were changed by this server: those of executions are read at once, by the others
    /// within a third of the lease.
    pub fn quotas_changed(&self) {
        self.shared.quotas_changed.notify_one();
        self.shared.claim_wanted.notify_one();
    }

    /// What the engine is busy with.
    #[must_use]
    pub fn stats(&self) -> EngineStats {
        EngineStats {
            active_runs: self.shared.runs.len(),
            max_active_runs: self.shared.config.max_active_runs,
            executions: self.shared.places.taken(),
        }
    }

    /// Stops driving. Executions go on; the leases are given up, so that the next server takes over
    /// at once.
    pub async fn shutdown(&self) {
        self.shared.stop.cancel();
        self.shared.tasks.close();

        // A driver may be waiting for a database that is away; its intent is committed, another
        // server goes on.
        if tokio::time::timeout(SHUTDOWN, self.shared.tasks.wait()).await.is_err() {
            // With its lease given up, a call still under way could meet what the next server does.
            tracing::warn!(
                "some runs did not come to rest in time; they go on when their leases run out"
            );
            return;
        }

        if let Err(error) = self.shared.journal.release(&self.shared.config.server_id).await {
            tracing::warn!(error = %crate::chain(&error), "cannot give up the leases; they run out \
                                                           by themselves");
        }
    }

    fn new_run(
        &self,
        namespace: NamespaceId,
        pipeline: PipelineId,
        variables: BTreeMap<String, String>,
        initiator: Initiator,
    ) -> NewRun {
        let token_nonce = rand::random();
        let token = self.shared.tokens.token(&token_nonce);
        NewRun {
            namespace,
            pipeline,
            version: None,
            variables,
            initiator,
            retry_of: None,
            reused: Vec::new(),
            idempotency_key: None,
            token_nonce,
            token_hash: run_token_hash(token.expose_secret()),
            at: self.shared.clock.now(),
            claim: leases::has_room(&self.shared).then(|| Claim {
                owner: self.shared.config.server_id.clone(),
                ttl: self.shared.config.lease_ttl,
                most: self.shared.config.max_active_runs,
                first: None,
            }),
        }
    }

    /// To its end, also when the caller goes away: a run that was claimed as it was inserted has to
    /// be driven.
    async fn insert(&self, new: NewRun) -> Result<Run, EngineError> {
        if self.shared.stop.is_cancelled() {
            return Err(EngineError::Stopped);
        }
        let shared = self.shared.clone();
        self.shared
            .tasks
            .spawn(async move { shared.insert(new).await })
            .await
            .unwrap_or(Err(EngineError::Stopped))
    }
}

/// Before anything is claimed: by a clock that is wrong this server would take what others hold.
async fn know_the_time(
    clock: &Clock,
    journal: &dyn Journal,
    ttl: Duration,
) -> Result<(), JournalError> {
    let mut backoff = Backoff::new("clock");
    loop {
        let apart = clock.follow(journal).await?;
        if apart <= precision(ttl) {
            return Ok(());
        }
        tracing::warn!(
            milliseconds = apart.as_millis(),
            "the database takes too long to say what time it is, will retry"
        );
        backoff.wait().await;
    }
}

impl Shared {
    async fn insert(self: &Arc<Self>, mut new: NewRun) -> Result<Run, EngineError> {
        let (namespace, pipeline) = (new.namespace.clone(), new.pipeline.clone());
        let _inserting = self.inserting.read().await;

        // Now, and not before the wait: what the journal stores of the lease begins with this, and
        // so does what is made of it.
        new.at = self.clock.now();
        let until = certain(new.at, self.config.lease_ttl);
        let begun = self.begun_with_insert(&mut new);
        let missed = self.runs.missed();
        let inserted = match self.journal.insert_run(new).await {
            Ok(inserted) => inserted,
            Err(error) => {
                // It may have taken effect, taken a lease, and superseded any of them.
                self.leases_doubtful.store(true, Ordering::Relaxed);
                self.reload(|key| key.namespace == namespace && key.pipeline == pipeline).await;
                return Err(error.into());
            }
        };

        for superseded in &inserted.superseded {
            self.tell(superseded, Message::Reload).await;
        }

        match inserted.claimed {
            Some((lease, snapshot)) => {
                let begun = lock(&begun).take();
                let known = begun.unwrap_or_else(|| Begun::not(snapshot, facts(&*self.scheduler)));
                self.begin(lease, Freshness::until(until), Some(known));

                // Cancelled meanwhile, by a client or a newer run, when there was no driver to
                // tell.
                if self.runs.missed() != missed
                    && let Some(driver) = self.runs.inbox(&inserted.run.key)
                {
                    driver.tell(Message::Reload).await;
                }
            }
            None if inserted.new => self.claim_wanted.notify_one(),
            None => {}
        }

        Ok(inserted.run)
    }

    /// Lets the run's first decision be committed with the run itself: where to go on once it is.
    fn begun_with_insert(&self, new: &mut NewRun) -> Arc<Mutex<Option<Begun>>> {
        let begun = Arc::new(Mutex::new(None));
        if let Some(claim) = &mut new.claim {
            let (slot, at, scheduler) = (begun.clone(), new.at, facts(&*self.scheduler));
            claim.first = Some(FirstCommit::new(move |lease, inserted| {
                let (now, commit) = Begun::by(at, lease, inserted, scheduler)?;
                *lock(&slot) = Some(now);
                Some(commit)
            }));
        }
        begun
    }

    fn spawn<F>(self: &Arc<Self>, part: impl FnOnce(Arc<Self>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let part = part(self.clone());
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = part => {}
            }
        });
    }

    /// Sends to the run's driver. A run nobody drives yet is claimed: a cancelled one may leave its
    /// queue.
    pub(crate) async fn tell(&self, key: &RunKey, message: Message) {
        match self.runs.reach(key) {
            Some(driver) => driver.tell(message).await,
            None => self.claim_wanted.notify_one(),
        }
    }

    /// After an error the wish may be recorded all the same, and a wish that was there already may
    /// be one of those.
    async fn tell_of_cancel(
        &self,
        key: &RunKey,
        changed: &Result<bool, JournalError>,
        wish: Input,
    ) {
        let message =
            if matches!(changed, Ok(true)) { Message::Input(wish) } else { Message::Reload };
        self.tell(key, message).await;
    }

    /// Lets the drivers of these runs look what is stored.
    pub(crate) async fn reload(&self, of: impl Fn(&RunKey) -> bool) {
        self.runs.miss();
        self.runs.tell_all(of, || Message::Reload).await;
        self.claim_wanted.notify_one();
    }
}
