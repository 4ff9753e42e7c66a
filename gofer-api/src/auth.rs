//! Who calls. Every request passes [`Authenticate`] before any service sees it; what it found
//! travels with the request.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use futures::future::BoxFuture;
use gofer_core::entity::{Token, TokenKind};
use gofer_core::id::{NamespaceId, RunKey};
use gofer_core::run::Initiator;
use gofer_core::scheduler::Scheduler;
use gofer_db::Db;
use gofer_engine::run_token_hash;
use http::header::AUTHORIZATION;
use http::{HeaderMap, Request, Response, Uri};
use secrecy::{ExposeSecret, SecretString};
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use crate::config::Access;
use crate::cut;
use crate::error::{ApiError, TokenProblem};
use crate::executions::Executions;
use crate::permissions::{self, Rule};
use crate::provenance::Provenance;
use crate::standing::problem_of;
use crate::transport::{Connection, take_ready};

/// What the tokens of people and programs start with, so that leaked ones can be recognised.
pub(crate) const TOKEN_PREFIX: &str = "gofer_t_";
/// Longest token worth hashing.
const MAX_TOKEN_BYTES: usize = 256;
/// Longest token that a scheduler may have signed.
const MAX_SIGNED_BYTES: usize = 4 * 1024;

/// Who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Identity {
    /// Nobody in particular; reaches public calls only.
    Anonymous,
    /// Anybody, on a server that asks for no token; may do everything.
    Anybody,
    /// The server's own user, with the server's own token; may do everything.
    Dev,
    /// Somebody with a management token; may do everything.
    Management(Token),
    /// Somebody with a client token.
    Client {
        /// Where it may work.
        namespaces: Vec<NamespaceId>,
        /// The token itself.
        token: Token,
    },
    /// A task, with its run's own token, or one that the scheduler gave the task.
    Run(RunKey),
    /// Whoever holds a token that a scheduler may have given an execution. The scheduler itself
    /// looks at it.
    Execution(Signed),
}

/// A token that looks as if a scheduler had signed it.
#[derive(Clone)]
pub(crate) struct Signed(SecretString);

impl Signed {
    /// The token.
    pub(crate) fn token(&self) -> &SecretString {
        &self.0
    }
}

impl std::fmt::Debug for Signed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signed")
    }
}

impl PartialEq for Signed {
    fn eq(&self, other: &Self) -> bool {
        self.0.expose_secret() == other.0.expose_secret()
    }
}

impl Eq for Signed {}

impl Identity {
    /// The actor of events and the author of changes.
    pub(crate) fn actor(&self) -> String {
        match self {
            Self::Anonymous => "anonymous".to_owned(),
            Self::Anybody => "anybody".to_owned(),
            Self::Dev => "dev".to_owned(),
            Self::Management(token) | Self::Client { token, .. } => token.id.clone(),
            Self::Run(key) => format!("run:{key}"),
            Self::Execution(_) => "execution".to_owned(),
        }
    }

    /// Who starts a run.
    pub(crate) fn initiator(&self) -> Initiator {
        Initiator::Token(self.actor())
    }

    /// The namespaces this caller may see; `None` is all of them.
    pub(crate) fn visible_namespaces(&self) -> Option<Vec<NamespaceId>> {
        match self {
            Self::Anybody | Self::Dev | Self::Management(_) => None,
            Self::Client { namespaces, .. } => Some(namespaces.clone()),
            Self::Run(key) => Some(vec![key.namespace.clone()]),
            Self::Anonymous | Self::Execution(_) => Some(Vec::new()),
        }
    }

    /// Whether it may do everything.
    pub(crate) fn manages(&self) -> bool {
        matches!(self, Self::Anybody | Self::Dev | Self::Management(_))
    }

    fn of_token(token: Token) -> Self {
        match token.kind {
            TokenKind::Management => Self::Management(token),
            TokenKind::Client => Self::Client { namespaces: token.namespaces.clone(), token },
        }
    }
}

/// Who calls, and by which rule; every request a service sees carries one.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) identity: Identity,
    pub(crate) rule: Rule,
}

/// What authentication needs.
#[derive(Debug)]
pub(crate) struct Gate {
    pub(crate) db: Db,
    pub(crate) scheduler: Arc<dyn Scheduler>,
    pub(crate) executions: Executions,
    pub(crate) provenance: Provenance,
    /// Who may call without a token, or with one that no database has.
    pub(crate) access: Access,
    /// The SHA-256 of the server's own token, if it has one.
    pub(crate) own_token: Option<[u8; 32]>,
}

impl Gate {
    /// Who calls, unless the call is to be refused whatever it is about.
    pub(crate) async fn admit(
        &self,
        headers: &HeaderMap,
        uri: &Uri,
        peer: Option<IpAddr>,
    ) -> Result<Caller, ApiError> {
        self.provenance.check_page(headers)?;
        let path = uri.path();
        let Some(rule) = permissions::rule(path) else {
            return Err(ApiError::NoSuchMethod { path: path.to_owned() });
        };

        let identity = match bearer(headers) {
            Ok(text) if rule == Rule::Execution && self.is_signed(text) => {
                Identity::Execution(Signed(text.into()))
            }
            // Whatever is sent has to be good, also where nothing need be sent.
            Ok(text) => self.identify(text).await?,
            Err(TokenProblem::Missing) => self.admit_without_token(rule, headers, uri, peer)?,
            Err(problem) => return Err(ApiError::Unauthenticated(problem)),
        };

        Ok(Caller { identity, rule })
    }

    fn admit_without_token(
        &self,
        rule: Rule,
        headers: &HeaderMap,
        uri: &Uri,
        peer: Option<IpAddr>,
    ) -> Result<Identity, ApiError> {
        // It tells whether a server is there, which whoever has got here knows.
        if rule == Rule::Health {
            return Ok(Identity::Anonymous);
        }

        let identity = match self.access {
            Access::Anybody => Some(Identity::Anybody),
            Access::OwnToken | Access::Tokens => {
                (rule == Rule::Public).then_some(Identity::Anonymous)
            }
        };

        if identity.is_some() || self.provenance.is_on_loopback() {
            self.provenance.check_host(headers, uri)?;
        }

        let Some(identity) = identity else {
            return Err(ApiError::Unauthenticated(self.missing()));
        };

        self.provenance.check_proxy(headers, peer)?;
        Ok(identity)
    }

    fn missing(&self) -> TokenProblem {
        if self.own_token.is_some() { TokenProblem::OwnMissing } else { TokenProblem::Missing }
    }

    async fn identify(&self, text: &str) -> Result<Identity, ApiError> {
        let hash = run_token_hash(text);
        if self.own_token == Some(hash) {
            return Ok(Identity::Dev);
        }

        if self.is_signed(text) {
            return self.executions.identify(self, &hash, text).await;
        }

        if !text.starts_with(TOKEN_PREFIX) {
            let run = self.db.run_by_token_hash(&hash).await?;
            return run.map(Identity::Run).ok_or(ApiError::Unauthenticated(TokenProblem::Unknown));
        }

        let token = self
            .db
            .token_by_hash(&hash)
            .await?
            .ok_or(ApiError::Unauthenticated(TokenProblem::Unknown))?;

        match problem_of(&token) {
            Some(problem) => Err(ApiError::Unauthenticated(problem)),
            None => Ok(Identity::of_token(token)),
        }
    }

    /// Whether only the scheduler can say what a token is worth.
    fn is_signed(&self, text: &str) -> bool {
        is_signed(text) && self.scheduler.identities().is_some()
    }
}

/// The form of a signed token: three parts. No other token has a dot.
fn is_signed(text: &str) -> bool {
    text.bytes().filter(|byte| *byte == b'.').count() == 2
}

fn bearer(headers: &HeaderMap) -> Result<&str, TokenProblem> {
    let value = headers.get(AUTHORIZATION).ok_or(TokenProblem::Missing)?;
    let text = value.to_str().map_err(|_| TokenProblem::Malformed)?;
    let (scheme, token) = text.split_once(' ').ok_or(TokenProblem::Malformed)?;
    let token = token.trim();
    let longest = if is_signed(token) { MAX_SIGNED_BYTES } else { MAX_TOKEN_BYTES };
    if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() || token.len() > longest {
        return Err(TokenProblem::Malformed);
    }
    Ok(token)
}

/// The other end of the connection.
fn peer(extensions: &http::Extensions) -> Option<IpAddr> {
    extensions.get::<Arc<Connection>>().map(|connection| connection.address())
}

/// Puts authentication before services.
#[derive(Debug, Clone)]
pub(crate) struct AuthLayer(pub(crate) Arc<Gate>);

impl<S> Layer<S> for AuthLayer {
    type Service = Authenticate<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Authenticate { inner, gate: self.0.clone() }
    }
}

/// Authenticates each request, then passes it on with its [`Caller`].
#[derive(Debug, Clone)]
pub(crate) struct Authenticate<S> {
    inner: S,
    gate: Arc<Gate>,
}

impl<S> Service<Request<Body>> for Authenticate<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, context: &mut TaskContext<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let mut inner = take_ready(&mut self.inner);
        let gate = self.gate.clone();
        Box::pin(async move {
            let peer = peer(request.extensions());
            match gate.admit(request.headers(), request.uri(), peer).await {
                Ok(caller) => {
                    request.extensions_mut().insert(caller);
                    inner.call(cut::watch(request)).await
                }
                Err(error) => {
                    let caller = gate.provenance.caller(request.headers(), peer);
                    tracing::debug!(path = request.uri().path(), ?caller, %error, "a call is refused");
                    Ok(Status::from(error).into_http())
                }
            }
        })
    }
}

#[cfg(test)]
impl Gate {
    /// A gate off loopback without a token of its own.
    pub(crate) fn for_test(db: Db, scheduler: Arc<dyn Scheduler>, access: Access) -> Self {
        let provenance = Provenance::new(&crate::config::ServerConfig::default(), false);
        let executions = Executions::default();
        Self { db, scheduler, executions, provenance, access, own_token: None }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use gofer_conformance::MemoryScheduler;
    use gofer_core::Timestamp;
    use gofer_db::DbConfig;
    use http::HeaderValue;

    use super::*;
    use crate::services::new_token;

    fn headers(authorization: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_static(authorization))])
    }

    #[test]
    fn a_bearer_token_is_taken_apart_strictly() {
        assert_eq!(bearer(&headers("Bearer gofer_t_x")), Ok("gofer_t_x"));
        assert_eq!(bearer(&headers("bearer  gofer_t_x ")), Ok("gofer_t_x"));
        assert_eq!(bearer(&HeaderMap::new()), Err(TokenProblem::Missing));
        let long = |dots: usize, size: usize| format!("{}{}", ".".repeat(dots), "x".repeat(size));
        for (dots, size, fits) in
            [(0, 257, false), (1, 257, false), (2, 4_094, true), (2, 4_095, false), (3, 257, false)]
        {
            let value = HeaderValue::from_str(&format!("Bearer {}", long(dots, size))).unwrap();
            let found = bearer(&HeaderMap::from_iter([(AUTHORIZATION, value)])).is_ok();
            assert_eq!(found, fits, "{dots} dots and {size} bytes");
        }
        for bad in ["gofer_t_x", "Basic abc", "Bearer ", "Bearer"] {
            assert_eq!(bearer(&headers(bad)), Err(TokenProblem::Malformed), "{bad}");
        }
    }

    async fn gate(dir: &std::path::Path, access: Access) -> Gate {
        let db = Db::connect(DbConfig::sqlite(dir.join("gofer.db"))).await.unwrap();
        Gate::for_test(db, Arc::new(MemoryScheduler::new()), access)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_token_works_until_it_expires() {
        let dir = tempfile::tempdir().unwrap();
        let gate = gate(dir.path(), Access::Tokens).await;
        let hour = Duration::from_secs(3600);
        let lives = [
            (Timestamp::now().after(hour), None),
            (Timestamp::now().before(Duration::from_secs(1)), Some(TokenProblem::Expired)),
        ];

        for (expires_at, expected) in lives {
            let (mut token, secret) = new_token(TokenKind::Client, "", "dev");
            token.expires_at = Some(expires_at);
            gate.db.token_insert(&token, &run_token_hash(secret.expose_secret())).await.unwrap();
            let problem = match gate.identify(secret.expose_secret()).await {
                Err(ApiError::Unauthenticated(problem)) => Some(problem),
                found => found.map(|_| None).unwrap(),
            };
            assert_eq!(problem, expected);
        }

        gate.db.close().await;
    }

    /// Whatever a server asks for, and whatever is called: health, what is public, what is not.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_token_that_is_not_good_is_refused_everywhere() {
        for access in [Access::Tokens, Access::OwnToken, Access::Anybody] {
            let dir = tempfile::tempdir().unwrap();
            let gate = gate(dir.path(), access).await;
            let health = ["/grpc.health.v1.Health/Check"];
            let public = ["/gofer.v1.TokenService/BootstrapToken"];
            let others =
                ["/gofer.v1.TokenService/WhoAmI", "/gofer.v1.NamespaceService/CreateNamespace"];

            for path in health.iter().chain(&public).chain(&others) {
                for bad in [
                    "Bearer gofer_t_unknown",
                    "Bearer gofer_r_unknown",
                    "Bearer a.b.c",
                    "Basic x",
                    "Bearer ",
                    "",
                ] {
                    let admitted = gate.admit(&headers(bad), &path.parse().unwrap(), None).await;
                    assert!(
                        matches!(admitted, Err(ApiError::Unauthenticated(_))),
                        "{access:?} {path} {bad}: {admitted:?}"
                    );
                }

                let bare = gate.admit(&HeaderMap::new(), &path.parse().unwrap(), None).await;
                let is_open = access == Access::Anybody || !others.contains(path);
                assert_eq!(bare.is_ok(), is_open, "{access:?} {path}: {bare:?}");
            }

            gate.db.close().await;
        }
    }
}
