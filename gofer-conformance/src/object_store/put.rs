//! Writing.

use bytes::Bytes;
use futures::future::join_all;
use futures::{StreamExt, stream};
use gofer_core::error::ErrorKind;
use gofer_core::object_store::{ByteStream, ListPage, ObjectStore, PutOptions};
use tokio::sync::oneshot;

use super::{StoreHarness, assert_missing, body, content, failing, key, pattern, put, text};
use crate::within;

const IF_ABSENT: PutOptions = PutOptions { if_absent: true };

/// `check` proves that the store can be used, and says in one line what was found.
pub async fn check_says_what_was_found_in_one_line(harness: &StoreHarness) {
    let found = harness.backend().check().await.expect("check");
    assert!(!found.is_empty() && !found.contains('\n'), "not one line: {found:?}");
}

/// `put` gives back the key and the length.
pub async fn put_returns_what_is_known_of_the_object(harness: &StoreHarness) {
    let store = harness.backend();
    let pieces = [Bytes::from_static(b"one "), Bytes::new(), Bytes::from_static(b"two")];
    let meta = store.put(&key("a/b.txt"), body(pieces), PutOptions::default()).await.expect("put");
    assert_eq!((meta.key, meta.size_bytes), (key("a/b.txt"), 7));
    assert_eq!(content(&*store, "a/b.txt").await, "one two");
}

/// `put` replaces what was there, with something longer, shorter and empty.
pub async fn put_replaces_what_was_there(harness: &StoreHarness) {
    let store = harness.backend();
    for next in ["first", "second, and longer", "3", ""] {
        put(&*store, "k", next).await;
        assert_eq!(content(&*store, "k").await, next);
    }
}

/// With `if_absent` a taken key is `AlreadyExists` and keeps what it held.
pub async fn put_if_absent_refuses_a_taken_key_and_changes_nothing(harness: &StoreHarness) {
    let store = harness.backend();
    store.put(&key("k"), text("old"), IF_ABSENT).await.expect("the key is free");
    let error = store.put(&key("k"), text("new"), IF_ABSENT).await.expect_err("the key is taken");
    assert_eq!(error.kind, ErrorKind::AlreadyExists);
    assert_eq!(content(&*store, "k").await, "old");
    store.delete(&key("k")).await.expect("delete");
    store.put(&key("k"), text("newer"), IF_ABSENT).await.expect("the key is free again");
}

/// Of concurrent puts with `if_absent` one wins, and its bytes are what is kept.
pub async fn of_concurrent_puts_if_absent_one_wins(harness: &StoreHarness) {
    let store = harness.backend();
    for round in 0..8 {
        let name = format!("race/{round}");
        let racers = (0..8_u64).map(|racer| {
            let (store, key) = (store.clone(), key(&name));
            tokio::spawn(
                async move { store.put(&key, body([pattern(5_000, racer)]), IF_ABSENT).await },
            )
        });

        let outcomes = join_all(racers).await.into_iter().map(|joined| joined.expect("no panic"));
        let mut winners = Vec::new();
        for (racer, outcome) in (0_u64..).zip(outcomes) {
            match outcome {
                Ok(_) => winners.push(racer),
                Err(error) => assert_eq!(error.kind, ErrorKind::AlreadyExists, "{error}"),
            }
        }

        assert_eq!(winners.len(), 1, "winners of `{name}`: {winners:?}");
        assert_eq!(content(&*store, &name).await, pattern(5_000, winners[0]), "the winner's bytes");
    }
}

/// A put whose stream fails returns the stream's own error unchanged, and the key holds what it
/// held before.
pub async fn put_whose_stream_fails_changes_nothing(harness: &StoreHarness) {
    let store = harness.backend();
    put(&*store, "kept", "old").await;
    for name in ["kept", "fresh"] {
        let outcome = store.put(&key(name), failing("half of it"), PutOptions::default()).await;
        let error = outcome.expect_err("the stream failed");
        assert_eq!((error.kind, error.message.as_str()), (ErrorKind::Denied, "the sender hung up"));
    }
    assert_eq!(content(&*store, "kept").await, "old");
    assert_missing(&*store, "fresh").await;
    assert_eq!(keys(&*store).await, ["kept"]);
}

/// The same with `if_absent`: the key stays free.
pub async fn put_if_absent_whose_stream_fails_leaves_the_key_free(harness: &StoreHarness) {
    let store = harness.backend();
    let error = store
        .put(&key("k"), failing("half of it"), IF_ABSENT)
        .await
        .expect_err("the stream failed");
    assert_eq!(error.kind, ErrorKind::Denied);
    assert_missing(&*store, "k").await;
    store.put(&key("k"), text("whole"), IF_ABSENT).await.expect("the key is free");
}

/// A put that is under way is not seen by anybody, and when it is dropped it changes nothing.
pub async fn put_in_progress_is_invisible_and_dropping_it_changes_nothing(harness: &StoreHarness) {
    let store = harness.backend();
    put(&*store, "kept", "old").await;
    for name in ["kept", "fresh"] {
        let (body, stalled) = stalling(pattern(300_000, 7));
        let (writer, target) = (store.clone(), key(name));
        let putting =
            tokio::spawn(async move { writer.put(&target, body, PutOptions::default()).await });
        within("the store reads the body", stalled).await.expect("the store dropped the body");
        assert_eq!(content(&*store, "kept").await, "old");
        assert_missing(&*store, "fresh").await;
        assert_eq!(keys(&*store).await, ["kept"]);
        putting.abort();
        assert!(putting.await.expect_err("aborted").is_cancelled());
    }

    assert_eq!(content(&*store, "kept").await, "old");
    assert_missing(&*store, "fresh").await;
    assert_eq!(keys(&*store).await, ["kept"]);
}

/// After concurrent puts of one key, it holds what one of them wrote, whole.
pub async fn concurrent_puts_of_one_key_leave_one_of_them_whole(harness: &StoreHarness) {
    let store = harness.backend();
    let writers = (0..8_u64).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            let bytes = pattern(100_000 + usize::try_from(writer).unwrap_or(0), writer);
            store.put(&key("k"), body([bytes.clone()]), PutOptions::default()).await.expect("put");
            bytes
        })
    });
    let written: Vec<Bytes> =
        join_all(writers).await.into_iter().map(|joined| joined.expect("no panic")).collect();
    let kept = content(&*store, "k").await;
    assert!(written.contains(&kept), "{} bytes that nobody wrote", kept.len());
}

/// Concurrent puts of different keys, some of which share their first segments, all take effect.
pub async fn concurrent_puts_of_many_keys_do_not_mix(harness: &StoreHarness) {
    let store = harness.backend();
    let name = |index: u64| format!("d{}/e{}/{index}", index % 3, index % 5);
    let writers = (0..60_u64).map(|index| {
        let (store, key) = (store.clone(), key(&name(index)));
        tokio::spawn(async move {
            store.put(&key, body([pattern(1_000, index)]), PutOptions::default()).await
        })
    });
    for joined in join_all(writers).await {
        joined.expect("no panic").expect("put");
    }
    for index in 0..60 {
        assert_eq!(content(&*store, &name(index)).await, pattern(1_000, index));
    }
}

/// When `put` returns `Ok`, the object is durable; so is a deletion.
pub async fn an_object_is_durable(harness: &mut StoreHarness) {
    let store = harness.backend();
    put(&*store, "a/kept", "kept").await;
    put(&*store, "a/deleted", "deleted").await;
    store.delete(&key("a/deleted")).await.expect("delete");
    drop(store);
    harness.restart().await;
    let store = harness.backend();
    assert_eq!(content(&*store, "a/kept").await, "kept");
    assert_missing(&*store, "a/deleted").await;
    assert_eq!(keys(&*store).await, ["a/kept"]);
}

/// A body that gives its bytes and then nothing more; the receiver hears when the store waits for
/// more.
fn stalling(bytes: Bytes) -> (ByteStream, oneshot::Receiver<()>) {
    let (stalls, stalled) = oneshot::channel();
    let mut stalls = Some(stalls);
    let silence = stream::poll_fn(move |_| {
        if let Some(stalls) = stalls.take() {
            // The case has ended when nobody listens.
            let _ = stalls.send(());
        }
        std::task::Poll::Pending
    });
    (stream::iter([Ok(bytes)]).chain(silence).boxed(), stalled)
}

async fn keys(store: &dyn ObjectStore) -> Vec<String> {
    let list = store.list("", ListPage { after: None, limit: 1_000 }).await.expect("list");
    list.objects.into_iter().map(|object| object.key.to_string()).collect()
}
