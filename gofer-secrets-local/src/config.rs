//! The operator's settings.

use std::path::{Path, PathBuf};

use gofer_core::{BackendError, ErrorKind};
use serde::{Deserialize, Serialize};

/// Settings of the local secret store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocalSecretsConfig {
    /// The file with the keys. It is made, for its owner only, if it does not exist and no secret
    /// needs it yet.
    pub key_file: PathBuf,
}

impl LocalSecretsConfig {
    /// The product's name, in configurations and answers.
    pub const PRODUCT: &'static str = "local";
    /// Whether all servers on one database see the same: values are rows of the database.
    pub const SHARED: bool = true;

    /// Settings with the keys in `key_file`.
    pub fn new(key_file: impl AsRef<Path>) -> Self {
        Self { key_file: key_file.as_ref().to_path_buf() }
    }

    /// Checks every value against its rule; there is none.
    ///
    /// # Errors
    /// Never.
    pub fn validate(&self) -> Result<(), BackendError> {
        Ok(())
    }

    /// The file as an absolute path, so that a later change of the working directory loses no key.
    pub(crate) fn absolute_key_file(&self) -> Result<PathBuf, BackendError> {
        std::path::absolute(&self.key_file).map_err(|error| {
            let message = format!(
                "key_file: `{}` is no path; name the file for the keys",
                self.key_file.display()
            );
            BackendError::new(ErrorKind::Invalid, message).with_source(error)
        })
    }
}
