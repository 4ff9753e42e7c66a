//! Bytes of several logs at once, made into whole lines with a prefix.

use std::collections::BTreeMap;

use gofer_proto::v1::LogStream;

/// A line that is longer is shown in pieces, so that memory stays bounded.
const MAX_LINE_BYTES: usize = 16 << 10;

/// Which log: task, attempt, stream.
type Source = (String, u32, LogStream);

/// The unfinished last line of every log.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    unfinished: BTreeMap<Source, Vec<u8>>,
}

impl Lines {
    /// The complete lines that the log has with these bytes, each after `prefix`.
    pub(crate) fn push(&mut self, source: (&str, u32, LogStream), prefix: &str, bytes: &[u8]) -> Vec<u8> {
        let (task, attempt, stream) = source;
        let unfinished = self.unfinished.entry((task.to_owned(), attempt, stream)).or_default();
        let mut shown = Vec::with_capacity(bytes.len() + prefix.len());
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            unfinished.extend_from_slice(part);
            if part.ends_with(b"\n") {
                shown.extend_from_slice(prefix.as_bytes());
                shown.append(unfinished);
            }
            while unfinished.len() > MAX_LINE_BYTES {
                shown.extend_from_slice(prefix.as_bytes());
                shown.extend(unfinished.drain(..MAX_LINE_BYTES));
                shown.push(b'\n');
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
                shown.extend_from_slice(prefix.as_bytes());
                shown.extend_from_slice(&rest);
                shown.push(b'\n');
            }
        }
        shown
    }
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
