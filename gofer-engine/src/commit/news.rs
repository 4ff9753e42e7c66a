//! Word that something was committed: what waits for a change of a run looks again.

use tokio::sync::watch;

/// Changes after each transaction of this server, and when another server has committed something.
#[derive(Debug, Clone)]
pub(crate) struct CommitNews(watch::Sender<()>);

impl CommitNews {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(()))
    }

    pub(crate) fn publish(&self) {
        self.0.send_replace(());
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<()> {
        self.0.subscribe()
    }
}
