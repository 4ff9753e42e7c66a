//! A server's object store and secret store: those in memory, with faults.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use gofer_conformance::{MemoryObjectStore, MemorySecretStore};
use gofer_core::object_store::{
    Access, ByteStream, ListPage, ObjectBody, ObjectList, ObjectMeta, ObjectStore, Presigned,
    PutOptions,
};
use gofer_core::secret_store::{SecretList, SecretStore};
use gofer_core::{BackendError, ObjectKey, SecretPath};
use secrecy::SecretString;

use crate::link::Link;
use crate::world::Part;

#[derive(Debug)]
pub(crate) struct SimObjects {
    pub(crate) link: Arc<Link>,
    pub(crate) stored: Arc<MemoryObjectStore>,
}

#[async_trait]
impl ObjectStore for SimObjects {
    async fn check(&self) -> Result<String, BackendError> {
        self.stored.check().await
    }

    async fn put(
        &self,
        key: &ObjectKey,
        body: ByteStream,
        options: PutOptions,
    ) -> Result<ObjectMeta, BackendError> {
        let effect = self.stored.put(key, body, options);
        self.link.call(Part::Objects, &format!("put {key}"), effect).await
    }

    async fn get(&self, key: &ObjectKey) -> Result<ObjectBody, BackendError> {
        self.link.call(Part::Objects, &format!("get {key}"), self.stored.get(key)).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, BackendError> {
        self.link.call(Part::Objects, &format!("head {key}"), self.stored.head(key)).await
    }

    async fn list(&self, prefix: &str, page: ListPage) -> Result<ObjectList, BackendError> {
        self.link.call(Part::Objects, "list", self.stored.list(prefix, page)).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), BackendError> {
        self.link.call(Part::Objects, &format!("delete {key}"), self.stored.delete(key)).await
    }

    async fn presign(
        &self,
        key: &ObjectKey,
        access: Access,
        ttl: Duration,
    ) -> Result<Option<Presigned>, BackendError> {
        self.stored.presign(key, access, ttl).await
    }
}

#[derive(Debug)]
pub(crate) struct SimSecrets {
    pub(crate) link: Arc<Link>,
    pub(crate) stored: Arc<MemorySecretStore>,
}

#[async_trait]
impl SecretStore for SimSecrets {
    async fn check(&self) -> Result<String, BackendError> {
        self.stored.check().await
    }

    async fn put(
        &self,
        path: &SecretPath,
        value: &SecretString,
        options: PutOptions,
    ) -> Result<(), BackendError> {
        let effect = self.stored.put(path, value, options);
        self.link.call(Part::Secrets, &format!("put secret {path}"), effect).await
    }

    async fn get(&self, path: &SecretPath) -> Result<SecretString, BackendError> {
        self.link.call(Part::Secrets, &format!("get secret {path}"), self.stored.get(path)).await
    }

    async fn list(&self, prefix: &str, page: ListPage) -> Result<SecretList, BackendError> {
        self.stored.list(prefix, page).await
    }

    async fn delete(&self, path: &SecretPath) -> Result<(), BackendError> {
        self.link
            .call(Part::Secrets, &format!("delete secret {path}"), self.stored.delete(path))
            .await
    }
}
