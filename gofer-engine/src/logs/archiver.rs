//! Moves the logs of finished attempts from the scheduler into the object store, masked and
//! compressed, and lets the scheduler forget the executions. Each server does that for the attempts
//! it saw end; what is left to do is in the journal, so that the leading server finds what others
//! left, and a crash only makes somebody do a step again.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use gofer_core::event::{EventDetails, NewEvent, Subject};
use gofer_core::journal::JournalError;
use gofer_core::object_store::{ByteStream, PutOptions};
use gofer_core::run::LogState;
use gofer_core::{BackendError, ErrorKind, ExecutionId, Timestamp};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;

use crate::engine::Shared;
use crate::error::of_journal;
use crate::layout;
use crate::logs::format::Writer;
use crate::logs::read::{self as logs, Kept, Origin};
use crate::logs::warnings::Repeated;
use crate::retry_loop::Backoff;
use crate::rules::machine::ACTOR;

/// Logs archived at the same time: each is a stream of at most a few hundred KiB in memory.
const AT_ONCE: usize = 8;
/// Batches under way: a log that takes minutes is in one of them, and the others do not wait for
/// it.
const BATCHES: usize = 4;
/// Records written at the same time: those that come together become one transaction.
const RECORDS: usize = 64;
const PAGE: usize = 100;
/// Attempts that may wait; those beyond are found by the sweep.
const QUEUE: usize = 4_096;
/// An attempt's log is archived a moment after its end: what starts next goes first, and many are
/// done together.
const DELAY: Duration = Duration::from_millis(250);
/// Time between two sweeps that nobody asked for.
const SWEEP: Duration = Duration::from_secs(30);
/// Who ended longer ago than this is nobody's any more.
const LEFT_BEHIND: Duration = Duration::from_secs(10);
/// What a log under way has when the server ends.
const LAST_MOMENTS: Duration = Duration::from_secs(2);

/// Where finished attempts wait.
#[derive(Debug)]
pub(crate) struct Queue {
    attempts: mpsc::Sender<Finished>,
    sweep: Notify,
    /// An outage of the object store makes every log fail, again and again.
    warnings: Repeated,
}

/// An attempt that is over.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) id: ExecutionId,
    pub(crate) origin: Origin,
    /// It was seen to end in another life of this server, or by another one.
    pub(crate) left_behind: bool,
}

pub(crate) fn queue() -> (Queue, mpsc::Receiver<Finished>) {
    let (attempts, inbox) = mpsc::channel(QUEUE);
    (Queue { attempts, sweep: Notify::new(), warnings: Repeated::default() }, inbox)
}

impl Queue {
    pub(crate) fn add(&self, finished: Finished) {
        if self.attempts.try_send(finished).is_err() {
            self.look();
        }
    }

    /// There may be finished attempts that nobody added.
    pub(crate) fn look(&self) {
        self.sweep.notify_one();
    }
}

/// Archives what this server saw end, until it ends itself.
pub(crate) async fn run(shared: Arc<Shared>, mut inbox: mpsc::Receiver<Finished>) {
    let mut backoff = Backoff::new(("archiver", &shared.config.server_id));
    let mut batch: Vec<Finished> = Vec::new();
    let mut again: Vec<Finished> = Vec::new();
    let mut under_way: JoinSet<Vec<Finished>> = JoinSet::new();

    loop {
        let more = async {
            if again.is_empty() {
                if batch.is_empty() {
                    inbox.recv_many(&mut batch, PAGE).await;
                }
                tokio::time::sleep(DELAY).await;
            } else {
                backoff.wait().await;
            }
        };

        tokio::select! {
            biased;
            () = shared.stop.cancelled() => break,
            Some(ended) = under_way.join_next() => {
                match ended {
                    Ok(failed) if failed.is_empty() => backoff.reset(),
                    Ok(failed) => again.extend(failed),
                    Err(error) => {
                        tracing::error!(%error, "a part of the archiver failed");
                        shared.archive.look();
                    }
                }
                continue;
            }
            () = more, if under_way.len() < BATCHES => {}
        }

        batch.append(&mut again);
        while batch.len() < QUEUE
            && let Ok(finished) = inbox.try_recv()
        {
            batch.push(finished);
        }

        let (shared, batch) = (shared.clone(), std::mem::take(&mut batch));
        under_way.spawn(async move { archive_all(&shared, batch).await });
    }

    // Each ends with its last moments.
    while under_way.join_next().await.is_some() {}
}

/// Archives what was left behind, for as long as this server leads: first all there is, then what
/// nobody can be at.
pub(crate) async fn sweep(shared: Arc<Shared>) {
    let mut before = shared.clock.now();
    loop {
        if let Err(error) = sweep_once(&shared, before).await {
            tracing::warn!(error = %crate::chain(&error), "cannot list the logs to archive, will \
                                                           retry");
        }
        if tokio::time::timeout(SWEEP, shared.archive.sweep.notified()).await.is_ok() {
            tokio::time::sleep(LEFT_BEHIND).await;
        }
        before = shared.clock.now().before(LEFT_BEHIND);
    }
}

async fn sweep_once(shared: &Shared, before: Timestamp) -> Result<(), JournalError> {
    let mut after = None;
    loop {
        let page = shared.journal.live_logs(before, after.take(), PAGE).await?;
        let Some(last) = page.last().cloned() else { return Ok(()) };
        let mut found: Vec<Finished> = Vec::with_capacity(page.len());

        for id in page {
            // Attempts that ended one after the other are often of one run, whose load costs as
            // much as it has tasks.
            let known =
                found.last().filter(|last| last.id.run == id.run).map(|last| last.origin.clone());
            let origin = match known {
                Some(origin) => Ok(origin),
                None => Origin::load(shared, &id).await,
            };

            match origin {
                Ok(origin) => found.push(Finished { id, origin, left_behind: true }),
                // Deleted since.
                Err(error) if error.kind == ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }

        // Those that fail are found by the next sweep.
        archive_all(shared, found).await;
        after = Some(last);
    }
}

/// The next step on the way to an archived log, in this order: what there was is durable before the
/// scheduler may forget, and the record comes last, so that a crash repeats the rest. There is no
/// archive to tell of an empty log, so that is noted before.
enum Step {
    Store,
    Note(Stored),
    Forget(Stored),
    Record(Stored),
}

/// Archives each, whatever becomes of the others, all of them a step at a time; returns those to
/// try again.
async fn archive_all(shared: &Shared, batch: Vec<Finished>) -> Vec<Finished> {
    let mut again = Vec::new();
    let mut batch: Vec<_> = batch.into_iter().map(|finished| (finished, Step::Store)).collect();
    for at_once in [AT_ONCE, RECORDS, AT_ONCE, RECORDS] {
        let results: Vec<_> = stream::iter(batch)
            .map(|(finished, step)| async move { (take(shared, &finished, step).await, finished) })
            .buffer_unordered(at_once)
            .collect()
            .await;
        batch = Vec::with_capacity(results.len());

        for (result, finished) in results {
            match result {
                Ok(next) => batch.extend(next.map(|step| (finished, step))),
                Err(error) => {
                    let error = error.chain();
                    if let Some(times) = shared.archive.warnings.count(&error) {
                        tracing::warn!(execution = %finished.id, times, error, "cannot archive logs yet, will retry");
                    }
                    again.push(finished);
                }
            }
        }
    }

    again
}

/// Takes the step and returns the next. `None`: it was the last; or the server ends, and the moment
/// that what is under way then has is over.
async fn take(
    shared: &Shared,
    finished: &Finished,
    step: Step,
) -> Result<Option<Step>, BackendError> {
    let ending = async {
        shared.stop.cancelled().await;
        tokio::time::sleep(LAST_MOMENTS).await;
    };

    let work = async {
        Ok(Some(match step {
            Step::Store => Step::Note(store(shared, finished).await?),
            Step::Note(stored) => {
                if stored == Stored::Nothing(LogState::Empty) {
                    record(shared, &finished.id, LogState::Live, LogState::Silent, None).await?;
                }
                Step::Forget(stored)
            }
            Step::Forget(stored) => {
                forget(shared, finished).await?;
                Step::Record(stored)
            }
            Step::Record(stored) => {
                settle(shared, &finished.id, stored).await?;
                return Ok(None);
            }
        }))
    };

    tokio::select! {
        biased;
        result = work => result,
        () = ending => Ok(None),
    }
}

async fn store(
    shared: &Shared,
    Finished { id, origin, left_behind }: &Finished,
) -> Result<Stored, BackendError> {
    // It may have told its end to the server that saw it, before the scheduler knows: then neither
    // is its log all there, nor may it be removed.
    if *left_behind && !shared.scheduler.state(id).await?.state.is_final() {
        let message = format!("the scheduler has not seen the end of `{id}` yet");
        return Err(BackendError::new(ErrorKind::Unavailable, message));
    }

    let gone = Arc::new(OnceLock::new());
    let stored = match logs::live(shared, id, origin, false, None).await {
        Ok(chunks) => {
            let gone = gone.clone();
            let chunks = chunks.inspect_err(move |error| note_gone(&gone, error));
            store_chunks(shared, id, chunks.boxed()).await
        }
        Err(error) => {
            note_gone(&gone, &error);
            Err(error)
        }
    };

    match (stored, gone.get()) {
        // Never started; or removed, by somebody who was at the same log or died before it was
        // recorded what there was.
        (Err(_), Some(why)) => found_gone(shared, id, why).await,
        (stored, _) => stored,
    }
}

/// The scheduler does not know the execution, before its log was read or in the middle of it; the
/// object store's own word that it does not know something is another thing.
fn note_gone(gone: &OnceLock<String>, error: &BackendError) {
    if error.kind == ErrorKind::NotFound {
        // The first says why.
        let _ = gone.set(error.chain());
    }
}

async fn settle(shared: &Shared, id: &ExecutionId, stored: Stored) -> Result<(), BackendError> {
    let (from, to, event) = match stored {
        Stored::Archived(size_bytes) => {
            (LogState::Live, LogState::Archived, Some(archived_event(shared, id, size_bytes)))
        }
        Stored::Nothing(LogState::Empty) => (LogState::Silent, LogState::Empty, None),
        Stored::Nothing(state) => (LogState::Live, state, None),
    };
    record(shared, id, from, to, event).await
}

/// What became of the log of an execution that the scheduler does not know.
async fn found_gone(shared: &Shared, id: &ExecutionId, why: &str) -> Result<Stored, BackendError> {
    // What only asks for its metadata is answered without a text, which alone tells a missing
    // object from a missing bucket.
    match shared.objects.get(&layout::log_location(id)).await {
        Ok(body) => Ok(Stored::Archived(body.meta.size_bytes)),
        Err(error) if error.kind == ErrorKind::NotFound => {
            let known = shared.journal.log_state(id).await.map_err(of_journal)?;
            if matches!(known, Some(LogState::Silent | LogState::Empty)) {
                return Ok(Stored::Nothing(LogState::Empty));
            }
            tracing::warn!(execution = %id, why, "a log is lost");
            Ok(Stored::Nothing(LogState::Lost))
        }
        Err(error) => Err(error),
    }
}

#[derive(PartialEq, Eq)]
enum Stored {
    /// This many bytes in the object store.
    Archived(u64),
    /// Nothing, for this reason.
    Nothing(LogState),
}

async fn store_chunks(
    shared: &Shared,
    id: &ExecutionId,
    mut chunks: stream::BoxStream<'static, Result<gofer_core::scheduler::LogChunk, BackendError>>,
) -> Result<Stored, BackendError> {
    let Some(first) = chunks.try_next().await? else { return Ok(Stored::Nothing(LogState::Empty)) };
    let chunks = stream::once(async move { Ok(first) }).chain(chunks).boxed();
    let writer = Some(Writer::new().map_err(compression)?);
    let body: ByteStream =
        stream::try_unfold((chunks, writer), |(mut chunks, writer)| async move {
            let Some(mut writer) = writer else { return Ok(None) };
            loop {
                let Some(chunk) = chunks.try_next().await? else {
                    let rest = writer.finish().map_err(compression)?;
                    return Ok(Some((Bytes::from(rest), (chunks, None))));
                };
                let compressed = writer.push(&chunk).map_err(compression)?;
                if !compressed.is_empty() {
                    return Ok(Some((Bytes::from(compressed), (chunks, Some(writer)))));
                }
            }
        })
        .boxed();
    let meta = shared.objects.put(&layout::log_location(id), body, PutOptions::default()).await?;

    Ok(Stored::Archived(meta.size_bytes))
}

async fn forget(
    shared: &Shared,
    Finished { id, origin, .. }: &Finished,
) -> Result<(), BackendError> {
    match shared.scheduler.remove(id).await {
        Ok(()) => {}
        // It was given up as lost and lives on somewhere; its name is never used again.
        Err(error) if error.kind == ErrorKind::Invalid => {
            tracing::warn!(execution = %id, error = %error.chain(), "the scheduler keeps an \
                                                                     execution that was given up");
        }
        Err(error) => return Err(error),
    }
    match origin.keeps_masks(id) {
        Kept::Yes | Kept::Perhaps => shared.secrets.delete(&layout::mask_path(id)).await,
        Kept::No => Ok(()),
    }
}

async fn record(
    shared: &Shared,
    id: &ExecutionId,
    from: LogState,
    to: LogState,
    event: Option<NewEvent>,
) -> Result<(), BackendError> {
    let set = |from| shared.journal.set_log_state(id, from, to, event.clone());
    if !set(from).await.map_err(of_journal)? && from == LogState::Live {
        // An earlier try of this very step took effect; or one that found nothing, and there was
        // something after all.
        set(LogState::Silent).await.map_err(of_journal)?;
    }
    Ok(())
}

fn archived_event(shared: &Shared, id: &ExecutionId, size_bytes: u64) -> NewEvent {
    NewEvent {
        at: shared.clock.now(),
        actor: ACTOR.to_owned(),
        subject: Subject::of_execution(id),
        details: EventDetails::LogArchived { size_bytes },
    }
}

fn compression(error: std::io::Error) -> BackendError {
    BackendError::new(ErrorKind::Internal, "cannot compress the log").with_source(error)
}
