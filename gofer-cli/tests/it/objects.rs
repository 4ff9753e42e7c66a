//! Objects from and into files that are not as simple as they seem.

use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::Signal;
use serde_json::json;

use crate::cutter::{Cut, Cutter};
use crate::harness::{eventually, text};
use crate::pipelines::script;
use crate::serving::{Serving, signal, wait};

fn server() -> Serving {
    let server = Serving::start();
    server.up(&json!({ "name": "ci", "tasks": [script("t", "true", &[])] }));
    server
}

#[test]
fn files_whose_size_the_system_does_not_know_are_stored() {
    let server = server();
    for path in [
        "/proc/version",
        "/proc/cpuinfo",
        "/sys/kernel/mm/transparent_hugepage/enabled",
        "/dev/null",
    ] {
        let Ok(content) = std::fs::read(path) else { continue };
        server.run(&["object", "put", "--pipeline", "ci", "k", path]).expect(0);
        let got = server.run(&["object", "get", "--pipeline", "ci", "k", "-"]).expect(0);
        // Of `cpuinfo` the frequencies change.
        assert!(
            got.stdout.len() == content.len() || path == "/proc/cpuinfo" && !got.stdout.is_empty(),
            "{path}"
        );
    }
}

#[test]
fn a_file_that_grows_is_stored_as_it_was_when_it_was_opened() {
    let server = server();
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("log");
    let line = [&[b'x'; 99][..], b"\n"].concat();
    let mut file = std::fs::File::create(&path).expect("a file");
    file.write_all(&line.repeat(100_000)).expect("written");

    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                file.write_all(&line).expect("written");
            }
        });
        let put = server.run(&["object", "put", "--pipeline", "ci", "log", text(&path)]);
        done.store(true, Ordering::Relaxed);
        put.expect(0);
    });

    let got = server.run(&["object", "get", "--pipeline", "ci", "log", "-"]).expect(0);
    assert!(
        got.stdout.len() >= 10_000_000
            && got.stdout.len() <= std::fs::read(&path).expect("the file").len()
    );
    assert!(got.stdout.bytes().enumerate().all(|(at, byte)| byte == line[at % 100]));
}

#[test]
fn an_interrupted_get_leaves_nothing_behind() {
    let server = server();
    server
        .run_with_stdin(&["object", "put", "--pipeline", "ci", "big", "-"], &vec![7; 10 << 20])
        .expect(0);

    for (asked, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        let dir = tempfile::tempdir().expect("a folder");
        let cutter = Cutter::to(&server.addr, Cut { stalls: true, ..Cut::after(12) });
        let mut command =
            server.command_by(&cutter.addr, &["object", "get", "--pipeline", "ci", "big"]);
        command.arg(dir.path().join("big")).stdout(Stdio::piped()).stderr(Stdio::piped());

        let mut child = command.spawn().expect("the binary starts");
        eventually("it has begun", || {
            if files(dir.path()).is_empty() { Err("there is no file".to_owned()) } else { Ok(()) }
        });

        signal(&child, asked);
        assert_eq!(wait(&mut child).code(), Some(code));
        assert_eq!(files(dir.path()), [""; 0]);
    }
}

fn files(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).expect("the folder").flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}
