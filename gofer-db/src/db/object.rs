use std::sync::Arc;

use gofer_core::entity::{ObjectRecord, ObjectScope};
use gofer_core::object_store::ListPage;
use gofer_core::{ObjectKey, Resource, Timestamp};

use crate::db::{Db, query, transact};
use crate::error::DbError;
use crate::types::{
    CompletedUpload, ObjectPut, ObjectPutOutcome, ObjectUpload, Page, UploadedObject,
};

impl Db {
    /// Records an object whose bytes lie in the store, replacing what had the key. Of concurrent
    /// puts of one key each sees the one before.
    ///
    /// # Errors
    /// `NotFound` for the pipeline or the run; `AlreadyExists` with `if_absent`; `Quota` when the
    /// namespace has no room for it; or the database's.
    pub async fn object_put_record(
        &self,
        record: &ObjectRecord,
        put: ObjectPut,
        actor: &str,
    ) -> Result<ObjectPutOutcome, DbError> {
        let (record, actor) = (record.clone(), actor.to_owned());
        let book = Arc::clone(self.quotas());
        transact!(self, objects::put(&record, put, &actor, &book))
    }

    /// The object's record.
    ///
    /// # Errors
    /// `NotFound`, or the database's.
    pub async fn object_get(
        &self,
        scope: &ObjectScope,
        key: &ObjectKey,
    ) -> Result<ObjectRecord, DbError> {
        let (scope, wanted) = (scope.clone(), key.clone());
        let found: Result<Option<ObjectRecord>, DbError> =
            query!(self, objects::find(&scope, &wanted));
        found?.ok_or_else(|| DbError::not_found(Resource::Object, key))
    }

    /// Objects of one scope whose key starts with `prefix`, by key, ascending.
    ///
    /// # Errors
    /// `NotFound` for the pipeline, or the database's.
    pub async fn object_list(
        &self,
        scope: &ObjectScope,
        prefix: &str,
        page: &ListPage,
    ) -> Result<Page<ObjectRecord>, DbError> {
        let (scope, prefix, page) = (scope.clone(), prefix.to_owned(), page.clone());
        query!(self, objects::list(&scope, &prefix, &page))
    }

    /// Removes the record and returns it, so that the caller can delete the bytes. `None`: there
    /// was none, and nothing is recorded.
    ///
    /// # Errors
    /// The database's.
    pub async fn object_delete(
        &self,
        scope: &ObjectScope,
        key: &ObjectKey,
        actor: &str,
        at: Timestamp,
    ) -> Result<Option<ObjectRecord>, DbError> {
        let (scope, key, actor) = (scope.clone(), key.clone(), actor.to_owned());
        transact!(self, objects::delete(&scope, &key, &actor, at))
    }

    /// Begins an upload by URL. While it is open, `reserved_bytes` count as used by the namespace.
    ///
    /// # Errors
    /// `NotFound` for the pipeline or the run; `AlreadyExists` with `if_absent`; `Conflict` when
    /// too many are open; `Quota` when the namespace has no room for it; or the database's.
    pub async fn upload_begin(
        &self,
        upload: &ObjectUpload,
        reserved_bytes: u64,
        at: Timestamp,
    ) -> Result<(), DbError> {
        let (upload, book) = (upload.clone(), Arc::clone(self.quotas()));
        transact!(self, uploads::begin(&upload, reserved_bytes, at, &book))
    }

    /// The upload, if it is of this scope.
    ///
    /// # Errors
    /// `NotFound`, or the database's.
    pub async fn upload_get(&self, scope: &ObjectScope, id: &str) -> Result<ObjectUpload, DbError> {
        let (scope, id) = (scope.clone(), id.to_owned());
        query!(self, uploads::find(&scope, &id))
    }

    /// Records what was uploaded as an object, as [`Db::object_put_record`] does. Doing so again
    /// changes nothing and gives the same.
    ///
    /// # Errors
    /// `NotFound` for the upload, also when it was given up, for the pipeline or the run;
    /// `AlreadyExists` with `if_absent`; or the database's.
    pub async fn upload_complete(
        &self,
        scope: &ObjectScope,
        id: &str,
        found: &UploadedObject,
        actor: &str,
    ) -> Result<CompletedUpload, DbError> {
        let (scope, id, found, actor) =
            (scope.clone(), id.to_owned(), found.clone(), actor.to_owned());
        let book = Arc::clone(self.quotas());
        transact!(self, uploads::complete(&scope, &id, &found, &actor, &book))
    }

    /// Makes sure that the upload is never completed, unless it is already; returns whether this
    /// did it. Only then may its bytes be deleted.
    ///
    /// # Errors
    /// `NotFound`, or the database's.
    pub async fn upload_give_up(&self, scope: &ObjectScope, id: &str) -> Result<bool, DbError> {
        let (scope, id) = (scope.clone(), id.to_owned());
        transact!(self, uploads::give_up(&scope, &id))
    }
}
