//! `[server.metrics]`: a listener of its own that answers `GET /metrics`, and nothing else.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use http::header::{AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;

use super::error::ServerError;
use crate::config::MetricsSection;
use crate::files::{self, Reload};
use crate::metrics::Exposition;
use crate::transport::Certificates;

/// Scrapers at once; more wait to be accepted.
const CONNECTIONS_MAX: usize = 16;
/// From accept, or the last answer, to the end of a request's headers.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// A connection that is this old ends; a scraper makes a new one.
const CONNECTION_AGE_MAX: Duration = Duration::from_secs(3_600);
/// Bytes of a request that are gathered before it is refused.
const REQUEST_BYTES_MAX: usize = 16 * 1024;
/// Nothing is accepted for so long after the machine had no descriptor to give.
const PAUSE: Duration = Duration::from_millis(100);
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The token that a scraper sends, from its file. It is read again when it changes.
#[derive(Debug)]
pub(super) struct TokenFile {
    path: PathBuf,
    token: RwLock<SecretString>,
}

impl TokenFile {
    /// Reads it.
    ///
    /// # Errors
    /// [`ServerError::File`] for a file that cannot be read or holds no token.
    fn load(path: &Path) -> Result<Self, ServerError> {
        let token =
            read(path).map_err(|source| ServerError::File { path: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned(), token: RwLock::new(token) })
    }

    fn admits(&self, headers: &HeaderMap) -> bool {
        let token = self.token.read().unwrap_or_else(PoisonError::into_inner);
        let expected = format!("Bearer {}", token.expose_secret());
        let sent = headers.get(AUTHORIZATION).map(http::HeaderValue::as_bytes);
        sent.is_some_and(|sent| sent.ct_eq(expected.as_bytes()).into())
    }
}

fn read(path: &Path) -> std::io::Result<SecretString> {
    let token = files::read(path)?;
    match token.expose_secret().is_empty() {
        true => Err(std::io::Error::other("its first line is empty; a token is expected there")),
        false => Ok(token),
    }
}

impl Reload for TokenFile {
    fn what(&self) -> &'static str {
        "the token of `server.metrics`"
    }

    fn files(&self) -> Vec<PathBuf> {
        vec![self.path.clone()]
    }

    fn reload(&self) -> Result<(), String> {
        let token = read(&self.path).map_err(|error| error.to_string())?;
        *self.token.write().unwrap_or_else(PoisonError::into_inner) = token;
        Ok(())
    }
}

/// What became of `[server.metrics]`.
#[derive(Debug, Default)]
pub(super) struct MetricsListener {
    /// Where it listens, with the real port, if it does.
    pub(super) addr: Option<SocketAddr>,
    pub(super) token: Option<Arc<TokenFile>>,
}

/// Begins to answer scrapers until it is stopped, if there is to be a listener for them.
///
/// # Errors
/// [`ServerError::Listen`], and [`ServerError::File`] for the token's.
pub(super) async fn serve(
    section: &MetricsSection,
    exposition: Arc<Exposition>,
    certificates: Option<Arc<Certificates>>,
    stop: CancellationToken,
) -> Result<MetricsListener, ServerError> {
    let Some(wanted) = section.listen else { return Ok(MetricsListener::default()) };
    let token = section.token_file.as_deref().map(TokenFile::load).transpose()?.map(Arc::new);
    let listen_error = |source| ServerError::Listen { addr: wanted, source };
    let listener = TcpListener::bind(wanted).await.map_err(listen_error)?;
    let addr = listener.local_addr().map_err(listen_error)?;

    let endpoint = Endpoint { exposition, token: token.clone(), certificates };
    tokio::spawn(endpoint.serve(listener, stop));
    tracing::info!(%addr, token = token.is_some(), "metrics are at `/metrics`");
    Ok(MetricsListener { addr: Some(addr), token })
}

/// Where metrics are read.
#[derive(Debug, Clone)]
struct Endpoint {
    exposition: Arc<Exposition>,
    /// Whoever asks needs it.
    token: Option<Arc<TokenFile>>,
    /// Without any it serves plain text.
    certificates: Option<Arc<Certificates>>,
}

impl Endpoint {
    /// Answers until it is stopped.
    async fn serve(self, listener: TcpListener, stop: CancellationToken) {
        let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        while let Some(Ok(permit)) = stop.run_until_cancelled(permits.clone().acquire_owned()).await
        {
            let accepted = match stop.run_until_cancelled(listener.accept()).await {
                Some(accepted) => accepted,
                None => return,
            };
            let Ok((socket, _)) = accepted else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };

            let (endpoint, stop) = (self.clone(), stop.clone());
            tokio::spawn(async move {
                let _permit = permit;
                let connection =
                    tokio::time::timeout(CONNECTION_AGE_MAX, endpoint.connection(socket));
                let _ = stop.run_until_cancelled(connection).await;
            });
        }
    }

    async fn connection(&self, socket: TcpStream) {
        let socket = match &self.certificates {
            None => Either::Left(socket),
            Some(certificates) => {
                let handshake = certificates.acceptor().accept(socket);
                match tokio::time::timeout(HEAD_TIMEOUT, handshake).await {
                    Ok(Ok(socket)) => Either::Right(Box::new(socket)),
                    Ok(Err(_)) | Err(_) => return,
                }
            }
        };

        let service = service_fn(async |request| Ok::<_, Infallible>(self.answer(&request).await));
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(REQUEST_BYTES_MAX)
            .serve_connection(TokioIo::new(socket), service);
        if let Err(error) = served.await {
            tracing::debug!(%error, "a connection of `server.metrics` ended early");
        }
    }

    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if self.token.as_ref().is_some_and(|token| !token.admits(request.headers())) {
            let mut refusal =
                plain(StatusCode::UNAUTHORIZED, "send the token of `server.metrics.token_file`\n");
            let challenge = http::HeaderValue::from_static("Bearer");
            refusal.headers_mut().insert(WWW_AUTHENTICATE, challenge);
            return refusal;
        }

        if request.uri().path() != "/metrics" {
            return plain(StatusCode::NOT_FOUND, "the metrics are at /metrics\n");
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return plain(StatusCode::METHOD_NOT_ALLOWED, "metrics are read with GET\n");
        }

        let mut answer = Response::new(Full::new(Bytes::from(self.exposition.text().await)));
        let content_type = http::HeaderValue::from_static(OPEN_METRICS);
        answer.headers_mut().insert(CONTENT_TYPE, content_type);
        answer
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *answer.status_mut() = status;
    answer
}
