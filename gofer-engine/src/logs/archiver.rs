//! Moves the logs of finished attempts from the scheduler into the object store, masked and
//! compressed, and lets the scheduler forget the executions.
//!
//! Each server does that for the attempts it saw end. What is left to do is in the journal, so that
//! the leading server finds what others left, and a crash only repeats a step.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use gofer_core::event::{ACTOR, EventDetails, NewEvent, Subject};
use gofer_core::journal::JournalError;
use gofer_core::object_store::{ByteStream, PutOptions};
use gofer_core::run::LogState;
use gofer_core::{BackendError, ErrorKind, ExecutionId, Timestamp};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::Chunks;
use super::archive_queue::{ArchiveQueue, Finished, QUEUE};
use super::format::Writer;
use super::live;
use super::mask_source::{Kept, MaskSource};
use super::run_masks::RunMasks;
use super::warnings::RepeatedWarnings;
use crate::error::of_journal;
use crate::layout;
use crate::ports::Ports;
use crate::retry_loop::Backoff;

/// Logs archived at the same time: each is a stream of at most a few hundred KiB in memory.
const ARCHIVES_MAX: usize = 8;
/// Batches under way: a log that takes minutes is in one of them, and the others do not wait for
/// it.
const BATCHES_MAX: usize = 4;
/// Records written at the same time: those that come together become one transaction.
const RECORDS_MAX: usize = 64;
const PAGE: usize = 100;
/// An attempt's log is archived a moment after its end: what starts next goes first, and many are
/// done together.
const BATCH_DELAY: Duration = Duration::from_millis(250);
/// Longest time between two sweeps.
const SWEEP_PERIOD: Duration = Duration::from_secs(30);
/// An attempt that ended longer ago than this has no live owner; the leader archives it.
const LEFT_BEHIND_AFTER: Duration = Duration::from_secs(10);
/// What a log under way has when the server ends.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

/// Archives the logs of this server, and as the leader those that others left.
#[derive(Debug)]
pub(crate) struct Archiver {
    ports: Arc<Ports>,
    masks: Arc<RunMasks>,
    queue: Arc<ArchiveQueue>,
    /// An outage of the object store makes every log fail, again and again.
    warnings: RepeatedWarnings,
}

impl Archiver {
    pub(crate) fn new(ports: Arc<Ports>, masks: Arc<RunMasks>, queue: Arc<ArchiveQueue>) -> Self {
        Self { ports, masks, queue, warnings: RepeatedWarnings::default() }
    }

    /// Archives what this server saw end, until the server ends.
    pub(crate) async fn run(self: Arc<Self>, mut inbox: mpsc::Receiver<Finished>) {
        let mut backoff = Backoff::new(("archiver", &self.ports.config.server_id));
        let mut batch: Vec<Finished> = Vec::new();
        let mut again: Vec<Finished> = Vec::new();
        let mut under_way: JoinSet<Vec<Finished>> = JoinSet::new();

        loop {
            let more = async {
                if again.is_empty() {
                    if batch.is_empty() {
                        inbox.recv_many(&mut batch, PAGE).await;
                    }
                    tokio::time::sleep(BATCH_DELAY).await;
                } else {
                    backoff.wait().await;
                }
            };

            tokio::select! {
                biased;
                () = self.ports.shutdown.requested() => break,
                Some(ended) = under_way.join_next() => {
                    match ended {
                        Ok(failed) if failed.is_empty() => backoff.reset(),
                        Ok(failed) => again.extend(failed),
                        Err(error) => {
                            tracing::error!(%error, "a part of the archiver failed");
                            self.queue.want_sweep();
                        }
                    }
                    continue;
                }
                () = more, if under_way.len() < BATCHES_MAX => {}
            }

            batch.append(&mut again);
            while batch.len() < QUEUE
                && let Ok(finished) = inbox.try_recv()
            {
                batch.push(finished);
            }

            let (archiver, batch) = (self.clone(), std::mem::take(&mut batch));
            under_way.spawn(async move { archiver.archive_all(batch).await });
        }

        // Each ends within the time that shutdown leaves it.
        while under_way.join_next().await.is_some() {}
    }

    /// Archives what was left behind, for as long as this server leads: first all there is, then
    /// what no server can be at.
    pub(crate) async fn sweep(&self) {
        let clock = &self.ports.clock;
        let mut before = clock.now();
        loop {
            if let Err(error) = self.sweep_once(before).await {
                tracing::warn!(error = %crate::chain(&error), "cannot list the logs to archive, \
                                                               will retry");
            }
            let wanted = self.queue.sweep_wanted();
            if tokio::time::timeout(SWEEP_PERIOD, wanted).await.is_ok() {
                tokio::time::sleep(LEFT_BEHIND_AFTER).await;
            }
            before = clock.now().before(LEFT_BEHIND_AFTER);
        }
    }

    async fn sweep_once(&self, before: Timestamp) -> Result<(), JournalError> {
        let mut after = None;
        loop {
            let page = self.ports.journal.live_logs(before, after.take(), PAGE).await?;
            let Some(last) = page.last().cloned() else { return Ok(()) };
            let mut found: Vec<Finished> = Vec::with_capacity(page.len());

            for id in page {
                // Attempts that ended one after the other are often of one run, whose load costs as
                // much as it has tasks.
                let known = found.last().filter(|last| last.id.run == id.run);
                let source = match known.map(|last| last.source.clone()) {
                    Some(source) => Ok(source),
                    None => MaskSource::load(&self.ports, &id).await,
                };

                match source {
                    Ok(source) => found.push(Finished { id, source, left_behind: true }),
                    // Deleted since.
                    Err(error) if error.kind == ErrorKind::NotFound => {}
                    Err(error) => return Err(error.into()),
                }
            }

            // Those that fail are found by the next sweep.
            self.archive_all(found).await;
            after = Some(last);
        }
    }

    /// Archives each of a batch, all of them a step at a time; returns those to try again. One that
    /// fails holds up no other.
    async fn archive_all(&self, batch: Vec<Finished>) -> Vec<Finished> {
        let mut again = Vec::new();
        let mut batch: Vec<_> = batch.into_iter().map(|finished| (finished, Step::Store)).collect();
        for at_once in [ARCHIVES_MAX, RECORDS_MAX, ARCHIVES_MAX, RECORDS_MAX] {
            let results: Vec<_> =
                stream::iter(batch)
                    .map(|(finished, step)| async move {
                        (self.advance(&finished, step).await, finished)
                    })
                    .buffer_unordered(at_once)
                    .collect()
                    .await;
            batch = Vec::with_capacity(results.len());

            for (result, finished) in results {
                match result {
                    Ok(next) => batch.extend(next.map(|step| (finished, step))),
                    Err(error) => {
                        let error = error.chain();
                        if let Some(times) = self.warnings.count(&error) {
                            tracing::warn!(
                                execution = %finished.id, times, error,
                                "cannot archive logs yet, will retry"
                            );
                        }
                        again.push(finished);
                    }
                }
            }
        }

        again
    }

    /// Takes the step and returns the next. `None`: it was the last; or the server ends, and
    /// [`SHUTDOWN_TIMEOUT`] is over.
    async fn advance(&self, finished: &Finished, step: Step) -> Result<Option<Step>, BackendError> {
        let ending = async {
            self.ports.shutdown.requested().await;
            tokio::time::sleep(SHUTDOWN_TIMEOUT).await;
        };

        let work = async {
            Ok(Some(match step {
                Step::Store => Step::Note(self.store(finished).await?),
                Step::Note(stored) => {
                    if stored == Stored::Nothing(LogState::Empty) {
                        self.record(&finished.id, LogState::Live, LogState::EmptyUnsettled, None)
                            .await?;
                    }
                    Step::Forget(stored)
                }
                Step::Forget(stored) => {
                    self.forget(finished).await?;
                    Step::Record(stored)
                }
                Step::Record(stored) => {
                    self.record_result(&finished.id, stored).await?;
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
        &self,
        Finished { id, source, left_behind }: &Finished,
    ) -> Result<Stored, BackendError> {
        // The execution may have told its end to another server before the scheduler knows. Without
        // this, the rest of its log would be lost, and it would be removed while it runs.
        if *left_behind && !self.ports.scheduler.state(id).await?.state.is_final() {
            let message = format!("the scheduler has not seen the end of `{id}` yet");
            return Err(BackendError::new(ErrorKind::Unavailable, message));
        }

        let gone = Arc::new(OnceLock::new());
        let stored = match live::open(&self.ports, &self.masks, id, source, false, None).await {
            Ok(chunks) => {
                let gone = gone.clone();
                let chunks = chunks.inspect_err(move |error| note_gone(&gone, error));
                self.store_chunks(id, chunks.boxed()).await
            }
            Err(error) => {
                note_gone(&gone, &error);
                Err(error)
            }
        };

        match (stored, gone.get()) {
            // It never started; or it was removed by a server that was at the same log, or that
            // died before it recorded what there was.
            (Err(_), Some(why)) => self.found_gone(id, why).await,
            (stored, _) => stored,
        }
    }

    async fn record_result(&self, id: &ExecutionId, stored: Stored) -> Result<(), BackendError> {
        let (from, to, event) = match stored {
            Stored::Archived(size_bytes) => {
                (LogState::Live, LogState::Archived, Some(self.archived_event(id, size_bytes)))
            }
            Stored::Nothing(LogState::Empty) => (LogState::EmptyUnsettled, LogState::Empty, None),
            Stored::Nothing(state) => (LogState::Live, state, None),
        };
        self.record(id, from, to, event).await
    }

    /// What became of the log of an execution that the scheduler does not know.
    async fn found_gone(&self, id: &ExecutionId, why: &str) -> Result<Stored, BackendError> {
        // What only asks for its metadata is answered without a text, which alone tells a missing
        // object from a missing bucket.
        match self.ports.objects.get(&layout::log_location(id)).await {
            Ok(body) => Ok(Stored::Archived(body.meta.size_bytes)),
            Err(error) if error.kind == ErrorKind::NotFound => {
                let known = self.ports.journal.log_state(id).await.map_err(of_journal)?;
                if matches!(known, Some(LogState::EmptyUnsettled | LogState::Empty)) {
                    return Ok(Stored::Nothing(LogState::Empty));
                }
                tracing::warn!(execution = %id, why, "a log is lost");
                Ok(Stored::Nothing(LogState::Lost))
            }
            Err(error) => Err(error),
        }
    }

    async fn store_chunks(
        &self,
        id: &ExecutionId,
        mut chunks: Chunks,
    ) -> Result<Stored, BackendError> {
        let Some(first) = chunks.try_next().await? else {
            return Ok(Stored::Nothing(LogState::Empty));
        };
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
        let meta =
            self.ports.objects.put(&layout::log_location(id), body, PutOptions::default()).await?;

        Ok(Stored::Archived(meta.size_bytes))
    }

    async fn forget(&self, Finished { id, source, .. }: &Finished) -> Result<(), BackendError> {
        match self.ports.scheduler.remove(id).await {
            Ok(()) => {}
            // It was declared lost and may still run; its name is never used again.
            Err(error) if error.kind == ErrorKind::Invalid => {
                tracing::warn!(
                    execution = %id, error = %error.chain(),
                    "the scheduler keeps an execution that was given up"
                );
            }
            Err(error) => return Err(error),
        }
        match source.keeps_masks(id) {
            Kept::Yes | Kept::Perhaps => self.ports.secrets.delete(&layout::mask_path(id)).await,
            Kept::No => Ok(()),
        }
    }

    async fn record(
        &self,
        id: &ExecutionId,
        from: LogState,
        to: LogState,
        event: Option<NewEvent>,
    ) -> Result<(), BackendError> {
        let set = |from| self.ports.journal.set_log_state(id, from, to, event.clone());
        if !set(from).await.map_err(of_journal)? && from == LogState::Live {
            // An earlier try of this very step took effect; or one that found nothing, and there
            // was something after all.
            set(LogState::EmptyUnsettled).await.map_err(of_journal)?;
        }
        Ok(())
    }

    fn archived_event(&self, id: &ExecutionId, size_bytes: u64) -> NewEvent {
        NewEvent {
            at: self.ports.clock.now(),
            actor: ACTOR.to_owned(),
            subject: Subject::of_execution(id),
            details: EventDetails::LogArchived { size_bytes },
        }
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

#[derive(PartialEq, Eq)]
enum Stored {
    /// This many bytes in the object store.
    Archived(u64),
    /// Nothing, for this reason.
    Nothing(LogState),
}

/// The scheduler does not know the execution, before its log was read or in the middle of it; the
/// object store's own word that it does not know something is another thing.
fn note_gone(gone: &OnceLock<String>, error: &BackendError) {
    if error.kind == ErrorKind::NotFound {
        // The first says why.
        let _ = gone.set(error.chain());
    }
}

fn compression(error: std::io::Error) -> BackendError {
    BackendError::new(ErrorKind::Internal, "cannot compress the log").with_source(error)
}
