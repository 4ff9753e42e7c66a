//! What a request may cost before its handler sees it. Behind authentication and before every
//! service: a caller without the right is refused on the headers alone, and a body is read within a
//! time, counted before it is decoded, and paid for from a budget of bytes that all requests share.
//!
//! ```text
//! headers ─ Authenticate ─ rights ─ calls at once ─┐
//! body ───── whole messages ─ Walk ─ Budget ───────┴─ service ─ Answer ─ caller
//! ```

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use http::{HeaderMap, Request, Response};
use tokio::time::Instant;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};

use self::answer::Answer;
use self::body::{Arrived, Rules, whole_messages};
use self::shape::{Method, SHAPES};
use crate::auth::{Caller, Identity};
use crate::config::Limits;
use crate::error::ApiError;
use crate::transport::{Budget, Charge, Connection, Stall, take_ready};

mod answer;
mod body;
mod rights;
mod shape;
mod walk;

pub(crate) use body::Held;

/// Longest message of a request. Specs are refused over 3 MiB; the room above lets their callers
/// hear which rule it was.
pub(crate) const REQUEST_MAX_BYTES: usize = 4 * 1024 * 1024;
/// Longest message of calls that need no token: they ask for a name at most.
const PUBLIC_REQUEST_MAX_BYTES: u64 = 4 * 1024;
/// Answers that are made and not yet taken by their readers, of all connections together.
const ANSWERS_MAX_BYTES: usize = 256 * 1024 * 1024;

/// What all requests of a server share.
#[derive(Debug)]
pub(crate) struct Intake {
    requests: Budget,
    answers: Budget,
    call_timeout: Duration,
    idle_timeout: Duration,
}

impl Intake {
    /// As the limits say.
    pub(crate) fn new(limits: &Limits) -> Self {
        // The table is made now, so that the first caller does not wait for it.
        std::sync::LazyLock::force(&SHAPES);
        Self {
            requests: Budget::new(limits.request_memory),
            answers: Budget::new(ANSWERS_MAX_BYTES),
            call_timeout: limits.call_timeout,
            idle_timeout: limits.idle_timeout,
        }
    }

    fn rules(
        &self,
        path: &str,
        method: Option<Method>,
        identity: &Identity,
        deadline: Instant,
    ) -> Rules {
        let public = method.is_none() || !is_known(identity) || path == BOOTSTRAP_PATH;
        Rules {
            max_bytes: if public { PUBLIC_REQUEST_MAX_BYTES } else { REQUEST_MAX_BYTES as u64 },
            shape: method.map(|method| method.request),
            many: method.is_none_or(|method| method.streams_requests),
            deadline,
            patience: self.idle_timeout,
            hurry: public,
        }
    }
}

const BOOTSTRAP_PATH: &str = "/gofer.v1.TokenService/BootstrapToken";

/// Puts the intake before services.
#[derive(Debug, Clone)]
pub(crate) struct IntakeLayer(pub(crate) Arc<Intake>);

impl<S> Layer<S> for IntakeLayer {
    type Service = Admit<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Admit { inner, intake: self.0.clone() }
    }
}

/// Admits each request within its limits.
#[derive(Debug, Clone)]
pub(crate) struct Admit<S> {
    inner: S,
    intake: Arc<Intake>,
}

impl<S> Service<Request<Body>> for Admit<S>
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

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let inner = take_ready(&mut self.inner);
        let intake = self.intake.clone();
        Box::pin(async move {
            let answered = intake.serve(inner, request).await;
            Ok(answered.unwrap_or_else(|error| Status::from(error).into_http()))
        })
    }
}

impl Intake {
    async fn serve<S>(
        &self,
        mut inner: S,
        mut request: Request<Body>,
    ) -> Result<Response<Body>, ApiError>
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    {
        let Some(caller) = request.extensions().get::<Caller>().cloned() else {
            return Err(ApiError::Broken);
        };

        rights::check(&caller)?;
        let connection = request.extensions().get::<Arc<Connection>>().cloned().unwrap_or_default();
        let in_flight = connection.begin_call(is_known(&caller.identity))?;

        let path = request.uri().path().to_owned();
        let method = SHAPES.method(&path);
        let limit =
            self.call_timeout.min(wanted_timeout(request.headers()).unwrap_or(Duration::MAX));
        let deadline = Instant::now() + limit;
        let rules = self.rules(&path, method, &caller.identity, deadline);
        let (held, arrived) = (Held::default(), Arrived::default());
        let actor = caller.identity.actor();
        let (paid, seen) = (held.clone(), arrived.clone());

        request = request
            .map(|body| whole_messages(body, rules, self.requests.account(&actor), paid, seen));
        let answers = connection.answers(&self.answers, &actor);
        request.extensions_mut().insert(answers);
        request.extensions_mut().insert(held.clone());

        // A call of one message and one answer ends by the deadline, even if the message arrives
        // slowly.
        let answer = inner.call(request);
        let unary =
            method.is_some_and(|method| !method.streams_requests && !method.streams_answers);
        let answer = match unary {
            true => tokio::time::timeout_at(deadline, answer).await.map_err(|_| {
                match arrived.happened() {
                    true => ApiError::TooSlow { seconds: limit.as_secs() },
                    false => ApiError::RequestIncomplete,
                }
            })?,
            false => answer.await,
        };

        let Ok(mut answer) = answer;
        if let Some(problem) = unreadable(answer.headers()) {
            return Err(ApiError::Malformed { problem });
        }

        let memory = answer.extensions_mut().remove::<Arc<Charge>>();
        Ok(answer.map(|body| Body::new(Answer::new(body, Stall::current(), in_flight, memory))))
    }
}

/// Whether somebody's token was looked up and found. What an execution shows is looked at by its
/// scheduler, later.
fn is_known(identity: &Identity) -> bool {
    !matches!(identity, Identity::Anonymous | Identity::Execution(_))
}

/// What is wrong with a request that tonic could not read. It calls that `INTERNAL`; this server's
/// own faults have details.
fn unreadable(headers: &HeaderMap) -> Option<String> {
    let status = Status::from_header_map(headers)?;
    (status.code() == Code::Internal && status.details().is_empty())
        .then(|| status.message().to_owned())
}

/// The header `grpc-timeout`: up to eight digits and a unit.
fn wanted_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let count: u64 = digits.parse().ok().filter(|_| digits.len() <= 8)?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_callers_timeout_is_read() {
        let timeout = |text: &'static str| {
            wanted_timeout(&HeaderMap::from_iter([(
                http::HeaderName::from_static("grpc-timeout"),
                HeaderValue::from_static(text),
            )]))
        };
        assert_eq!(timeout("30S"), Some(Duration::from_secs(30)));
        assert_eq!(timeout("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        assert_eq!(timeout("5m"), Some(Duration::from_millis(5)));
        for bad in ["", "S", "5", "5x", "-1S", "123456789S"] {
            assert_eq!(timeout(bad), None, "{bad}");
        }
    }
}
