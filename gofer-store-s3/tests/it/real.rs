//! The same on a real store, when one is named.

use std::env;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream};
use gofer_conformance::{Harness, skip};
use gofer_core::ErrorKind;
use gofer_core::object_store::{ListPage, ObjectStore};
use gofer_store_s3::{S3Config, S3ObjectStore};

use crate::support::{IF_ABSENT, PART_BYTES, PLAIN, content, key, open, pattern, put};

struct Real {
    config: S3Config,
    store: S3ObjectStore,
}

/// Settings for the store that the environment names, under a prefix of the test's own. `None`,
/// printed, when none is named and none is required.
fn settings() -> Option<S3Config> {
    let Ok(endpoint) = env::var("GOFER_TEST_S3_ENDPOINT") else {
        skip("s3", "gofer-store-s3 on a real store", "GOFER_TEST_S3_ENDPOINT is not set");
        return None;
    };

    let named = |name: &str| {
        env::var(name).unwrap_or_else(|_| panic!("{name} is not set, though the endpoint is"))
    };

    Some(S3Config {
        bucket: named("GOFER_TEST_S3_BUCKET"),
        prefix: format!("gofer-test/{:016x}/", rand::random::<u64>()),
        endpoint: Some(endpoint),
        access_key: Some(named("GOFER_TEST_S3_ACCESS_KEY")),
        secret_key: Some(named("GOFER_TEST_S3_SECRET_KEY").into()),
        part_size: PART_BYTES as u64,
        ..S3Config::default()
    })
}

async fn real() -> Option<Real> {
    let config = settings()?;
    Some(Real { store: open(config.clone()).await, config })
}

#[async_trait]
impl Harness<dyn ObjectStore> for Real {
    fn backend(&self) -> Arc<dyn ObjectStore> {
        Arc::new(self.store.clone())
    }

    async fn restart(&mut self) {
        self.store = open(self.config.clone()).await;
    }
}

mod suite {
    gofer_conformance::object_store_conformance!(optional super::real);
}

#[tokio::test]
async fn a_plain_client_puts_and_gets_with_urls() {
    let Some(real) = real().await else { return };
    crate::presigned::put_and_get(&real.store).await;
    crate::presigned::keeps_to_the_length(&real.store).await;
    let told = crate::presigned::keeps_to_terms(&real.store).await;
    println!("the store tells a checksum: {}", told.is_some());
}

#[tokio::test]
async fn a_large_put_if_absent_is_refused_at_the_completion() {
    let Some(Real { store, .. }) = real().await else { return };
    let racers = (0..4).map(|_| {
        let store = store.clone();
        tokio::spawn(async move {
            put(&store, "k", &pattern(PART_BYTES + 1), IF_ABSENT).await.map_err(|error| error.kind)
        })
    });

    let outcomes: Vec<_> = futures::future::join_all(racers)
        .await
        .into_iter()
        .map(|joined| joined.expect("no panic"))
        .collect();

    // SeaweedFS looks for the key and then completes: of several at the very same moment, two may
    // win. On the fake one does.
    assert!(outcomes.iter().any(Result::is_ok), "{outcomes:?}");
    assert!(
        outcomes
            .iter()
            .all(|outcome| !matches!(outcome, Err(kind) if *kind != ErrorKind::AlreadyExists)),
        "{outcomes:?}"
    );
    assert!(content(&store, "k").await == pattern(PART_BYTES + 1));

    let late =
        put(&store, "k", &pattern(PART_BYTES + 2), IF_ABSENT).await.expect_err("the key is taken");
    assert_eq!(late.kind, ErrorKind::AlreadyExists, "{}", late.chain());
    assert!(content(&store, "k").await == pattern(PART_BYTES + 1));
}

#[tokio::test]
async fn wrong_credentials_and_a_missing_bucket_are_told_apart() {
    let Some(config) = settings() else { return };
    let secret = S3Config { secret_key: Some("wrong-and-private".into()), ..config.clone() };
    let error = open(secret).await.check().await.expect_err("a wrong secret");
    assert_eq!(error.kind, ErrorKind::Denied, "{}", error.chain());
    assert!(
        error.to_string().contains("`SignatureDoesNotMatch`") && !error.chain().contains("private"),
        "{error}"
    );

    let stranger = S3Config { access_key: Some("AKNOBODY".to_owned()), ..config.clone() };
    let error = open(stranger).await.check().await.expect_err("an unknown key");
    assert!(
        error.kind == ErrorKind::Denied && error.to_string().contains("mend access_key"),
        "{}",
        error.chain()
    );

    let elsewhere = S3Config { bucket: "no-such-bucket-here".to_owned(), ..config };
    let error = open(elsewhere).await.check().await.expect_err("no such bucket");
    assert!(
        error.to_string().contains("make the bucket `no-such-bucket-here`"),
        "{}",
        error.chain()
    );
}

#[tokio::test]
async fn every_prefix_survives() {
    let Some(config) = settings() else { return };
    for odd in ["two words/", "ünï/çødé ☃/", "100%/", "%41/", "a+b?c#d&e=f/", "a..b-"] {
        let store =
            open(S3Config { prefix: format!("{}{odd}", config.prefix), ..config.clone() }).await;
        put(&store, "a/b=c+d@e", &Bytes::from_static(b"x"), PLAIN).await.expect("put");
        assert_eq!(content(&store, "a/b=c+d@e").await, "x", "prefix `{odd}`");
        let list = store.list("a/", ListPage { after: None, limit: 10 }).await.expect("list");
        assert_eq!(list.objects.len(), 1, "prefix `{odd}`");
        store.delete(&key("a/b=c+d@e")).await.expect("delete");
        assert_eq!(
            store.head(&key("a/b=c+d@e")).await.expect_err("gone").kind,
            ErrorKind::NotFound
        );
    }
}

/// Prints how fast 1 GiB goes in and out, and the most memory this process had. Run it alone:
/// `cargo test --release -p gofer-store-s3 -- --ignored --exact real::a_gibibyte --nocapture`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "moves 2 GiB"]
async fn a_gibibyte() {
    const PIECES: usize = 16 * 1024;

    let Some(config) = settings() else { return };
    let store = open(S3Config { part_size: S3Config::default().part_size, ..config }).await;
    let piece = pattern(64 * 1024);
    let before = peak_kib();
    let begun = Instant::now();
    let body = stream::iter(std::iter::repeat_n(piece.clone(), PIECES).map(Ok)).boxed();
    let meta = store.put(&key("large"), body, PLAIN).await.expect("put");

    assert_eq!(meta.size_bytes, 1 << 30);
    let after_put = (begun.elapsed(), peak_kib());
    let begun = Instant::now();
    let mut object = store.get(&key("large")).await.expect("get");
    let mut read = 0;

    while let Some(piece) = object.stream.next().await {
        read += piece.expect("bytes").len() as u64;
    }

    assert_eq!(read, 1 << 30);
    let after_get = (begun.elapsed(), peak_kib());
    store.delete(&key("large")).await.expect("delete");
    let speed = |took: Duration| 1024.0 / took.as_secs_f64();
    println!(
        "put {:.0} MiB/s, peak {} KiB more than before",
        speed(after_put.0),
        after_put.1 - before
    );
    println!(
        "get {:.0} MiB/s, peak {} KiB more than before",
        speed(after_get.0),
        after_get.1 - before
    );
    assert!(after_get.1 - before < 64 * 1024, "{} KiB", after_get.1 - before);
}

/// The most memory this process has had.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    line.trim().trim_end_matches(" kB").trim().parse().expect("a number")
}
