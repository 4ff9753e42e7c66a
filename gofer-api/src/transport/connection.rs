//! One connection, from accept to end.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;
use std::time::Duration;

use futures::task::AtomicWaker;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tower::ServiceExt;

use super::accept::Acceptor;
use super::budget::{Account, Budget};
use super::metered::Metered;
use super::stall::{Streams, unless_stalled};
use super::{CONNECTION_ANSWER_BYTES, MAX_HEADER_BYTES, Stack};
use crate::config::Limits;
use crate::error::ApiError;

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
/// Calls without a token at once on one connection: health, reflection, and the one that makes the
/// first token.
const ANONYMOUS_CALLS: usize = 16;

/// What a server knows of one connection.
#[derive(Debug)]
pub(crate) struct Connection {
    /// Whose it is.
    pub(super) address: IpAddr,
    close: CancellationToken,
    has_sent_head: AtomicBool,
    authenticated: AtomicBool,
    waiting_reader: AtomicWaker,
    anonymous_calls: AtomicUsize,
    /// Calls in flight, and since when there are none.
    calls: Mutex<(usize, Instant)>,
    answers: Arc<Semaphore>,
}

/// A call in flight on a connection.
#[derive(Debug)]
pub(crate) struct InFlight {
    connection: Arc<Connection>,
    anonymous: bool,
}

impl Default for Connection {
    fn default() -> Self {
        Self::new(Ipv4Addr::UNSPECIFIED.into())
    }
}

impl Connection {
    pub(super) fn new(address: IpAddr) -> Self {
        Self {
            address,
            close: CancellationToken::new(),
            has_sent_head: AtomicBool::new(false),
            authenticated: AtomicBool::new(false),
            waiting_reader: AtomicWaker::new(),
            anonymous_calls: AtomicUsize::new(0),
            calls: Mutex::new((0, Instant::now())),
            answers: Arc::new(Semaphore::new(CONNECTION_ANSWER_BYTES)),
        }
    }

    /// Whose it is.
    pub(crate) fn address(&self) -> IpAddr {
        self.address
    }

    /// Counts a call that begins. One by somebody with a token vouches for the connection.
    ///
    /// # Errors
    /// When there are too many calls without a token.
    pub(crate) fn begin_call(self: &Arc<Self>, authenticated: bool) -> Result<InFlight, ApiError> {
        if authenticated && !self.authenticated.swap(true, Ordering::AcqRel) {
            self.waiting_reader.wake();
        }
        if !authenticated && self.anonymous_calls.fetch_add(1, Ordering::AcqRel) >= ANONYMOUS_CALLS
        {
            self.anonymous_calls.fetch_sub(1, Ordering::AcqRel);
            return Err(ApiError::TooManyCalls { limit: ANONYMOUS_CALLS });
        }
        self.lock_calls().0 += 1;
        Ok(InFlight { connection: self.clone(), anonymous: !authenticated })
    }

    /// What a caller's answers on this connection may hold.
    pub(crate) fn answers(&self, budget: &Budget, caller: &str) -> Account {
        budget.account_on(&self.answers, CONNECTION_ANSWER_BYTES, caller)
    }

    /// Whether a call with a token was made on it.
    pub(super) fn is_authenticated(&self) -> bool {
        self.authenticated.load(Ordering::Acquire)
    }

    /// Whom to wake when one is made.
    pub(super) fn wake_when_authenticated(&self, waker: &Waker) {
        self.waiting_reader.register(waker);
    }

    /// For how long there has been no call; `None` while there is one.
    pub(super) fn idle_for(&self) -> Option<Duration> {
        let calls = self.lock_calls();
        (calls.0 == 0).then(|| calls.1.elapsed())
    }

    /// Ends it at once.
    pub(super) fn close(&self) {
        self.close.cancel();
    }

    #[cfg(test)]
    pub(super) fn is_closed(&self) -> bool {
        self.close.is_cancelled()
    }

    fn lock_calls(&self) -> std::sync::MutexGuard<'_, (usize, Instant)> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns once a connection without a token has had no call for so long.
    async fn is_abandoned(&self, limit: Duration) {
        loop {
            let idle = if self.is_authenticated() { None } else { self.idle_for() };
            let left = idle.map_or(limit, |idle| limit.saturating_sub(idle));
            if left.is_zero() {
                return;
            }
            sleep(left).await;
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if self.anonymous {
            self.connection.anonymous_calls.fetch_sub(1, Ordering::AcqRel);
        }
        let mut calls = self.connection.lock_calls();
        calls.0 -= 1;
        calls.1 = Instant::now();
    }
}

/// How connections speak HTTP.
pub(crate) fn protocol(limits: &Limits) -> auto::Builder<Streams> {
    let streams = u32::try_from(limits.calls_per_connection).unwrap_or(u32::MAX);
    let mut builder = auto::Builder::new(Streams(limits.idle_timeout));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(streams)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .max_header_list_size(MAX_HEADER_BYTES)
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
pub(super) async fn serve(socket: TcpStream, connection: Arc<Connection>, acceptor: &Acceptor) {
    let accepted = Instant::now();
    let first_head = accepted + HEAD_TIMEOUT;
    prepare(&socket);
    let socket = match &acceptor.certificates {
        None => Either::Left(socket),
        Some(certificates) => {
            let handshake = timeout_at(first_head, certificates.acceptor().accept(socket));
            let shaken = tokio::select! {
                shaken = handshake => shaken,
                () = connection.close.cancelled() => return,
                () = acceptor.stop.cancelled() => return,
                () = acceptor.cut.cancelled() => return,
            };

            match shaken {
                Ok(Ok(socket)) => Either::Right(Box::new(socket)),
                Ok(Err(error)) => return tracing::debug!(%error, "a TLS handshake failed"),
                Err(_) => return tracing::debug!("a TLS handshake was not complete in time"),
            }
        }
    };

    let socket = TokioIo::new(Metered::new(socket, connection.clone()));
    let service = service(acceptor.stack.clone(), connection.clone());
    let served = acceptor.protocol.serve_connection(socket, service);
    let limits = &acceptor.limits;
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
                () = acceptor.cut.cancelled() => return,
                () = &mut abandoned => return,
                // Calls that are under way may end; new ones go to a new connection.
                () = &mut age, if !old => {
                    old = true;
                    served.as_mut().graceful_shutdown();
                }
                () = acceptor.stop.cancelled(), if !ending => {
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
