//! The one connection that writes, on a thread of its own. Whatever has queued up becomes one
//! transaction: with synchronous=FULL the disk, not the statements, is what takes time.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use diesel::connection::SimpleConnection as _;
use gofer_core::event::Event;
use tokio::sync::{mpsc, oneshot, watch};

use super::lock::Lock;
use super::queries::Tx;
use super::{Conn, now};
use crate::error::DbError;
use crate::event_cache::EventCache;
use crate::prepared::prepared;

/// Most operations that wait; more are refused after the acquire timeout.
const QUEUE: usize = 1_024;
/// Most operations of one transaction: bounds what the first of them waits for the others.
const BATCH: usize = 64;

/// The parts that are told of commits.
pub(super) struct Committed {
    pub(super) last_event: watch::Sender<u64>,
    pub(super) event_cache: Arc<EventCache>,
}

pub(super) struct Writer {
    jobs: mpsc::Sender<Message>,
    wait: Duration,
}

enum Message {
    Job(Box<dyn Job>),
    Close(oneshot::Sender<()>),
}

impl Writer {
    pub(super) fn start(
        lock: Lock,
        connection: Conn,
        wait: Duration,
        committed: Committed,
    ) -> Result<Self, DbError> {
        let (jobs, queue) = mpsc::channel(QUEUE);
        std::thread::Builder::new()
            .name("gofer-db-writer".to_owned())
            .spawn(move || run(lock, connection, queue, &committed))
            .map_err(|error| {
                DbError::unavailable("cannot start the database's writer thread", error)
            })?;
        Ok(Self { jobs, wait })
    }

    /// Runs `work` in a transaction, to its end, whether or not the caller stays.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Tx<'_>) -> Result<T, DbError> + Send + 'static,
    ) -> Result<T, DbError> {
        let (reply, answer) = oneshot::channel();
        let job = Box::new(Pending { work: Some(work), result: None, reply });
        self.jobs.send_timeout(Message::Job(job), self.wait).await.map_err(|error| {
            let message = match error {
                mpsc::error::SendTimeoutError::Timeout(_) => "the database's writer is busy",
                mpsc::error::SendTimeoutError::Closed(_) => "the database is closed",
            };
            DbError::Unavailable { message: message.to_owned(), source: None }
        })?;
        answer
            .await
            .unwrap_or_else(|error| Err(DbError::internal("a database operation broke off", error)))
    }

    /// Waits until everything queued before is done and the file is closed.
    pub(super) async fn close(&self) {
        let (reply, closed) = oneshot::channel();
        if self.jobs.send(Message::Close(reply)).await.is_ok() {
            // An error says that the thread is gone, which is what is wanted.
            let _ = closed.await;
        }
    }
}

fn run(
    lock: Lock,
    mut connection: Conn,
    mut queue: mpsc::Receiver<Message>,
    committed: &Committed,
) {
    let mut closed = None;
    while let Some(first) = queue.blocking_recv() {
        let mut batch = Vec::new();
        let mut next = Some(first);
        while let Some(message) = next {
            match message {
                Message::Job(job) => batch.push(job),
                Message::Close(reply) => closed = Some(reply),
            }
            next =
                if batch.len() < BATCH && closed.is_none() { queue.try_recv().ok() } else { None };
        }

        commit(&mut connection, batch, committed);
        if closed.is_some() {
            break;
        }
    }

    drop(queue);
    if let Err(error) = connection.batch_execute("PRAGMA wal_checkpoint(TRUNCATE)") {
        tracing::warn!(%error, "the database's log was not folded into its file; the next start \
                                does it");
    }

    drop(connection);
    drop(lock);
    if let Some(reply) = closed {
        // Nobody waits any more: fine.
        let _ = reply.send(());
    }
}

fn commit(connection: &mut Conn, mut batch: Vec<Box<dyn Job>>, committed: &Committed) {
    match transaction(connection, &mut batch) {
        Ok(events) => {
            let last = events.last().map(|event| event.id);
            if let Some(last) = last {
                committed.event_cache.add(events);
                crate::support::note_silently(&committed.last_event, last);
            }

            // Those who wait to go on come before those who watch.
            batch.into_iter().for_each(|job| job.answer(None));
            if last.is_some() {
                committed.last_event.send_if_modified(|_| true);
            }
        }
        Err(error) => batch.into_iter().for_each(|job| job.answer(Some(&error))),
    }
}

/// All jobs of the batch in one transaction; a job that fails is undone alone. Returns their
/// events.
fn transaction(connection: &mut Conn, batch: &mut [Box<dyn Job>]) -> Result<Vec<Event>, DbError> {
    statement(connection, "BEGIN IMMEDIATE")?;
    let outcome = jobs_and_events(connection, batch)
        .and_then(|events| statement(connection, "COMMIT").map(|()| events));
    if outcome.is_err() {
        // SQLite has rolled back by itself after some errors, and then this fails: what counts is
        // that nothing is open.
        let _ = statement(connection, "ROLLBACK");
    }
    outcome
}

/// One of the few statements around every job, kept prepared.
fn statement(connection: &mut Conn, text: &'static str) -> Result<(), DbError> {
    Ok(super::dsl::run(connection, prepared(diesel::sql_query(text)))?)
}

fn jobs_and_events(
    connection: &mut Conn,
    batch: &mut [Box<dyn Job>],
) -> Result<Vec<Event>, DbError> {
    let mut tx = Tx::new(connection);
    for job in batch {
        statement(tx.c, "SAVEPOINT job")?;
        let (events, gone) = (tx.events.len(), tx.gone.len());
        if job.run(&mut tx) {
            statement(tx.c, "RELEASE job")?;
        } else {
            tx.events.truncate(events);
            tx.gone.truncate(gone);
            statement(tx.c, "ROLLBACK TO job")?;
            statement(tx.c, "RELEASE job")?;
        }
    }
    now(tx.flush())
}

trait Job: Send {
    /// Does the work and keeps the result; `false` when it is to be undone.
    fn run(&mut self, tx: &mut Tx<'_>) -> bool;
    /// Hands over the result, or the error that undid the whole transaction.
    fn answer(self: Box<Self>, failure: Option<&DbError>);
}

struct Pending<W, T> {
    work: Option<W>,
    result: Option<Result<T, DbError>>,
    reply: oneshot::Sender<Result<T, DbError>>,
}

impl<W, T> Job for Pending<W, T>
where
    W: FnOnce(&mut Tx<'_>) -> Result<T, DbError> + Send,
    T: Send,
{
    fn run(&mut self, tx: &mut Tx<'_>) -> bool {
        let Some(work) = self.work.take() else { return false };
        // One broken operation must not take the writer down with it.
        let result = catch_unwind(AssertUnwindSafe(|| work(tx))).unwrap_or_else(|_| {
            Err(DbError::Internal {
                message: "a database operation panicked".to_owned(),
                source: None,
            })
        });
        let ok = result.is_ok();
        self.result = Some(result);
        ok
    }

    fn answer(self: Box<Self>, failure: Option<&DbError>) {
        let result = match (failure, self.result) {
            (Some(failure), _) => Err(failure.repeated()),
            (None, Some(result)) => result,
            (None, None) => Err(DbError::Internal {
                message: "a database operation was lost".to_owned(),
                source: None,
            }),
        };
        // The caller may be gone; the work is done.
        let _ = self.reply.send(result);
    }
}
