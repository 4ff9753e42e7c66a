//! Who may make the first management token: whoever can read a file of the operator's. Without a
//! file of the operator's own, each server makes a code and leaves it in its data directory. The
//! hashes of all codes are in the database, so that every server takes the code of any.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gofer_core::Timestamp;
use gofer_core::error::chain;
use gofer_db::{Db, ManagementEnd};
use gofer_engine::run_token_hash;
use secrecy::{ExposeSecret, SecretString};

use super::address::api_addr;
use super::error::ServerError;
use crate::config::{Access, ConfigError, ServerConfig};
use crate::files::make_data_dir;
use crate::files::{self, CredentialFile};
use crate::operations::tokens::BOOTSTRAP_CODE_MAX_BYTES;

/// The file's name in the data directory.
const BOOTSTRAP_FILE_NAME: &str = "bootstrap";
/// What the codes that servers make start with.
const CODE_PREFIX: &str = "gofer_b_";
/// Shortest code of an operator's own: nobody counts the guesses.
const CODE_MIN_BYTES: usize = 32;

/// Sees to it that the operator can bootstrap, unless that has been done. Returns the file that
/// this server has written.
///
/// # Errors
/// For a file that cannot be used, and the database's.
pub(crate) async fn prepare(
    config: &ServerConfig,
    addr: &str,
    db: &Db,
) -> Result<Option<CredentialFile>, ServerError> {
    if config.access() != Access::Tokens || config.server.ephemeral {
        return Ok(None);
    }

    warn_of_the_end(db).await?;
    let own = operators_code(config)?;
    let code = own.clone().unwrap_or_else(|| left_before(config).unwrap_or_else(new_code));
    let hash = run_token_hash(code.expose_secret());
    if !db.bootstrap_accept(&hash, Timestamp::now()).await.map_err(ServerError::Database)? {
        let _ = std::fs::remove_file(config.data_dir().join(BOOTSTRAP_FILE_NAME));
        return Ok(None);
    }

    match own {
        Some(_) => Ok(None),
        None => write(config, &code, addr).map(Some),
    }
}

/// Opens bootstrap again, for a server that is not running or, where several share the database,
/// beside them. Says what to do next.
///
/// # Errors
/// What is wrong, for a person: the configuration, a file, or the database (another server has it).
pub async fn reset_bootstrap(config: ServerConfig) -> Result<String, String> {
    config.validate().map_err(|error| error.to_string())?;
    make_data_dir(&config).map_err(|error| chain(&error))?;
    let own = operators_code(&config).map_err(|error| chain(&error))?;
    let code = own.clone().unwrap_or_else(new_code);
    let db = Db::connect(config.resolved_database()).await.map_err(|error| chain(&error))?;
    let hash = run_token_hash(code.expose_secret());
    let done = db.bootstrap_reset(&hash, "operator", Timestamp::now()).await;

    db.close().await;
    done.map_err(|error| chain(&error))?;
    if let (Some(_), Some(path)) = (&own, &config.server.bootstrap_token_file) {
        return Ok(format!("bootstrap is open; the code is in `{}`", path.display()));
    }

    let file = write(&config, &code, &api_addr(config.server.listen, config.serves_tls()))
        .map_err(|error| chain(&error))?;
    Ok(format!("bootstrap is open; the code is in `{}`", file.path().display()))
}

/// The code of `server.bootstrap_token_file`.
pub(crate) fn operators_code(config: &ServerConfig) -> Result<Option<SecretString>, ConfigError> {
    let Some(path) = &config.server.bootstrap_token_file else { return Ok(None) };
    let problem = |what: String| {
        let path = path.display();
        ConfigError { problems: vec![format!("server.bootstrap_token_file: `{path}` {what}")] }
    };

    let code = files::read(path).map_err(|error| problem(format!("cannot be read: {error}")))?;
    let bytes = code.expose_secret().len();
    if !(CODE_MIN_BYTES..=BOOTSTRAP_CODE_MAX_BYTES).contains(&bytes) {
        return Err(problem(format!(
            "has {bytes} bytes on its first line; {CODE_MIN_BYTES} to {BOOTSTRAP_CODE_MAX_BYTES} are needed, \
             such as of `openssl rand -hex 32`"
        )));
    }

    Ok(Some(code))
}

/// The code that a server before this one has left.
fn left_before(config: &ServerConfig) -> Option<SecretString> {
    let code = files::read_own(&config.data_dir().join(BOOTSTRAP_FILE_NAME))?;
    (code.expose_secret().starts_with(CODE_PREFIX) && code.expose_secret().len() >= CODE_MIN_BYTES)
        .then_some(code)
}

fn new_code() -> SecretString {
    SecretString::from(format!(
        "{CODE_PREFIX}{}",
        URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>())
    ))
}

fn write(
    config: &ServerConfig,
    code: &SecretString,
    addr: &str,
) -> Result<CredentialFile, ServerError> {
    let data_dir = config.data_dir();
    let file = CredentialFile::write(
        (&data_dir, BOOTSTRAP_FILE_NAME),
        code,
        addr,
        config.server.links_dir.as_deref(),
    )?;
    let path = file.path().display();
    tracing::info!(%path, "there is no management token yet; `gofer token bootstrap` makes it with \
                           the code in this file");
    Ok(file)
}

/// Nobody can make a management token when the last one has expired, but for the operator.
async fn warn_of_the_end(db: &Db) -> Result<(), ServerError> {
    match db.token_management_end(Timestamp::now()).await.map_err(ServerError::Database)? {
        ManagementEnd::At(end) => tracing::warn!(
            %end,
            "the last management token expires; make one without an end, or a later one, before \
             that. Afterwards only `gofer server --reset-bootstrap` helps"
        ),
        ManagementEnd::None | ManagementEnd::Never => {}
    }
    Ok(())
}
