//! Where the credentials come from, and how they stay good.
//!
//! ```text
//! request ──> Keyring::signer ── still good ──────────────────────────> Signer (bucket, public bucket)
//!                  └── about to end ──> load, once for all that wait ──> Signer
//!                                        ├── the configuration itself
//!                                        ├── the environment, or the credentials file
//!                                        └── instance: the machine's role (IMDSv2)
//! ```

mod instance;
mod keys;

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use gofer_core::time::Timestamp;
use gofer_core::{BackendError, ErrorKind};
use s3::creds::Credentials;
use s3::{Bucket, Region};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Mutex;
use tokio::task::spawn_blocking;

use crate::config::{CredentialSource, S3Config, invalid};
use instance::Instance;
pub(crate) use keys::Keys;

/// Temporary credentials are replaced this long before they end.
const RENEW_BEFORE_END: Duration = Duration::from_secs(5 * 60);
/// After a try to renew them that brought nothing better, they are used this long before the next.
const RENEW_PAUSE: Duration = Duration::from_secs(20);

/// The credentials, loaded when first needed and again before they end.
#[derive(Debug)]
pub(crate) struct Keyring {
    config: S3Config,
    instance: Instance,
    current: RwLock<Option<Arc<Signer>>>,
    /// Held while loading, so that one load serves all who wait; when that was.
    loading: Mutex<Option<Timestamp>>,
}

/// The bucket under the two names it has, with the credentials that sign for it.
pub(crate) struct Signer {
    /// As Gofer reaches it.
    pub(crate) bucket: Bucket,
    /// As presigned URLs name it.
    pub(crate) public: Bucket,
    keys: Keys,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer").field("ends_at", &self.keys.ends_at).finish_non_exhaustive()
    }
}

impl Keyring {
    pub(crate) fn new(config: &S3Config) -> Result<Self, BackendError> {
        let instance = Instance::new(config.request_timeout)?;
        Ok(Self {
            config: config.clone(),
            instance,
            current: RwLock::default(),
            loading: Mutex::default(),
        })
    }

    /// What signs now.
    pub(crate) async fn signer(&self) -> Result<Arc<Signer>, BackendError> {
        if let Some(signer) = self.current().filter(|signer| signer.is_fresh()) {
            return Ok(signer);
        }

        let mut tried_at = self.loading.lock().await;
        let current = self.current();
        if let Some(signer) = &current {
            let tried = tried_at.is_some_and(|at| Timestamp::now().since(at) < RENEW_PAUSE);
            if signer.is_fresh() || (tried && signer.is_valid()) {
                return Ok(Arc::clone(signer));
            }
        }

        *tried_at = Some(Timestamp::now());
        match self.load().await {
            Ok(signer) => Ok(self.keep(signer)),
            Err(error) => {
                let Some(signer) = current.filter(|signer| signer.is_valid()) else {
                    return Err(error);
                };
                tracing::warn!(
                    error = error.chain(),
                    "the credentials of the object store end soon and are not renewed"
                );
                Ok(signer)
            }
        }
    }

    /// Loads the credentials again, because the store refused those of `signer`. Whether there are
    /// others now.
    pub(crate) async fn renewed(&self, signer: &Signer) -> bool {
        let _loading = self.loading.lock().await;
        if let Some(current) = self.current()
            && !current.keys.same_as(&signer.keys)
        {
            return true;
        }
        match self.load().await {
            Ok(loaded) if !loaded.keys.same_as(&signer.keys) => {
                self.keep(loaded);
                true
            }
            _ => false,
        }
    }

    fn current(&self) -> Option<Arc<Signer>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn keep(&self, signer: Signer) -> Arc<Signer> {
        let signer = Arc::new(signer);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&signer));
        signer
    }

    async fn load(&self) -> Result<Signer, BackendError> {
        let keys = match self.config.credentials {
            CredentialSource::Config => from_config(&self.config).await?,
            CredentialSource::Environment => from_environment()?,
            CredentialSource::File => from_file().await?,
            CredentialSource::Instance => self.instance.keys().await?,
            CredentialSource::Auto if self.config.access_key.is_some() => {
                from_config(&self.config).await?
            }
            CredentialSource::Auto if is_set("AWS_ACCESS_KEY_ID") => from_environment()?,
            CredentialSource::Auto => match from_file().await {
                Ok(keys) => keys,
                Err(no_file) => self
                    .instance
                    .keys()
                    .await
                    .map_err(|no_instance| none_found(&no_file, &no_instance))?,
            },
        };
        Signer::new(&self.config, keys)
    }
}

impl Signer {
    fn new(config: &S3Config, keys: Keys) -> Result<Self, BackendError> {
        let bucket = bucket(config, config.service(), &keys)?;
        let public = bucket_at(&bucket, config, config.public_service(), &keys)?;
        Ok(Self { bucket, public, keys })
    }

    /// Whether there is no need yet to renew the credentials.
    fn is_fresh(&self) -> bool {
        self.keys.ends_at.is_none_or(|end| Timestamp::now() < end.before(RENEW_BEFORE_END))
    }

    /// How long these credentials are good, if they end.
    pub(crate) fn good_for(&self) -> Option<Duration> {
        self.keys.ends_at.map(|end| end.since(Timestamp::now()))
    }

    fn is_valid(&self) -> bool {
        self.keys.ends_at.is_none_or(|end| Timestamp::now() < end)
    }
}

fn bucket(config: &S3Config, endpoint: String, keys: &Keys) -> Result<Bucket, BackendError> {
    // Named in full for AWS too, so that a region which rust-s3 does not know works as well.
    let region = Region::Custom { region: config.region.clone(), endpoint };
    let token = keys.token.as_ref().map(ExposeSecret::expose_secret);
    let credentials = Credentials::new(
        Some(&keys.access_key),
        Some(keys.secret_key.expose_secret()),
        None,
        token,
        None,
    );
    let made = credentials
        .map_err(s3::error::S3Error::from)
        .and_then(|keys| Bucket::new(&config.bucket, region, keys));
    let bucket = made.map_err(|error| {
        BackendError::new(ErrorKind::Internal, "cannot set up the signing of requests")
            .with_source(error)
    })?;

    Ok(if config.in_path() { *bucket.with_path_style() } else { *bucket })
}

/// The same bucket at another endpoint.
fn bucket_at(
    same: &Bucket,
    config: &S3Config,
    endpoint: String,
    keys: &Keys,
) -> Result<Bucket, BackendError> {
    if endpoint == config.service() { Ok(same.clone()) } else { bucket(config, endpoint, keys) }
}

async fn from_config(config: &S3Config) -> Result<Keys, BackendError> {
    let secret_key = match (&config.secret_key, &config.secret_key_file) {
        (Some(secret), _) => secret.clone(),
        (None, Some(path)) => read_secret(path).await?,
        (None, None) => {
            return Err(invalid(
                "secret_key_file: is not set; name the file with the key's secret",
            ));
        }
    };
    let access_key = config.access_key.clone().unwrap_or_default();
    Ok(Keys { access_key, secret_key, token: config.session_token.clone(), ends_at: None })
}

async fn read_secret(path: &Path) -> Result<SecretString, BackendError> {
    let file = path.to_path_buf();
    let text = spawn_blocking(move || std::fs::read_to_string(file))
        .await
        .map_err(std::io::Error::other)
        .flatten();
    let text = text.map_err(|error| {
        invalid(format!("secret_key_file: cannot read `{}`", path.display())).with_source(error)
    })?;

    match text.trim() {
        "" => Err(invalid(format!(
            "secret_key_file: `{}` is empty; write the key's secret into it",
            path.display()
        ))),
        secret => Ok(SecretString::from(secret)),
    }
}

fn is_set(variable: &str) -> bool {
    std::env::var(variable).is_ok_and(|value| !value.is_empty())
}

fn from_environment() -> Result<Keys, BackendError> {
    for variable in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"] {
        if !is_set(variable) {
            return Err(invalid(format!(
                "credentials: `{variable}` is not set in the server's environment"
            )));
        }
    }
    let found = Credentials::from_env().map_err(|error| {
        invalid("credentials: the environment holds none that can be read").with_source(error)
    })?;
    Ok(found.into())
}

async fn from_file() -> Result<Keys, BackendError> {
    let profile = std::env::var("AWS_PROFILE").unwrap_or_else(|_| "default".to_owned());
    let wanted = profile.clone();
    let found = spawn_blocking(move || Credentials::from_profile(Some(&wanted))).await;

    match found {
        Ok(Ok(found)) => Ok(found.into()),
        Ok(Err(error)) => {
            let place = "`AWS_SHARED_CREDENTIALS_FILE` or `~/.aws/credentials`";
            Err(invalid(format!("credentials: there is no profile `{profile}` in {place}"))
                .with_source(error))
        }
        Err(error) => {
            Err(BackendError::new(ErrorKind::Unavailable, "gofer is shutting down")
                .with_source(error))
        }
    }
}

fn none_found(no_file: &BackendError, no_instance: &BackendError) -> BackendError {
    let next_step = "set access_key and secret_key_file, or say where they are with credentials";
    let looked = "neither settings nor environment hold any";
    invalid(format!(
        "credentials: none found; {next_step} ({looked}; {}; {})",
        no_file.chain(),
        no_instance.chain()
    ))
}

#[cfg(test)]
mod tests;
