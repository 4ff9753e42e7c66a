//! A database of one test's own, on each engine.

use std::env;

use diesel::connection::SimpleConnection as _;
use diesel::{Connection as _, SqliteConnection};
use gofer_conformance::skip;
use gofer_db::{DatabaseUrl, Db, DbConfig, DbError};
use tempfile::TempDir;
use tokio_postgres::NoTls;

const SQLITE_FILE: &str = "gofer.db";

/// A place for a database, empty at first, and gone with the value.
pub(crate) struct Place {
    config: DbConfig,
    files: Option<TempDir>,
    server: Option<Server>,
}

struct Server {
    url: String,
    database: String,
}

impl Place {
    pub(crate) fn sqlite() -> Self {
        let files = tempfile::tempdir().expect("a temporary directory");
        let config = DbConfig::sqlite(files.path().join(SQLITE_FILE));
        Self { config, files: Some(files), server: None }
    }

    /// `None`, printed, when no server is named and none is required.
    pub(crate) async fn postgres() -> Option<Self> {
        let Ok(base) = env::var("GOFER_TEST_POSTGRES_URL") else {
            skip("postgres", "gofer-db on PostgreSQL", "GOFER_TEST_POSTGRES_URL is not set");
            return None;
        };
        let database = format!("gofer_test_{}", unique());
        administer(&base, &format!("CREATE DATABASE {database}")).await;
        let url = at_database(&base, &database);
        let config =
            DbConfig { url: Some(DatabaseUrl::new(url)), pool_size: 8, ..DbConfig::default() };
        Some(Self { config, files: None, server: Some(Server { url: base, database }) })
    }

    pub(crate) fn is_sqlite(&self) -> bool {
        self.server.is_none()
    }

    pub(crate) fn config(&self) -> DbConfig {
        self.config.clone()
    }

    pub(crate) async fn connect(&self) -> Result<Db, DbError> {
        Db::connect(self.config()).await
    }

    pub(crate) async fn open(&self) -> Db {
        self.connect().await.expect("connect")
    }

    /// Runs statements on the database, past Gofer.
    pub(crate) async fn batch(&self, statements: &str) {
        if self.server.is_some() {
            return administer(&self.url(), statements).await;
        }
        let file = self.files.as_ref().expect("on SQLite").path().join("gofer.db");
        let mut connection =
            SqliteConnection::establish(file.to_str().expect("UTF-8")).expect("a database");
        connection.batch_execute(statements).expect("the statements are accepted");
    }

    /// Handles as of several servers, where several may share the database; else one.
    pub(crate) async fn servers(&self) -> Vec<Db> {
        if self.server.is_none() {
            return vec![self.open().await];
        }
        let shared = || DbConfig { shared: true, ..self.config() };
        vec![
            Db::connect(shared()).await.expect("connect"),
            Db::connect(shared()).await.expect("connect"),
        ]
    }

    /// Runs statements past Gofer, while no server has the database.
    pub(crate) async fn execute(&self, statements: &str) {
        let Some(files) = &self.files else { return administer(&self.url(), statements).await };
        let file = files.path().join(SQLITE_FILE).to_string_lossy().into_owned();
        let mut connection = SqliteConnection::establish(&file).expect("a database");
        connection.batch_execute(statements).expect("the statements are accepted");
    }

    /// The PostgreSQL database's URL.
    pub(crate) fn url(&self) -> String {
        let server = self.server.as_ref().expect("on PostgreSQL");
        at_database(&server.url, &server.database)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(Server { url, database }) = self.server.take() else { return };
        // On a thread and runtime of its own, because a test's runtime may be ending.
        let dropping =
            std::thread::Builder::new().name("drop-database".to_owned()).spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .expect("a runtime");
                runtime.block_on(administer(
                    &url,
                    &format!("DROP DATABASE IF EXISTS {database} WITH (FORCE)"),
                ));
            });

        if dropping.expect("a thread").join().is_err() {
            eprintln!("a test database was left behind");
        }
    }
}

/// Runs a statement on the server's own database.
pub(crate) async fn administer(url: &str, statement: &str) {
    let (client, connection) =
        tokio_postgres::connect(url, NoTls).await.expect("the test server answers");
    let connection = tokio::spawn(connection);
    client.batch_execute(statement).await.expect("the statement is accepted");
    drop(client);
    connection.await.expect("no panic").expect("the connection ends");
}

fn at_database(base: &str, database: &str) -> String {
    let (base, query) =
        base.split_once('?').map_or((base, None), |(base, query)| (base, Some(query)));
    let (scheme, rest) = base.split_once("://").expect("a URL");
    let server = rest.split('/').next().unwrap_or_default();
    match query {
        Some(query) => format!("{scheme}://{server}/{database}?{query}"),
        None => format!("{scheme}://{server}/{database}"),
    }
}

fn unique() -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static LAST: AtomicU64 = AtomicU64::new(0);
    let serial = LAST.fetch_add(1, Ordering::Relaxed);
    let micros = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970")
        .as_micros();
    format!("{}_{micros}_{serial}", std::process::id())
}

/// Emits a test per engine of each `async fn(Place)` of the calling module.
macro_rules! on_both_engines {
    ($($name:ident)+) => {
        mod sqlite {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $name() {
                    super::$name($crate::engines::Place::sqlite()).await;
                }
            )+
        }
        mod postgres {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $name() {
                    let Some(place) = $crate::engines::Place::postgres().await else { return };
                    super::$name(place).await;
                }
            )+
        }
    };
}
pub(crate) use on_both_engines;
