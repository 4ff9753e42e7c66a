//! The SQLite engine: one file, one writer thread, a few readers.

mod dsl;
pub(crate) mod engine;
mod lock;
#[path = "../queries/mod.rs"]
pub(crate) mod queries;
mod readers;
mod writer;

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use diesel::connection::SimpleConnection as _;
use diesel::sql_types::Text;
use diesel::{Connection as _, SqliteConnection};
use diesel_migrations::{EmbeddedMigrations, embed_migrations};
use tokio::sync::watch;

use crate::config::{DbConfig, Durability};
use crate::error::DbError;
use crate::event_cache::EventCache;

pub(crate) use dsl::{RunQueryDsl, now};

/// What the queries run on.
pub(crate) type Conn = SqliteConnection;

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations/sqlite");

pub(crate) struct Sqlite {
    writer: writer::Writer,
    readers: readers::Readers,
    event_cache: Arc<EventCache>,
}

impl Sqlite {
    pub(crate) async fn open(
        path: PathBuf,
        config: &DbConfig,
        last_event: watch::Sender<u64>,
    ) -> Result<Self, DbError> {
        let durability = config.durability;
        let wait = config.acquire_timeout;
        let readers = readers::Readers::new(path.clone(), config.readers, wait);
        let prepared = tokio::task::spawn_blocking(move || prepare(&path, durability)).await;
        let (lock, connection) = crate::support::joined(prepared)?;
        let event_cache = Arc::<EventCache>::default();
        let committed = writer::Committed { last_event, event_cache: Arc::clone(&event_cache) };
        let writer = writer::Writer::start(lock, connection, wait, committed)?;
        Ok(Self { writer, readers, event_cache })
    }

    pub(crate) fn event_cache(&self) -> &EventCache {
        &self.event_cache
    }

    pub(crate) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Conn) -> Result<T, DbError> + Send + 'static,
    ) -> Result<T, DbError> {
        self.readers.read(work).await
    }

    pub(crate) async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut queries::Tx<'_>) -> Result<T, DbError> + Send + 'static,
    ) -> Result<T, DbError> {
        self.writer.write(work).await
    }

    pub(crate) async fn version(&self) -> Result<String, DbError> {
        // Through the writer, so that the answer says that writes can be made.
        let version: String = self
            .write(|tx| {
                Ok(now(
                    diesel::select(diesel::dsl::sql::<Text>("sqlite_version()")).get_result(tx.c)
                )?)
            })
            .await?;
        Ok(format!("SQLite {version}"))
    }

    pub(crate) async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

fn prepare(path: &Path, durability: Durability) -> Result<(lock::Lock, Conn), DbError> {
    let cannot_open = |what: &Path, error: std::io::Error| {
        DbError::unavailable(format!("cannot open the database file `{}`", what.display()), error)
    };

    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        std::fs::create_dir_all(directory).map_err(|error| cannot_open(directory, error))?;
    }

    let lock = lock::Lock::take(path)?;
    create_private(path).map_err(|error| cannot_open(path, error))?;
    let mut connection = connect(path)?;
    let synchronous = match durability {
        Durability::Full => "FULL",
        Durability::Off => "OFF",
    };

    connection.batch_execute(&format!(
        "PRAGMA busy_timeout = 5000; PRAGMA journal_mode = WAL; PRAGMA synchronous = \
         {synchronous}; PRAGMA foreign_keys = ON;"
    ))?;
    crate::migrate::run(&mut connection, MIGRATIONS)?;

    Ok((lock, connection))
}

/// SQLite gives its other files the mode of the first.
fn create_private(path: &Path) -> std::io::Result<()> {
    let mut options = OpenOptions::new();
    options.append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(drop)
}

fn connect(path: &Path) -> Result<Conn, DbError> {
    // A leading `./` keeps a name such as `file:x` a name.
    let path = if path.is_absolute() { path.to_path_buf() } else { Path::new(".").join(path) };
    SqliteConnection::establish(&path.to_string_lossy()).map_err(|error| {
        DbError::unavailable(format!("cannot open the database file `{}`", path.display()), error)
    })
}

fn connect_reader(path: &Path, busy: Duration) -> Result<Conn, DbError> {
    let mut connection = connect(path)?;
    connection.batch_execute(&format!(
        "PRAGMA busy_timeout = {}; PRAGMA query_only = ON;",
        busy.as_millis()
    ))?;
    Ok(connection)
}
