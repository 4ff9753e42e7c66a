//! From an attempt that failed to the backend's error.

use std::error::Error;
use std::time::Duration;

use gofer_core::time::Timestamp;
use gofer_core::{BackendError, ErrorKind};
use s3::error::S3Error;

use crate::answer::Refusal;

/// A request that failed, after all attempts it was given.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) cause: Cause,
    /// How often it was sent; more than once means that an earlier one may have taken effect.
    pub(crate) attempts: u32,
}

/// Why an attempt failed.
#[derive(Debug)]
pub(crate) enum Cause {
    /// The store said no.
    Refused(Box<Refusal>),
    /// The store was not reached, or the connection broke.
    Broken(reqwest::Error),
    /// No answer, or no more of it, in time.
    Silent(Duration),
    /// An answer that is no answer.
    Nonsense(&'static str),
    /// The request could not be signed.
    Unsigned(S3Error),
    /// There are no credentials.
    NoCredentials(BackendError),
}

/// Whom a request went to, for messages.
#[derive(Debug, Clone)]
pub(crate) struct BucketAddress {
    pub(crate) endpoint: String,
    pub(crate) name: String,
}

impl Cause {
    /// Whether the same request may succeed soon.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Refused(refusal) => is_transient(refusal),
            Self::Broken(error) => !is_about_certificates(error),
            Self::Silent(_) => true,
            Self::Nonsense(_) | Self::Unsigned(_) | Self::NoCredentials(_) => false,
        }
    }

    /// Whether other credentials may help.
    pub(crate) fn is_about_credentials(&self) -> bool {
        let Self::Refused(refusal) = self else { return false };
        let about = [
            "ExpiredToken",
            "InvalidToken",
            "TokenRefreshRequired",
            "InvalidAccessKeyId",
            "SignatureDoesNotMatch",
        ];
        about.contains(&refusal.code.as_str())
            || (refusal.code.is_empty() && matches!(refusal.status, 400 | 403))
    }
}

impl Failure {
    /// The HTTP status of a refusal, else 0.
    pub(crate) fn status(&self) -> u16 {
        if let Cause::Refused(refusal) = &self.cause { refusal.status } else { 0 }
    }

    /// S3's word for the refusal, else nothing.
    pub(crate) fn code(&self) -> &str {
        if let Cause::Refused(refusal) = &self.cause { &refusal.code } else { "" }
    }

    /// The error of not having been able to `verb` the object `name`; an empty name is the bucket.
    pub(crate) fn into_error(self, verb: &str, name: &str, bucket: &BucketAddress) -> BackendError {
        let what = if name.is_empty() {
            format!("cannot {verb} bucket `{}` at `{}`", bucket.name, bucket.endpoint)
        } else {
            format!("cannot {verb} `{name}` in bucket `{}` at `{}`", bucket.name, bucket.endpoint)
        };
        match self.cause {
            Cause::Refused(refusal) => refused(&what, name, &refusal, bucket),
            Cause::Broken(error) => broken(&what, error),
            Cause::Silent(waited) => {
                let message =
                    format!("{what}: no answer within `{waited:?}`, {} attempts", self.attempts);
                BackendError::new(ErrorKind::Timeout, message)
            }
            Cause::Nonsense(why) => {
                BackendError::new(ErrorKind::Internal, format!("{what}: {why}"))
            }
            Cause::Unsigned(error) => BackendError::new(
                ErrorKind::Internal,
                format!("{what}: the request cannot be signed"),
            )
            .with_source(error),
            Cause::NoCredentials(error) => error,
        }
    }
}

fn is_transient(refusal: &Refusal) -> bool {
    let codes = [
        "SlowDown",
        "InternalError",
        "RequestTimeout",
        "OperationAborted",
        "ConditionalRequestConflict",
    ];
    matches!(refusal.status, 408 | 429 | 500 | 502 | 503 | 504)
        || codes.contains(&refusal.code.as_str())
}

fn refused(what: &str, name: &str, refusal: &Refusal, bucket: &BucketAddress) -> BackendError {
    let (kind, next_step) = match (refusal.status, refusal.code.as_str()) {
        (_, "NoSuchBucket") => (ErrorKind::Internal, format!("; make the bucket `{}`, or mend \
                                                              bucket", bucket.name)),
        (404, _) if name.is_empty() => {
            (ErrorKind::Internal, format!("; make the bucket `{}`, or mend bucket", bucket.name))
        }
        (404, "" | "NoSuchKey" | "NotFound") => {
            return BackendError::new(ErrorKind::NotFound, format!("there is no object `{name}`"));
        }
        (_, "NoSuchUpload") => (
            ErrorKind::Unavailable,
            "; somebody aborted the upload, perhaps a lifecycle rule: store it again".to_owned(),
        ),
        (_, "RequestTimeTooSkewed" | "RequestExpired" | "RequestNotReady") => (ErrorKind::Denied, clock(refusal)),
        (_, "InvalidAccessKeyId") => {
            (ErrorKind::Denied, "; it does not know the access key: mend access_key".to_owned())
        }
        (_, "SignatureDoesNotMatch") => (
            ErrorKind::Denied,
            "; the secret does not belong to the access key, or endpoint is not the name the store \
             knows itself by"
                .to_owned(),
        ),
        (_, "ExpiredToken" | "InvalidToken" | "TokenRefreshRequired") => {
            (ErrorKind::Denied, "; the temporary credentials have ended: bring new ones".to_owned())
        }
        (_, "AuthorizationHeaderMalformed" | "PermanentRedirect" | "IllegalLocationConstraintException")
        | (301 | 307, _) => (ErrorKind::Denied, region(refusal)),
        (_, "QuotaExceeded" | "XMinioStorageFull" | "XAmzStorageFull" | "EntityTooLarge") | (507, _) => {
            (ErrorKind::Exhausted, "; the store is full, or a quota is used up".to_owned())
        }
        (429, _) | (_, "SlowDown" | "TooManyRequests" | "RequestLimitExceeded") => {
            (ErrorKind::RateLimited, String::new())
        }
        (401 | 403, _) => {
            (ErrorKind::Denied, "; let the access key list, read, write and delete in the bucket".to_owned())
        }
        (408, _) | (_, "RequestTimeout") => (ErrorKind::Timeout, String::new()),
        (409 | 500 | 502 | 503 | 504, _) => (ErrorKind::Unavailable, String::new()),
        (501, _) => (ErrorKind::Unsupported, "; this store does not know the request".to_owned()),
        _ => (ErrorKind::Internal, String::new()),
    };

    let said = match (refusal.code.as_str(), refusal.message.as_str()) {
        ("", _) => String::new(),
        (code, "") => format!(" `{code}`"),
        (code, message) => format!(" `{code}` ({})", message.trim_end_matches('.')),
    };

    BackendError::new(
        kind,
        format!("{what}: the store answers {}{said}{next_step}", refusal.status),
    )
}

fn clock(refusal: &Refusal) -> String {
    let now = Timestamp::now();
    let difference = refusal.date.map_or(String::new(), |theirs| {
        let (seconds, word) = if now > theirs {
            (now.since(theirs).as_secs(), "ahead of")
        } else {
            (theirs.since(now).as_secs(), "behind")
        };
        format!(", {seconds} s {word} the store's")
    });
    format!("; the clock of this machine is wrong{difference}: let NTP set it")
}

fn region(refusal: &Refusal) -> String {
    if refusal.region.is_empty() {
        "; region or endpoint is not the bucket's".to_owned()
    } else {
        format!("; set region to `{}`", refusal.region)
    }
}

fn broken(what: &str, error: reqwest::Error) -> BackendError {
    let (kind, why) = if is_about_certificates(&error) {
        (
            ErrorKind::Unavailable,
            "its certificate is not trusted; name the authority's PEM file in ca_file",
        )
    } else if error.is_connect() {
        (ErrorKind::Unavailable, "no connection; does the store run, and is endpoint its address")
    } else if error.is_timeout() {
        (ErrorKind::Timeout, "no answer in time")
    } else {
        (ErrorKind::Unavailable, "the connection broke")
    };
    // The URL may carry a signature.
    BackendError::new(kind, format!("{what}: {why}")).with_source(error.without_url())
}

/// Whether the server's certificate was refused, which no second attempt changes.
fn is_about_certificates(error: &reqwest::Error) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return matches!(tls, rustls::Error::InvalidCertificate(_));
        }
        // An I/O error's `source` is that of the error in it, not the error itself.
        cause = match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    false
}
