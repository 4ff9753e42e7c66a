//! `gofer server --check`: tries everything a start needs, and says what it found.

use gofer_core::error::chain;
use gofer_db::{Db, DbError};

use super::bootstrap::operators_code;
use crate::compose;
use crate::compose::Launcher;
use crate::config::ServerConfig;
use crate::files::make_data_dir;

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

impl CheckLine {
    fn new(what: &str, outcome: Result<String, String>) -> Self {
        let (ok, message) = match outcome {
            Ok(found) => (true, found),
            Err(problem) => (false, problem),
        };
        Self { what: what.to_owned(), ok, message }
    }
}

/// Tries everything a server of this configuration needs, without listening and without driving a
/// run. Like a start, it makes directories and the database's schema where they are missing, and
/// needs the database for itself.
pub async fn check(config: ServerConfig, launcher: Launcher) -> Vec<CheckLine> {
    let data_dir = config.data_dir();
    if let Err(error) = config.validate() {
        return vec![CheckLine::new("configuration", Err(error.to_string()))];
    }

    let mut lines =
        vec![CheckLine::new("configuration", Ok(format!("data in `{}`", data_dir.display())))];
    if let Err(error) = make_data_dir(&config) {
        lines.push(CheckLine::new("data directory", Err(chain(&error))));
        return lines;
    }

    lines.extend(
        config.exposed_files.iter().map(|file| CheckLine::new("file", Ok(format!("note: {file}")))),
    );
    if let Err(error) = operators_code(&config) {
        lines.push(CheckLine::new("bootstrap token", Err(error.to_string())));
    }

    // Every product is tried even where the first is wrong: a certificate authority that is missing
    // is missing in all of them.
    let connected = Db::connect(config.resolved_database()).await;
    let database = match &connected {
        Ok(db) => db.check().await.map_err(|error| chain(&error)),
        Err(error) => Err(chain(error)),
    };

    lines.push(CheckLine::new("database", database));
    if matches!(connected, Err(DbError::Locked { .. })) {
        // A living server holds everything local, so that further checks would only repeat this
        // one.
        return lines;
    }

    let scheduler = match compose::scheduler(&config, launcher).await {
        Ok(scheduler) => scheduler.check().await,
        Err(error) => Err(error),
    };

    lines.push(CheckLine::new("scheduler", scheduler.map_err(|error| error.chain())));
    let objects = match compose::objects(&config).await {
        Ok(objects) => objects.check().await,
        Err(error) => Err(error),
    };

    lines.push(CheckLine::new("object store", objects.map_err(|error| error.chain())));
    let secrets = match compose::secrets(&config, connected.as_ref().ok()).await {
        Ok(secrets) => secrets.check().await,
        Err(error) => Err(error),
    };

    lines.push(CheckLine::new("secret store", secrets.map_err(|error| error.chain())));
    if let Ok(db) = connected {
        db.close().await;
    }

    lines
}

/// Gives the embedded secret store a new key, for a server that is not running: makes it, encrypts
/// every value again, and takes the old key out of the key file. Interrupted anywhere, everything
/// can still be read; do it again then. Returns how many values were encrypted again.
///
/// # Errors
/// What is wrong, for a person: the configuration, the database (another server has it), or the
/// store.
pub async fn rotate_secrets_key(config: ServerConfig) -> Result<u64, String> {
    config.validate().map_err(|error| error.to_string())?;
    make_data_dir(&config).map_err(|error| chain(&error))?;
    let db = Db::connect(config.resolved_database()).await.map_err(|error| chain(&error))?;
    let rotated = compose::rotate_secrets_key(&config, &db).await.map_err(|error| error.chain());
    db.close().await;
    rotated
}
