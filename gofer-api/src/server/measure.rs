//! One measurement and one span for each call, from its headers to the last byte of its answer.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderMap, Request, Response};
use http_body::{Frame, SizeHint};
use tonic::Code;
use tonic::body::Body;
use tower::{Layer, Service};
use tracing::Instrument as _;

use crate::auth::permissions::RULES;
use crate::metrics::ServerMetrics;
use crate::transport::take_ready;

/// What a call of no known method counts as: names from outside would be series without bound.
const OTHER: &str = "other";

/// The name of a method of the contract, from its path.
fn method(path: &str) -> Option<&'static str> {
    let (listed, _) = RULES.iter().find(|(listed, _)| *listed == path)?;
    listed.strip_prefix('/').filter(|name| name.starts_with("gofer.v1."))
}

/// Measures every call that passes.
#[derive(Debug, Clone)]
pub(crate) struct MeasureLayer(pub(crate) ServerMetrics);

impl<S> Layer<S> for MeasureLayer {
    type Service = Measure<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Measure { inner, metrics: self.0.clone() }
    }
}

/// See [`MeasureLayer`].
#[derive(Debug, Clone)]
pub(crate) struct Measure<S> {
    inner: S,
    metrics: ServerMetrics,
}

impl<S> Service<Request<Body>> for Measure<S>
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

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let mut inner = take_ready(&mut self.inner);
        let method = method(request.uri().path()).unwrap_or(OTHER);
        let call = Measured::begin(self.metrics.clone(), method);
        let span = tracing::debug_span!("call", method, actor = tracing::field::Empty);

        let answer = async move {
            let (head, body) = inner.call(request).await?.into_parts();
            // An answer that is only an error has its code in the headers.
            let call = match code(&head.headers) {
                Some(code) => {
                    call.end(code);
                    None
                }
                None => Some(call),
            };
            Ok(Response::from_parts(head, Body::new(MeasuredBody { body, call })))
        };
        Box::pin(answer.instrument(span))
    }
}

/// A call that is at work. Dropped without an end, its caller went away.
#[derive(Debug)]
struct Measured {
    metrics: ServerMetrics,
    method: &'static str,
    begun: Instant,
    code: &'static str,
}

impl Measured {
    fn begin(metrics: ServerMetrics, method: &'static str) -> Self {
        metrics.call_began(method);
        Self { metrics, method, begun: Instant::now(), code: name(Code::Cancelled) }
    }

    fn end(mut self, code: Code) {
        self.code = name(code);
    }
}

impl Drop for Measured {
    fn drop(&mut self) {
        self.metrics.call_ended(self.method, self.code, self.begun.elapsed());
    }
}

/// An answer that ends its call's measurement.
#[derive(Debug)]
struct MeasuredBody {
    body: Body,
    call: Option<Measured>,
}

impl http_body::Body for MeasuredBody {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        let code = match &polled {
            Poll::Ready(Some(Ok(frame))) => frame.trailers_ref().and_then(code),
            Poll::Ready(Some(Err(status))) => Some(status.code()),
            Poll::Ready(None) => Some(Code::Unknown),
            Poll::Pending => None,
        };
        if let (Some(code), Some(call)) = (code, self.call.take_if(|_| code.is_some())) {
            call.end(code);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn code(headers: &HeaderMap) -> Option<Code> {
    let value = headers.get("grpc-status")?;
    Some(Code::from_bytes(value.as_bytes()))
}

fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "ok",
        Code::Cancelled => "cancelled",
        Code::Unknown => "unknown",
        Code::InvalidArgument => "invalid_argument",
        Code::DeadlineExceeded => "deadline_exceeded",
        Code::NotFound => "not_found",
        Code::AlreadyExists => "already_exists",
        Code::PermissionDenied => "permission_denied",
        Code::ResourceExhausted => "resource_exhausted",
        Code::FailedPrecondition => "failed_precondition",
        Code::Aborted => "aborted",
        Code::OutOfRange => "out_of_range",
        Code::Unimplemented => "unimplemented",
        Code::Internal => "internal",
        Code::Unavailable => "unavailable",
        Code::DataLoss => "data_loss",
        Code::Unauthenticated => "unauthenticated",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_those_of_the_contract() {
        assert_eq!(method("/gofer.v1.RunService/StartRun"), Some("gofer.v1.RunService/StartRun"));
        assert_eq!(method("/gofer.v1.RunService/Whatever"), None);
        assert_eq!(method("/grpc.health.v1.Health/Check"), None);
    }
}
