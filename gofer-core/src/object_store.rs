//! The contract of an object store backend.

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use secrecy::SecretString;

use crate::error::BackendError;
use crate::id::ObjectKey;
use crate::time::Timestamp;

/// The bytes of an object on their way in or out.
pub type ByteStream = BoxStream<'static, Result<Bytes, BackendError>>;

/// Keeps bytes under keys.
///
/// Puts are atomic: readers see the whole old or the whole new object, also after a crash. A put
/// whose stream fails or is dropped changes nothing. Memory per transfer is bounded (32 MiB)
/// whatever the object's size.
#[async_trait]
pub trait ObjectStore: Debug + Send + Sync + 'static {
    /// Proves that the store can be read and written, and says in one line what was found.
    ///
    /// # Errors
    /// With the next step for an operator in the message.
    async fn check(&self) -> Result<String, BackendError>;

    /// Stores the stream under the key, replacing what was there. When it returns `Ok`, the object
    /// is durable.
    ///
    /// # Errors
    /// `AlreadyExists` with `if_absent` when the key is taken (of two concurrent puts one wins);
    /// the stream's own error unchanged; or the store's. In every case the key holds what it held
    /// before.
    async fn put(
        &self,
        key: &ObjectKey,
        body: ByteStream,
        options: PutOptions,
    ) -> Result<ObjectMeta, BackendError>;

    /// The object's bytes, as they were when the call was made, even if it is replaced or deleted
    /// meanwhile.
    ///
    /// # Errors
    /// `NotFound`, or the store's.
    async fn get(&self, key: &ObjectKey) -> Result<ObjectBody, BackendError>;

    /// What is known of the object without reading it.
    ///
    /// # Errors
    /// `NotFound`, or the store's.
    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, BackendError>;

    /// Objects whose key starts with `prefix` (any text; empty is all), in key order, after
    /// `page.after`.
    ///
    /// # Errors
    /// The store's.
    async fn list(&self, prefix: &str, page: ListPage) -> Result<ObjectList, BackendError>;

    /// Deletes the object. Deleting what does not exist succeeds.
    ///
    /// # Errors
    /// The store's.
    async fn delete(&self, key: &ObjectKey) -> Result<(), BackendError>;

    /// A URL with which anybody may read or write the object for at most `ttl`; `None` when this
    /// store has no such thing. What is written by it is as atomic and durable as a put. The object
    /// need not exist.
    ///
    /// # Errors
    /// `Invalid` for a `ttl` that this store cannot sign; `Unsupported` when it gives URLs, but
    /// cannot keep to [`UploadTerms::if_absent`]; or the store's.
    async fn presign(
        &self,
        key: &ObjectKey,
        access: Access,
        ttl: Duration,
    ) -> Result<Option<Presigned>, BackendError>;
}

/// How to put.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PutOptions {
    /// Only if the key is free.
    pub if_absent: bool,
}

/// What is known of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Its key.
    pub key: ObjectKey,
    /// Its length.
    pub size_bytes: u64,
    /// When it was put.
    pub modified_at: Timestamp,
    /// SHA-256 of its bytes as the store itself found it; `None` when this store, or this call of
    /// it, does not tell.
    pub sha256: Option<[u8; 32]>,
}

/// An object being read.
pub struct ObjectBody {
    /// What is known of it.
    pub meta: ObjectMeta,
    /// Its bytes.
    pub stream: ByteStream,
}

impl Debug for ObjectBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ObjectBody").field("meta", &self.meta).finish_non_exhaustive()
    }
}

/// Which part of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListPage {
    /// Only keys after this one.
    pub after: Option<String>,
    /// At most this many, 1 to 1,000.
    pub limit: usize,
}

/// A part of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectList {
    /// In key order.
    pub objects: Vec<ObjectMeta>,
    /// Whether there are more after the last.
    pub more: bool,
}

/// What a presigned URL allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// Reading.
    Get {
        /// The name under which a browser saves it, as far as the store can say so: one segment of
        /// an object's key.
        file_name: Option<String>,
    },
    /// Writing.
    Put(UploadTerms),
}

/// What an upload by URL must keep to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UploadTerms {
    /// Only while the key is free, so that the URL writes one object and never replaces it.
    pub if_absent: bool,
    /// The request must announce this length, which is signed, so that the store refuses any other.
    pub size_bytes: Option<u64>,
    /// The bytes must have this SHA-256, in stores that compute it; [`ObjectMeta::sha256`] tells
    /// whether it did.
    pub sha256: Option<[u8; 32]>,
}

/// A URL that needs no credentials, and so is one itself: `Debug` does not show it.
#[derive(Debug, Clone)]
pub struct Presigned {
    /// The URL.
    pub url: SecretString,
    /// Headers that the request must carry as they are, because they are signed, too.
    /// `Content-Length` is not among them, though it may be signed: every client sets it itself.
    pub headers: Vec<(String, String)>,
    /// How long it is good from now; shorter than asked for when the credentials behind it end
    /// sooner.
    pub good_for: Duration,
}
