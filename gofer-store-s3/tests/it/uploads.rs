//! Multipart uploads: whole, or nothing and aborted.

use bytes::Bytes;
use futures::{StreamExt, stream};
use gofer_conformance::within;
use gofer_core::object_store::{ByteStream, ObjectStore};
use gofer_core::{BackendError, ErrorKind};
use tokio::sync::oneshot;

use crate::fake::{Fault, Kind};
use crate::support::{IF_ABSENT, PART_BYTES, PLAIN, content, fake, impatient, key, pattern, put};

#[tokio::test]
async fn what_fits_into_a_part_is_one_request_and_the_rest_is_an_upload() {
    for (length, parts) in [
        (0, 0),
        (PART_BYTES - 1, 0),
        (PART_BYTES, 0),
        (PART_BYTES + 1, 2),
        (2 * PART_BYTES, 2),
        (2 * PART_BYTES + 3, 3),
    ] {
        let (fake, store) = fake().await;
        let bytes = pattern(length);
        put(&store, "k", &bytes, PLAIN).await.expect("put");
        assert!(content(&store, "k").await == bytes, "{length} bytes differ");
        assert_eq!(
            (fake.count(Kind::Part), fake.count(Kind::Put)),
            (parts, usize::from(parts == 0)),
            "{length} bytes"
        );
        fake.no_upload_is_left().await;
    }
}

#[tokio::test]
async fn every_request_of_an_upload_is_tried_again() {
    let (fake, store) = fake().await;
    for kind in [Kind::Begin, Kind::Part, Kind::Complete] {
        fake.fail(kind, 2, Fault::Refuse(503, "SlowDown"));
    }
    fake.fail(Kind::Complete, 1, Fault::FailedWithStatus200);
    let bytes = pattern(3 * PART_BYTES + 7);
    put(&store, "k", &bytes, PLAIN).await.expect("put");
    assert!(content(&store, "k").await == bytes, "other bytes");
    assert_eq!(
        (fake.count(Kind::Begin), fake.count(Kind::Part), fake.count(Kind::Complete)),
        (3, 6, 4)
    );
}

#[tokio::test]
async fn a_completion_whose_answer_is_lost_has_taken_effect() {
    for (fault, options) in [
        (Fault::DoneButFailed, PLAIN),
        (Fault::DoneButFailed, IF_ABSENT),
        (Fault::DoneButSilent, PLAIN),
        (Fault::DoneButSilent, IF_ABSENT),
    ] {
        let (fake, store) = impatient().await;
        fake.fail(Kind::Complete, 1, fault);
        let bytes = pattern(PART_BYTES + 1);
        put(&store, "k", &bytes, options).await.expect("the first completion took effect");
        assert!(content(&store, "k").await == bytes, "other bytes");
        assert_eq!(fake.count(Kind::Complete), 2, "{fault:?}");
    }
}

#[tokio::test]
async fn an_upload_that_fails_is_aborted() {
    for kind in [Kind::Part, Kind::Complete] {
        let (fake, store) = fake().await;
        put(&store, "k", &Bytes::from_static(b"old"), PLAIN).await.expect("put");
        fake.fail(kind, usize::MAX, Fault::Refuse(403, "AccessDenied"));
        let error = put(&store, "k", &pattern(2 * PART_BYTES), PLAIN).await.expect_err("denied");
        assert_eq!(error.kind, ErrorKind::Denied);
        fake.no_upload_is_left().await;
        assert_eq!(content(&store, "k").await, "old");
    }
}

#[tokio::test]
async fn an_upload_that_somebody_aborted_may_be_tried_again() {
    let (fake, store) = fake().await;
    fake.fail(Kind::Complete, 1, Fault::Refuse(404, "NoSuchUpload"));
    let error = put(&store, "k", &pattern(2 * PART_BYTES), PLAIN).await.expect_err("it is gone");
    assert!(
        error.is_retryable() && error.to_string().contains("somebody aborted the upload"),
        "{error}"
    );
    fake.no_upload_is_left().await;
}

#[tokio::test]
async fn an_upload_whose_stream_fails_is_aborted() {
    let (fake, store) = fake().await;
    let error = BackendError::new(ErrorKind::Denied, "the sender hung up");
    let body = stream::iter([Ok(pattern(2 * PART_BYTES + 1)), Err(error)]).boxed();
    let error = store.put(&key("k"), body, PLAIN).await.expect_err("the stream failed");
    assert_eq!(error.to_string(), "the sender hung up");
    assert_eq!(fake.count(Kind::Begin), 1);
    fake.no_upload_is_left().await;
    assert!(fake.keys().is_empty());
}

#[tokio::test]
async fn an_upload_that_is_dropped_is_aborted() {
    let (fake, store) = fake().await;
    let (body, stalled) = stalling(pattern(2 * PART_BYTES + 1));
    let putting = tokio::spawn(async move { store.put(&key("k"), body, PLAIN).await });
    within("the store reads the body", stalled).await.expect("the store dropped the body");
    fake.has_seen(Kind::Part, 2).await;
    putting.abort();
    assert!(putting.await.expect_err("aborted").is_cancelled());
    fake.has_seen(Kind::Abort, 1).await;
    fake.no_upload_is_left().await;
    assert!(fake.keys().is_empty());
}

#[tokio::test]
async fn an_upload_that_begins_while_it_is_dropped_is_aborted() {
    let (fake, store) = impatient().await;
    // The first answer is lost; the second comes when nobody waits for it any more.
    fake.fail(Kind::Begin, 1, Fault::Silent);
    let putting = tokio::spawn(async move {
        store.put(&key("k"), crate::support::body([pattern(2 * PART_BYTES)]), PLAIN).await
    });
    fake.has_seen(Kind::Begin, 1).await;
    putting.abort();
    assert!(putting.await.expect_err("aborted").is_cancelled());
    fake.has_seen(Kind::Abort, 1).await;
    fake.no_upload_is_left().await;
}

#[tokio::test]
async fn a_large_put_if_absent_is_refused_early_and_at_the_completion() {
    let (fake, store) = fake().await;
    put(&store, "k", &Bytes::from_static(b"old"), PLAIN).await.expect("put");
    let error = put(&store, "k", &pattern(2 * PART_BYTES), IF_ABSENT).await.expect_err("taken");
    assert_eq!(error.kind, ErrorKind::AlreadyExists);
    assert_eq!(fake.count(Kind::Begin), 0, "nothing was uploaded");

    // The key is taken while the upload is under way.
    let (body, stalled, go_on) = pausing(pattern(PART_BYTES + 1));
    let writer = store.clone();
    let putting = tokio::spawn(async move { writer.put(&key("fresh"), body, IF_ABSENT).await });
    within("the store reads the body", stalled).await.expect("the store dropped the body");
    fake.has_seen(Kind::Begin, 1).await;
    put(&store, "fresh", &Bytes::from_static(b"first"), IF_ABSENT).await.expect("the key is free");
    go_on.send(()).expect("the body is waited for");

    let error = putting.await.expect("no panic").expect_err("taken");
    assert_eq!(error.kind, ErrorKind::AlreadyExists);
    assert_eq!(content(&store, "fresh").await, "first");
    fake.no_upload_is_left().await;
}

/// A body that gives its bytes and then nothing more; the receiver hears when the store waits for
/// more.
fn stalling(bytes: Bytes) -> (ByteStream, oneshot::Receiver<()>) {
    let (stalls, stalled) = oneshot::channel();
    let silence = stream::once(async move {
        // The test has ended when nobody listens.
        let _ = stalls.send(());
        std::future::pending().await
    });
    (stream::iter([Ok(bytes)]).chain(silence).boxed(), stalled)
}

/// The same, which ends when it is told to.
fn pausing(bytes: Bytes) -> (ByteStream, oneshot::Receiver<()>, oneshot::Sender<()>) {
    let (stalls, stalled) = oneshot::channel();
    let (go_on, ending) = oneshot::channel();
    let waiting = stream::once(async move {
        // The test has ended when nobody listens.
        let _ = stalls.send(());
        let _ = ending.await;
        Ok(Bytes::new())
    });
    (stream::iter([Ok(bytes)]).chain(waiting).boxed(), stalled, go_on)
}
