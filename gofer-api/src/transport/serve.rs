//! One connection, from accept to end.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tower::ServiceExt;

use super::connection::Connection;
use super::metered::Metered;
use super::stall::{Streams, unless_stalled};
use super::tls::Certificates;
use super::{HEADERS_MAX_BYTES, Stack};
use crate::config::Limits;

/// From accept to the end of the first request's headers, TLS and all. Also for each further
/// request of HTTP/1.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Time between two pings of an idle connection, and the longest wait for an answer: a black-holed
/// one is noticed.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of an answer that wait for the socket, of each stream.
const SEND_BUFFER_BYTES: usize = 128 * 1024;
/// Bytes that HTTP/1 gathers of a request before it is looked at.
const HTTP1_BUFFER_BYTES: usize = 64 * 1024;

/// What connections are served with.
#[derive(Clone)]
pub(super) struct ServedWith {
    /// Without any it serves plain text.
    certificates: Option<Arc<Certificates>>,
    stack: Stack,
    protocol: auto::Builder<Streams>,
    limits: Limits,
    /// Ends idle connections, and the others once their calls are over.
    pub(super) stop: CancellationToken,
    /// Ends every connection at once.
    pub(super) cut: CancellationToken,
}

impl ServedWith {
    pub(super) fn new(
        limits: &Limits,
        certificates: Option<Arc<Certificates>>,
        stack: Stack,
        stop: CancellationToken,
    ) -> Self {
        let (protocol, limits) = (protocol(limits), limits.clone());
        Self { certificates, stack, protocol, limits, stop, cut: CancellationToken::new() }
    }
}

/// How connections speak HTTP.
fn protocol(limits: &Limits) -> auto::Builder<Streams> {
    let streams = u32::try_from(limits.calls_per_connection).unwrap_or(u32::MAX);
    let mut builder = auto::Builder::new(Streams(limits.idle_timeout));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(streams)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .max_header_list_size(HEADERS_MAX_BYTES)
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT);
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HTTP1_BUFFER_BYTES);

    builder
}

/// Serves a connection until it ends, or has to.
pub(super) async fn serve(socket: TcpStream, connection: Arc<Connection>, with: &ServedWith) {
    let accepted = Instant::now();
    let first_head = accepted + HEAD_TIMEOUT;
    prepare(&socket);
    let socket = match &with.certificates {
        None => Either::Left(socket),
        Some(certificates) => {
            let handshake = timeout_at(first_head, certificates.acceptor().accept(socket));
            let shaken = tokio::select! {
                shaken = handshake => shaken,
                () = connection.close.cancelled() => return,
                () = with.stop.cancelled() => return,
                () = with.cut.cancelled() => return,
            };

            match shaken {
                Ok(Ok(socket)) => Either::Right(Box::new(socket)),
                Ok(Err(error)) => return tracing::debug!(%error, "a TLS handshake failed"),
                Err(_) => return tracing::debug!("a TLS handshake was not complete in time"),
            }
        }
    };

    let socket = TokioIo::new(Metered::new(socket, connection.clone()));
    let service = service(with.stack.clone(), connection.clone());
    let served = with.protocol.serve_connection(socket, service);
    let limits = &with.limits;
    let mut served = pin!(served);
    let work = async {
        let mut head = pin!(tokio::time::sleep_until(first_head));
        let mut age = pin!(sleep(limits.connection_age));
        let mut abandoned = pin!(connection.is_abandoned(limits.idle_timeout));
        let (mut begun, mut old, mut ending) = (false, false, false);

        loop {
            tokio::select! {
                ended = &mut served => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "a connection ended early");
                    }
                    return;
                }
                () = &mut head, if !begun => {
                    begun = connection.has_sent_head.load(Ordering::Acquire);
                    if !begun {
                        return;
                    }
                }
                () = connection.close.cancelled() => return,
                () = with.cut.cancelled() => return,
                () = &mut abandoned => return,
                // Calls that are under way may end; new ones go to a new connection.
                () = &mut age, if !old => {
                    old = true;
                    served.as_mut().graceful_shutdown();
                }
                () = with.stop.cancelled(), if !ending => {
                    ending = true;
                    served.as_mut().graceful_shutdown();
                }
            }
        }
    };

    // An answer over HTTP/1 is sent by this very task; over HTTP/2 each stream has its own.
    unless_stalled(limits.idle_timeout, work).await;
}

/// Small answers go out at once, and a peer that is gone is noticed.
fn prepare(socket: &TcpStream) {
    use rustix::net::sockopt::{set_socket_keepalive, set_tcp_keepidle, set_tcp_nodelay};

    let prepared = set_tcp_nodelay(socket, true)
        .and_then(|()| set_socket_keepalive(socket, true))
        .and_then(|()| set_tcp_keepidle(socket, KEEPALIVE_INTERVAL));
    if let Err(error) = prepared {
        tracing::debug!(%error, "a socket's options cannot be set");
    }
}

fn service(
    stack: Stack,
    connection: Arc<Connection>,
) -> impl hyper::service::Service<
    Request<Incoming>,
    Response = Response<Body>,
    Error = Infallible,
    Future = impl Future<Output = Result<Response<Body>, Infallible>> + Send + 'static,
> + Clone {
    use hyper::service::service_fn;

    service_fn(move |request: Request<Incoming>| {
        connection.has_sent_head.store(true, Ordering::Release);
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(connection.clone());
        stack.clone().oneshot(request)
    })
}
