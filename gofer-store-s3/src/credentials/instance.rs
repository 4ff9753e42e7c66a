//! Credentials of the virtual machine's role (IMDSv2), as
//! <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-retrieval.html> describes
//! them.
//!
//! The library's own way blocks a thread, and brings a second HTTP client.

use std::time::Duration;

use gofer_core::time::Timestamp;
use gofer_core::{BackendError, ErrorKind};
use reqwest::{Method, RequestBuilder, Response};
use secrecy::SecretString;
use serde::Deserialize;

use super::keys::Keys;
use crate::answer::parse_iso_date;
use crate::tls;

/// The metadata service answers from the same host; where it does not, there is none.
const METADATA_TIMEOUT: Duration = Duration::from_secs(2);
/// Where the metadata service of every cloud that has one is.
const DEFAULT_ENDPOINT: &str = "http://169.254.169.254";
/// Longest answer that is read: names and keys have a few hundred bytes.
const MAX_ANSWER_BYTES: usize = 64 * 1024;
const ROLE_PATH: &str = "/latest/meta-data/iam/security-credentials/";

/// The machine's metadata service.
#[derive(Debug)]
pub(crate) struct Instance {
    http: reqwest::Client,
    endpoint: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Role {
    access_key_id: String,
    secret_access_key: SecretString,
    token: SecretString,
    expiration: String,
}

impl Instance {
    /// The service that `AWS_EC2_METADATA_SERVICE_ENDPOINT` names, as with every AWS client, or the
    /// usual one.
    pub(crate) fn new(timeout: Duration) -> Result<Self, BackendError> {
        let named =
            std::env::var("AWS_EC2_METADATA_SERVICE_ENDPOINT").ok().filter(|url| !url.is_empty());
        Self::at(named.as_deref().unwrap_or(DEFAULT_ENDPOINT), timeout)
    }

    pub(crate) fn at(endpoint: &str, timeout: Duration) -> Result<Self, BackendError> {
        let http = tls::metadata_client(timeout.min(METADATA_TIMEOUT))?;
        Ok(Self { http, endpoint: endpoint.trim_end_matches('/').to_owned() })
    }

    /// The credentials of the role that this machine has.
    pub(crate) async fn keys(&self) -> Result<Keys, BackendError> {
        let token = self
            .request(Method::PUT, "/latest/api/token")
            .header("x-aws-ec2-metadata-token-ttl-seconds", "300");
        let token = self.text(token, "a session").await?;
        let asking = |path: &str| {
            self.request(Method::GET, path).header("x-aws-ec2-metadata-token", token.as_str())
        };

        let role = self.text(asking(ROLE_PATH), "the role").await?;
        let role = role.lines().next().unwrap_or_default().trim();
        if role.is_empty() {
            return Err(BackendError::new(
                ErrorKind::Invalid,
                "credentials: this machine has no role; attach one to it",
            ));
        }

        let text = self.text(asking(&format!("{ROLE_PATH}{role}")), "the credentials").await?;
        read(&text).ok_or_else(|| {
            let message = format!(
                "credentials: instance metadata at `{}` has none that can be read",
                self.endpoint
            );
            BackendError::new(ErrorKind::Unavailable, message)
        })
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.endpoint)).timeout(METADATA_TIMEOUT)
    }

    async fn text(&self, request: RequestBuilder, what: &str) -> Result<String, BackendError> {
        let refused = || {
            format!("credentials: instance metadata at `{}` does not give {what}", self.endpoint)
        };

        let failed =
            |error| BackendError::new(ErrorKind::Unavailable, refused()).with_source(error);
        let mut response =
            request.send().await.and_then(Response::error_for_status).map_err(failed)?;
        let mut text = Vec::new();

        while let Some(piece) = response.chunk().await.map_err(failed)? {
            if text.len() + piece.len() > MAX_ANSWER_BYTES {
                let message = format!("{}, but more than {MAX_ANSWER_BYTES} bytes", refused());
                return Err(BackendError::new(ErrorKind::Unavailable, message));
            }
            text.extend_from_slice(&piece);
        }

        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

fn read(text: &str) -> Option<Keys> {
    let role: Role = serde_json::from_str(text).ok()?;
    let ends_at: Timestamp = parse_iso_date(&role.expiration)?;
    Some(Keys {
        access_key: role.access_key_id,
        secret_key: role.secret_access_key,
        token: Some(role.token),
        ends_at: Some(ends_at),
    })
}
