//! The engine: claims runs, keeps their leases, listens to the scheduler, and takes orders.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use gofer_core::journal::{Journal, JournalError, Lease, NewRun};
use gofer_core::object_store::ObjectStore;
use gofer_core::run::{CancelRequest, Initiator, Run, TaskState, TaskStatus};
use gofer_core::scheduler::{LogChunk, LogCursor, Scheduler};
use gofer_core::secret_store::SecretStore;
use gofer_core::{ExecutionId, NamespaceId, PipelineId, RunKey, TaskId, Timestamp, Version, validate};
use secrecy::ExposeSecret;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backoff::Backoff;
use crate::clock::Clock;
use crate::driver::drive;
use crate::error::EngineError;
use crate::execution::Message;
use crate::freshness::Freshness;
use crate::guard::Timed;
use crate::machine::Input;
use crate::places::Places;
use crate::token::{RunTokens, run_token_hash};
use crate::writer::Writer;
use crate::{archiver, logs, retention};

/// Messages that may wait for one run's driver; senders wait beyond it.
const DRIVER_QUEUE: usize = 256;
/// Longest wait for drivers to come to rest.
const SHUTDOWN: Duration = Duration::from_secs(5);
/// Runs claimed at a time.
const CLAIM_PAGE: usize = 64;

/// Limits and periods of an engine.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Names this server among those that share a database.
    pub server_id: String,
    /// Where tasks reach the API, such as `http://127.0.0.1:8469`; `None` leaves `GOFER_API_ADDR` out.
    pub api_addr: Option<String>,
    /// How long a run stays this server's without being renewed; renewed three times as often.
    pub lease_ttl: Duration,
    /// Executions in flight at once; further ones wait for a place.
    pub max_executions: usize,
    /// Archived logs are kept this long after their attempt ended.
    pub log_retention: Duration,
    /// Run objects are kept for this many newest runs of each pipeline.
    pub run_objects_keep_runs: u64,
    /// The time it is when the engine starts; `None` asks the system. A simulation has a time of its own.
    pub starts_at: Option<Timestamp>,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            server_id: "local".to_owned(),
            api_addr: None,
            lease_ttl: Duration::from_secs(15),
            max_executions: 64,
            log_retention: Duration::from_secs(90 * 24 * 3600),
            run_objects_keep_runs: 20,
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
    pub(crate) archive_wanted: Notify,
    /// Changes after each transaction of the writer.
    pub(crate) committed: watch::Receiver<u64>,
    pub(crate) stop: CancellationToken,
    claim_wanted: Notify,
    runs: Mutex<BTreeMap<RunKey, Driver>>,
    tasks: TaskTracker,
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
        let secrets: Arc<dyn SecretStore> = Arc::new(Timed(backends.secrets));
        let tokens = RunTokens::open(secrets.as_ref()).await?;
        let (commits, committed) = watch::channel(0);
        let shared = Arc::new(Shared {
            writer: Writer::start(journal.clone(), commits),
            journal,
            scheduler: Arc::new(Timed(backends.scheduler)),
            objects: Arc::new(Timed(backends.objects)),
            secrets,
            tokens,
            clock: Clock::new(config.starts_at),
            places: Places::new(config.max_executions),
            config,
            archive_wanted: Notify::new(),
            committed,
            stop: CancellationToken::new(),
            claim_wanted: Notify::new(),
            runs: Mutex::default(),
            tasks: TaskTracker::new(),
        });
        shared.spawn(listen);
        shared.spawn(claim_runs);
        shared.spawn(renew_leases);
        shared.spawn(archiver::run);
        shared.spawn(retention::run);
        Ok(Self { shared })
    }

    /// Commits a run. When this returns, the run will be executed, whatever happens to this server.
    ///
    /// # Errors
    /// `Invalid` for bad variables, `NotFound`, `Disabled`, or the database's own.
    pub async fn start_run(&self, request: StartRun) -> Result<Run, EngineError> {
        let mut violations = Vec::new();
        validate::variables("variables", &request.variables, &mut violations);
        if !violations.is_empty() {
            return Err(EngineError::Invalid(violations));
        }
        let StartRun { namespace, pipeline, version, variables, initiator, idempotency_key } = request;
        let new = self.new_run(namespace, pipeline, variables, initiator);
        self.insert(NewRun { version, idempotency_key, ..new }).await
    }

    /// Repeats a complete run: the whole of it, or only what did not end successfully.
    ///
    /// # Errors
    /// `NotFound`, `NotComplete`, `Disabled`, or the database's own.
    pub async fn retry_run(&self, key: &RunKey, from_failed: bool, initiator: Initiator) -> Result<Run, EngineError> {
        let old = self.shared.journal.load(key).await?;
        if !old.run.state.is_complete() {
            return Err(EngineError::NotComplete { key: key.to_string() });
        }
        let successful = TaskState::Complete(TaskStatus::Successful);
        let reused = match from_failed {
            true => old.tasks.values().filter(|task| task.state == successful).map(|task| task.task.clone()).collect(),
            false => Vec::new(),
        };
        let new = self.new_run(key.namespace.clone(), key.pipeline.clone(), old.run.variables, initiator);
        self.insert(NewRun { version: Some(old.run.version), retry_of: Some(key.run), reused, ..new }).await
    }

    /// Asks that a run end. Returns whether there was anything left to cancel.
    ///
    /// # Errors
    /// `NotFound`, or the database's own.
    pub async fn cancel_run(&self, key: &RunKey, request: CancelRequest) -> Result<bool, EngineError> {
        let changed = self.shared.journal.request_cancel(key, None, request.clone()).await;
        self.shared.tell_of_cancel(key, &changed, Input::CancelRun(request)).await;
        Ok(changed?)
    }

    /// Asks that one task of a run end. Returns whether there was anything left to cancel.
    ///
    /// # Errors
    /// `NotFound`, or the database's own.
    pub async fn cancel_task(&self, key: &RunKey, task: &TaskId, request: CancelRequest) -> Result<bool, EngineError> {
        let changed = self.shared.journal.request_cancel(key, Some(task), request.clone()).await;
        self.shared.tell_of_cancel(key, &changed, Input::CancelTask(task.clone(), request)).await;
        Ok(changed?)
    }

    /// An attempt's log, masked, from a position; live while it runs, else from the archive. With `follow` it waits for
    /// an attempt that has not started, and ends by itself after the attempt did.
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

    /// What the engine is busy with.
    #[must_use]
    pub fn stats(&self) -> EngineStats {
        EngineStats {
            active_runs: self.shared.runs.lock().unwrap_or_else(PoisonError::into_inner).len(),
            executions: self.shared.places.taken(),
        }
    }

    /// Stops driving. Executions go on; the leases are given up, so that the next server takes over at once.
    pub async fn shutdown(&self) {
        self.shared.stop.cancel();
        self.shared.tasks.close();
        // A driver may be waiting for a database that is away; its intent is committed, another server goes on.
        if tokio::time::timeout(SHUTDOWN, self.shared.tasks.wait()).await.is_err() {
            // With its lease given up, a call still under way could meet what the next server does.
            tracing::warn!("some runs did not come to rest in time; they go on when their leases run out");
            return;
        }
        if let Err(error) = self.shared.journal.release(&self.shared.config.server_id).await {
            tracing::warn!(error = %crate::chain(&error), "cannot give up the leases; they run out by themselves");
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
        }
    }

    async fn insert(&self, new: NewRun) -> Result<Run, EngineError> {
        if self.shared.stop.is_cancelled() {
            return Err(EngineError::Stopped);
        }
        let (namespace, pipeline) = (new.namespace.clone(), new.pipeline.clone());
        let inserted = match self.shared.journal.insert_run(new).await {
            Ok(inserted) => inserted,
            Err(error) => {
                // It may have taken effect, and superseded any of them.
                self.shared.reload(|key| key.namespace == namespace && key.pipeline == pipeline).await;
                return Err(error.into());
            }
        };
        self.shared.reload(|key| inserted.superseded.contains(key)).await;
        if inserted.new {
            self.shared.claim_wanted.notify_one();
        }
        Ok(inserted.run)
    }
}

impl Shared {
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

    /// Sends to the run's driver. A run nobody drives yet is claimed: a cancelled one may leave its queue.
    async fn tell(&self, key: &RunKey, message: Message) {
        let driver = self.runs.lock().unwrap_or_else(PoisonError::into_inner).get(key).map(|run| run.inbox.clone());
        match driver {
            // A driver that is just ending has completed the run.
            Some(driver) => drop(driver.send(message).await),
            None => self.claim_wanted.notify_one(),
        }
    }

    /// After an error the wish may be recorded all the same, and a wish that was there already may be one of those.
    async fn tell_of_cancel(&self, key: &RunKey, changed: &Result<bool, JournalError>, wish: Input) {
        let message = if matches!(changed, Ok(true)) { Message::Input(wish) } else { Message::Reload };
        self.tell(key, message).await;
    }

    /// Lets the drivers of these runs look what is stored.
    async fn reload(&self, of: impl Fn(&RunKey) -> bool) {
        let drivers: Vec<_> = {
            let runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
            runs.iter().filter(|(key, _)| of(key)).map(|(_, run)| run.inbox.clone()).collect()
        };
        for driver in drivers {
            // One that is gone has completed its run.
            let _ = driver.send(Message::Reload).await;
        }
        self.claim_wanted.notify_one();
    }

    /// Makes every driver end, and waits until no call of theirs is under way.
    async fn rest(&self) {
        let ended: Vec<_> = {
            let runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
            runs.values().inspect(|run| run.gone.cancel()).map(|run| run.ended.clone()).collect()
        };
        for ended in ended {
            ended.cancelled().await;
        }
    }

    /// Whatever leases this server still held were renewed.
    async fn prolonged(&self, until: Timestamp) {
        let now = self.clock.now();
        let mut doubtful = Vec::new();
        for run in self.runs.lock().unwrap_or_else(PoisonError::into_inner).values() {
            if run.freshness.holds(now) {
                run.freshness.prolong(until);
            } else {
                doubtful.push(run.inbox.clone());
            }
        }
        for driver in doubtful {
            let _ = driver.send(Message::Prolonged(until)).await;
        }
    }

    fn begin(self: &Arc<Self>, lease: Lease, freshness: Freshness) {
        let (driver, inbox) = mpsc::channel(DRIVER_QUEUE);
        let (key, epoch) = (lease.run.clone(), lease.epoch);
        let (gone, ended) = (self.stop.child_token(), CancellationToken::new());
        let entry = Driver {
            epoch,
            inbox: driver.clone(),
            freshness: freshness.clone(),
            gone: gone.clone(),
            ended: ended.clone(),
        };
        let before = self.runs.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone(), entry);
        let shared = self.clone();
        self.tasks.spawn(async move {
            let _ended = ended.drop_guard();
            // This server had lost the lease and did not know; what it began must be over before anything is repeated.
            if let Some(before) = before {
                before.gone.cancel();
                before.ended.cancelled().await;
            }
            drive(shared.clone(), lease, freshness, gone, driver, inbox).await;
            let mut runs = shared.runs.lock().unwrap_or_else(PoisonError::into_inner);
            if runs.get(&key).is_some_and(|run| run.epoch == epoch) {
                runs.remove(&key);
            }
            drop(runs);
            // Its end may make room for the next run of the pipeline.
            shared.claim_wanted.notify_one();
        });
    }
}

/// Who drives a run.
#[derive(Debug)]
struct Driver {
    epoch: u64,
    inbox: mpsc::Sender<Message>,
    freshness: Freshness,
    /// Makes it end.
    gone: CancellationToken,
    /// Cancelled once it has.
    ended: CancellationToken,
}

/// Claims whenever there may be something: a new run, an end that made room, and lease by lease what other servers lost.
async fn claim_runs(shared: Arc<Shared>) {
    let mut backoff = Backoff::new(("claim", &shared.config.server_id));
    loop {
        let ttl = shared.config.lease_ttl;
        let now = shared.clock.now();
        match shared.journal.claim(&shared.config.server_id, now, ttl, CLAIM_PAGE).await {
            Ok(leases) => {
                backoff.reset();
                let full = leases.len() == CLAIM_PAGE;
                leases.into_iter().for_each(|lease| shared.begin(lease, Freshness::until(now.after(ttl))));
                if full {
                    continue;
                }
                let runs = shared.runs.lock().unwrap_or_else(PoisonError::into_inner);
                shared.places.release_others(|run| runs.contains_key(run));
            }
            Err(error) => {
                tracing::warn!(error = %crate::chain(&error), "cannot claim runs yet, will retry");
                backoff.wait().await;
                give_up_unknown_leases(&shared).await;
                continue;
            }
        }
        // Without news, look again when a lease of another server may have run out.
        let _ = tokio::time::timeout(ttl, shared.claim_wanted.notified()).await;
    }
}

/// A claim that answered with an error may have taken leases all the same. Nobody would ever drive those runs, and
/// renewing would keep them from others: if there are such leases, all are given up and claimed again.
async fn give_up_unknown_leases(shared: &Shared) {
    let (owner, ttl) = (&shared.config.server_id, shared.config.lease_ttl);
    let mut backoff = Backoff::new(("unknown leases", owner));
    loop {
        // Only this task claims, so there is no lease on its way. A lease that ran out may be among those unknown.
        let now = shared.clock.now();
        let known = {
            let runs = shared.runs.lock().unwrap_or_else(PoisonError::into_inner);
            runs.values().filter(|run| run.freshness.holds(now)).count()
        };
        let settled = match shared.journal.renew(owner, now, ttl).await {
            Ok(held) if held <= known => Ok(()),
            Ok(_) => {
                shared.rest().await;
                shared.journal.release(owner).await
            }
            Err(error) => Err(error),
        };
        match settled {
            Ok(()) => return,
            Err(error) => {
                tracing::warn!(error = %crate::chain(&error), "cannot look at the leases yet, will retry");
                backoff.wait().await;
            }
        }
    }
}

async fn renew_leases(shared: Arc<Shared>) {
    let ttl = shared.config.lease_ttl;
    loop {
        tokio::time::sleep(ttl / 3).await;
        let now = shared.clock.now();
        match shared.journal.renew(&shared.config.server_id, now, ttl).await {
            Ok(_) => shared.prolonged(now.after(ttl)).await,
            Err(error) => tracing::warn!(error = %crate::chain(&error), "cannot renew the leases, will retry"),
        }
    }
}

/// Listens to the scheduler for every run; after each (re)connect all drivers ask for what was missed.
async fn listen(shared: Arc<Shared>) {
    let mut backoff = Backoff::new(("listen", &shared.config.server_id));
    loop {
        match shared.scheduler.watch().await {
            Ok(mut events) => {
                let drivers: Vec<_> = {
                    let runs = shared.runs.lock().unwrap_or_else(PoisonError::into_inner);
                    runs.values().map(|run| run.inbox.clone()).collect()
                };
                for driver in drivers {
                    let _ = driver.send(Message::Reconcile).await;
                }
                while let Some(event) = events.next().await {
                    match event {
                        Ok(event) => {
                            backoff.reset();
                            let driver = {
                                let runs = shared.runs.lock().unwrap_or_else(PoisonError::into_inner);
                                runs.get(&event.id.run).map(|run| run.inbox.clone())
                            };
                            if let Some(driver) = driver {
                                let _ = driver.send(Message::Observed(event.id, event.state, 0)).await;
                            }
                        }
                        Err(error) => {
                            tracing::warn!(error = %error.chain(), "the scheduler's events broke off, will reconnect");
                            break;
                        }
                    }
                }
            }
            Err(error) => tracing::warn!(error = %error.chain(), "cannot listen to the scheduler yet, will retry"),
        }
        backoff.wait().await;
    }
}
