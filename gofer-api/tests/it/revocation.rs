//! Revoking a token waits for nobody: not for a tenant who puts secrets, and not for a secret store
//! that does not answer.

use std::collections::HashMap;
use std::future::pending;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use gofer_api::config::{SecretsBackend, ServerConfig};
use gofer_proto::v1;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::harness::{Clients, TestServer, pipeline, shell};

/// As much of a Vault as a server needs to start. A value of a pipeline's secret is taken in and
/// never answered.
struct Vault {
    values: Mutex<HashMap<String, Value>>,
    asked: mpsc::UnboundedSender<()>,
}

impl Vault {
    /// Serves at the address, for as long as the test; what is put is told to the receiver.
    async fn start() -> (String, mpsc::UnboundedReceiver<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let (asked, puts) = mpsc::unbounded_channel();
        let vault = Arc::new(Self { values: Mutex::default(), asked });
        let router = Router::new().fallback(answer).with_state(vault);
        tokio::spawn(async move { axum::serve(listener, router).await });
        (address, puts)
    }

    fn read(&self, path: &str) -> Option<Value> {
        let fields = self.values.lock().unwrap().get(path).cloned()?;
        Some(
            json!({"data": fields, "metadata": {"version": 1, "deletion_time": "", "destroyed": false,
            "created_time": "2026-11-24T12:00:00Z", "custom_metadata": null}}),
        )
    }

    fn write(&self, path: &str, body: &Value) -> Value {
        self.values.lock().unwrap().insert(path.to_owned(), body["data"].clone());
        json!({"version": 1, "deletion_time": "", "destroyed": false, "created_time": "2026-11-24T12:00:00Z",
            "custom_metadata": null})
    }
}

async fn answer(State(vault): State<Arc<Vault>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let path = parts.uri.path().trim_start_matches("/v1/");
    let health = json!({"initialized": true, "sealed": false, "standby": false, "replication_performance_mode": "disabled",
        "replication_dr_mode": "disabled", "server_time_utc": 1_764_000_000, "version": "2.4.1", "cluster_name": "fake"});
    let found = match (&parts.method, path) {
        (_, "sys/health") => return axum::Json(health).into_response(),
        (_, "auth/token/lookup-self") => {
            Some(json!({"ttl": 0, "renewable": false, "expire_time": null}))
        }
        (_, "sys/capabilities-self") => {
            let paths = body["paths"].as_array().unwrap().iter();
            Some(paths.map(|path| (path.as_str().unwrap().to_owned(), json!(["root"]))).collect())
        }
        (_, path) if path.starts_with("sys/internal/ui/mounts/") => {
            Some(json!({"type": "kv", "options": {"version": "2"}, "path": "secret/"}))
        }
        (&Method::GET, path) => vault.read(path),
        (_, path) if path.contains("/pipeline/") => {
            vault.asked.send(()).unwrap();
            pending().await
        }
        (_, path) => Some(vault.write(path, &body)),
    };

    match found {
        Some(data) => axum::Json(json!({"data": data})).into_response(),
        None => (StatusCode::NOT_FOUND, axum::Json(json!({"errors": []}))).into_response(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn revocation_waits_for_no_tenant_and_no_backend() {
    let (address, mut puts) = Vault::start().await;
    let vault = move |config: &mut ServerConfig| {
        config.secrets.backend = SecretsBackend::Vault;
        config.secrets.vault.attempts = 1;
        config.secrets.vault.address = address;
        config.secrets.vault.auth.token = Some("root".into());
    };

    let server = TestServer::start_with(vault).await;
    let manager = server.anybody();
    manager.register(pipeline("ci", vec![shell("t", "true")])).await;
    let tenant = create(&manager, v1::TokenKind::Client, &["default"]).await;

    let flood: Vec<_> = (0..64)
        .map(|number| tokio::spawn(put(server.with_token(&tenant.secret), number % 4)))
        .collect();
    puts.recv().await.expect("the store is asked");

    let other = create(&manager, v1::TokenKind::Management, &[]).await.token.unwrap().id;
    let _spare = create(&manager, v1::TokenKind::Management, &[]).await;
    manager.tokens().disable_token(v1::DisableTokenRequest { id: other.clone() }).await.unwrap();
    manager.tokens().delete_token(v1::DeleteTokenRequest { id: other }).await.unwrap();

    let id = tenant.token.unwrap().id;
    manager.tokens().delete_token(v1::DeleteTokenRequest { id }).await.unwrap();
    assert!(flood.iter().all(|put| !put.is_finished()), "every put still waits for the store");

    for put in flood {
        put.abort();
    }
}

async fn create(
    clients: &Clients,
    kind: v1::TokenKind,
    namespaces: &[&str],
) -> v1::CreateTokenResponse {
    let namespaces = namespaces.iter().map(ToString::to_string).collect();
    let request = v1::CreateTokenRequest { kind: kind.into(), namespaces, ..Default::default() };
    clients.tokens().create_token(request).await.unwrap().into_inner()
}

async fn put(clients: Clients, number: usize) {
    let pipeline = v1::PipelineScope { namespace: "default".into(), pipeline: "ci".into() };
    let scope = v1::SecretScope { scope: Some(v1::secret_scope::Scope::PipelineScope(pipeline)) };
    let key = format!("k{number}");
    let request =
        v1::PutSecretRequest { scope: Some(scope), key, value: "v".into(), ..Default::default() };
    let _ = clients.secrets().put_secret(request).await;
}
