//! What is no gRPC is answered with 415. Otherwise a web page could send a request of a type that
//! browsers ask nobody's leave for, such as `text/plain`, and over HTTP/2 a service would take it.

use std::convert::Infallible;
use std::task::{Context, Poll};

use futures::future::{Either, Ready, ready};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use tonic::body::Body;
use tower::{Layer, Service};

/// Lets gRPC and gRPC-Web pass, and what asks whether it may (preflight requests).
#[derive(Debug, Clone, Copy)]
pub(crate) struct GrpcOnlyLayer;

impl<S> Layer<S> for GrpcOnlyLayer {
    type Service = GrpcOnly<S>;

    fn layer(&self, inner: S) -> Self::Service {
        GrpcOnly(inner)
    }
}

/// See [`GrpcOnlyLayer`].
#[derive(Debug, Clone)]
pub(crate) struct GrpcOnly<S>(S);

impl<S> Service<Request<Body>> for GrpcOnly<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<S::Future, Ready<Result<Response<Body>, Infallible>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if *request.method() == Method::OPTIONS || is_grpc(request.headers()) {
            return Either::Left(self.0.call(request));
        }
        let mut refusal = Response::new(Body::empty());
        *refusal.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        Either::Right(ready(Ok(refusal)))
    }
}

/// `application/grpc`, `application/grpc+proto`, `application/grpc-web`, …: the first word, then
/// nothing or a variant.
fn is_grpc(headers: &HeaderMap) -> bool {
    const GRPC: &str = "application/grpc";
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    let (Some(value), None) = (types.next(), types.next()) else { return false };
    let Ok(value) = value.to_str() else { return false };
    let Some((first, rest)) = value.split_at_checked(GRPC.len()) else { return false };
    first.eq_ignore_ascii_case(GRPC)
        && matches!(rest.bytes().next(), None | Some(b'+' | b'-' | b';' | b' '))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn only_grpc_is_grpc() {
        let found = |values: &[&'static str]| {
            let pairs = values.iter().map(|value| (CONTENT_TYPE, HeaderValue::from_static(value)));
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.append(name, value);
            }
            is_grpc(&headers)
        };

        for good in [
            "application/grpc",
            "application/grpc+proto",
            "application/grpc-web-text",
            "Application/gRPC;x=1",
        ] {
            assert!(found(&[good]), "{good}");
        }

        for bad in [
            "text/plain",
            "application/json",
            "application/grpcx",
            "text/plain;application/grpc",
            "",
        ] {
            assert!(!found(&[bad]), "{bad}");
        }

        assert!(!found(&[]));
        assert!(!found(&["application/grpc", "text/plain"]), "two types");
    }
}
