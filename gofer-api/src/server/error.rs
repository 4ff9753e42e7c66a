//! Why a server does not start, or ended.

use std::net::SocketAddr;
use std::path::PathBuf;

use gofer_core::BackendError;
use gofer_db::DbError;
use gofer_engine::EngineError;

use crate::config::ConfigError;
use crate::files::FileError;
use crate::transport::TlsError;

/// Why a server does not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The address cannot be used.
    #[error("cannot listen on `{addr}`; is another server running there?")]
    Listen {
        /// The address as configured.
        addr: SocketAddr,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// A file or directory cannot be used.
    #[error("cannot use `{}`", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// The data directory is open to others.
    #[error("{0}")]
    Exposed(String),
    /// The certificate and key are not what TLS needs.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The contract's descriptors are damaged.
    #[error("the wire contract cannot be served by reflection")]
    Reflection(#[source] tonic_reflection::server::Error),
    /// The database cannot be used.
    #[error("the database cannot be used")]
    Database(#[source] DbError),
    /// A backend cannot be used.
    #[error("the {what} cannot be used")]
    Backend {
        /// Such as `scheduler`.
        what: &'static str,
        /// The backend's error.
        source: BackendError,
    },
    /// The engine cannot start.
    #[error("the engine cannot start")]
    Engine(#[source] EngineError),
    /// Serving ended before it was told to.
    #[error("serving failed")]
    Serving(#[source] tokio::task::JoinError),
}

impl From<FileError> for ServerError {
    fn from(error: FileError) -> Self {
        match error {
            FileError::Unusable { path, source } => Self::File { path, source },
            FileError::Exposed(sentence) => Self::Exposed(sentence),
        }
    }
}
