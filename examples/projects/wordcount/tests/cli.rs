//! The program as a user runs it.

use std::io::Write;
use std::process::{Command, Output, Stdio};

const POEM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/poem.txt");

fn wordcount(args: &[&str], stdin: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_wordcount"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The program may end without reading its input; that is not this test's concern.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn counts_standard_input() {
    let output = wordcount(&[], "one two\nthree\n");
    assert!(output.status.success());
    assert_eq!(text(&output.stdout), "       2        3       14 -\n");
}

#[test]
fn counts_files_and_their_total() {
    let output = wordcount(&[POEM, "-"], "more\n");
    assert!(output.status.success());
    let stdout = text(&output.stdout);
    let lines: Vec<&str> = stdout.lines().collect();
    assert_eq!(lines.len(), 3);
    assert!(lines[0].ends_with("/tests/poem.txt"), "{stdout}");
    assert_eq!(lines[2], "       5       27      136 total");
}

#[test]
fn finds_the_most_frequent_words() {
    let output = wordcount(&["--top", "2", POEM], "");
    assert!(output.status.success());
    let stdout = text(&output.stdout);
    assert!(stdout.ends_with("       4 build\n       3 is\n"), "{stdout}");
}

#[test]
fn a_missing_file_fails_but_stops_nothing() {
    let output = wordcount(&["no/such/file", POEM], "");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("cannot read `no/such/file`"));
    assert!(text(&output.stdout).contains("poem.txt"));
}

#[test]
fn wrong_use_exits_with_2() {
    let output = wordcount(&["--bottom"], "");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("unknown option `--bottom`"));
}
