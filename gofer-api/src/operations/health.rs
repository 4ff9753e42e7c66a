//! How the backends are.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use gofer_core::Timestamp;
use gofer_core::error::chain;
use gofer_core::object_store::ObjectStore;
use gofer_core::scheduler::Scheduler;
use gofer_core::secret_store::SecretStore;
use gofer_db::Db;
use tokio::sync::Mutex;

/// Longest check of one backend.
const BACKEND_CHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// Which products are behind the backends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Products {
    pub(crate) scheduler: &'static str,
    pub(crate) objects: &'static str,
    pub(crate) secrets: &'static str,
}

/// Which of the four backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BackendKind {
    Database,
    Scheduler,
    ObjectStore,
    SecretStore,
}

/// What the last check of a backend said.
#[derive(Debug, Clone)]
pub(crate) struct BackendHealth {
    pub(crate) kind: BackendKind,
    pub(crate) product: &'static str,
    pub(crate) ok: bool,
    /// What was found, or what is wrong.
    pub(crate) message: String,
    pub(crate) checked_at: Timestamp,
}

/// The backends, and what their last check said.
pub(crate) struct Health {
    db: Db,
    scheduler: Arc<dyn Scheduler>,
    objects: Arc<dyn ObjectStore>,
    secrets: Arc<dyn SecretStore>,
    products: Products,
    /// Held during a check: of several callers one checks and all wait, so that nobody can make
    /// backends busy with it.
    last: Mutex<Vec<BackendHealth>>,
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Health").field("products", &self.products).finish_non_exhaustive()
    }
}

impl Health {
    /// Nothing is checked yet.
    pub(crate) fn new(db: Db, backends: &gofer_engine::Backends, products: Products) -> Self {
        Self {
            db,
            scheduler: backends.scheduler.clone(),
            objects: backends.objects.clone(),
            secrets: backends.secrets.clone(),
            products,
            last: Mutex::default(),
        }
    }

    /// What is known; a first call checks.
    pub(crate) async fn last(&self) -> Vec<BackendHealth> {
        let mut last = self.last.lock().await;
        if last.is_empty() {
            *last = self.check_all().await;
        }
        last.clone()
    }

    /// Checks every backend now.
    pub(crate) async fn check(&self) -> Vec<BackendHealth> {
        let mut last = self.last.lock().await;
        *last = self.check_all().await;
        last.clone()
    }

    async fn check_all(&self) -> Vec<BackendHealth> {
        let database = async { self.db.check().await.map_err(|error| chain(&error)) };
        let scheduler = async { self.scheduler.check().await.map_err(|error| error.chain()) };
        let objects = async { self.objects.check().await.map_err(|error| error.chain()) };
        let secrets = async { self.secrets.check().await.map_err(|error| error.chain()) };
        let (database, scheduler, objects, secrets) =
            tokio::join!(within(database), within(scheduler), within(objects), within(secrets));
        vec![
            report(BackendKind::Database, self.db.product(), database),
            report(BackendKind::Scheduler, self.products.scheduler, scheduler),
            report(BackendKind::ObjectStore, self.products.objects, objects),
            report(BackendKind::SecretStore, self.products.secrets, secrets),
        ]
    }
}

async fn within(check: impl Future<Output = Result<String, String>>) -> Result<String, String> {
    let too_slow = |_| Err(format!("no answer within {} s", BACKEND_CHECK_TIMEOUT.as_secs()));
    tokio::time::timeout(BACKEND_CHECK_TIMEOUT, check).await.unwrap_or_else(too_slow)
}

fn report(
    kind: BackendKind,
    product: &'static str,
    outcome: Result<String, String>,
) -> BackendHealth {
    let (ok, message) = match outcome {
        Ok(found) => (true, found),
        Err(problem) => (false, problem),
    };
    BackendHealth { kind, product, ok, message, checked_at: Timestamp::now() }
}
