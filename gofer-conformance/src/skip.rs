//! Tests of servers that are not there.

use std::io::Write as _;

/// Says that `test` does nothing because the server it `needs` is not there, unless that must not
/// be.
///
/// # Panics
/// When the list `GOFER_TEST_REQUIRE` names the server.
pub fn skip(needs: &str, test: &str, why: &str) {
    let required = std::env::var("GOFER_TEST_REQUIRE").unwrap_or_default();
    assert!(
        !required.split(',').any(|name| name.trim() == needs),
        "GOFER_TEST_REQUIRE names {needs}, and {why}"
    );
    say_skipped(test, why);
}

/// Says that `test` does nothing, and why. Not by a print macro, whose output is kept from whoever
/// runs the tests.
pub fn say_skipped(test: &str, why: &str) {
    // Who cannot write there has nobody to tell.
    let _ = std::io::stderr().write_all(format!("skipped: {test}: {why}\n").as_bytes());
}
