use gofer_core::SecretPath;
use gofer_core::object_store::ListPage;

use crate::db::{Db, query, transact};
use crate::error::DbError;
use crate::types::{LocalSecret, Page};

/// The table of `gofer-secrets-local`. Values are opaque here, and no events are written: the API
/// writes them with [`Db::secret_put_record`].
impl Db {
    /// Stores a ciphertext under a path, replacing what was there.
    ///
    /// # Errors
    /// `AlreadyExists` with `if_absent` (of two concurrent puts one wins), or the database's.
    pub async fn local_secret_put(
        &self,
        path: &SecretPath,
        secret: &LocalSecret,
        if_absent: bool,
    ) -> Result<(), DbError> {
        let (path, secret) = (path.clone(), secret.clone());
        transact!(self, local_secrets::put(&path, &secret, if_absent))
    }

    /// The ciphertext.
    ///
    /// # Errors
    /// `NotFound`, or the database's.
    pub async fn local_secret_get(&self, path: &SecretPath) -> Result<LocalSecret, DbError> {
        let path = path.clone();
        query!(self, local_secrets::get(&path))
    }

    /// Paths that start with `prefix`, ascending.
    ///
    /// # Errors
    /// The database's.
    pub async fn local_secret_list(
        &self,
        prefix: &str,
        page: &ListPage,
    ) -> Result<Page<SecretPath>, DbError> {
        let (prefix, page) = (prefix.to_owned(), page.clone());
        query!(self, local_secrets::list(&prefix, &page))
    }

    /// Deletes; returns whether there was anything.
    ///
    /// # Errors
    /// The database's.
    pub async fn local_secret_delete(&self, path: &SecretPath) -> Result<bool, DbError> {
        let path = path.clone();
        transact!(self, local_secrets::delete(&path))
    }

    /// Secrets encrypted with another key than this one, by path, ascending: what a key rotation
    /// still has to rewrite.
    ///
    /// # Errors
    /// The database's.
    pub async fn local_secret_list_stale(
        &self,
        key_id: &str,
        page: &ListPage,
    ) -> Result<Page<(SecretPath, LocalSecret)>, DbError> {
        let (key_id, page) = (key_id.to_owned(), page.clone());
        query!(self, local_secrets::list_stale(&key_id, &page))
    }

    /// Replaces `from` by `to` if `from` is still there; returns whether it was. A put in between
    /// wins.
    ///
    /// # Errors
    /// The database's.
    pub async fn local_secret_rewrite(
        &self,
        path: &SecretPath,
        from: &LocalSecret,
        to: &LocalSecret,
    ) -> Result<bool, DbError> {
        let (path, from, to) = (path.clone(), from.clone(), to.clone());
        transact!(self, local_secrets::rewrite(&path, &from, &to))
    }
}
