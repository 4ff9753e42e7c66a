//! Moves the logs of finished attempts from the scheduler into the object store, masked and compressed, and lets the
//! scheduler forget the executions. What is left to do is in the journal, so a crash only makes it do a step again.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use gofer_core::event::{EventDetails, NewEvent, Subject};
use gofer_core::object_store::{ByteStream, PutOptions};
use gofer_core::run::LogState;
use gofer_core::{BackendError, ErrorKind, ExecutionId};

use crate::archive::Writer;
use crate::backoff::Backoff;
use crate::engine::Shared;
use crate::machine::ACTOR;
use crate::{layout, logs};

/// Logs archived at the same time: each is a stream of at most a few hundred KiB in memory.
const AT_ONCE: usize = 8;
const PAGE: usize = 100;

/// Archives whenever an attempt has ended; begins with what an earlier server left.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut backoff = Backoff::new(("archiver", &shared.config.server_id));
    let empty = Empty::default();
    loop {
        if archive_all(&shared, &empty).await {
            backoff.reset();
            shared.archive_wanted.notified().await;
        } else {
            backoff.wait().await;
        }
    }
}

/// One walk over all that is to be archived; returns whether all of it was.
async fn archive_all(shared: &Shared, empty: &Empty) -> bool {
    let mut after = None;
    let mut all = true;
    loop {
        let page = match shared.journal.live_logs(after.take(), PAGE).await {
            Ok(page) => page,
            Err(error) => {
                tracing::warn!(error = %crate::chain(&error), "cannot list the logs to archive, will retry");
                return false;
            }
        };
        let Some(last) = page.last().cloned() else { return all };
        let results = stream::iter(page).map(|id| async move {
            let result = archive(shared, &id, empty).await;
            if let Err(error) = &result {
                tracing::warn!(execution = %id, error = %error.chain(), "cannot archive the log yet, will retry");
            }
            result.is_ok()
        });
        // To the last, whatever fails: a log that cannot be archived keeps none behind it waiting.
        all &= results.buffer_unordered(AT_ONCE).fold(true, |all, archived| async move { all && archived }).await;
        after = Some(last);
    }
}

async fn archive(shared: &Shared, id: &ExecutionId, empty: &Empty) -> Result<(), BackendError> {
    let stored = match logs::live(shared, id, false).await {
        Ok(chunks) => store(shared, id, chunks).await?,
        // Never started; or archived and removed, and the server died before it could record that.
        Err(error) if error.kind == ErrorKind::NotFound => match shared.objects.head(&layout::log_location(id)).await {
            Ok(meta) => Stored::Archived(meta.size_bytes),
            Err(error) if error.kind == ErrorKind::NotFound && empty.holds(id) => Stored::Nothing(LogState::Empty),
            Err(error) if error.kind == ErrorKind::NotFound => Stored::Nothing(LogState::Lost),
            Err(error) => return Err(error),
        },
        Err(error) => return Err(error),
    };
    // What there was is durable: the scheduler may forget, and the record comes last, so that a crash repeats the rest.
    let (state, event) = match stored {
        Stored::Archived(size_bytes) => (LogState::Archived, Some(archived_event(shared, id, size_bytes))),
        Stored::Nothing(state) => (state, None),
    };
    if state == LogState::Empty {
        empty.remember(id);
    }
    forget(shared, id).await?;
    record(shared, id, state, event).await?;
    empty.forget(id);
    Ok(())
}

/// Executions that printed nothing and that the scheduler may have forgotten, until that is recorded. There is no
/// archive to tell: after a crash in between, such a log counts as lost.
#[derive(Default)]
struct Empty(Mutex<BTreeSet<ExecutionId>>);

impl Empty {
    fn remember(&self, id: &ExecutionId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone());
    }

    fn holds(&self, id: &ExecutionId) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(id)
    }

    fn forget(&self, id: &ExecutionId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }
}

enum Stored {
    /// This many bytes in the object store.
    Archived(u64),
    /// Nothing, for this reason.
    Nothing(LogState),
}

async fn store(
    shared: &Shared,
    id: &ExecutionId,
    mut chunks: stream::BoxStream<'static, Result<gofer_core::scheduler::LogChunk, BackendError>>,
) -> Result<Stored, BackendError> {
    let Some(first) = chunks.try_next().await? else { return Ok(Stored::Nothing(LogState::Empty)) };
    let chunks = stream::once(async move { Ok(first) }).chain(chunks).boxed();
    let writer = Some(Writer::new().map_err(compression)?);
    let body: ByteStream = stream::try_unfold((chunks, writer), |(mut chunks, writer)| async move {
        let Some(mut writer) = writer else { return Ok(None) };
        loop {
            let Some(chunk) = chunks.try_next().await? else {
                let rest = writer.finish().map_err(compression)?;
                return Ok(Some((Bytes::from(rest), (chunks, None))));
            };
            let compressed = writer.push(chunk.stream, &chunk.data).map_err(compression)?;
            if !compressed.is_empty() {
                return Ok(Some((Bytes::from(compressed), (chunks, Some(writer)))));
            }
        }
    })
    .boxed();
    let meta = shared.objects.put(&layout::log_location(id), body, PutOptions::default()).await?;
    Ok(Stored::Archived(meta.size_bytes))
}

async fn forget(shared: &Shared, id: &ExecutionId) -> Result<(), BackendError> {
    match shared.scheduler.remove(id).await {
        Ok(()) => {}
        // It was given up as lost and lives on somewhere; its name is never used again.
        Err(error) if error.kind == ErrorKind::Invalid => {
            tracing::warn!(execution = %id, error = %error.chain(), "the scheduler keeps an execution that was given up");
        }
        Err(error) => return Err(error),
    }
    shared.secrets.delete(&layout::mask_path(id)).await
}

async fn record(
    shared: &Shared,
    id: &ExecutionId,
    state: LogState,
    event: Option<NewEvent>,
) -> Result<(), BackendError> {
    match shared.journal.set_log_state(id, LogState::Live, state, event).await {
        // Not `Live` any more: an earlier try of this very step took effect.
        Ok(_) => Ok(()),
        Err(gofer_core::journal::JournalError::Backend(error)) => Err(error),
        Err(other) => Err(BackendError::new(ErrorKind::Internal, other.to_string())),
    }
}

fn archived_event(shared: &Shared, id: &ExecutionId, size_bytes: u64) -> NewEvent {
    NewEvent {
        at: shared.clock.now(),
        actor: ACTOR.to_owned(),
        subject: Subject {
            namespace: Some(id.run.namespace.clone()),
            pipeline: Some(id.run.pipeline.clone()),
            run: Some(id.run.run),
            task: Some(id.task.clone()),
            attempt: Some(id.attempt),
        },
        details: EventDetails::LogArchived { size_bytes },
    }
}

fn compression(error: std::io::Error) -> BackendError {
    BackendError::new(ErrorKind::Internal, "cannot compress the log").with_source(error)
}
