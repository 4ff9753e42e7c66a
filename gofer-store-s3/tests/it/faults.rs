//! What goes wrong on the way, and what comes of it.

use std::time::Duration;

use bytes::Bytes;
use gofer_core::ErrorKind;
use gofer_core::object_store::{ListPage, ObjectStore};
use gofer_store_s3::S3Config;

use crate::fake::{Fault, Kind, SECRET_KEY};
use crate::support::{IF_ABSENT, PLAIN, content, fake, impatient, key, open, pattern, put, read};

const TRANSIENT: [Fault; 6] = [
    Fault::Refuse(503, "SlowDown"),
    Fault::Refuse(500, "InternalError"),
    Fault::Refuse(429, "TooManyRequests"),
    Fault::Refuse(502, ""),
    Fault::Refuse(400, "RequestTimeout"),
    Fault::DoneButFailed,
];

#[tokio::test]
async fn whatever_may_pass_is_tried_again() {
    for fault in TRANSIENT {
        let (fake, store) = fake().await;
        for kind in [Kind::Put, Kind::Get, Kind::List, Kind::Delete] {
            fake.fail(kind, 2, fault);
        }

        // An answer to HEAD has no body that would say more than the status.
        if !matches!(fault, Fault::Refuse(400, _)) {
            fake.fail(Kind::Head, 2, fault);
        }

        put(&store, "k", &Bytes::from_static(b"x"), PLAIN).await.expect("put");
        assert_eq!(store.head(&key("k")).await.expect("head").size_bytes, 1, "{fault:?}");
        assert_eq!(content(&store, "k").await, "x", "{fault:?}");
        let page = ListPage { after: None, limit: 10 };
        assert_eq!(store.list("", page).await.expect("list").objects.len(), 1, "{fault:?}");
        store.delete(&key("k")).await.expect("delete");

        for kind in [Kind::Put, Kind::Get, Kind::Delete] {
            assert_eq!(
                fake.count(kind),
                if kind == Kind::Put { 5 } else { 3 },
                "{fault:?}: {:?}",
                fake.seen()
            );
        }
    }
}

#[tokio::test]
async fn attempts_are_bounded_and_the_error_says_what_the_store_said() {
    let (fake, store) = fake().await;
    fake.fail(Kind::Head, usize::MAX, Fault::Refuse(500, "InternalError"));
    let error = store.head(&key("k")).await.expect_err("it never works");
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert_eq!(fake.count(Kind::Head), 5);
    fake.fail(Kind::Get, usize::MAX, Fault::Refuse(503, "SlowDown"));
    let error = store.get(&key("k")).await.expect_err("it never works");
    assert_eq!(error.kind, ErrorKind::RateLimited);
    let expected = format!(
        "cannot read `k` in bucket `gofer-test` at `{}`: the store answers 503 `SlowDown` (The \
         fake says no)",
        fake.endpoint()
    );
    assert_eq!(error.to_string(), expected);
}

#[tokio::test]
async fn what_will_not_pass_is_not_tried_again() {
    let (fake, store) = fake().await;
    fake.fail(Kind::Put, usize::MAX, Fault::Refuse(403, "AccessDenied"));
    let error = put(&store, "k", &Bytes::from_static(b"x"), PLAIN).await.expect_err("denied");
    assert_eq!(error.kind, ErrorKind::Denied);
    assert!(
        error.to_string().contains("let the access key list, read, write and delete"),
        "{error}"
    );
    assert_eq!(fake.count(Kind::Put), 1);
}

#[tokio::test]
async fn silence_ends_in_time_and_is_tried_again() {
    let (fake, store) = impatient().await;
    put(&store, "k", &Bytes::from_static(b"x"), PLAIN).await.expect("put");
    fake.fail(Kind::Head, 1, Fault::Silent);
    assert_eq!(store.head(&key("k")).await.expect("the second attempt").size_bytes, 1);
    fake.fail(Kind::Head, usize::MAX, Fault::Silent);
    let error = store.head(&key("k")).await.expect_err("it never answers");
    assert_eq!(error.kind, ErrorKind::Timeout);
    assert!(error.to_string().ends_with("no answer within `400ms`, 5 attempts"), "{error}");
}

#[tokio::test]
async fn a_put_if_absent_whose_answer_is_lost_knows_its_own_object() {
    for fault in [Fault::DoneButFailed, Fault::DoneButSilent] {
        let (fake, store) = impatient().await;
        fake.fail(Kind::Put, 1, fault);
        put(&store, "k", &Bytes::from_static(b"mine"), IF_ABSENT)
            .await
            .expect("the first attempt took effect");
        assert_eq!(fake.count(Kind::Put), 2, "{fault:?}");
        let error =
            put(&store, "k", &Bytes::from_static(b"other"), IF_ABSENT).await.expect_err("taken");
        assert_eq!(error.kind, ErrorKind::AlreadyExists);
        assert_eq!(content(&store, "k").await, "mine");
    }
}

#[tokio::test]
async fn a_put_if_absent_that_comes_second_is_refused_after_a_failed_attempt_too() {
    let (fake, store) = fake().await;
    put(&store, "k", &Bytes::from_static(b"theirs"), PLAIN).await.expect("put");
    fake.fail(Kind::Put, 1, Fault::Refuse(500, "InternalError"));
    let error = put(&store, "k", &Bytes::from_static(b"mine"), IF_ABSENT).await.expect_err("taken");
    assert_eq!(error.kind, ErrorKind::AlreadyExists);
    assert_eq!(content(&store, "k").await, "theirs");
}

#[tokio::test]
async fn a_conflict_of_conditional_puts_is_tried_again() {
    let (fake, store) = fake().await;
    fake.fail(Kind::Put, 2, Fault::Refuse(409, "ConditionalRequestConflict"));
    put(&store, "k", &Bytes::from_static(b"x"), IF_ABSENT).await.expect("the third attempt");
    assert_eq!(fake.count(Kind::Put), 3);
}

#[tokio::test]
async fn a_read_that_breaks_goes_on_where_it_was() {
    let (fake, store) = impatient().await;
    let bytes = pattern(1_000_000);
    put(&store, "k", &bytes, PLAIN).await.expect("put");
    fake.fail(Kind::Get, 1, Fault::CutAfter(300_000));
    fake.fail(Kind::Get, 1, Fault::StallAfter(100_000));
    fake.fail(Kind::Get, 1, Fault::Refuse(503, "SlowDown"));
    assert!(content(&store, "k").await == bytes, "other bytes");

    let ranges: Vec<_> = fake
        .seen()
        .into_iter()
        .filter(|seen| seen.kind == Kind::Get)
        .map(|seen| seen.range)
        .collect();
    let second = Some("bytes=300000-".to_owned());
    let last = Some("bytes=400000-".to_owned());
    assert_eq!(ranges, [None, second, last.clone(), last]);
}

#[tokio::test]
async fn a_read_that_breaks_never_goes_on_in_another_version() {
    let (fake, store) = fake().await;
    put(&store, "k", &pattern(1_000_000), PLAIN).await.expect("put");
    fake.fail(Kind::Get, 1, Fault::CutAfter(300_000));
    let object = store.get(&key("k")).await.expect("get");
    put(&store, "k", &pattern(1_000_000), PLAIN).await.expect("put");
    let error =
        read(object).await.map(|bytes| bytes.len()).expect_err("the rest is of another version");
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert!(error.to_string().contains("`k` was replaced or deleted"), "{error}");
}

#[tokio::test]
async fn a_read_that_makes_no_progress_ends() {
    let (fake, store) = fake().await;
    put(&store, "k", &pattern(1_000), PLAIN).await.expect("put");
    fake.fail(Kind::Get, usize::MAX, Fault::CutAfter(0));
    let object = store.get(&key("k")).await.expect("get");
    let error = read(object).await.map(|bytes| bytes.len()).expect_err("it never gets anywhere");
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert_eq!(fake.count(Kind::Get), 5);
}

#[tokio::test]
async fn a_wrong_clock_and_a_wrong_region_are_named() {
    let (fake, store) = fake().await;
    fake.fail(Kind::Get, 1, Fault::Refuse(403, "RequestTimeTooSkewed"));
    let error = store.get(&key("k")).await.expect_err("skewed");
    assert!(
        error.kind == ErrorKind::Denied
            && error.to_string().contains("the clock of this machine is wrong"),
        "{error}"
    );
    fake.fail(Kind::Get, 1, Fault::Refuse(400, "AuthorizationHeaderMalformed"));

    let error = store.get(&key("k")).await.expect_err("another region");
    assert!(
        error.kind == ErrorKind::Denied
            && error.to_string().ends_with("; set region to `eu-north-7`"),
        "{error}"
    );
}

#[tokio::test]
async fn a_changed_secret_file_is_read_again_when_the_store_refuses_the_old_one() {
    let (fake, _) = fake().await;
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("secret");
    std::fs::write(&file, "an old secret\n").expect("written");

    let config = S3Config {
        secret_key: None,
        secret_key_file: Some(file.clone()),
        ..crate::support::config(&fake)
    };

    let store = open(config).await;
    put(&store, "k", &Bytes::from_static(b"x"), PLAIN).await.expect("put");
    std::fs::write(&file, SECRET_KEY).expect("written");
    fake.fail(Kind::Head, 1, Fault::Refuse(403, "SignatureDoesNotMatch"));
    store.head(&key("k")).await.expect("with the new secret");
    assert_eq!(fake.count(Kind::Head), 2);

    // Without a change there is nothing to try.
    fake.fail(Kind::Head, usize::MAX, Fault::Refuse(403, "SignatureDoesNotMatch"));
    assert_eq!(store.head(&key("k")).await.expect_err("refused").kind, ErrorKind::Denied);
    assert_eq!(fake.count(Kind::Head), 3);
}

#[tokio::test]
async fn nobody_there_is_said_with_the_endpoint() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
    drop(listener);
    let store =
        open(S3Config { endpoint: Some(endpoint.clone()), attempts: 2, ..crate::support::base() })
            .await;
    let error = store.check().await.expect_err("nobody listens");
    assert_eq!(error.kind, ErrorKind::Unavailable);
    let expected = format!(
        "cannot list bucket `gofer-test` at `{endpoint}`: no connection; does the store run, and \
         is endpoint its address"
    );
    assert_eq!(error.to_string(), expected);
}

#[tokio::test]
async fn check_ends_in_time() {
    let (fake, _) = fake().await;
    fake.fail(Kind::List, usize::MAX, Fault::Silent);
    let config =
        S3Config { check_timeout: Duration::from_millis(300), ..crate::support::config(&fake) };
    let error = open(config).await.check().await.expect_err("it never answers");
    assert_eq!(error.kind, ErrorKind::Timeout);
    assert!(error.to_string().contains("was not checked within `300ms`"), "{error}");
}
