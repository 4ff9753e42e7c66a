use std::time::Duration;

use async_trait::async_trait;
use gofer_core::error::BackendError;
use gofer_core::id::ObjectKey;
use gofer_core::object_store::{
    Access, ByteStream, ListPage, ObjectBody, ObjectList, ObjectMeta, ObjectStore, Presigned,
    PutOptions,
};

use super::Faulty;

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl ObjectStore for Faulty<dyn ObjectStore> {
    async fn check(&self) -> Result<String, BackendError> {
        self.call("check", self.inner.check()).await
    }

    async fn put(
        &self,
        key: &ObjectKey,
        body: ByteStream,
        options: PutOptions,
    ) -> Result<ObjectMeta, BackendError> {
        self.call("put", self.inner.put(key, body, options)).await
    }

    async fn get(&self, key: &ObjectKey) -> Result<ObjectBody, BackendError> {
        let ObjectBody { meta, stream } = self.call("get", self.inner.get(key)).await?;
        Ok(ObjectBody { meta, stream: self.breaking("get", stream) })
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, BackendError> {
        self.call("head", self.inner.head(key)).await
    }

    async fn list(&self, prefix: &str, page: ListPage) -> Result<ObjectList, BackendError> {
        self.call("list", self.inner.list(prefix, page)).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), BackendError> {
        self.call("delete", self.inner.delete(key)).await
    }

    async fn presign(
        &self,
        key: &ObjectKey,
        access: Access,
        ttl: Duration,
    ) -> Result<Option<Presigned>, BackendError> {
        self.call("presign", self.inner.presign(key, access, ttl)).await
    }
}
