//! A server of one test's own, for what others must not see.

use std::process::{Child, Command, Stdio};

use gofer_conformance::{eventually, skip};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::Real;

/// A server that is not a development server: it begins uninitialized. It ends with the value.
#[derive(Debug)]
pub(super) struct Server {
    child: Child,
    pub(super) real: Real,
    _dir: TempDir,
}

impl Server {
    /// With the program that `GOFER_TEST_VAULT_BIN` names; without one, says that `test` is
    /// skipped.
    pub(super) async fn start(test: &str) -> Option<Self> {
        let Ok(program) = std::env::var("GOFER_TEST_VAULT_BIN") else {
            skip("vault", test, "GOFER_TEST_VAULT_BIN is not set");
            return None;
        };

        let dir = tempfile::tempdir().unwrap();
        // Free a moment ago; nobody else picks it within the next.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = json!({
            "storage": { "inmem": {} },
            "listener": { "tcp": { "address": format!("127.0.0.1:{port}"), "tls_disable": true } },
            "disable_mlock": true,
        });

        let file = dir.path().join("config.json");
        std::fs::write(&file, config.to_string()).unwrap();
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let child = Command::new(program)
            .arg("server")
            .arg(format!("-config={}", file.display()))
            .env("HOME", dir.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let server = Self {
            child,
            real: Real::at(format!("http://127.0.0.1:{port}"), String::new()),
            _dir: dir,
        };

        eventually("the server answers", || async {
            let url = format!("{}/v1/sys/seal-status", server.real.address);
            server.real.http.get(url).send().await.map(drop).map_err(|error| error.to_string())
        })
        .await;

        Some(server)
    }

    /// Makes it usable, with a KV engine at `secret`; the key that unseals it.
    pub(super) async fn initialize(&mut self) -> String {
        let shares = json!({ "secret_shares": 1, "secret_threshold": 1 });
        let made = self.real.administer("POST", "sys/init", shares).await;
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let (key, token) = (text(&made["keys"][0]), text(&made["root_token"]));
        self.real.token = token.into();
        self.unseal(&key).await;
        let engine = json!({ "type": "kv", "options": { "version": "2" } });
        self.real.administer("POST", "sys/mounts/secret", engine).await;
        key
    }

    pub(super) async fn unseal(&self, key: &str) {
        self.real.administer("POST", "sys/unseal", json!({ "key": key })).await;
        eventually("it is unsealed and active", || async {
            let (status, answer) = self.real.ask("GET", "sys/health", Value::Null).await;
            if status == 200 { Ok(()) } else { Err(format!("{status} {answer}")) }
        })
        .await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
