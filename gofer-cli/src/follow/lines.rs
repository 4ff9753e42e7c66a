//! Bytes of several logs at once, made into whole lines with a prefix.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;

use gofer_proto::v1::{LogChunk, LogStream};

use crate::output::Out;
use crate::{format, terminal};

/// A line that is longer is shown in pieces, so that memory stays bounded.
const MAX_LINE_BYTES: usize = 16 << 10;

/// Which log: task, attempt, stream.
type Source = (String, u32, LogStream);

/// The unfinished last line of every log.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    /// Each line has its time before it, after the prefix.
    timestamps: bool,
    /// Lines are for a terminal: nothing in them may reach beyond them.
    terminal: bool,
    unfinished: BTreeMap<Source, Line>,
}

/// A line as far as it has come.
#[derive(Debug, Default)]
struct Line {
    /// When it began, and a blank; empty when that is not shown or not known.
    stamp: String,
    bytes: Vec<u8>,
}

impl Lines {
    /// Lines that go to stdout; a file or a program gets the bytes as they are.
    pub(crate) fn for_stdout(timestamps: bool) -> Self {
        Self { timestamps, terminal: std::io::stdout().is_terminal(), ..Self::default() }
    }

    /// The complete lines that the log has with these bytes, each after `prefix`.
    pub(crate) fn push(
        &mut self,
        (task, attempt): (&str, u32),
        prefix: &str,
        chunk: &LogChunk,
    ) -> Vec<u8> {
        let stamp = stamp(self.timestamps, chunk);
        let line = self.unfinished.entry((task.to_owned(), attempt, chunk.stream())).or_default();
        let mut shown = Vec::with_capacity(chunk.data.len() + prefix.len());

        for part in chunk.data.split_inclusive(|byte| *byte == b'\n') {
            let (text, is_whole) =
                part.strip_suffix(b"\n").map_or((part, false), |text| (text, true));
            if line.bytes.is_empty() {
                line.stamp.clone_from(&stamp);
            }

            line.bytes.extend_from_slice(text);
            while line.bytes.len() > MAX_LINE_BYTES {
                line.show(prefix, MAX_LINE_BYTES, self.terminal, &mut shown);
            }

            if is_whole {
                line.show(prefix, line.bytes.len(), self.terminal, &mut shown);
            }
        }

        shown
    }

    /// What a log that has ended left unfinished, as lines.
    pub(crate) fn end(&mut self, task: &str, attempt: u32, prefix: &str) -> Vec<u8> {
        let mut shown = Vec::new();
        for stream in [LogStream::Stdout, LogStream::Stderr] {
            let mut rest =
                self.unfinished.remove(&(task.to_owned(), attempt, stream)).unwrap_or_default();
            if !rest.bytes.is_empty() {
                rest.show(prefix, rest.bytes.len(), self.terminal, &mut shown);
            }
        }
        shown
    }
}

impl Line {
    /// Takes the first bytes of the line, and shows them as one.
    fn show(&mut self, prefix: &str, length: usize, terminal: bool, shown: &mut Vec<u8>) {
        shown.extend_from_slice(prefix.as_bytes());
        shown.extend_from_slice(self.stamp.as_bytes());
        let piece: Vec<u8> = self.bytes.drain(..length).collect();
        shown.extend(if terminal { terminal::line(&piece) } else { piece });
        shown.push(b'\n');
    }
}

/// Says once that there are no times, where they were asked for.
#[derive(Debug)]
pub(crate) struct Timeless {
    wanted: bool,
}

impl Timeless {
    pub(crate) fn new(wanted: bool) -> Self {
        Self { wanted }
    }

    pub(crate) fn tell(&mut self, out: &Out, chunk: &LogChunk) {
        if self.wanted && chunk.at.is_none() {
            self.wanted = false;
            out.note("of this log it is not known when its lines were written");
        }
    }
}

/// Puts its time before each line of one log, whose bytes stay as they are otherwise.
#[derive(Debug, Default)]
pub(crate) struct Stamps {
    /// Whether stdout and stderr are within a line.
    within: BTreeMap<LogStream, bool>,
}

impl Stamps {
    pub(crate) fn push(&mut self, chunk: &LogChunk) -> Vec<u8> {
        let stamp = stamp(true, chunk);
        let within = self.within.entry(chunk.stream()).or_default();
        let mut shown = Vec::with_capacity(chunk.data.len() + stamp.len());
        for part in chunk.data.split_inclusive(|byte| *byte == b'\n') {
            if !*within {
                shown.extend_from_slice(stamp.as_bytes());
            }
            shown.extend_from_slice(part);
            *within = !part.ends_with(b"\n");
        }
        shown
    }
}

fn stamp(wanted: bool, chunk: &LogChunk) -> String {
    match &chunk.at {
        Some(at) if wanted => format!("{} ", format::stamp(at)),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use prost_types::Timestamp;

    use super::*;

    const BUILD: (&str, u32) = ("build", 1);

    fn chunk(text: &[u8]) -> LogChunk {
        chunk_at(text, 1_795_525_766)
    }

    fn chunk_at(text: &[u8], seconds: i64) -> LogChunk {
        let at = Some(Timestamp { seconds, nanos: 0 });
        LogChunk {
            stream: LogStream::Stdout.into(),
            data: text.to_vec().into(),
            at,
            ..LogChunk::default()
        }
    }

    #[test]
    fn lines_are_prefixed_once_and_only_when_whole() {
        let mut lines = Lines::default();
        assert_eq!(lines.push(BUILD, "build | ", &chunk(b"a\nb")), b"build | a\n");
        assert_eq!(lines.push(("test", 1), "test | ", &chunk(b"x\n")), b"test | x\n");
        assert_eq!(lines.push(BUILD, "build | ", &chunk(b"c\n\n")), b"build | bc\nbuild | \n");
        assert_eq!(lines.push(BUILD, "build | ", &chunk(b"end")), b"");
        assert_eq!(lines.end("build", 1, "build | "), b"build | end\n");
        assert_eq!(lines.end("build", 1, "build | "), b"");
    }

    #[test]
    fn a_line_has_the_time_of_its_first_byte() {
        let mut lines = Lines { timestamps: true, ..Lines::default() };
        assert_eq!(lines.push(BUILD, "b | ", &chunk(b"a\nb")), b"b | 2026-11-24T13:09:26.000Z a\n");
        let later = chunk_at(b"c\nd\n", 1_795_525_767);
        let expected = b"b | 2026-11-24T13:09:26.000Z bc\nb | 2026-11-24T13:09:27.000Z d\n";
        assert_eq!(lines.push(BUILD, "b | ", &later), expected);

        let mut stamps = Stamps::default();
        assert_eq!(
            stamps.push(&chunk(b"a\nb")),
            b"2026-11-24T13:09:26.000Z a\n2026-11-24T13:09:26.000Z b"
        );
        assert_eq!(stamps.push(&later), b"c\n2026-11-24T13:09:27.000Z d\n");
        assert_eq!(stamps.push(&LogChunk { at: None, ..later }), b"c\nd\n", "nobody knows when");
    }

    #[test]
    fn nothing_in_a_line_reaches_beyond_it_at_a_terminal() {
        let forged = b"one\rtest | forged\x1b[1A\x1b[2K\x1b[31m\n";
        let mut raw = Lines::default();
        assert_eq!(
            raw.push(BUILD, "build | ", &chunk(forged)),
            [b"build | ", &forged[..]].concat()
        );
        let mut lines = Lines { terminal: true, ..Lines::default() };
        assert_eq!(
            lines.push(BUILD, "build | ", &chunk(forged)),
            b"build | test | forged\x1b[31m\x1b[0m\n"
        );
        assert_eq!(lines.push(BUILD, "build | ", &chunk(b"two\x1b[?1049h")), b"");
        assert_eq!(lines.end("build", 1, "build | "), b"build | two\n");
    }

    #[test]
    fn a_line_without_end_does_not_fill_the_memory() {
        let mut lines = Lines::default();
        let mut shown = 0;
        for _ in 0..100 {
            shown += lines
                .push(BUILD, "", &chunk(&[b'x'; 10_000]))
                .iter()
                .filter(|byte| **byte == b'x')
                .count();
        }
        shown += lines.end("build", 1, "").iter().filter(|byte| **byte == b'x').count();
        assert_eq!(shown, 1_000_000);
        assert!(lines.unfinished.values().all(|line| line.bytes.len() <= MAX_LINE_BYTES));
    }
}
