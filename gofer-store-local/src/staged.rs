//! A put's bytes before anybody can see them.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gofer_core::{BackendError, ErrorKind, ObjectKey};

use crate::durable::sync_unless_gone;
use crate::error::io_error;
use crate::instance::{Instance, make_dirs};
use crate::layout::object_path;

/// How often a put makes its directory again when deletes keep removing it as empty. Each loss
/// means that another call finished in between, so a handful is plenty.
const MAX_PLACE_TRIES: usize = 100;

/// A staging file. Dropped without [`Staged::commit`], it disappears. Every method blocks.
#[derive(Debug)]
pub(crate) struct Staged {
    file: File,
    path: PathBuf,
    instance: Arc<Instance>,
}

impl Staged {
    pub(crate) fn create(instance: Arc<Instance>) -> Result<Self, BackendError> {
        let path = instance.staged_path();
        let file = OpenOptions::new()
            .create_new(true)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(|error| io_error("make", &path, error))?;
        Ok(Self { file, path, instance })
    }

    /// Appends the bytes; on an error, the file is gone and its space free.
    pub(crate) fn write(mut self, bytes: &[u8]) -> Result<Self, BackendError> {
        match self.file.write_all(bytes) {
            Ok(()) => Ok(self),
            Err(error) => {
                let error = io_error("write", &self.path, error);
                self.discard();
                Err(error)
            }
        }
    }

    /// Makes the bytes durable and gives them their name, in one step for every reader.
    pub(crate) fn commit(self, key: &ObjectKey, if_absent: bool) -> Result<Metadata, BackendError> {
        let committed = self.try_commit(key, if_absent);
        // A rename took the staging name away; a hard link or a failure did not.
        self.discard();
        committed
    }

    /// Removes the file at once, where a drop only sees to it that it will be.
    pub(crate) fn discard(mut self) {
        let _ = fs::remove_file(std::mem::take(&mut self.path));
    }

    fn try_commit(&self, key: &ObjectKey, if_absent: bool) -> Result<Metadata, BackendError> {
        self.file.sync_all().map_err(|error| io_error("write", &self.path, error))?;
        let meta = self.file.metadata().map_err(|error| io_error("read", &self.path, error))?;
        let target = object_path(&self.instance.objects, key);
        self.place(&target, if_absent).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists if if_absent => taken(key),
            _ => io_error("write", &target, error),
        })?;
        let Instance { durable, objects, .. } = &*self.instance;
        durable.sync_name(&target, objects).map_err(|error| io_error("write", &target, error))?;
        Ok(meta)
    }

    /// Links the file to a second name, reads it there, and removes that name: all that this store
    /// asks of a file system.
    pub(crate) fn read_through_link(&self) -> Result<Vec<u8>, BackendError> {
        let link = self.instance.staged_path();
        let failed = |error| io_error("link and read", &link, error);
        self.file.sync_all().map_err(failed)?;
        fs::hard_link(&self.path, &link).map_err(failed)?;
        let bytes = fs::read(&link).map_err(failed);
        fs::remove_file(&link).map_err(failed)?;
        bytes
    }

    fn place(&self, target: &Path, if_absent: bool) -> io::Result<()> {
        let mut tries = 0;
        loop {
            let placed = make_parent(target).and_then(|()| {
                // A hard link fails when the name is taken, which no rename of the standard library
                // does.
                if if_absent {
                    fs::hard_link(&self.path, target)
                } else {
                    fs::rename(&self.path, target)
                }
            });

            tries += 1;
            match placed {
                // A delete found the new directory empty and removed it.
                Err(error)
                    if error.kind() == io::ErrorKind::NotFound && tries < MAX_PLACE_TRIES => {}
                result => return result,
            }
        }
    }
}

fn make_parent(target: &Path) -> io::Result<()> {
    let Some(parent) = target.parent() else { return Ok(()) };
    match make_dirs(parent) {
        // It was there, and was removed before the standard library could see that it is a
        // directory.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Err(io::ErrorKind::NotFound.into())
        }
        result => result,
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        let path = std::mem::take(&mut self.path);
        if path.as_os_str().is_empty() {
            return;
        }

        // Freeing a large file takes milliseconds, so not on an async thread; the instance goes
        // along, to keep the staging directory until then.
        let instance = Arc::clone(&self.instance);
        let remove = move || {
            let _ = fs::remove_file(&path);
            drop(instance);
        };

        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

pub(crate) fn taken(key: &ObjectKey) -> BackendError {
    BackendError::new(ErrorKind::AlreadyExists, format!("object `{key}` exists already"))
}

/// Removes the object's file, if there is one, and the directories that this leaves empty.
pub(crate) fn remove(instance: &Instance, key: &ObjectKey) -> Result<(), BackendError> {
    let target = object_path(&instance.objects, key);
    let failed = |error| io_error("delete", &target, error);
    match fs::remove_file(&target) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        result => result.map_err(failed)?,
    }

    sync_unless_gone(target.parent().unwrap_or(&instance.objects)).map_err(failed)?;
    for dir in target.ancestors().skip(1).take_while(|dir| *dir != instance.objects) {
        instance.durable.forget(dir);
        // The usual end: a directory that still holds something.
        if fs::remove_dir(dir).is_err() {
            break;
        }
    }

    Ok(())
}
