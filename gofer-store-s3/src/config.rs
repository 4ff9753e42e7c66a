//! What an operator can set.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use gofer_core::{BackendError, ErrorKind};
use reqwest::Url;
use secrecy::SecretString;
use serde::Deserialize;

/// One MiB, the unit of `part_size`.
const MIB: u64 = 1024 * 1024;
/// S3 refuses smaller parts, except the last of an upload.
const MIN_PART_BYTES: u64 = 5 * MIB;
/// Two parts are in memory at least, one being gathered and one on its way, and a transfer may hold
/// 32 MiB.
const MAX_PART_BYTES: u64 = 15 * MIB;

/// Settings of the S3 object store.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct S3Config {
    /// The bucket. It must exist: Gofer never makes one.
    pub bucket: String,
    /// What every key in the bucket begins with, such as `gofer/`; empty is the whole bucket.
    pub prefix: String,
    /// `https://host[:port]` of the store; without it, AWS in `region`.
    pub endpoint: Option<String>,
    /// The region that requests are signed for. Most stores other than AWS accept any.
    pub region: String,
    /// Whether the bucket is in the path (`host/bucket/key`) instead of the host name
    /// (`bucket.host/key`). Without a value: in the path when `endpoint` is set, because few such
    /// stores have a wildcard certificate.
    pub path_style: Option<bool>,
    /// The endpoint that presigned URLs name, when clients reach the store under another name than
    /// Gofer does.
    pub public_endpoint: Option<String>,
    /// Where the credentials come from.
    pub credentials: CredentialSource,
    /// The id of the access key, for `credentials = "config"`.
    pub access_key: Option<String>,
    /// Its secret.
    pub secret_key: Option<SecretString>,
    /// A file that holds the secret, read again when the store refuses it; instead of `secret_key`.
    pub secret_key_file: Option<PathBuf>,
    /// The token of temporary credentials.
    pub session_token: Option<SecretString>,
    /// PEM file of the authorities to trust; without it, the operating system's.
    pub ca_file: Option<PathBuf>,
    /// How long the store may take to answer, and how long a body may stand still. An upload is
    /// given a second more per 256 KiB that it carries.
    #[serde(with = "humantime_serde")]
    pub request_timeout: Duration,
    /// How often a request is tried, 1 to 20, with growing random pauses between.
    pub attempts: u32,
    /// Bytes per part of a multipart upload, 5 MiB to 15 MiB. An object has at most 10,000 parts.
    pub part_size: u64,
    /// Whether the store heeds `If-None-Match: *`; `check` tries it. With `false`, for a store that
    /// does not (Garage), everything works but `if_absent`, which is refused instead of being a
    /// guess.
    pub conditional_writes: bool,
    /// How long `check` may take in all.
    #[serde(with = "humantime_serde")]
    pub check_timeout: Duration,
}

/// Where the credentials come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CredentialSource {
    /// `access_key` and its secret in these settings.
    Config,
    /// `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and, for temporary ones, `AWS_SESSION_TOKEN`.
    Environment,
    /// The profile `AWS_PROFILE` (`default`) of `AWS_SHARED_CREDENTIALS_FILE`
    /// (`~/.aws/credentials`).
    File,
    /// The role of the virtual machine Gofer runs on, from its instance metadata (IMDSv2).
    Instance,
    /// The first of the above that is there: settings, environment, file, instance.
    #[default]
    Auto,
}

impl Default for S3Config {
    fn default() -> Self {
        Self {
            bucket: String::new(),
            prefix: String::new(),
            endpoint: None,
            region: "us-east-1".to_owned(),
            path_style: None,
            public_endpoint: None,
            credentials: CredentialSource::Auto,
            access_key: None,
            secret_key: None,
            secret_key_file: None,
            session_token: None,
            ca_file: None,
            request_timeout: Duration::from_secs(30),
            attempts: 5,
            part_size: 8 * MIB,
            conditional_writes: true,
            check_timeout: Duration::from_secs(30),
        }
    }
}

impl S3Config {
    /// The product's name, in configurations and answers.
    pub const PRODUCT: &'static str = "s3";
    /// Whether all servers on one database see the same: a bucket has every object.
    pub const SHARED: bool = true;

    /// Whether each setting keeps its rule; asks nothing of the store or the file system.
    ///
    /// # Errors
    /// `Invalid`, which names the key, the value and the rule.
    pub fn validate(&self) -> Result<(), BackendError> {
        self.check_names()?;
        for (key, value) in
            [("endpoint", &self.endpoint), ("public_endpoint", &self.public_endpoint)]
        {
            if let Some(value) = value {
                self.check_endpoint(key, value)?;
            }
        }

        self.check_credentials()?;
        for (key, value) in
            [("request_timeout", self.request_timeout), ("check_timeout", self.check_timeout)]
        {
            if value.is_zero() {
                return Err(invalid(format!("{key}: must be longer than `0s`")));
            }
        }

        if !(1..=20).contains(&self.attempts) {
            return Err(invalid(format!("attempts: must be 1 to 20 (got `{}`)", self.attempts)));
        }

        if !(MIN_PART_BYTES..=MAX_PART_BYTES).contains(&self.part_size) {
            let rule =
                format!("part_size: must be {MIN_PART_BYTES} (5 MiB) to {MAX_PART_BYTES} (15 MiB)");
            return Err(invalid(format!("{rule}, got `{}`", self.part_size)));
        }

        Ok(())
    }

    /// The endpoint requests go to.
    pub(crate) fn service(&self) -> String {
        match &self.endpoint {
            Some(endpoint) => endpoint.trim_end_matches('/').to_owned(),
            None if self.region.starts_with("cn-") => {
                format!("https://s3.{}.amazonaws.com.cn", self.region)
            }
            None => format!("https://s3.{}.amazonaws.com", self.region),
        }
    }

    /// The endpoint that presigned URLs name.
    pub(crate) fn public_service(&self) -> String {
        self.public_endpoint
            .as_deref()
            .map_or_else(|| self.service(), |url| url.trim_end_matches('/').to_owned())
    }

    pub(crate) fn in_path(&self) -> bool {
        self.path_style.unwrap_or(self.endpoint.is_some())
    }

    fn check_names(&self) -> Result<(), BackendError> {
        let named = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        if self.bucket.is_empty() {
            return Err(invalid("bucket: is not set; name the bucket that holds the objects"));
        }

        if !(3..=63).contains(&self.bucket.len()) || !self.bucket.bytes().all(named) {
            let rule = "must be 3 to 63 letters, digits, `.`, `-` and `_`";
            return Err(invalid(format!("bucket: {rule} (got `{}`)", self.bucket)));
        }

        let climbs = |segment: &str| segment == "." || segment == "..";
        let empty_inside = self.prefix.starts_with('/') || self.prefix.contains("//");
        if self.prefix.len() > 256
            || empty_inside
            || self.prefix.split('/').any(climbs)
            || self.prefix.chars().any(char::is_control)
        {
            let rule = "must be at most 256 bytes without control characters, a `/` at its start, \
                        `//`, or a segment `.` or `..`";
            return Err(invalid(format!("prefix: {rule} (got `{}`)", self.prefix.escape_debug())));
        }

        if self.region.is_empty() || !self.region.bytes().all(named) {
            return Err(invalid(format!(
                "region: must be letters, digits and `-` (got `{}`)",
                self.region
            )));
        }

        Ok(())
    }

    fn check_endpoint(&self, key: &str, value: &str) -> Result<(), BackendError> {
        // The value is not shown where it may hold a password.
        let url = Url::parse(value).map_err(|error| {
            invalid(format!("{key}: is no URL; write `https://host` or `http://host:port`"))
                .with_source(error)
        })?;

        if !url.username().is_empty() || url.password().is_some() {
            return Err(invalid(format!(
                "{key}: must not hold a user or password; set access_key and secret_key_file"
            )));
        }

        let rule = if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            "must begin with `https://` or `http://`"
        } else if url.query().is_some() || url.fragment().is_some() {
            "must have no `?` and no `#`"
        } else if !self.in_path() && url.path() != "/" {
            "must have no path unless path_style is true"
        } else {
            return Ok(());
        };

        Err(invalid(format!("{key}: {rule} (got `{value}`)")))
    }

    fn check_credentials(&self) -> Result<(), BackendError> {
        let secrets =
            usize::from(self.secret_key.is_some()) + usize::from(self.secret_key_file.is_some());
        if secrets == 2 {
            return Err(invalid("secret_key, secret_key_file: set one of them, not both"));
        }

        if self.access_key.is_some() && secrets == 0 {
            return Err(invalid(
                "secret_key_file: is not set, though access_key is; name the file with its secret",
            ));
        }

        if self.access_key.is_none() && (secrets > 0 || self.session_token.is_some()) {
            return Err(invalid(
                "access_key: is not set, though its secret is; give the id of the key",
            ));
        }

        match self.credentials {
            CredentialSource::Config if self.access_key.is_none() => {
                Err(invalid("access_key: is not set, though credentials is `config`"))
            }
            CredentialSource::Environment | CredentialSource::File | CredentialSource::Instance
                if self.access_key.is_some() =>
            {
                Err(invalid("credentials: must be `config` or `auto` when access_key is set"))
            }
            _ => Ok(()),
        }
    }
}

/// Shows where secrets are set, never what they are.
impl fmt::Debug for S3Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Config")
            .field("bucket", &self.bucket)
            .field("prefix", &self.prefix)
            .field("endpoint", &self.endpoint)
            .field("region", &self.region)
            .field("path_style", &self.path_style)
            .field("public_endpoint", &self.public_endpoint)
            .field("credentials", &self.credentials)
            .field("access_key", &self.access_key)
            .field("secret_key", &self.secret_key.as_ref().map(|_| "<secret>"))
            .field("secret_key_file", &self.secret_key_file)
            .field("session_token", &self.session_token.as_ref().map(|_| "<secret>"))
            .field("ca_file", &self.ca_file)
            .field("request_timeout", &self.request_timeout)
            .field("attempts", &self.attempts)
            .field("part_size", &self.part_size)
            .field("conditional_writes", &self.conditional_writes)
            .field("check_timeout", &self.check_timeout)
            .finish()
    }
}

pub(crate) fn invalid(message: impl Into<String>) -> BackendError {
    BackendError::new(ErrorKind::Invalid, message)
}
