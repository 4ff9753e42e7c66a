//! The memory implementations as they are.

use std::sync::Arc;

use async_trait::async_trait;
use gofer_conformance::Harness;
use gofer_conformance::journal::JournalFixture;
use gofer_conformance::scheduler::{SchedulerHarness, Workloads};
use gofer_conformance::{
    MemoryJournal, MemoryObjectStore, MemoryScheduler, MemorySecretStore, MemoryWorkloads,
};
use gofer_core::entity::{ObjectRecord, SecretRecord};
use gofer_core::event::Event;
use gofer_core::journal::Journal;
use gofer_core::object_store::ObjectStore;
use gofer_core::pipeline::PipelineSpec;
use gofer_core::quota::QuotaKind;
use gofer_core::scheduler::Scheduler;
use gofer_core::secret_store::SecretStore;
use gofer_core::{NamespaceId, PipelineId, Version};

/// A memory implementation keeps its data as long as anybody holds it, so a restart has nothing to
/// do.
struct Memory<T>(Arc<T>);

#[async_trait]
impl Harness<dyn ObjectStore> for Memory<MemoryObjectStore> {
    fn backend(&self) -> Arc<dyn ObjectStore> {
        self.0.clone()
    }

    async fn restart(&mut self) {}
}

#[async_trait]
impl Harness<dyn SecretStore> for Memory<MemorySecretStore> {
    fn backend(&self) -> Arc<dyn SecretStore> {
        self.0.clone()
    }

    async fn restart(&mut self) {}
}

async fn objects() -> Memory<MemoryObjectStore> {
    Memory(Arc::new(MemoryObjectStore::new()))
}

async fn secrets() -> Memory<MemorySecretStore> {
    Memory(Arc::new(MemorySecretStore::new()))
}

mod object_store {
    gofer_conformance::object_store_conformance!(super::objects);
}

mod secret_store {
    gofer_conformance::secret_store_conformance!(super::secrets);
}

struct MemoryExecutions {
    scheduler: MemoryScheduler,
    workloads: MemoryWorkloads,
}

#[async_trait]
impl Harness<dyn Scheduler> for MemoryExecutions {
    fn backend(&self) -> Arc<dyn Scheduler> {
        Arc::new(self.scheduler.clone())
    }

    async fn restart(&mut self) {}
}

impl SchedulerHarness for MemoryExecutions {
    fn workloads(&self) -> &dyn Workloads {
        &self.workloads
    }
}

async fn executions() -> MemoryExecutions {
    let scheduler = MemoryScheduler::new();
    MemoryExecutions { workloads: MemoryWorkloads(scheduler.clone()), scheduler }
}

mod scheduler {
    gofer_conformance::scheduler_conformance!(super::executions);
}

#[async_trait]
impl JournalFixture for Memory<MemoryJournal> {
    async fn add_namespace(&self, _: &NamespaceId) {}

    async fn add_pipeline(&self, namespace: &NamespaceId, spec: PipelineSpec) -> Version {
        self.0.add_pipeline(namespace, spec, true)
    }

    async fn set_pipeline_enabled(
        &self,
        namespace: &NamespaceId,
        pipeline: &PipelineId,
        enabled: bool,
    ) {
        self.0.set_pipeline_enabled(namespace, pipeline, enabled);
    }

    async fn set_quota(&self, namespace: &NamespaceId, quota: QuotaKind, limit: u64) {
        self.0.set_quota(namespace, quota, limit);
    }

    async fn put_object_record(&self, record: ObjectRecord) {
        self.0.put_object_record(record);
    }

    async fn put_secret_record(&self, record: SecretRecord) {
        self.0.put_secret_record(record);
    }

    async fn events(&self, after: u64) -> Vec<Event> {
        self.0.events().into_iter().filter(|event| event.id > after).collect()
    }
}

#[async_trait]
impl Harness<dyn Journal> for Memory<MemoryJournal> {
    fn backend(&self) -> Arc<dyn Journal> {
        self.0.clone()
    }

    async fn restart(&mut self) {}
}

async fn runs() -> Memory<MemoryJournal> {
    Memory(Arc::new(MemoryJournal::new()))
}

mod journal {
    gofer_conformance::journal_conformance!(super::runs);
}
