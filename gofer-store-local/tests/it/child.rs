//! The work of this binary as a child process of one of its tests, which kills or measures it.

use std::future::pending;
use std::io::Write;
use std::path::Path;

use futures::{StreamExt, TryStreamExt, stream};
use gofer_core::ErrorKind;
use gofer_core::object_store::ObjectStore;

use crate::support::{REPLACE, key, megabytes, open};

/// Does nothing when it is run as a test.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn role() {
    let (Ok(role), Ok(dir)) = (std::env::var("GOFER_TEST_ROLE"), std::env::var("GOFER_TEST_DIR"))
    else {
        return;
    };
    let dir = Path::new(&dir);
    match role.as_str() {
        "stall" => stall(dir).await,
        "alternate" => alternate(dir).await,
        "large" => large(dir).await,
        "fill" => fill(dir).await,
        other => panic!("no role `{other}`"),
    }
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").unwrap();
    out.flush().unwrap();
}

/// Puts 8 MiB and never ends.
async fn stall(dir: &Path) {
    let never = stream::once(async {
        say("stalled");
        pending().await
    });
    let _ = open(dir)
        .await
        .put(&key("a/victim"), megabytes(b'n', 8).chain(never).boxed(), REPLACE)
        .await;
}

/// Puts 3 MiB of one byte after another under one key, for ever.
async fn alternate(dir: &Path) {
    let store = open(dir).await;
    for byte in (b'a'..=b'z').cycle() {
        store.put(&key("a/victim"), megabytes(byte, 3), REPLACE).await.unwrap();
        say("put one");
    }
}

/// Puts and reads back an object much larger than the memory it may use.
async fn large(dir: &Path) {
    let chunks: usize = std::env::var("GOFER_TEST_MEGABYTES").unwrap().parse().unwrap();
    let store = open(dir).await;
    let meta = store.put(&key("large"), megabytes(b'x', chunks), REPLACE).await.unwrap();
    assert_eq!(meta.size_bytes, (chunks as u64) << 20);
    let stream = store.get(&key("large")).await.unwrap().stream;
    let read =
        stream.try_fold(0, |sum, bytes| async move { Ok(sum + bytes.len() as u64) }).await.unwrap();
    assert_eq!(read, meta.size_bytes);
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    say(&format!("peak-kib={}", peak.trim().trim_end_matches(" kB")));
}

/// Runs with `dir` on a file system of 4 MiB.
async fn fill(dir: &Path) {
    let store = open(dir).await;
    store.put(&key("kept"), megabytes(b'k', 1), REPLACE).await.unwrap();
    let error = store.put(&key("kept"), megabytes(b'n', 8), REPLACE).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Exhausted, "{}", error.chain());
    assert!(error.is_retryable());
    // The failed put has let go of its space, and of nothing else.
    store.put(&key("other"), megabytes(b'o', 1), REPLACE).await.unwrap();
    assert_eq!(store.head(&key("kept")).await.unwrap().size_bytes, 1 << 20);
    say("full-disk-ok");
}
