//! What an operator configures, and what the addresses mean.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use gofer_core::quota::Quotas;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use crate::error::DbError;

/// Which database, and how it is used.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DbConfig {
    /// `sqlite:///absolute/path`, a path, or `postgres://user:password@host:port/database`.
    pub url: Option<DatabaseUrl>,
    /// A file that holds the URL, for URLs with a password; instead of `url`.
    pub url_file: Option<PathBuf>,
    /// SQLite: whether a commit waits for the disk.
    pub durability: Durability,
    /// SQLite: most connections that read at the same time, 1 to 64.
    pub readers: usize,
    /// PostgreSQL: most connections, 1 to 500, besides the one that holds the server's lock.
    pub pool_size: usize,
    /// How long an operation waits for its turn before it fails as unavailable.
    #[serde(with = "humantime_serde")]
    pub acquire_timeout: Duration,
    /// PostgreSQL: encryption of the connection.
    pub tls: TlsConfig,
    /// PostgreSQL: several servers use the database. Not a setting: it follows from the backends.
    #[serde(skip)]
    pub shared: bool,
    /// What a namespace may use that has no limits of its own. Not a setting of the database: it
    /// has a table of its own.
    #[serde(skip)]
    pub quotas: Quotas,
}

impl Default for DbConfig {
    fn default() -> Self {
        Self {
            url: None,
            url_file: None,
            durability: Durability::Full,
            readers: 4,
            pool_size: 16,
            acquire_timeout: Duration::from_secs(10),
            tls: TlsConfig::default(),
            shared: false,
            quotas: Quotas::default(),
        }
    }
}

impl DbConfig {
    /// A SQLite database in this file, everything else by default.
    #[must_use]
    pub fn sqlite(path: impl AsRef<Path>) -> Self {
        Self { url: Some(DatabaseUrl::new(path.as_ref().to_string_lossy())), ..Self::default() }
    }

    /// The database these settings name; reads `url_file` if there is one.
    ///
    /// # Errors
    /// [`DbError::Config`], which names the key and its rule.
    pub fn target(&self) -> Result<Target, DbError> {
        check_range("readers", self.readers, 1, 64)?;
        check_range("pool_size", self.pool_size, 1, 500)?;
        if self.acquire_timeout.is_zero() {
            return Err(DbError::config("acquire_timeout: must be longer than `0s`"));
        }

        match (&self.url, &self.url_file) {
            (Some(_), Some(_)) => Err(DbError::config("url, url_file: set one of them, not both")),
            (None, None) => {
                Err(DbError::config("url: is not set; give a SQLite file or a `postgres://` URL"))
            }
            (Some(url), None) => Target::parse(url.0.expose_secret()),
            (None, Some(path)) => {
                let text = std::fs::read_to_string(path).map_err(|error| {
                    DbError::config(format!("url_file: cannot read `{}`: {error}", path.display()))
                })?;
                Target::parse(text.trim())
            }
        }
    }
}

fn check_range(key: &str, value: usize, min: usize, max: usize) -> Result<(), DbError> {
    if (min..=max).contains(&value) {
        Ok(())
    } else {
        Err(DbError::config(format!("{key}: must be {min} to {max} (got `{value}`)")))
    }
}

/// Whether a commit waits for the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// What was committed survives a power cut.
    #[default]
    Full,
    /// What was committed survives the process, but not always the machine: for runs nobody asks
    /// about afterwards.
    Off,
}

/// Encryption of the connection to PostgreSQL. Where it is on, the server's certificate and host
/// name are verified.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsConfig {
    /// Refuse to talk in clear. Implied by `ca_file`, and by `sslmode=require` in the URL.
    pub require: bool,
    /// PEM file of the authorities to trust; without it, the operating system's.
    pub ca_file: Option<PathBuf>,
}

/// The address of a database, which may hold a password: `Debug` shows it without.
#[derive(Clone, Deserialize)]
#[serde(from = "String")]
pub struct DatabaseUrl(SecretString);

impl DatabaseUrl {
    /// Keeps the text; [`DbConfig::target`] says what is wrong with it.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(SecretString::from(text.into()))
    }
}

impl From<String> for DatabaseUrl {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Target::parse(self.0.expose_secret()) {
            Ok(target) => write!(f, "{target}"),
            Err(_) => f.write_str("***"),
        }
    }
}

/// A database, found from its URL. `Display` is safe to show: it never has a password.
#[derive(Clone)]
pub enum Target {
    /// A file.
    Sqlite(PathBuf),
    /// A server.
    Postgres(Box<tokio_postgres::Config>),
}

impl Target {
    fn parse(text: &str) -> Result<Self, DbError> {
        if text.is_empty() {
            return Err(DbError::config(
                "url: is empty; give a SQLite file or a `postgres://` URL",
            ));
        }

        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            // The parser's own message may quote a part of the URL, and the password with it.
            let config = text.parse::<tokio_postgres::Config>().map_err(|_| {
                DbError::config(
                    "url: is not a valid PostgreSQL URL; write \
                     `postgres://user:password@host:port/database`, with special characters \
                     percent-encoded, and certificates under `tls`",
                )
            })?;
            return Ok(Self::Postgres(Box::new(config)));
        }

        let path = text.strip_prefix("sqlite://").unwrap_or(text);
        if path.contains("://") || path.starts_with("file:") || path.starts_with(':') {
            let scheme = path.split(':').next().unwrap_or_default();
            return Err(DbError::config(format!(
                "url: `{scheme}:` is not supported; use `sqlite:///absolute/path` or \
                 `postgres://…`"
            )));
        }

        if path.is_empty() {
            return Err(DbError::config("url: names no file; write `sqlite:///absolute/path`"));
        }

        Ok(Self::Sqlite(PathBuf::from(path)))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite://{}", path.display()),
            Self::Postgres(config) => {
                let hosts: Vec<String> = config
                    .get_hosts()
                    .iter()
                    .map(|host| match host {
                        tokio_postgres::config::Host::Tcp(name) => name.clone(),
                        tokio_postgres::config::Host::Unix(path) => path.display().to_string(),
                    })
                    .collect();
                let ports: Vec<String> = config.get_ports().iter().map(u16::to_string).collect();
                let colon = if ports.is_empty() { "" } else { ":" };

                write!(f, "postgres://{}{colon}{}", hosts.join(","), ports.join(","))?;
                write!(f, "/{}", config.get_dbname().unwrap_or_default())
            }
        }
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_never_shown() {
        let config = DbConfig {
            url: Some(DatabaseUrl::new("postgres://gofer:hunter2@db.example:5432/gofer")),
            ..DbConfig::default()
        };

        let shown = format!("{config:?} {:?}", config.target().unwrap());
        assert!(!shown.contains("hunter2"), "{shown}");
        assert!(shown.contains("db.example"), "{shown}");

        let broken = DbConfig {
            url: Some(DatabaseUrl::new("postgres://gofer:hunter2@db:port/x?sslmode=verify-full")),
            ..DbConfig::default()
        };

        let error = broken.target().unwrap_err();
        let shown = format!("{broken:?} {error} {error:?}");
        assert!(!shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn addresses_are_what_they_say() {
        let path = |text: &str| match Target::parse(text) {
            Ok(Target::Sqlite(path)) => path,
            other => panic!("{other:?}"),
        };
        assert_eq!(path("sqlite:///var/lib/gofer.db"), PathBuf::from("/var/lib/gofer.db"));
        assert_eq!(path("data/gofer.db"), PathBuf::from("data/gofer.db"));
        assert!(matches!(Target::parse("postgresql://u@h/d"), Ok(Target::Postgres(_))));
        for bad in ["", "mysql://x", "sqlite://", ":memory:", "file:x?mode=ro"] {
            let error = Target::parse(bad).unwrap_err();
            assert!(error.to_string().starts_with("url: "), "{bad}: {error}");
        }
    }

    #[test]
    fn settings_are_checked() {
        let config = DbConfig { readers: 0, ..DbConfig::sqlite("x.db") };
        assert_eq!(config.target().unwrap_err().to_string(), "readers: must be 1 to 64 (got `0`)");
        assert!(serde_json::from_str::<DbConfig>(r#"{"urll": "x"}"#).is_err());
        let config: DbConfig = serde_json::from_str(
            r#"{"url": "x.db", "durability": "off", "acquire_timeout": "2s"}"#,
        )
        .unwrap();
        assert_eq!(
            (config.durability, config.acquire_timeout),
            (Durability::Off, Duration::from_secs(2))
        );
    }
}
