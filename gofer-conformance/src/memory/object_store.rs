//! An object store in memory.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt, stream};
use gofer_core::error::{BackendError, ErrorKind};
use gofer_core::id::ObjectKey;
use gofer_core::object_store::{
    Access, ByteStream, ListPage, ObjectBody, ObjectList, ObjectMeta, ObjectStore, Presigned,
    PutOptions,
};
use gofer_core::time::Timestamp;

use super::lock;

/// Bytes of one piece of a body that is read.
const PIECE_BYTES: usize = 64 * 1024;

/// Objects in memory, each in one piece; for tests, so the bound on memory per transfer does not
/// hold.
#[derive(Default)]
pub struct MemoryObjectStore {
    objects: Mutex<BTreeMap<String, (ObjectMeta, Bytes)>>,
}

impl MemoryObjectStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many objects there are.
    #[must_use]
    pub fn len(&self) -> usize {
        lock(&self.objects).len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl std::fmt::Debug for MemoryObjectStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryObjectStore").field("objects", &self.len()).finish()
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl ObjectStore for MemoryObjectStore {
    async fn check(&self) -> Result<String, BackendError> {
        Ok(format!("memory, {} objects", self.len()))
    }

    async fn put(
        &self,
        key: &ObjectKey,
        body: ByteStream,
        options: PutOptions,
    ) -> Result<ObjectMeta, BackendError> {
        let collect = |mut all: BytesMut, piece: Bytes| async move {
            all.extend_from_slice(&piece);
            Ok(all)
        };

        let bytes = body.try_fold(BytesMut::new(), collect).await?.freeze();
        let (size_bytes, modified_at) = (bytes.len() as u64, Timestamp::now());
        let meta = ObjectMeta { key: key.clone(), size_bytes, modified_at, sha256: None };
        let mut objects = lock(&self.objects);

        if options.if_absent && objects.contains_key(key.as_str()) {
            return Err(BackendError::new(
                ErrorKind::AlreadyExists,
                format!("object `{key}` exists already"),
            ));
        }

        objects.insert(key.to_string(), (meta.clone(), bytes));
        Ok(meta)
    }

    async fn get(&self, key: &ObjectKey) -> Result<ObjectBody, BackendError> {
        let (meta, bytes) =
            lock(&self.objects).get(key.as_str()).cloned().ok_or_else(|| not_found(key))?;
        let pieces = (0..bytes.len()).step_by(PIECE_BYTES);
        let pieces =
            pieces.map(move |start| Ok(bytes.slice(start..bytes.len().min(start + PIECE_BYTES))));
        Ok(ObjectBody { meta, stream: stream::iter(pieces).boxed() })
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, BackendError> {
        lock(&self.objects)
            .get(key.as_str())
            .map(|(meta, _)| meta.clone())
            .ok_or_else(|| not_found(key))
    }

    async fn list(&self, prefix: &str, page: ListPage) -> Result<ObjectList, BackendError> {
        let objects = lock(&self.objects);
        let start = page.after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut matching = objects
            .range::<str, _>((start, Bound::Unbounded))
            .filter(|(key, _)| key.starts_with(prefix))
            .map(|(_, (meta, _))| meta.clone());
        let found = matching.by_ref().take(page.limit).collect();
        Ok(ObjectList { objects: found, more: matching.next().is_some() })
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), BackendError> {
        lock(&self.objects).remove(key.as_str());
        Ok(())
    }

    async fn presign(
        &self,
        _: &ObjectKey,
        _: Access,
        _: Duration,
    ) -> Result<Option<Presigned>, BackendError> {
        Ok(None)
    }
}

fn not_found(key: &ObjectKey) -> BackendError {
    BackendError::new(ErrorKind::NotFound, format!("object `{key}` does not exist"))
}
