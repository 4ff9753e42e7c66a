//! What no file says, and how long it may be.

use gofer_testbed::{SourceFile, source_files};

/// A file that is longer does two things.
const MAX_LINES: usize = 600;
const CODE: [&str; 6] = ["rs", "proto", "go", "py", "ts", "sql"];

fn written_by_hand() -> impl Iterator<Item = SourceFile> {
    source_files().into_iter().filter(|file| !file.is_generated())
}

#[test]
fn no_file_is_too_long() {
    let mut long = Vec::new();
    for file in written_by_hand() {
        let lines = file.text.lines().count();
        if CODE.contains(&file.extension()) && lines > MAX_LINES {
            long.push(format!("{}: {lines} lines", file.path));
        }
        if file.path == "ARCHITECTURE.md" && lines > 300 {
            long.push(format!("{}: {lines} lines, at most 300", file.path));
        }
    }
    assert!(long.is_empty(), "files over {MAX_LINES} lines; split them by what they are about:\n{}", long.join("\n"));
}

/// Found nowhere, and written in two pieces here so as not to find itself.
fn assert_nowhere(words: &[[&str; 2]], applies: impl Fn(&SourceFile) -> bool, why: &str) {
    let words: Vec<String> = words.iter().map(|pieces| pieces.concat()).collect();
    let mut found = Vec::new();
    for file in written_by_hand().filter(|file| applies(file)) {
        for (number, line) in file.text.lines().enumerate() {
            if let Some(word) = words.iter().find(|word| line.contains(word.as_str())) {
                found.push(format!("{}:{}: {word}", file.path, number + 1));
            }
        }
    }
    assert!(found.is_empty(), "{why}:\n{}", found.join("\n"));
}

#[test]
fn no_registry_is_named() {
    let hosts = [
        ["crates", ".io"],
        ["py", "pi.org"],
        ["pythonhosted", ".org"],
        ["npmjs", ".org"],
        ["npmjs", ".com"],
        ["proxy.golang", ".org"],
        ["sum.golang", ".org"],
        ["deb.debian", ".org"],
        ["repo1.maven", ".org"],
        ["docker", ".io/v2"],
    ];
    assert_nowhere(&hosts, |_| true, "package clients know where their registry is; name the package, not the host");
}

#[test]
fn nothing_is_left_to_do() {
    let marks = [["TO", "DO"], ["FIX", "ME"], ["XX", "X:"], ["todo", "!("], ["unimplemented", "!("]];
    let is_code = |file: &SourceFile| CODE.contains(&file.extension());
    assert_nowhere(&marks, is_code, "do it, or file an issue and say nothing here");
}

#[test]
fn no_test_sleeps() {
    let sleeps = [["tokio::time::", "sleep("], ["thread::", "sleep("]];
    // The conformance suites' `eventually` is the one loop that waits; time under a paused clock is no waiting.
    let is_test = |file: &SourceFile| {
        file.extension() == "rs" && file.path.contains("/tests/") && !file.text.contains("start_paused")
    };
    assert_nowhere(&sleeps, is_test, "wait for an event, or use `gofer_core::conformance::eventually`");
}
