//! Objects and secrets.

use std::fmt::Debug;

use async_trait::async_trait;

use super::JournalError;
use crate::entity::{ObjectRecord, ObjectScope, SecretRecord, SecretScope};
use crate::id::ObjectKey;

/// The records of what tasks refer to by name.
#[async_trait]
pub trait Catalog: Debug + Send + Sync + 'static {
    /// The record of an object.
    async fn object(
        &self,
        scope: &ObjectScope,
        key: &ObjectKey,
    ) -> Result<Option<ObjectRecord>, JournalError>;

    /// The record of a secret. Whoever may read it, and where its value lies, belong together: both
    /// are of one put.
    async fn secret(
        &self,
        scope: &SecretScope,
        key: &str,
    ) -> Result<Option<SecretRecord>, JournalError>;
}
