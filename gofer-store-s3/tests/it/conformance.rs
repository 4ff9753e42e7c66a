//! The suite of gofer-core that every object store passes, on the fake with either order of lists.

use std::sync::Arc;

use async_trait::async_trait;
use gofer_conformance::Harness;
use gofer_core::object_store::ObjectStore;
use gofer_store_s3::{S3Config, S3ObjectStore};

use crate::fake::Fake;
use crate::support::{config, open};

struct OnFake {
    fake: Fake,
    store: S3ObjectStore,
}

impl OnFake {
    async fn start(fake: Fake) -> Self {
        let store = open(Self::config(&fake)).await;
        Self { fake, store }
    }

    fn config(fake: &Fake) -> S3Config {
        S3Config { prefix: "some/team-".to_owned(), ..config(fake) }
    }
}

#[async_trait]
impl Harness<dyn ObjectStore> for OnFake {
    fn backend(&self) -> Arc<dyn ObjectStore> {
        Arc::new(self.store.clone())
    }

    async fn restart(&mut self) {
        self.store = open(Self::config(&self.fake)).await;
    }
}

async fn flat() -> OnFake {
    OnFake::start(Fake::start().await).await
}

async fn tree() -> OnFake {
    let fake = Fake::start().await;
    fake.list_as_tree();
    OnFake::start(fake).await
}

mod in_key_order {
    gofer_conformance::object_store_conformance!(super::flat);
}

mod in_tree_order {
    gofer_conformance::object_store_conformance!(super::tree);
}
