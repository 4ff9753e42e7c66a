use async_trait::async_trait;
use gofer_core::error::BackendError;
use gofer_core::id::SecretPath;
use gofer_core::object_store::{ListPage, PutOptions};
use gofer_core::secret_store::{SecretList, SecretStore};
use secrecy::SecretString;

use super::Faulty;

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl SecretStore for Faulty<dyn SecretStore> {
    async fn check(&self) -> Result<String, BackendError> {
        self.call("check", self.inner.check()).await
    }

    async fn put(
        &self,
        path: &SecretPath,
        value: &SecretString,
        options: PutOptions,
    ) -> Result<(), BackendError> {
        self.call("put", self.inner.put(path, value, options)).await
    }

    async fn get(&self, path: &SecretPath) -> Result<SecretString, BackendError> {
        self.call("get", self.inner.get(path)).await
    }

    async fn list(&self, prefix: &str, page: ListPage) -> Result<SecretList, BackendError> {
        self.call("list", self.inner.list(prefix, page)).await
    }

    async fn delete(&self, path: &SecretPath) -> Result<(), BackendError> {
        self.call("delete", self.inner.delete(path)).await
    }
}
