use gofer_core::Timestamp;
use gofer_core::entity::{SecretRecord, SecretScope};
use gofer_core::object_store::ListPage;

use crate::db::{Db, query, transact};
use crate::error::DbError;
use crate::types::Page;

impl Db {
    /// Records that a secret was put; its value is in the secret store. `updated_by` is the event's actor, and
    /// `updated_at` its time; `created_at` counts only for a new key. Returns the record as it is now.
    ///
    /// # Errors
    /// `NotFound` for the pipeline; `AlreadyExists` with `if_absent`; or the database's.
    pub async fn secret_put_record(&self, record: &SecretRecord, if_absent: bool) -> Result<SecretRecord, DbError> {
        let record = record.clone();
        transact!(self, secrets::put(&record, if_absent))
    }

    /// The secret's record.
    ///
    /// # Errors
    /// `NotFound`, or the database's.
    pub async fn secret_get(&self, scope: &SecretScope, key: &str) -> Result<SecretRecord, DbError> {
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

    /// Removes the record; `None`: there was none, and nothing is recorded.
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
