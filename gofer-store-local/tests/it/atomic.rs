//! Readers see the whole old or the whole new object, also when the put fails.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream};
use gofer_core::object_store::ObjectStore;
use gofer_core::{BackendError, ErrorKind};
use tokio::sync::oneshot;

use crate::support::{
    IF_ABSENT, REPLACE, Talking, body, collect, key, megabytes, open, put, read, staged_files,
};

#[tokio::test]
async fn a_killed_put_changes_nothing_and_is_swept() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    put(&store, "a/victim", b"old").await;
    drop(store);

    let mut child = Talking::start("stall", dir.path());
    child.wait_for("stalled");
    let bystander = open(dir.path()).await;
    assert_eq!(staged_files(dir.path()).len(), 1, "connecting removed a put in progress");
    child.kill();
    assert_eq!(staged_files(dir.path()).len(), 1, "the kill should have left the staging file");
    assert_eq!(read(&bystander, "a/victim").await, b"old");

    let store = open(dir.path()).await;
    assert_eq!(staged_files(dir.path()), Vec::<std::path::PathBuf>::new());
    assert_eq!(read(&store, "a/victim").await, b"old");
}

#[tokio::test]
async fn kills_at_any_moment_leave_a_whole_object() {
    let dir = tempfile::tempdir().unwrap();
    let mut seen = None;
    for round in 0..12 {
        let mut child = Talking::start("alternate", dir.path());
        for _ in 0..=round % 4 {
            child.wait_for("put one");
        }

        child.kill();
        let bytes = read(&open(dir.path()).await, "a/victim").await;
        assert_eq!(bytes.len(), 3 << 20);
        assert!(
            bytes.iter().all(|byte| *byte == bytes[0]),
            "a mixture after round {round}, before it {seen:?}"
        );
        seen = Some(bytes[0]);
    }
}

#[tokio::test]
async fn a_reader_keeps_the_bytes_it_opened() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    store.put(&key("k"), megabytes(b'1', 2), REPLACE).await.unwrap();
    let replaced = store.get(&key("k")).await.unwrap().stream;
    store.put(&key("k"), megabytes(b'2', 3), REPLACE).await.unwrap();
    let deleted = store.get(&key("k")).await.unwrap().stream;
    store.delete(&key("k")).await.unwrap();
    assert_eq!(collect(replaced).await.unwrap(), vec![b'1'; 2 << 20]);
    assert_eq!(collect(deleted).await.unwrap(), vec![b'2'; 3 << 20]);
}

#[tokio::test]
async fn a_failing_stream_comes_back_unchanged() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    put(&store, "k", b"old").await;
    let broken = BackendError::new(ErrorKind::RateLimited, "the client went away");
    let cut = megabytes(b'n', 2).chain(stream::iter([Err(broken)])).boxed();
    let error = store.put(&key("k"), cut, REPLACE).await.unwrap_err();
    assert_eq!(
        (error.kind, error.message.as_str()),
        (ErrorKind::RateLimited, "the client went away")
    );
    assert_eq!(read(&store, "k").await, b"old");
    assert!(staged_files(dir.path()).is_empty());
}

#[tokio::test]
async fn a_dropped_put_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let (reached, stalled) = oneshot::channel();
    let never = stream::once(async move {
        let _ = reached.send(());
        std::future::pending().await
    });

    let task = tokio::spawn({
        let store = store.clone();
        async move { store.put(&key("new/k"), megabytes(b'n', 3).chain(never).boxed(), REPLACE).await }
    });

    stalled.await.unwrap();
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    assert_eq!(store.head(&key("new/k")).await.unwrap_err().kind, ErrorKind::NotFound);
    eventually_nothing_staged(dir.path()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_puts_of_one_key_never_mix() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let puts = (b'a'..=b'p').map(|byte| {
        let store = store.clone();
        tokio::spawn(
            async move { store.put(&key("k"), megabytes(byte, 2), REPLACE).await.unwrap() },
        )
    });
    for put in puts.collect::<Vec<_>>() {
        put.await.unwrap();
        let bytes = read(&store, "k").await;
        assert_eq!(bytes.len(), 2 << 20);
        assert!(bytes.iter().all(|byte| *byte == bytes[0]));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_concurrent_puts_if_absent_one_wins() {
    let dir = tempfile::tempdir().unwrap();
    let (one, other) = (open(dir.path()).await, open(dir.path()).await);
    for round in 0..20 {
        let name = Arc::new(format!("r{round}/k"));
        let puts = [one.clone(), other.clone(), one.clone(), other.clone()]
            .into_iter()
            .enumerate()
            .map(|(n, store)| {
                let name = Arc::clone(&name);
                tokio::spawn(async move {
                    (n, store.put(&key(&name), body(n.to_string()), IF_ABSENT).await)
                })
            });

        let mut winners = Vec::new();
        for put in puts.collect::<Vec<_>>() {
            match put.await.unwrap() {
                (n, Ok(_)) => winners.push(n),
                (_, Err(error)) => {
                    assert_eq!(error.kind, ErrorKind::AlreadyExists, "{}", error.chain())
                }
            }
        }

        assert_eq!(winners.len(), 1);
        assert_eq!(read(&one, &name).await, winners[0].to_string().as_bytes());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deletes_do_not_take_the_directory_from_under_a_put() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let deletes = tokio::spawn({
        let store = store.clone();
        async move {
            for _ in 0..200 {
                put(&store, "deep/er/other", b"").await;
                store.delete(&key("deep/er/other")).await.unwrap();
            }
        }
    });

    while !deletes.is_finished() {
        put(&store, "deep/er/mine", b"mine").await;
        assert_eq!(read(&store, "deep/er/mine").await, b"mine");
        store.delete(&key("deep/er/mine")).await.unwrap();
    }

    deletes.await.unwrap();
    let left: Vec<_> = std::fs::read_dir(dir.path().join("objects")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn empty_and_odd_chunks_survive() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    put(&store, "empty", b"").await;
    assert_eq!(read(&store, "empty").await, b"");
    let whole: Vec<u8> = (0..3_000_001_u32).map(|n| (n % 251) as u8).collect();
    let mut chunks = Vec::new();
    let mut rest = Bytes::from(whole.clone());
    for size in [0, 1, 7, 1 << 20, (1 << 20) + 1, 13, usize::MAX] {
        chunks.push(Ok(rest.split_to(size.min(rest.len()))));
    }
    let meta = store.put(&key("odd"), stream::iter(chunks).boxed(), REPLACE).await.unwrap();
    assert_eq!(meta, store.head(&key("odd")).await.unwrap());
    assert_eq!(read(&store, "odd").await, whole);
}

async fn eventually_nothing_staged(dir: &std::path::Path) {
    let gone = async {
        while !staged_files(dir).is_empty() {
            tokio::task::yield_now().await;
        }
    };
    let result = tokio::time::timeout(Duration::from_secs(10), gone).await;
    assert!(result.is_ok(), "after 10 s there is still {:?}", staged_files(dir));
}
