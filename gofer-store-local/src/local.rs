//! `LocalObjectStore`: the trait's calls as calls of the file system.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use gofer_core::object_store::{
    Access, ByteStream, ListPage, ObjectBody, ObjectList, ObjectMeta, ObjectStore, Presigned,
    PutOptions,
};
use gofer_core::{BackendError, ErrorKind, ObjectKey};

use crate::config::LocalStoreConfig;
use crate::error::{blocking, io_error};
use crate::instance::Instance;
use crate::layout::object_path;
use crate::staged::{self, Staged};
use crate::{list, read, upload};

/// Keeps objects as files. Cloning shares the store; several processes may have the same directory
/// open.
#[derive(Debug, Clone)]
pub struct LocalObjectStore {
    dir: PathBuf,
    instance: Arc<Instance>,
}

impl LocalObjectStore {
    /// Opens the store, making its directory if need be, and removes what crashed puts left.
    ///
    /// # Errors
    /// `Invalid` for a directory that is no path, `Denied` when it cannot be written, `Exhausted`
    /// when the disk is full.
    pub async fn connect(config: LocalStoreConfig) -> Result<Self, BackendError> {
        let dir = config.absolute_dir()?;
        blocking(move || {
            let instance = Arc::new(Instance::open(&dir)?);
            Ok(Self { dir, instance })
        })
        .await
    }

    fn path(&self, key: &ObjectKey) -> PathBuf {
        object_path(&self.instance.objects, key)
    }
}

#[async_trait]
impl ObjectStore for LocalObjectStore {
    async fn check(&self) -> Result<String, BackendError> {
        let store = self.clone();
        blocking(move || probe(&store)).await
    }

    async fn put(
        &self,
        key: &ObjectKey,
        body: ByteStream,
        options: PutOptions,
    ) -> Result<ObjectMeta, BackendError> {
        let (path, instance) = (self.path(key), Arc::clone(&self.instance));
        let wanted = key.clone();
        let staged = blocking(move || {
            // Only to spare the caller a long upload; what decides is the commit.
            if options.if_absent && path.exists() {
                return Err(staged::taken(&wanted));
            }
            Staged::create(instance)
        })
        .await?;
        let staged = upload::write_all(staged, body).await?;
        let key = key.clone();

        blocking(move || {
            let meta = staged.commit(&key, options.if_absent)?;
            Ok(read::object_meta(key, &meta))
        })
        .await
    }

    async fn get(&self, key: &ObjectKey) -> Result<ObjectBody, BackendError> {
        let (path, key) = (self.path(key), key.clone());
        blocking(move || {
            let (file, meta) = read::open(&path, &key)?;
            let stream = read::stream(file, path, meta.size_bytes);
            Ok(ObjectBody { meta, stream })
        })
        .await
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, BackendError> {
        let (path, key) = (self.path(key), key.clone());
        blocking(move || read::head(&path, &key)).await
    }

    async fn list(&self, prefix: &str, page: ListPage) -> Result<ObjectList, BackendError> {
        let (instance, prefix) = (Arc::clone(&self.instance), prefix.to_owned());
        blocking(move || list::list(&instance.objects, &prefix, &page)).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), BackendError> {
        let (instance, key) = (Arc::clone(&self.instance), key.clone());
        blocking(move || staged::remove(&instance, &key)).await
    }

    async fn presign(
        &self,
        _: &ObjectKey,
        _: Access,
        _: Duration,
    ) -> Result<Option<Presigned>, BackendError> {
        Ok(None)
    }
}

/// Writes, links and reads a file, as a put and a get would, where no list looks.
fn probe(store: &LocalObjectStore) -> Result<String, BackendError> {
    const TEXT: &[u8] = b"gofer was here";
    let file = Staged::create(Arc::clone(&store.instance))?.write(TEXT)?;
    let seen = file.read_through_link();
    file.discard();
    let seen = seen?;
    if seen != TEXT {
        let message = format!("`{}` gives back other bytes than were written", store.dir.display());
        return Err(BackendError::new(ErrorKind::Corrupt, message));
    }
    let objects = &store.instance.objects;
    fs::read_dir(objects).map_err(|error| io_error("read", objects, error))?;
    Ok(format!("directory `{}` is writable", store.dir.display()))
}
