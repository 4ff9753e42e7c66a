//! `LocalSecretStore`: encrypted rows, read and written with the newest keys of the file.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use gofer_core::object_store::{ListPage, PutOptions};
use gofer_core::secret_store::{MAX_SECRET_BYTES, SecretList, SecretStore};
use gofer_core::{BackendError, ErrorKind, SecretPath};
use gofer_db::{Db, DbError, LocalSecret};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::{Mutex, RwLock};

use crate::canary::{CANARY, CANARY_VALUE};
use crate::config::LocalSecretsConfig;
use crate::error::{blocking, damaged, joined, key_file_missing, key_missing};
use crate::key::Key;
use crate::key_file;
use crate::key_ring::KeyRing;

/// How many rows are looked at in one go where their ciphertexts come along, of at most 64 KiB
/// each.
pub(crate) const ROWS_PER_PAGE: usize = 100;

/// Keeps secrets encrypted in Gofer's database. Cloning shares the store.
#[derive(Clone)]
pub struct LocalSecretStore {
    pub(crate) db: Db,
    pub(crate) key_file: PathBuf,
    /// A reader or writer of a row holds this for reading until the database has answered. A
    /// rotation needs it for writing, so it never takes away a key in use.
    pub(crate) keys: Arc<RwLock<KeyRing>>,
    /// Held by a rotation.
    pub(crate) rotating: Arc<Mutex<()>>,
}

impl std::fmt::Debug for LocalSecretStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalSecretStore").field("key_file", &self.key_file).finish_non_exhaustive()
    }
}

impl LocalSecretStore {
    /// Opens the store; makes the key file on the very first start.
    ///
    /// # Errors
    /// `Denied` when others can read the key file. `Corrupt` when it is missing, damaged, or does
    /// not belong to the database's secrets. Else the database's.
    pub async fn connect(config: LocalSecretsConfig, db: Db) -> Result<Self, BackendError> {
        let key_file = config.absolute_key_file()?;
        let stored = find(&db, &canary()).await?;
        let keys = read_or_create(&key_file, stored).await?;
        let (keys, rotating) = (Arc::new(RwLock::new(keys)), Arc::new(Mutex::new(())));
        let store = Self { db, key_file, keys, rotating };
        store.check_canary().await?;
        Ok(store)
    }

    /// Decrypts the row that proves that key file and database belong together, or makes it.
    async fn check_canary(&self) -> Result<(), BackendError> {
        let path = canary();
        if find(&self.db, &path).await?.is_none() {
            match self.write(&path, &CANARY_VALUE.into(), true).await {
                // Another process was faster; its key decides.
                Err(error) if error.kind == ErrorKind::AlreadyExists => {}
                result => result?,
            }
        }
        self.read(&path).await.map(drop)
    }

    async fn write(
        &self,
        path: &SecretPath,
        value: &SecretString,
        if_absent: bool,
    ) -> Result<(), BackendError> {
        let keys = Arc::clone(&self.keys).read_owned().await;
        let key = keys.newest();
        let secret =
            LocalSecret { key_id: key.id().to_owned(), ciphertext: key.seal(path, value)? };
        let (db, path) = (self.db.clone(), path.clone());

        // In a task of its own: the keys stay locked until the row is written, even if our caller
        // gives up before.
        let written = tokio::spawn(async move {
            let result = db.local_secret_put(&path, &secret, if_absent).await;
            drop(keys);
            result.map_err(|error| match error {
                DbError::AlreadyExists { .. } => BackendError::new(
                    ErrorKind::AlreadyExists,
                    format!("secret `{path}` exists already"),
                ),
                error => error.into(),
            })
        });

        joined(written.await)
    }

    async fn read(&self, path: &SecretPath) -> Result<SecretString, BackendError> {
        match self.read_with_known_keys(path).await? {
            Ok(value) => Ok(value),
            // Another process may have rotated the keys.
            Err(_) => {
                self.reload_keys().await?;
                let missing =
                    |key_id: String, known| key_missing(path, &key_id, &self.key_file, known);
                let found = self.read_with_known_keys(path).await?;
                let known = self.keys.read().await.ids();
                found.map_err(|key_id| missing(key_id, &known))
            }
        }
    }

    /// The value, or the id of the key that is missing.
    async fn read_with_known_keys(
        &self,
        path: &SecretPath,
    ) -> Result<Result<SecretString, String>, BackendError> {
        let keys = self.keys.read().await;
        let Some(row) = find(&self.db, path).await? else {
            return Err(BackendError::new(
                ErrorKind::NotFound,
                format!("secret `{path}` does not exist"),
            ));
        };
        match keys.find(&row.key_id) {
            None => Ok(Err(row.key_id)),
            Some(key) => match key.open(path, &row.ciphertext) {
                Some(value) => Ok(Ok(value)),
                None => Err(damaged(path, &row.key_id)),
            },
        }
    }

    /// Takes over what the key file holds now.
    pub(crate) async fn reload_keys(&self) -> Result<(), BackendError> {
        let read = self.read_key_file().await?;
        *self.keys.write().await = read;
        Ok(())
    }

    pub(crate) async fn read_key_file(&self) -> Result<KeyRing, BackendError> {
        let key_file = self.key_file.clone();
        let read = blocking(move || key_file::read(&key_file)).await?;
        match read {
            Some(keys) => Ok(keys),
            None => Err(key_file_missing(&self.key_file, self.keys.read().await.newest().id())),
        }
    }

    /// Fails at the first row whose key the file has not.
    async fn check_rows(&self) -> Result<(), BackendError> {
        let keys = self.keys.read().await;
        let mut page = ListPage { after: None, limit: ROWS_PER_PAGE };
        loop {
            let rows = self.db.local_secret_list_stale(keys.newest().id(), &page).await?;
            for (path, row) in rows.items {
                if keys.find(&row.key_id).is_none() {
                    return Err(key_missing(&path, &row.key_id, &self.key_file, &keys.ids()));
                }
            }
            match rows.next {
                Some(next) => page.after = Some(next),
                None => return Ok(()),
            }
        }
    }
}

#[async_trait]
impl SecretStore for LocalSecretStore {
    async fn check(&self) -> Result<String, BackendError> {
        self.reload_keys().await?;
        self.check_canary().await?;
        self.check_rows().await?;
        let keys = self.keys.read().await;
        let mut found =
            format!("key file `{}`, key `{}`", self.key_file.display(), keys.newest().id());
        if keys.len() > 1 {
            let older = keys.len() - 1;
            found.push_str(&format!(
                "; {older} older: a rotation was interrupted, rotate again to finish it"
            ));
        }
        Ok(found)
    }

    async fn put(
        &self,
        path: &SecretPath,
        value: &SecretString,
        options: PutOptions,
    ) -> Result<(), BackendError> {
        let length = value.expose_secret().len();
        if length > MAX_SECRET_BYTES {
            let message = format!(
                "value of secret `{path}`: at most {MAX_SECRET_BYTES} bytes (got {length})"
            );
            return Err(BackendError::new(ErrorKind::Invalid, message));
        }
        if path.as_str() == CANARY {
            let message =
                format!("secret key `{CANARY}` is taken by the store itself; use another");
            return Err(BackendError::new(ErrorKind::Invalid, message));
        }
        self.write(path, value, options.if_absent).await
    }

    async fn get(&self, path: &SecretPath) -> Result<SecretString, BackendError> {
        if path.as_str() == CANARY {
            return Err(BackendError::new(
                ErrorKind::NotFound,
                format!("secret `{path}` does not exist"),
            ));
        }
        self.read(path).await
    }

    async fn list(&self, prefix: &str, page: ListPage) -> Result<SecretList, BackendError> {
        let after =
            page.after.filter(|after| after.as_str() > CANARY).unwrap_or_else(|| CANARY.to_owned());
        let found = self
            .db
            .local_secret_list(prefix, &ListPage { after: Some(after), limit: page.limit })
            .await?;
        Ok(SecretList { more: found.next.is_some(), paths: found.items })
    }

    async fn delete(&self, path: &SecretPath) -> Result<(), BackendError> {
        if path.as_str() != CANARY {
            self.db.local_secret_delete(path).await?;
        }
        Ok(())
    }
}

fn canary() -> SecretPath {
    SecretPath::new(CANARY).expect("a valid path")
}

async fn find(db: &Db, path: &SecretPath) -> Result<Option<LocalSecret>, BackendError> {
    match db.local_secret_get(path).await {
        Ok(row) => Ok(Some(row)),
        Err(DbError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

async fn read_or_create(
    key_file: &Path,
    stored: Option<LocalSecret>,
) -> Result<KeyRing, BackendError> {
    let key_file = key_file.to_path_buf();
    blocking(move || {
        if let Some(keys) = key_file::read(&key_file)? {
            return Ok(keys);
        }

        if let Some(row) = stored {
            return Err(key_file_missing(&key_file, &row.key_id));
        }

        let keys = KeyRing::of(Key::generate()?);
        if key_file::create(&key_file, &keys)? {
            return Ok(keys);
        }

        // Another process has just made it.
        key_file::read(&key_file)?.ok_or_else(|| key_file_missing(&key_file, "?"))
    })
    .await
}
