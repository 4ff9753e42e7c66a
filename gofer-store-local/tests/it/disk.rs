//! Memory and disk: large objects in little memory, a full disk, files that somebody else touched.

use std::process::Stdio;

use gofer_conformance::say_skipped;
use gofer_core::ErrorKind;
use gofer_core::object_store::ObjectStore;

use crate::support::{child_command, collect, key, open, put};

/// All of the child process at its peak; the contract allows 32 MiB for a transfer, and the process
/// itself is about 10.
const MAX_PEAK_KIB: u64 = 40 * 1024;

#[test]
fn memory_is_bounded_whatever_the_size() {
    let dir = tempfile::tempdir().unwrap();
    let program = std::env::current_exe().unwrap();
    let megabytes = std::env::var("GOFER_TEST_MEGABYTES").unwrap_or_else(|_| "256".to_owned());
    let mut command = child_command(program.to_str().unwrap(), &[], "large", dir.path());
    let output = command.env("GOFER_TEST_MEGABYTES", megabytes).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let (_, rest) = text.split_once("peak-kib=").unwrap_or_else(|| panic!("no peak in {text}"));
    let peak: u64 = rest.split_whitespace().next().unwrap().parse().unwrap();
    assert!(peak <= MAX_PEAK_KIB, "the child used {peak} KiB at its peak");
}

#[test]
fn a_full_disk_is_exhausted_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let program = std::env::current_exe().unwrap();

    // A file system of its own, seen by the child alone, gone with it.
    let script = r#"mount -t tmpfs -o size=4m none "$GOFER_TEST_DIR" || exit 77; exec "$0" "$@""#;
    let first = ["--mount", "sh", "-c", script, program.to_str().unwrap()];
    let mut command = child_command("unshare", &first, "fill", dir.path());
    let Ok(output) = command.stderr(Stdio::piped()).output() else {
        return skip("there is no `unshare`");
    };

    let text = String::from_utf8_lossy(&output.stdout);
    if text.contains("full-disk-ok") {
        return;
    }

    let errors = String::from_utf8_lossy(&output.stderr);
    let not_allowed = output.status.code() == Some(77) || errors.contains("unshare failed");
    assert!(not_allowed, "{text}\n{errors}");
    skip("this user may not mount a tmpfs");
}

fn skip(why: &str) {
    say_skipped("a_full_disk_is_exhausted_and_loses_nothing", why);
}

#[tokio::test]
async fn a_file_cut_short_by_somebody_else_is_corrupt() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    put(&store, "k", &vec![b'x'; 1 << 20]).await;
    let body = store.get(&key("k")).await.unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(dir.path().join("objects/k")).unwrap();
    file.set_len(300_000).unwrap();
    let error = collect(body.stream).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Corrupt);
    assert!(error.message.contains("objects/k` ends 748576 bytes early"), "{}", error.message);
}

#[tokio::test]
async fn foreign_files_are_no_objects() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    put(&store, "a/b", b"").await;

    for name in ["editor~", "has space", "plain-dir/x", "a%/link"] {
        let path = dir.path().join("objects").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        if name.ends_with("link") {
            std::os::unix::fs::symlink("/etc/passwd", path).unwrap();
        } else {
            std::fs::write(path, "").unwrap();
        }
    }

    let page = gofer_core::object_store::ListPage { after: None, limit: 10 };
    let found = store.list("", page).await.unwrap();
    assert_eq!(found.objects.iter().map(|meta| meta.key.as_str()).collect::<Vec<_>>(), ["a/b"]);
}
