//! A real server: OpenBao or Vault, started by `testbed/vault.sh`, or any on which everything may
//! be changed.

mod login;
mod policy;
mod sealed;
mod server;
mod values;

use std::env;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use gofer_conformance::skip;
use gofer_secrets_vault::{AuthConfig, AuthMethod, VaultConfig};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// A part of the server that is one test's own: a prefix, and names made from it.
#[derive(Debug)]
pub(crate) struct Real {
    address: String,
    token: SecretString,
    http: reqwest::Client,
    /// Also the prefix.
    pub(crate) name: String,
}

impl Real {
    /// On the server that `GOFER_TEST_VAULT_ADDR` names; without one, says that `test` is skipped.
    pub(crate) fn find(test: &str) -> Option<Self> {
        let Ok(address) = env::var("GOFER_TEST_VAULT_ADDR") else {
            skip("vault", test, "GOFER_TEST_VAULT_ADDR is not set");
            return None;
        };
        let token = env::var("GOFER_TEST_VAULT_TOKEN")
            .expect("GOFER_TEST_VAULT_TOKEN goes with GOFER_TEST_VAULT_ADDR");
        Some(Self::at(address, token))
    }

    fn at(address: String, token: String) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("t{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        // With a provider of its own, so that the store is tested in a process that has installed
        // none.
        let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let http =
            reqwest::Client::builder().no_proxy().tls_backend_preconfigured(tls).build().unwrap();
        Self { address, token: token.into(), http, name }
    }

    /// With the root token, below a prefix of its own.
    pub(crate) fn config(&self) -> VaultConfig {
        let auth = AuthConfig { token: Some(self.token.clone()), ..AuthConfig::default() };
        VaultConfig {
            address: self.address.clone(),
            prefix: self.name.clone(),
            auth,
            ..VaultConfig::default()
        }
    }

    /// Asks as an operator would; status and answer.
    async fn ask(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let mut request = self.http.request(method, format!("{}/v1/{path}", self.address));
        request = request.header("X-Vault-Token", self.token.expose_secret());
        if !body.is_null() {
            request = request.body(body.to_string());
        }
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        (status, serde_json::from_slice(&response.bytes().await.unwrap()).unwrap_or_default())
    }

    /// Asks for what must succeed.
    async fn administer(&self, method: &str, path: &str, body: Value) -> Value {
        let (status, answer) = self.ask(method, path, body).await;
        assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
        answer
    }

    /// An AppRole of the test's own, whose tokens have this policy and nothing else.
    async fn approle(&self, policy: &str, ttl: &str, max_ttl: &str) -> VaultConfig {
        let name = &self.name;
        self.administer("POST", &format!("sys/auth/{name}"), json!({ "type": "approle" })).await;
        self.set_policy(policy).await;
        let role = json!({
            "token_policies": [name], "token_no_default_policy": true, "token_ttl": ttl, "token_max_ttl": max_ttl,
        });

        self.administer("POST", &format!("auth/{name}/role/gofer"), role).await;
        let role_id =
            self.administer("GET", &format!("auth/{name}/role/gofer/role-id"), Value::Null).await;
        let secret_id =
            self.administer("POST", &format!("auth/{name}/role/gofer/secret-id"), json!({})).await;
        let text = |answer: &Value, field: &str| answer["data"][field].as_str().unwrap().to_owned();
        let auth = AuthConfig {
            method: AuthMethod::AppRole,
            mount: Some(name.clone()),
            role_id: Some(text(&role_id, "role_id")),
            secret_id: Some(text(&secret_id, "secret_id").into()),
            ..AuthConfig::default()
        };

        VaultConfig { auth, ..self.config() }
    }

    async fn set_policy(&self, policy: &str) {
        self.administer(
            "PUT",
            &format!("sys/policies/acl/{}", self.name),
            json!({ "policy": policy }),
        )
        .await;
    }

    /// The policy of `config/`, about this test's prefix.
    fn policy(&self) -> String {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/vault/gofer-policy.hcl");
        let policy = std::fs::read_to_string(file).unwrap();
        let own = policy.replace("/gofer/*", &format!("/{}/*", self.name));
        assert_ne!(own, policy, "the policy is about the default prefix");
        own
    }

    /// What the server knows of the tokens that this test's auth method gave out.
    async fn tokens(&self) -> Vec<Value> {
        let accessors = self.administer("LIST", "auth/token/accessors", Value::Null).await;
        let mut found = Vec::new();
        for accessor in accessors["data"]["keys"].as_array().unwrap() {
            // One that ended meanwhile is not found.
            let (_, answer) = self
                .ask("POST", "auth/token/lookup-accessor", json!({ "accessor": accessor }))
                .await;
            if answer["data"]["path"] == format!("auth/{}/login", self.name) {
                found.push(answer["data"].clone());
            }
        }
        found
    }
}
