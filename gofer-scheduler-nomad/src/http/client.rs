//! HTTP towards the agents: which of them is asked, with which token, how often, and for how long.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use gofer_core::{BackendError, ErrorKind};
use reqwest::header::{
    ACCEPT_ENCODING, CONNECTION, CONTENT_TYPE, HeaderValue, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use reqwest::{Method, Response, StatusCode, Upgraded};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::config::NomadConfig;
use crate::http::error::Failure;
use crate::http::tls;
use crate::http::token::TokenSource;

/// How long an agent has to take a connection before the next one is asked.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Idle connections kept per agent; agents allow about a hundred per client.
const MAX_IDLE_CONNECTIONS: usize = 8;
/// Rounds through all agents before a call is given up; the caller's own repetition comes on top.
const MAX_ROUNDS: u32 = 5;
/// The first pause between two rounds; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Entries per page of a list.
const PAGE_ENTRIES: &str = "1000";
/// Longest list that is read to its end: ten jobs a second, kept for half a day.
const MAX_LISTED: usize = 500_000;
/// Larger answers are not read: no list that is asked for has pages of this size.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// A query string being built.
#[derive(Debug, Clone, Default)]
pub(crate) struct Query(String);

impl Query {
    /// Nothing but the namespace.
    pub(crate) fn namespace(name: &str) -> Self {
        Self::default().with("namespace", name)
    }

    /// One more pair, encoded.
    #[must_use]
    pub(crate) fn with(mut self, key: &str, value: &str) -> Self {
        if !self.0.is_empty() {
            self.0.push('&');
        }
        self.0.push_str(key);
        self.0.push('=');
        self.0.push_str(&encoded(value));
        self
    }
}

/// Percent-encodes everything but unreserved characters, for a path segment or a query value.
pub(crate) fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// What goes along with a request.
#[derive(Debug, Clone, Copy)]
enum Payload<'a> {
    Nothing,
    Json(&'a [u8]),
    /// The request to speak WebSocket from here on.
    WebSocket,
}

/// An answer that was read to its end.
#[derive(Debug)]
pub(crate) struct Answer<T> {
    pub(crate) value: T,
    /// The state's index that the answer reflects; 0 when Nomad does not say.
    pub(crate) index: u64,
    /// Where the next page begins.
    pub(crate) next: Option<String>,
}

/// Talks to the agents.
#[derive(Debug)]
pub(crate) struct Client {
    http: reqwest::Client,
    addresses: Vec<String>,
    /// The agent that answered last; others are asked when it does not.
    current: AtomicUsize,
    region: Option<String>,
    token: TokenSource,
    in_flight: Semaphore,
    timeout: Duration,
}

impl Client {
    pub(crate) fn new(config: &NomadConfig) -> Result<Self, BackendError> {
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls::client_config(config)?)
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_max_idle_per_host(MAX_IDLE_CONNECTIONS)
            .redirect(reqwest::redirect::Policy::none())
            // Agents are in the team's own network; a proxy that the environment names is for the
            // world outside.
            .no_proxy()
            .build()
            .map_err(|error| {
                BackendError::new(ErrorKind::Internal, "the HTTP client cannot be made")
                    .with_source(error)
            })?;
        Ok(Self {
            http,
            addresses: config
                .addresses
                .iter()
                .map(|address| address.trim_end_matches('/').to_owned())
                .collect(),
            current: AtomicUsize::new(0),
            region: config.region.clone(),
            token: TokenSource::new(config),
            in_flight: Semaphore::new(config.max_in_flight),
            timeout: config.request_timeout,
        })
    }

    /// The agent that is asked first now.
    pub(crate) fn address(&self) -> &str {
        &self.addresses[self.current.load(Ordering::Relaxed) % self.addresses.len()]
    }

    /// Reads something.
    pub(crate) async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &Query,
    ) -> Result<Answer<T>, Failure> {
        self.call(Method::GET, path, query, None).await
    }

    /// Reads a list to its end, page by page.
    pub(crate) async fn pages<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &Query,
    ) -> Result<Vec<T>, Failure> {
        let mut all = Vec::new();
        let mut next: Option<String> = None;
        loop {
            let mut query = query.clone().with("per_page", PAGE_ENTRIES);
            if let Some(next) = &next {
                query = query.with("next_token", next);
            }

            let page = self.get::<Option<Vec<T>>>(path, &query).await?;
            all.extend(page.value.unwrap_or_default());
            if all.len() > MAX_LISTED {
                return Err(Failure::Unreadable(format!(
                    "`{path}` lists more than {MAX_LISTED} entries; have nomad's garbage \
                     collection run more often"
                )));
            }

            match page.next {
                Some(token) => next = Some(token),
                None => return Ok(all),
            }
        }
    }

    /// Writes something. Every body that is sent may be sent twice.
    pub(crate) async fn put<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &Query,
        body: &(impl Serialize + Sync),
    ) -> Result<Answer<T>, Failure> {
        let body =
            serde_json::to_vec(body).map_err(|error| Failure::Unreadable(error.to_string()))?;
        self.call(Method::PUT, path, query, Some(body)).await
    }

    /// Deletes something; the answer is of no interest.
    pub(crate) async fn delete(&self, path: &str, query: &Query) -> Result<(), Failure> {
        self.bytes(Method::DELETE, path, query, None).await.map(|_| ())
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        query: &Query,
        body: Option<Vec<u8>>,
    ) -> Result<Answer<T>, Failure> {
        let answer = self.bytes(method, path, query, body).await?;
        let value = serde_json::from_slice(&answer.value)
            .map_err(|error| Failure::Unreadable(error.to_string()))?;
        Ok(Answer { value, index: answer.index, next: answer.next })
    }

    /// One call, as often as it takes within the time allowed, its answer read to the end.
    pub(crate) async fn bytes(
        &self,
        method: Method,
        path: &str,
        query: &Query,
        body: Option<Vec<u8>>,
    ) -> Result<Answer<Vec<u8>>, Failure> {
        let whole = async {
            let _turn = self.in_flight.acquire().await;
            let mut pauses = Pauses::default();
            loop {
                let failure = match self.round(&method, path, query, body.as_deref()).await {
                    Ok(answer) => return Ok(answer),
                    Err(failure) if failure.is_transient() => failure,
                    Err(failure) => return Err(failure),
                };
                if !pauses.next().await {
                    return Err(failure);
                }
            }
        };
        tokio::time::timeout(self.timeout, whole).await.unwrap_or(Err(Failure::Timeout))
    }

    /// Asks every agent once, until one has an answer.
    async fn round(
        &self,
        method: &Method,
        path: &str,
        query: &Query,
        body: Option<&[u8]>,
    ) -> Result<Answer<Vec<u8>>, Failure> {
        // One agent of several that hangs must not use up the time of all.
        let share = if self.addresses.len() > 1 { self.timeout / 2 } else { self.timeout };
        let payload = body.map_or(Payload::Nothing, Payload::Json);

        self.failover(|index| async move {
            let attempt =
                async { read(self.send(index, method, path, query, payload).await?).await };
            tokio::time::timeout(share, attempt).await.unwrap_or(Err(Failure::Timeout))
        })
        .await
    }

    /// Asks the agents one after the other until one answers, beginning with the one that answered
    /// last. A failure that the next one would have, too, ends it.
    async fn failover<T, F>(&self, ask: impl Fn(usize) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let first = self.current.load(Ordering::Relaxed);
        let mut last = Failure::Timeout;

        for step in 0..self.addresses.len() {
            let index = (first + step) % self.addresses.len();
            match ask(index).await {
                Ok(answer) => {
                    self.current.store(index, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(failure) if failure.is_transient() => last = failure,
                Err(failure) => return Err(failure),
            }
        }

        Err(last)
    }

    /// Opens an answer that goes on for as long as the caller reads; the caller minds its silences.
    pub(crate) async fn open(&self, path: &str, query: &Query) -> Result<Response, Failure> {
        self.open_as(Payload::Nothing, path, query).await
    }

    async fn open_as(
        &self,
        payload: Payload<'_>,
        path: &str,
        query: &Query,
    ) -> Result<Response, Failure> {
        let deadline = Instant::now() + self.timeout;
        self.failover(|index| async move {
            let opened = self.send(index, &Method::GET, path, query, payload);
            tokio::time::timeout_at(deadline, opened).await.unwrap_or(Err(Failure::Timeout))
        })
        .await
    }

    /// Opens a connection that speaks WebSocket from here on, with the first agent that takes it.
    pub(crate) async fn open_websocket(
        &self,
        path: &str,
        query: &Query,
    ) -> Result<Upgraded, Failure> {
        let response = self.open_as(Payload::WebSocket, path, query).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(Failure::Unreadable("it is no websocket".to_owned()));
        }
        response.upgrade().await.map_err(Failure::Transport)
    }

    /// One request to one agent. A refused token is read again from its file, once.
    async fn send(
        &self,
        index: usize,
        method: &Method,
        path: &str,
        query: &Query,
        payload: Payload<'_>,
    ) -> Result<Response, Failure> {
        let token = self.token.current().await.map_err(Failure::Local)?;
        let refused = match self.request(index, method, path, query, payload, token.as_ref()).await
        {
            Err(failure) if failure.is_denied() => failure,
            other => return other,
        };
        let Some(token) = token else { return Err(refused) };
        if !self.token.renewed(&token).await.map_err(Failure::Local)? {
            return Err(refused);
        }
        let token = self.token.current().await.map_err(Failure::Local)?;
        self.request(index, method, path, query, payload, token.as_ref()).await
    }

    async fn request(
        &self,
        index: usize,
        method: &Method,
        path: &str,
        query: &Query,
        payload: Payload<'_>,
        token: Option<&SecretString>,
    ) -> Result<Response, Failure> {
        let query = match &self.region {
            Some(region) => query.clone().with("region", region),
            None => query.clone(),
        };

        let separator = if query.0.is_empty() { "" } else { "?" };
        let url = format!("{}{path}{separator}{}", self.addresses[index], query.0);

        // Streams are read as they come; nothing here is large enough for compression to be worth
        // it.
        let mut request =
            self.http.request(method.clone(), url).header(ACCEPT_ENCODING, "identity");
        if let Some(token) = token {
            let mut value = HeaderValue::from_str(token.expose_secret()).map_err(|_| {
                let message = "the token holds a character that no HTTP header can";
                Failure::Local(BackendError::new(ErrorKind::Denied, message))
            })?;
            value.set_sensitive(true);
            request = request.header("X-Nomad-Token", value);
        }

        request = match payload {
            Payload::Nothing => request,
            Payload::Json(body) => {
                request.header(CONTENT_TYPE, "application/json").body(body.to_vec())
            }
            // The key only keeps caches from answering.
            Payload::WebSocket => request
                .header(CONNECTION, "Upgrade")
                .header(UPGRADE, "websocket")
                .header(SEC_WEBSOCKET_VERSION, "13")
                .header(SEC_WEBSOCKET_KEY, "Z29mZXItZXhlYy1rZXkhIQ=="),
        };

        let response = request.send().await.map_err(Failure::Transport)?;
        let status = response.status();
        if status.is_success() || status == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(response);
        }

        let body =
            read(response).await.map(|answer| String::from_utf8_lossy(&answer.value).into_owned());
        Err(Failure::Refused { status: status.as_u16(), body: body.unwrap_or_default() })
    }
}

async fn read(mut response: Response) -> Result<Answer<Vec<u8>>, Failure> {
    let text = |name: &str| {
        response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
    };
    let index = text("X-Nomad-Index").and_then(|index| index.parse().ok()).unwrap_or(0);
    let next = text("X-Nomad-NextToken").filter(|token| !token.is_empty());
    let mut value = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(Failure::Transport)? {
        if value.len() + chunk.len() > MAX_ANSWER_BYTES {
            return Err(Failure::Unreadable(format!("it is larger than {MAX_ANSWER_BYTES} bytes")));
        }
        value.extend_from_slice(&chunk);
    }
    Ok(Answer { value, index, next })
}

/// Pauses that grow, each shortened at random so that callers do not come back all at once.
#[derive(Debug, Default)]
struct Pauses {
    taken: u32,
}

impl Pauses {
    /// Waits, unless there were enough rounds.
    async fn next(&mut self) -> bool {
        if self.taken + 1 >= MAX_ROUNDS {
            return false;
        }
        tokio::time::sleep(jittered(FIRST_PAUSE * 2_u32.pow(self.taken))).await;
        self.taken += 1;
        true
    }
}

/// Between half of the pause and all of it.
pub(crate) fn jittered(pause: Duration) -> Duration {
    use std::hash::{BuildHasher, RandomState};
    // The standard library seeds each `RandomState` differently, which is random enough for a
    // pause.
    let random = RandomState::new().hash_one(0_u8) % 1_000;
    pause / 2 + pause / 2 * u32::try_from(random).unwrap_or(0) / 1_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_encoded() {
        let query = Query::namespace("team a").with("filter", "JobID matches \"^gofer-\"");
        assert_eq!(query.0, "namespace=team%20a&filter=JobID%20matches%20%22%5Egofer-%22");
        assert_eq!(encoded("a/b+c_é"), "a%2Fb%2Bc_%C3%A9");
    }

    #[test]
    fn pauses_are_shortened_but_not_away() {
        for _ in 0..100 {
            let pause = jittered(Duration::from_millis(100));
            assert!((50..=100).contains(&pause.as_millis()), "{pause:?}");
        }
    }
}
