//! Who calls. Every request passes [`Authenticate`] before any service sees it; what it found travels with the request.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use futures::future::BoxFuture;
use gofer_core::Timestamp;
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

use crate::cut;
use crate::error::{ApiError, TokenProblem};
use crate::executions::Executions;
use crate::permissions::{self, Rule};

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
    /// Anybody, on a server without tokens; may do everything.
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
    /// Whoever holds a token that a scheduler may have given an execution. The scheduler itself looks at it.
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
            Self::Dev | Self::Management(_) => None,
            Self::Client { namespaces, .. } => Some(namespaces.clone()),
            Self::Run(key) => Some(vec![key.namespace.clone()]),
            Self::Anonymous | Self::Execution(_) => Some(Vec::new()),
        }
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
    /// Whether callers need a token. Without, a valid token is still honoured: a task is its run, not everybody.
    pub(crate) demands_token: bool,
    /// Without tokens on loopback: calls that a web page got here under a name of its own are refused.
    pub(crate) local_hosts_only: bool,
}

impl Gate {
    pub(crate) async fn admit(&self, headers: &HeaderMap, uri: &Uri) -> Result<Caller, ApiError> {
        let path = uri.path();
        let Some(rule) = permissions::rule(path) else {
            return Err(ApiError::NoSuchMethod { path: path.to_owned() });
        };
        if self.local_hosts_only && !is_local_host(headers, uri) {
            return Err(ApiError::Unauthenticated(TokenProblem::ForeignHost));
        }
        if rule == Rule::Execution
            && let Some(text) = bearer(headers).ok().filter(|text| self.is_signed(text))
        {
            return Ok(Caller { identity: Identity::Execution(Signed(text.into())), rule });
        }
        let identity = match (self.identify(headers).await, self.demands_token) {
            (Ok(identity), _) => identity,
            (Err(ApiError::Unauthenticated(_)), false) => Identity::Dev,
            (Err(ApiError::Unauthenticated(_)), true) if rule == Rule::Public => Identity::Anonymous,
            (Err(error), _) => return Err(error),
        };
        Ok(Caller { identity, rule })
    }

    async fn identify(&self, headers: &HeaderMap) -> Result<Identity, ApiError> {
        let text = bearer(headers).map_err(ApiError::Unauthenticated)?;
        let hash = run_token_hash(text);
        if self.is_signed(text) {
            return self.executions.identify(self, &hash, text).await;
        }
        if !text.starts_with(TOKEN_PREFIX) {
            let run = self.db.run_by_token_hash(&hash).await?;
            return run.map(Identity::Run).ok_or(ApiError::Unauthenticated(TokenProblem::Unknown));
        }
        let token = self.db.token_by_hash(&hash).await?.ok_or(ApiError::Unauthenticated(TokenProblem::Unknown))?;
        if token.disabled {
            return Err(ApiError::Unauthenticated(TokenProblem::Disabled));
        }
        if token.expires_at.is_some_and(|end| end <= Timestamp::now()) {
            return Err(ApiError::Unauthenticated(TokenProblem::Expired));
        }
        Ok(Identity::of_token(token))
    }

    /// Whether only the scheduler can say what a token is worth.
    fn is_signed(&self, text: &str) -> bool {
        is_signed(text) && self.scheduler.capabilities().workload_identity
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

/// A page of another site can reach a loopback port under a name it controls; then that name is what the call says.
fn is_local_host(headers: &HeaderMap, uri: &Uri) -> bool {
    let host = uri.host().map(str::to_owned).or_else(|| {
        let value = headers.get(http::header::HOST)?.to_str().ok()?;
        value.parse::<Uri>().ok()?.host().map(str::to_owned)
    });
    // Nothing but a program of its own sends no host at all.
    let Some(host) = host else { return true };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.eq_ignore_ascii_case("localhost") || bare.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
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
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, context: &mut TaskContext<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        // The instance that is ready is the one to call; the clone waits for its own turn.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let gate = self.gate.clone();
        Box::pin(async move {
            match gate.admit(request.headers(), request.uri()).await {
                Ok(caller) => {
                    request.extensions_mut().insert(caller);
                    inner.call(cut::watch(request)).await
                }
                Err(error) => Ok(Status::from(error).into_http()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use gofer_core::testing::MemoryScheduler;
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

    #[tokio::test(flavor = "multi_thread")]
    async fn a_token_works_until_it_expires() {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::connect(DbConfig::sqlite(dir.path().join("gofer.db"))).await.unwrap();
        let scheduler = Arc::new(MemoryScheduler::new());
        let gate = Gate {
            db: db.clone(),
            scheduler,
            executions: Executions::default(),
            demands_token: true,
            local_hosts_only: false,
        };
        let hour = Duration::from_secs(3600);
        let lives = [
            (Timestamp::now().after(hour), None),
            (Timestamp::now().before(Duration::from_secs(1)), Some(TokenProblem::Expired)),
        ];
        for (expires_at, expected) in lives {
            let (mut token, secret) = new_token(TokenKind::Client, "", "dev");
            token.expires_at = Some(expires_at);
            db.token_insert(&token, &run_token_hash(secret.expose_secret())).await.unwrap();
            let value = HeaderValue::from_str(&format!("Bearer {}", secret.expose_secret())).unwrap();
            let problem = match gate.identify(&HeaderMap::from_iter([(AUTHORIZATION, value)])).await {
                Err(ApiError::Unauthenticated(problem)) => Some(problem),
                found => found.map(|_| None).unwrap(),
            };
            assert_eq!(problem, expected);
        }
        db.close().await;
    }

    #[test]
    fn only_local_names_are_local() {
        let local = |uri: &str, host: Option<&'static str>| {
            let host = host.map(|host| (http::header::HOST, HeaderValue::from_static(host)));
            is_local_host(&HeaderMap::from_iter(host), &uri.parse().unwrap())
        };
        assert!(local("http://127.0.0.1:8469/x", None) && local("http://[::1]:8469/x", None));
        assert!(local("/x", Some("localhost:8469")) && local("/x", None));
        assert!(!local("http://evil.example:8469/x", None) && !local("/x", Some("evil.example:8469")));
        assert!(!local("http://127.0.0.1.evil.example/x", None));
    }
}
