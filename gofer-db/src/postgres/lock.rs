//! Who may use a database: one server alone, or several that share it, but never both. A session's
//! advisory lock, which PostgreSQL frees when the connection ends.

use std::time::Duration;

use diesel::sql_types::{Bool, Text};
use diesel::{OptionalExtension as _, QueryableByName};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::connect::{Connector, cannot_connect};
use crate::error::DbError;

/// Advisory locks are per database; this is "gofer" and a 1. PostgreSQL shows it as two halves.
const SERVER_LOCK_KEY: i64 = 0x67_6f66_6572_0001;
/// How long a start waits for a server that just ended: its connection is closed by the kernel a
/// moment after.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);
const LOCK_RETRY_PAUSE: Duration = Duration::from_millis(50);
/// How long the session may take to say that it is there. Shorter than whoever waits for a check
/// does.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

pub(super) struct Lock {
    connector: Connector,
    database: String,
    shared: bool,
    session: Mutex<Session>,
}

enum Session {
    Held(Box<AsyncPgConnection>),
    /// Its connection broke, and the lock is not taken again yet.
    Lost,
    Released,
}

#[derive(QueryableByName)]
struct Tried {
    #[diesel(sql_type = Bool)]
    taken: bool,
}

#[derive(QueryableByName)]
struct Holder {
    #[diesel(sql_type = Text)]
    holder: String,
}

impl Lock {
    pub(super) async fn take(
        connector: Connector,
        database: String,
        shared: bool,
    ) -> Result<Self, DbError> {
        let session = Mutex::new(Session::Held(Box::new(
            locked_session(&connector, &database, shared).await?,
        )));
        Ok(Self { connector, database, shared, session })
    }

    /// Fails when the lock was lost with its connection and another server has it now; takes it
    /// again otherwise.
    pub(super) async fn check(&self) -> Result<(), DbError> {
        let mut session = self.session.lock().await;
        let held = match &mut *session {
            Session::Released => {
                return Err(DbError::Unavailable {
                    message: "the database is closed".into(),
                    source: None,
                });
            }
            Session::Held(connection) => {
                let ping = diesel::sql_query("SELECT 1").execute(connection.as_mut());
                matches!(tokio::time::timeout(ANSWER_TIMEOUT, ping).await, Ok(Ok(_)))
            }
            Session::Lost => false,
        };

        if !held {
            // First of all closed: if the server does not know that it is broken, the lock is still
            // its.
            *session = Session::Lost;
            let connection = locked_session(&self.connector, &self.database, self.shared).await?;
            *session = Session::Held(Box::new(connection));
        }

        Ok(())
    }

    pub(super) async fn release(&self) {
        *self.session.lock().await = Session::Released;
    }
}

async fn locked_session(
    connector: &Connector,
    database: &str,
    shared: bool,
) -> Result<AsyncPgConnection, DbError> {
    let try_lock = if shared { "pg_try_advisory_lock_shared" } else { "pg_try_advisory_lock" };
    let mut connection = connector.connect().await.map_err(cannot_connect)?;
    let deadline = Instant::now() + LOCK_TIMEOUT;

    loop {
        let tried: Tried =
            diesel::sql_query(format!("SELECT {try_lock}({SERVER_LOCK_KEY}) AS taken"))
                .get_result(&mut connection)
                .await?;
        if tried.taken {
            return Ok(connection);
        }

        if Instant::now() >= deadline {
            let holder =
                holder(&mut connection).await?.unwrap_or_else(|| "unknown process".to_owned());
            return Err(DbError::Locked { database: database.to_owned(), holder });
        }

        tokio::time::sleep(LOCK_RETRY_PAUSE).await;
    }
}

async fn holder(connection: &mut AsyncPgConnection) -> Result<Option<String>, DbError> {
    let found: Option<Holder> = diesel::sql_query(format!(
        "SELECT a.application_name || ', since ' || to_char(a.backend_start, 'YYYY-MM-DD \
         HH24:MI:SS TZ') AS holder FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid WHERE \
         l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 AND ((l.classid::bigint << 32) | \
         l.objid::bigint) = {SERVER_LOCK_KEY} AND l.database = (SELECT oid FROM pg_database WHERE datname = \
         current_database()) LIMIT 1"
    ))
    .get_result(connection)
    .await
    .optional()?;
    Ok(found.map(|found| found.holder))
}
