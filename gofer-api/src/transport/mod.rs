//! Connections, from accept to end.
//!
//! ```text
//! accept ─▶ connections   may it come? which goes instead?
//!   └▶ serve (one task per connection) ─▶ tls ─▶ metered ─▶ HTTP ─▶ stack (server/stack.rs)
//!        ├ connection    calls in flight, token shown, to be closed
//!        ├ stall         ends answers that nobody reads
//!        └ budget        bytes of requests and answers: of all, of a caller, of a connection
//! with a request travel: its Connection, and Disconnect, which knows whether its body broke off
//! ```

use std::convert::Infallible;

use http::{Request, Response};
use tonic::body::Body;
use tower::util::BoxCloneSyncService;

mod accept;
mod budget;
mod connection;
mod connections;
mod content_type;
pub(crate) mod disconnect;
mod metered;
mod open_files;
mod serve;
mod stall;
mod tls;

pub(crate) use accept::Acceptor;
pub(crate) use budget::{Account, Budget, Charge};
pub(crate) use connection::{Connection, InFlight};
pub(crate) use content_type::GrpcOnlyLayer;
pub(crate) use disconnect::Disconnect;
pub(crate) use open_files::raise as raise_open_files;
pub(crate) use stall::Stall;
pub(crate) use tls::Certificates;
pub use tls::TlsError;

/// All headers of a request; metadata is for a token and little else.
const HEADERS_MAX_BYTES: u32 = 16 * 1024;
/// Answers of one connection that are made and not yet taken by their readers.
const CONNECTION_ANSWERS_MAX_BYTES: usize = 32 * 1024 * 1024;

/// Everything behind a connection.
pub(crate) type Stack = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;

/// The service that is ready, to be called; what stays in its place waits for its own turn.
pub(crate) fn take_ready<S: Clone>(service: &mut S) -> S {
    let clone = service.clone();
    std::mem::replace(service, clone)
}
