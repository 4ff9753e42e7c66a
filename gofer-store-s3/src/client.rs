//! Sends requests: signed anew for every attempt, bounded in time, tried again while there is hope.

use std::time::Duration;

use bytes::BytesMut;
use gofer_core::BackendError;
use rand::RngExt;
use reqwest::Response;
use tokio::time::{sleep, timeout};

use crate::answer::{Answer, Refusal, gather};
use crate::config::S3Config;
use crate::credentials::{Keyring, Signer};
use crate::error::{BucketAddress, Cause, Failure};
use crate::operation::{Call, Operation};
use crate::tls;

/// The first pause before another attempt; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause of our own.
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// The longest pause that a server may ask for.
const MAX_ASKED_PAUSE: Duration = Duration::from_secs(30);
/// The slowest line over which an upload is not given up.
const SLOWEST_BYTES_PER_SECOND: u64 = 256 * 1024;

/// The one way to the store.
#[derive(Debug)]
pub(crate) struct Client {
    http: reqwest::Client,
    keyring: Keyring,
    attempts: u32,
    timeout: Duration,
    pub(crate) bucket: BucketAddress,
}

impl Client {
    pub(crate) fn new(config: &S3Config) -> Result<Self, BackendError> {
        Ok(Self {
            http: tls::store_client(config)?,
            keyring: Keyring::new(config)?,
            attempts: config.attempts,
            timeout: config.request_timeout,
            bucket: BucketAddress { endpoint: config.service(), name: config.bucket.clone() },
        })
    }

    /// What signs requests now.
    pub(crate) async fn signer(&self) -> Result<std::sync::Arc<Signer>, BackendError> {
        self.keyring.signer().await
    }

    /// How long a body may stand still.
    pub(crate) fn patience(&self) -> Duration {
        self.timeout
    }

    /// How often a request is tried.
    pub(crate) fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Sends the request until it succeeds, the attempts are used up, or trying again is of no use.
    pub(crate) async fn send(&self, call: &Call) -> Result<Answer, Failure> {
        let mut attempts = 0;
        let mut renewed = false;
        loop {
            attempts += 1;
            let signer = match self.keyring.signer().await {
                Ok(signer) => signer,
                Err(error) => return Err(Failure { cause: Cause::NoCredentials(error), attempts }),
            };

            let cause = match self.attempt(call, &signer).await {
                Ok(answer) => return Ok(Answer { attempts, ..answer }),
                Err(cause) => cause,
            };

            if cause.is_about_credentials() && !renewed {
                renewed = true;
                if self.keyring.renewed(&signer).await {
                    continue;
                }
            }

            if attempts >= self.attempts || !cause.is_transient() {
                return Err(Failure { cause, attempts });
            }

            tracing::debug!(
                attempts,
                ?cause,
                key = call.key,
                "the object store did not {}",
                call.operation.verb()
            );
            sleep(pause(attempts, &cause)).await;
        }
    }

    async fn attempt(&self, call: &Call, signer: &Signer) -> Result<Answer, Cause> {
        let signed = call.sign(&signer.bucket).await.map_err(Cause::Unsigned)?;
        let upload = Duration::from_secs(signed.body.len() as u64 / SLOWEST_BYTES_PER_SECOND);
        let patience = self.timeout + upload;
        let request = self
            .http
            .request(signed.method, signed.url)
            .headers(signed.headers)
            .body(signed.body)
            .send();
        let response = timeout(patience, request)
            .await
            .map_err(|_| Cause::Silent(patience))?
            .map_err(Cause::Broken)?;

        if !response.status().is_success() {
            return Err(self.refusal(response).await);
        }

        if call.operation.streams() {
            let headers = response.headers().clone();
            return Ok(Answer {
                headers,
                text: bytes::Bytes::new(),
                stream: Some(response),
                attempts: 0,
            });
        }

        let headers = response.headers().clone();
        let status = response.status().as_u16();
        let text = if matches!(call.operation, Operation::Head) {
            BytesMut::new()
        } else {
            self.text(response).await?
        };

        // A completion is answered before it is done: what went wrong comes with status 200.
        if matches!(call.operation, Operation::Complete { .. }) {
            let refusal = Refusal::read(status, &headers, &text);
            if !refusal.code.is_empty() {
                return Err(Cause::Refused(Box::new(refusal)));
            }
        }

        Ok(Answer { headers, text: text.freeze(), stream: None, attempts: 0 })
    }

    async fn refusal(&self, response: Response) -> Cause {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        // The status says enough when the explanation does not come.
        let text = self.text(response).await.unwrap_or_default();
        Cause::Refused(Box::new(Refusal::read(status, &headers, &text)))
    }

    /// The whole body, which is text of at most [`crate::answer::MAX_TEXT_BYTES`].
    pub(crate) async fn text(&self, mut response: Response) -> Result<BytesMut, Cause> {
        let mut text = BytesMut::new();
        loop {
            let piece = timeout(self.timeout, response.chunk())
                .await
                .map_err(|_| Cause::Silent(self.timeout))?;
            let Some(piece) = piece.map_err(Cause::Broken)? else { break };
            if !gather(&mut text, &piece) {
                return Err(Cause::Nonsense(
                    "the answer is longer than 8 MiB; does endpoint name an S3 service",
                ));
            }
        }
        Ok(text)
    }
}

/// How long to wait after so many attempts: half of it is random, so that clients do not return all
/// at once.
fn pause(attempts: u32, cause: &Cause) -> Duration {
    let asked = match cause {
        Cause::Refused(refusal) => refusal.retry_after_seconds.map(Duration::from_secs),
        _ => None,
    };
    let longest = (FIRST_PAUSE * 2_u32.saturating_pow(attempts - 1).min(1024)).min(MAX_PAUSE);
    let own = longest.mul_f64(rand::rng().random_range(0.5..=1.0));
    own.max(asked.unwrap_or_default().min(MAX_ASKED_PAUSE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_heed_the_server() {
        let silent = Cause::Silent(Duration::from_secs(1));
        for attempts in 1..40 {
            let pause = pause(attempts, &silent);
            let longest = FIRST_PAUSE
                .mul_f64(2_f64.powi(i32::try_from(attempts).unwrap() - 1))
                .min(MAX_PAUSE);
            assert!(
                pause <= longest && pause >= longest / 2,
                "{pause:?} after {attempts} attempts"
            );
        }

        let asked = |seconds| {
            let refusal =
                Refusal { status: 503, retry_after_seconds: Some(seconds), ..Refusal::default() };
            pause(1, &Cause::Refused(Box::new(refusal)))
        };

        assert_eq!(asked(7), Duration::from_secs(7));
        assert_eq!(asked(86_400), MAX_ASKED_PAUSE);
    }
}
