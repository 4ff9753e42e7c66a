//! What is told to every watcher, and whether everything is heard.

use std::collections::HashMap;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use gofer_core::scheduler::WatchEvent;
use gofer_core::{BackendError, ErrorKind};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, watch};

/// Changes that a slow watcher may be behind before its stream ends.
const CHANGES_MAX: usize = 4_096;

/// Something for every watcher.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    Event(WatchEvent),
    /// Nomad refuses to tell what happens.
    Broken(ErrorKind, String),
}

/// How it stands with an event stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Connection {
    Open,
    Closed(ErrorKind, String),
}

/// The queue of changes, and the connections that fill it.
#[derive(Debug)]
pub(crate) struct Changes {
    queue: broadcast::Sender<Change>,
    /// Whether the event stream of each Nomad namespace is open and what came before is known.
    connected: watch::Sender<HashMap<String, Connection>>,
    namespaces: Vec<String>,
}

impl Changes {
    /// The changes in these Nomad namespaces.
    pub(crate) fn new(namespaces: impl IntoIterator<Item = String>) -> Self {
        Self {
            queue: broadcast::Sender::new(CHANGES_MAX),
            connected: watch::Sender::new(HashMap::new()),
            namespaces: namespaces.into_iter().collect(),
        }
    }

    /// The changes from now on, connected or not.
    pub(crate) fn receiver(&self) -> broadcast::Receiver<Change> {
        self.queue.subscribe()
    }

    /// Publishes a change. Nobody watching is no error.
    pub(crate) fn publish(&self, change: Change) {
        let _ = self.queue.send(change);
    }

    /// Takes note of how it stands with a namespace's event stream.
    pub(crate) fn set_connection(&self, namespace: &str, connection: Connection) {
        self.connected.send_modify(|all| drop(all.insert(namespace.to_owned(), connection)));
    }

    /// The changes from now on, once every stream is open.
    pub(crate) async fn subscribe(
        &self,
        connect_timeout: Duration,
    ) -> Result<BoxStream<'static, Result<WatchEvent, BackendError>>, BackendError> {
        let receiver = self.receiver();
        self.wait_until_connected(connect_timeout).await?;

        let stream = futures::stream::unfold(Some(receiver), async |receiver| {
            let mut receiver = receiver?;
            match receiver.recv().await {
                Ok(Change::Event(event)) => Some((Ok(event), Some(receiver))),
                Ok(Change::Broken(kind, message)) => {
                    Some((Err(BackendError::new(kind, message)), None))
                }
                Err(RecvError::Lagged(missed)) => {
                    let message = format!(
                        "{missed} changes were dropped because they were not taken in time"
                    );
                    Some((Err(BackendError::new(ErrorKind::Unavailable, message)), None))
                }
                Err(RecvError::Closed) => None,
            }
        });

        Ok(stream.boxed())
    }

    async fn wait_until_connected(&self, timeout: Duration) -> Result<(), BackendError> {
        let mut connected = self.connected.subscribe();
        let open = |all: &HashMap<String, Connection>| {
            self.namespaces.iter().all(|namespace| all.get(namespace) == Some(&Connection::Open))
        };

        // Waiting does not help against a refusal.
        let denied = |all: &HashMap<String, Connection>| {
            all.values()
                .any(|connection| matches!(connection, Connection::Closed(ErrorKind::Denied, _)))
        };

        let decided = connected.wait_for(|all| open(all) || denied(all));
        let decided = tokio::time::timeout(timeout, decided).await;
        if matches!(decided, Ok(Ok(all)) if open(&all)) {
            return Ok(());
        }

        let closed = self.connected.borrow().values().find_map(|connection| match connection {
            Connection::Closed(kind, message) => Some(BackendError::new(*kind, message.clone())),
            Connection::Open => None,
        });

        Err(closed.unwrap_or_else(|| {
            BackendError::new(ErrorKind::Timeout, "nomad's event stream is not open yet")
        }))
    }
}
