//! Bytes of several logs at once, made into whole lines with a prefix.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;

use gofer_proto::v1::LogStream;

use crate::terminal;

/// A line that is longer is shown in pieces, so that memory stays bounded.
const MAX_LINE_BYTES: usize = 16 << 10;

/// Which log: task, attempt, stream.
type Source = (String, u32, LogStream);

/// The unfinished last line of every log.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    unfinished: BTreeMap<Source, Vec<u8>>,
    /// Lines are for a terminal: nothing in them may reach beyond them.
    terminal: bool,
}

impl Lines {
    /// Lines that go to stdout; a file or a program gets the bytes as they are.
    pub(crate) fn for_stdout() -> Self {
        Self { terminal: std::io::stdout().is_terminal(), ..Self::default() }
    }

    /// The complete lines that the log has with these bytes, each after `prefix`.
    pub(crate) fn push(&mut self, source: (&str, u32, LogStream), prefix: &str, bytes: &[u8]) -> Vec<u8> {
        let (task, attempt, stream) = source;
        let unfinished = self.unfinished.entry((task.to_owned(), attempt, stream)).or_default();
        let mut shown = Vec::with_capacity(bytes.len() + prefix.len());
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, is_whole) = part.strip_suffix(b"\n").map_or((part, false), |text| (text, true));
            unfinished.extend_from_slice(text);
            while unfinished.len() > MAX_LINE_BYTES {
                let piece: Vec<u8> = unfinished.drain(..MAX_LINE_BYTES).collect();
                add(&mut shown, prefix, &piece, self.terminal);
            }
            if is_whole {
                add(&mut shown, prefix, unfinished, self.terminal);
                unfinished.clear();
            }
        }
        shown
    }

    /// What a log that has ended left unfinished, as lines.
    pub(crate) fn end(&mut self, task: &str, attempt: u32, prefix: &str) -> Vec<u8> {
        let mut shown = Vec::new();
        for stream in [LogStream::Stdout, LogStream::Stderr] {
            let rest = self.unfinished.remove(&(task.to_owned(), attempt, stream)).unwrap_or_default();
            if !rest.is_empty() {
                add(&mut shown, prefix, &rest, self.terminal);
            }
        }
        shown
    }
}

fn add(shown: &mut Vec<u8>, prefix: &str, line: &[u8], terminal: bool) {
    shown.extend_from_slice(prefix.as_bytes());
    if terminal {
        shown.append(&mut terminal::line(line));
    } else {
        shown.extend_from_slice(line);
    }
    shown.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUT: (&str, u32, LogStream) = ("build", 1, LogStream::Stdout);

    #[test]
    fn lines_are_prefixed_once_and_only_when_whole() {
        let mut lines = Lines::default();
        assert_eq!(lines.push(OUT, "build | ", b"a\nb"), b"build | a\n");
        assert_eq!(lines.push(("test", 1, LogStream::Stdout), "test | ", b"x\n"), b"test | x\n");
        assert_eq!(lines.push(OUT, "build | ", b"c\n\n"), b"build | bc\nbuild | \n");
        assert_eq!(lines.push(OUT, "build | ", b"end"), b"");
        assert_eq!(lines.end("build", 1, "build | "), b"build | end\n");
        assert_eq!(lines.end("build", 1, "build | "), b"");
    }

    #[test]
    fn nothing_in_a_line_reaches_beyond_it_at_a_terminal() {
        let forged = b"one\rtest | forged\x1b[1A\x1b[2K\x1b[31m\n";
        let mut raw = Lines::default();
        assert_eq!(raw.push(OUT, "build | ", forged), [b"build | ", &forged[..]].concat());
        let mut lines = Lines { terminal: true, ..Lines::default() };
        assert_eq!(lines.push(OUT, "build | ", forged), b"build | test | forged\x1b[31m\x1b[0m\n");
        assert_eq!(lines.push(OUT, "build | ", b"two\x1b[?1049h"), b"");
        assert_eq!(lines.end("build", 1, "build | "), b"build | two\n");
    }

    #[test]
    fn a_line_without_end_does_not_fill_the_memory() {
        let mut lines = Lines::default();
        let mut shown = 0;
        for _ in 0..100 {
            shown += lines.push(OUT, "", &[b'x'; 10_000]).iter().filter(|byte| **byte == b'x').count();
        }
        shown += lines.end("build", 1, "").iter().filter(|byte| **byte == b'x').count();
        assert_eq!(shown, 1_000_000);
        assert!(lines.unfinished.values().all(|rest| rest.len() <= MAX_LINE_BYTES));
    }
}
