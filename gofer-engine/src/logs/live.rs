//! The scheduler's log of an execution, masked from its first byte.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream;
use gofer_core::scheduler::{LogChunk, LogCursor, LogStream, MAX_LOG_CHUNK_BYTES};
use gofer_core::{BackendError, ExecutionId, Timestamp};
use tokio::sync::watch;

use super::Chunks;
use super::lines;
use super::mask::Masker;
use super::mask_source::MaskSource;
use super::run_masks::RunMasks;
use crate::ports::Ports;

/// The scheduler's log, all of it masked by what is known now, in whole lines. With `updates`, what
/// the run adds later is masked in what has not been read yet.
pub(super) async fn open(
    ports: &Ports,
    masks: &RunMasks,
    id: &ExecutionId,
    source: &MaskSource,
    follow: bool,
    updates: Option<MaskUpdates>,
) -> Result<Chunks, BackendError> {
    let masker = source.masker(ports, masks, id).await?;
    let raw = ports.scheduler.logs(id, LogCursor::default(), follow).await?;
    Ok(lines::whole(masked(raw, masker, updates), follow))
}

/// Tells a reader of a live log when there is more to mask.
pub(super) struct MaskUpdates {
    ports: Arc<Ports>,
    masks: Arc<RunMasks>,
    id: ExecutionId,
    source: MaskSource,
    added: watch::Receiver<()>,
    /// What was added could not be read. It is tried again before anything is shown.
    stale: bool,
}

impl MaskUpdates {
    /// From now on. A value that is added after the first masker was made and before this would be
    /// shown: subscribe first.
    pub(super) fn new(
        ports: &Arc<Ports>,
        masks: &Arc<RunMasks>,
        id: &ExecutionId,
        source: &MaskSource,
    ) -> Self {
        Self {
            ports: ports.clone(),
            masks: masks.clone(),
            id: id.clone(),
            source: source.clone(),
            added: masks.subscribe(),
            stale: false,
        }
    }

    /// A masker that knows what was added since the last call, if anything was, by whatever run.
    async fn next(&mut self) -> Result<Option<Masker>, BackendError> {
        // The sender lives as long as the engine.
        if !self.stale && !self.added.has_changed().unwrap_or(false) {
            return Ok(None);
        }

        self.added.borrow_and_update();
        self.stale = true;
        let masker = self.source.masker(&self.ports, &self.masks, &self.id).await?;
        self.stale = false;
        Ok(Some(masker))
    }
}

/// Where the reading of a masked log stands.
struct Masking {
    source: Chunks,
    stdout: MaskedOutput,
    stderr: MaskedOutput,
    position: LogCursor,
    ready: VecDeque<LogChunk>,
    ended: bool,
    updates: Option<MaskUpdates>,
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
    fn push(&mut self, chunk: &LogChunk) {
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
    async fn update(&mut self) -> Result<(), BackendError> {
        if let Some(updates) = &mut self.updates
            && let Some(masker) = updates.next().await?
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
            if let Err(error) = self.update().await {
                self.ended = true;
                return Some(Err(error));
            }

            match next {
                Some(Ok(chunk)) => self.push(&chunk),
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

fn masked(source: Chunks, masker: Masker, updates: Option<MaskUpdates>) -> Chunks {
    let masking = Masking {
        source,
        stdout: MaskedOutput { masker: masker.clone(), held_at: None },
        stderr: MaskedOutput { masker, held_at: None },
        position: LogCursor::default(),
        ready: VecDeque::new(),
        ended: false,
        updates,
    };
    stream::unfold(masking, |mut masking| async move {
        masking.next().await.map(|chunk| (chunk, masking))
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    use secrecy::SecretString;

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
