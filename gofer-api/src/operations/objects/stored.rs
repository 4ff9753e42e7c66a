//! Objects that are there: opened and deleted.

use gofer_core::entity::{ObjectRecord, ObjectScope};
use gofer_core::id::ObjectKey;
use gofer_core::object_store::{ObjectBody, ObjectStore};
use gofer_core::{ErrorKind, Resource, Timestamp};
use gofer_db::Db;

use crate::config::Limits;
use crate::error::ApiError;

/// How often a read begins anew because the object was replaced between looking it up and opening
/// it.
const READ_ATTEMPTS: usize = 5;

/// What operations on objects work with, for one call.
#[derive(Debug)]
pub(crate) struct Objects<'a> {
    pub(crate) db: &'a Db,
    pub(crate) store: &'a dyn ObjectStore,
    pub(crate) limits: &'a Limits,
    /// The actor of events.
    pub(crate) actor: String,
}

/// An object that was recorded, and the keys that went for it, the oldest first.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RecordedObject {
    pub(crate) record: ObjectRecord,
    pub(crate) evicted_keys: Vec<String>,
}

impl Objects<'_> {
    /// The record, and the bytes it names.
    pub(crate) async fn open(
        &self,
        scope: &ObjectScope,
        key: &ObjectKey,
    ) -> Result<(ObjectRecord, ObjectBody), ApiError> {
        for _ in 0..READ_ATTEMPTS {
            let record = self.db.object_get(scope, key).await?;
            match self.store.get(&record.location).await {
                Ok(body) => return Ok((record, body)),
                // Replaced since its record was read.
                Err(error) if error.kind == ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(ApiError::ContentLost { what: Resource::Object, key: key.to_string() })
    }

    /// Removes an object; returns whether there was one.
    pub(crate) async fn delete(
        &self,
        scope: &ObjectScope,
        key: &ObjectKey,
    ) -> Result<bool, ApiError> {
        let removed = self.db.object_delete(scope, key, &self.actor, Timestamp::now()).await?;
        if let Some(removed) = &removed {
            self.forget(&removed.location).await;
        }
        Ok(removed.is_some())
    }

    /// Deletes bytes that no record names any more. They are never seen again; what cannot be
    /// deleted now costs only room.
    pub(super) async fn forget(&self, location: &ObjectKey) {
        if let Err(error) = self.store.delete(location).await {
            tracing::warn!(%location, error = %error.chain(), "an object's old bytes are still stored");
        }
    }

    /// How many objects the pipeline keeps; those of a run go with the run.
    pub(super) fn keep(&self, scope: &ObjectScope) -> Option<u64> {
        scope.run.is_none().then_some(self.limits.pipeline_objects)
    }
}
