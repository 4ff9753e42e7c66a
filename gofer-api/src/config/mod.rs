//! The server's configuration. The result is one value that is passed along and never changes.
//!
//! ```text
//! defaults <- TOML <- GOFER_<TABLE>__<KEY> <- flags ─▶ ServerConfig ─▶ validate ─▶ server
//!               │                                        │              │
//!               │            backends: selectors, tables ┘              ├▶ backends: their rules
//!               └▶ files: those that hold secrets, and their modes      └▶ error: key and rule
//! ```

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use figment::Figment;
use figment::providers::{Env, Format, Toml};
use gofer_core::quota::Quotas;
use gofer_db::{DbConfig, Durability};
use serde::Deserialize;

mod backends;
mod error;
mod files;
mod validate;

pub use backends::{
    EngineSection, ObjectsBackend, ObjectsSection, RetentionSection, SchedulerBackend,
    SchedulerSection, SecretsBackend, SecretsSection,
};
pub use error::ConfigError;

pub(crate) use validate::network;

/// Where a server listens when nothing else is said, always on loopback; the port is registered for
/// nothing.
pub const DEFAULT_PORT: u16 = 8469;
/// Variables that start with this and contain `__` are configuration, such as
/// `GOFER_SERVER__LISTEN`.
const ENV_PREFIX: &str = "GOFER_";

/// All a server is told when it starts; `config/gofer.toml` documents every key.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerConfig {
    /// Where it listens and whom it believes.
    pub server: ServerSection,
    /// What it accepts at most.
    pub limits: Limits,
    /// Where everything but objects and secrets lies.
    pub database: DbConfig,
    /// Where tasks run.
    pub scheduler: SchedulerSection,
    /// Where objects and archived logs lie.
    pub objects: ObjectsSection,
    /// Where secrets lie.
    pub secrets: SecretsSection,
    /// How runs are driven.
    pub engine: EngineSection,
    /// What is kept, and how long.
    pub retention: RetentionSection,
    /// What a namespace may use that has no limits of its own.
    pub quota: Quotas,
    /// What it writes about itself.
    pub log: LogSection,
    /// What is wrong with the modes of files that hold secrets, a sentence each.
    #[serde(skip)]
    pub exposed_files: Vec<String>,
    /// Files named in it that hold secrets.
    #[serde(skip)]
    pub secret_files: Vec<PathBuf>,
}

/// `[server]`: where it listens and whom it believes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerSection {
    /// Address and port; port 0 takes any free one.
    pub listen: SocketAddr,
    /// Where everything local lies, made with mode 0700 when missing; `None` is a directory of the
    /// user's, see [`ServerConfig::data_dir`].
    pub data_dir: Option<PathBuf>,
    /// Whether callers need a token.
    pub auth: AuthMode,
    /// Ask nobody for a token.
    pub allow_anonymous: bool,
    /// Serve without TLS also off loopback.
    pub allow_insecure_listen: bool,
    /// Web origins whose pages may call this server, such as `https://ci.example.com`.
    pub cors_origins: Vec<String>,
    /// Names of this server, besides its addresses, that callers without a token may use.
    pub hosts: Vec<String>,
    /// Addresses, or networks, of proxies that are believed what they tell of their callers.
    pub trusted_proxies: Vec<String>,
    /// File of the operator's with the code that makes the first management token; `None`: the
    /// server makes one.
    pub bootstrap_token_file: Option<PathBuf>,
    /// Folder for links to the files that the server leaves for its own user, by the server's
    /// address.
    #[serde(skip)]
    pub links_dir: Option<PathBuf>,
    /// The server's certificate.
    pub tls: TlsSection,
    /// Where operators read what it counts and measures.
    pub metrics: MetricsSection,
    /// Makes a management token of its own at start, for a server that lives as long as one
    /// command.
    #[serde(skip)]
    pub ephemeral: bool,
}

/// Whether callers need a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthMode {
    /// On loopback the server's own, elsewhere those of the database.
    #[default]
    Auto,
    /// Always those of the database.
    On,
}

/// Who may call without a token of the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Nobody.
    Tokens,
    /// Callers that can read the file with the token that the server makes at each start (dev
    /// mode).
    OwnToken,
    /// Everybody.
    Anybody,
}

/// `[server.tls]`: the server's certificate; without both files it serves plain text.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsSection {
    /// PEM file with the certificate chain, the server's own first.
    pub cert_file: Option<PathBuf>,
    /// PEM file with the private key.
    pub key_file: Option<PathBuf>,
    /// PEM file with the authorities of clients' certificates. With it, callers without such a
    /// certificate are refused.
    pub client_ca_file: Option<PathBuf>,
}

/// `[server.metrics]`: where operators read what the server counts and measures, as OpenMetrics.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MetricsSection {
    /// Address and port of a listener for `GET /metrics` alone; `None`: there is none.
    pub listen: Option<SocketAddr>,
    /// File whose first line is the token that scrapers send; off loopback there has to be one.
    pub token_file: Option<PathBuf>,
    /// Give the first 1,000 pipelines time series of their own.
    pub pipeline_label: bool,
}

/// `[limits]`: what the server accepts at most.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Longest object, in bytes.
    pub object_max_bytes: u64,
    /// Most objects kept with one pipeline; a further one evicts the oldest.
    pub pipeline_objects: u64,
    /// How long a URL to an object may be good; for a run's token no more than an hour.
    #[serde(with = "humantime_serde")]
    pub url_ttl: Duration,
    /// Calls at work at once, streams included, on one connection; more wait.
    pub calls_per_connection: usize,
    /// Connections at once; `None` is what the limit of open files leaves room for, at most 10,000.
    pub connections: Option<usize>,
    /// The same from one address; `None` is half of all.
    pub connections_per_address: Option<usize>,
    /// How old a connection may become before its caller is asked to make a new one; calls under
    /// way may end.
    #[serde(with = "humantime_serde")]
    pub connection_age: Duration,
    /// Bytes of memory for all requests that are being read and handled.
    pub request_memory: usize,
    /// How long a call that is not a stream may take.
    #[serde(with = "humantime_serde")]
    pub call_timeout: Duration,
    /// How long a stream may stand still before it is given up: an upload, half a message, an
    /// answer that is not read.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// How long calls may go on after the server was told to end.
    #[serde(with = "humantime_serde")]
    pub shutdown_grace: Duration,
    /// Least bytes per second of an upload, on average after its first `idle_timeout`.
    pub upload_min_rate: u64,
    /// Uploads stop while the disk of a local object store has fewer bytes left; 0 is never.
    pub free_disk_min: u64,
    /// Commands run in tasks at once through this server.
    pub exec_sessions: usize,
}

/// `[log]`: what the server writes about itself, to stderr.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogSection {
    /// A filter as tracing has it, such as `info` or `gofer_engine=debug,info`.
    pub level: String,
    /// For people or for programs.
    pub format: LogFormat,
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// One line of text, in colour on a terminal.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

impl Default for ServerSection {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], DEFAULT_PORT)),
            data_dir: None,
            auth: AuthMode::Auto,
            allow_anonymous: false,
            allow_insecure_listen: false,
            cors_origins: Vec::new(),
            hosts: Vec::new(),
            trusted_proxies: Vec::new(),
            bootstrap_token_file: None,
            links_dir: None,
            tls: TlsSection::default(),
            metrics: MetricsSection::default(),
            ephemeral: false,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            object_max_bytes: 5 * 1024 * 1024 * 1024,
            pipeline_objects: 100,
            url_ttl: Duration::from_secs(24 * 3600),
            calls_per_connection: 256,
            connections: None,
            connections_per_address: None,
            connection_age: Duration::from_secs(3600),
            request_memory: 256 * 1024 * 1024,
            call_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(60),
            shutdown_grace: Duration::from_secs(10),
            upload_min_rate: 4096,
            free_disk_min: 1024 * 1024 * 1024,
            exec_sessions: 128,
        }
    }
}

impl Default for LogSection {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Text }
    }
}

impl ServerConfig {
    /// Reads the file, if one is given, and the environment, and validates the result.
    ///
    /// # Errors
    /// [`ConfigError`], which names each key that is wrong, its value and the rule.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        Self::load_with(path, |_| {})
    }

    /// The same, with flags of the command line on top: `flags` changes what was read before it is
    /// validated.
    ///
    /// # Errors
    /// [`ConfigError`], which names each key that is wrong, its value and the rule.
    pub fn load_with(
        path: Option<&Path>,
        flags: impl FnOnce(&mut Self),
    ) -> Result<Self, ConfigError> {
        let mut figment = Figment::new();
        if let Some(path) = path {
            let text = std::fs::read_to_string(path)
                .map_err(|error| ConfigError::unreadable(path, &error))?;
            figment = figment.merge(Toml::string(&text));
        }

        let env = Env::prefixed(ENV_PREFIX).filter(|name| name.as_str().contains("__")).split("__");
        let figment = figment.merge(env);
        let mut config: Self =
            figment.extract().map_err(|error| ConfigError::from_figment(path, error))?;
        config.exposed_files = files::exposed(&figment);
        config.secret_files = files::secret(&figment);
        flags(&mut config);
        config.validate()?;

        Ok(config)
    }

    /// What a file says, and nothing else.
    ///
    /// # Errors
    /// [`ConfigError`], which names each key that is wrong, its value and the rule.
    pub fn from_toml(text: &str) -> Result<Self, ConfigError> {
        let config = Figment::new().merge(Toml::string(text)).extract::<Self>();
        let config = config.map_err(|error| ConfigError::from_figment(None, error))?;
        config.validate()?;
        Ok(config)
    }

    /// A development server on loopback that keeps everything under `data_dir`.
    #[must_use]
    pub fn default_dev(data_dir: impl Into<PathBuf>) -> Self {
        let mut config = Self::default();
        config.server.data_dir = Some(data_dir.into());
        config
    }

    /// A server for one command: any free loopback port, a management token that only
    /// [`crate::Server`] hands out, and no waiting for the disk, since nobody asks about its runs
    /// after a power cut.
    #[must_use]
    pub fn ephemeral(data_dir: impl Into<PathBuf>) -> Self {
        let mut config = Self::default_dev(data_dir);
        config.server.listen.set_port(0);
        config.server.auth = AuthMode::On;
        config.server.ephemeral = true;
        config.database.durability = Durability::Off;
        config
    }

    /// Where everything local lies: `server.data_dir`, else `$XDG_STATE_HOME/gofer`, else
    /// `~/.local/state/gofer`, else `.gofer` where the server was started.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        let absolute =
            |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        self.server
            .data_dir
            .clone()
            .or_else(|| Some(absolute("XDG_STATE_HOME")?.join("gofer")))
            .or_else(|| Some(absolute("HOME")?.join(".local/state/gofer")))
            .unwrap_or_else(|| PathBuf::from(".gofer"))
    }

    /// Who may call without a token of the database.
    #[must_use]
    pub fn access(&self) -> Access {
        match self.server.auth {
            AuthMode::On => Access::Tokens,
            AuthMode::Auto if self.server.allow_anonymous => Access::Anybody,
            AuthMode::Auto if self.server.listen.ip().is_loopback() => Access::OwnToken,
            AuthMode::Auto => Access::Tokens,
        }
    }

    /// Whether it serves TLS.
    #[must_use]
    pub fn serves_tls(&self) -> bool {
        self.server.tls.cert_file.is_some()
    }
}
