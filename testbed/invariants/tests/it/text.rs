//! Words that no file may have, and the length of files.

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

    assert!(
        long.is_empty(),
        "files over {MAX_LINES} lines; split them by what they are about:\n{}",
        long.join("\n")
    );
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
    assert_nowhere(
        &hosts,
        |_| true,
        "package clients know where their registry is; name the package, not the host",
    );
}

#[test]
fn nothing_is_left_to_do() {
    let marks =
        [["TO", "DO"], ["FIX", "ME"], ["XX", "X:"], ["todo", "!("], ["unimplemented", "!("]];
    let is_code = |file: &SourceFile| CODE.contains(&file.extension());
    assert_nowhere(&marks, is_code, "do it, or file an issue and say nothing here");
}

/// Where a sleep is the test: a kill at a random moment, an outage that lasts; and the slowness of
/// a fake server.
const MOMENTS: [&str; 3] = [
    "gofer-cli/tests/it/crash.rs",
    "gofer-cli/tests/it/campaign/",
    "gofer-scheduler-nomad/tests/it/fake/",
];

/// A sleep makes a test slow or wrong. Two kinds do not count. One is the pause of a loop that
/// waits until something is true, in a function called `eventually`. The other is time under the
/// paused clock of a simulation.
#[test]
fn no_test_sleeps() {
    let sleeps =
        [["tokio::time::", "sleep("], ["thread::", "sleep("]].map(|pieces| pieces.concat());
    let mut found = Vec::new();

    for file in
        written_by_hand().filter(|file| file.extension() == "rs" && file.path.contains("/tests/"))
    {
        let is_moment = MOMENTS.iter().any(|path| file.path.starts_with(path));
        if is_moment || file.path.contains("/tests/sim/") || file.text.contains("start_paused") {
            continue;
        }

        let mut function = "";
        for (number, line) in file.text.lines().enumerate() {
            if let Some((_, name)) = line.split_once("fn ") {
                function = name;
            }
            if sleeps.iter().any(|sleep| line.contains(sleep.as_str()))
                && !function.starts_with("eventually")
            {
                found.push(format!("{}:{}: {}", file.path, number + 1, line.trim()));
            }
        }
    }

    let why = "wait for an event, or use `gofer_conformance::eventually`";
    assert!(found.is_empty(), "{why}:\n{}", found.join("\n"));
}
