//! From what the operator gave to a token.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use gofer_core::{BackendError, ErrorKind};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::time::Instant;
use vaultrs::api::auth::approle::requests::LoginWithApproleRequest;
use vaultrs::api::auth::kubernetes::requests::LoginWithKubernetesRequest;
use vaultrs::api::auth::oidc::requests::JWTLoginRequest;
use vaultrs::api::token::requests::LookupTokenSelfRequest;

use crate::client::{Client, Request};
use crate::config::{AuthConfig, AuthMethod, is_header_text};
use crate::error::{Failure, blocking};
use crate::token::Token;

/// Longest credential: JWTs have some thousand bytes.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// Why there is no token: the server's answer, or what is wrong on this side.
#[derive(Debug)]
pub(crate) enum LoginFailure {
    /// The login request failed.
    Vault(Failure),
    /// A fault on this side: no request was sent.
    Here(BackendError),
}

impl From<Failure> for LoginFailure {
    fn from(failure: Failure) -> Self {
        Self::Vault(failure)
    }
}

impl From<BackendError> for LoginFailure {
    fn from(error: BackendError) -> Self {
        Self::Here(error)
    }
}

impl LoginFailure {
    /// The error for the caller.
    pub(crate) fn into_error(self, address: &str, auth: &AuthConfig) -> BackendError {
        let failure = match self {
            Self::Here(error) => return error,
            Self::Vault(failure) => failure,
        };

        let method = auth.method.as_str();
        // Which of these statuses it is differs between methods and versions; the words say it.
        let Some(words) = failure.refused_for_good() else {
            let needs = "`read` on `auth/token/lookup-self`";
            return failure.into_error(address, &format!("log in by `{method}`"), needs);
        };

        let next_step = match auth.method {
            AuthMethod::Token => {
                "give it one that is alive in `auth.token_file` and has the policy \
                 config/vault/gofer-policy.hcl"
            }
            AuthMethod::AppRole => {
                "check `auth.role_id`, and put a secret id that is valid into \
                 `auth.secret_id_file`"
            }
            AuthMethod::Kubernetes | AuthMethod::Jwt => {
                "check that `auth.role` exists there and accepts this JWT"
            }
        };

        let message = match auth.method {
            AuthMethod::Token => {
                format!("vault at `{address}` refuses the token{words}; {next_step}")
            }
            _ => format!(
                "vault at `{address}` refuses the login at `auth/{}`{words}; {next_step}",
                auth.mount()
            ),
        };

        BackendError::new(ErrorKind::Denied, message)
    }
}

/// The part of a login's answer that matters, and of a renewal's.
#[derive(Deserialize)]
pub(crate) struct Login {
    client_token: SecretString,
    /// Seconds, 0 for ever.
    pub(crate) lease_duration: u64,
    pub(crate) renewable: bool,
}

/// The part of a token's description that matters.
#[derive(Deserialize)]
struct Lookup {
    /// Seconds left, rounded down.
    ttl: u64,
    /// When it ends, as text; a root token has none.
    expire_time: Option<String>,
    /// Seconds at its birth.
    #[serde(default)]
    creation_ttl: u64,
    #[serde(default)]
    renewable: bool,
}

/// Logs in, once. Files are read anew.
pub(crate) async fn log_in(client: &Client, auth: &AuthConfig) -> Result<Token, LoginFailure> {
    let mount = auth.mount();
    match auth.method {
        AuthMethod::Token => {
            existing(client, given("token", auth.token.as_ref(), auth.token_file.clone()).await?)
                .await
        }
        AuthMethod::AppRole => {
            let secret =
                given("secret_id", auth.secret_id.as_ref(), auth.secret_id_file.clone()).await?;
            let endpoint = LoginWithApproleRequest {
                mount: mount.to_owned(),
                role_id: auth.role_id.clone().unwrap_or_default(),
                secret_id: secret.expose_secret().to_owned(),
            };
            fresh(client, &endpoint, &secret).await
        }
        AuthMethod::Kubernetes => {
            let jwt = given("jwt_file", None, Some(auth.jwt_file())).await?;
            let endpoint = LoginWithKubernetesRequest {
                mount: mount.to_owned(),
                role: auth.role.clone().unwrap_or_default(),
                jwt: jwt.expose_secret().to_owned(),
            };
            fresh(client, &endpoint, &jwt).await
        }
        AuthMethod::Jwt => {
            let jwt = given("jwt_file", None, Some(auth.jwt_file())).await?;
            let endpoint = JWTLoginRequest {
                mount: mount.to_owned(),
                role: auth.role.clone(),
                jwt: jwt.expose_secret().to_owned(),
            };
            fresh(client, &endpoint, &jwt).await
        }
    }
}

/// Whether the token is alive: `Ok` when it is.
pub(crate) async fn look_up(client: &Client, token: &SecretString) -> Result<(), Failure> {
    described(client, token).await.map(drop)
}

async fn fresh<E: rustify::Endpoint>(
    client: &Client,
    endpoint: &E,
    secret: &SecretString,
) -> Result<Token, LoginFailure> {
    let since = Instant::now();
    let request = Request { endpoint, token: None, in_namespace: true, secret: Some(secret) };
    let login: Login = client.send(request).await?.auth()?;
    let lease = (login.lease_duration > 0).then(|| Duration::from_secs(login.lease_duration));
    Ok(Token::new(login.client_token, since, lease, login.renewable))
}

async fn existing(client: &Client, secret: SecretString) -> Result<Token, LoginFailure> {
    let since = Instant::now();
    let lookup = described(client, &secret).await?;
    let lease = lookup.expire_time.map(|_| Duration::from_secs(lookup.ttl));
    let mut token = Token::new(secret, since, lease, lookup.renewable);
    token.full_lease = token.full_lease.max(Duration::from_secs(lookup.creation_ttl));
    Ok(token)
}

async fn described(client: &Client, token: &SecretString) -> Result<Lookup, Failure> {
    let endpoint = LookupTokenSelfRequest {};
    client
        .send(Request { endpoint: &endpoint, token: Some(token), in_namespace: true, secret: None })
        .await?
        .data()
}

/// The credential itself, or what its file holds now.
async fn given(
    key: &'static str,
    value: Option<&SecretString>,
    file: Option<PathBuf>,
) -> Result<SecretString, BackendError> {
    match (value, file) {
        (Some(value), _) => checked(value.expose_secret(), &format!("auth.{key}")),
        (None, Some(file)) => blocking(move || read(key, &file)).await,
        (None, None) => {
            Err(BackendError::new(ErrorKind::Invalid, format!("auth.{key}: is not set")))
        }
    }
}

fn read(key: &str, path: &Path) -> Result<SecretString, BackendError> {
    let key = if key.ends_with("_file") { key.to_owned() } else { format!("{key}_file") };
    let shown = format!("auth.{key}: `{}`", path.display());
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_FILE_BYTES).read_to_end(&mut bytes));
    let result = match read {
        Ok(_) => match std::str::from_utf8(&bytes) {
            Ok(text) => checked(text, &shown),
            Err(_) => checked("\u{fffd}", &shown),
        },
        Err(error) => {
            let message =
                format!("{shown} cannot be read; the user that runs gofer must be able to");
            // Another process may be writing it anew just now, so it is worth another look later.
            Err(BackendError::new(ErrorKind::Unavailable, message).with_source(error))
        }
    };

    // Wiped when dropped, as the credential is.
    drop(secrecy::SecretSlice::from(bytes));
    result
}

/// A credential has no white space in it; around it, files usually do.
fn checked(text: &str, shown: &str) -> Result<SecretString, BackendError> {
    let text = text.trim();
    if text.is_empty() || !is_header_text(text) {
        let message =
            format!("{shown} must hold one credential of printable ASCII and nothing else");
        return Err(BackendError::new(ErrorKind::Invalid, message));
    }
    Ok(SecretString::from(text))
}
