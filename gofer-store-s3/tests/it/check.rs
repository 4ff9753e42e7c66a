//! What `check` finds, and what it leaves.

use gofer_core::ErrorKind;
use gofer_core::object_store::ObjectStore;
use gofer_store_s3::S3Config;

use crate::fake::{Fault, Kind};
use crate::support::{IF_ABSENT, config, fake, open, put};

#[tokio::test]
async fn check_uses_everything_once_and_leaves_nothing_of_its_own() {
    let (fake, store) = fake().await;
    let found = store.check().await.expect("check");
    assert_eq!(found, format!("bucket `gofer-test` at `{}` is writable", fake.endpoint()));

    for kind in [
        Kind::List,
        Kind::Put,
        Kind::Get,
        Kind::Delete,
        Kind::Begin,
        Kind::Part,
        Kind::Complete,
        Kind::Abort,
    ] {
        assert!(fake.count(kind) > 0, "{kind:?} was not tried");
    }

    assert_eq!(fake.keys(), ["~gofer-order/a-b", "~gofer-order/a/b"]);
    fake.no_upload_is_left().await;
}

#[tokio::test]
async fn a_check_that_fails_leaves_nothing_either() {
    let (fake, store) = fake().await;
    fake.fail(Kind::Get, usize::MAX, Fault::Refuse(403, "AccessDenied"));
    let error = store.check().await.expect_err("reading is denied");
    assert_eq!(error.kind, ErrorKind::Denied);
    assert!(error.to_string().starts_with("cannot read `~gofer-check/"), "{error}");
    assert!(fake.keys().is_empty(), "{:?}", fake.keys());
    fake.heal();
    fake.fail(Kind::Part, usize::MAX, Fault::Refuse(403, "AccessDenied"));
    store.check().await.expect_err("uploading is denied");
    fake.no_upload_is_left().await;
}

#[tokio::test]
async fn a_store_that_ignores_conditions_is_found_out() {
    let (fake, store) = fake().await;
    fake.ignore_conditions();
    let error = store.check().await.expect_err("puts of absent objects would replace");
    assert_eq!(error.kind, ErrorKind::Unsupported);
    assert!(
        error
            .to_string()
            .contains("ignores `If-None-Match` on a put; update it, or set conditional_writes"),
        "{error}"
    );

    // Said beforehand, it is no fault; but nothing is promised that cannot be kept.
    let store = open(S3Config { conditional_writes: false, ..config(&fake) }).await;
    store.check().await.expect("check");
    let error = put(&store, "k", &bytes::Bytes::new(), IF_ABSENT).await.expect_err("no such thing");
    assert_eq!(error.kind, ErrorKind::Unsupported);
}

#[tokio::test]
async fn a_bucket_that_is_not_there_and_a_key_that_is_unknown_are_named() {
    let (fake, _) = fake().await;
    let store = open(S3Config { bucket: "no-such-bucket".to_owned(), ..config(&fake) }).await;
    let error = store.check().await.expect_err("no such bucket");
    let expected = format!(
        "cannot list bucket `no-such-bucket` at `{}`: the store answers 404 `NoSuchBucket` (The \
         fake says no); make the bucket `no-such-bucket`, or mend bucket",
        fake.endpoint()
    );

    assert_eq!(error.to_string(), expected);
    let store = open(S3Config { access_key: Some("AKNOBODY".to_owned()), ..config(&fake) }).await;
    let error = store.check().await.expect_err("no such key");
    assert_eq!(error.kind, ErrorKind::Denied);
    assert!(
        error.to_string().ends_with("it does not know the access key: mend access_key"),
        "{error}"
    );
    assert!(!error.chain().contains("nobody-knows"), "{}", error.chain());
}
