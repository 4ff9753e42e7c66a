//! From HTTP to the state and back.

use std::sync::{Arc, Mutex, PoisonError};

use axum::body::{Body, Bytes};
use axum::extract::State as Extracted;
use axum::http::{HeaderMap, Method, Response, Uri};
use serde_json::{Value, json};

use super::{Fault, Seen, State};

/// An answer: status and JSON, nothing for 204.
pub(super) type Reply = (u16, Value);

pub(super) fn refusal(status: u16, messages: &[&str]) -> Reply {
    (status, json!({ "errors": messages }))
}

pub(super) fn data(data: Value) -> Reply {
    (200, wrapped(data, Value::Null))
}

pub(super) fn auth(auth: Value) -> Reply {
    (200, wrapped(Value::Null, auth))
}

fn wrapped(data: Value, auth: Value) -> Value {
    json!({
        "request_id": "0f6b9c3e", "lease_id": "", "renewable": false, "lease_duration": 0, "data": data, "wrap_info": null,
        "warnings": null, "auth": auth,
    })
}

/// One request, with all that matters of it.
pub(super) struct Call<'a> {
    /// Below `/v1/`, decoded.
    pub(super) path: &'a str,
    pub(super) method: &'a str,
    pub(super) query: &'a str,
    pub(super) token: Option<&'a str>,
    pub(super) body: &'a Value,
}

pub(super) async fn handle(
    Extracted(state): Extracted<Arc<Mutex<State>>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    let header = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    let path = decoded(uri.path());
    let seen = Seen {
        line: format!("{method} {path}"),
        token: header("x-vault-token"),
        namespace: header("x-vault-namespace"),
    };

    let (reply, fault) = {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        state.seen.push(seen.clone());
        let fault = state.take_fault(&seen.line);
        if let Some(reply) = fault.as_ref().and_then(|fault| instead(fault, &uri, &body)) {
            return reply;
        }

        let parsed =
            if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap() };
        let call = Call {
            path: path.strip_prefix("/v1/").unwrap_or_default(),
            method: method.as_str(),
            query: uri.query().unwrap_or_default(),
            token: seen.token.as_deref(),
            body: &parsed,
        };

        assert_eq!(header("x-vault-request").as_deref(), Some("true"), "{}", seen.line);
        (state.answer(&call, &seen.line), fault)
    };

    match fault {
        None => respond(reply),
        Some(Fault::ErrorAfterwards) => {
            respond(refusal(500, &["1 error occurred:\n\t* storage is away\n\n"]))
        }
        Some(Fault::SilentAfterwards) => std::future::pending().await,
        Some(_) => broken(),
    }
}

/// The answer of a fault that keeps the request from being done.
fn instead(fault: &Fault, uri: &Uri, body: &Bytes) -> Option<Response<Body>> {
    match fault {
        Fault::Status(status, message) => Some(respond(refusal(*status, &[message]))),
        Fault::RateLimited(seconds) => {
            let mut response = respond(refusal(429, &["request path is rate limited"]));
            response.headers_mut().insert("retry-after", (*seconds).into());
            Some(response)
        }
        Fault::Redirect(to) => {
            let location = format!("{to}{uri}");
            Some(
                Response::builder()
                    .status(307)
                    .header("location", location)
                    .body(Body::empty())
                    .unwrap(),
            )
        }
        Fault::Body(text) => Some(Response::new(Body::from(*text))),
        Fault::Echo => {
            let said: Value = serde_json::from_slice(body).unwrap_or_default();
            let values: Vec<String> =
                strings(&said).into_iter().map(|text| format!("cannot store {text}!")).collect();
            Some(respond((400, json!({ "errors": values }))))
        }
        Fault::ErrorAfterwards | Fault::BrokenAfterwards | Fault::SilentAfterwards => None,
    }
}

fn strings(value: &Value) -> Vec<String> {
    match value {
        Value::String(text) => vec![text.clone()],
        Value::Object(fields) => fields.values().flat_map(strings).collect(),
        _ => Vec::new(),
    }
}

fn respond((status, body): Reply) -> Response<Body> {
    let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
    Response::builder()
        .status(status)
        .header("content-type", "application/json")
        .body(body)
        .unwrap()
}

/// Promises more bytes than it sends.
fn broken() -> Response<Body> {
    let end = std::io::Error::other("the connection broke");
    let pieces: [Result<&str, _>; 2] = [Ok("{\"data\""), Err(end)];
    Response::new(Body::from_stream(futures::stream::iter(pieces)))
}

impl State {
    fn answer(&mut self, call: &Call<'_>, line: &str) -> Reply {
        if call.path == "sys/health" {
            return self.health();
        }

        if self.sealed {
            return refusal(503, &["Vault is sealed"]);
        }

        if let Some(reply) = self.auth.log_in(call) {
            return reply;
        }

        let Some(token) = self.auth.alive(call.token) else {
            return refusal(403, &["permission denied"]);
        };

        if self.denied.iter().any(|part| line.contains(part.as_str())) {
            return refusal(403, &["1 error occurred:\n\t* permission denied\n\n"]);
        }

        match (call.method, call.path) {
            ("GET", "auth/token/lookup-self") => token.look_up(),
            ("POST", "auth/token/renew-self") => token.renew(call.body),
            ("POST", "sys/capabilities-self") => self.capabilities(call.body),
            ("GET", "sys/internal/ui/mounts/secret") => {
                let (engine, version) = self.engine;
                data(
                    json!({ "type": engine, "options": { "version": version }, "path": "secret/" }),
                )
            }
            (_, path) if path.starts_with("sys/internal/ui/mounts/") => refusal(
                403,
                &["preflight capability check returned 403, please ensure client's policies \
                     grant access"],
            ),
            _ => self.kv.answer(call),
        }
    }

    fn health(&self) -> Reply {
        let health = json!({
            "initialized": self.initialized, "sealed": self.sealed, "standby": false,
            "replication_performance_mode": "disabled", "replication_dr_mode": "disabled", "server_time_utc": 1_764_000_000,
            "version": "2.4.1", "cluster_name": "fake",
        });
        (200, health)
    }

    fn capabilities(&self, body: &Value) -> Reply {
        let paths = body["paths"].as_array().unwrap();
        let has = |path: &Value| {
            let path = path.as_str().unwrap().to_owned();
            let lines = [
                ("create", "POST"),
                ("update", "POST"),
                ("read", "GET"),
                ("delete", "DELETE"),
                ("list", "LIST"),
            ];
            let may = |method: &str| {
                !self
                    .denied
                    .iter()
                    .any(|part| format!("{method} /v1/{path}").contains(part.as_str()))
            };

            let capabilities: Vec<&str> = lines
                .iter()
                .filter(|(_, method)| may(method))
                .map(|(capability, _)| *capability)
                .collect();

            (path, json!(capabilities))
        };

        data(paths.iter().map(has).collect::<serde_json::Map<_, _>>().into())
    }
}

fn decoded(path: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = path.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next().unwrap(), rest.next().unwrap()];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap());
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).unwrap()
}
