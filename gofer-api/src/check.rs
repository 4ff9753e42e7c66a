//! `gofer server --check`: tries everything a start needs, and says what it found.

use gofer_db::Db;

use crate::compose;
use crate::config::ServerConfig;
use crate::server::{Launcher, make_data_dir};
use crate::status::chain;

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

/// Tries everything a server of this configuration needs, without listening and without driving a run. Like a start, it
/// makes directories and the database's schema where they are missing, and needs the database for itself.
pub async fn check(config: ServerConfig, launcher: Launcher) -> Vec<CheckLine> {
    let data_dir = config.data_dir();
    if let Err(error) = config.validate() {
        return vec![CheckLine::new("configuration", Err(error.to_string()))];
    }
    let mut lines = vec![CheckLine::new("configuration", Ok(format!("data in `{}`", data_dir.display())))];
    if let Err(error) = make_data_dir(&data_dir) {
        lines.push(CheckLine::new("data directory", Err(chain(&error))));
        return lines;
    }
    let db = match Db::connect(config.resolved_database()).await {
        Ok(db) => db,
        Err(error) => {
            lines.push(CheckLine::new("database", Err(chain(&error))));
            return lines;
        }
    };
    lines.push(CheckLine::new("database", db.check().await.map_err(|error| chain(&error))));
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
    let secrets = match compose::secrets(&config, &db).await {
        Ok(secrets) => secrets.check().await,
        Err(error) => Err(error),
    };
    lines.push(CheckLine::new("secret store", secrets.map_err(|error| error.chain())));
    db.close().await;
    lines
}
