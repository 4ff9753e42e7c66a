//! Shared by the tests: a database, a key file beside it, and shorthands.

use std::path::PathBuf;

use gofer_core::SecretPath;
use gofer_core::object_store::{ListPage, PutOptions};
use gofer_core::secret_store::SecretStore;
use gofer_core::{BackendError, ErrorKind};
use gofer_db::{Db, DbConfig};
use gofer_secrets_local::{LocalSecretStore, LocalSecretsConfig};
use secrecy::ExposeSecret;
use tempfile::TempDir;

/// A SQLite database and the place of a key file.
pub(crate) struct Place {
    pub(crate) dir: TempDir,
    pub(crate) db: Db,
}

impl Place {
    pub(crate) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::connect(DbConfig::sqlite(dir.path().join("gofer.db"))).await.unwrap();
        Self { dir, db }
    }

    pub(crate) fn key_file(&self) -> PathBuf {
        self.dir.path().join("keys/secrets.key")
    }

    pub(crate) async fn connect(&self) -> Result<LocalSecretStore, BackendError> {
        LocalSecretStore::connect(LocalSecretsConfig::new(self.key_file()), self.db.clone()).await
    }

    pub(crate) async fn open(&self) -> LocalSecretStore {
        self.connect().await.unwrap()
    }

    /// Lines of the key file that are keys.
    pub(crate) fn key_lines(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.key_file()).unwrap();
        text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    }

    /// Ids in the key file, newest first.
    pub(crate) fn key_ids(&self) -> Vec<String> {
        self.key_lines().iter().map(|line| line.split(':').next().unwrap().to_owned()).collect()
    }

    /// Paths of rows that are encrypted with another key than this.
    pub(crate) async fn rows_without(&self, key_id: &str) -> Vec<String> {
        let page = ListPage { after: None, limit: 1000 };
        let rows = self.db.local_secret_list_stale(key_id, &page).await.unwrap();
        rows.items.into_iter().map(|(path, _)| path.to_string()).collect()
    }
}

pub(crate) fn path(text: &str) -> SecretPath {
    SecretPath::new(text).unwrap()
}

pub(crate) async fn put(store: &LocalSecretStore, name: &str, value: &str) {
    store.put(&path(name), &value.into(), PutOptions::default()).await.unwrap();
}

pub(crate) async fn get(store: &LocalSecretStore, name: &str) -> String {
    store.get(&path(name)).await.unwrap().expose_secret().to_owned()
}

/// Asserts that it is `Corrupt`, and gives the whole text.
pub(crate) fn corrupt<T: std::fmt::Debug>(result: Result<T, BackendError>) -> String {
    let error = result.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Corrupt, "{}", error.chain());
    error.chain()
}
