//! A real agent, as `testbed/test` announces it.

use reqwest::Method;
use serde_json::Value;

/// A real agent and the tokens for it.
#[derive(Debug, Clone)]
pub(crate) struct Agent {
    pub(crate) address: String,
    /// What `config/nomad/gofer-policy.hcl` allows; empty without ACLs.
    pub(crate) token: String,
    /// May do everything; empty without ACLs.
    pub(crate) root_token: String,
    http: reqwest::Client,
}

impl Agent {
    /// The agent of the environment; without one, says that the test is skipped, or fails when it
    /// is required.
    pub(crate) fn find(test: &str) -> Option<Self> {
        let value = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let Some(address) = value("GOFER_TEST_NOMAD_ADDR") else {
            skip(test, "GOFER_TEST_NOMAD_ADDR is not set");
            return None;
        };
        let token = value("GOFER_TEST_NOMAD_TOKEN").unwrap_or_default();
        let root_token = value("GOFER_TEST_NOMAD_ROOT_TOKEN").unwrap_or_default();
        Some(Self { address, token, root_token, http: http() })
    }

    /// The same, if it has a node on which this driver works.
    pub(crate) async fn with_driver(test: &str, driver: &str) -> Option<Self> {
        let agent = Self::find(test)?;
        let nodes = agent.get("/v1/nodes").await;
        let healthy = nodes
            .as_array()
            .expect("a list")
            .iter()
            .any(|node| node["Drivers"][driver]["Healthy"] == true);

        if !healthy {
            // `GOFER_TEST_REQUIRE=nomad` does not ask for every driver there is.
            gofer_conformance::skip(
                driver,
                test,
                &format!("no node of the agent has a working driver {driver}"),
            );
            return None;
        }

        Some(agent)
    }

    /// An agent at an address, with one token for everything.
    pub(crate) fn at(address: &str, token: &str) -> Self {
        Self {
            address: address.to_owned(),
            token: token.to_owned(),
            root_token: token.to_owned(),
            http: http(),
        }
    }

    /// The same agent for another token.
    pub(crate) fn with_token(&self, token: &str) -> Self {
        Self { token: token.to_owned(), ..self.clone() }
    }

    /// One call as whoever may do everything: the status and the body.
    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(u16, String), String> {
        let mut request = self.http.request(method, format!("{}{path}", self.address));
        if !self.root_token.is_empty() {
            request = request.header("X-Nomad-Token", &self.root_token);
        }
        if let Some(body) = body {
            request = request.body(body.to_string());
        }
        let response = request.send().await.map_err(|error| error.to_string())?;
        let status = response.status().as_u16();
        Ok((status, response.text().await.map_err(|error| error.to_string())?))
    }

    /// Reads JSON.
    pub(crate) async fn get(&self, path: &str) -> Value {
        let (status, body) = self.call(Method::GET, path, None).await.expect("a call");
        assert_eq!(status, 200, "GET {path}: {body}");
        serde_json::from_str(&body).expect("JSON")
    }

    /// Writes JSON.
    pub(crate) async fn put(&self, path: &str, body: &Value) -> Value {
        let (status, answer) = self.call(Method::PUT, path, Some(body)).await.expect("a call");
        assert_eq!(status, 200, "PUT {path}: {answer}");
        serde_json::from_str(&answer).unwrap_or_default()
    }

    /// Everything the event stream still has, without following it.
    pub(crate) async fn events(&self, quiet: std::time::Duration) -> String {
        let request = self.http.get(format!("{}/v1/event/stream?namespace=*", self.address));
        let mut response =
            request.header("X-Nomad-Token", &self.root_token).send().await.expect("the stream");
        let mut text = Vec::new();
        while let Ok(Ok(Some(chunk))) = tokio::time::timeout(quiet, response.chunk()).await {
            text.extend_from_slice(&chunk);
        }
        String::from_utf8_lossy(&text).into_owned()
    }
}

fn http() -> reqwest::Client {
    // Without TLS, so no provider is needed.
    reqwest::Client::builder()
        .no_proxy()
        .tls_backend_preconfigured(no_tls())
        .build()
        .expect("a client")
}

fn no_tls() -> rustls::ClientConfig {
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    builder
        .expect("versions of TLS")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth()
}

/// The image with a shell that the agent's docker has; without one, says that the test is skipped.
pub(crate) fn image(test: &str) -> Option<String> {
    named("docker", test, "GOFER_TEST_NOMAD_IMAGE")
}

/// The same for podman.
pub(crate) fn podman_image(test: &str) -> Option<String> {
    named("podman", test, "GOFER_TEST_NOMAD_PODMAN_IMAGE")
}

/// One whose user is 1000, not root.
pub(crate) fn user_image(test: &str) -> Option<String> {
    named("docker", test, "GOFER_TEST_NOMAD_USER_IMAGE")
}

fn named(driver: &str, test: &str, variable: &str) -> Option<String> {
    let image = std::env::var(variable).ok().filter(|name| !name.is_empty());
    if image.is_none() {
        gofer_conformance::skip(driver, test, &format!("{variable} names no image with a shell"));
    }
    image
}

/// Says why a test of a real agent does nothing; an error when `GOFER_TEST_REQUIRE` names nomad.
pub(crate) fn skip(test: &str, why: &str) {
    gofer_conformance::skip("nomad", test, why);
}
