//! One request and its answer.
//!
//! `vaultrs` says how requests look, and this file sends them. The own client of `vaultrs` hides
//! `Retry-After`, logs every refusal as an error, and quotes whole answers in its errors.

use std::fmt;
use std::time::Duration;

use gofer_core::{BackendError, ErrorKind};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Response, redirect};
use rustify::Endpoint;
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;

use crate::config::{VaultConfig, is_header_text};
use crate::error::{Failure, Refusal};
use crate::tls;

/// Requests under way at once; further ones wait. Vault answers in about a millisecond, so more
/// would only cost connections.
const MAX_IN_FLIGHT: usize = 64;
/// Longest answer: the list of one folder with some hundred thousand secrets.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;
/// Memory that is set aside for an answer before it comes: a secret of 64 KiB in JSON, several
/// times over.
const MAX_ANNOUNCED_BYTES: usize = 1024 * 1024;
/// A standby names the active server, which may just have changed.
const MAX_REDIRECTS: usize = 4;
/// Longest time to connect, when an answer may take longer than that.
const MAX_CONNECT_TIME: Duration = Duration::from_secs(5);
/// Below this a secret is found in texts by chance.
const MIN_MASKED_BYTES: usize = 4;

/// One call: the endpoint, and the token that it goes with.
pub(crate) struct Request<'a, E> {
    pub(crate) endpoint: &'a E,
    /// `None` for calls that need none.
    pub(crate) token: Option<&'a SecretString>,
    /// Whether it is about the configured namespace; some paths exist outside all of them only.
    pub(crate) in_namespace: bool,
    /// A value in the request that no error may show.
    pub(crate) secret: Option<&'a SecretString>,
}

/// Speaks to one Vault.
pub(crate) struct Client {
    http: reqwest::Client,
    address: String,
    namespace: Option<HeaderValue>,
    in_flight: Semaphore,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("address", &self.address)
            .field("namespace", &self.namespace)
            .finish()
    }
}

impl Client {
    /// Reads the certificates; connects to nothing.
    pub(crate) fn new(config: &VaultConfig) -> Result<Self, BackendError> {
        let url = config.url()?;
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("gofer/", env!("CARGO_PKG_VERSION")))
            .timeout(config.request_timeout)
            .connect_timeout(config.request_timeout.min(MAX_CONNECT_TIME))
            .pool_max_idle_per_host(MAX_IN_FLIGHT)
            .redirect(redirect::Policy::custom(follow))
            .referer(false)
            // Secrets go to the address and nowhere else, also when the environment names a proxy.
            .no_proxy();

        if url.scheme() == "https" {
            builder = builder.tls_backend_preconfigured(tls::client_config(config)?);
        } else {
            // Spares the library a look at the system's certificates.
            builder = builder.tls_backend_preconfigured(tls::no_trust()?);
        }

        let http = builder.build().map_err(|error| {
            BackendError::new(ErrorKind::Internal, "cannot set up the HTTP client")
                .with_source(error)
        })?;

        let namespace =
            config.namespace.as_deref().map(HeaderValue::from_str).transpose().map_err(|_| {
                BackendError::new(
                    ErrorKind::Invalid,
                    "namespace: has characters that no HTTP header may have",
                )
            })?;

        let address = url.as_str().trim_end_matches('/').to_owned();
        Ok(Self { http, address, namespace, in_flight: Semaphore::new(MAX_IN_FLIGHT) })
    }

    /// The server's address, for messages.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Sends one request, once.
    pub(crate) async fn send<E: Endpoint>(
        &self,
        request: Request<'_, E>,
    ) -> Result<Answer, Failure> {
        let sent = self.build(&request)?;
        let _turn = self
            .in_flight
            .acquire()
            .await
            .map_err(|_| Failure::Garbled("gofer is shutting down"))?;
        let response = self.http.execute(sent).await.map_err(Failure::from)?;
        let (status, retry_after) = (response.status(), retry_after(response.headers()));
        let body = read(response).await?;

        if status.is_success() {
            return Ok(Answer { body });
        }

        let told: ErrorBody = serde_json::from_slice(body.expose_secret()).unwrap_or_default();
        let masked = |text: String| {
            let secrets = [request.token, request.secret];
            let is_in = |secret: &SecretString| {
                let secret = secret.expose_secret();
                secret.len() >= MIN_MASKED_BYTES && text.contains(secret)
            };
            let shows = secrets.into_iter().flatten().any(is_in);
            if shows { "a message that quotes the secret".to_owned() } else { text }
        };

        Err(Failure::Refused(Refusal {
            status: status.as_u16(),
            errors: told.errors.into_iter().map(masked).collect(),
            retry_after,
            gone_version: told.data.and_then(|data| data.metadata).map(|metadata| metadata.version),
        }))
    }

    fn build<E: Endpoint>(&self, request: &Request<'_, E>) -> Result<reqwest::Request, Failure> {
        // Only the path, the method and the body are used. The address may have a path of its own,
        // which `rustify` would put behind the version.
        let described = request
            .endpoint
            .request("http://vault.invalid")
            .map_err(|_| Failure::Garbled("the request has no path"))?;
        let path = described.uri().path_and_query().map_or("/", |path| path.as_str());
        let url = format!("{}/v1{path}", self.address);
        let mut builder = self.http.request(described.method().clone(), url);

        // An agent between us and the server may insist on this header: it shows that no browser
        // was tricked into the call.
        builder = builder.header("X-Vault-Request", "true");
        if let Some(token) = request.token {
            builder = builder.header("X-Vault-Token", sensitive(token)?);
        }

        if let Some(namespace) = self.namespace.as_ref().filter(|_| request.in_namespace) {
            builder = builder.header("X-Vault-Namespace", namespace);
        }

        let body = described.into_body();
        if !body.is_empty() {
            builder = builder.header(CONTENT_TYPE, "application/json").body(body);
        }

        builder.build().map_err(Failure::from)
    }
}

/// The answer to a request that succeeded.
#[derive(Debug)]
pub(crate) struct Answer {
    body: SecretSlice<u8>,
}

#[derive(Deserialize)]
struct DataBody<T> {
    data: T,
}

#[derive(Deserialize)]
struct AuthBody<T> {
    auth: T,
}

impl Answer {
    /// The whole answer as JSON.
    pub(crate) fn parse<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        // The parser's message may quote what it stumbled over, and that may be a secret.
        serde_json::from_slice(self.body.expose_secret())
            .map_err(|_| Failure::Garbled("its answer is not what vault answers here"))
    }

    /// The field `data` of the answer.
    pub(crate) fn data<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        self.parse().map(|body: DataBody<T>| body.data)
    }

    /// The field `auth` of the answer.
    pub(crate) fn auth<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        self.parse().map(|body: AuthBody<T>| body.auth)
    }
}

/// Vault's words of a refusal. For a deleted version they say more than that it is missing.
#[derive(Default, Deserialize)]
struct ErrorBody {
    #[serde(default)]
    errors: Vec<String>,
    data: Option<GoneVersion>,
}

#[derive(Deserialize)]
struct GoneVersion {
    metadata: Option<GoneMetadata>,
}

#[derive(Deserialize)]
struct GoneMetadata {
    version: u64,
}

async fn read(mut response: Response) -> Result<SecretSlice<u8>, Failure> {
    let expected = response
        .content_length()
        .and_then(|length| usize::try_from(length).ok())
        .unwrap_or_default();
    // Room for a whole secret from the beginning: a vector that grows leaves copies behind that are
    // not wiped. But not for any announced length.
    let mut body = Vec::with_capacity(expected.min(MAX_ANNOUNCED_BYTES));
    while let Some(chunk) = response.chunk().await.map_err(Failure::from)? {
        if body.len() + chunk.len() > MAX_ANSWER_BYTES {
            return Err(Failure::Garbled("its answer is longer than 64 MiB"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(SecretSlice::from(body))
}

/// Goes where a standby points, and takes the token along; but never from TLS into the clear.
fn follow(attempt: redirect::Attempt<'_>) -> redirect::Action {
    let was_secure = attempt.previous().iter().any(|url| url.scheme() == "https");
    let is_secure = attempt.url().scheme() == "https";
    if attempt.previous().len() > MAX_REDIRECTS || (was_secure && !is_secure) {
        return attempt.stop();
    }
    attempt.follow()
}

fn sensitive(token: &SecretString) -> Result<HeaderValue, Failure> {
    let text = token.expose_secret();
    let value = is_header_text(text).then(|| HeaderValue::from_str(text).ok()).flatten();
    let mut value = value.ok_or(Failure::Garbled("the token has characters that no token has"))?;
    value.set_sensitive(true);
    Ok(value)
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}
