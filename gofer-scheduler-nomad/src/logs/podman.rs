//! The log of a podman container. Its driver hands Nomad the file of podman's own log: all of it
//! counts as stdout, and each line begins with a header that says when it was written, to what, and
//! whether a newline belongs to it.
//!
//! ```text
//! 2026-11-28T07:04:40.150085242+00:00 stderr F a whole line
//! 2026-11-28T07:04:40.150085242+00:00 stdout P the beginning of a line
//! ```

use bytes::Bytes;
use gofer_core::scheduler::{LogChunk, LogCursor, LogStream};

use crate::logs::tail::MAX_CHUNK;

/// Longest line that is waited for: podman cuts them far shorter.
const MAX_LINE: usize = 1024 * 1024;

/// Takes the headers off, and tells stdout from stderr.
#[derive(Debug)]
pub(crate) struct Lines {
    /// The beginning of a line whose end has not come.
    pending: Vec<u8>,
    /// Where the next bytes of podman's log begin.
    expected: u64,
    /// Bytes of each stream so far.
    seen: LogCursor,
    /// Bytes of each stream that the reader does not want.
    from: LogCursor,
}

impl Lines {
    pub(crate) fn new(from: LogCursor) -> Self {
        Self { pending: Vec::new(), expected: 0, seen: LogCursor::default(), from }
    }

    /// What a piece of podman's log says.
    pub(crate) fn decode(&mut self, raw: &LogChunk) -> Vec<LogChunk> {
        if raw.offset != self.expected {
            // What was between is gone, and with it the end of the line.
            self.pending.clear();
        }

        self.expected = raw.offset + raw.data.len() as u64;
        let mut pieces: Vec<(LogStream, Vec<u8>)> = Vec::new();
        for part in raw.data.split_inclusive(|&byte| byte == b'\n') {
            self.pending.extend_from_slice(part);
            if part.ends_with(b"\n") || self.pending.len() >= MAX_LINE {
                let line = std::mem::take(&mut self.pending);
                let (stream, content) = parse(&line);
                match pieces.last_mut() {
                    Some((last, data))
                        if *last == stream && data.len() + content.len() <= MAX_CHUNK =>
                    {
                        data.extend_from_slice(content);
                    }
                    _ => pieces.extend(
                        content.chunks(MAX_CHUNK).map(|content| (stream, content.to_vec())),
                    ),
                }
            }
        }

        pieces.into_iter().filter_map(|(stream, data)| self.place(stream, data)).collect()
    }

    /// The part of it that the reader wants, at its place.
    fn place(&mut self, stream: LogStream, data: Vec<u8>) -> Option<LogChunk> {
        let chunk =
            LogChunk { stream, offset: self.seen.of(stream), data: Bytes::from(data), at: None };
        self.seen.advance(&chunk);
        let skipped = usize::try_from(self.from.of(stream).saturating_sub(chunk.offset))
            .unwrap_or(usize::MAX);
        let is_wanted = skipped < chunk.data.len();
        is_wanted.then(|| LogChunk {
            offset: chunk.offset + skipped as u64,
            data: chunk.data.slice(skipped..),
            ..chunk
        })
    }
}

/// A line's stream and content. One without a header is taken as it is: better strange than lost.
fn parse(line: &[u8]) -> (LogStream, &[u8]) {
    let mut words = line.splitn(4, |&byte| byte == b' ');
    let header = (
        words.next().filter(|time| time.contains(&b'T')),
        words.next(),
        words.next(),
        words.next(),
    );
    let (Some(_), Some(stream), Some(kind), Some(content)) = header else {
        return (LogStream::Stdout, line);
    };

    let stream = match stream {
        b"stdout" => LogStream::Stdout,
        b"stderr" => LogStream::Stderr,
        _ => return (LogStream::Stdout, line),
    };

    match kind {
        b"F" => (stream, content),
        b"P" => (stream, content.strip_suffix(b"\n").unwrap_or(content)),
        _ => (LogStream::Stdout, line),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: &str = "2026-11-28T07:04:40.150085242+00:00";

    fn log() -> String {
        [
            format!("{TIME} stdout F one\n"),
            format!("{TIME} stderr P a part"),
            "\n".to_owned(),
            format!("{TIME} stderr F  and its end\n"),
            format!("{TIME} stdout F \n"),
            format!("{TIME} stdout F {TIME} stderr F told\n"),
            "no header\n".to_owned(),
            format!("{TIME} stdout P no newline\n"),
        ]
        .concat()
    }

    fn read(lines: &mut Lines, text: &str, size: usize) -> (String, String) {
        let mut streams = [String::new(), String::new()];
        let mut at = 0;
        for piece in text.as_bytes().chunks(size) {
            let raw = LogChunk {
                stream: LogStream::Stdout,
                offset: at,
                data: Bytes::copy_from_slice(piece),
                at: None,
            };

            at += piece.len() as u64;
            for chunk in lines.decode(&raw) {
                let stream = &mut streams[usize::from(chunk.stream == LogStream::Stderr)];
                let from = lines.from.of(chunk.stream);
                assert_eq!(chunk.offset, from + stream.len() as u64);
                stream.push_str(std::str::from_utf8(&chunk.data).unwrap());
            }
        }

        let [out, err] = streams;
        (out, err)
    }

    #[test]
    fn headers_come_off_wherever_the_log_is_cut() {
        let out = format!("one\n\n{TIME} stderr F told\nno header\nno newline");
        let err = "a part and its end\n";
        for size in [1, 7, 64, 4096] {
            let mut lines = Lines::new(LogCursor::default());
            assert_eq!(
                read(&mut lines, &log(), size),
                (out.clone(), err.to_owned()),
                "pieces of {size}"
            );
        }

        for from in [1, 4, 5, 30] {
            let mut lines = Lines::new(LogCursor { stdout: from, stderr: from });
            let from = usize::try_from(from).unwrap();
            let wanted = (out[from..].to_owned(), err.get(from..).unwrap_or_default().to_owned());
            assert_eq!(read(&mut lines, &log(), 7), wanted, "from {from}");
        }
    }

    #[test]
    fn after_a_gap_a_line_begins_anew() {
        let mut lines = Lines::new(LogCursor::default());
        let chunk = |offset, text: String| LogChunk {
            stream: LogStream::Stdout,
            offset,
            data: text.into(),
            at: None,
        };

        assert_eq!(lines.decode(&chunk(0, format!("{TIME} stdout F lost"))), []);
        let [next] = &lines.decode(&chunk(9000, format!("{TIME} stderr F kept\n")))[..] else {
            panic!("one chunk")
        };

        assert_eq!(
            (next.stream, next.offset, &next.data[..]),
            (LogStream::Stderr, 0, &b"kept\n"[..])
        );
    }
}
