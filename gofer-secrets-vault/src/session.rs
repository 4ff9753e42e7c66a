//! Gofer's identity at Vault: one token for all calls, renewed before it runs out, replaced when it
//! is refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use gofer_core::{BackendError, ErrorKind};
use rustify::Endpoint;
use secrecy::SecretString;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};
use vaultrs::api::token::requests::RenewTokenSelfRequest;

use crate::client::{Answer, Client, Request};
use crate::config::{AuthConfig, VaultConfig};
use crate::credentials::{self, Login, LoginFailure};
use crate::error::{Failure, joined};
use crate::retry::{Backoff, jittered};
use crate::token::Token;

/// A refusal does not replace a token that is alive and whose login is younger than this. A new one
/// would be refused as well, and a policy that forbids something must not turn every call into a
/// login.
const YOUNG_TOKEN_AGE: Duration = Duration::from_secs(30);
/// Pause after a renewal that failed for good, doubled each time up to the other.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Between two renewals of a token that is about to end, at least.
const SHORTEST_PAUSE: Duration = Duration::from_millis(200);

/// A call that did not succeed.
#[derive(Debug)]
pub(crate) enum CallFailure {
    /// The last attempt failed.
    Vault {
        /// The failure of the last attempt.
        failure: Failure,
        /// Whether an earlier attempt may have been carried out.
        unsure: bool,
    },
    /// There is no token to call with.
    Login(BackendError),
}

impl From<BackendError> for CallFailure {
    fn from(error: BackendError) -> Self {
        Self::Login(error)
    }
}

/// The token that is used, and how to get another.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) client: Client,
    auth: AuthConfig,
    attempts: u32,
    current: watch::Sender<Option<Arc<Token>>>,
    /// Held during a login; has the error of the last login that failed.
    login: Mutex<Option<(ErrorKind, String)>>,
    /// How many logins have failed. A caller that waited during one takes its error, and does not
    /// try the same again.
    failed_logins: AtomicU64,
}

impl Session {
    pub(crate) fn new(config: &VaultConfig) -> Result<Arc<Self>, BackendError> {
        Ok(Arc::new(Self {
            client: Client::new(config)?,
            auth: config.auth.clone(),
            attempts: config.attempts,
            current: watch::Sender::new(None),
            login: Mutex::new(None),
            failed_logins: AtomicU64::new(0),
        }))
    }

    /// Calls with the current token. If that is refused, calls once more with a new one. Calls
    /// again, as often as configured, while the server is sealed, busy or out of reach. `secret` is
    /// a value in the request that no error may show.
    pub(crate) async fn call<E: Endpoint>(
        self: &Arc<Self>,
        endpoint: &E,
        secret: Option<&SecretString>,
    ) -> Result<Answer, CallFailure> {
        let mut backoff = Backoff::new(self.attempts);
        let (mut unsure, mut replaced) = (false, false);
        let mut token = self.token().await?;

        loop {
            let request =
                Request { endpoint, token: Some(&token.secret), in_namespace: true, secret };
            let failure = match self.client.send(request).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };

            if failure.is_denied() && !replaced {
                replaced = true;
                match self.replacement(&token).await? {
                    Some(newer) => token = newer,
                    None => return Err(CallFailure::Vault { failure, unsure }),
                }
                continue;
            }

            match pause(&mut backoff, &failure) {
                Some(pause) => sleep(pause).await,
                None => return Err(CallFailure::Vault { failure, unsure }),
            }

            unsure |= failure.is_unsure();
            token = self.token().await?;
        }
    }

    /// Calls without a token, outside all namespaces.
    pub(crate) async fn ask<E: Endpoint>(&self, endpoint: &E) -> Result<Answer, Failure> {
        self.send(endpoint, None, false).await
    }

    /// Logs in if nobody has.
    pub(crate) async fn token(self: &Arc<Self>) -> Result<Arc<Token>, BackendError> {
        let current = self.current.borrow().clone();
        match current {
            Some(token) if !token.is_expired() => Ok(token),
            stale => self.log_in_again(stale).await,
        }
    }

    /// A token to try after this one was refused, if there is one that might fare better.
    async fn replacement(
        self: &Arc<Self>,
        token: &Arc<Token>,
    ) -> Result<Option<Arc<Token>>, BackendError> {
        let is_young = token.made.elapsed() < YOUNG_TOKEN_AGE;
        if is_young && credentials::look_up(&self.client, &token.secret).await.is_ok() {
            return Ok(None);
        }
        let newer = self.log_in_again(Some(Arc::clone(token))).await?;
        Ok((!newer.is(token)).then_some(newer))
    }

    /// Another token than `stale`: one that another call got before, or a new one. It runs in a
    /// task of its own, so that a caller that gives up does not waste a secret id for one use.
    async fn log_in_again(
        self: &Arc<Self>,
        stale: Option<Arc<Token>>,
    ) -> Result<Arc<Token>, BackendError> {
        let session = Arc::clone(self);
        let failed_before = self.failed_logins.load(Ordering::SeqCst);
        joined(
            tokio::spawn(
                async move { session.log_in_in_turn(stale.as_deref(), failed_before).await },
            )
            .await,
        )
    }

    async fn log_in_in_turn(
        &self,
        stale: Option<&Token>,
        failed_before: u64,
    ) -> Result<Arc<Token>, BackendError> {
        let mut last_failure = self.login.lock().await;
        if let Some(current) = self.current.borrow().as_ref()
            && !current.is_expired()
            && stale.is_none_or(|stale| !current.is(stale))
        {
            return Ok(Arc::clone(current));
        }

        if let Some((kind, message)) = last_failure.as_ref()
            && self.failed_logins.load(Ordering::SeqCst) > failed_before
        {
            return Err(BackendError::new(*kind, message.clone()));
        }

        match self.log_in().await {
            Ok(token) => {
                let token = Arc::new(token);
                tracing::debug!(?token, method = self.auth.method.as_str(), "logged in to vault");
                self.current.send_replace(Some(Arc::clone(&token)));
                Ok(token)
            }
            Err(error) => {
                *last_failure = Some((error.kind, error.chain()));
                self.failed_logins.fetch_add(1, Ordering::SeqCst);
                Err(error)
            }
        }
    }

    async fn log_in(&self) -> Result<Token, BackendError> {
        let mut backoff = Backoff::new(self.attempts);
        loop {
            let failure = match credentials::log_in(&self.client, &self.auth).await {
                Ok(token) => return Ok(token),
                Err(failure) => failure,
            };

            let pause = match &failure {
                LoginFailure::Vault(failure) => pause(&mut backoff, failure),
                LoginFailure::Here(_) => None,
            };

            match pause {
                Some(pause) => sleep(pause).await,
                None => return Err(failure.into_error(self.client.address(), &self.auth)),
            }
        }
    }

    /// Sees to it that there is a token when this one ends.
    async fn prolong(self: &Arc<Self>, token: &Arc<Token>) -> Result<(), BackendError> {
        if token.renewable && !token.is_fading() && !token.is_expired() {
            match self.renew(token).await {
                Ok(renewed) => {
                    let is_fading = renewed.is_fading();
                    // Unless a call has replaced it since.
                    self.current.send_if_modified(|current| {
                        let same = current.as_ref().is_some_and(|current| current.is(&renewed));
                        if same {
                            *current = Some(Arc::new(renewed));
                        }
                        same
                    });

                    if !is_fading {
                        return Ok(());
                    }
                }
                // It is revoked, or as old as it may get.
                Err(failure) if failure.is_final() => {}
                Err(failure) => {
                    let needs = "`update` on `auth/token/renew-self`";
                    return Err(failure.into_error(
                        self.client.address(),
                        "renew the token",
                        needs,
                    ));
                }
            }
        }
        self.log_in_again(Some(Arc::clone(token))).await.map(drop)
    }

    async fn renew(&self, token: &Token) -> Result<Token, Failure> {
        let endpoint =
            RenewTokenSelfRequest { increment: Some(format!("{}s", token.full_lease.as_secs())) };
        let since = Instant::now();
        let login: Login = self.send(&endpoint, Some(&token.secret), true).await?.auth()?;
        let lease = (login.lease_duration > 0).then(|| Duration::from_secs(login.lease_duration));
        Ok(token.renewed(since, lease, login.renewable))
    }

    async fn send<E: Endpoint>(
        &self,
        endpoint: &E,
        token: Option<&SecretString>,
        in_namespace: bool,
    ) -> Result<Answer, Failure> {
        let mut backoff = Backoff::new(self.attempts);
        loop {
            let request = Request { endpoint, token, in_namespace, secret: None };
            let failure = match self.client.send(request).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            match pause(&mut backoff, &failure) {
                Some(pause) => sleep(pause).await,
                None => return Err(failure),
            }
        }
    }
}

fn pause(backoff: &mut Backoff, failure: &Failure) -> Option<Duration> {
    if failure.is_final() { None } else { backoff.pause(failure.retry_after()) }
}

/// The task that keeps the token alive; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Keeper(JoinHandle<()>);

impl Keeper {
    pub(crate) fn start(session: Arc<Session>) -> Self {
        Self(tokio::spawn(keep(session)))
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn keep(session: Arc<Session>) {
    let mut changes = session.current.subscribe();
    let mut pause = FIRST_PAUSE;
    loop {
        let token = changes.borrow_and_update().clone();
        let due = token.as_ref().and_then(|token| token.renewal());
        let (Some(token), Some(due)) = (token, due) else {
            // A token that lives for ever, until another takes its place.
            if changes.changed().await.is_err() {
                return;
            }
            continue;
        };

        let due = due.max(Instant::now() + SHORTEST_PAUSE);
        tokio::select! {
            () = sleep_until(due) => {}
            _ = changes.changed() => continue,
        }

        match session.prolong(&token).await {
            Ok(()) => pause = FIRST_PAUSE,
            Err(error) => {
                tracing::warn!(error = %error.chain(), "the vault token cannot be kept alive; \
                                                        trying again");
                tokio::select! {
                    () = sleep(jittered(pause, 0.5, 1.0)) => {}
                    _ = changes.changed() => {}
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}
