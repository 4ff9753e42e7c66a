//! Replaces secret values in a stream of bytes by `***`, also where a value spans two reads, and in
//! its usual encodings.
//!
//! Every byte that belongs to a match is hidden, also where matches overlap: those become one
//! `***`. Which match comes first, or is longer, decides nothing, so a value cannot be shown by
//! half because another one begins before it.
//!
//! ```text
//!  values ──encodings──► texts ──► Automaton                      (built once, at the first byte)
//!                                     │ scan: matches that end here
//!  push(bytes) ──► held back ─────────┼──► ranges to hide ──► shown bytes, `***` for each range
//!                     ▲               │
//!                     │   jwt: tokens ┘ by their form
//!                     └── what may still become a match waits for the next push, or for finish
//! ```

mod automaton;
mod encodings;
mod jwt;

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use secrecy::{ExposeSecret, SecretString};

use self::automaton::{Automaton, ROOT};

/// What stands in the log instead of a secret.
pub const MASK: &[u8] = b"***";

/// A line of a multi-line secret is masked by itself from this length on; shorter ones (`}`, `--`)
/// are everywhere.
const MIN_LINE_BYTES: usize = 4;
/// Longest value whose encodings are masked, too. Keys and certificates are shorter; each encoding
/// is a text as long as the value.
const MAX_ENCODED_BYTES: usize = 8 * 1024;
/// All encodings of one log together: what they take is memory of each reader.
const MAX_ENCODINGS_BYTES: usize = 512 * 1024;

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
    let patterns = literals(value.expose_secret());
    let is_common = |pattern: &&str| COMMON_WORDS.contains(&pattern.to_lowercase().as_str());
    if patterns.iter().any(|pattern| pattern.chars().count() < MIN_TELLING_CHARS) {
        return Some(
            "the value is short: logs will show `***` wherever these characters occur, in ordinary \
             text as well",
        );
    }
    if patterns.iter().any(is_common) {
        return Some(
            "the value, or a line of it, is a common word: logs will show `***` wherever it occurs",
        );
    }
    None
}

/// What is masked because of a value: the whole, with and without the white space around it, and
/// each longer line.
fn literals(value: &str) -> Vec<&str> {
    let lines = value.lines().filter(|line| line.len() >= MIN_LINE_BYTES);
    [value, value.trim()].into_iter().chain(lines).filter(|pattern| !pattern.is_empty()).collect()
}

/// Masks one output of one execution. What it emits depends on the bytes alone, not on how they are
/// cut. Clones share what is costly to build, and where there is no output it is never built.
#[derive(Clone)]
pub struct Masker {
    patterns: Arc<Patterns>,
    /// Whether JSON Web Tokens are masked as well.
    tokens: bool,
    /// The end of what was seen, when it may be the beginning of a secret, from `begin` on. What
    /// stands before it was shown, and goes when there is more of it than of the rest. All
    /// positions below are in here.
    held: Vec<u8>,
    begin: usize,
    /// Where the automaton stands after what it has seen.
    node: u32,
    seen: usize,
    /// The end of the last match that was shown as a mask.
    hidden: usize,
    /// Matches that are not shown yet, in order, since more bytes may lengthen them at their front.
    matches: VecDeque<Range<usize>>,
    /// From where tokens are to be looked for.
    tokens_from: usize,
}

/// What to mask.
struct Patterns {
    texts: Vec<Vec<u8>>,
    automaton: OnceLock<Automaton>,
}

impl Patterns {
    fn new(values: &[SecretString]) -> Self {
        let values: BTreeSet<&str> = values.iter().map(ExposeSecret::expose_secret).collect();
        let literals = values.iter().flat_map(|value| literals(value));
        let mut texts: BTreeSet<Vec<u8>> = literals.map(|text| text.as_bytes().to_vec()).collect();

        let mut room = MAX_ENCODINGS_BYTES;
        for value in
            values.into_iter().map(str::trim).filter(|value| value.len() <= MAX_ENCODED_BYTES)
        {
            for text in encodings::all(value) {
                room = room.saturating_sub(text.len());
                if room > 0 {
                    texts.insert(text);
                }
            }
        }

        Self { texts: texts.into_iter().collect(), automaton: OnceLock::new() }
    }

    fn automaton(&self) -> &Automaton {
        self.automaton.get_or_init(|| Automaton::new(&self.texts))
    }
}

impl std::fmt::Debug for Masker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Masker")
            .field("patterns", &self.patterns.texts.len())
            .finish_non_exhaustive()
    }
}

impl Masker {
    /// Masks each value, each longer line of a value of several lines, and the usual encodings.
    #[must_use]
    pub fn new(values: &[SecretString]) -> Self {
        Self {
            patterns: Arc::new(Patterns::new(values)),
            tokens: false,
            held: Vec::new(),
            begin: 0,
            node: ROOT,
            seen: 0,
            hidden: 0,
            matches: VecDeque::new(),
            tokens_from: 0,
        }
    }

    /// Masks every JSON Web Token too: where executions get theirs from the scheduler, its value is
    /// not known here.
    #[must_use]
    pub fn with_tokens(mut self, tokens: bool) -> Self {
        self.tokens = tokens;
        self
    }

    /// Goes on with what another masks, from the first byte that was not shown yet.
    pub(crate) fn go_on_as(&mut self, other: &Self) {
        self.patterns = Arc::clone(&other.patterns);
        self.node = ROOT;
        self.seen = self.begin;
        self.tokens_from = self.begin;
        self.matches.clear();
    }

    /// Takes the next bytes and gives what can be shown by now.
    pub fn push(&mut self, data: &[u8]) -> Vec<u8> {
        self.held.extend_from_slice(data);
        self.emit(false)
    }

    /// How many of the last bytes it was given are held back.
    pub(crate) fn held(&self) -> usize {
        self.held.len() - self.begin
    }

    /// Gives the rest; the stream has ended.
    pub fn finish(&mut self) -> Vec<u8> {
        self.emit(true)
    }

    fn emit(&mut self, at_end: bool) -> Vec<u8> {
        let mut decided = self.look_for_secrets(at_end);
        if self.tokens {
            decided = decided.min(self.look_for_tokens(at_end));
        }
        let out = self.show(decided);
        self.forget_shown();
        out
    }

    /// Looks at the bytes that are new; returns the position from which more bytes decide.
    fn look_for_secrets(&mut self, at_end: bool) -> usize {
        let (automaton, matches) = (self.patterns.automaton(), &mut self.matches);
        self.node = automaton.scan(self.node, &self.held, self.seen, |found| {
            // Each ends after those before it.
            while matches.pop_back_if(|last| last.start >= found.start).is_some() {}
            match matches.back_mut() {
                Some(last) if last.end > found.start => last.end = found.end,
                _ => matches.push_back(found),
            }
        });
        self.seen = self.held.len();
        self.held.len() - if at_end { 0 } else { automaton.open(self.node) }
    }

    fn look_for_tokens(&mut self, at_end: bool) -> usize {
        loop {
            let from = self.tokens_from;
            match jwt::find(&self.held[from..], at_end) {
                jwt::Found::Token(token) => {
                    let token = from + token.start..from + token.end;
                    self.tokens_from = token.end;
                    let place = self.matches.partition_point(|found| found.start < token.start);
                    self.matches.insert(place, token);
                }
                jwt::Found::Maybe(at) => {
                    self.tokens_from = from + at;
                    return self.tokens_from;
                }
                jwt::Found::Nothing => {
                    self.tokens_from = self.held.len();
                    return self.tokens_from;
                }
            }
        }
    }

    /// Gives what stands before this position, masked.
    fn show(&mut self, decided: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(decided - self.begin);
        let mut shown = self.hidden.max(self.begin);
        while let Some(found) = self.matches.pop_front_if(|found| found.start < decided) {
            // One that overlaps with the one before is hidden by the same mask.
            if found.start >= shown {
                out.extend_from_slice(&self.held[shown..found.start]);
                out.extend_from_slice(MASK);
            }
            self.hidden = self.hidden.max(found.end);
            shown = shown.max(found.end);
        }

        if shown < decided {
            out.extend_from_slice(&self.held[shown..decided]);
        }

        self.begin = decided;
        out
    }

    /// Only when that moves fewer bytes than it frees: a stream may hold tens of kilobytes back for
    /// ever, and come in small pieces.
    fn forget_shown(&mut self) {
        let shown = self.begin;
        if shown * 2 < self.held.len() {
            return;
        }
        self.held.drain(..shown);
        self.begin = 0;
        self.seen -= shown;
        self.hidden = self.hidden.saturating_sub(shown);
        self.tokens_from = self.tokens_from.saturating_sub(shown);
        for found in &mut self.matches {
            *found = found.start - shown..found.end - shown;
        }
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
        assert_eq!(
            mask(&["hunter2"], &[b"the password is hun", b"ter2\n"]),
            "the password is ***\n"
        );
        assert_eq!(mask(&["hunter2"], &[b"hun", b"ger hunter2hunter2"]), "hunger ******");
        assert_eq!(mask(&["abc", "abcdef"], &[b"xabc", b"defx abcx"]), "x***x ***x");
        assert_eq!(mask(&["line one\nline two"], &[b"> line two <"]), "> *** <");
        assert_eq!(mask(&[], &[b"as it is"]), "as it is");
    }

    #[test]
    fn where_values_overlap_nothing_of_either_is_shown() {
        assert_eq!(mask(&["abc", "cde"], &[b"abcde"]), "***");
        assert_eq!(mask(&["abc", "cde"], &[b"ab", b"c", b"de-abccde"]), "***-******");
        assert_eq!(mask(&["bc", "abcd"], &[b"abc", b"e abcd"]), "a***e ***");
        assert_eq!(mask_tokens(&["sig tail"], &[b"eyJhb.eyJz.si", b"g tail."]), "***.");
    }

    #[test]
    fn another_masker_takes_over_what_was_not_shown_yet() {
        let mut masker = Masker::new(&values(&["hunter2"]));
        assert_eq!(masker.push(b"zebra hun"), b"zebra ");
        masker.go_on_as(&Masker::new(&values(&["hunter2", "zebra"])));
        assert_eq!(masker.push(b"ter2 zebra"), b"*** ***");
    }

    /// A secret of sixty times the length would be sixty times the work, if each byte of a log like
    /// it were the beginning of another search.
    #[test]
    fn the_work_follows_the_stream_whatever_is_looked_for() {
        let repeated = |length: usize| vec!["a".repeat(length)];
        let also_short = |length: usize| vec!["a".to_owned(), format!("{}b", "a".repeat(length))];
        let by_lines = |length: usize| {
            vec!["a".repeat(length), (4..60).map(|at| "a".repeat(at) + "\n").collect()]
        };

        let kinds: [fn(usize) -> Vec<String>; 3] = [repeated, also_short, by_lines];
        for (at, secrets) in kinds.into_iter().enumerate() {
            let took = |length: usize| {
                let secrets: Vec<SecretString> =
                    secrets(length).into_iter().map(SecretString::from).collect();
                let masker = Masker::new(&secrets);
                masker.clone().push(b"a");

                let once = || {
                    let (begun, mut masker) = (std::time::Instant::now(), masker.clone());
                    b"a".repeat(128 << 10).chunks(512).for_each(|piece| drop(masker.push(piece)));
                    masker.finish();
                    begun.elapsed()
                };

                (0..5).map(|_| once()).min().unwrap()
            };

            let (short, long) = (took(1 << 10), took(60 << 10));
            assert!(
                long < short * 16 + std::time::Duration::from_millis(100),
                "{at}: {short:?}, {long:?}"
            );
        }
    }

    #[test]
    fn a_value_that_would_hide_ordinary_text_is_warned_of_without_showing_it() {
        for value in ["a", "ab\n", "äöü", "7", " x "] {
            let warning = warning(&value.into()).unwrap_or_else(|| panic!("{value}"));
            assert!(warning.contains("short"), "{warning}");
        }

        for value in ["true", "Production\n", "-----BEGIN-----\nQm9iIGxpa2Vz\nerror\n-----END-----"]
        {
            let warning = warning(&value.into()).unwrap_or_else(|| panic!("{value}"));
            assert!(
                warning.contains("common word") && !warning.contains(value.trim()),
                "{warning}"
            );
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
                assert!(
                    masker.held() < secret.len(),
                    "{} bytes are held of `{text}`",
                    masker.held()
                );
            }
        }

        let mut masker = Masker::new(&[]).with_tokens(true);
        for _ in 0..4 {
            masker.push(format!("eyJ.eyJ.{}", "s".repeat(64 * 1024)).as_bytes());
            assert!(masker.held() <= jwt::MAX_BYTES, "{} bytes are held", masker.held());
        }
    }

    /// What the rule says, without an automaton.
    fn by_the_rule(texts: &[Vec<u8>], bytes: &[u8]) -> Vec<u8> {
        let mut found: Vec<Range<usize>> = Vec::new();
        for text in texts {
            let begins = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(text));
            found.extend(begins.map(|at| at..at + text.len()));
        }

        found.sort_by_key(|range| (range.start, range.end));
        let (mut out, mut shown) = (Vec::new(), 0);
        for range in found {
            if range.start >= shown {
                out.extend_from_slice(&bytes[shown..range.start]);
                out.extend_from_slice(MASK);
            }
            shown = shown.max(range.end);
        }

        out.extend_from_slice(&bytes[shown..]);
        out
    }

    proptest! {
        #[test]
        fn every_byte_of_every_match_is_hidden(
            text in "[abc]{0,60}",
            secrets in prop::collection::vec("[abc]{1,6}", 0..5),
            size in 1usize..9,
        ) {
            let masker = Masker::new(&secrets.iter().map(|secret| SecretString::from(secret.as_str())).collect::<Vec<_>>());
            let expected = by_the_rule(&masker.patterns.texts, text.as_bytes());
            let pieces: Vec<&[u8]> = text.as_bytes().chunks(size).collect();
            prop_assert_eq!(run(masker, &pieces).into_bytes(), expected);
        }

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
