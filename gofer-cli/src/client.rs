//! The connection to a server: address, TLS, token, timeouts.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use gofer_proto::v1::event_service_client::EventServiceClient;
use gofer_proto::v1::execution_service_client::ExecutionServiceClient;
use gofer_proto::v1::namespace_service_client::NamespaceServiceClient;
use gofer_proto::v1::object_service_client::ObjectServiceClient;
use gofer_proto::v1::pipeline_service_client::PipelineServiceClient;
use gofer_proto::v1::run_service_client::RunServiceClient;
use gofer_proto::v1::secret_service_client::SecretServiceClient;
use gofer_proto::v1::system_service_client::SystemServiceClient;
use gofer_proto::v1::task_run_service_client::TaskRunServiceClient;
use gofer_proto::v1::token_service_client::TokenServiceClient;
use http::StatusCode;
use http::Uri;
use secrecy::{ExposeSecret, SecretString};
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Status};

use crate::certificates::certificate_problem;
use crate::errors::{Failure, innermost};
use crate::own_file::{self, Kind};

/// How long a connection may take to be made; a server that is there answers within milliseconds.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a call with one answer may take; the slowest (a registration of 3 MiB) takes well under
/// a second.
const UNARY_TIMEOUT: Duration = Duration::from_secs(30);
/// Without keepalive a connection whose packets are dropped is never noticed.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest answer of the contract (GetRun with 10,000 tasks) is said to be at most 16 MiB.
const MAX_ANSWER_BYTES: usize = 32 << 20;

/// Where the server is and who calls.
#[derive(Debug, Default)]
pub(crate) struct Target {
    /// `http://host:port` or `https://host:port`.
    pub(crate) addr: String,
    /// Trusted instead of the system's roots.
    pub(crate) ca_file: Option<PathBuf>,
    /// This client's own certificate and its key, for a server that asks for one.
    pub(crate) client_files: Option<(PathBuf, PathBuf)>,
    /// Send the token to other machines also without TLS.
    pub(crate) insecure: bool,
    pub(crate) token: Option<SecretString>,
    /// Where that is from, if it may change.
    pub(crate) token_source: Option<TokenSource>,
}

/// The services of one server; clones share the connection.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    transport: Transport,
    contact: Contact,
}

/// The connection, which adds the token to every call.
pub(crate) type Transport = InterceptedService<Contacted, Authorization>;

/// Whether the server has answered a call of this command, whichever: then it is worth waiting for
/// it. The beginning of an answer counts: a stream may have nothing to say for hours.
#[derive(Debug, Clone, Default)]
pub(crate) struct Contact(Arc<AtomicBool>);

impl Contact {
    pub(crate) fn is_made(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn make(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The connection, which notes when the server has answered.
#[derive(Debug, Clone)]
pub(crate) struct Contacted {
    channel: Channel,
    contact: Contact,
}

impl Service<http::Request<Body>> for Contacted {
    type Response = http::Response<Body>;
    type Error = tonic::transport::Error;
    type Future = futures::future::BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.channel.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let (answer, contact) = (self.channel.call(request), self.contact.clone());
        Box::pin(async move {
            let answer = answer.await?;
            // Any other is of something between here and the server: gRPC has its own codes.
            if answer.status() == StatusCode::OK {
                contact.make();
            }
            Ok(answer)
        })
    }
}

/// Adds `authorization: Bearer …`.
#[derive(Debug, Clone)]
pub(crate) struct Authorization {
    /// What was last read.
    value: Option<MetadataValue<Ascii>>,
    source: Option<TokenSource>,
}

/// Where a token is read again at each call: a command may outlive the server that it began with,
/// and so the server's own token.
#[derive(Debug, Clone)]
pub(crate) enum TokenSource {
    File(PathBuf),
    Server(Uri),
}

impl TokenSource {
    fn read(&self) -> Option<MetadataValue<Ascii>> {
        let token = match self {
            Self::File(path) => token(Some(path)).ok().flatten(),
            Self::Server(uri) => own_file::find(uri, Kind::Token).ok().map(|found| found.secret),
        };
        bearer(&token?).ok()
    }
}

impl Interceptor for Authorization {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let again = self.source.as_ref().and_then(TokenSource::read);
        if let Some(value) = again.or_else(|| self.value.clone()) {
            request.metadata_mut().insert("authorization", value);
        }
        Ok(request)
    }
}

macro_rules! services {
    ($($(#[$doc:meta])* $method:ident: $client:ident,)*) => {
        impl Client {
            $(
                pub(crate) fn $method(&self) -> $client<Transport> {
                    $client::new(self.transport.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
                }
            )*
        }
    };
}

services! {
    events: EventServiceClient,
    executions: ExecutionServiceClient,
    namespaces: NamespaceServiceClient,
    objects: ObjectServiceClient,
    pipelines: PipelineServiceClient,
    runs: RunServiceClient,
    secrets: SecretServiceClient,
    system: SystemServiceClient,
    task_runs: TaskRunServiceClient,
    tokens: TokenServiceClient,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// Wrong use for an address, token or certificate that cannot be; unreachable when nobody
    /// answers.
    pub(crate) async fn connect(target: &Target) -> Result<Self, Failure> {
        let uri = parse_addr(&target.addr)?;
        let in_clear = uri.scheme_str() == Some("http") && !is_loopback(&uri);
        if in_clear && target.token.is_some() && !target.insecure {
            return Err(Failure::usage(format!(
                "`{}` is not encrypted, so the token is not sent to it",
                target.addr
            ))
            .hint("use an `https://` address, or `--insecure` when nobody can listen on the way"));
        }

        let value = target.token.as_ref().map(bearer).transpose()?;
        let authorization = Authorization { value, source: target.token_source.clone() };
        let channel = endpoint(uri, target)?.connect().await.map_err(|error| {
            let failure = Failure::unreachable(format!(
                "no server answers at `{}`: {}",
                target.addr,
                innermost(&error)
            ));
            match certificate_problem(&error) {
                Some(hint) => failure.hint(hint),
                None => failure,
            }
        })?;

        let contact = Contact::default();
        let contacted = Contacted { channel, contact: contact.clone() };
        Ok(Self { transport: InterceptedService::new(contacted, authorization), contact })
    }

    /// Whether the server has answered.
    pub(crate) fn contact(&self) -> &Contact {
        &self.contact
    }
}

/// A request with one answer: given up when the answer takes too long.
pub(crate) fn unary<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(UNARY_TIMEOUT);
    request
}

/// Where Nomad puts the token that it signs for a task.
pub(crate) const NOMAD_TOKEN: &str = "NOMAD_TOKEN_gofer";

/// The token of `--token-file`, or of `GOFER_API_TOKEN`, or the one that Nomad gave the task this
/// runs in.
pub(crate) fn token(token_file: Option<&Path>) -> Result<Option<SecretString>, Failure> {
    let text = match token_file {
        Some(path) => std::fs::read_to_string(path).map_err(|error| {
            Failure::usage(format!("cannot read the token file `{}`: {error}", path.display()))
        })?,
        None => {
            let found = ["GOFER_API_TOKEN", NOMAD_TOKEN]
                .into_iter()
                .find_map(|name| Some((name, std::env::var_os(name)?)));
            let Some((name, text)) = found else { return Ok(None) };
            text.into_string().map_err(|_| Failure::usage(format!("`{name}` is not UTF-8")))?
        }
    };

    // A server's own file tells on the second line whose token it is.
    let token = text.trim().lines().next().unwrap_or_default().trim();
    match (token.is_empty(), token_file) {
        (true, Some(path)) => {
            Err(Failure::usage(format!("the token file `{}` is empty", path.display())))
        }
        (true, None) => Ok(None),
        (false, _) => Ok(Some(SecretString::from(token))),
    }
}

fn bearer(token: &SecretString) -> Result<MetadataValue<Ascii>, Failure> {
    let mut value: MetadataValue<Ascii> =
        format!("Bearer {}", token.expose_secret()).parse().map_err(|_| {
            Failure::usage("the token holds characters that no token has; is the right file named?")
        })?;
    value.set_sensitive(true);
    Ok(value)
}

pub(crate) fn parse_addr(addr: &str) -> Result<Uri, Failure> {
    let wrong = |why: &str| {
        Failure::usage(format!("the address `{addr}` is not one: {why}"))
            .hint("write it as `http://127.0.0.1:8469` or `https://gofer.example.com:8469`")
    };
    let uri: Uri =
        addr.parse().map_err(|error: http::uri::InvalidUri| wrong(&error.to_string()))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(wrong("it must begin with `http://` or `https://`"));
    }
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return Err(wrong("nothing may follow the port"));
    }
    Ok(uri)
}

fn is_loopback(uri: &Uri) -> bool {
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn endpoint(uri: Uri, target: &Target) -> Result<Endpoint, Failure> {
    let encrypted = uri.scheme_str() == Some("https");
    let endpoint = Endpoint::from(uri)
        .user_agent(concat!("gofer/", env!("CARGO_PKG_VERSION")))
        .map_err(|error| Failure::usage(error.to_string()))?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true);

    if !encrypted {
        return Ok(endpoint);
    }

    let mut tls = match &target.ca_file {
        Some(path) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read_ca(path)?)),
        None => ClientTlsConfig::new().with_native_roots(),
    };

    if let Some((certificate, key)) = &target.client_files {
        tls = tls.identity(Identity::from_pem(read_file(certificate)?, read_file(key)?));
    }

    endpoint
        .tls_config(tls)
        .map_err(|error| Failure::usage(format!("cannot set up TLS: {}", innermost(&error))))
}

fn read_file(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| {
        Failure::usage(format!("cannot read the file `{}`: {error}", path.display()))
    })
}

fn read_ca(path: &Path) -> Result<Vec<u8>, Failure> {
    let pem = std::fs::read(path).map_err(|error| {
        Failure::usage(format!("cannot read the CA file `{}`: {error}", path.display()))
    })?;
    if !pem.windows(27).any(|part| part == b"-----BEGIN CERTIFICATE-----") {
        return Err(Failure::usage(format!(
            "the CA file `{}` holds no PEM certificate",
            path.display()
        )));
    }
    Ok(pem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked_before_anything_is_sent() {
        for good in ["http://127.0.0.1:8469", "https://gofer.example.com", "http://[::1]:1/"] {
            assert!(parse_addr(good).is_ok(), "{good}");
        }
        for bad in ["", "localhost:8469", "ftp://x", "http://x:1/path", "http://x?y", "http://a b"]
        {
            let failure = parse_addr(bad).expect_err(bad);
            assert!(failure.render().contains("hint: write it as"), "{}", failure.render());
        }
    }

    #[test]
    fn only_this_machine_is_loopback() {
        let loopback = |addr: &str| is_loopback(&addr.parse().expect("a URI"));
        assert!(
            loopback("http://localhost:1")
                && loopback("http://127.0.0.9")
                && loopback("http://[::1]:1")
        );
        assert!(!loopback("http://10.0.0.1") && !loopback("http://localhost.example.com"));
    }

    #[tokio::test]
    async fn a_token_is_not_sent_in_clear_to_another_machine() {
        let token = Some(SecretString::from("gofer_t_secret"));
        let target = Target { addr: "http://192.0.2.1:8469".into(), token, ..Target::default() };
        let failure = Client::connect(&target).await.expect_err("must be refused");
        assert!(failure.render().contains("not encrypted"), "{}", failure.render());
        assert!(!format!("{target:?}{failure:?}").contains("gofer_t_secret"));
    }
}
