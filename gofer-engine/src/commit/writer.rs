//! The one writer: commits whatever has queued up in one transaction, then answers everybody (group
//! commit).

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use gofer_core::journal::{Commit, Committed, Journal};
use gofer_core::{BackendError, ErrorKind};
use tokio::sync::{mpsc, oneshot};

use super::news::CommitNews;
use crate::metrics::EngineMetrics;
use crate::retry_loop::retry;

/// Most commits of one transaction. Beyond this size a transaction gets longer, not cheaper per
/// commit.
const MAX_GROUP: usize = 256;
/// Most task runs that change in one transaction, unless they are all of one commit: a database has
/// to answer in time.
const MAX_CHANGES: usize = 1_000;
/// Commits that may wait; senders wait beyond it.
const QUEUE: usize = 1024;

type Answer = Result<Committed, Arc<str>>;

/// A handle on the writer.
#[derive(Debug, Clone)]
pub(crate) struct Writer {
    queue: mpsc::Sender<(Commit, oneshot::Sender<Answer>)>,
}

/// Why a commit has no answer.
#[derive(Debug)]
pub(crate) enum NotCommitted {
    /// The storage refuses, for good.
    Refused(BackendError),
    /// The engine is shutting down.
    Stopped,
}

impl Writer {
    /// Starts the writer; it ends when every handle is gone. It publishes news after each
    /// transaction.
    pub(crate) fn start(
        journal: Arc<dyn Journal>,
        news: CommitNews,
        metrics: EngineMetrics,
    ) -> Self {
        let (queue, inbox) = mpsc::channel(QUEUE);
        tokio::spawn(write(journal, inbox, news, metrics));
        Self { queue }
    }

    /// Commits; waits as long as the storage is unavailable.
    pub(crate) async fn commit(&self, commit: Commit) -> Result<Committed, NotCommitted> {
        let (answer, answered) = oneshot::channel();
        self.queue.send((commit, answer)).await.map_err(|_| NotCommitted::Stopped)?;
        match answered.await {
            Ok(Ok(committed)) => Ok(committed),
            Ok(Err(message)) => {
                Err(NotCommitted::Refused(BackendError::new(ErrorKind::Internal, &*message)))
            }
            Err(_) => Err(NotCommitted::Stopped),
        }
    }
}

async fn write(
    journal: Arc<dyn Journal>,
    mut inbox: mpsc::Receiver<(Commit, oneshot::Sender<Answer>)>,
    news: CommitNews,
    metrics: EngineMetrics,
) {
    let mut group = Vec::with_capacity(MAX_GROUP);
    while !group.is_empty() || inbox.recv_many(&mut group, MAX_GROUP).await > 0 {
        let (commits, answers): (Vec<Commit>, Vec<_>) = group.drain(..fitting(&group)).unzip();
        let changes = commits.iter().map(|commit| commit.tasks.len()).sum();
        let began = Instant::now();
        let results = commit_until_answered(journal.as_ref(), commits).await;
        metrics.transaction(changes, began.elapsed());

        // Drivers, which wait to go on, are answered before readers, which watch.
        for (index, answer) in answers.into_iter().enumerate() {
            let result = match &results {
                Ok(results) => Ok(results[index]),
                Err(message) => Err(message.clone()),
            };
            // The run's driver may be gone; its commit stands.
            let _ = answer.send(result);
        }

        news.publish();
    }
}

/// How many of the first commits go into one transaction.
fn fitting<T>(group: &[(Commit, T)]) -> usize {
    let mut changes = 0;
    let fits = group.iter().take_while(|(commit, _)| {
        changes += commit.tasks.len();
        changes <= MAX_CHANGES
    });
    fits.count().max(1)
}

/// Repeats while the storage is unavailable. A commit that took effect before its error answers
/// `Conflict` when repeated, and its driver loads the run again.
async fn commit_until_answered(
    journal: &dyn Journal,
    commits: Vec<Commit>,
) -> Result<Vec<Committed>, Arc<str>> {
    retry("writer", || async {
        match journal.commit(commits.clone()).await {
            Ok(results) => ControlFlow::Break(Ok(results)),
            Err(error) if error.is_retryable() => {
                tracing::warn!(
                    error = %crate::chain(&error), commits = commits.len(),
                    "the journal is unavailable, will retry"
                );
                ControlFlow::Continue(())
            }
            Err(error) => ControlFlow::Break(Err(Arc::from(crate::chain(&error)))),
        }
    })
    .await
}
