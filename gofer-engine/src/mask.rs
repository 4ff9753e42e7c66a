//! Replaces secret values in a stream of bytes by `***`, also where a value spans two reads.

mod jwt;

use std::cmp::Reverse;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use aho_corasick::{AhoCorasick, Input, MatchKind};
use secrecy::{ExposeSecret, SecretString};

/// What stands in the log instead of a secret.
pub const MASK: &[u8] = b"***";

/// A line of a multi-line secret is masked by itself from this length on; shorter ones (`}`, `--`) are everywhere.
const MIN_LINE_BYTES: usize = 4;

/// A value of fewer characters occurs everywhere in ordinary text.
const MIN_TELLING_CHARS: usize = 4;
/// Words that programs print all the time.
const COMMON_WORDS: &[&str] = &[
    "admin",
    "build",
    "data",
    "debug",
    "default",
    "docker",
    "error",
    "failed",
    "false",
    "file",
    "gofer",
    "host",
    "http",
    "https",
    "info",
    "latest",
    "local",
    "localhost",
    "main",
    "master",
    "name",
    "none",
    "null",
    "password",
    "postgres",
    "prod",
    "production",
    "public",
    "release",
    "root",
    "running",
    "secret",
    "server",
    "staging",
    "start",
    "success",
    "task",
    "test",
    "token",
    "true",
    "undefined",
    "user",
    "version",
    "warn",
    "warning",
    "1234",
    "12345",
    "123456",
];

/// Why masking this value in logs hides ordinary text, too; without the value.
#[must_use]
pub fn warning(value: &SecretString) -> Option<&'static str> {
    let patterns = patterns(value.expose_secret());
    let is_common = |pattern: &&str| COMMON_WORDS.contains(&pattern.to_lowercase().as_str());
    if patterns.iter().any(|pattern| pattern.chars().count() < MIN_TELLING_CHARS) {
        return Some(
            "the value is short: logs will show `***` wherever these characters occur, in ordinary text as well",
        );
    }
    if patterns.iter().any(is_common) {
        return Some("the value, or a line of it, is a common word: logs will show `***` wherever it occurs");
    }
    None
}

/// What is masked because of a value: the whole, with and without the white space around it, and each longer line.
fn patterns(value: &str) -> Vec<&str> {
    let lines = value.lines().filter(|line| line.len() >= MIN_LINE_BYTES);
    [value, value.trim()].into_iter().chain(lines).filter(|pattern| !pattern.is_empty()).collect()
}

/// Masks one output of one execution. What it emits depends on the bytes alone, not on how they are cut. Clones share what is
/// costly to build, and where there is no output it is never built.
#[derive(Clone)]
pub struct Masker {
    patterns: Arc<Patterns>,
    /// Whether JSON Web Tokens are masked as well.
    tokens: bool,
    /// The end of what was seen, when it may be the beginning of a secret.
    held: Vec<u8>,
}

/// What to mask.
struct Patterns {
    all: Vec<Vec<u8>>,
    longest: usize,
    automaton: OnceLock<AhoCorasick>,
}

impl Patterns {
    fn find(&self, text: &[u8], from: usize) -> Option<Range<usize>> {
        if self.all.is_empty() {
            return None;
        }
        let automaton = self.automaton.get_or_init(|| {
            AhoCorasick::builder()
                .match_kind(MatchKind::LeftmostLongest)
                .build(&self.all)
                .expect("secrets are far below the automaton's limits")
        });
        automaton.find(Input::new(text).range(from..)).map(|found| found.range())
    }
}

impl std::fmt::Debug for Masker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Masker").field("patterns", &self.patterns.all.len()).finish_non_exhaustive()
    }
}

impl Masker {
    /// Masks each value, and each longer line of a value of several lines.
    #[must_use]
    pub fn new(values: &[SecretString]) -> Self {
        let mut patterns: Vec<Vec<u8>> = Vec::new();
        for value in values {
            patterns
                .extend(self::patterns(value.expose_secret()).into_iter().map(|pattern| pattern.as_bytes().to_vec()));
        }
        patterns.sort();
        patterns.dedup();
        let longest = patterns.iter().map(Vec::len).max().unwrap_or(0);
        let patterns = Patterns { all: patterns, longest, automaton: OnceLock::new() };
        Self { patterns: Arc::new(patterns), tokens: false, held: Vec::new() }
    }

    /// Masks every JSON Web Token too: where executions get theirs from the scheduler, nobody here knows its value.
    #[must_use]
    pub fn with_tokens(mut self, tokens: bool) -> Self {
        self.tokens = tokens;
        self
    }

    /// Takes the next bytes and gives what can be shown by now.
    ///
    /// # Panics
    /// Never for values within the limits of a secret store.
    pub fn push(&mut self, data: &[u8]) -> Vec<u8> {
        self.held.extend_from_slice(data);
        self.emit(false)
    }

    /// How many of the last bytes it was given are held back.
    pub(crate) fn held(&self) -> usize {
        self.held.len()
    }

    /// Gives the rest; the stream has ended.
    pub fn finish(&mut self) -> Vec<u8> {
        self.emit(true)
    }

    fn emit(&mut self, at_end: bool) -> Vec<u8> {
        let buffer = std::mem::take(&mut self.held);
        if buffer.is_empty() || (self.patterns.all.is_empty() && !self.tokens) {
            return buffer;
        }
        let mut out = Vec::with_capacity(buffer.len());
        let mut from = 0;
        let mut ahead = Ahead::new(self, &buffer, at_end);
        loop {
            ahead.move_to(from);
            let Some(found) = ahead.first() else {
                let hold = ahead.hold();
                out.extend_from_slice(&buffer[from..hold]);
                self.held = buffer[hold..].to_vec();
                return out;
            };
            out.extend_from_slice(&buffer[from..found.start]);
            out.extend_from_slice(MASK);
            from = found.end;
        }
    }

    /// The first position from which the rest of the buffer may be the beginning of a longer secret.
    fn hold_position(&self, buffer: &[u8], from: usize) -> usize {
        let first = from.max(buffer.len().saturating_sub(self.patterns.longest.saturating_sub(1)));
        (first..buffer.len())
            .find(|&at| {
                let tail = &buffer[at..];
                self.patterns.all.iter().any(|pattern| pattern.len() > tail.len() && pattern.starts_with(tail))
            })
            .unwrap_or(buffer.len())
    }
}

/// What lies ahead in a buffer. Each is looked for again only once it was passed: a log may be full of one kind, and looking through
/// the whole rest for another after each of them would take the square of the time.
struct Ahead<'a> {
    masker: &'a Masker,
    buffer: &'a [u8],
    at_end: bool,
    secret: Option<Range<usize>>,
    token: jwt::Found,
    /// From here on, the rest may be the beginning of a longer secret.
    begun: usize,
}

impl<'a> Ahead<'a> {
    fn new(masker: &'a Masker, buffer: &'a [u8], at_end: bool) -> Self {
        let mut ahead = Self { masker, buffer, at_end, secret: None, token: jwt::Found::Nothing, begun: buffer.len() };
        ahead.secret = masker.patterns.find(buffer, 0);
        ahead.find_token(0);
        ahead.find_begun(0);
        ahead
    }

    fn move_to(&mut self, from: usize) {
        if self.secret.as_ref().is_some_and(|secret| secret.start < from) {
            self.secret = self.masker.patterns.find(self.buffer, from);
        }
        let passed = match &self.token {
            jwt::Found::Nothing => false,
            jwt::Found::Token(token) => token.start < from,
            jwt::Found::Maybe(at) => *at < from,
        };
        if passed {
            self.find_token(from);
        }
        if self.begun < from {
            self.find_begun(from);
        }
    }

    fn find_token(&mut self, from: usize) {
        self.token = match jwt::find(if self.masker.tokens { &self.buffer[from..] } else { &[] }, self.at_end) {
            jwt::Found::Nothing => jwt::Found::Nothing,
            jwt::Found::Token(token) => jwt::Found::Token(from + token.start..from + token.end),
            jwt::Found::Maybe(at) => jwt::Found::Maybe(from + at),
        };
    }

    fn find_begun(&mut self, from: usize) {
        self.begun = if self.at_end { self.buffer.len() } else { self.masker.hold_position(self.buffer, from) };
    }

    /// The position from which more bytes decide.
    fn hold(&self) -> usize {
        match self.token {
            jwt::Found::Maybe(at) => self.begun.min(at),
            _ => self.begun,
        }
    }

    /// The first thing to mask, the longest of those that begin there.
    fn first(&self) -> Option<Range<usize>> {
        let token = match &self.token {
            jwt::Found::Token(token) => Some(token.clone()),
            _ => None,
        };
        let found = self.secret.clone().into_iter().chain(token);
        found.filter(|found| found.start < self.hold()).min_by_key(|found| (found.start, Reverse(found.end)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn mask(secrets: &[&str], pieces: &[&[u8]]) -> String {
        run(Masker::new(&values(secrets)), pieces)
    }

    fn mask_tokens(secrets: &[&str], pieces: &[&[u8]]) -> String {
        run(Masker::new(&values(secrets)).with_tokens(true), pieces)
    }

    fn values(secrets: &[&str]) -> Vec<SecretString> {
        secrets.iter().map(|&secret| SecretString::from(secret)).collect()
    }

    fn run(mut masker: Masker, pieces: &[&[u8]]) -> String {
        let mut out = Vec::new();
        for piece in pieces {
            out.extend(masker.push(piece));
        }
        out.extend(masker.finish());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn masks_across_reads() {
        assert_eq!(mask(&["hunter2"], &[b"the password is hun", b"ter2\n"]), "the password is ***\n");
        assert_eq!(mask(&["hunter2"], &[b"hun", b"ger hunter2hunter2"]), "hunger ******");
        assert_eq!(mask(&["abc", "abcdef"], &[b"xabc", b"defx abcx"]), "x***x ***x");
        assert_eq!(mask(&["line one\nline two"], &[b"> line two <"]), "> *** <");
        assert_eq!(mask(&[], &[b"as it is"]), "as it is");
    }

    #[test]
    fn a_value_that_would_hide_ordinary_text_is_warned_of_without_showing_it() {
        for value in ["a", "ab\n", "äöü", "7", " x "] {
            let warning = warning(&value.into()).unwrap_or_else(|| panic!("{value}"));
            assert!(warning.contains("short"), "{warning}");
        }
        for value in ["true", "Production\n", "-----BEGIN-----\nQm9iIGxpa2Vz\nerror\n-----END-----"] {
            let warning = warning(&value.into()).unwrap_or_else(|| panic!("{value}"));
            assert!(warning.contains("common word") && !warning.contains(value.trim()), "{warning}");
        }
        // Lines that are too short to be masked by themselves hide nothing.
        for value in ["hunter2", "{\n\"key\": \"Zm9v\"\n}", "    ", "x1y2"] {
            assert_eq!(warning(&value.into()), None, "{value}");
        }
    }

    #[test]
    fn holds_back_only_what_may_be_a_secret() {
        let mut masker = Masker::new(&[SecretString::from("zebra")]);
        assert_eq!(masker.push(b"progress 10%"), b"progress 10%");
        assert_eq!(masker.push(b" z"), b" ");
        assert_eq!(masker.push(b"oo"), b"zoo");
    }

    #[test]
    fn masks_tokens_that_nobody_knows() {
        assert_eq!(mask_tokens(&[], &[b"token=eyJhb.ey", b"Jz.sig\n"]), "token=***\n");
        assert_eq!(mask_tokens(&["hunter2"], &[b"hunter2 eyJhb.eyJz.hunter2 hey"]), "*** *** hey");
        assert_eq!(mask_tokens(&["eyJhb"], &[b"eyJhb.eyJz.sig eyJhb.x"]), "*** ***.x");
        assert_eq!(mask(&["hunter2"], &[b"eyJhb.eyJz.sig"]), "eyJhb.eyJz.sig");
    }

    #[test]
    fn of_a_long_stream_nothing_stays_behind() {
        let mut masker = Masker::new(&[]).with_tokens(true);
        let mut shown = 0;
        for _ in 0..100 {
            shown += masker.push(&b"eyJ".repeat(1024)).len();
        }
        assert!(shown > 99 * 3 * 1024, "{shown}");
        assert_eq!(shown + masker.finish().len(), 100 * 3 * 1024);
    }

    #[test]
    fn what_is_held_back_is_never_longer_than_what_is_looked_for() {
        let mut secret: String = (0..14_000).map(|number| format!("s{number}")).collect();
        secret.truncate(64 * 1024);
        for text in [&secret[..secret.len() - 1], "eyJ", "eyJhb.eyJz.", "s eyJhb.eyJz.s"] {
            let mut masker = Masker::new(&[SecretString::from(secret.as_str())]).with_tokens(true);
            for _ in 0..4 {
                masker.push(&text.repeat(64 * 1024 / text.len()).into_bytes());
                assert!(masker.held.len() < secret.len(), "{} bytes are held of `{text}`", masker.held.len());
            }
        }
        let mut masker = Masker::new(&[]).with_tokens(true);
        for _ in 0..4 {
            masker.push(format!("eyJ.eyJ.{}", "s".repeat(64 * 1024)).as_bytes());
            assert!(masker.held.len() <= jwt::MAX_BYTES, "{} bytes are held", masker.held.len());
        }
    }

    proptest! {
        #[test]
        fn cuts_of_tokens_do_not_matter(
            text in "(eyJ|[eyJa. ]){0,24}",
            secrets in prop::collection::vec("[eyJa.]{1,5}", 0..3),
            cut in 0usize..72,
        ) {
            let secrets: Vec<&str> = secrets.iter().map(String::as_str).collect();
            let cut = cut.min(text.len());
            let whole = mask_tokens(&secrets, &[text.as_bytes()]);
            prop_assert_eq!(&whole, &mask_tokens(&secrets, &[&text.as_bytes()[..cut], &text.as_bytes()[cut..]]));
            let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
            prop_assert_eq!(whole, mask_tokens(&secrets, &bytes));
        }

        #[test]
        fn cuts_do_not_matter(text in "[ab]{0,40}", secrets in prop::collection::vec("[ab]{1,5}", 0..3), cut in 0usize..40) {
            let secrets: Vec<&str> = secrets.iter().map(String::as_str).collect();
            let cut = cut.min(text.len());
            let whole = mask(&secrets, &[text.as_bytes()]);
            let pieces = mask(&secrets, &[&text.as_bytes()[..cut], &text.as_bytes()[cut..]]);
            prop_assert_eq!(&whole, &pieces);
            let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
            prop_assert_eq!(whole, mask(&secrets, &bytes));
        }
    }
}
