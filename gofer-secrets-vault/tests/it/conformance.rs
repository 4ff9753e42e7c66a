//! The suite of gofer-core that every secret store passes: on the fake, and on the real server.

use std::sync::Arc;

use async_trait::async_trait;
use gofer_conformance::Harness;
use gofer_core::secret_store::SecretStore;
use gofer_secrets_vault::{VaultConfig, VaultSecretStore};

use crate::fake::Fake;
use crate::real::Real;
use crate::support::open;

/// A store, and how to open it again; `server` lives as long.
struct Opened<S> {
    config: VaultConfig,
    store: VaultSecretStore,
    _server: S,
}

impl<S> Opened<S> {
    async fn new(config: VaultConfig, server: S) -> Self {
        Self { store: open(config.clone()).await, config, _server: server }
    }
}

#[async_trait]
impl<S: Send + Sync> Harness<dyn SecretStore> for Opened<S> {
    fn backend(&self) -> Arc<dyn SecretStore> {
        Arc::new(self.store.clone())
    }

    async fn restart(&mut self) {
        self.store = open(self.config.clone()).await;
    }
}

async fn on_fake() -> Opened<Fake> {
    let server = Fake::start().await;
    Opened::new(server.approle(), server).await
}

async fn on_real() -> Option<Opened<Real>> {
    let server = Real::find("conformance of gofer-secrets-vault on a real server")?;
    Some(Opened::new(server.config(), server).await)
}

mod fake {
    gofer_conformance::secret_store_conformance!(super::on_fake);
}

mod real {
    gofer_conformance::secret_store_conformance!(optional super::on_real);
}
