//! A log that comes in pieces is masked as the whole, and a secret is not in it. The first bytes
//! are the lengths of two secrets and of the pieces, then come the secrets, then the log.

use gofer_engine::mask::{MASK, Masker};
use secrecy::SecretString;

pub(crate) fn run(data: &[u8]) {
    let [first, second, size, rest @ ..] = data else { return };
    let (first, rest) = rest.split_at(rest.len().min(usize::from(*first)));
    let (second, log) = rest.split_at(rest.len().min(usize::from(*second)));
    let secrets = [first, second].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    let values: Vec<_> = secrets.iter().map(|secret| SecretString::from(secret.as_str())).collect();

    let whole = masked(&values, &[log]);
    let pieces: Vec<&[u8]> = log.chunks(usize::from(*size) + 1).collect();
    assert_eq!(masked(&values, &pieces), whole);

    for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
        // A mask, and what stands beside it, may be one by accident.
        let clear: Vec<&[u8]> = split(&whole, MASK);
        let shown = clear
            .iter()
            .any(|part| part.windows(secret.len()).any(|window| window == secret.as_bytes()));
        assert!(!shown || secret.contains('*'), "`{secret}` is shown");
    }
}

fn masked(values: &[SecretString], pieces: &[&[u8]]) -> Vec<u8> {
    let mut masker = Masker::new(values).with_tokens(true);
    let mut out: Vec<u8> = pieces.iter().flat_map(|piece| masker.push(piece)).collect();
    out.extend(masker.finish());
    out
}

fn split<'a>(text: &'a [u8], at: &[u8]) -> Vec<&'a [u8]> {
    let mut parts = Vec::new();
    let mut begin = 0;
    let mut from = 0;
    while let Some(found) = text[from..].windows(at.len()).position(|window| window == at) {
        parts.push(&text[begin..from + found]);
        from += found + at.len();
        begin = from;
    }
    parts.push(&text[begin..]);
    parts
}
