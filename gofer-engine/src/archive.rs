//! The form of an archived log: zstd around `GOFERLOG1\n` and records of one byte for the output (1 stdout, 2 stderr),
//! four for the length (little endian), and the bytes. Records keep the order in which the outputs were read.

use std::io::Write;

use bytes::Bytes;
use gofer_core::scheduler::{LogChunk, LogStream};
use gofer_core::{BackendError, ErrorKind};

const MAGIC: &[u8] = b"GOFERLOG1\n";
const HEADER_BYTES: usize = 5;
/// Longest record: what one log chunk may hold.
const MAX_RECORD_BYTES: usize = 64 * 1024;
/// Fast, and already several times smaller for text.
const ZSTD_LEVEL: i32 = 1;

/// Compresses chunks as they come.
pub(crate) struct Writer {
    encoder: zstd::stream::write::Encoder<'static, Vec<u8>>,
}

impl Writer {
    pub(crate) fn new() -> std::io::Result<Self> {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), ZSTD_LEVEL)?;
        encoder.write_all(MAGIC)?;
        Ok(Self { encoder })
    }

    /// Adds the bytes of an output; gives what is compressed by now, often nothing.
    pub(crate) fn push(&mut self, stream: LogStream, data: &[u8]) -> std::io::Result<Vec<u8>> {
        for piece in data.chunks(MAX_RECORD_BYTES) {
            let length = u32::try_from(piece.len()).expect("a record is at most 64 KiB").to_le_bytes();
            self.encoder.write_all(&[if stream == LogStream::Stdout { 1 } else { 2 }])?;
            self.encoder.write_all(&length)?;
            self.encoder.write_all(piece)?;
        }
        Ok(std::mem::take(self.encoder.get_mut()))
    }

    pub(crate) fn finish(self) -> std::io::Result<Vec<u8>> {
        self.encoder.finish()
    }
}

/// Reads an archived log as its bytes come.
pub(crate) struct Reader {
    decoder: zstd::stream::write::Decoder<'static, Vec<u8>>,
    magic_seen: bool,
    stdout: u64,
    stderr: u64,
}

impl Reader {
    pub(crate) fn new() -> std::io::Result<Self> {
        let decoder = zstd::stream::write::Decoder::new(Vec::new())?;
        Ok(Self { decoder, magic_seen: false, stdout: 0, stderr: 0 })
    }

    /// Takes compressed bytes; gives the chunks that are whole by now.
    pub(crate) fn push(&mut self, data: &[u8]) -> Result<Vec<LogChunk>, BackendError> {
        self.decoder.write_all(data).map_err(|error| corrupt("is not valid zstd").with_source(error))?;
        self.decoder.flush().map_err(|error| corrupt("is not valid zstd").with_source(error))?;
        let buffer = std::mem::take(self.decoder.get_mut());
        let mut at = 0;
        if !self.magic_seen {
            if buffer.len() < MAGIC.len() {
                *self.decoder.get_mut() = buffer;
                return Ok(Vec::new());
            }
            if !buffer.starts_with(MAGIC) {
                return Err(corrupt("does not start with its magic bytes"));
            }
            self.magic_seen = true;
            at = MAGIC.len();
        }
        let mut chunks = Vec::new();
        while let Some(header) = buffer.get(at..at + HEADER_BYTES) {
            let length = u32::from_le_bytes([header[1], header[2], header[3], header[4]]) as usize;
            let stream = match header[0] {
                1 => LogStream::Stdout,
                2 => LogStream::Stderr,
                _ => return Err(corrupt("has a record of no known output")),
            };
            if length > MAX_RECORD_BYTES {
                return Err(corrupt("has a record that is too long"));
            }
            let Some(data) = buffer.get(at + HEADER_BYTES..at + HEADER_BYTES + length) else { break };
            chunks.push(self.chunk(stream, data));
            at += HEADER_BYTES + length;
        }
        self.decoder.get_mut().extend_from_slice(&buffer[at..]);
        Ok(chunks)
    }

    fn chunk(&mut self, stream: LogStream, data: &[u8]) -> LogChunk {
        let position = match stream {
            LogStream::Stdout => &mut self.stdout,
            LogStream::Stderr => &mut self.stderr,
        };
        let offset = *position;
        *position += data.len() as u64;
        LogChunk { stream, offset, data: Bytes::copy_from_slice(data) }
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
        let mut writer = Writer::new().unwrap();
        let mut stored = writer.push(LogStream::Stdout, b"out \x00\xff\n").unwrap();
        stored.extend(writer.push(LogStream::Stderr, &vec![b'e'; 3 * MAX_RECORD_BYTES]).unwrap());
        stored.extend(writer.push(LogStream::Stdout, b"more").unwrap());
        stored.extend(writer.finish().unwrap());
        for size in [1, 7, stored.len()] {
            let mut reader = Reader::new().unwrap();
            let (mut out, mut err) = (Vec::new(), Vec::new());
            for piece in stored.chunks(size) {
                for chunk in reader.push(piece).unwrap() {
                    let seen = if chunk.stream == LogStream::Stdout { &mut out } else { &mut err };
                    assert_eq!(chunk.offset, seen.len() as u64);
                    seen.extend_from_slice(&chunk.data);
                }
            }
            assert_eq!(out, b"out \x00\xff\nmore");
            assert_eq!(err.len(), 3 * MAX_RECORD_BYTES);
        }
        assert!(Reader::new().unwrap().push(b"garbage that is no zstd frame").is_err());
    }
}
