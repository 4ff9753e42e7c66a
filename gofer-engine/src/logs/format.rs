//! The form of an archived log: zstd around `GOFERLOG2\n` and records of one byte for the output (1
//! or 3 stdout, 2 or 4 stderr), four for the length (little endian), with 3 and 4 eight for the
//! time (microseconds since 1970, little endian), and the bytes. Records keep the order in which
//! the outputs were read. `GOFERLOG1\n` is the same from when no time was known.

use std::io::Write;
use std::ops::Range;

use bytes::{Buf, Bytes};
use gofer_core::scheduler::{LogChunk, LogCursor, LogStream, MAX_LOG_CHUNK_BYTES};
use gofer_core::{BackendError, ErrorKind, Timestamp};
use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation, OutBuffer};

const MAGIC: &[u8; 10] = b"GOFERLOG2\n";
/// What archives of versions before began with.
const OLD_MAGIC: &[u8; 10] = b"GOFERLOG1\n";
const HEADER_BYTES: usize = 5;
/// Longest record: what one log chunk may hold.
const MAX_RECORD_BYTES: usize = MAX_LOG_CHUNK_BYTES;
/// Fast, and already several times smaller for text.
const ZSTD_LEVEL: i32 = 1;
/// How far back a compressed log refers, as a power of two: 512 KiB, what zstd takes at this level.
const WINDOW_LOG: u32 = 19;
/// How far back one that is read may refer: what a reader sets aside follows it, and zstd's own
/// limit is 128 MiB.
const MAX_WINDOW_LOG: u32 = 20;
/// What a reader decompresses ahead of its caller; some whole records.
const BUFFER_BYTES: usize = 256 * 1024;

/// Compresses chunks as they come.
pub(crate) struct Writer {
    encoder: zstd::stream::write::Encoder<'static, Vec<u8>>,
}

impl Writer {
    pub(crate) fn new() -> std::io::Result<Self> {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), ZSTD_LEVEL)?;
        encoder.window_log(WINDOW_LOG)?;
        encoder.write_all(MAGIC)?;
        Ok(Self { encoder })
    }

    /// Adds a chunk; gives what is compressed by now, often nothing.
    pub(crate) fn push(&mut self, chunk: &LogChunk) -> std::io::Result<Vec<u8>> {
        let tag = match (chunk.stream, chunk.at) {
            (LogStream::Stdout, None) => 1,
            (LogStream::Stderr, None) => 2,
            (LogStream::Stdout, Some(_)) => 3,
            (LogStream::Stderr, Some(_)) => 4,
        };

        for piece in chunk.data.chunks(MAX_RECORD_BYTES) {
            let length =
                u32::try_from(piece.len()).expect("a record is at most 64 KiB").to_le_bytes();
            self.encoder.write_all(&[tag])?;
            self.encoder.write_all(&length)?;
            if let Some(at) = chunk.at {
                self.encoder.write_all(&at.0.to_le_bytes())?;
            }
            self.encoder.write_all(piece)?;
        }

        Ok(std::mem::take(self.encoder.get_mut()))
    }

    pub(crate) fn finish(self) -> std::io::Result<Vec<u8>> {
        self.encoder.finish()
    }
}

/// Reads an archived log as its bytes come, in memory that does not depend on them: a few
/// compressed bytes may stand for a gigabyte, so no more is decompressed than the buffer holds, and
/// the rest once its records were taken.
pub(crate) struct Reader {
    decoder: Decoder<'static>,
    /// Compressed bytes that wait.
    input: Bytes,
    /// Decompressed bytes; those of `unread` are still to be read.
    buffer: Box<[u8]>,
    unread: Range<usize>,
    /// The decoder has given all it can of the bytes it was given.
    drained: bool,
    /// The last byte of the zstd frame has come.
    complete: bool,
    magic_seen: bool,
    position: LogCursor,
}

impl Reader {
    pub(crate) fn new() -> std::io::Result<Self> {
        let mut decoder = Decoder::new()?;
        decoder.set_parameter(DParameter::WindowLogMax(MAX_WINDOW_LOG))?;
        Ok(Self {
            decoder,
            input: Bytes::new(),
            buffer: vec![0; BUFFER_BYTES].into(),
            unread: 0..0,
            drained: true,
            complete: false,
            magic_seen: false,
            position: LogCursor::default(),
        })
    }

    /// Takes the next compressed bytes, once there is no [`Self::next`] of those before.
    pub(crate) fn feed(&mut self, data: Bytes) {
        debug_assert!(self.input.is_empty(), "what was fed before is read first");
        self.input = data;
    }

    /// The next chunk; `None` when more compressed bytes are needed for it.
    pub(crate) fn next(&mut self) -> Result<Option<LogChunk>, BackendError> {
        loop {
            if let Some(chunk) = self.record()? {
                return Ok(Some(chunk));
            }
            if self.drained && self.input.is_empty() {
                return Ok(None);
            }
            self.inflate()?;
        }
    }

    /// Whether the log is whole, now that its last bytes were read.
    pub(crate) fn finish(&self) -> Result<(), BackendError> {
        if self.complete && self.magic_seen && self.unread.is_empty() {
            Ok(())
        } else {
            Err(corrupt("ends early"))
        }
    }

    /// Fills the buffer, as far as the bytes at hand go.
    fn inflate(&mut self) -> Result<(), BackendError> {
        self.buffer.copy_within(self.unread.clone(), 0);
        self.unread = 0..self.unread.len();

        let mut input = InBuffer::around(&self.input);
        let mut output = OutBuffer::around_pos(&mut self.buffer[..], self.unread.end);
        let hint = self.decoder.run(&mut input, &mut output);
        let (consumed, filled) = (input.pos(), output.pos());

        self.complete = hint.map_err(|error| {
            corrupt("is not zstd with a window of at most 1 MiB").with_source(error)
        })? == 0;

        self.drained = filled < self.buffer.len();
        self.unread.end = filled;
        self.input.advance(consumed);

        Ok(())
    }

    /// The record at the front of the buffer, if it is whole.
    fn record(&mut self) -> Result<Option<LogChunk>, BackendError> {
        if !self.magic_seen {
            let Some(magic) = self.buffer[self.unread.clone()].first_chunk::<{ MAGIC.len() }>()
            else {
                return Ok(None);
            };

            if magic != MAGIC && magic != OLD_MAGIC {
                return Err(corrupt("does not start with its magic bytes"));
            }

            self.magic_seen = true;
            self.unread.start += MAGIC.len();
        }

        let buffer = &self.buffer[self.unread.clone()];
        let Some((header, rest)) = buffer.split_first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };

        let [tag, length @ ..] = *header;
        let length = u32::from_le_bytes(length) as usize;
        let (stream, timed) = match tag {
            1 => (LogStream::Stdout, false),
            2 => (LogStream::Stderr, false),
            3 => (LogStream::Stdout, true),
            4 => (LogStream::Stderr, true),
            _ => return Err(corrupt("has a record of no known output")),
        };

        if length > MAX_RECORD_BYTES {
            return Err(corrupt("has a record that is too long"));
        }

        let (at, rest) = match (timed, rest.split_first_chunk()) {
            (false, _) => (None, rest),
            (true, Some((micros, rest))) => (Some(Timestamp(i64::from_le_bytes(*micros))), rest),
            (true, None) => return Ok(None),
        };

        let Some(data) = rest.get(..length) else { return Ok(None) };

        let chunk = LogChunk {
            stream,
            offset: self.position.of(stream),
            data: Bytes::copy_from_slice(data),
            at,
        };

        self.unread.start += buffer.len() - rest.len() + length;
        self.position.advance(&chunk);
        Ok(Some(chunk))
    }
}

fn corrupt(what: &str) -> BackendError {
    BackendError::new(ErrorKind::Corrupt, format!("the archived log {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_any_bytes_cut_anywhere() {
        let long = vec![b'e'; 3 * MAX_RECORD_BYTES];
        let stored = written(&[
            chunk(LogStream::Stdout, b"out \x00\xff\n", Some(1)),
            chunk(LogStream::Stderr, &long, Some(1_795_525_766_000_001)),
            chunk(LogStream::Stdout, b"more", None),
        ]);

        for size in [1, 7, stored.len()] {
            let (mut out, mut err) = (Vec::new(), Vec::new());
            for chunk in read(&stored, size).unwrap() {
                let seen = if chunk.stream == LogStream::Stdout { &mut out } else { &mut err };
                assert_eq!(chunk.offset, seen.len() as u64);
                seen.extend_from_slice(&chunk.data);
            }

            assert_eq!(out, b"out \x00\xff\nmore");
            assert_eq!(err, long);
            let times: Vec<_> = read(&stored, size).unwrap().iter().map(|chunk| chunk.at).collect();
            let late = Some(Timestamp(1_795_525_766_000_001));
            assert_eq!(times, [Some(Timestamp(1)), late, late, late, None]);
        }
    }

    #[test]
    fn archives_of_earlier_versions_are_read() {
        let stored =
            zstd::encode_all(&b"GOFERLOG1\n\x01\x02\0\0\0a\n\x02\x01\0\0\0b"[..], ZSTD_LEVEL)
                .unwrap();
        let expected =
            [chunk(LogStream::Stdout, b"a\n", None), chunk(LogStream::Stderr, b"b", None)];
        assert_eq!(read(&stored, 3).unwrap(), expected);
    }

    #[test]
    fn what_is_damaged_is_told() {
        let stored = written(&[chunk(LogStream::Stdout, b"a line\n", Some(7))]);
        for cut in 0..stored.len() {
            let error = read(&stored[..cut], 7).unwrap_err();
            assert_eq!(error.to_string(), "the archived log ends early", "cut at {cut}");
        }

        let packed = |text: &[u8]| zstd::encode_all(text, 1).unwrap();
        for (stored, what) in [
            (
                b"garbage that is no zstd frame".to_vec(),
                "is not zstd with a window of at most 1 MiB",
            ),
            (packed(b"ANOTHERLOG"), "does not start with its magic bytes"),
            (packed(b"GOFERLOG1\n\x05\x01\0\0\0x"), "has a record of no known output"),
            (packed(b"GOFERLOG1\n\x01\0\0\0\x01x"), "has a record that is too long"),
        ] {
            assert_eq!(
                read(&stored, 1024).unwrap_err().to_string(),
                format!("the archived log {what}")
            );
        }
    }

    #[test]
    fn a_window_that_takes_much_memory_is_refused() {
        let text = [MAGIC.as_slice(), &vec![0; 4 << 20]].concat();
        for (window_log, fits) in
            [(WINDOW_LOG, true), (MAX_WINDOW_LOG, true), (MAX_WINDOW_LOG + 1, false)]
        {
            let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), ZSTD_LEVEL).unwrap();
            encoder.window_log(window_log).unwrap();
            encoder.write_all(&text).unwrap();
            let mut reader = Reader::new().unwrap();
            reader.feed(encoder.finish().unwrap().into());
            let error = reader.next().unwrap_err().to_string();
            assert_eq!(!error.contains("window"), fits, "{window_log}: {error}");
        }
    }

    fn chunk(stream: LogStream, data: &[u8], at: Option<i64>) -> LogChunk {
        LogChunk { stream, offset: 0, data: Bytes::copy_from_slice(data), at: at.map(Timestamp) }
    }

    fn written(chunks: &[LogChunk]) -> Vec<u8> {
        let mut writer = Writer::new().unwrap();
        let mut stored: Vec<u8> =
            chunks.iter().flat_map(|chunk| writer.push(chunk).unwrap()).collect();
        stored.extend(writer.finish().unwrap());
        stored
    }

    fn read(stored: &[u8], size: usize) -> Result<Vec<LogChunk>, BackendError> {
        let mut reader = Reader::new().unwrap();
        let mut chunks = Vec::new();
        for piece in stored.chunks(size) {
            reader.feed(Bytes::copy_from_slice(piece));
            while let Some(chunk) = reader.next()? {
                chunks.push(chunk);
            }
        }
        reader.finish()?;
        Ok(chunks)
    }
}
