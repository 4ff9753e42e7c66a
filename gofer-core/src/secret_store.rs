//! The contract of a secret store backend.

use std::fmt::Debug;

use async_trait::async_trait;
use secrecy::SecretString;

use crate::error::BackendError;
use crate::id::SecretPath;
use crate::object_store::{ListPage, PutOptions};

/// Longest secret value: Vault's default request limit is far above, an environment variable's is
/// 128 KiB.
pub const MAX_SECRET_BYTES: usize = 64 * 1024;

/// Keeps secret values under paths. Values are UTF-8 text, of 0 to [`MAX_SECRET_BYTES`] bytes, and
/// survive unchanged. No value ever appears in an error, a log or a `Debug`.
#[async_trait]
pub trait SecretStore: Debug + Send + Sync + 'static {
    /// Proves that the store can be used with the key or credentials at hand, and says in one line
    /// what was found.
    ///
    /// # Errors
    /// With the next step for an operator in the message.
    async fn check(&self) -> Result<String, BackendError>;

    /// Stores the value, replacing what was there. When it returns `Ok`, the value is durable.
    ///
    /// # Errors
    /// `AlreadyExists` with `if_absent` when the path is taken (of two concurrent puts one wins),
    /// or the store's.
    async fn put(
        &self,
        path: &SecretPath,
        value: &SecretString,
        options: PutOptions,
    ) -> Result<(), BackendError>;

    /// The value.
    ///
    /// # Errors
    /// `NotFound`; `Corrupt` when it cannot be decrypted; or the store's.
    async fn get(&self, path: &SecretPath) -> Result<SecretString, BackendError>;

    /// Paths that start with `prefix` (any text; empty is all), in order, after `page.after`. Never
    /// values.
    ///
    /// # Errors
    /// The store's.
    async fn list(&self, prefix: &str, page: ListPage) -> Result<SecretList, BackendError>;

    /// Deletes every version of the value. Deleting what does not exist succeeds.
    ///
    /// # Errors
    /// The store's.
    async fn delete(&self, path: &SecretPath) -> Result<(), BackendError>;
}

/// A part of a list of secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretList {
    /// In order.
    pub paths: Vec<SecretPath>,
    /// Whether there are more after the last.
    pub more: bool,
}
