//! Secrets. Values lie in the secret store, each at a location of its own; a record in the database
//! names the one that counts, together with who may read it.
//!
//! ```text
//! put:     list the fresh location -> write the value -> have the record name it, list the old one -> delete the old value
//! delete:  remove the record, list its location -> delete the value
//! ```
//!
//! What is listed and not named, retention deletes later. So a server may die after any step.

use gofer_core::entity::{SecretRecord, SecretScope};
use gofer_core::object_store::PutOptions;
use gofer_core::secret_store::SecretStore;
use gofer_core::{BackendError, ErrorKind, Resource, SecretPath, Timestamp};
use gofer_db::{Db, DbError};
use secrecy::SecretString;

use crate::error::ApiError;

/// How often a read begins again because the secret was put between looking it up and reading its
/// value.
const READ_ATTEMPTS: usize = 5;

/// Stores a value. The old value stays with the old record until the new record names the new
/// value. Without this, a crash between the two stores would leave the new value under the old
/// record's list of namespaces, which may be wider.
pub(crate) async fn put(
    db: &Db,
    store: &dyn SecretStore,
    record: &SecretRecord,
    value: &SecretString,
    if_absent: bool,
) -> Result<SecretRecord, ApiError> {
    // This only spares the work: the transaction of the last step decides.
    if if_absent && exists(db, record).await? {
        return Err(ApiError::AlreadyExists { what: Resource::Secret, key: record.key.clone() });
    }

    db.secret_put_begin(&record.location, record.updated_at).await?;
    store.put(&record.location, value, PutOptions { if_absent: true }).await?;

    let outcome = match db.secret_put_record(record, if_absent).await {
        Ok(outcome) => outcome,
        Err(error) => {
            // Only where it is sure that no record names it. After a lost answer the transaction
            // may have been committed, and deleting the value would lose the secret.
            if matches!(error, DbError::NotFound { .. } | DbError::AlreadyExists { .. }) {
                forget(db, store, &record.location).await;
            }
            return Err(error.into());
        }
    };

    if let Some(replaced) = &outcome.replaced {
        forget(db, store, replaced).await;
    }

    Ok(outcome.record)
}

async fn exists(db: &Db, record: &SecretRecord) -> Result<bool, ApiError> {
    match db.secret_get(&record.scope, &record.key).await {
        Ok(_) => Ok(true),
        Err(DbError::NotFound { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The record and the value it names.
pub(crate) async fn get(
    db: &Db,
    store: &dyn SecretStore,
    scope: &SecretScope,
    key: &str,
) -> Result<(SecretRecord, SecretString), ApiError> {
    for _ in 0..READ_ATTEMPTS {
        let record = db.secret_get(scope, key).await?;
        match store.get(&record.location).await {
            Ok(value) => return Ok((record, value)),
            // Put again since its record was read.
            Err(error) if error.kind == ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(ApiError::ContentLost { what: Resource::Secret, key: key.to_owned() })
}

/// Removes a secret; returns whether there was one.
pub(crate) async fn delete(
    db: &Db,
    store: &dyn SecretStore,
    scope: &SecretScope,
    key: &str,
    actor: &str,
) -> Result<bool, ApiError> {
    let removed = db.secret_delete(scope, key, actor, Timestamp::now()).await?;
    if let Some(removed) = &removed {
        forget(db, store, &removed.location).await;
    }
    Ok(removed.is_some())
}

/// Deletes a value that no record names. What cannot be deleted now is listed, and deleted by
/// retention.
async fn forget(db: &Db, store: &dyn SecretStore, location: &SecretPath) {
    if let Err(error) = delete_value(db, store, location).await {
        tracing::warn!(%location, error = %error.chain(), "the old value of a secret is still \
                                                           stored; retention will delete it");
    }
}

/// Deletes a value that no record names.
pub(crate) async fn delete_value(
    db: &Db,
    store: &dyn SecretStore,
    location: &SecretPath,
) -> Result<(), BackendError> {
    store.delete(location).await?;
    Ok(db.secret_value_forget(location).await?)
}

#[cfg(test)]
mod tests;
