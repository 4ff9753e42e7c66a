//! Any text is a template, and its pieces are the text again.

use std::collections::BTreeMap;

use gofer_core::template::{Piece, parse};
use gofer_core::validate;

pub(crate) fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut rest: &str = &text;
    for piece in parse(&text) {
        let (written, key) = match piece {
            Piece::Text(text) => (text.to_owned(), ""),
            Piece::Value(source, key) => (format!("{source}{{{{"), key),
        };

        rest = rest.strip_prefix(written.as_str()).expect("the pieces are the text");
        if matches!(piece, Piece::Value(..)) {
            let (inner, after) = rest.split_once("}}").expect("a value has an end");
            assert_eq!(inner.trim(), key);
            rest = after;
        }
    }

    assert_eq!(rest, "");

    let mut found = Vec::new();
    let variables =
        BTreeMap::from([("A".to_owned(), text.to_string()), (text.to_string(), String::new())]);
    validate::variables("variables", &variables, &mut found);
    validate::free_text("description", &text, 100, &mut found);
}
