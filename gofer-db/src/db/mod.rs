//! The one handle: opens the right engine, and dispatches.
//!
//! ```text
//! Db ── a method per resource (event, pipeline, run, …) ──> query! or transact! (`dispatch`)
//!                                                             │
//!        sqlite:   one writer thread, some readers  <─────────┼─ sqlite::queries
//!        postgres: a spawned task on a pooled connection  <───┴─ postgres::queries
//!                                                               (one source, `queries/`)
//!        committed events ──> support::note ──> followers; postgres::notify ──> other servers
//! ```

mod dispatch;
mod event;
mod local_secret;
mod namespace;
mod object;
mod pipeline;
mod quota;
mod run;
mod secret;
mod token;

use std::fmt;
use std::sync::Arc;

use tokio::sync::watch;

use crate::config::{DbConfig, Target};
use crate::error::DbError;
use crate::headroom::QuotaBook;
use crate::spec_cache::SpecCache;
use crate::{postgres, sqlite, support};

pub(crate) use dispatch::{query, transact};

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
        support::note(&self.inner.last_event, id);
    }

    pub(crate) fn last_event_sender(&self) -> watch::Sender<u64> {
        self.inner.last_event.clone()
    }
}
