//! Finds JSON Web Tokens in bytes: three parts in base64url with dots between them, of which the
//! first two are JSON objects (RFC 7515, section 3.1).

use std::ops::Range;

/// `{"` and what follows, in base64url.
const OBJECT: &[u8] = b"eyJ";
/// The longest header. Real ones name an algorithm and a key.
const MAX_HEADER_BYTES: usize = 1024;
/// The longest token. Nomad's are of about 1 KiB.
pub(super) const MAX_BYTES: usize = 8 * 1024;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    Token(Range<usize>),
    /// What begins here may become a token with more bytes.
    Maybe(usize),
}

/// The first token. `at_end`: no bytes follow.
pub(super) fn find(bytes: &[u8], at_end: bool) -> Found {
    let mut runs = Runs { bytes, known: Vec::new() };
    let mut from = 0;
    while let Some(offset) = memchr::memchr(OBJECT[0], &bytes[from..]) {
        let start = from + offset;
        runs.known.retain(|run| run.end >= start);
        match token(&mut runs, start, at_end) {
            Verdict::Token(end) => return Found::Token(start..end),
            Verdict::Open => return Found::Maybe(start),
            Verdict::No => from = start + 1,
        }
    }
    Found::Nothing
}

enum Verdict {
    No,
    /// Up to here.
    Token(usize),
    /// More bytes decide.
    Open,
}

/// Whether a token begins here.
fn token(runs: &mut Runs<'_>, start: usize, at_end: bool) -> Verdict {
    let mut at = start;
    for limit in [MAX_HEADER_BYTES, MAX_BYTES] {
        if !is_object(&runs.bytes[at..]) {
            return Verdict::No;
        }
        match runs.part(at, start + limit) {
            Part::Ended(end) if runs.bytes[end] == b'.' => at = end + 1,
            Part::Open if !at_end => return Verdict::Open,
            _ => return Verdict::No,
        }
    }

    match runs.part(at, start + MAX_BYTES) {
        Part::Ended(end) if end > at => Verdict::Token(end),
        Part::Open if !at_end => Verdict::Open,
        Part::Open if runs.bytes.len() > at => Verdict::Token(runs.bytes.len()),
        _ => Verdict::No,
    }
}

/// Whether this is, or may become, an object in base64url.
fn is_object(bytes: &[u8]) -> bool {
    bytes.iter().zip(OBJECT).all(|(byte, expected)| byte == expected)
}

enum Part {
    /// At the byte that does not belong to it.
    Ended(usize),
    /// It goes on to the end of the bytes.
    Open,
    TooLong,
}

/// Where the characters of base64url end. Each run of them is walked once: a log may be full of
/// what begins like a token.
struct Runs<'a> {
    bytes: &'a [u8],
    /// Those of the last tokens that were tried.
    known: Vec<Range<usize>>,
}

impl Runs<'_> {
    /// The part of a token that begins at `at`; the token is not to be longer than up to `limit` at
    /// its end.
    fn part(&mut self, at: usize, limit: usize) -> Part {
        let end = self.end(at);
        if end >= limit.max(at) {
            return if self.bytes.len() < limit { Part::Open } else { Part::TooLong };
        }
        if end == self.bytes.len() { Part::Open } else { Part::Ended(end) }
    }

    fn end(&mut self, at: usize) -> usize {
        if let Some(run) = self.known.iter().find(|run| run.start <= at && at <= run.end) {
            return run.end;
        }
        let belongs =
            |byte: &u8| matches!(byte, b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_');
        let length = self.bytes[at..].iter().take_while(|byte| belongs(byte)).count();
        self.known.push(at..at + length);
        at + length
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_three_parts_of_which_two_are_objects() {
        for (text, expected) in [
            ("x eyJhb.eyJz.s-_9 y", Found::Token(2..17)),
            ("eyJhb.eyJz.s", Found::Token(0..12)),
            ("eyJhb.eyJz.s.", Found::Token(0..12)),
            ("eyeyJhb.eyJz.s\n", Found::Token(2..14)),
            ("eyJhb.eyJz", Found::Nothing),
            ("eyJhb.eyJz.", Found::Nothing),
            ("eyJhb.other.s", Found::Nothing),
            ("eyJhb eyJz.s", Found::Nothing),
            ("hey", Found::Nothing),
            ("", Found::Nothing),
        ] {
            assert_eq!(find(text.as_bytes(), true), expected, "`{text}`");
        }
    }

    #[test]
    fn what_may_become_a_token_is_waited_for() {
        for text in
            ["hey", "he", "h eyJhb", "h eyJhb.", "h eyJhb.e", "h eyJhb.eyJz.", "h eyJhb.eyJz.s"]
        {
            assert!(matches!(find(text.as_bytes(), false), Found::Maybe(1 | 2)), "`{text}`");
        }
        assert_eq!(find(b"hex eyJhb.x", false), Found::Nothing);
    }

    #[test]
    fn what_is_too_long_is_no_token() {
        let long = |header: usize, signature: usize| {
            format!("eyJ{}.eyJ.{}", "a".repeat(header), "s".repeat(signature))
        };
        assert!(matches!(find(long(1_000, 7_000).as_bytes(), true), Found::Token(_)));
        for text in [long(1_100, 10), long(100, 9_000), "eyJ".repeat(400)] {
            assert_eq!(find(text.as_bytes(), true), Found::Nothing);
            assert!(
                !matches!(find(text.as_bytes(), false), Found::Maybe(0)),
                "nothing is waited for"
            );
        }
    }
}
