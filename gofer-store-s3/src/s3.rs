//! The store itself.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use gofer_core::object_store::{
    Access, ByteStream, ListPage, ObjectBody, ObjectList, ObjectMeta, ObjectStore, Presigned,
    PutOptions, UploadTerms,
};
use gofer_core::{BackendError, ErrorKind, ObjectKey};
use tokio::sync::OnceCell;
use tokio::time::timeout;

use crate::client::Client;
use crate::config::{S3Config, invalid};
use crate::operation::{Call, Operation};
use crate::order::{self, Order};
use crate::put::Put;
use crate::{check, list, presign, read, write};

/// Keeps objects in a bucket. Cloning shares the store; any number of servers may share the bucket.
#[derive(Debug, Clone)]
pub struct S3ObjectStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    client: Arc<Client>,
    prefix: String,
    part_bytes: usize,
    check_timeout: Duration,
    conditional_writes: bool,
    /// Found when first needed.
    order: OnceCell<Order>,
}

impl S3ObjectStore {
    /// The store that these settings describe. Finds the credentials, and asks nothing of the
    /// bucket: that is what [`check`](ObjectStore::check) does.
    ///
    /// # Errors
    /// `Invalid` for a setting that breaks its rule, and when there are no credentials.
    pub async fn connect(config: S3Config) -> Result<Self, BackendError> {
        config.validate()?;
        let part_bytes = usize::try_from(config.part_size).map_err(|error| {
            invalid("part_size: is more than this machine can address").with_source(error)
        })?;

        let client = Arc::new(Client::new(&config)?);
        client.signer().await?;
        let S3Config { prefix, check_timeout, conditional_writes, .. } = config;
        let order = OnceCell::new();

        Ok(Self {
            inner: Arc::new(Inner {
                client,
                prefix,
                part_bytes,
                check_timeout,
                conditional_writes,
                order,
            }),
        })
    }

    fn full_key(&self, key: &ObjectKey) -> String {
        format!("{}{key}", self.inner.prefix)
    }

    async fn order(&self) -> Result<Order, BackendError> {
        let Inner { client, prefix, order, .. } = &*self.inner;
        order.get_or_try_init(|| order::find(client, prefix)).await.copied()
    }
}

#[async_trait]
impl ObjectStore for S3ObjectStore {
    async fn check(&self) -> Result<String, BackendError> {
        let Inner { client, prefix, check_timeout, conditional_writes, .. } = &*self.inner;
        let probing = async {
            let found = check::probe(client, prefix, *conditional_writes).await?;
            self.order().await?;
            Ok(found)
        };

        timeout(*check_timeout, probing).await.unwrap_or_else(|_| {
            let bucket = &client.bucket;
            let what = format!(
                "bucket `{}` at `{}` was not checked within `{check_timeout:?}`",
                bucket.name, bucket.endpoint
            );
            let next_step = "does the store run, and is endpoint its address; a slow one needs a \
                             longer check_timeout";
            Err(BackendError::new(ErrorKind::Timeout, format!("{what}; {next_step}")))
        })
    }

    async fn put(
        &self,
        key: &ObjectKey,
        body: ByteStream,
        options: PutOptions,
    ) -> Result<ObjectMeta, BackendError> {
        if options.if_absent && !self.inner.conditional_writes {
            let message =
                "this object store cannot put only if absent: conditional_writes is `false`";
            return Err(BackendError::new(ErrorKind::Unsupported, message));
        }
        let client = Arc::clone(&self.inner.client);
        let put = Put::new(client, self.full_key(key), key, options);
        write::write(put, body, self.inner.part_bytes).await
    }

    async fn get(&self, key: &ObjectKey) -> Result<ObjectBody, BackendError> {
        read::get(Arc::clone(&self.inner.client), self.full_key(key), key).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, BackendError> {
        read::head(&self.inner.client, &self.full_key(key), key).await
    }

    async fn list(&self, prefix: &str, page: ListPage) -> Result<ObjectList, BackendError> {
        let order = self.order().await?;
        list::list(&self.inner.client, &self.inner.prefix, order, prefix, &page).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), BackendError> {
        let client = &self.inner.client;
        match client.send(&Call::new(self.full_key(key), Operation::Delete)).await {
            Ok(_) => Ok(()),
            Err(failure) if failure.status() == 404 && failure.code() != "NoSuchBucket" => Ok(()),
            Err(failure) => Err(failure.into_error("delete", key.as_str(), &client.bucket)),
        }
    }

    /// A query-signed URL at `public_endpoint`. A whole number of seconds, 1 s to 7 days; it ends
    /// sooner when it was signed with temporary credentials that end.
    async fn presign(
        &self,
        key: &ObjectKey,
        access: Access,
        ttl: Duration,
    ) -> Result<Option<Presigned>, BackendError> {
        if matches!(access, Access::Put(UploadTerms { if_absent: true, .. }))
            && !self.inner.conditional_writes
        {
            let message = "this object store cannot sign a URL that writes once: \
                           conditional_writes is `false`";
            return Err(BackendError::new(ErrorKind::Unsupported, message));
        }
        let signer = self.inner.client.signer().await?;
        presign::presign(&signer, &self.full_key(key), access, ttl).await.map(Some)
    }
}
