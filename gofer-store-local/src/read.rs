//! Opening an object, and its bytes as a stream.

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use futures::stream::try_unfold;
use gofer_core::object_store::{ByteStream, ObjectMeta};
use gofer_core::{BackendError, ErrorKind, ObjectKey, Timestamp};

use crate::error::{blocking, io_error};

/// Bytes per read: well below the 4 MiB that gRPC allows for one message.
const CHUNK_BYTES: u64 = 256 * 1024;

/// An open object: its bytes are fixed from here on, since a put makes a new file and a delete only
/// takes the name.
pub(crate) fn open(path: &Path, key: &ObjectKey) -> Result<(File, ObjectMeta), BackendError> {
    let file = File::open(path).map_err(|error| unless_missing(path, key, error))?;
    let meta = file.metadata().map_err(|error| io_error("read", path, error))?;
    Ok((file, object_meta(key.clone(), &meta)))
}

pub(crate) fn head(path: &Path, key: &ObjectKey) -> Result<ObjectMeta, BackendError> {
    let meta = fs::symlink_metadata(path).map_err(|error| unless_missing(path, key, error))?;
    Ok(object_meta(key.clone(), &meta))
}

/// The file system's metadata in Gofer's words.
pub(crate) fn object_meta(key: ObjectKey, meta: &Metadata) -> ObjectMeta {
    let since_epoch = meta
        .modified()
        .ok()
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok())
        .unwrap_or_default();
    ObjectMeta {
        key,
        size_bytes: meta.len(),
        modified_at: Timestamp::default().after(since_epoch),
        sha256: None,
    }
}

fn unless_missing(path: &Path, key: &ObjectKey, error: io::Error) -> BackendError {
    if error.kind() == io::ErrorKind::NotFound {
        BackendError::new(ErrorKind::NotFound, format!("object `{key}` does not exist"))
    } else {
        io_error("read", path, error)
    }
}

/// Exactly `size_bytes` bytes, or an error: nobody but this store writes here, so a shorter file is
/// damage.
pub(crate) fn stream(file: File, path: PathBuf, size_bytes: u64) -> ByteStream {
    let start = (file, path, size_bytes);
    Box::pin(try_unfold(start, |(mut file, path, left)| async move {
        if left == 0 {
            return Ok(None);
        }
        blocking(move || {
            let bytes = read_chunk(&mut file, &path, left)?;
            let left = left - bytes.len() as u64;
            Ok(Some((bytes, (file, path, left))))
        })
        .await
    }))
}

fn read_chunk(file: &mut File, path: &Path, left: u64) -> Result<Bytes, BackendError> {
    let want = left.min(CHUNK_BYTES);
    let mut bytes = Vec::with_capacity(usize::try_from(want).unwrap_or_default());
    file.take(want).read_to_end(&mut bytes).map_err(|error| io_error("read", path, error))?;
    if bytes.is_empty() {
        let message = format!(
            "`{}` ends {left} bytes early; something else than gofer changed it",
            path.display()
        );
        return Err(BackendError::new(ErrorKind::Corrupt, message));
    }
    Ok(bytes.into())
}
