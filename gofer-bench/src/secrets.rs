//! Secrets read through Gofer from Vault or OpenBao, beside bare reads of the same.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use gofer_proto::v1::secret_service_client::SecretServiceClient;
use gofer_proto::v1::{GetSecretRequest, GlobalScope, PutSecretRequest, SecretScope, secret_scope};
use reqwest::Client;
use serde_json::{Value, json};

use crate::report::{Report, Samples, Unit};
use crate::server::{Connection, Server};
use crate::{Bench, http, progress};

/// Reads under way at once where many are.
const AT_ONCE: usize = 16;
const ROUNDS: usize = 3;
const VALUE: &str = "0123456789abcdef0123456789abcdef";

/// Which server, and how many.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub(crate) struct Options {
    /// Address of Vault or OpenBao
    #[arg(long, default_value = "http://127.0.0.1:8200", value_name = "URL")]
    vault_addr: String,
    /// A file that holds a token which may read and write below `gofer-bench/` of the engine
    #[arg(long, value_name = "FILE")]
    vault_token_file: PathBuf,
    /// Path of the KV engine, version 2
    #[arg(long, default_value = "secret", value_name = "PATH")]
    mount: String,
    /// How many secrets
    #[arg(long, default_value_t = 1_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    secrets: u32,
}

pub(crate) async fn measure(bench: &Bench, options: &Options, report: &mut Report) -> Result<()> {
    let count = options.secrets;
    progress(&format!("{count} secrets"));
    let config = format!(
        "[secrets]\nbackend = \"vault\"\n[secrets.vault]\naddress = {}\nmount = {}\nprefix = \
         \"gofer-bench/{}\"\n[secrets.vault.auth]\nmethod = \"token\"\ntoken_file = {}\n",
        http::quoted(&options.vault_addr),
        http::quoted(&options.mount),
        std::process::id(),
        http::quoted_path(&options.vault_token_file)?,
    );
    let server =
        Server::start_configured(&bench.gofer, &bench.new_dir("secrets-")?, &config).await?;
    let gofer = SecretServiceClient::new(server.channel());
    let bare = Bare::new(options)?;

    stream::iter(0..count)
        .map(|index| put(gofer.clone(), index))
        .buffer_unordered(AT_ONCE)
        .try_collect::<()>()
        .await?;
    stream::iter(0..count)
        .map(|index| bare.put(index))
        .buffer_unordered(AT_ONCE)
        .try_collect::<()>()
        .await?;

    let mut read = Samples::new("bare read");
    let mut got = Samples::new("GetSecret");
    for index in 0..count {
        let start = Instant::now();
        bare.get(index).await?;
        read.values.push(start.elapsed().as_secs_f64() * 1e3);
        let start = Instant::now();
        get(gofer.clone(), index).await?;
        got.values.push(start.elapsed().as_secs_f64() * 1e3);
    }

    report.add("one secret after the other", Unit::Milliseconds, Some(&read), &[got]);

    let mut read = Samples::new("bare reads");
    let mut got = Samples::new("GetSecret");
    for _ in 0..ROUNDS {
        let start = Instant::now();
        stream::iter(0..count)
            .map(|index| bare.get(index))
            .buffer_unordered(AT_ONCE)
            .try_collect::<()>()
            .await?;
        read.values.push(f64::from(count) / start.elapsed().as_secs_f64());

        let start = Instant::now();
        stream::iter(0..count)
            .map(|index| get(gofer.clone(), index))
            .buffer_unordered(AT_ONCE)
            .try_collect::<()>()
            .await?;
        got.values.push(f64::from(count) / start.elapsed().as_secs_f64());
    }

    report.add(
        &format!("{count} secrets, {AT_ONCE} at once"),
        Unit::PerSecond,
        Some(&read),
        &[got],
    );
    bare.remove_all(count).await?;

    server.stop().await
}

fn scope() -> Option<SecretScope> {
    Some(SecretScope { scope: Some(secret_scope::Scope::GlobalScope(GlobalScope {})) })
}

fn key(index: u32) -> String {
    format!("s{index}")
}

async fn put(mut gofer: SecretServiceClient<Connection>, index: u32) -> Result<()> {
    let request = PutSecretRequest {
        scope: scope(),
        key: key(index),
        value: VALUE.to_owned(),
        ..PutSecretRequest::default()
    };
    gofer.put_secret(request).await?;
    Ok(())
}

async fn get(mut gofer: SecretServiceClient<Connection>, index: u32) -> Result<()> {
    let answer =
        gofer.get_secret(GetSecretRequest { scope: scope(), key: key(index) }).await?.into_inner();
    ensure!(answer.value == VALUE, "another value than was put");
    Ok(())
}

/// The least work to read from the engine.
struct Bare {
    http: Client,
    engine: String,
    token: String,
}

impl Bare {
    fn new(options: &Options) -> Result<Self> {
        let engine = format!("{}/v1/{}", options.vault_addr.trim_end_matches('/'), options.mount);
        Ok(Self { http: http::client()?, engine, token: http::secret(&options.vault_token_file)? })
    }

    fn url(&self, kind: &str, index: u32) -> String {
        format!("{}/{kind}/gofer-bench/bare-{}/{}", self.engine, std::process::id(), key(index))
    }

    async fn put(&self, index: u32) -> Result<()> {
        let request = self.http.post(self.url("data", index)).header("X-Vault-Token", &self.token);
        request.json(&json!({"data": {"value": VALUE}})).send().await?.error_for_status()?;
        Ok(())
    }

    async fn get(&self, index: u32) -> Result<()> {
        let request = self.http.get(self.url("data", index)).header("X-Vault-Token", &self.token);
        let answer: Value = request.send().await?.error_for_status()?.json().await?;
        ensure!(answer["data"]["data"]["value"] == VALUE, "another value than was put");
        Ok(())
    }

    /// Removes the bare client's secrets and those that Gofer wrote.
    async fn remove_all(&self, count: u32) -> Result<()> {
        let bare = (0..count).map(|index| self.url("metadata", index));
        let below = format!("gofer-bench/{}", std::process::id());
        let gofer = self
            .list(&below)
            .await?
            .into_iter()
            .map(|key| format!("{}/metadata/{key}", self.engine));
        let removed = stream::iter(bare.chain(gofer)).map(|url| async move {
            self.http
                .delete(url)
                .header("X-Vault-Token", &self.token)
                .send()
                .await?
                .error_for_status()?;
            Ok::<_, anyhow::Error>(())
        });

        removed.buffer_unordered(AT_ONCE).try_collect::<()>().await
    }

    /// Every key below a folder.
    async fn list(&self, folder: &str) -> Result<Vec<String>> {
        let (mut found, mut open) = (Vec::new(), vec![folder.to_owned()]);
        while let Some(folder) = open.pop() {
            let url = format!("{}/metadata/{folder}?list=true", self.engine);
            let answer = self
                .http
                .get(url)
                .header("X-Vault-Token", &self.token)
                .send()
                .await?
                .error_for_status()?;
            let answer: Value = answer.json().await?;

            for key in answer["data"]["keys"].as_array().context("a list without keys")? {
                let key = key.as_str().context("a key is no text")?;
                match key.strip_suffix('/') {
                    Some(sub) => open.push(format!("{folder}/{sub}")),
                    None => found.push(format!("{folder}/{key}")),
                }
            }
        }

        Ok(found)
    }
}
