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
    /// The product's name, in configurations and answers.
    pub const PRODUCT: &'static str = "local";
    /// Whether all servers on one database see the same: files are one machine's.
    pub const SHARED: bool = false;

    /// Settings for the store in `dir`.
    pub fn new(dir: impl AsRef<Path>) -> Self {
        Self { dir: dir.as_ref().to_path_buf() }
    }

    /// Checks every value against its rule; there is none.
    ///
    /// # Errors
    /// Never.
    pub fn validate(&self) -> Result<(), BackendError> {
        Ok(())
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
