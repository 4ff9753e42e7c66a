//! Reading a log file as a stream of chunks.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use gofer_core::scheduler::{LogChunk, LogCursor, LogStream};
use gofer_core::{BackendError, ErrorKind, Timestamp};
use tokio::sync::watch;

use crate::error::{blocking, io_error};
use crate::frame::{self, Frame, HEADER_BYTES, MAX_DATA_BYTES, Parsed};
use crate::layout::ExecutionDir;
use crate::table::{Phase, ended};
use crate::watcher::{Follower, Watcher};

/// Frames of one output that were read within so long are one chunk, with the time of the first.
const ONE_CHUNK: Duration = Duration::from_millis(1);
/// Bytes read at once: some whole frames.
const READ_BYTES: usize = 4 * (HEADER_BYTES + MAX_DATA_BYTES);

/// What to wait for when everything was read.
struct Following {
    follower: Follower,
    phase: watch::Receiver<Phase>,
}

/// The log from a position. With `phase`, that of an execution that has not ended, it follows until
/// it has.
pub(crate) fn open(
    dir: &ExecutionDir,
    from: LogCursor,
    watcher: &Arc<Watcher>,
    phase: Option<watch::Receiver<Phase>>,
) -> io::Result<BoxStream<'static, Result<LogChunk, BackendError>>> {
    // Watched before it is read for the first time, so that nothing falls between.
    let following = match phase {
        Some(phase) => watcher.follow(dir.path())?.map(|follower| Following { follower, phase }),
        None => None,
    };
    let path = dir.log();
    let file = open_file(&path)?;
    if file.is_none() && following.is_none() {
        return Ok(stream::empty().boxed());
    }
    let reader = Reader { path, file, position: 0, seen: LogCursor::default(), from };
    let state = State { reader: Some(reader), queue: VecDeque::new(), following, last_pass: false };
    Ok(stream::try_unfold(state, next).boxed())
}

/// The log, once there is one: what writes nothing has none.
fn open_file(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

struct State {
    /// Absent while it is away reading.
    reader: Option<Reader>,
    queue: VecDeque<LogChunk>,
    following: Option<Following>,
    /// What is read now is all there will be.
    last_pass: bool,
}

async fn next(mut state: State) -> Result<Option<(LogChunk, State)>, BackendError> {
    loop {
        if let Some(chunk) = state.queue.pop_front() {
            return Ok(Some((chunk, state)));
        }

        if let Some(following) = &state.following {
            // In this order: an entry is ended first and then forgotten.
            let forgotten = following.phase.has_changed().is_err();
            state.last_pass = *following.phase.borrow() == Phase::Ended;
            if forgotten && !state.last_pass {
                let message = "the log can no longer be followed: the scheduler was closed";
                return Err(BackendError::new(ErrorKind::Unavailable, message));
            }
        } else {
            state.last_pass = true;
        }

        let Some(mut reader) = state.reader.take() else { return Ok(None) };
        let (reader, batch) = blocking(move || {
            let batch = reader.read()?;
            Ok((reader, batch))
        })
        .await?;

        state.reader = Some(reader);
        let progressed = batch.progressed;
        state.queue = batch.chunks;
        if progressed {
            continue;
        }

        match &mut state.following {
            Some(following) if !state.last_pass => {
                tokio::select! {
                    () = following.follower.grown() => {}
                    () = ended(&mut following.phase) => {}
                }
            }
            _ => return Ok(None),
        }
    }
}

struct Reader {
    path: PathBuf,
    file: Option<File>,
    /// Where in the file the next frame begins.
    position: u64,
    /// Bytes of each stream before that.
    seen: LogCursor,
    /// Bytes of each stream the caller does not want.
    from: LogCursor,
}

struct Batch {
    chunks: VecDeque<LogChunk>,
    /// Whole frames were read, wanted or not.
    progressed: bool,
}

impl Reader {
    fn read(&mut self) -> Result<Batch, BackendError> {
        let mut buffer = vec![0; READ_BYTES];
        let length =
            self.fill(&mut buffer).map_err(|error| io_error("a log could not be read", error))?;
        let mut joiner = Joiner::default();
        let mut used = 0;

        loop {
            match frame::parse(&buffer[used..length]) {
                Parsed::Frame(frame) => {
                    used += frame.length;
                    self.take(&frame, &mut joiner);
                }
                Parsed::Incomplete => break,
                Parsed::Corrupt => {
                    let message =
                        format!("a log is damaged at byte {}", self.position + used as u64);
                    return Err(BackendError::new(ErrorKind::Corrupt, message));
                }
            }
        }

        self.position += used as u64;
        Ok(Batch { chunks: joiner.finish(), progressed: used > 0 })
    }

    /// Hands on what the caller wants of a frame.
    fn take(&mut self, frame: &Frame<'_>, joiner: &mut Joiner) {
        let Frame { stream, data, .. } = *frame;
        let offset = self.seen.of(stream);
        let skipped =
            usize::try_from(self.from.of(stream).saturating_sub(offset)).unwrap_or(usize::MAX);
        if let Some(wanted) = data.get(skipped..).filter(|wanted| !wanted.is_empty()) {
            joiner.push(&Frame { data: wanted, ..*frame }, offset + skipped as u64);
        }
        let end = offset + data.len() as u64;
        match stream {
            LogStream::Stdout => self.seen.stdout = end,
            LogStream::Stderr => self.seen.stderr = end,
        }
    }

    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.file.is_none() {
            self.file = open_file(&self.path)?;
        }
        let Some(file) = &self.file else { return Ok(0) };
        let mut length = 0;
        while length < buffer.len() {
            match file.read_at(&mut buffer[length..], self.position + length as u64) {
                Ok(0) => break,
                Ok(count) => length += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(length)
    }
}

/// Joins neighbouring frames of one stream: a task that writes byte by byte makes many small ones.
#[derive(Default)]
struct Joiner {
    done: VecDeque<LogChunk>,
    open: Option<Open>,
}

/// A chunk that may grow.
struct Open {
    stream: LogStream,
    offset: u64,
    at: Option<Timestamp>,
    data: Vec<u8>,
}

impl Open {
    /// How much of the frame belongs to this chunk: all of one that was read in the same moment,
    /// and of another the rest of the line that has begun.
    fn share_of(&self, frame: &Frame<'_>) -> usize {
        let same_moment = match (self.at, frame.at) {
            (Some(ours), Some(theirs)) => theirs.since(ours) < ONE_CHUNK,
            (ours, theirs) => ours == theirs,
        };

        let share = match () {
            () if self.stream != frame.stream => 0,
            () if same_moment => frame.data.len(),
            () if self.data.ends_with(b"\n") => 0,
            () => frame
                .data
                .iter()
                .position(|&byte| byte == b'\n')
                .map_or(frame.data.len(), |newline| newline + 1),
        };

        if self.data.len() + share <= MAX_DATA_BYTES { share } else { 0 }
    }
}

impl Joiner {
    fn push(&mut self, frame: &Frame<'_>, offset: u64) {
        let share = self.open.as_ref().map_or(0, |open| open.share_of(frame));
        let (first, rest) = frame.data.split_at(share);
        if let Some(open) = &mut self.open {
            open.data.extend_from_slice(first);
        }
        if !rest.is_empty() {
            self.close();
            let Frame { stream, at, .. } = *frame;
            self.open =
                Some(Open { stream, offset: offset + share as u64, at, data: rest.to_vec() });
        }
    }

    fn close(&mut self) {
        if let Some(Open { stream, offset, at, data }) = self.open.take() {
            self.done.push_back(LogChunk { stream, offset, data: Bytes::from(data), at });
        }
    }

    fn finish(mut self) -> VecDeque<LogChunk> {
        self.close();
        self.done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_the_time_of_its_first_byte_however_much_is_read_at_once() {
        let mut joiner = Joiner::default();
        let mut offset = 0;
        for (text, at) in [
            ("one\n", 0),
            ("same\n", 999),
            ("tw", 2_000),
            ("o\nthree\n", 9_000),
            ("four\n", 20_000),
        ] {
            let (data, at) = (text.as_bytes(), Some(Timestamp(at)));
            joiner.push(&Frame { stream: LogStream::Stdout, at, data, length: 0 }, offset);
            offset += data.len() as u64;
        }

        let chunks = joiner.finish();
        let seen: Vec<_> = chunks
            .iter()
            .map(|chunk| (&chunk.data[..], chunk.offset, chunk.at.unwrap().0))
            .collect();
        let expected: [(&[u8], u64, i64); 4] = [
            (b"one\nsame\n", 0, 0),
            (b"two\n", 9, 2_000),
            (b"three\n", 13, 9_000),
            (b"four\n", 19, 20_000),
        ];
        assert_eq!(seen, expected);
    }
}
