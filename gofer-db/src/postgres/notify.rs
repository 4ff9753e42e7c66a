//! What servers that share a database tell each other: a transaction with events notifies a
//! channel, and PostgreSQL delivers that with the commit. It only says where to look; what is true
//! is in the tables.

use std::time::Duration;

use diesel::sql_types::Text;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use gofer_core::journal::Hint;
use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::AbortHandle;

use super::connect::Connector;
use super::{Conn, RunQueryDsl as _};
use crate::error::DbError;
use crate::prepared::prepared;

const CHANNEL: &str = "gofer";
/// PostgreSQL refuses a longer payload.
const MAX_PAYLOAD_BYTES: usize = 7_900;
/// Hints that may wait for one follower.
const HINTS_MAX: usize = 1_024;
/// Notifications that may wait to be read.
const PAYLOADS_MAX: usize = 1_024;
/// How often a silent connection is asked whether it is still there, and how long the answer may
/// take.
const PING_INTERVAL: Duration = Duration::from_secs(15);
/// Between two attempts to listen.
const LISTEN_RETRY_PAUSE: Duration = Duration::from_millis(500);

#[derive(Serialize, Deserialize)]
struct Notice {
    /// Which server's.
    from: u64,
    /// The id of the transaction's last event; 0 for a hint that came with none.
    last: u64,
    /// `None`: too many to say.
    hints: Option<Vec<Hint>>,
}

/// Publishes hints to the other servers, as part of the transaction.
pub(crate) async fn publish(
    c: &mut Conn,
    from: u64,
    last: u64,
    hints: Vec<Hint>,
) -> Result<(), DbError> {
    let text = |hints| {
        serde_json::to_string(&Notice { from, last, hints })
            .map_err(|error| DbError::internal("cannot write a notice", error))
    };
    let mut payload = text(Some(hints))?;
    if payload.len() > MAX_PAYLOAD_BYTES {
        payload = text(None)?;
    }
    let notify = diesel::sql_query("SELECT pg_notify($1, $2)")
        .bind::<Text, _>(CHANNEL)
        .bind::<Text, _>(payload);
    prepared(notify).execute(c).await?;
    Ok(())
}

/// The listening end; stops when it is dropped.
pub(super) struct HintSource {
    /// Names this server among those that listen.
    instance: u64,
    /// `None` while nothing is heard.
    receiver: watch::Receiver<Option<broadcast::Sender<Hint>>>,
    listening: AbortHandle,
}

impl Drop for HintSource {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

impl HintSource {
    pub(super) fn start(
        connector: Connector,
        instance: u64,
        last_event: watch::Sender<u64>,
    ) -> Self {
        let (sender, receiver) = watch::channel(None);
        let listener = Listener { connector, instance, last_event, sender };
        let listening = tokio::spawn(async move {
            loop {
                if let Err(error) = listener.listen().await {
                    tracing::warn!(%error, "cannot hear the other servers, will try again");
                }
                // Followers see the end, and look at everything.
                listener.sender.send_replace(None);
                tokio::time::sleep(LISTEN_RETRY_PAUSE).await;
            }
        })
        .abort_handle();
        Self { instance, receiver, listening }
    }

    pub(super) fn instance(&self) -> u64 {
        self.instance
    }

    /// The hints from now on; waits until they can be heard, but no longer than `timeout`.
    pub(super) async fn subscribe(
        &self,
        timeout: Duration,
    ) -> Result<BoxStream<'static, Hint>, DbError> {
        let mut receiver = self.receiver.clone();
        let hints = tokio::time::timeout(timeout, receiver.wait_for(Option::is_some)).await;
        let hints = match hints {
            Ok(Ok(sender)) => sender.as_ref().map(broadcast::Sender::subscribe),
            Ok(Err(_)) | Err(_) => None,
        };

        let Some(hints) = hints else {
            let message = "the other servers of this database cannot be heard".to_owned();
            return Err(DbError::Unavailable { message, source: None });
        };

        Ok(stream::unfold(hints, |mut hints| async move {
            // Behind or cut off: something was missed, and the stream's end says so.
            hints.recv().await.ok().map(|hint| (hint, hints))
        })
        .boxed())
    }
}

struct Listener {
    connector: Connector,
    instance: u64,
    last_event: watch::Sender<u64>,
    sender: watch::Sender<Option<broadcast::Sender<Hint>>>,
}

impl Listener {
    /// Listens until the connection breaks.
    async fn listen(&self) -> Result<(), DbError> {
        let (payload_sender, mut payloads) = mpsc::channel(PAYLOADS_MAX);
        let broken = |error| DbError::unavailable("the connection that listens broke", error);
        let client = self
            .connector
            .listener(payload_sender)
            .await
            .map_err(super::connect::cannot_connect)?;
        let hangs = |late| DbError::unavailable("the connection that listens hangs", late);
        let listen = format!("LISTEN {CHANNEL}");

        tokio::time::timeout(PING_INTERVAL, client.batch_execute(&listen))
            .await
            .map_err(hangs)?
            .map_err(broken)?;

        let (hints, _) = broadcast::channel(HINTS_MAX);
        self.sender.send_replace(Some(hints.clone()));

        // What was committed before anything could be heard.
        let newest = client.query_one("SELECT last FROM event_counter", &[]);
        let row =
            tokio::time::timeout(PING_INTERVAL, newest).await.map_err(hangs)?.map_err(broken)?;
        crate::support::note(&self.last_event, crate::rows::unsigned(row.get(0))?);

        loop {
            match tokio::time::timeout(PING_INTERVAL, payloads.recv()).await {
                Ok(Some(payload)) => {
                    if !self.handle(&payload, &hints) {
                        return Ok(());
                    }
                }
                Ok(None) => {
                    return Err(DbError::Unavailable {
                        message: "the connection that listens ended".into(),
                        source: None,
                    });
                }
                Err(_) => {
                    let ping =
                        tokio::time::timeout(PING_INTERVAL, client.batch_execute("SELECT 1")).await;
                    ping.map_err(hangs)?.map_err(broken)?;
                }
            }
        }
    }

    /// Passes a notice on; `false` when its followers have to look at everything.
    fn handle(&self, payload: &str, hints: &broadcast::Sender<Hint>) -> bool {
        let Ok(notice) = serde_json::from_str::<Notice>(payload) else {
            // Of a newer Gofer: whatever it says, something happened.
            return false;
        };

        let own = notice.from == self.instance;
        if !own {
            crate::support::note(&self.last_event, notice.last);
        }

        let Some(said) = notice.hints else { return own };
        for hint in said {
            // Of its own only cancel requests: a call that was given up may take effect long after, and
            // nobody here knows of it.
            if !own || matches!(hint, Hint::Cancel(_)) {
                // Nobody follows: fine.
                let _ = hints.send(hint);
            }
        }

        true
    }
}
