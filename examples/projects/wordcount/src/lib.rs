//! Counting text: lines, words, bytes, and how often each word occurs.

use std::collections::HashMap;
use std::io::{self, BufRead};
use std::ops::AddAssign;

/// The counts of one input, or of several together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Line ends, as `wc -l` counts them: a last line without one is not counted.
    pub lines: u64,
    /// Runs of characters that are not white space.
    pub words: u64,
    /// All bytes, valid UTF-8 or not.
    pub bytes: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.lines += other.lines;
        self.words += other.words;
        self.bytes += other.bytes;
    }
}

/// How often each word occurred. Words are compared in lower case and without punctuation around
/// them.
#[derive(Debug, Clone, Default)]
pub struct Frequencies {
    words: HashMap<String, u64>,
}

impl Frequencies {
    /// The `n` most frequent words, most frequent first; equally frequent ones in alphabetical
    /// order.
    #[must_use]
    pub fn top(&self, n: usize) -> Vec<(&str, u64)> {
        let mut words: Vec<(&str, u64)> = self.words.iter().map(|(word, &count)| (word.as_str(), count)).collect();
        words.sort_by(|(word, count), (other, other_count)| other_count.cmp(count).then(word.cmp(other)));
        words.truncate(n);
        words
    }

    fn add(&mut self, word: &str) {
        let word = word.trim_matches(|character: char| !character.is_alphanumeric());
        if !word.is_empty() {
            *self.words.entry(word.to_lowercase()).or_default() += 1;
        }
    }
}

/// Reads the input to its end, one line at a time, and adds its words to `frequencies`. Bytes that
/// are not UTF-8 are counted like any others.
///
/// # Errors
/// What the reader returns.
pub fn count(mut input: impl BufRead, frequencies: &mut Frequencies) -> io::Result<Counts> {
    let mut counts = Counts::default();
    let mut line = Vec::new();
    loop {
        line.clear();
        let bytes = input.read_until(b'\n', &mut line)?;
        if bytes == 0 {
            return Ok(counts);
        }

        counts.bytes += bytes as u64;
        counts.lines += u64::from(line.ends_with(b"\n"));
        for word in String::from_utf8_lossy(&line).split_whitespace() {
            counts.words += 1;
            frequencies.add(word);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(text: impl AsRef<[u8]>) -> (Counts, Frequencies) {
        let mut frequencies = Frequencies::default();
        let counts = count(text.as_ref(), &mut frequencies).unwrap();
        (counts, frequencies)
    }

    #[test]
    fn nothing_is_nothing() {
        assert_eq!(counted("").0, Counts::default());
    }

    #[test]
    fn counts_as_wc_does() {
        assert_eq!(counted("one two\nthree\n").0, Counts { lines: 2, words: 3, bytes: 14 });
        assert_eq!(counted("no line end").0, Counts { lines: 0, words: 3, bytes: 11 });
        assert_eq!(counted(" \t\n\n ").0, Counts { lines: 2, words: 0, bytes: 5 });
        assert_eq!(counted("grüße").0, Counts { lines: 0, words: 1, bytes: 7 });
    }

    #[test]
    fn bytes_that_are_not_text_are_counted() {
        assert_eq!(counted(b"\xff\xfe \x00\n").0, Counts { lines: 1, words: 2, bytes: 5 });
    }

    #[test]
    fn words_are_compared_without_case_and_punctuation() {
        let (_, frequencies) = counted("The cat. the dog, \"THE\" end -- cat");
        assert_eq!(frequencies.top(2), [("the", 3), ("cat", 2)]);
        assert_eq!(frequencies.top(9), [("the", 3), ("cat", 2), ("dog", 1), ("end", 1)]);
    }

    #[test]
    fn counts_add_up() {
        let mut total = counted("a b\n").0;
        total += counted("c d e\n\n").0;
        assert_eq!(total, Counts { lines: 3, words: 5, bytes: 11 });
    }
}
