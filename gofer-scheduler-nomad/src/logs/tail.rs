//! Positions in a log that Nomad has split over files.

use bytes::Bytes;
use gofer_core::scheduler::{LogChunk, LogStream};

use crate::http::types::FileInfo;
use crate::job::names::MAIN;

/// The largest piece handed out.
pub(crate) const MAX_CHUNK: usize = 64 * 1024;
/// Bytes read per call: what one reader holds in memory.
const READ_BYTES: u64 = 1024 * 1024;

/// A file of one stream.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct LogFile {
    index: u64,
    name: String,
    size: u64,
}

pub(crate) fn own_files(files: &[FileInfo], stream: LogStream) -> Vec<LogFile> {
    let kind = match stream {
        LogStream::Stdout => "stdout",
        LogStream::Stderr => "stderr",
    };
    let prefix = format!("{MAIN}.{kind}.");
    let numbered = |file: &FileInfo| {
        let index = file.name.strip_prefix(&prefix)?.parse().ok()?;
        Some(LogFile { index, name: file.name.clone(), size: file.size })
    };
    let mut own: Vec<LogFile> = files.iter().filter_map(numbered).collect();
    own.sort_by_key(|file| file.index);
    own
}

/// What to read next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) file: String,
    pub(crate) offset: u64,
    pub(crate) limit: u64,
}

/// How far one stream was read.
#[derive(Debug)]
pub(crate) struct Tail {
    pub(crate) stream: LogStream,
    /// The file being read and the position in it, once there was one.
    at: Option<(u64, u64)>,
    /// The position in the whole stream.
    position: u64,
    /// Where the reader wants to begin.
    from: u64,
}

impl Tail {
    pub(crate) fn new(stream: LogStream, from: u64) -> Self {
        Self { stream, at: None, position: 0, from }
    }

    /// Finds the place to read from: the first time, and when the file being read was deleted.
    pub(crate) fn place(&mut self, files: &[LogFile], file_bytes: u64) {
        let Some(first) = files.first() else { return };
        match self.at {
            Some((index, _)) if first.index <= index => {}
            // What was in the files before is gone, and how much it was is known only roughly.
            Some(_) => self.move_to(first.index, self.position.max(first.index * file_bytes)),
            None => {
                let mut start = first.index * file_bytes;
                for file in files {
                    self.move_to(file.index, start);
                    if self.from < start + file.size {
                        break;
                    }
                    start += file.size;
                }

                if let Some((index, offset)) = &mut self.at {
                    // Within the file; beyond its end, what comes is skipped by position.
                    let size =
                        files.iter().find(|file| file.index == *index).map_or(0, |file| file.size);
                    *offset = self.from.saturating_sub(self.position).min(size);
                    self.position += *offset;
                }
            }
        }
    }

    fn move_to(&mut self, index: u64, position: u64) {
        self.at = Some((index, 0));
        self.position = position;
    }

    /// The next piece that these files hold.
    pub(crate) fn next(&mut self, files: &[LogFile]) -> Option<Piece> {
        loop {
            let (index, offset) = self.at?;
            let file = files.iter().find(|file| file.index == index)?;
            if offset < file.size {
                let limit = (file.size - offset).min(READ_BYTES);
                return Some(Piece { file: file.name.clone(), offset, limit });
            }
            let later = files.iter().find(|file| file.index > index)?;
            self.at = Some((later.index, 0));
        }
    }

    /// Counts what was read, and cuts it into chunks; what is before the place where the reader
    /// wants to begin is left out.
    pub(crate) fn advance(&mut self, bytes: &[u8]) -> Vec<LogChunk> {
        let start = self.position;
        self.position += bytes.len() as u64;
        if let Some((_, offset)) = &mut self.at {
            *offset += bytes.len() as u64;
        }

        let skip =
            usize::try_from(self.from.saturating_sub(start)).unwrap_or(usize::MAX).min(bytes.len());
        let mut at = start + skip as u64;
        let mut chunks = Vec::new();

        for data in bytes[skip..].chunks(MAX_CHUNK) {
            chunks.push(LogChunk {
                stream: self.stream,
                offset: at,
                data: Bytes::copy_from_slice(data),
                at: None,
            });
            at += data.len() as u64;
        }

        chunks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE_BYTES: u64 = 100;

    fn files(sizes: &[(u64, u64)]) -> Vec<LogFile> {
        sizes
            .iter()
            .map(|(index, size)| LogFile { index: *index, name: format!("f{index}"), size: *size })
            .collect()
    }

    /// Reads everything, from files that hold their position in the stream modulo 251.
    fn read(tail: &mut Tail, files: &[LogFile]) -> Vec<(u64, usize)> {
        tail.place(files, FILE_BYTES);
        let mut chunks = Vec::new();
        while let Some(piece) = tail.next(files) {
            let bytes = vec![b'x'; usize::try_from(piece.limit).unwrap()];
            chunks.extend(
                tail.advance(&bytes).into_iter().map(|chunk| (chunk.offset, chunk.data.len())),
            );
        }
        chunks
    }

    #[test]
    fn positions_go_on_over_files() {
        let mut tail = Tail::new(LogStream::Stdout, 0);
        assert_eq!(read(&mut tail, &[]), []);
        assert_eq!(read(&mut tail, &files(&[(0, 90)])), [(0, 90)]);
        assert_eq!(read(&mut tail, &files(&[(0, 97), (1, 40)])), [(90, 7), (97, 40)]);
        assert_eq!(read(&mut tail, &files(&[(0, 97), (1, 40)])), []);
        assert_eq!(read(&mut tail, &files(&[(1, 95), (2, 10)])), [(137, 55), (192, 10)]);
    }

    #[test]
    fn reading_begins_anywhere() {
        let all = files(&[(0, 90), (1, 60), (2, 5)]);
        for (from, expected) in [
            (0, vec![(0, 90), (90, 60), (150, 5)]),
            (30, vec![(30, 60), (90, 60), (150, 5)]),
            (90, vec![(90, 60), (150, 5)]),
            (151, vec![(151, 4)]),
            (155, vec![]),
        ] {
            assert_eq!(
                read(&mut Tail::new(LogStream::Stdout, from), &all),
                expected,
                "from {from}"
            );
        }

        let mut beyond = Tail::new(LogStream::Stdout, 160);
        assert_eq!(read(&mut beyond, &all), []);
        assert_eq!(read(&mut beyond, &files(&[(0, 90), (1, 60), (2, 20)])), [(160, 10)]);
    }

    #[test]
    fn what_was_deleted_is_a_gap() {
        assert_eq!(read(&mut Tail::new(LogStream::Stdout, 0), &files(&[(3, 50)])), [(300, 50)]);
        let mut tail = Tail::new(LogStream::Stdout, 0);
        read(&mut tail, &files(&[(0, 90)]));
        assert_eq!(read(&mut tail, &files(&[(2, 50)])), [(200, 50)]);
    }

    #[test]
    fn files_of_other_tasks_and_streams_are_not_taken() {
        let info = |name: &str| FileInfo { name: name.into(), size: 1 };
        let all = [
            "main.stdout.10",
            "main.stdout.2",
            "main.stderr.0",
            "proxy.stdout.0",
            ".main.stdout.fifo",
        ]
        .map(info);
        let own = own_files(&all, LogStream::Stdout);
        assert_eq!(own.iter().map(|file| file.index).collect::<Vec<_>>(), [2, 10]);
    }
}
