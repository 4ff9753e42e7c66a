//! Reading and deleting.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use gofer_core::error::ErrorKind;
use gofer_core::object_store::{Access, PutOptions, UploadTerms};
use secrecy::ExposeSecret;

use super::{StoreHarness, assert_missing, body, content, key, pattern, put, read};

/// `get` gives the bytes that were put, whatever they are and however they were cut.
pub async fn get_gives_the_same_bytes(harness: &StoreHarness) {
    let store = harness.backend();
    for length in [0, 1, 65_535, 65_536, 65_537, 1_000_003] {
        let bytes = pattern(length, 1);
        let mut rest = bytes.clone();
        let mut pieces = Vec::new();

        for size in [1, 0, 7, 4_096, 65_537].into_iter().cycle() {
            if rest.is_empty() {
                break;
            }
            pieces.push(rest.split_to(size.min(rest.len())));
        }

        let name = format!("bytes/{length}");
        store.put(&key(&name), body(pieces), PutOptions::default()).await.expect("put");
        assert_eq!(content(&*store, &name).await, bytes, "{length} bytes");
    }
}

/// An object larger than the 32 MiB a transfer may hold in memory goes in and comes out.
pub async fn an_object_larger_than_the_memory_bound_survives(harness: &StoreHarness) {
    const PIECES: u64 = 40;
    const PIECE_BYTES: usize = 1024 * 1024;

    let store = harness.backend();
    let pieces = (0..PIECES).map(|piece| pattern(PIECE_BYTES, piece));
    let meta = store.put(&key("large"), body(pieces), PutOptions::default()).await.expect("put");
    assert_eq!(meta.size_bytes, PIECES * PIECE_BYTES as u64);

    let mut object = store.get(&key("large")).await.expect("get");
    assert_eq!(object.meta.size_bytes, meta.size_bytes);
    let mut seen = BytesMut::new();
    let mut checked = 0;

    while let Some(piece) = object.stream.next().await {
        seen.extend_from_slice(&piece.expect("the object's bytes"));
        while seen.len() >= PIECE_BYTES {
            assert!(
                seen.split_to(PIECE_BYTES) == pattern(PIECE_BYTES, checked),
                "MiB {checked} differs"
            );
            checked += 1;
        }
    }

    assert_eq!((checked, seen.len()), (PIECES, 0));
}

/// `get` and `head` of what does not exist are `NotFound`.
pub async fn missing_object_is_not_found(harness: &StoreHarness) {
    let store = harness.backend();
    assert_missing(&*store, "nothing/here").await;
    put(&*store, "some/thing", "x").await;
    for near in ["some", "some/thing/more", "some/thin", "some/thing2"] {
        assert_missing(&*store, near).await;
    }
}

/// `head` and `get` say the same of an object.
pub async fn head_agrees_with_get(harness: &StoreHarness) {
    let store = harness.backend();
    put(&*store, "k", "four").await;
    let head = store.head(&key("k")).await.expect("head");
    assert_eq!((&head.key, head.size_bytes), (&key("k"), 4));
    let object = store.get(&key("k")).await.expect("get");
    assert_eq!(object.meta, head);
    put(&*store, "k", "fourteen").await;
    assert_eq!(store.head(&key("k")).await.expect("head").size_bytes, 8);
}

/// While an object is replaced over and over, every reader sees one of its versions whole.
pub async fn readers_see_the_whole_old_or_the_whole_new_object(harness: &StoreHarness) {
    const VERSIONS: u8 = 24;

    let store = harness.backend();
    let version = |number: u8| Bytes::from(vec![number; 150_000 + usize::from(number) * 1_000]);
    store.put(&key("k"), body([version(0)]), PutOptions::default()).await.expect("put");
    let writer = {
        let store = store.clone();
        tokio::spawn(async move {
            for number in 1..VERSIONS {
                let mut rest = version(number);
                let mut halves = vec![rest.split_to(70_000)];
                halves.push(rest);
                store.put(&key("k"), body(halves), PutOptions::default()).await.expect("put");
            }
        })
    };

    let mut newest = 0;
    loop {
        let last_round = writer.is_finished();
        let bytes = content(&*store, "k").await;
        let number = bytes[0];
        assert!(
            bytes == version(number),
            "a mix of versions: {} bytes that begin with {number}",
            bytes.len()
        );
        assert!(number >= newest, "version {number} was read after version {newest}");
        newest = number;

        if last_round {
            break;
        }
    }

    writer.await.expect("no panic");
    assert_eq!(newest, VERSIONS - 1, "the last version");
}

/// What is being read stays as it was when the call was made, even if it is replaced or deleted
/// meanwhile.
pub async fn a_read_goes_on_while_the_object_is_replaced_and_deleted(harness: &StoreHarness) {
    let store = harness.backend();
    let old = pattern(3_000_000, 1);
    store.put(&key("k"), body([old.clone()]), PutOptions::default()).await.expect("put");
    let before_replacement = store.get(&key("k")).await.expect("get");
    let mut begun = store.get(&key("k")).await.expect("get");
    let first = begun.stream.next().await.expect("not empty").expect("the object's bytes");

    put(&*store, "k", "new").await;
    assert!(read(before_replacement).await == old, "the bytes changed while they were read");
    let before_deletion = store.get(&key("k")).await.expect("get");
    store.delete(&key("k")).await.expect("delete");
    assert_eq!(read(before_deletion).await, "new");

    let mut all = BytesMut::from(&first[..]);
    while let Some(piece) = begun.stream.next().await {
        all.extend_from_slice(&piece.expect("the object's bytes"));
    }

    assert!(all == old, "the bytes changed while they were read");
}

/// `delete` makes an object `NotFound`; deleting what does not exist succeeds.
pub async fn delete_is_idempotent(harness: &StoreHarness) {
    let store = harness.backend();
    store.delete(&key("a/never/was")).await.expect("deleting nothing");
    put(&*store, "a/k", "x").await;
    for _ in 0..2 {
        store.delete(&key("a/k")).await.expect("delete");
        assert_missing(&*store, "a/k").await;
    }
    put(&*store, "a/k", "again").await;
    assert_eq!(content(&*store, "a/k").await, "again");
}

/// Deleting an object deletes no other.
pub async fn deleting_one_key_keeps_its_neighbours(harness: &StoreHarness) {
    let store = harness.backend();
    for name in ["a/b/c", "a/b/d", "a/bc"] {
        put(&*store, name, name).await;
    }
    store.delete(&key("a/b")).await.expect("deleting what is only a prefix");
    store.delete(&key("a/b/c")).await.expect("delete");
    for name in ["a/b/d", "a/bc"] {
        assert_eq!(content(&*store, name).await, name);
    }
    assert_missing(&*store, "a/b/c").await;
}

/// `presign` gives a URL, or says that this store has no such thing.
pub async fn presign_gives_a_url_or_none(harness: &StoreHarness) {
    let store = harness.backend();
    put(&*store, "k", "x").await;
    let mut urls = Vec::new();

    for access in [Access::Get { file_name: None }, Access::Put(UploadTerms::default())] {
        let url = store.presign(&key("k"), access, Duration::from_secs(60)).await;
        match url {
            Err(error) if error.kind == ErrorKind::Unsupported => {
                panic!("`None` is how a store says that: {error}")
            }
            other => urls.push(other.expect("presign")),
        }
    }

    assert_eq!(urls[0].is_some(), urls[1].is_some(), "one of the two only: {urls:?}");
    for presigned in urls.into_iter().flatten() {
        let url = presigned.url.expose_secret();
        assert!(url.starts_with("http://") || url.starts_with("https://"), "not a URL: {url}");
        assert!(
            presigned.good_for <= Duration::from_secs(60),
            "longer than asked for: {presigned:?}"
        );
        assert!(!format!("{presigned:?}").contains(url), "Debug shows a URL");
    }
}
