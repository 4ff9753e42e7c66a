//! From the task's pipes into its log file.
//!
//! Pipes and not the file itself: a task that opens `/dev/stdout` anew would truncate a file, its order between stdout
//! and stderr would be lost, and nothing could stop a task in a loop from filling the disk.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;

use gofer_core::scheduler::LogStream;
use rustix::buffer::spare_capacity;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use crate::frame::{self, HEADER_BYTES, MAX_DATA_BYTES};

/// The reading ends of a task's two outputs.
pub(super) struct Pipes {
    /// `None` once nobody can write to it any more.
    ends: [Option<OwnedFd>; 2],
}

const STREAMS: [LogStream; 2] = [LogStream::Stdout, LogStream::Stderr];

impl Pipes {
    /// Makes the pipes; also returns the ends to write to.
    pub(super) fn open() -> rustix::io::Result<(Self, [OwnedFd; 2])> {
        let (out_read, out_write) = pipe_with(PipeFlags::CLOEXEC)?;
        let (err_read, err_write) = pipe_with(PipeFlags::CLOEXEC)?;
        for end in [&out_read, &err_read] {
            rustix::io::ioctl_fionbio(end, true)?;
        }
        Ok((Self { ends: [Some(out_read), Some(err_read)] }, [out_write, err_write]))
    }

    /// The open ends, to be polled.
    pub(super) fn ends(&self) -> impl Iterator<Item = &OwnedFd> {
        self.ends.iter().flatten()
    }

    /// Moves one buffer from each pipe that has something; says whether any had.
    pub(super) fn pump(&mut self, log: &mut Log) -> bool {
        let mut moved = false;
        for (end, stream) in self.ends.iter_mut().zip(STREAMS) {
            if let Some(fd) = end {
                match log.copy_from(fd, stream) {
                    Ok(0) => *end = None,
                    Ok(_) => moved = true,
                    Err(Errno::AGAIN | Errno::INTR) => {}
                    Err(_) => *end = None,
                }
            }
        }
        moved
    }

    /// Moves what is left in the pipes, without waiting for more.
    pub(super) fn drain(&mut self, log: &mut Log) {
        while self.pump(log) {}
    }
}

/// The log file of an execution, written by its supervisor alone. It is made with its first frame: most short tasks say nothing.
pub(super) struct Log {
    path: PathBuf,
    file: Option<File>,
    /// Length of the file: the end of the last whole frame.
    length: u64,
    /// Bytes of output that may still be kept.
    room: u64,
    /// The limit, for the line that says it was reached.
    limit: u64,
    /// Output is no longer kept.
    dropping: bool,
    /// A header's room and then the data, so that a frame is one write. Its memory is touched only as far as it is used: a
    /// page that stays untouched costs nothing in a process that lives for a millisecond.
    buffer: Vec<u8>,
}

impl Log {
    pub(super) fn new(path: PathBuf, limit: u64) -> Self {
        let buffer = Vec::with_capacity(HEADER_BYTES + MAX_DATA_BYTES);
        Self { path, file: None, length: 0, room: limit, limit, dropping: false, buffer }
    }

    /// Appends a line of the supervisor's own to stderr.
    pub(super) fn note(&mut self, text: &str) {
        self.begin_frame();
        self.buffer.extend_from_slice(format!("gofer: {text}\n").as_bytes());
        self.buffer.truncate(HEADER_BYTES + MAX_DATA_BYTES);
        self.append(LogStream::Stderr);
    }

    fn begin_frame(&mut self) {
        self.buffer.clear();
        self.buffer.extend_from_slice(&[0; HEADER_BYTES]);
    }

    /// Reads once and appends what came; 0 is the end.
    fn copy_from(&mut self, from: impl AsFd, stream: LogStream) -> rustix::io::Result<usize> {
        self.begin_frame();
        let count = rustix::io::read(from, spare_capacity(&mut self.buffer))?;
        if count > 0 && !self.dropping {
            let kept = usize::try_from(self.room).map_or(count, |room| room.min(count));
            if kept > 0 {
                self.buffer.truncate(HEADER_BYTES + kept);
                self.append(stream);
                self.room -= kept as u64;
            }
            if kept < count {
                self.dropping = true;
                self.note(&format!("output after the first {} bytes was dropped (max_log_bytes)", self.limit));
            }
        }
        Ok(count)
    }

    /// Writes the frame whose data is in the buffer. If the disk is full the log stays as it was, whole frames only, and
    /// the task goes on without it.
    fn append(&mut self, stream: LogStream) {
        let length = self.buffer.len() - HEADER_BYTES;
        self.buffer[..HEADER_BYTES].copy_from_slice(&frame::header(stream, length));
        match self.write() {
            Ok(()) => self.length += self.buffer.len() as u64,
            Err(_) => {
                if let Some(file) = &self.file {
                    let _ = file.set_len(self.length);
                }
                if !self.dropping {
                    self.dropping = true;
                    self.note("output from here on was dropped: the log could not be written");
                }
            }
        }
    }

    fn write(&mut self) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => {
                let made = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&self.path)?;
                none.insert(made)
            }
        };
        file.write_all_at(&self.buffer, self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Parsed;

    fn frames(bytes: &[u8]) -> Vec<(LogStream, Vec<u8>)> {
        let mut rest = bytes;
        let mut all = Vec::new();
        while let Parsed::Frame(stream, data) = frame::parse(rest) {
            all.push((stream, data.to_vec()));
            rest = &rest[HEADER_BYTES + data.len()..];
        }
        assert!(rest.is_empty());
        all
    }

    #[test]
    fn keeps_the_order_and_says_what_was_dropped() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("log");
        let mut log = Log::new(path.clone(), 10);
        let (mut pipes, [out, err]) = Pipes::open().unwrap();
        assert!(!pipes.pump(&mut log));
        assert!(!path.exists());
        rustix::io::write(&err, b"1234").unwrap();
        assert!(pipes.pump(&mut log));
        rustix::io::write(&out, b"56789\0\xff").unwrap();
        assert!(pipes.pump(&mut log));
        rustix::io::write(&out, b"more").unwrap();
        drop((out, err));
        pipes.drain(&mut log);
        assert_eq!(pipes.ends().count(), 0);
        let note = b"gofer: output after the first 10 bytes was dropped (max_log_bytes)\n".to_vec();
        assert_eq!(
            frames(&std::fs::read(path).unwrap()),
            [
                (LogStream::Stderr, b"1234".to_vec()),
                (LogStream::Stdout, b"56789\0".to_vec()),
                (LogStream::Stderr, note)
            ]
        );
    }
}
