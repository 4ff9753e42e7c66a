//! What the tests share.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt, stream};
use gofer_core::object_store::{ByteStream, ObjectBody, ObjectStore, PutOptions};
use gofer_core::{BackendError, ObjectKey};
use gofer_store_s3::{S3Config, S3ObjectStore};

use crate::fake::{ACCESS_KEY, BUCKET, Fake, SECRET_KEY};

pub(crate) const PLAIN: PutOptions = PutOptions { if_absent: false };
pub(crate) const IF_ABSENT: PutOptions = PutOptions { if_absent: true };
/// S3's smallest part.
pub(crate) const PART_BYTES: usize = 5 * 1024 * 1024;

/// Settings for the fake's bucket.
pub(crate) fn config(fake: &Fake) -> S3Config {
    S3Config { endpoint: Some(fake.endpoint()), ..base() }
}

/// Settings without an endpoint: short timeouts where a test waits for them.
pub(crate) fn base() -> S3Config {
    S3Config {
        bucket: BUCKET.to_owned(),
        access_key: Some(ACCESS_KEY.to_owned()),
        secret_key: Some(SECRET_KEY.into()),
        part_size: PART_BYTES as u64,
        ..S3Config::default()
    }
}

pub(crate) async fn open(config: S3Config) -> S3ObjectStore {
    S3ObjectStore::connect(config).await.expect("connect")
}

/// A fake and a store on it.
pub(crate) async fn fake() -> (Fake, S3ObjectStore) {
    let fake = Fake::start().await;
    let store = open(config(&fake)).await;
    (fake, store)
}

/// The same, with a store that soon finds an answer late.
pub(crate) async fn impatient() -> (Fake, S3ObjectStore) {
    let fake = Fake::start().await;
    let store =
        open(S3Config { request_timeout: Duration::from_millis(400), ..config(&fake) }).await;
    (fake, store)
}

pub(crate) fn key(text: &str) -> ObjectKey {
    ObjectKey::new(text).expect("a valid key")
}

/// A body in these pieces.
pub(crate) fn body<I>(pieces: I) -> ByteStream
where
    I: IntoIterator<Item = Bytes>,
    I::IntoIter: Send + 'static,
{
    stream::iter(pieces.into_iter().map(Ok)).boxed()
}

/// Bytes that differ at each place.
pub(crate) fn pattern(length: usize) -> Bytes {
    let mut bytes = BytesMut::with_capacity(length + 8);
    let mut state = 1_u64;
    while bytes.len() < length {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&state.to_be_bytes());
    }
    bytes.truncate(length);
    bytes.freeze()
}

pub(crate) async fn put(
    store: &dyn ObjectStore,
    name: &str,
    bytes: &Bytes,
    options: PutOptions,
) -> Result<(), BackendError> {
    let meta = store.put(&key(name), body([bytes.clone()]), options).await?;
    assert_eq!(meta.size_bytes, bytes.len() as u64);
    Ok(())
}

pub(crate) async fn content(store: &dyn ObjectStore, name: &str) -> Bytes {
    read(store.get(&key(name)).await.expect("get")).await.expect("the object's bytes")
}

pub(crate) async fn read(object: ObjectBody) -> Result<Bytes, BackendError> {
    let pieces = object.stream.try_fold(BytesMut::new(), |mut all, piece| async move {
        all.extend_from_slice(&piece);
        Ok(all)
    });
    Ok(pieces.await?.freeze())
}

/// An HTTP client that knows nothing of S3.
pub(crate) fn plain_client() -> reqwest::Client {
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    reqwest::Client::builder().no_proxy().tls_backend_preconfigured(tls).build().expect("a client")
}
