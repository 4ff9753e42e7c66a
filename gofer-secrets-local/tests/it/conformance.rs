//! The suite of gofer-core that every secret store passes, on both engines.

use std::sync::Arc;

use async_trait::async_trait;
use gofer_conformance::Harness;
use gofer_core::secret_store::SecretStore;
use gofer_db::{DatabaseUrl, Db, DbConfig};
use gofer_secrets_local::{LocalSecretStore, LocalSecretsConfig};
use tempfile::TempDir;

use crate::database::TestDatabase;

struct Local {
    dir: TempDir,
    config: DbConfig,
    open: Option<(Db, LocalSecretStore)>,
    /// Dropped, with the database, when the case is over.
    _database: Option<TestDatabase>,
}

impl Local {
    async fn new(config: DbConfig, dir: TempDir, database: Option<TestDatabase>) -> Self {
        let mut local = Self { dir, config, open: None, _database: database };
        local.restart().await;
        local
    }
}

#[async_trait]
impl Harness<dyn SecretStore> for Local {
    fn backend(&self) -> Arc<dyn SecretStore> {
        Arc::new(self.open.as_ref().expect("it is open").1.clone())
    }

    async fn restart(&mut self) {
        if let Some((db, _)) = self.open.take() {
            db.close().await;
        }
        let db = Db::connect(self.config.clone()).await.unwrap();
        let config = LocalSecretsConfig::new(self.dir.path().join("secrets.key"));
        let store = LocalSecretStore::connect(config, db.clone()).await.unwrap();
        self.open = Some((db, store));
    }
}

async fn on_sqlite() -> Local {
    let dir = tempfile::tempdir().unwrap();
    Local::new(DbConfig::sqlite(dir.path().join("gofer.db")), dir, None).await
}

async fn on_postgres() -> Option<Local> {
    let database = TestDatabase::create("conformance of gofer-secrets-local on PostgreSQL").await?;
    let config = DbConfig { url: Some(DatabaseUrl::new(database.url())), ..DbConfig::default() };
    Some(Local::new(config, tempfile::tempdir().unwrap(), Some(database)).await)
}

mod sqlite {
    gofer_conformance::secret_store_conformance!(super::on_sqlite);
}

mod postgres {
    gofer_conformance::secret_store_conformance!(optional super::on_postgres);
}
