//! The server's own files on this machine, and how open they are to others.
//!
//! ```text
//! server ─▶ data_dir          makes the directory, refuses one that others may write
//! server ─▶ credential_file   a code or token for the server's own user, and the link to it
//! server ─▶ reload ──(told by SIGHUP, or a file that changed)──▶ transport's certificates
//! ```

use std::path::PathBuf;

mod credential_file;
mod data_dir;
mod reload;

pub(crate) use credential_file::{CredentialFile, read, read_own};
pub(crate) use data_dir::make_data_dir;
pub(crate) use reload::{Reload, Reloads};

/// Why a file or directory of the server cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    /// The operating system refuses it.
    #[error("cannot use `{}`", path.display())]
    Unusable { path: PathBuf, source: std::io::Error },
    /// The data directory is open to others.
    #[error("{0}")]
    Exposed(String),
}
