//! The one handle: opens the right engine, and dispatches.

use std::fmt;
use std::sync::Arc;

use tokio::sync::watch;

use crate::config::{DbConfig, Target};
use crate::error::DbError;
use crate::headroom::QuotaBook;
use crate::specs::SpecCache;
use crate::{postgres, sqlite};

/// A database, in use by this process alone, or by several servers that share it. Cheap to clone.
#[derive(Clone)]
pub struct Db {
    inner: Arc<Inner>,
}

struct Inner {
    engine: Engine,
    target: Target,
    specs: Arc<SpecCache>,
    quotas: Arc<QuotaBook>,
    last_event: watch::Sender<u64>,
}

pub(crate) enum Engine {
    Sqlite(sqlite::Sqlite),
    Postgres(Box<postgres::Postgres>),
}

impl fmt::Debug for Db {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Db").field(&self.inner.target).finish()
    }
}

impl Db {
    /// Opens the database, makes it this process's own, and brings its schema up to date.
    ///
    /// # Errors
    /// `Config` for settings that make no sense; `Locked` when another server uses the database;
    /// `Corrupt` when a newer Gofer wrote it; `Unavailable` when it cannot be reached.
    pub async fn connect(config: DbConfig) -> Result<Self, DbError> {
        let target = config.target()?;
        let last_event = watch::Sender::new(0);
        let engine = match &target {
            Target::Sqlite(path) => Engine::Sqlite(
                sqlite::Sqlite::open(path.clone(), &config, last_event.clone()).await?,
            ),
            Target::Postgres(server) => Engine::Postgres(Box::new(
                postgres::Postgres::open(server, &target, &config, last_event.clone()).await?,
            )),
        };

        let quotas = Arc::new(QuotaBook::new(config.quotas));
        let db = Self {
            inner: Arc::new(Inner { engine, target, specs: Arc::default(), quotas, last_event }),
        };

        db.note_event(db.run_counts().await?.last_event_id);
        Ok(db)
    }

    /// Proves that the database can be read and is still this process's own, and says in one line
    /// what was found.
    ///
    /// # Errors
    /// With the next step for an operator in the message.
    pub async fn check(&self) -> Result<String, DbError> {
        let version = match &self.inner.engine {
            Engine::Sqlite(engine) => engine.version().await?,
            Engine::Postgres(engine) => engine.version().await?,
        };
        Ok(format!("{version} at {}", self.inner.target))
    }

    /// `sqlite` or `postgres`.
    #[must_use]
    pub fn product(&self) -> &'static str {
        match self.inner.engine {
            Engine::Sqlite(_) => "sqlite",
            Engine::Postgres(_) => "postgres",
        }
    }

    /// Finishes what was begun, closes every connection and gives the database up to another
    /// server. Later calls, on every clone, fail as unavailable.
    pub async fn close(&self) {
        match &self.inner.engine {
            Engine::Sqlite(engine) => engine.close().await,
            Engine::Postgres(engine) => engine.close().await,
        }
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.inner.engine
    }

    pub(crate) fn specs(&self) -> &Arc<SpecCache> {
        &self.inner.specs
    }

    pub(crate) fn quotas(&self) -> &Arc<QuotaBook> {
        &self.inner.quotas
    }

    pub(crate) fn watch_events(&self) -> watch::Receiver<u64> {
        self.inner.last_event.subscribe()
    }

    /// Tells followers; transactions may get here out of order, the number they see only grows.
    pub(crate) fn note_event(&self, id: u64) {
        note(&self.inner.last_event, id);
    }

    pub(crate) fn last_event_sender(&self) -> watch::Sender<u64> {
        self.inner.last_event.clone()
    }
}

pub(crate) fn note(last_event: &watch::Sender<u64>, id: u64) {
    last_event.send_if_modified(|known| {
        let newer = id > *known;
        *known = id.max(*known);
        newer
    });
}

/// As [`note`], in two steps: the number is there to be read before anybody is told.
pub(crate) fn note_silently(last_event: &watch::Sender<u64>, id: u64) {
    last_event.send_if_modified(|known| {
        *known = id.max(*known);
        false
    });
}

/// How this process is named to another server that finds the database taken.
pub(crate) fn this_process() -> String {
    let system = rustix::system::uname();
    format!("process {} on {}", std::process::id(), system.nodename().to_string_lossy())
}

/// What a spawned operation came to.
pub(crate) fn joined<T>(
    result: Result<Result<T, DbError>, tokio::task::JoinError>,
) -> Result<T, DbError> {
    result.unwrap_or_else(|error| Err(DbError::internal("a database operation broke off", error)))
}

/// Runs a query of `crate::queries` on a connection that reads, within a time limit. The arguments
/// move into it.
macro_rules! query {
    ($db:expr, $module:ident :: $call:ident ( $($arg:expr),* $(,)? )) => {
        match $db.engine() {
            $crate::db::Engine::Sqlite(engine) => {
                engine.read(move |c| $crate::sqlite::now($crate::sqlite::queries::$module::$call(c $(, $arg)*))).await
            }
            $crate::db::Engine::Postgres(engine) => {
                let pool = engine.pool();
                $crate::db::joined(tokio::spawn(async move {
                    let mut connection = pool.get().await.map_err($crate::postgres::pool_error)?;
                    let work = $crate::postgres::queries::$module::$call(&mut connection $(, $arg)*);
                    let answer = $crate::postgres::answer(work).await;
                    answer.unwrap_or_else(|late| Err($crate::postgres::give_up(&pool, connection, late)))
                }).await)
            }
        }
    };
}

/// Runs a query of `crate::queries` in a transaction of its own, with the events it records. The
/// arguments move into it, and it goes on, within a time limit, when the caller goes away.
macro_rules! transact {
    ($db:expr, $module:ident :: $call:ident ( $($arg:expr),* $(,)? )) => {
        match $db.engine() {
            $crate::db::Engine::Sqlite(engine) => {
                engine.write(move |tx| $crate::sqlite::now($crate::sqlite::queries::$module::$call(tx $(, $arg)*))).await
            }
            $crate::db::Engine::Postgres(engine) => {
                let pool = engine.pool();
                let instance = engine.instance();
                let last_event = $db.last_event_sender();
                $crate::db::joined(tokio::spawn(async move {
                    use diesel_async::AsyncConnection as _;
                    let mut connection = pool.get().await.map_err($crate::postgres::pool_error)?;
                    let work = connection
                        .transaction(async |c| {
                            let mut tx = $crate::postgres::queries::Tx::new(c);
                            let value = $crate::postgres::queries::$module::$call(&mut tx $(, $arg)*).await?;
                            let hints = instance.map(|_| gofer_core::journal::Hint::of(&tx.events));
                            let last = tx.flush().await?.last().map(|event| event.id);
                            if let (Some(instance), Some(hints), Some(last)) = (instance, hints, last) {
                                $crate::postgres::notices::send(c, instance, last, hints).await?;
                            }
                            Ok::<_, $crate::error::DbError>((value, last))
                        });
                    let answer = $crate::postgres::answer(work).await;
                    let (value, last) =
                        answer.unwrap_or_else(|late| Err($crate::postgres::give_up(&pool, connection, late)))?;
                    if let Some(last) = last {
                        $crate::db::note(&last_event, last);
                    }
                    Ok(value)
                }).await)
            }
        }
    };
}

pub(crate) use {query, transact};
