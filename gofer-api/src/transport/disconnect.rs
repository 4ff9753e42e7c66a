//! Whether the caller's side of a stream ended in order. tonic shows a handler the same end when
//! the caller closes its side and when it cancels the call or dies; an upload must know which.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::Request;
use http_body_util::BodyExt;
use tonic::body::Body;

/// Travels with a request: set once its body has broken off.
#[derive(Debug, Clone, Default)]
pub(crate) struct Disconnect(Arc<AtomicBool>);

impl Disconnect {
    /// Whether the body has broken off.
    pub(crate) fn happened(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// The same request, watched.
pub(crate) fn watch(request: Request<Body>) -> Request<Body> {
    let disconnect = Disconnect::default();
    let (mut parts, body) = request.into_parts();
    parts.extensions.insert(disconnect.clone());
    let body = body.map_err(move |status| {
        disconnect.0.store(true, Ordering::Release);
        status
    });
    Request::from_parts(parts, Body::new(body))
}
