//! One life of a server: an engine in a runtime of its own, whose clock runs only when the
//! simulation lets it. Dropping the runtime is `kill -9`.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use gofer_conformance::{MemoryJournal, MemoryObjectStore, MemorySecretStore};
use gofer_core::Timestamp;
use gofer_core::journal::Journal;
use gofer_engine::{Backends, Engine, EngineConfig};
use tokio::runtime::Runtime;
use tokio::time::Instant;

use crate::hints::Hints;
use crate::journal::SimJournal;
use crate::link::{DieAt, Link};
use crate::model::Model;
use crate::scheduler::{SimScheduler, Site};
use crate::stores::{SimObjects, SimSecrets};
use crate::world::{World, lock};

/// What is left when every server is dead.
#[derive(Debug, Clone)]
pub(crate) struct Remains {
    pub(crate) world: Arc<World>,
    pub(crate) site: Arc<Site>,
    pub(crate) journal: Arc<MemoryJournal>,
    pub(crate) hints: Arc<Hints>,
    pub(crate) objects: Arc<MemoryObjectStore>,
    pub(crate) secrets: Arc<MemorySecretStore>,
    pub(crate) model: Arc<Mutex<Model>>,
}

pub(crate) struct Server {
    pub(crate) link: Arc<Link>,
    pub(crate) runtime: Runtime,
    engine: Arc<Mutex<Option<Engine>>>,
}

impl Server {
    pub(crate) fn boot(
        remains: &Remains,
        slot: usize,
        life: usize,
        die_at: Option<DieAt>,
        skew: i64,
        config: EngineConfig,
    ) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        let at = remains.world.now().0;
        let owner = config.server_id.clone();
        let name = format!("{owner}#{life}");

        debug_assert!(owner.starts_with(char::from(b'a' + u8::try_from(slot).expect("few"))));
        let world = remains.world.clone();
        let link = runtime.block_on(async { Arc::new(Link::new(world, name, die_at, at)) });
        let engine = Arc::new(Mutex::new(None));
        remains.world.trace(at, &link.name, || "boots".to_owned());
        runtime.spawn(boot(remains.clone(), link.clone(), skew, config, engine.clone()));

        Self { link, runtime, engine }
    }

    /// The engine, once it has started.
    pub(crate) fn engine(&self) -> Option<Engine> {
        lock(&self.engine).clone()
    }

    /// Lets it live until `at`, or until it dies.
    pub(crate) fn live_until(&self, at: i64) {
        let (dead, until) = (self.link.dead.clone(), self.link.instant(at));
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                () = dead.cancelled() => {}
                () = tokio::time::sleep_until(until) => {}
            }
        });
    }

    /// What its clock shows. Outside of its runtime tokio would ask the machine's clock.
    pub(crate) fn now(&self) -> i64 {
        let _inside = self.runtime.enter();
        self.link.now()
    }

    pub(crate) fn kill(&self) {
        let _inside = self.runtime.enter();
        self.link.kill();
    }

    /// Its clock goes on as it stood still meanwhile.
    pub(crate) fn wake_up(&self, at: i64) {
        self.link.wakes_up();
        let until = self.link.instant(at);
        self.runtime.block_on(async {
            tokio::time::advance(until.saturating_duration_since(Instant::now())).await
        });
    }
}

/// What a server's `main` does: leases of the life before are nobody's; then the engine, tried
/// until it starts.
async fn boot(
    remains: Remains,
    link: Arc<Link>,
    skew: i64,
    config: EngineConfig,
    slot: Arc<Mutex<Option<Engine>>>,
) {
    let journal: Arc<dyn Journal> = Arc::new(SimJournal {
        link: link.clone(),
        stored: remains.journal,
        model: remains.model,
        hints: remains.hints,
    });

    while journal.release(&config.server_id).await.is_err() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    loop {
        let backends = Backends {
            scheduler: Arc::new(SimScheduler {
                link: link.clone(),
                site: remains.site.clone(),
                told: Arc::default(),
            }),
            objects: Arc::new(SimObjects { link: link.clone(), stored: remains.objects.clone() }),
            secrets: Arc::new(SimSecrets { link: link.clone(), stored: remains.secrets.clone() }),
        };

        let config =
            EngineConfig { starts_at: Some(Timestamp(link.now() + skew)), ..config.clone() };
        match Engine::start(journal.clone(), backends, config).await {
            Ok(engine) => {
                *lock(&slot) = Some(engine);
                return;
            }
            Err(error) => {
                link.trace(|| format!("does not start: {error}"));
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

impl Server {
    /// Nothing is being driven, and no slot is taken.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.engine().is_some_and(|engine| {
            let stats = engine.stats();
            (stats.active_runs, stats.executions) == (0, 0)
        })
    }
}
