//! A Vault in memory, as much of one as the store needs, with switches for what can go wrong.
//!
//! Where it and the real server differ, this one is wrong.

mod auth;
mod kv;
mod server;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::routing::any;
use gofer_secrets_vault::{AuthConfig, AuthMethod, VaultConfig};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

pub(crate) use auth::{Auth, Token};
pub(crate) use kv::Kv;

pub(crate) const ROLE_ID: &str = "role-7f3a";

/// What happens to a request instead of an answer.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// This status and message; nothing is done.
    Status(u16, &'static str),
    /// 429 with `Retry-After`, in seconds.
    RateLimited(u64),
    /// It is done, and then answered with 500.
    ErrorAfterwards,
    /// It is done, and the connection ends before the answer does.
    BrokenAfterwards,
    /// It is done, and nobody hears of it.
    SilentAfterwards,
    /// 307 to the same path there.
    Redirect(String),
    /// 200 with this instead of JSON.
    Body(&'static str),
    /// 400 with a message that quotes the whole request.
    Echo,
}

/// A request that came in.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    /// Method and path, as in `GET /v1/secret/data/gofer/a`.
    pub(crate) line: String,
    pub(crate) token: Option<String>,
    pub(crate) namespace: Option<String>,
}

/// Everything the server knows.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) sealed: bool,
    pub(crate) initialized: bool,
    /// Type and version of the engine at `secret`.
    pub(crate) engine: (&'static str, &'static str),
    pub(crate) kv: Kv,
    pub(crate) auth: Auth,
    /// Parts of request lines that every token is denied.
    pub(crate) denied: Vec<String>,
    pub(crate) seen: Vec<Seen>,
    faults: VecDeque<(String, Fault)>,
}

/// A running fake; it ends with the value.
#[derive(Debug)]
pub(crate) struct Fake {
    pub(crate) address: String,
    state: Arc<Mutex<State>>,
    server: JoinHandle<()>,
}

impl Fake {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State::new()));
        let router = router(Arc::clone(&state));
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, state, server }
    }

    /// What it knows, for tests to look at and to change. Not to be held while the store is asked
    /// for something.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The handler, for servers that listen in another way.
    pub(crate) fn router(&self) -> Router {
        router(Arc::clone(&self.state))
    }

    /// The next request whose line has `part` in it meets this; one fault per request, in order.
    pub(crate) fn fault(&self, part: &str, fault: Fault) {
        self.state().faults.push_back((part.to_owned(), fault));
    }

    /// Lets a token in, for ever.
    pub(crate) fn root(&self) -> VaultConfig {
        self.state().auth.tokens.insert("root-token".to_owned(), Token::forever());
        let auth = AuthConfig { token: Some("root-token".into()), ..AuthConfig::default() };
        VaultConfig { address: self.address.clone(), auth, ..VaultConfig::default() }
    }

    /// Logs in by AppRole, with a secret id that may be used as often as need be.
    pub(crate) fn approle(&self) -> VaultConfig {
        self.state().auth.secret_ids.push("secret-id-1".to_owned());
        let auth = AuthConfig {
            method: AuthMethod::AppRole,
            role_id: Some(ROLE_ID.to_owned()),
            secret_id: Some("secret-id-1".into()),
            ..AuthConfig::default()
        };
        VaultConfig { address: self.address.clone(), auth, ..VaultConfig::default() }
    }

    /// How many requests had `part` in their line.
    pub(crate) fn count(&self, part: &str) -> usize {
        self.state().seen.iter().filter(|seen| seen.line.contains(part)).count()
    }

    /// Lines of the requests since the last look.
    pub(crate) fn take_lines(&self) -> Vec<String> {
        self.state().seen.drain(..).map(|seen| seen.line).collect()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl State {
    fn new() -> Self {
        Self {
            sealed: false,
            initialized: true,
            engine: ("kv", "2"),
            kv: Kv::default(),
            auth: Auth::default(),
            denied: Vec::new(),
            seen: Vec::new(),
            faults: VecDeque::new(),
        }
    }

    fn take_fault(&mut self, line: &str) -> Option<Fault> {
        let at = self.faults.iter().position(|(part, _)| line.contains(part.as_str()))?;
        self.faults.remove(at).map(|(_, fault)| fault)
    }
}

fn router(state: Arc<Mutex<State>>) -> Router {
    Router::new().fallback(any(server::handle)).with_state(state)
}
