//! Which execution a token names that Nomad signed: its signature, its purpose, and whose
//! allocation it was made for.
//!
//! ```text
//! token ──> Identities ──> Keys (jwks.json) ──> jwt (ring) ──> Claims ──> calls::inspect_job
//!               │                                                             │
//!               └── identify: a living execution     owner: alive or not <────┘
//!                                                      │
//!                            a reported end ──> EndReports ──> the listener of its namespace
//! ```

mod jwt;
pub(crate) mod reports;

use std::sync::Arc;
use std::time::Duration;

use gofer_core::scheduler::ExecutionState;
use gofer_core::{BackendError, ErrorKind, ExecutionId};
use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{DecodingKey, Validation};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::calls::{Inspected, JobCalls, JobKey};
use crate::http::client::{Client, Query};
use crate::job::names::{MAIN, audience};

/// How far the servers' clocks and this one may differ, in seconds.
const LEEWAY_S: u64 = 30;
/// How often the keys are asked for at most, whatever tokens come.
const KEYS_READ_INTERVAL_MIN: Duration = Duration::from_secs(10);

/// What Nomad says of a task in its token.
#[derive(Debug, Deserialize)]
struct Claims {
    #[serde(rename = "nomad_namespace")]
    namespace: String,
    #[serde(rename = "nomad_job_id")]
    job_id: String,
    #[serde(rename = "nomad_allocation_id")]
    alloc: String,
    #[serde(rename = "nomad_task", default)]
    task: String,
}

/// The public keys of the cluster, as they were last read.
#[derive(Debug, Default)]
struct Keys(Mutex<Option<Known>>);

#[derive(Debug)]
struct Known {
    keys: JwkSet,
    /// When they were asked for.
    at: Instant,
}

impl Keys {
    /// The key of this id. Keys that are not known yet are asked for.
    async fn find(&self, client: &Client, id: &str) -> Result<Jwk, BackendError> {
        let unknown = || {
            BackendError::new(
                ErrorKind::NotFound,
                "the token is signed with a key that nomad does not have",
            )
        };

        let mut known = self.0.lock().await;
        if let Some(known) = known.as_ref() {
            if let Some(key) = known.keys.find(id) {
                return Ok(key.clone());
            }
            if known.at.elapsed() < KEYS_READ_INTERVAL_MIN {
                return Err(unknown());
            }
        }

        let keys = read_keys(client).await?;
        let found = keys.find(id).cloned();
        *known = Some(Known { keys, at: Instant::now() });

        found.ok_or_else(unknown)
    }
}

/// Reads the public keys.
pub(crate) async fn read_keys(client: &Client) -> Result<JwkSet, BackendError> {
    let answer = client.get::<JwkSet>("/.well-known/jwks.json", &Query::default()).await;
    answer
        .map(|answer| answer.value)
        .map_err(|failure| failure.backend("nomad's public keys cannot be read"))
}

/// Tells which executions tokens name.
#[derive(Debug)]
pub(crate) struct Identities {
    calls: Arc<JobCalls>,
    keys: Keys,
}

impl Identities {
    pub(crate) fn new(calls: Arc<JobCalls>) -> Self {
        Self { calls, keys: Keys::default() }
    }

    /// The living execution that a token names.
    pub(crate) async fn identify(&self, token: &SecretString) -> Result<ExecutionId, BackendError> {
        let inspected = self.owner(token).await?;
        match inspected.view.state {
            ExecutionState::Queued { .. } | ExecutionState::Running => Ok(inspected.id),
            _ => Err(refused(format!("the token's execution `{}` is over", inspected.id))),
        }
    }

    /// The execution, alive or not, whose own allocation a token was made for.
    pub(crate) async fn owner(&self, token: &SecretString) -> Result<Inspected, BackendError> {
        let claims = self.verified(token).await?;
        let config = &self.calls.config;
        let ours = config.nomad_namespaces().contains(&claims.namespace)
            && claims
                .job_id
                .strip_prefix(&config.job_prefix)
                .is_some_and(|rest| rest.starts_with('-'));
        if !ours || claims.task != MAIN {
            return Err(refused("the token is not of an execution of this gofer"));
        }

        let key = JobKey { namespace: claims.namespace, job_id: claims.job_id };
        let inspected = self.calls.inspect_job(&key).await?;
        let inspected = inspected.filter(|inspected| self.calls.key(&inspected.id) == key);
        let inspected = inspected
            .ok_or_else(|| refused("the token's job is not an execution of this gofer any more"))?;

        // What Nomad placed in its stead is not the execution, whatever it runs.
        if inspected.own_alloc().is_none_or(|own| own.id != claims.alloc) {
            return Err(refused(format!(
                "the token's allocation is not the one that is `{}`",
                inspected.id
            )));
        }

        Ok(inspected)
    }

    async fn verified(&self, token: &SecretString) -> Result<Claims, BackendError> {
        if !self.calls.config.identity {
            return Err(refused("`scheduler.nomad.identity` is off"));
        }

        jwt::install();
        let token = token.expose_secret();
        let no_token = |_| refused("it is not a token of nomad's");
        let header = jsonwebtoken::decode_header(token).map_err(no_token)?;
        let id = header.kid.as_deref().unwrap_or_default();
        let key = self.keys.find(&self.calls.client, id).await?;
        let key = DecodingKey::from_jwk(&key).map_err(no_token)?;
        let usable =
            jwt::ALGORITHMS.into_iter().find(|algorithm| algorithm.family() == key.family());
        let mut rules = Validation::new(
            usable.ok_or_else(|| refused("nomad's key is of a kind that it never had"))?,
        );

        rules.leeway = LEEWAY_S;
        rules.validate_nbf = true;
        rules.set_audience(&[audience(&self.calls.config.job_prefix)]);
        rules.set_required_spec_claims(&["exp", "nbf", "aud"]);

        let decoded = jsonwebtoken::decode::<Claims>(token, &key, &rules);
        decoded
            .map(|token| token.claims)
            .map_err(|error| refused(format!("the token is not valid: {error}")))
    }
}

fn refused(message: impl Into<String>) -> BackendError {
    BackendError::new(ErrorKind::NotFound, message)
}
