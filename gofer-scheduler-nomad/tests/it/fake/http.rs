//! HTTP/1.1 as Nomad's agent speaks it: errors are plain text, and a connection can be cut at any
//! moment.

use std::convert::Infallible;
use std::io;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};

use super::faults::Action;
use super::{Inner, acl, exec, routes};

type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, io::Error>;

/// What a call answers: JSON, or an error in Nomad's words.
pub(super) type Answer = Result<Value, Failure>;

/// An error in Nomad's words.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) code: u16,
    pub(super) text: String,
    pub(super) json: bool,
}

impl Failure {
    pub(super) fn new(code: u16, text: &str) -> Self {
        Self { code, text: text.to_owned(), json: false }
    }
}

/// What a route has to say.
pub(super) enum Reply {
    /// JSON, perhaps one page of several.
    Json { value: Value, next_token: Option<String> },
    /// Done, and nothing to say.
    Nothing,
    /// Bytes as they come. An error cuts the connection.
    Stream(BoxStream<'static, io::Result<Bytes>>),
}

impl From<Value> for Reply {
    fn from(value: Value) -> Self {
        Self::Json { value, next_token: None }
    }
}

/// A request, taken apart.
pub(super) struct Call {
    pub(super) method: String,
    /// Decoded.
    pub(super) path: String,
    pub(super) query: Vec<(String, String)>,
    pub(super) token: String,
    pub(super) body: Value,
}

impl Call {
    /// The first value of a query parameter; empty if there is none.
    pub(super) fn get(&self, name: &str) -> &str {
        self.query.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }

    pub(super) fn namespace(&self) -> &str {
        match self.get("namespace") {
            "" => "default",
            namespace => namespace,
        }
    }

    pub(super) fn flag(&self, name: &str) -> bool {
        self.query.iter().any(|(key, value)| key == name && value != "false")
    }
}

/// Takes connections for as long as the task lives.
pub(super) async fn serve(listener: TcpListener, inner: Arc<Inner>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        tokio::spawn(connection(stream, inner.clone()));
    }
}

async fn connection(stream: TcpStream, inner: Arc<Inner>) {
    let mut cut = inner.cut.subscribe();
    let service = service_fn(|request| answer(request, inner.clone()));
    let served =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    let served = served.with_upgrades();
    tokio::select! {
        _ = served => {}
        _ = cut.changed() => {}
    }
}

/// An error closes the connection without an answer.
async fn answer(
    mut request: Request<Incoming>,
    inner: Arc<Inner>,
) -> Result<Response<Body>, io::Error> {
    let upgrade =
        request.headers().contains_key("upgrade").then(|| hyper::upgrade::on(&mut request));
    let call = read(request).await?;
    let line = format!("{} {}", call.method, call.path);
    inner.requests.lock().unwrap_or_else(PoisonError::into_inner).push(line);

    let cut = || Err(io::Error::other("the connection is cut"));
    let action =
        inner.faults.lock().unwrap_or_else(PoisonError::into_inner).take(&call.method, &call.path);

    match action {
        Some(Action::Cut) => return cut(),
        Some(Action::Refuse(code, text)) => return Ok(refuse(code, text)),
        Some(Action::Late(_) | Action::CutAfterCommit | Action::RefuseAfterCommit(..)) | None => {}
    }

    if let Some(upgrade) = upgrade {
        tokio::spawn(exec::serve(inner, call, upgrade));
        let builder = Response::builder()
            .status(101)
            .header("Connection", "Upgrade")
            .header("Upgrade", "websocket");
        return Ok(builder.body(full(String::new())).expect("a response"));
    }

    let reply = allowed(&inner, &call).and_then(|()| routes::route(&inner, &call));
    match action {
        Some(Action::Late(duration)) => tokio::time::sleep(duration).await,
        Some(Action::CutAfterCommit) => return cut(),
        Some(Action::RefuseAfterCommit(code, text)) => return Ok(refuse(code, text)),
        _ => {}
    }

    Ok(respond(&inner, reply))
}

/// Whether there is a leader to ask, where one is needed, and whether the token allows it.
fn allowed(inner: &Inner, call: &Call) -> Result<(), Failure> {
    // What clients and followers answer by themselves.
    let local = ["/v1/event/stream", "/v1/client/", "/v1/agent/", "/v1/status/"];
    let stale = call.method == "GET" && call.flag("stale")
        || local.iter().any(|path| call.path.starts_with(path));
    if !stale && inner.fault(|faults| faults.no_leader) {
        return Err(Failure::new(500, "No cluster leader"));
    }
    acl::check(inner, call)
}

fn respond(inner: &Inner, reply: Result<Reply, Failure>) -> Response<Body> {
    let index = inner.read(|state| state.index).to_string();
    let builder =
        Response::builder().header("X-Nomad-Index", index).header("X-Nomad-KnownLeader", "true");
    let builder = builder.header("X-Nomad-LastContact", "0");

    match reply {
        Ok(Reply::Json { value, next_token }) => {
            let builder = builder.header("Content-Type", "application/json");
            let builder = match next_token {
                Some(token) => builder.header("X-Nomad-NextToken", token),
                None => builder,
            };
            builder.body(full(value.to_string())).expect("a response")
        }
        Ok(Reply::Nothing) => builder.status(204).body(full(String::new())).expect("a response"),
        Ok(Reply::Stream(stream)) => {
            let body = StreamBody::new(stream.map_ok(Frame::data));
            // A stream ends with its connection.
            let builder =
                builder.header("Content-Type", "application/json").header("Connection", "close");
            builder.body(body.boxed_unsync()).expect("a response")
        }
        Err(Failure { code, text, json: true }) => {
            let builder = builder.status(code).header("Content-Type", "application/json");
            builder.body(full(text)).expect("a response")
        }
        Err(failure) => refuse(failure.code, &failure.text),
    }
}

fn refuse(code: u16, text: &str) -> Response<Body> {
    let builder =
        Response::builder().status(code).header("Content-Type", "text/plain; charset=utf-8");
    // An agent closes the connections it has too many of.
    let builder = if code == 429 { builder.header("Connection", "close") } else { builder };
    builder.body(full(text.to_owned())).expect("a response")
}

fn full(text: String) -> Body {
    Full::new(Bytes::from(text)).map_err(|never: Infallible| match never {}).boxed_unsync()
}

async fn read(request: Request<Incoming>) -> Result<Call, io::Error> {
    let (head, body) = request.into_parts();
    let header = |name: &str| {
        head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    };

    let token = match header("X-Nomad-Token") {
        "" => header("Authorization").trim_start_matches("Bearer ").to_owned(),
        token => token.to_owned(),
    };

    let query = head.uri.query().unwrap_or_default();
    let pair = |pair: &str| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(key), decoded(value))
    };

    let query = query.split('&').filter(|pair| !pair.is_empty()).map(pair).collect();
    let bytes = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let body = if bytes.is_empty() {
        Value::Null
    } else {
        serde_json::from_slice(&bytes).map_err(io::Error::other)?
    };

    Ok(Call { method: head.method.to_string(), path: decoded(head.uri.path()), query, token, body })
}

/// Undoes the percent-encoding.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let hex =
            after.get(..2).filter(|_| *first == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(if *first == b'+' { b' ' } else { *first });
                rest = after;
            }
        }
    }

    String::from_utf8_lossy(&bytes).into_owned()
}

/// Bytes that are all there, as a stream.
pub(super) fn once(bytes: Vec<u8>) -> Reply {
    Reply::Stream(futures::stream::once(async { Ok(Bytes::from(bytes)) }).boxed())
}
