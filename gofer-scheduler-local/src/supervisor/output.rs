//! From the task's pipes into its log file.
//!
//! Pipes and not the file itself: a task that opens `/dev/stdout` anew would truncate a file, its
//! order between stdout and stderr would be lost, and nothing could stop a task in a loop from
//! filling the disk.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt, fchown};
use std::path::PathBuf;

use gofer_core::Timestamp;
use gofer_core::scheduler::LogStream;
use rustix::buffer::spare_capacity;
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::confinement::User;
use crate::frame::{self, HEADER_BYTES, MAX_DATA_BYTES};

/// How much a log grows between two looks at the disk: little beside any floor, and a short log
/// costs no look.
const LOOK_BYTES: u64 = 1024 * 1024;

/// What is read of one pipe while the other has something, too: what a writer is sure to have
/// written in one piece.
const TURN_BYTES: usize = 4 * 1024;

/// The reading ends of a task's outputs: of one pipe for both, in which all is in the order in
/// which it was written, or of two.
///
/// Of two pipes nothing tells what was written to the one before something else was written to the
/// other, so then they are read in small turns.
pub(super) struct Pipes {
    /// `None` once nobody can write to it any more; the second is `None` from the beginning when
    /// there is one for both.
    ends: [Option<OwnedFd>; 2],
}

const STREAMS: [LogStream; 2] = [LogStream::Stdout, LogStream::Stderr];

impl Pipes {
    /// Makes the pipes; also returns what stdout and stderr write to.
    pub(super) fn open(separate: bool) -> rustix::io::Result<(Self, [OwnedFd; 2])> {
        let (out_read, out_write) = pipe_with(PipeFlags::CLOEXEC)?;
        let (err_read, err_write) = if separate {
            let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
            (Some(read), write)
        } else {
            (None, fcntl_dupfd_cloexec(&out_write, 0)?)
        };

        let ends = [Some(out_read), err_read];
        for end in ends.iter().flatten() {
            rustix::io::ioctl_fionbio(end, true)?;
        }
        Ok((Self { ends }, [out_write, err_write]))
    }

    /// Lets another user open them by name, as `/dev/stdout`.
    pub(super) fn give(ends: &[OwnedFd; 2], user: &User) -> io::Result<()> {
        ends.iter().try_for_each(|end| fchown(end, Some(user.uid), Some(user.gid)))
    }

    /// The open ends, to be polled.
    pub(super) fn ends(&self) -> impl Iterator<Item = &OwnedFd> {
        self.ends.iter().flatten()
    }

    /// Moves one buffer from each pipe that has something; says whether any had.
    pub(super) fn pump(&mut self, log: &mut Log) -> bool {
        let turn = if self.ends().count() == 2 && self.ends().all(has_something) {
            TURN_BYTES
        } else {
            MAX_DATA_BYTES
        };

        let mut moved = false;
        for (end, stream) in self.ends.iter_mut().zip(STREAMS) {
            if let Some(fd) = end {
                match log.copy_from(fd, stream, turn) {
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

fn has_something(end: &OwnedFd) -> bool {
    rustix::io::ioctl_fionread(end).is_ok_and(|bytes| bytes > 0)
}

/// The log file of an execution, written by its supervisor alone. It is made with its first frame:
/// most short tasks say nothing.
pub(super) struct Log {
    path: PathBuf,
    file: Option<File>,
    /// Length of the file: the end of the last whole frame.
    length: u64,
    /// Bytes of output that may still be kept.
    room: u64,
    /// The limit, for the line that says it was reached.
    limit: u64,
    /// Output is dropped while the disk has fewer bytes left.
    free_disk_min: u64,
    /// Length of the file from which on the disk is looked at again.
    look_at: u64,
    /// Output is no longer kept.
    dropping: bool,
    /// When the last frame was read.
    at: Timestamp,
    /// A header's room and then the data, so that a frame is one write. Its memory is touched only
    /// as far as it is used: a page that stays untouched costs nothing in a process that lives for
    /// a millisecond.
    buffer: Vec<u8>,
}

impl Log {
    pub(super) fn new(path: PathBuf, limit: u64, free_disk_min: u64) -> Self {
        Self {
            path,
            file: None,
            length: 0,
            room: limit,
            limit,
            free_disk_min,
            look_at: LOOK_BYTES,
            dropping: false,
            at: Timestamp(0),
            buffer: Vec::with_capacity(HEADER_BYTES + MAX_DATA_BYTES),
        }
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

    /// Reads once, at most so much, and appends what came; 0 is the end.
    fn copy_from(
        &mut self,
        from: impl AsFd,
        stream: LogStream,
        most: usize,
    ) -> rustix::io::Result<usize> {
        self.begin_frame();
        let count = if most == MAX_DATA_BYTES {
            rustix::io::read(from, spare_capacity(&mut self.buffer))?
        } else {
            self.buffer.resize(HEADER_BYTES + most, 0);
            let count = rustix::io::read(from, &mut self.buffer[HEADER_BYTES..])?;
            self.buffer.truncate(HEADER_BYTES + count);
            count
        };

        if count > 0 && !self.dropping && self.length >= self.look_at {
            self.look_at = self.length + LOOK_BYTES;
            self.drop_if_disk_is_full();
        }

        if count > 0 && !self.dropping {
            let kept = usize::try_from(self.room).map_or(count, |room| room.min(count));
            if kept > 0 {
                self.buffer.truncate(HEADER_BYTES + kept);
                self.append(stream);
                self.room -= kept as u64;
            }

            if kept < count {
                self.dropping = true;
                self.note(&format!(
                    "output after the first {} bytes was dropped (max_log_bytes)",
                    self.limit
                ));
            }
        }

        Ok(count)
    }

    /// Keeps no more output when the disk is needed for what the server itself writes.
    fn drop_if_disk_is_full(&mut self) {
        let disk = self.file.as_ref().filter(|_| self.free_disk_min > 0).map(rustix::fs::fstatvfs);
        if let Some(Ok(disk)) = disk
            && disk.f_bavail.saturating_mul(disk.f_frsize) < self.free_disk_min
        {
            self.dropping = true;
            let min = self.free_disk_min;
            self.note(&format!(
                "output from here on was dropped: the disk has fewer than {min} bytes left \
                 (limits.free_disk_min)"
            ));
        }
    }

    /// Writes the frame whose data is in the buffer. If the disk is full the log stays as it was,
    /// whole frames only, and the task goes on without it.
    fn append(&mut self, stream: LogStream) {
        let length = self.buffer.len() - HEADER_BYTES;
        // The machine's clock may be set back; the log's is not.
        self.at = self.at.max(Timestamp::now());
        self.buffer[..HEADER_BYTES].copy_from_slice(&frame::header(stream, self.at, length));

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
                let made = OpenOptions::new()
                    .write(true)
                    .create(true)
                    .truncate(true)
                    .mode(0o600)
                    .open(&self.path)?;
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
        let mut last = Timestamp(1);
        while let Parsed::Frame(frame) = frame::parse(rest) {
            assert!(frame.at >= Some(last), "time goes back");
            last = frame.at.unwrap();
            all.push((frame.stream, frame.data.to_vec()));
            rest = &rest[frame.length..];
        }
        assert!(rest.is_empty());
        all
    }

    #[test]
    fn one_pipe_keeps_the_order_of_both() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("log");
        let mut log = Log::new(path.clone(), u64::MAX, 0);
        let (mut pipes, [out, err]) = Pipes::open(false).unwrap();

        for _ in 0..3 {
            rustix::io::write(&err, b"+ echo\n").unwrap();
            rustix::io::write(&out, b"said\n").unwrap();
        }

        drop((out, err));
        pipes.drain(&mut log);
        assert_eq!(pipes.ends().count(), 0);
        assert_eq!(
            frames(&std::fs::read(path).unwrap()),
            [(LogStream::Stdout, b"+ echo\nsaid\n+ echo\nsaid\n+ echo\nsaid\n".to_vec())]
        );
    }

    #[test]
    fn two_pipes_are_read_in_turn() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("log");
        let mut log = Log::new(path.clone(), u64::MAX, 0);
        let (mut pipes, [out, err]) = Pipes::open(true).unwrap();
        rustix::io::write(&out, &[b'o'; 3 * TURN_BYTES]).unwrap();
        rustix::io::write(&err, &[b'e'; 2 * TURN_BYTES]).unwrap();
        pipes.drain(&mut log);
        let turns: Vec<_> = frames(&std::fs::read(path).unwrap())
            .iter()
            .map(|(stream, data)| (*stream, data.len()))
            .collect();
        let (out, err) = ((LogStream::Stdout, TURN_BYTES), (LogStream::Stderr, TURN_BYTES));
        assert_eq!(turns, [out, err, out, err, out]);
    }

    #[test]
    fn a_long_log_ends_above_the_floor_of_free_disk_and_says_so() {
        let root = tempfile::tempdir().unwrap();
        for (floor, is_cut) in [(u64::MAX, true), (1, false)] {
            let path = root.path().join(floor.to_string());
            let mut log = Log::new(path.clone(), u64::MAX, floor);
            let (mut pipes, [out, _err]) = Pipes::open(true).unwrap();

            for _ in 0..(2 * LOOK_BYTES / TURN_BYTES as u64) {
                rustix::io::write(&out, &[b'o'; TURN_BYTES]).unwrap();
                pipes.drain(&mut log);
            }

            let frames = frames(&std::fs::read(path).unwrap());
            let kept: usize = frames.iter().map(|(_, data)| data.len()).sum();
            assert_eq!(kept as u64 >= 2 * LOOK_BYTES, !is_cut, "{kept} bytes");
            let notes: Vec<_> =
                frames.iter().filter(|(stream, _)| *stream == LogStream::Stderr).collect();
            assert_eq!(notes.len(), usize::from(is_cut), "it is said once");
            assert!(notes.iter().all(|(_, data)| data.ends_with(b"(limits.free_disk_min)\n")));
        }
    }

    #[test]
    fn keeps_the_order_and_says_what_was_dropped() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("log");
        let mut log = Log::new(path.clone(), 10, 0);
        let (mut pipes, [out, err]) = Pipes::open(true).unwrap();
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
