//! The journal's contract, on both engines.

use std::sync::Arc;

use async_trait::async_trait;
use gofer_conformance::Harness;
use gofer_conformance::journal::JournalFixture;
use gofer_core::entity::{ObjectRecord, SecretRecord};
use gofer_core::event::Event;
use gofer_core::journal::Journal;
use gofer_core::pipeline::PipelineSpec;
use gofer_core::quota::QuotaKind;
use gofer_core::{NamespaceId, PipelineId, Timestamp, Version};
use gofer_db::{Db, DbError, EventFilter, ObjectPut, Registration};

use crate::engines::Place;

struct Fixture {
    db: Db,
    place: Place,
}

#[async_trait]
impl Harness<dyn Journal> for Fixture {
    fn backend(&self) -> Arc<dyn Journal> {
        Arc::new(self.db.clone())
    }

    async fn restart(&mut self) {
        self.db.close().await;
        self.db = self.place.open().await;
    }
}

const NOW: Timestamp = Timestamp(1_700_000_000_000_000);

#[async_trait]
impl JournalFixture for Fixture {
    async fn add_namespace(&self, id: &NamespaceId) {
        match self.db.namespace_create(id, "", "test", NOW).await {
            Ok(_) | Err(DbError::AlreadyExists { .. }) => {}
            Err(error) => panic!("{error:?}"),
        }
    }

    async fn add_pipeline(&self, namespace: &NamespaceId, spec: PipelineSpec) -> Version {
        let latest = self
            .db
            .pipeline_get(namespace, &spec.name)
            .await
            .map_or(0, |pipeline| pipeline.latest_version.0);
        let registration = Registration {
            namespace: namespace.clone(),
            spec: Arc::new(spec),
            digest: format!("digest of version {}", latest + 1),
            expected_version: None,
        };

        self.db
            .pipeline_register(registration, "test", NOW)
            .await
            .expect("register")
            .version
            .version
    }

    async fn set_pipeline_enabled(
        &self,
        namespace: &NamespaceId,
        pipeline: &PipelineId,
        enabled: bool,
    ) {
        self.db
            .pipeline_set_enabled(namespace, pipeline, enabled, "test", NOW)
            .await
            .expect("set_enabled");
    }

    async fn set_quota(&self, namespace: &NamespaceId, quota: QuotaKind, limit: u64) {
        self.db.quota_set(namespace, &[(quota, Some(limit))], "test", NOW).await.expect("set");
    }

    async fn put_object_record(&self, record: ObjectRecord) {
        self.db.object_put_record(&record, ObjectPut::default(), "test").await.expect("put");
    }

    async fn put_secret_record(&self, record: SecretRecord) {
        self.db.secret_put_begin(&record.location, record.updated_at).await.expect("begin");
        self.db.secret_put_record(&record, false).await.expect("put");
    }

    async fn events(&self, after: u64) -> Vec<Event> {
        let mut events = Vec::new();
        loop {
            let cursor = events.last().map_or(after, |event: &Event| event.id);
            let page = self
                .db
                .event_list_after(cursor, &EventFilter::default(), 1_000)
                .await
                .expect("list");
            if page.is_empty() {
                return events;
            }
            events.extend(page);
        }
    }
}

async fn sqlite_fixture() -> Fixture {
    let place = Place::sqlite();
    Fixture { db: place.open().await, place }
}

async fn postgres_fixture() -> Option<Fixture> {
    let place = Place::postgres().await?;
    Some(Fixture { db: place.open().await, place })
}

mod sqlite {
    gofer_conformance::journal_conformance!(super::sqlite_fixture);
}

mod postgres {
    gofer_conformance::journal_conformance!(optional super::postgres_fixture);
}
