//! What is left of an object when a store fails, or the server dies wherever it waits.

use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use gofer_conformance::{Faults, Faulty, MemoryObjectStore};
use gofer_core::entity::ObjectScope;
use gofer_core::id::ObjectKey;
use gofer_core::object_store::{ObjectStore, PutOptions};
use gofer_core::{PipelineId, Timestamp};
use gofer_db::{Db, ObjectUpload, UploadState};
use gofer_engine::layout;

use super::stored::RecordedObject;
use super::*;
use crate::auth::Standing;
use crate::config::Limits;
use crate::error::ApiError;
use crate::operations::disk::FreeDisk;
use crate::operations::testing::{
    FAILS, LOSES_ITS_ANSWER, TAKES_TIME, die_at, namespace, register, sqlite,
};

struct Site {
    db: Db,
    inner: Arc<MemoryObjectStore>,
    limits: Limits,
    pipeline: PipelineId,
    _files: tempfile::TempDir,
}

impl Site {
    async fn new() -> Self {
        let files = tempfile::tempdir().unwrap();
        let db = sqlite(files.path()).await;
        let pipeline = register(&db, "ci").await;
        let (inner, limits) = (Arc::new(MemoryObjectStore::new()), Limits::default());
        Self { db, inner, limits, pipeline, _files: files }
    }

    fn objects<'a>(&'a self, store: &'a dyn ObjectStore) -> Objects<'a> {
        Objects { db: &self.db, store, limits: &self.limits, actor: "test".to_owned() }
    }

    fn faulty(&self, faults: Faults) -> Faulty<dyn ObjectStore> {
        Faulty::new(self.inner.clone() as Arc<dyn ObjectStore>, 1, faults)
    }

    fn scope(&self) -> ObjectScope {
        ObjectScope { namespace: namespace(), pipeline: self.pipeline.clone(), run: None }
    }

    async fn put(
        &self,
        store: &dyn ObjectStore,
        key: &ObjectKey,
        pieces: Vec<Result<&'static str, ApiError>>,
    ) -> Result<RecordedObject, ApiError> {
        let (scope, key) = (self.scope(), key.clone());
        let new = NewObject { scope, key, size_bytes: None, if_absent: false };
        let room =
            UploadRoom { disk: Arc::new(FreeDisk::new(Vec::new(), 0)), arriving: Arc::default() };
        let pieces = pieces.into_iter().map(|piece| piece.map(Bytes::from));
        let pieces = stream::iter(pieces).boxed();
        self.objects(store).put(new, pieces, &room, &Standing::default()).await
    }

    /// What the object holds; its record and its bytes agree.
    async fn read(&self, key: &ObjectKey) -> String {
        let (record, body) = self.objects(&*self.inner).open(&self.scope(), key).await.unwrap();
        let bytes: Vec<Bytes> = body.stream.try_collect().await.unwrap();
        let bytes = bytes.concat();
        assert_eq!(record.size_bytes, bytes.len() as u64);
        String::from_utf8(bytes).unwrap()
    }
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::new(name).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_that_dies_anywhere_leaves_the_old_object_or_the_new() {
    let site = Site::new().await;
    for wait in 0.. {
        let key = key(&format!("k{wait}"));
        site.put(&*site.inner, &key, vec![Ok("old")]).await.unwrap();

        let slow = site.faulty(TAKES_TIME);
        let put = site.put(&slow, &key, vec![Ok("the "), Ok("new")]);
        let done = die_at(wait, put).await;
        let found = site.read(&key).await;
        match done {
            None => assert!(["old", "the new"].contains(&found.as_str()), "{wait}: {found}"),
            Some(outcome) => {
                outcome.unwrap();
                assert_eq!(found, "the new");
                assert!(wait > 5, "it waits for the database and the store, not {wait} times");
                break;
            }
        }
    }
    site.db.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_that_fails_leaves_the_old_object_whole() {
    let (site, key) = (Site::new().await, key("k"));
    site.put(&*site.inner, &key, vec![Ok("old")]).await.unwrap();

    // The caller breaks off: nothing of it stays.
    let broken = ApiError::CutOff { message: "gone".to_owned() };
    let error = site.put(&*site.inner, &key, vec![Ok("ne"), Err(broken)]).await.unwrap_err();
    assert!(matches!(error, ApiError::CutOff { .. }), "{error:?}");
    assert_eq!((site.read(&key).await.as_str(), site.inner.len()), ("old", 1));

    // The store refuses, or does it and says that it did not.
    for faults in [FAILS, LOSES_ITS_ANSWER] {
        site.put(&site.faulty(faults), &key, vec![Ok("new")]).await.unwrap_err();
        assert_eq!(site.read(&key).await, "old");
    }

    // What cannot be deleted costs room, and the deletion counts.
    let (scope, failing) = (site.scope(), site.faulty(FAILS));
    assert!(site.objects(&failing).delete(&scope, &key).await.unwrap());
    assert!(!site.objects(&failing).delete(&scope, &key).await.unwrap());
    site.objects(&*site.inner).open(&scope, &key).await.map(drop).unwrap_err();
    site.db.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_completion_that_dies_anywhere_is_completed_by_the_next() {
    let site = Site::new().await;
    for wait in 0.. {
        let (scope, key) = (site.scope(), key(&format!("k{wait}")));
        let upload = ObjectUpload {
            id: format!("{wait:032x}"),
            scope: scope.clone(),
            key: key.clone(),
            location: layout::object_location(&scope),
            size_bytes: Some(3),
            sha256: None,
            if_absent: false,
            expires_at: Timestamp::now(),
            state: UploadState::Open,
        };
        site.db.upload_begin(&upload, 3, Timestamp::now()).await.unwrap();
        let bytes = stream::iter([Ok(Bytes::from("new"))]).boxed();
        site.inner.put(&upload.location, bytes, PutOptions::default()).await.unwrap();

        let slow = site.faulty(TAKES_TIME);
        let objects = site.objects(&slow);
        let done = die_at(wait, objects.complete_upload(&scope, &upload.id)).await;
        let again = objects.complete_upload(&scope, &upload.id).await.unwrap();
        assert_eq!(again.record.location, upload.location);
        assert_eq!(site.read(&key).await, "new");
        if let Some(outcome) = done {
            assert_eq!(outcome.unwrap(), again);
            assert!(wait > 2, "it waits for the database and the store, not {wait} times");
            break;
        }
    }
    site.db.close().await;
}
