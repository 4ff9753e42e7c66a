//! The suite of gofer-core that every object store passes.

use std::sync::Arc;

use async_trait::async_trait;
use gofer_conformance::Harness;
use gofer_core::object_store::ObjectStore;
use gofer_store_local::LocalObjectStore;
use tempfile::TempDir;

use crate::support::open;

struct Local {
    store: LocalObjectStore,
    dir: TempDir,
}

#[async_trait]
impl Harness<dyn ObjectStore> for Local {
    fn backend(&self) -> Arc<dyn ObjectStore> {
        Arc::new(self.store.clone())
    }

    async fn restart(&mut self) {
        self.store = open(self.dir.path()).await;
    }
}

async fn local() -> Local {
    let dir = tempfile::tempdir().unwrap();
    Local { store: open(dir.path()).await, dir }
}

gofer_conformance::object_store_conformance!(super::conformance::local);
