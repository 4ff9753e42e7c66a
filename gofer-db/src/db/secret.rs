use std::sync::Arc;

use gofer_core::entity::{SecretRecord, SecretScope};
use gofer_core::object_store::ListPage;
use gofer_core::{SecretPath, Timestamp};

use crate::db::{Db, query, transact};
use crate::error::DbError;
use crate::types::{Page, SecretPutOutcome};

impl Db {
    /// Begins a put: from now on the value that will be written at this fresh location is found by
    /// retention, unless [`Db::secret_put_record`] names it or [`Db::secret_value_forget`] is told
    /// that it is deleted.
    ///
    /// # Errors
    /// The database's.
    pub async fn secret_put_begin(
        &self,
        location: &SecretPath,
        at: Timestamp,
    ) -> Result<(), DbError> {
        let location = location.clone();
        transact!(self, secret_values::begin(&location, at))
    }

    /// Makes the value at the record's location the secret's; it lies in the secret store already.
    /// `updated_by` is the event's actor, and `updated_at` its time; `created_at` counts only for a
    /// new key. Of concurrent puts of one key each sees the one before.
    ///
    /// # Errors
    /// `NotFound` for the pipeline; `AlreadyExists` with `if_absent`; `Unavailable` when the put
    /// was given up because it took too long; or the database's.
    pub async fn secret_put_record(
        &self,
        record: &SecretRecord,
        if_absent: bool,
    ) -> Result<SecretPutOutcome, DbError> {
        let record = record.clone();
        let book = Arc::clone(self.quotas());
        transact!(self, secrets::put(&record, if_absent, &book))
    }

    /// The secret's record.
    ///
    /// # Errors
    /// `NotFound`, or the database's.
    pub async fn secret_get(
        &self,
        scope: &SecretScope,
        key: &str,
    ) -> Result<SecretRecord, DbError> {
        let (scope, key) = (scope.clone(), key.to_owned());
        query!(self, secrets::get(&scope, &key))
    }

    /// Secrets of one scope whose key starts with `prefix`, by key, ascending.
    ///
    /// # Errors
    /// `NotFound` for the pipeline, or the database's.
    pub async fn secret_list(
        &self,
        scope: &SecretScope,
        prefix: &str,
        page: &ListPage,
    ) -> Result<Page<SecretRecord>, DbError> {
        let (scope, prefix, page) = (scope.clone(), prefix.to_owned(), page.clone());
        query!(self, secrets::list(&scope, &prefix, &page))
    }

    /// Records that the value at this location, which no record names, is deleted.
    ///
    /// # Errors
    /// The database's.
    pub async fn secret_value_forget(&self, location: &SecretPath) -> Result<(), DbError> {
        let location = location.clone();
        transact!(self, secret_values::forget(&location))
    }

    /// Removes the record and returns it, so that the caller can delete the value. `None`: there
    /// was none, and nothing is recorded.
    ///
    /// # Errors
    /// The database's.
    pub async fn secret_delete(
        &self,
        scope: &SecretScope,
        key: &str,
        actor: &str,
        at: Timestamp,
    ) -> Result<Option<SecretRecord>, DbError> {
        let (scope, key, actor) = (scope.clone(), key.to_owned(), actor.to_owned());
        transact!(self, secrets::delete(&scope, &key, &actor, at))
    }
}
