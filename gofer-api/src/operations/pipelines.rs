//! Pipelines: registered against the version that a caller has seen, and deleted with all that the
//! stores hold of them.
//!
//! ```text
//! delete:  remove every record (one transaction) -> delete bytes, values, executions, 16 at once
//! ```
//!
//! The transaction decides: before it nothing is gone, after it nothing is seen. What a store keeps
//! because it, or this server, failed after that costs room only.

use std::sync::Arc;

use futures::{StreamExt, stream};
use gofer_core::entity::{Pipeline, PipelineVersion};
use gofer_core::object_store::ObjectStore;
use gofer_core::pipeline::PipelineSpec;
use gofer_core::scheduler::Scheduler;
use gofer_core::secret_store::SecretStore;
use gofer_core::{
    BackendError, ExecutionId, NamespaceId, ObjectKey, PipelineId, SecretPath, Timestamp, Version,
};
use gofer_db::{Db, DbError, DeletedPipeline, Registered, Registration};
use gofer_engine::layout;

use super::secrets;
use crate::error::ApiError;

/// Deletions in the stores at once, when a pipeline goes.
const DELETIONS_AT_ONCE: usize = 16;

/// What operations on pipelines work with, for one call.
#[derive(Debug)]
pub(crate) struct Pipelines<'a> {
    pub(crate) db: &'a Db,
    pub(crate) objects: &'a dyn ObjectStore,
    pub(crate) secrets: &'a dyn SecretStore,
    pub(crate) scheduler: &'a dyn Scheduler,
    /// The actor of events.
    pub(crate) actor: String,
}

/// What a registration did, or would do.
#[derive(Debug)]
pub(crate) struct RegistrationOutcome {
    /// The pipeline as it is now with its latest version's spec; `None` where a plan is of a new
    /// one.
    pub(crate) pipeline: Option<(Pipeline, Arc<PipelineSpec>)>,
    /// The version that the spec has, or would get.
    pub(crate) version: u64,
    /// Whether that is a new one.
    pub(crate) changed: bool,
    /// Of the version before a new one.
    pub(crate) before: Option<Arc<PipelineSpec>>,
}

impl Pipelines<'_> {
    /// What registering would do.
    pub(crate) async fn plan(
        &self,
        registration: &Registration,
    ) -> Result<RegistrationOutcome, ApiError> {
        let latest = self.checked_latest(registration).await?;
        let changed = latest.as_ref().is_none_or(|latest| latest.digest != registration.digest);
        let latest_number = latest.as_ref().map_or(0, |latest| latest.version.0);
        let before = latest.as_ref().map(|latest| latest.spec.clone());
        let pipeline = match latest {
            Some(latest) => {
                let (namespace, id) = (&registration.namespace, &registration.spec.name);
                Some((self.db.pipeline_get(namespace, id).await?, latest.spec))
            }
            None => None,
        };

        let version = if changed { latest_number + 1 } else { latest_number };
        Ok(RegistrationOutcome { pipeline, version, changed, before })
    }

    /// Registers the spec, as a new version unless it is the latest one's.
    pub(crate) async fn register(
        &self,
        registration: &Registration,
    ) -> Result<RegistrationOutcome, ApiError> {
        self.checked_latest(registration).await?;
        let registered =
            self.db.pipeline_register(registration.clone(), &self.actor, Timestamp::now()).await;
        let Registered { pipeline, version, changed } = match registered {
            Err(conflict @ DbError::Conflict { .. }) => {
                // Somebody registered since the check above.
                self.checked_latest(registration).await?;
                return Err(conflict.into());
            }
            registered => registered?,
        };

        let before = if changed { self.version_before(&version).await? } else { None };
        Ok(RegistrationOutcome {
            pipeline: Some((pipeline, version.spec)),
            version: version.version.0,
            changed,
            before,
        })
    }

    /// The latest version, if it is the one that the caller has seen.
    async fn checked_latest(
        &self,
        registration: &Registration,
    ) -> Result<Option<PipelineVersion>, ApiError> {
        let (namespace, id) = (&registration.namespace, &registration.spec.name);
        let latest = existing(self.db.pipeline_version_get(namespace, id, None).await)?;
        let number = latest.as_ref().map_or(0, |latest| latest.version.0);
        match registration.expected_version {
            Some(Version(expected)) if expected != number => {
                Err(ApiError::VersionConflict { expected, latest: number })
            }
            _ => Ok(latest),
        }
    }

    /// The version before, whichever that was when this one was committed.
    async fn version_before(
        &self,
        version: &PipelineVersion,
    ) -> Result<Option<Arc<PipelineSpec>>, ApiError> {
        let Some(before) = version.version.0.checked_sub(1).filter(|before| *before > 0) else {
            return Ok(None);
        };
        let (namespace, id) = (&version.namespace, &version.pipeline);
        let found = self.db.pipeline_version_get(namespace, id, Some(Version(before))).await;
        Ok(existing(found)?.map(|before| before.spec))
    }

    /// Deletes a pipeline with its runs, objects, secrets and logs.
    pub(crate) async fn delete(
        &self,
        namespace: &NamespaceId,
        id: &PipelineId,
    ) -> Result<(), ApiError> {
        let left = self.db.pipeline_delete(namespace, id, &self.actor, Timestamp::now()).await?;

        // The pipeline is gone even where a store refuses; what it keeps costs room and is never
        // seen again.
        let failures = self.clear_stores(left).await;
        if failures > 0 {
            tracing::warn!(%namespace, pipeline = %id, failures,
                "parts of a deleted pipeline are still stored");
        }

        Ok(())
    }

    /// Deletes what the stores hold of a deleted pipeline, and counts what could not be deleted.
    async fn clear_stores(&self, left: DeletedPipeline) -> usize {
        let DeletedPipeline { objects, secrets, archived_logs, live_logs } = left;
        let objects = objects.into_iter().map(|object| Leftover::Bytes(object.location));
        let logs = archived_logs.iter().map(|id| Leftover::Bytes(layout::log_location(id)));
        let executions = live_logs.into_iter().map(Leftover::Execution);
        let values = secrets.into_iter().map(|secret| Leftover::Value(secret.location));
        let all: Vec<Leftover> = objects.chain(logs).chain(executions).chain(values).collect();

        let deletions = all.into_iter().map(|leftover| self.clear(leftover));
        let outcomes = stream::iter(deletions).buffer_unordered(DELETIONS_AT_ONCE);
        outcomes.filter(|outcome| std::future::ready(outcome.is_err())).count().await
    }

    async fn clear(&self, leftover: Leftover) -> Result<(), BackendError> {
        match leftover {
            Leftover::Bytes(location) => self.objects.delete(&location).await,
            Leftover::Value(location) => {
                secrets::delete_value(self.db, self.secrets, &location).await
            }
            Leftover::Execution(id) => self.scheduler.remove(&id).await,
        }
    }
}

/// Something a store still holds of a deleted pipeline.
enum Leftover {
    Bytes(ObjectKey),
    Value(SecretPath),
    Execution(ExecutionId),
}

fn existing<T>(found: Result<T, DbError>) -> Result<Option<T>, ApiError> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(DbError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use gofer_conformance::{Faulty, MemoryObjectStore, MemoryScheduler, MemorySecretStore};
    use gofer_core::entity::{ObjectScope, SecretRecord, SecretScope};
    use gofer_core::object_store::PutOptions;
    use secrecy::ExposeSecret;

    use super::*;
    use crate::operations::testing::{
        FAILS, TAKES_TIME, die_at, namespace, register, settle, sqlite,
    };

    /// A pipeline with an object and a secret.
    async fn furnish(db: &Db, objects: &MemoryObjectStore, secrets: &MemorySecretStore, id: &str) {
        use gofer_core::entity::ObjectRecord;

        let pipeline = register(db, id).await;
        let scope = ObjectScope { namespace: namespace(), pipeline: pipeline.clone(), run: None };
        let location = layout::object_location(&scope);
        let bytes = stream::iter([Ok("bytes".into())]).boxed();
        objects.put(&location, bytes, PutOptions::default()).await.unwrap();
        let record = ObjectRecord {
            scope,
            key: ObjectKey::new("k").unwrap(),
            location,
            size_bytes: 5,
            sha256: String::new(),
            created_at: Timestamp::now(),
        };
        db.object_put_record(&record, gofer_db::ObjectPut { if_absent: true, keep: None }, "test")
            .await
            .unwrap();

        let scope = SecretScope::Pipeline(namespace(), pipeline);
        let record = SecretRecord {
            location: layout::secret_location(&scope, "k").unwrap(),
            scope,
            key: "k".to_owned(),
            allowed_namespaces: Vec::new(),
            updated_by: "test".to_owned(),
            created_at: Timestamp::now(),
            updated_at: Timestamp::now(),
        };
        super::secrets::put(db, secrets, &record, &"value".into(), true).await.unwrap();
    }

    /// Whether all of it is there; the alternative is nothing of it.
    async fn is_whole(
        db: &Db,
        objects: &MemoryObjectStore,
        secrets: &MemorySecretStore,
        id: &str,
    ) -> bool {
        let pipeline = PipelineId::new(id).unwrap();
        let scope = ObjectScope { namespace: namespace(), pipeline: pipeline.clone(), run: None };
        let is_there = existing(db.pipeline_get(&namespace(), &pipeline).await).unwrap().is_some();
        let object = existing(db.object_get(&scope, &ObjectKey::new("k").unwrap()).await).unwrap();
        assert_eq!(object.is_some(), is_there, "{id}");
        if let Some(object) = object {
            objects.head(&object.location).await.unwrap();
        }

        let scope = SecretScope::Pipeline(namespace(), pipeline);
        let secret = super::secrets::get(db, secrets, &scope, "k").await;
        assert_eq!(secret.is_ok(), is_there, "{id}: {secret:?}");
        if let Ok((_, value)) = secret {
            assert_eq!(value.expose_secret(), "value");
        }
        is_there
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_deletion_that_dies_anywhere_has_deleted_all_or_nothing() {
        let files = tempfile::tempdir().unwrap();
        let db = sqlite(files.path()).await;
        let (objects, secrets) =
            (Arc::new(MemoryObjectStore::new()), Arc::new(MemorySecretStore::new()));
        let scheduler = MemoryScheduler::new();

        for wait in 0.. {
            let id = format!("p{wait}");
            furnish(&db, &objects, &secrets, &id).await;
            assert!(is_whole(&db, &objects, &secrets, &id).await);

            let slow_objects: Faulty<dyn ObjectStore> = Faulty::new(objects.clone(), 1, TAKES_TIME);
            let slow_secrets: Faulty<dyn SecretStore> = Faulty::new(secrets.clone(), 1, TAKES_TIME);
            let pipelines = Pipelines {
                db: &db,
                objects: &slow_objects,
                secrets: &slow_secrets,
                scheduler: &scheduler,
                actor: "test".to_owned(),
            };

            let pipeline = PipelineId::new(id.clone()).unwrap();
            let done = die_at(wait, pipelines.delete(&namespace(), &pipeline)).await;
            settle(&db).await;
            let is_there = is_whole(&db, &objects, &secrets, &id).await;
            if let Some(outcome) = done {
                outcome.unwrap();
                assert!(!is_there);
                assert!(wait > 1, "it waits for the database and the stores, not {wait} times");
                break;
            }
        }

        db.close().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_deletion_whose_stores_fail_counts() {
        let files = tempfile::tempdir().unwrap();
        let db = sqlite(files.path()).await;
        let (objects, secrets) =
            (Arc::new(MemoryObjectStore::new()), Arc::new(MemorySecretStore::new()));
        furnish(&db, &objects, &secrets, "ci").await;

        let failing_objects: Faulty<dyn ObjectStore> = Faulty::new(objects.clone(), 1, FAILS);
        let failing_secrets: Faulty<dyn SecretStore> = Faulty::new(secrets.clone(), 1, FAILS);
        let scheduler = MemoryScheduler::new();
        let pipelines = Pipelines {
            db: &db,
            objects: &failing_objects,
            secrets: &failing_secrets,
            scheduler: &scheduler,
            actor: "test".to_owned(),
        };

        let pipeline = PipelineId::new("ci").unwrap();
        pipelines.delete(&namespace(), &pipeline).await.unwrap();
        assert!(!is_whole(&db, &objects, &secrets, "ci").await);

        // What was left behind is nothing of a pipeline that is made again.
        register(&db, "ci").await;
        let scope = ObjectScope { namespace: namespace(), pipeline, run: None };
        let object = db.object_get(&scope, &ObjectKey::new("k").unwrap()).await;
        assert!(matches!(object, Err(DbError::NotFound { .. })), "{object:?}");
        db.close().await;
    }
}
