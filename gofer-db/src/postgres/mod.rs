//! The PostgreSQL engine: a pool, one connection more that holds the server's lock, and one that
//! listens if several share it.

mod connect;
pub(crate) mod engine;
mod lock;
pub(crate) mod notify;
#[path = "../queries/mod.rs"]
pub(crate) mod queries;

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::Duration;

use deadpool::Runtime;
use diesel::sql_types::Text;
use diesel_async::pooled_connection::deadpool::{Object, Pool, PoolError};
use diesel_async::pooled_connection::{
    AsyncDieselConnectionManager, ManagerConfig, RecyclingMethod,
};
use diesel_async::{AsyncMigrationHarness, AsyncPgConnection, SimpleAsyncConnection as _};
use diesel_migrations::{EmbeddedMigrations, embed_migrations};
use futures::stream::{self, BoxStream};
use futures::{FutureExt as _, StreamExt as _};
use gofer_core::journal::Hint;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::error::Elapsed;

use crate::config::{DbConfig, Target};
use crate::error::DbError;
use connect::Connector;

pub(crate) use diesel_async::RunQueryDsl;

/// What the queries run on.
pub(crate) type Conn = AsyncPgConnection;

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations/postgres");

/// Key of the advisory lock that serialises migrations; diesel_migrations takes none of its own.
const MIGRATION_LOCK: i64 = 0x676f_6665_7200;

/// How long an operation on a connection may take. Beyond the limit of each statement, so that the
/// server gives up first if it is there; a network that swallows everything and acknowledges it (a
/// proxy) shows in no other way.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// How often the server makes sure that it still has its lock, which PostgreSQL forgets with a
/// restart.
const LOCK_CHECK_INTERVAL: Duration = Duration::from_secs(5);

pub(crate) struct Postgres {
    pool: Pool<Conn>,
    lock: Arc<lock::Lock>,
    /// Keeps the lock.
    keeper: AbortHandle,
    /// `None` when nobody else uses the database.
    hints: Option<notify::HintSource>,
    acquire_timeout: Duration,
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl Postgres {
    pub(crate) async fn open(
        server: &tokio_postgres::Config,
        target: &Target,
        config: &DbConfig,
        last_event: watch::Sender<u64>,
    ) -> Result<Self, DbError> {
        let connector = Connector::new(server, &config.tls)?;
        let lock =
            Arc::new(lock::Lock::take(connector.clone(), target.to_string(), config.shared).await?);
        migrate(&connector).await?;
        let hints = config.shared.then(|| {
            // Random, and different for each server.
            let instance = RandomState::new().hash_one(std::process::id());
            notify::HintSource::start(connector.clone(), instance, last_event)
        });
        let pool = pool(connector, config)?;
        let keeper = tokio::spawn(keep(lock.clone())).abort_handle();
        Ok(Self { pool, lock, keeper, hints, acquire_timeout: config.acquire_timeout })
    }

    pub(crate) fn pool(&self) -> Pool<Conn> {
        self.pool.clone()
    }

    /// Names this server in its notifications, when others listen.
    pub(crate) fn instance(&self) -> Option<u64> {
        self.hints.as_ref().map(notify::HintSource::instance)
    }

    /// What other servers commit from now on.
    pub(crate) async fn subscribe_hints(&self) -> Result<BoxStream<'static, Hint>, DbError> {
        match &self.hints {
            Some(hints) => hints.subscribe(self.acquire_timeout).await,
            None => Ok(stream::pending().boxed()),
        }
    }

    /// Tells the other servers, if there may be any.
    pub(crate) async fn publish_hint(&self, hint: Hint) -> Result<(), DbError> {
        let Some(instance) = self.instance() else { return Ok(()) };
        let pool = self.pool();
        let task = tokio::spawn(async move {
            let mut connection = pool.get().await.map_err(pool_error)?;
            match answer(notify::publish(&mut connection, instance, 0, vec![hint])).await {
                Ok(told) => told,
                Err(late) => Err(give_up(&pool, connection, late)),
            }
        });
        crate::support::joined(task.await)
    }

    pub(crate) async fn version(&self) -> Result<String, DbError> {
        self.lock.check().await?;
        let pool = self.pool();
        let task = tokio::spawn(async move {
            let mut connection = pool.get().await.map_err(pool_error)?;
            let version =
                diesel::select(diesel::dsl::sql::<Text>("current_setting('server_version')"));
            match answer(version.get_result::<String>(&mut connection)).await {
                Ok(version) => Ok(version?),
                Err(late) => Err(give_up(&pool, connection, late)),
            }
        });
        Ok(format!("PostgreSQL {}", crate::support::joined(task.await)?))
    }

    pub(crate) async fn close(&self) {
        self.keeper.abort();
        self.pool.close();
        self.lock.release().await;
    }
}

fn pool(connector: Connector, config: &DbConfig) -> Result<Pool<Conn>, DbError> {
    let mut manager = ManagerConfig::<Conn>::default();
    // Fast still sees a closed socket; Verified would send a query before every query.
    manager.recycling_method = RecyclingMethod::Fast;
    manager.custom_setup = Box::new(move |_| {
        let connector = connector.clone();
        async move { connector.connect().await }.boxed()
    });

    let manager = AsyncDieselConnectionManager::<Conn>::new_with_config("", manager);
    Pool::builder(manager)
        .max_size(config.pool_size)
        .runtime(Runtime::Tokio1)
        .wait_timeout(Some(config.acquire_timeout))
        .create_timeout(Some(config.acquire_timeout))
        .build()
        .map_err(|error| DbError::internal("cannot make the database's connection pool", error))
}

/// What the database says, if it says anything in time.
pub(crate) async fn answer<T>(work: impl Future<Output = T>) -> Result<T, Elapsed> {
    tokio::time::timeout(ANSWER_TIMEOUT, work).await
}

/// The end of an operation that got no answer: nobody must use its connection again, and those that
/// lie idle are as old.
pub(crate) fn give_up(pool: &Pool<Conn>, connection: Object<Conn>, late: Elapsed) -> DbError {
    drop(Object::take(connection));
    pool.retain(|_, _| false);
    DbError::unavailable("the database does not answer", late)
}

/// Takes the lock again when it was lost, so that no other server gets in unnoticed.
async fn keep(lock: Arc<lock::Lock>) {
    loop {
        tokio::time::sleep(LOCK_CHECK_INTERVAL).await;
        if let Err(error) = lock.check().await {
            tracing::warn!(%error, "cannot make sure of the database's lock, will try again");
        }
    }
}

pub(crate) fn pool_error(error: PoolError) -> DbError {
    let message = match &error {
        PoolError::Timeout(_) => {
            "every database connection is busy, or the database does not answer"
        }
        PoolError::Closed => "the database is closed",
        _ => "cannot connect to the database",
    };
    DbError::unavailable(message, error)
}

async fn migrate(connector: &Connector) -> Result<(), DbError> {
    let mut connection = connector.connect().await.map_err(connect::cannot_connect)?;
    // The session ends with this function, and the lock with it. Whoever waits for it waits for a
    // migration.
    connection
        .batch_execute(&format!(
            "SET statement_timeout = 0; SELECT pg_advisory_lock({MIGRATION_LOCK})"
        ))
        .await?;
    // On a thread that may block: the harness refuses a single-threaded runtime's own thread.
    let task = tokio::task::spawn_blocking(move || {
        crate::migrate::run(&mut AsyncMigrationHarness::new(connection), MIGRATIONS)
    });
    crate::support::joined(task.await)
}
