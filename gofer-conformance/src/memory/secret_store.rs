//! A secret store in memory.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Mutex;

use async_trait::async_trait;
use gofer_core::error::{BackendError, ErrorKind};
use gofer_core::id::SecretPath;
use gofer_core::object_store::{ListPage, PutOptions};
use gofer_core::secret_store::{MAX_SECRET_BYTES, SecretList, SecretStore};
use secrecy::{ExposeSecret, SecretString};

use super::lock;

/// Secrets in memory, in clear.
#[derive(Debug, Default)]
pub struct MemorySecretStore {
    values: Mutex<BTreeMap<SecretPath, SecretString>>,
}

impl MemorySecretStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl SecretStore for MemorySecretStore {
    async fn check(&self) -> Result<String, BackendError> {
        Ok(format!("memory, {} secrets", lock(&self.values).len()))
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
                "secret `{path}` has {length} bytes; at most {MAX_SECRET_BYTES} are allowed"
            );
            return Err(BackendError::new(ErrorKind::Invalid, message));
        }

        let mut values = lock(&self.values);
        if options.if_absent && values.contains_key(path) {
            return Err(BackendError::new(
                ErrorKind::AlreadyExists,
                format!("secret `{path}` exists already"),
            ));
        }

        values.insert(path.clone(), value.clone());
        Ok(())
    }

    async fn get(&self, path: &SecretPath) -> Result<SecretString, BackendError> {
        let missing =
            || BackendError::new(ErrorKind::NotFound, format!("secret `{path}` does not exist"));
        lock(&self.values).get(path).cloned().ok_or_else(missing)
    }

    async fn list(&self, prefix: &str, page: ListPage) -> Result<SecretList, BackendError> {
        let values = lock(&self.values);
        let start = page.after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut matching = values
            .range::<str, _>((start, Bound::Unbounded))
            .map(|(path, _)| path)
            .filter(|path| path.as_str().starts_with(prefix));
        let paths = matching.by_ref().take(page.limit).cloned().collect();
        Ok(SecretList { paths, more: matching.next().is_some() })
    }

    async fn delete(&self, path: &SecretPath) -> Result<(), BackendError> {
        lock(&self.values).remove(path);
        Ok(())
    }
}
