//! Reads an attempt's log: from the scheduler while it is there, else from the archive; always
//! masked.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use gofer_core::run::LogState;
use gofer_core::scheduler::{LogChunk, LogCursor};
use gofer_core::{BackendError, ErrorKind, ExecutionId, Resource};

use super::Chunks;
use super::format;
use super::lines;
use super::live::{self, MaskUpdates};
use super::mask_source::MaskSource;
use super::run_masks::RunMasks;
use crate::commit::news::CommitNews;
use crate::error::EngineError;
use crate::layout;
use crate::ports::Ports;

/// How long the rest of an ended attempt's log is waited for.
const LOG_TAIL_TIMEOUT: Duration = Duration::from_secs(10);

type Answer = BoxStream<'static, Result<LogChunk, EngineError>>;

/// Opens logs.
#[derive(Debug)]
pub(crate) struct LogReader {
    ports: Arc<Ports>,
    commits: CommitNews,
    masks: Arc<RunMasks>,
}

impl LogReader {
    pub(crate) fn new(ports: Arc<Ports>, commits: CommitNews, masks: Arc<RunMasks>) -> Self {
        Self { ports, commits, masks }
    }

    /// See [`crate::Engine::logs`]. Positions count masked bytes, so that they mean the same live
    /// and archived.
    pub(crate) async fn open(
        &self,
        id: ExecutionId,
        from: LogCursor,
        follow: bool,
    ) -> Result<Answer, EngineError> {
        let Ports { journal, shutdown, .. } = &*self.ports;
        let mut committed = self.commits.subscribe();

        loop {
            committed.borrow_and_update();
            let chunks = match journal.log_state(&id).await? {
                Some(LogState::Empty | LogState::EmptyUnsettled) => Some(stream::empty().boxed()),
                Some(LogState::Expired | LogState::Lost) => {
                    return Err(EngineError::LogGone { id });
                }
                Some(LogState::Archived) => Some(archived(&self.ports, &id).await?),
                Some(LogState::Live) => Some(self.ended(&id, follow).await?),
                None => self.unfinished(&id, follow).await?,
            };

            if let Some(chunks) = chunks {
                return Ok(self.until_moved(id, chunks, from));
            }

            if journal.log_state(&id).await?.is_some() {
                // It ended between the two looks.
                continue;
            }

            tokio::select! {
                biased;
                () = shutdown.requested() => return Err(EngineError::Stopped),
                // The sender lives as long as the engine.
                _ = committed.changed() => {}
            }
        }
    }

    /// The log from a position; where it moves into the archive, from there.
    fn until_moved(&self, id: ExecutionId, chunks: Chunks, from: LogCursor) -> Answer {
        let (ports, at) = (self.ports.clone(), LogCursor::default());
        let reading = Reading { ports, id, chunks, at, moved: false };
        let chunks =
            stream::unfold(
                reading,
                |mut reading| async move { Some((reading.next().await?, reading)) },
            );
        skip(chunks.boxed(), from).map(|chunk| chunk.map_err(EngineError::from)).boxed()
    }

    /// The log of an attempt that has not ended; `None` when it has not begun and the caller should
    /// wait.
    async fn unfinished(
        &self,
        id: &ExecutionId,
        follow: bool,
    ) -> Result<Option<Chunks>, EngineError> {
        let snapshot = self.ports.journal.load(&id.run).await?;
        let task = snapshot
            .tasks
            .get(&id.task)
            .ok_or_else(|| not_found(Resource::TaskRun, format!("{}/{}", id.run, id.task)))?;
        if task.attempt < id.attempt && (task.state.is_complete() || !follow) {
            return Err(not_found(Resource::Attempt, id));
        }

        if task.state.is_complete() {
            // It was skipped, cancelled before it began, or reused from another run.
            return self.empty_unless_ended(id).await;
        }

        let source = MaskSource { spec: snapshot.spec, run: snapshot.run };
        match self.live(id, &source, follow).await {
            Ok(chunks) => Ok(Some(chunks)),
            Err(error) if error.kind == ErrorKind::NotFound && follow => Ok(None),
            Err(error) if error.kind == ErrorKind::NotFound => self.empty_unless_ended(id).await,
            Err(error) => Err(error.into()),
        }
    }

    /// Nothing to read, unless the attempt has ended since its log was asked for: then there may be
    /// a log after all.
    async fn empty_unless_ended(&self, id: &ExecutionId) -> Result<Option<Chunks>, EngineError> {
        let ended = self.ports.journal.log_state(id).await?.is_some();
        Ok((!ended).then(|| stream::empty().boxed()))
    }

    /// The log of an attempt that has ended, to its end. The archiver removes the execution just
    /// before it records that the log is archived.
    async fn ended(&self, id: &ExecutionId, follow: bool) -> Result<Chunks, EngineError> {
        let source = MaskSource::load(&self.ports, id).await?;

        // Followed in any case: where the attempt told its end itself, the scheduler may not know
        // of it yet, and the rest of its log is on its way.
        match self.live(id, &source, true).await {
            Ok(chunks) if follow => Ok(chunks),
            Ok(chunks) => Ok(while_it_comes(self.ports.clone(), id.clone(), chunks)),
            Err(error) if error.kind == ErrorKind::NotFound => archived(&self.ports, id).await,
            Err(error) => Err(error.into()),
        }
    }

    /// The scheduler's log; what the run adds to mask is masked in what has not been read yet.
    async fn live(
        &self,
        id: &ExecutionId,
        source: &MaskSource,
        follow: bool,
    ) -> Result<Chunks, BackendError> {
        let updates = MaskUpdates::new(&self.ports, &self.masks, id, source);
        live::open(&self.ports, &self.masks, id, source, follow, Some(updates)).await
    }
}

/// Where the reading of a log stands that may be archived and removed while it is read: it goes on
/// in the archive, where it was.
struct Reading {
    ports: Arc<Ports>,
    id: ExecutionId,
    chunks: Chunks,
    at: LogCursor,
    moved: bool,
}

impl Reading {
    async fn next(&mut self) -> Option<Result<LogChunk, BackendError>> {
        loop {
            match self.chunks.next().await? {
                Ok(chunk) => {
                    self.at.advance(&chunk);
                    return Some(Ok(chunk));
                }
                Err(error) if error.kind == ErrorKind::NotFound && !self.moved => {
                    self.moved = true;
                    match archived(&self.ports, &self.id).await {
                        Ok(rest) => self.chunks = skip(rest, self.at),
                        // It is in neither store: the scheduler says why.
                        Err(_) => return Some(Err(error)),
                    }
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// Ends where nothing comes from an execution that goes on: an attempt that was declared lost may
/// still run on a node that is out of reach.
fn while_it_comes(ports: Arc<Ports>, id: ExecutionId, chunks: Chunks) -> Chunks {
    let next = |(ports, id, mut chunks): (Arc<Ports>, ExecutionId, Chunks)| async move {
        loop {
            match tokio::time::timeout(LOG_TAIL_TIMEOUT, chunks.next()).await {
                Ok(next) => return next.map(|chunk| (chunk, (ports, id, chunks))),
                Err(_) => {
                    let found = ports.scheduler.state(&id).await;
                    if found.is_ok_and(|found| !found.state.is_final()) {
                        return None;
                    }
                    // It is only slow.
                }
            }
        }
    };
    stream::unfold((ports, id, chunks), next).boxed()
}

/// Where the reading of an archived log stands.
struct Unpacking {
    source: gofer_core::object_store::ByteStream,
    reader: format::Reader,
}

impl Unpacking {
    async fn next(&mut self) -> Result<Option<LogChunk>, BackendError> {
        loop {
            if let Some(chunk) = self.reader.next()? {
                // Without this, one piece from the store that stands for a gigabyte would have its
                // thread for itself.
                tokio::task::coop::consume_budget().await;
                return Ok(Some(chunk));
            }
            match self.source.next().await.transpose()? {
                Some(data) => self.reader.feed(data),
                None => {
                    self.reader.finish()?;
                    return Ok(None);
                }
            }
        }
    }
}

async fn archived(ports: &Ports, id: &ExecutionId) -> Result<Chunks, EngineError> {
    let body = match ports.objects.get(&layout::log_location(id)).await {
        Ok(body) => body,
        Err(error) if error.kind == ErrorKind::NotFound => {
            return Err(EngineError::LogGone { id: id.clone() });
        }
        Err(error) => return Err(error.into()),
    };

    let reader = format::Reader::new().map_err(|error| {
        BackendError::new(ErrorKind::Internal, "cannot decompress").with_source(error)
    })?;

    let unpacking = Unpacking { source: body.stream, reader };
    let chunks = stream::try_unfold(unpacking, |mut unpacking| async move {
        Ok(unpacking.next().await?.map(|chunk| (chunk, unpacking)))
    });

    // Of versions that did not see to whole lines.
    Ok(lines::whole(chunks.boxed(), false))
}

/// Leaves out what the caller has seen.
fn skip(chunks: Chunks, from: LogCursor) -> Chunks {
    chunks
        .filter_map(move |chunk| async move {
            let Ok(mut chunk) = chunk else { return Some(chunk) };
            let seen = from.of(chunk.stream).saturating_sub(chunk.offset);
            if seen >= chunk.data.len() as u64 {
                return None;
            }
            chunk.data = chunk.data.slice(usize::try_from(seen).unwrap_or(0)..);
            chunk.offset += seen;
            Some(Ok(chunk))
        })
        .boxed()
}

fn not_found(what: Resource, key: impl ToString) -> EngineError {
    EngineError::NotFound { what, key: key.to_string() }
}
