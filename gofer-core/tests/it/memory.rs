//! The memory implementations as they are.

use std::sync::Arc;

use async_trait::async_trait;
use gofer_core::conformance::Harness;
use gofer_core::conformance::scheduler::{SchedulerHarness, Workloads};
use gofer_core::object_store::ObjectStore;
use gofer_core::scheduler::Scheduler;
use gofer_core::secret_store::SecretStore;
use gofer_core::testing::{MemoryObjectStore, MemoryScheduler, MemorySecretStore, MemoryWorkloads};

/// A memory implementation keeps its data as long as anybody holds it, so a restart has nothing to do.
struct Memory<T: ?Sized>(Arc<T>);

#[async_trait]
impl<T: ?Sized + Send + Sync + 'static> Harness<T> for Memory<T> {
    fn backend(&self) -> Arc<T> {
        self.0.clone()
    }

    async fn restart(&mut self) {}
}

async fn objects() -> Memory<dyn ObjectStore> {
    Memory(Arc::new(MemoryObjectStore::new()))
}

async fn secrets() -> Memory<dyn SecretStore> {
    Memory(Arc::new(MemorySecretStore::new()))
}

mod object_store {
    gofer_core::object_store_conformance!(super::objects);
}

mod secret_store {
    gofer_core::secret_store_conformance!(super::secrets);
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
    gofer_core::scheduler_conformance!(super::executions);
}
