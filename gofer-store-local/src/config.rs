//! The operator's settings.

use std::path::{Path, PathBuf};

use gofer_core::{BackendError, ErrorKind};
use serde::{Deserialize, Serialize};

/// Settings of the local object store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocalStoreConfig {
    /// The directory that holds the objects. It is made, for its owner only, if it does not exist.
    pub dir: PathBuf,
}

impl LocalStoreConfig {
    /// Settings for the store in `dir`.
    pub fn new(dir: impl AsRef<Path>) -> Self {
        Self { dir: dir.as_ref().to_path_buf() }
    }

    /// The directory as an absolute path, so that a later change of the working directory moves
    /// nothing.
    pub(crate) fn absolute_dir(&self) -> Result<PathBuf, BackendError> {
        std::path::absolute(&self.dir).map_err(|error| {
            let message =
                format!("dir: `{}` is no path; name the directory for objects", self.dir.display());
            BackendError::new(ErrorKind::Invalid, message).with_source(error)
        })
    }
}
