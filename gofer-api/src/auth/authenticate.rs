//! Who calls. Every request passes [`Authenticate`] before any service sees it; what it found
//! travels with the request.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use futures::future::BoxFuture;
use gofer_core::scheduler::Scheduler;
use gofer_db::Db;
use gofer_engine::run_token_hash;
use http::{HeaderMap, Request, Response, Uri};
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use super::identity::{Identity, Signed};
use super::permissions::{self, Rule};
use super::provenance::Provenance;
use super::standing::problem_of;
use super::token::{TOKEN_PREFIX, bearer, has_signed_form};
use super::workload::WorkloadTokens;
use crate::config::Access;
use crate::error::{ApiError, TokenProblem};
use crate::transport::{Connection, disconnect, take_ready};

/// Who calls, and by which rule; every request a service sees carries one.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) identity: Identity,
    pub(crate) rule: Rule,
}

/// What authentication needs.
#[derive(Debug)]
pub(crate) struct Authenticator {
    pub(crate) db: Db,
    pub(crate) scheduler: Arc<dyn Scheduler>,
    pub(crate) workload_tokens: WorkloadTokens,
    pub(crate) provenance: Provenance,
    /// Who may call without a token, or with one that no database has.
    pub(crate) access: Access,
    /// The SHA-256 of the server's own token, if it has one.
    pub(crate) own_token: Option<[u8; 32]>,
}

impl Authenticator {
    /// Who calls, unless the call is to be refused whatever it is about.
    pub(crate) async fn authenticate(
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
            Ok(text) if rule == Rule::Execution && self.is_of_scheduler(text) => {
                Identity::Execution(Signed(text.into()))
            }
            // A token that is sent has to be good, also where none need be sent.
            Ok(text) => self.identify(text).await?,
            Err(TokenProblem::Missing) => self.without_token(rule, headers, uri, peer)?,
            Err(problem) => return Err(ApiError::Unauthenticated(problem)),
        };

        Ok(Caller { identity, rule })
    }

    fn without_token(
        &self,
        rule: Rule,
        headers: &HeaderMap,
        uri: &Uri,
        peer: Option<IpAddr>,
    ) -> Result<Identity, ApiError> {
        // Health tells only that a server is there, and a caller that has got here knows that.
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

        if self.is_of_scheduler(text) {
            return self.workload_tokens.identify(&*self.scheduler, &self.db, &hash, text).await;
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
    fn is_of_scheduler(&self, text: &str) -> bool {
        has_signed_form(text) && self.scheduler.identities().is_some()
    }
}

/// The other end of the connection.
fn peer(extensions: &http::Extensions) -> Option<IpAddr> {
    extensions.get::<Arc<Connection>>().map(|connection| connection.address())
}

/// Puts authentication before services.
#[derive(Debug, Clone)]
pub(crate) struct AuthLayer(pub(crate) Arc<Authenticator>);

impl<S> Layer<S> for AuthLayer {
    type Service = Authenticate<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Authenticate { inner, authenticator: self.0.clone() }
    }
}

/// Authenticates each request, then passes it on with its [`Caller`].
#[derive(Debug, Clone)]
pub(crate) struct Authenticate<S> {
    inner: S,
    authenticator: Arc<Authenticator>,
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
        let authenticator = self.authenticator.clone();
        Box::pin(async move {
            let peer = peer(request.extensions());
            match authenticator.authenticate(request.headers(), request.uri(), peer).await {
                Ok(caller) => {
                    request.extensions_mut().insert(caller);
                    inner.call(disconnect::watch(request)).await
                }
                Err(error) => {
                    let caller = authenticator.provenance.caller(request.headers(), peer);
                    tracing::debug!(path = request.uri().path(), ?caller, %error, "a call is refused");
                    Ok(Status::from(error).into_http())
                }
            }
        })
    }
}

#[cfg(test)]
impl Authenticator {
    /// One off loopback without a token of its own.
    pub(crate) fn for_test(db: Db, scheduler: Arc<dyn Scheduler>, access: Access) -> Self {
        let provenance = Provenance::new(&crate::config::ServerConfig::default(), false);
        let workload_tokens = WorkloadTokens::default();
        Self { db, scheduler, workload_tokens, provenance, access, own_token: None }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use gofer_conformance::MemoryScheduler;
    use gofer_core::Timestamp;
    use gofer_core::entity::TokenKind;
    use gofer_db::DbConfig;
    use http::HeaderValue;
    use http::header::AUTHORIZATION;
    use secrecy::ExposeSecret;

    use super::*;
    use crate::auth::token::new_token;

    fn headers(authorization: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_static(authorization))])
    }

    async fn authenticator(dir: &std::path::Path, access: Access) -> Authenticator {
        let db = Db::connect(DbConfig::sqlite(dir.join("gofer.db"))).await.unwrap();
        Authenticator::for_test(db, Arc::new(MemoryScheduler::new()), access)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_token_works_until_it_expires() {
        let dir = tempfile::tempdir().unwrap();
        let authenticator = authenticator(dir.path(), Access::Tokens).await;
        let hour = Duration::from_secs(3600);
        let lives = [
            (Timestamp::now().after(hour), None),
            (Timestamp::now().before(Duration::from_secs(1)), Some(TokenProblem::Expired)),
        ];

        for (expires_at, expected) in lives {
            let (mut token, secret) = new_token(TokenKind::Client, "", "dev");
            token.expires_at = Some(expires_at);
            authenticator
                .db
                .token_insert(&token, &run_token_hash(secret.expose_secret()))
                .await
                .unwrap();
            let problem = match authenticator.identify(secret.expose_secret()).await {
                Err(ApiError::Unauthenticated(problem)) => Some(problem),
                found => found.map(|_| None).unwrap(),
            };
            assert_eq!(problem, expected);
        }

        authenticator.db.close().await;
    }

    /// Whatever a server asks for, and whatever is called: health, what is public, what is not.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_token_that_is_not_good_is_refused_everywhere() {
        for access in [Access::Tokens, Access::OwnToken, Access::Anybody] {
            let dir = tempfile::tempdir().unwrap();
            let authenticator = authenticator(dir.path(), access).await;
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
                    let admitted = authenticator
                        .authenticate(&headers(bad), &path.parse().unwrap(), None)
                        .await;
                    assert!(
                        matches!(admitted, Err(ApiError::Unauthenticated(_))),
                        "{access:?} {path} {bad}: {admitted:?}"
                    );
                }

                let bare = authenticator
                    .authenticate(&HeaderMap::new(), &path.parse().unwrap(), None)
                    .await;
                let is_open = access == Access::Anybody || !others.contains(path);
                assert_eq!(bare.is_ok(), is_open, "{access:?} {path}: {bare:?}");
            }

            authenticator.db.close().await;
        }
    }
}
