//! Reads an attempt's log: from the scheduler while it is there, else from the archive; always
//! masked.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use gofer_core::journal::JournalError;
use gofer_core::pipeline::{PipelineSpec, TaskKind};
use gofer_core::run::{LogState, Run};
use gofer_core::scheduler::{LogChunk, LogCursor, LogStream, MAX_LOG_CHUNK_BYTES};
use gofer_core::{BackendError, ErrorKind, ExecutionId, Resource, Timestamp};
use secrecy::{ExposeSecret, SecretString};

use crate::added::{self, Additions};
use crate::archive;
use crate::engine::Shared;
use crate::error::EngineError;
use crate::layout;
use crate::lines;
use crate::mask::Masker;
use crate::resolve;

/// How long the rest of an ended attempt's log is waited for.
const REST: Duration = Duration::from_secs(10);

pub(crate) type Chunks = BoxStream<'static, Result<LogChunk, BackendError>>;
type Answer = BoxStream<'static, Result<LogChunk, EngineError>>;

/// See [`crate::Engine::logs`]. Positions count masked bytes, so that they mean the same live and
/// archived.
pub(crate) async fn open(
    shared: Arc<Shared>,
    id: ExecutionId,
    from: LogCursor,
    follow: bool,
) -> Result<Answer, EngineError> {
    let mut committed = shared.commits.subscribe();
    loop {
        committed.borrow_and_update();
        let chunks = match shared.journal.log_state(&id).await? {
            Some(LogState::Empty | LogState::Silent) => Some(stream::empty().boxed()),
            Some(LogState::Expired | LogState::Lost) => return Err(EngineError::LogGone { id }),
            Some(LogState::Archived) => Some(archived(&shared, &id).await?),
            Some(LogState::Live) => Some(ended(&shared, &id, follow).await?),
            None => unfinished(&shared, &id, follow).await?,
        };

        if let Some(chunks) = chunks {
            let reading = Reading { shared, id, chunks, at: LogCursor::default(), moved: false };
            let chunks = stream::unfold(reading, |mut reading| async move {
                Some((reading.next().await?, reading))
            });
            return Ok(skip(chunks.boxed(), from)
                .map(|chunk| chunk.map_err(EngineError::from))
                .boxed());
        }

        if shared.journal.log_state(&id).await?.is_some() {
            // It ended between the two looks.
            continue;
        }

        tokio::select! {
            biased;
            () = shared.stop.cancelled() => return Err(EngineError::Stopped),
            // The sender lives as long as the engine.
            _ = committed.changed() => {}
        }
    }
}

/// Where the reading of a log stands that may be archived and removed meanwhile: it goes on in the
/// archive, where it was.
struct Reading {
    shared: Arc<Shared>,
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
                    match archived(&self.shared, &self.id).await {
                        Ok(rest) => self.chunks = skip(rest, self.at),
                        // It is in neither place: the scheduler says why.
                        Err(_) => return Some(Err(error)),
                    }
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// The log of an attempt that has not ended; `None` when it has not begun and the caller should
/// wait.
async fn unfinished(
    shared: &Arc<Shared>,
    id: &ExecutionId,
    follow: bool,
) -> Result<Option<Chunks>, EngineError> {
    let snapshot = shared.journal.load(&id.run).await?;
    let task = snapshot
        .tasks
        .get(&id.task)
        .ok_or_else(|| not_found(Resource::TaskRun, format!("{}/{}", id.run, id.task)))?;
    if task.attempt < id.attempt && (task.state.is_complete() || !follow) {
        return Err(not_found(Resource::Attempt, id));
    }

    if task.state.is_complete() {
        // It was skipped, cancelled before it began, or reused from another run.
        return empty_unless_ended(shared, id).await;
    }

    let origin = Origin { spec: snapshot.spec, run: snapshot.run };
    match reading(shared, id, &origin, follow).await {
        Ok(chunks) => Ok(Some(chunks)),
        Err(error) if error.kind == ErrorKind::NotFound && follow => Ok(None),
        Err(error) if error.kind == ErrorKind::NotFound => empty_unless_ended(shared, id).await,
        Err(error) => Err(error.into()),
    }
}

/// Nothing to read, unless the attempt has ended since its log was asked for: then there may be a
/// log after all.
async fn empty_unless_ended(
    shared: &Shared,
    id: &ExecutionId,
) -> Result<Option<Chunks>, EngineError> {
    let ended = shared.journal.log_state(id).await?.is_some();
    Ok((!ended).then(|| stream::empty().boxed()))
}

/// The log of an attempt that has ended, to its end. The archiver removes the execution just before
/// it records that the log is archived.
async fn ended(
    shared: &Arc<Shared>,
    id: &ExecutionId,
    follow: bool,
) -> Result<Chunks, EngineError> {
    let origin = Origin::load(shared, id).await?;
    // The scheduler may not know of the end yet, which the attempt told itself: the rest of its log
    // is on its way.
    match reading(shared, id, &origin, true).await {
        Ok(chunks) if follow => Ok(chunks),
        Ok(chunks) => Ok(while_it_comes(shared.clone(), id.clone(), chunks)),
        Err(error) if error.kind == ErrorKind::NotFound => archived(shared, id).await,
        Err(error) => Err(error.into()),
    }
}

/// Ends where nothing comes from an execution that goes on: an attempt that was given up may live
/// on somewhere.
fn while_it_comes(shared: Arc<Shared>, id: ExecutionId, chunks: Chunks) -> Chunks {
    let next = |(shared, id, mut chunks): (Arc<Shared>, ExecutionId, Chunks)| async move {
        loop {
            match tokio::time::timeout(REST, chunks.next()).await {
                Ok(next) => return next.map(|chunk| (chunk, (shared, id, chunks))),
                Err(_)
                    if shared
                        .scheduler
                        .state(&id)
                        .await
                        .is_ok_and(|found| !found.state.is_final()) =>
                {
                    return None;
                }
                // It is only slow.
                Err(_) => {}
            }
        }
    };
    stream::unfold((shared, id, chunks), next).boxed()
}

/// The scheduler's log, all of it masked by what is known now, in whole lines.
pub(crate) async fn live(
    shared: &Shared,
    id: &ExecutionId,
    origin: &Origin,
    follow: bool,
    additions: Option<Additions>,
) -> Result<Chunks, BackendError> {
    let masker = origin.masker(shared, id).await?;
    let source = shared.scheduler.logs(id, LogCursor::default(), follow).await?;
    Ok(lines::whole(masked(source, masker, additions), follow))
}

/// The same, and what the run adds meanwhile is masked in what has not been read yet.
async fn reading(
    shared: &Arc<Shared>,
    id: &ExecutionId,
    origin: &Origin,
    follow: bool,
) -> Result<Chunks, BackendError> {
    let additions = Additions::new(shared, id, origin);
    live(shared, id, origin, follow, Some(additions)).await
}

/// What an execution was made from: it tells what to mask in its log.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    pub(crate) spec: Arc<PipelineSpec>,
    pub(crate) run: Run,
}

impl Origin {
    pub(crate) async fn load(shared: &Shared, id: &ExecutionId) -> Result<Self, BackendError> {
        let snapshot = shared.journal.load(&id.run).await.map_err(|error| match error {
            JournalError::Backend(error) => error,
            other => BackendError::new(ErrorKind::NotFound, other.to_string()),
        })?;
        Ok(Self { spec: snapshot.spec, run: snapshot.run })
    }

    /// Whether values to mask were left in the secret store when the execution was started.
    pub(crate) fn keeps_masks(&self, id: &ExecutionId) -> Kept {
        let Some(task) = self.spec.task(&id.task) else { return Kept::No };
        let has_login =
            matches!(&task.kind, TaskKind::Custom(custom) if custom.registry_auth.is_some());
        if has_login || resolve::names_secrets(&self.spec, task, &self.run) {
            return Kept::Yes;
        }
        if resolve::run_mentions_secrets(&self.run) { Kept::Perhaps } else { Kept::No }
    }

    /// Masks the run's token, what the execution was started with, what the run has added since,
    /// and tokens that the scheduler may have given to it.
    pub(crate) async fn masker(
        &self,
        shared: &Shared,
        id: &ExecutionId,
    ) -> Result<Masker, BackendError> {
        let mut masks = vec![shared.tokens.token(&self.run.token_nonce)];
        let kept = self.keeps_masks(id);
        if kept != Kept::No {
            match shared.secrets.get(&layout::mask_path(id)).await {
                Ok(stored) => masks.extend(kept_values(id, &stored)?),
                Err(error) if error.kind == ErrorKind::NotFound && kept == Kept::Perhaps => {}
                // Missing: the execution was never started, so it has no log either.
                Err(error) => return Err(error),
            }
        }
        masks.extend(added::of_run(shared, &self.run.key).await?);
        Ok(Masker::new(&masks).with_tokens(shared.scheduler.identities().is_some()))
    }
}

/// Whether there are values to mask in the secret store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    Yes,
    /// A run's value reads like a template. It was one in versions before, and an execution of then
    /// may still have a log.
    Perhaps,
    No,
}

fn kept_values(
    id: &ExecutionId,
    stored: &SecretString,
) -> Result<impl Iterator<Item = SecretString>, BackendError> {
    let values: Vec<String> = serde_json::from_str(stored.expose_secret()).map_err(|_| {
        BackendError::new(ErrorKind::Corrupt, format!("the values to mask for `{id}` are damaged"))
    })?;
    Ok(values.into_iter().map(SecretString::from))
}

/// Where the reading of a masked log stands.
struct Masking {
    source: Chunks,
    stdout: MaskedOutput,
    stderr: MaskedOutput,
    position: LogCursor,
    ready: VecDeque<LogChunk>,
    ended: bool,
    additions: Option<Additions>,
}

/// One of the two outputs.
struct MaskedOutput {
    masker: Masker,
    /// The time of the first byte that is held back.
    held_at: Option<Timestamp>,
}

impl Masking {
    fn output(&mut self, stream: LogStream) -> &mut MaskedOutput {
        match stream {
            LogStream::Stdout => &mut self.stdout,
            LogStream::Stderr => &mut self.stderr,
        }
    }

    /// What of the chunk can be shown, and before it what was held back. A piece has the time of
    /// its first byte.
    fn take(&mut self, chunk: &LogChunk) {
        let output = self.output(chunk.stream);
        let (held, held_at) = (output.masker.held(), output.held_at);
        let mut data = Bytes::from(output.masker.push(&chunk.data));
        if output.masker.held() <= chunk.data.len() {
            output.held_at = chunk.at;
        }

        if held > 0 {
            let line = memchr::memchr(b'\n', &data).map_or(data.len(), |newline| newline + 1);
            let begun = data.split_to(line);
            self.emit(chunk.stream, begun, held_at);
        }
        self.emit(chunk.stream, data, chunk.at);
    }

    /// Takes over what the run has added to mask. What cannot be masked is not shown.
    async fn add(&mut self) -> Result<(), BackendError> {
        if let Some(additions) = &mut self.additions
            && let Some(masker) = additions.next().await?
        {
            self.stdout.masker.go_on_as(&masker);
            self.stderr.masker.go_on_as(&masker);
        }
        Ok(())
    }

    fn finish(&mut self, stream: LogStream) {
        let output = self.output(stream);
        let (rest, at) = (output.masker.finish(), output.held_at);
        self.emit(stream, rest.into(), at);
    }

    /// In pieces, since masking may have lengthened it.
    fn emit(&mut self, stream: LogStream, mut data: Bytes, at: Option<Timestamp>) {
        while !data.is_empty() {
            let piece = data.split_to(data.len().min(MAX_LOG_CHUNK_BYTES));
            let chunk = LogChunk { stream, offset: self.position.of(stream), data: piece, at };
            self.position.advance(&chunk);
            self.ready.push_back(chunk);
        }
    }

    async fn next(&mut self) -> Option<Result<LogChunk, BackendError>> {
        loop {
            if let Some(chunk) = self.ready.pop_front() {
                return Some(Ok(chunk));
            }

            if self.ended {
                return None;
            }

            let next = self.source.next().await;
            if let Err(error) = self.add().await {
                self.ended = true;
                return Some(Err(error));
            }

            match next {
                Some(Ok(chunk)) => self.take(&chunk),
                Some(Err(error)) => return Some(Err(error)),
                None => {
                    self.ended = true;
                    self.finish(LogStream::Stdout);
                    self.finish(LogStream::Stderr);
                }
            }
        }
    }
}

fn masked(source: Chunks, masker: Masker, additions: Option<Additions>) -> Chunks {
    let masking = Masking {
        source,
        stdout: MaskedOutput { masker: masker.clone(), held_at: None },
        stderr: MaskedOutput { masker, held_at: None },
        position: LogCursor::default(),
        ready: VecDeque::new(),
        ended: false,
        additions,
    };
    stream::unfold(masking, |mut masking| async move {
        masking.next().await.map(|chunk| (chunk, masking))
    })
    .boxed()
}

/// Where the reading of an archived log stands.
struct Unpacking {
    source: gofer_core::object_store::ByteStream,
    reader: archive::Reader,
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

async fn archived(shared: &Shared, id: &ExecutionId) -> Result<Chunks, EngineError> {
    let body = match shared.objects.get(&layout::log_location(id)).await {
        Ok(body) => body,
        Err(error) if error.kind == ErrorKind::NotFound => {
            return Err(EngineError::LogGone { id: id.clone() });
        }
        Err(error) => return Err(error.into()),
    };

    let reader = archive::Reader::new().map_err(|error| {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_masked_piece_has_the_time_of_its_first_byte() {
        let mut offset = 0;
        let pieces =
            [("pw hun", 1), ("ter2 one\ntwo hu", 2), ("n", 3), ("ger\nh", 4)].map(|(text, at)| {
                let data = Bytes::from_static(text.as_bytes());
                let chunk =
                    LogChunk { stream: LogStream::Stdout, offset, data, at: Some(Timestamp(at)) };
                offset += text.len() as u64;
                Ok(chunk)
            });

        let masker = Masker::new(&[SecretString::from("hunter2")]);
        let shown = masked(stream::iter(pieces).boxed(), masker, None).map(|chunk| {
            let LogChunk { data, at, .. } = chunk.unwrap();
            (String::from_utf8(data.to_vec()).unwrap(), at.unwrap().0)
        });

        let shown: Vec<_> = shown.collect().await;
        let expected = [("pw ", 1), ("*** one\n", 1), ("two ", 2), ("hunger\n", 2), ("h", 4)];
        assert_eq!(shown, expected.map(|(text, at)| (text.to_owned(), at)));
    }
}
