//! Servers without a wire: an engine and a database handle each, in a runtime of their own, so that
//! one can be killed or stand still alone. They share one PostgreSQL database, one scheduler, one
//! object store and one secret store.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use gofer_conformance::{MemoryObjectStore, MemoryScheduler, MemorySecretStore};
use gofer_core::object_store::{
    Access, ByteStream, ListPage, ObjectBody, ObjectList, ObjectMeta, ObjectStore, Presigned,
    PutOptions,
};
use gofer_core::pipeline::{CustomTask, PipelineSpec, TaskKind, TaskSpec};
use gofer_core::run::{Initiator, Run, RunStatus};
use gofer_core::scheduler::{
    ExecutionSpec, LogChunk, LogCursor, Observation, ReportedEnd, Scheduler, SchedulerCapabilities,
    WatchEvent, WorkloadIdentity,
};
use gofer_core::{
    BackendError, ExecutionId, NamespaceId, ObjectKey, PipelineId, RunKey, TaskId, Timestamp,
};
use gofer_db::{DatabaseUrl, Db, DbConfig, EventFilter, Registration};
use gofer_engine::{Backends, Engine, EngineConfig, StartRun};
use secrecy::SecretString;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::database::TestDatabase;
use crate::harness::eventually;

/// The lease of a fleet whose servers are expected to lose it.
pub(crate) const SHORT: Duration = Duration::from_secs(2);
/// The lease of a fleet in which whatever happens must happen long before one runs out.
pub(crate) const LONG: Duration = Duration::from_secs(300);

/// Everything that the servers share.
pub(crate) struct Fleet {
    pub(crate) scheduler: MemoryScheduler,
    pub(crate) objects: Arc<CountedStore>,
    backends: Backends,
    database: TestDatabase,
    lease_ttl: Duration,
}

impl Fleet {
    /// `None`, printed, without PostgreSQL.
    pub(crate) async fn create(test: &str, lease_ttl: Duration) -> Option<Self> {
        let database = TestDatabase::create(test).await?;
        let (scheduler, objects) = (MemoryScheduler::new(), Arc::new(CountedStore::default()));
        let scheduler = scheduler.with_identities(true);
        let backends = Backends {
            scheduler: Arc::new(Outliving {
                scheduler: scheduler.clone(),
                home: Handle::current(),
            }),
            objects: objects.clone(),
            secrets: Arc::new(MemorySecretStore::new()),
        };
        Some(Self { scheduler, objects, backends, database, lease_ttl })
    }

    pub(crate) async fn server(&self, name: &str) -> Server {
        self.server_with(name, |_| {}).await
    }

    pub(crate) async fn server_with(
        &self,
        name: &str,
        configure: impl FnOnce(&mut EngineConfig),
    ) -> Server {
        let db = DbConfig {
            url: Some(DatabaseUrl::new(self.database.url())),
            pool_size: 6,
            shared: true,
            ..DbConfig::default()
        };
        let mut config = EngineConfig {
            server_id: name.to_owned(),
            lease_ttl: self.lease_ttl,
            ..EngineConfig::default()
        };
        configure(&mut config);
        Server::start(db, self.backends.clone(), config).await
    }

    /// Fails if an execution was started more than once, or is left at the scheduler; returns once
    /// all are removed.
    pub(crate) async fn is_tidy(&self) {
        eventually("nothing is left at the scheduler", || async {
            let left = self.scheduler.executions();
            if left.is_empty() { Ok(()) } else { Err(left) }
        })
        .await;
    }
}

/// A server in a thread of its own.
pub(crate) struct Server {
    engine: Engine,
    db: Db,
    runtime: Handle,
    /// Dropped, it ends the thread without a word to anybody, as `kill -9` would.
    _alive: oneshot::Sender<()>,
}

impl Server {
    async fn start(db: DbConfig, backends: Backends, config: EngineConfig) -> Self {
        let (alive, killed) = oneshot::channel::<()>();
        let (sender, started) = oneshot::channel();
        let name = config.server_id.clone();
        let body = move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let db = Db::connect(db).await.unwrap();
                let engine = Engine::start(Arc::new(db.clone()), backends, config).await.unwrap();
                assert!(
                    sender.send((engine, db, Handle::current())).is_ok(),
                    "the test waits for it"
                );
                let _ = killed.await;
            });

            runtime.shutdown_background();
        };

        std::thread::Builder::new().name(name).spawn(body).unwrap();
        let (engine, db, runtime) = started.await.unwrap();
        Self { engine, db, runtime, _alive: alive }
    }

    /// Does something inside the server.
    pub(crate) async fn within<T, F>(&self, work: impl FnOnce(Engine, Db) -> F) -> T
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        self.runtime.spawn(work(self.engine.clone(), self.db.clone())).await.unwrap()
    }

    pub(crate) fn active_runs(&self) -> usize {
        self.engine.stats().active_runs
    }

    /// Waits until it drives this many runs.
    pub(crate) async fn drives(&self, runs: usize) {
        eventually(&format!("it drives {runs} runs"), || async {
            let active = self.active_runs();
            if active == runs { Ok(()) } else { Err(active) }
        })
        .await;
    }

    /// Nothing of the server moves, not even its clock, until the guard is dropped.
    pub(crate) async fn freeze(&self) -> Frozen {
        let (thaw, thawed) = std::sync::mpsc::channel::<()>();
        let (sender, frozen) = oneshot::channel();
        self.runtime.spawn(async move {
            let _ = sender.send(());
            let _ = thawed.recv();
        });
        frozen.await.unwrap();
        Frozen { _thaw: thaw }
    }

    pub(crate) async fn register(&self, spec: PipelineSpec) {
        let digest = format!("{:064x}", 1);
        let registration = Registration {
            namespace: namespace(),
            spec: Arc::new(spec),
            digest,
            expected_version: None,
        };
        self.within(|_, db| async move {
            db.pipeline_register(registration, "test", Timestamp::now()).await
        })
        .await
        .unwrap();
    }

    pub(crate) async fn start_run(&self, pipeline: &str) -> RunKey {
        let request = StartRun {
            namespace: namespace(),
            pipeline: PipelineId::new(pipeline).unwrap(),
            version: None,
            variables: BTreeMap::new(),
            initiator: Initiator::Token("test".to_owned()),
            idempotency_key: None,
        };
        self.within(|engine, _| async move { engine.start_run(request).await }).await.unwrap().key
    }

    pub(crate) async fn run(&self, key: &RunKey) -> Run {
        let key = key.clone();
        self.within(|_, db| async move { db.run_get(&key).await }).await.unwrap()
    }

    /// Waits until the run ended like this.
    pub(crate) async fn ended(&self, key: &RunKey, status: RunStatus) {
        eventually("the run is complete", || async {
            let run = self.run(key).await;
            if run.state == gofer_core::run::RunState::Complete(status) { Ok(()) } else { Err(run) }
        })
        .await;
    }

    /// How many events of this type there are, and that all of them are without a gap.
    pub(crate) async fn events(&self, of: &str) -> usize {
        let filter = EventFilter::default();
        let events = self
            .within(|_, db| async move { db.event_list_after(0, &filter, 1_000).await })
            .await
            .unwrap();
        assert!(
            events.iter().map(|event| event.id).eq(1..=events.len() as u64),
            "a gap in the events"
        );
        events.iter().filter(|event| event.body.details.type_name() == of).count()
    }
}

/// A server that stands still.
pub(crate) struct Frozen {
    _thaw: std::sync::mpsc::Sender<()>,
}

pub(crate) fn namespace() -> NamespaceId {
    NamespaceId::new("default").unwrap()
}

/// A chain of tasks, each with its steps for a [`MemoryScheduler`].
pub(crate) fn chain(name: &str, tasks: &[&[&str]]) -> PipelineSpec {
    let id = |at: usize| TaskId::new(format!("t{at}")).unwrap();
    let one = |(at, steps): (usize, &&[&str])| TaskSpec {
        id: id(at),
        description: String::new(),
        kind: TaskKind::Custom(CustomTask {
            command: steps.iter().map(|step| (*step).to_owned()).collect(),
            ..CustomTask::default()
        }),
        depends_on: at.checked_sub(1).map(id).map(after).into_iter().collect(),
        variables: BTreeMap::new(),
        retries: Default::default(),
        timeout: None,
        start_timeout: None,
        resources: Default::default(),
        continue_on_failure: false,
    };

    PipelineSpec {
        run_variables: Vec::new(),
        name: PipelineId::new(name).unwrap(),
        description: String::new(),
        tasks: tasks.iter().enumerate().map(one).collect(),
        variables: BTreeMap::new(),
        parallelism: None,
        overlap: Default::default(),
        subscriptions: Vec::new(),
        sdk: String::new(),
    }
}

fn after(task: TaskId) -> gofer_core::pipeline::Dependency {
    gofer_core::pipeline::Dependency { task, condition: Default::default() }
}

/// The first attempt of the chain's task at this place.
pub(crate) fn execution(run: &RunKey, at: usize) -> ExecutionId {
    ExecutionId {
        run: run.clone(),
        task: TaskId::new(format!("t{at}")).unwrap(),
        attempt: gofer_core::Attempt(1),
    }
}

/// Executions outlive the server that started them: they live in the test's own runtime.
#[derive(Debug)]
struct Outliving {
    scheduler: MemoryScheduler,
    home: Handle,
}

#[async_trait]
impl Scheduler for Outliving {
    fn capabilities(&self) -> SchedulerCapabilities {
        self.scheduler.capabilities()
    }

    fn incarnation(&self) -> u64 {
        self.scheduler.incarnation()
    }

    async fn check(&self) -> Result<String, BackendError> {
        self.scheduler.check().await
    }

    async fn start(&self, id: &ExecutionId, spec: &ExecutionSpec) -> Result<(), BackendError> {
        let (scheduler, id, spec) = (self.scheduler.clone(), id.clone(), spec.clone());
        self.home.spawn(async move { scheduler.start(&id, &spec).await }).await.unwrap()
    }

    async fn stop(&self, id: &ExecutionId, grace: Duration) -> Result<(), BackendError> {
        let (scheduler, id) = (self.scheduler.clone(), id.clone());
        self.home.spawn(async move { scheduler.stop(&id, grace).await }).await.unwrap()
    }

    async fn state(&self, id: &ExecutionId) -> Result<Observation, BackendError> {
        self.scheduler.state(id).await
    }

    async fn watch(
        &self,
    ) -> Result<BoxStream<'static, Result<WatchEvent, BackendError>>, BackendError> {
        self.scheduler.watch().await
    }

    async fn logs(
        &self,
        id: &ExecutionId,
        from: LogCursor,
        follow: bool,
    ) -> Result<BoxStream<'static, Result<LogChunk, BackendError>>, BackendError> {
        self.scheduler.logs(id, from, follow).await
    }

    async fn remove(&self, id: &ExecutionId) -> Result<(), BackendError> {
        self.scheduler.remove(id).await
    }

    fn identities(&self) -> Option<&dyn WorkloadIdentity> {
        Some(self)
    }
}

#[async_trait]
impl WorkloadIdentity for Outliving {
    async fn identify(&self, token: &SecretString) -> Result<ExecutionId, BackendError> {
        self.scheduler.identify(token).await
    }

    /// As on Nomad: only the server that was told knows of it, and tells only its own watchers. In
    /// these tests that is one that does not drive the run, so that nobody hears.
    async fn report_end(
        &self,
        token: &SecretString,
        _: ReportedEnd,
    ) -> Result<ExecutionId, BackendError> {
        self.scheduler.identify(token).await
    }

    async fn accept_forwarded_end(
        &self,
        id: &ExecutionId,
        end: ReportedEnd,
    ) -> Result<(), BackendError> {
        self.scheduler.accept_forwarded_end(id, end).await
    }
}

/// Counts what is put and deleted, by key.
#[derive(Debug, Default)]
pub(crate) struct CountedStore {
    store: MemoryObjectStore,
    puts: Mutex<BTreeMap<String, usize>>,
    deletes: Mutex<BTreeMap<String, usize>>,
}

impl CountedStore {
    pub(crate) fn puts(&self) -> BTreeMap<String, usize> {
        self.puts.lock().unwrap().clone()
    }

    pub(crate) fn deletes(&self) -> BTreeMap<String, usize> {
        self.deletes.lock().unwrap().clone()
    }
}

#[async_trait]
impl ObjectStore for CountedStore {
    async fn check(&self) -> Result<String, BackendError> {
        self.store.check().await
    }

    async fn put(
        &self,
        key: &ObjectKey,
        body: ByteStream,
        options: PutOptions,
    ) -> Result<ObjectMeta, BackendError> {
        *self.puts.lock().unwrap().entry(key.to_string()).or_default() += 1;
        self.store.put(key, body, options).await
    }

    async fn get(&self, key: &ObjectKey) -> Result<ObjectBody, BackendError> {
        self.store.get(key).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, BackendError> {
        self.store.head(key).await
    }

    async fn list(&self, prefix: &str, page: ListPage) -> Result<ObjectList, BackendError> {
        self.store.list(prefix, page).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), BackendError> {
        *self.deletes.lock().unwrap().entry(key.to_string()).or_default() += 1;
        self.store.delete(key).await
    }

    async fn presign(
        &self,
        key: &ObjectKey,
        access: Access,
        ttl: Duration,
    ) -> Result<Option<Presigned>, BackendError> {
        self.store.presign(key, access, ttl).await
    }
}
