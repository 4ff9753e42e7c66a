//! What can go wrong with a request, and what the caller of the store is told. None of it ever
//! holds a value or a token.

use std::time::Duration;

use gofer_core::{BackendError, ErrorKind};

/// Longest quotation of the server's own words.
const MAX_QUOTED_CHARS: usize = 300;

/// Why a request did not succeed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The server said no.
    Refused(Refusal),
    /// There was no connection, so nothing was done.
    Unreachable(reqwest::Error),
    /// The connection broke or nothing came back in time. It may have been done.
    NoAnswer(reqwest::Error),
    /// What came back cannot be understood, or what was to be sent cannot be sent; with the reason.
    Garbled(&'static str),
}

/// The server said no.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    /// In the server's words, without secrets.
    pub(crate) errors: Vec<String>,
    /// How long the server wants to be left alone.
    pub(crate) retry_after: Option<Duration>,
    /// With 404: the newest version of the secret, which is deleted or destroyed.
    pub(crate) gone_version: Option<u64>,
}

impl From<reqwest::Error> for Failure {
    fn from(error: reqwest::Error) -> Self {
        let error = error.without_url();
        if error.is_connect() || error.is_builder() {
            Self::Unreachable(error)
        } else {
            Self::NoAnswer(error)
        }
    }
}

impl Refusal {
    fn says(&self, words: &str) -> bool {
        self.errors.iter().any(|error| error.contains(words))
    }
}

impl Failure {
    fn refusal(&self) -> Option<&Refusal> {
        if let Self::Refused(refusal) = self { Some(refusal) } else { None }
    }

    fn status(&self) -> Option<u16> {
        self.refusal().map(|refusal| refusal.status)
    }

    /// Whether the token is bad, or may not do this: the server does not say which.
    pub(crate) fn is_denied(&self) -> bool {
        self.status() == Some(403)
    }

    /// Whether the server understood and will say the same again.
    pub(crate) fn is_final(&self) -> bool {
        match self {
            // 412 is a standby that has not caught up yet; 472 and 473 are standbys, which forward
            // soon.
            Self::Refused(refusal) => match refusal.status {
                412 | 429 | 472 | 473 | 500 | 502..=504 => false,
                400 => !refusal.says("Upgrading from non-versioned to versioned"),
                _ => true,
            },
            Self::Unreachable(error) => error.is_builder(),
            Self::NoAnswer(_) => false,
            Self::Garbled(_) => true,
        }
    }

    /// Whether the server may have done it although no answer came.
    pub(crate) fn is_unsure(&self) -> bool {
        match self {
            Self::Refused(refusal) => refusal.status >= 500,
            Self::NoAnswer(_) => true,
            Self::Unreachable(_) | Self::Garbled(_) => false,
        }
    }

    /// The words of a refusal that is no matter of time; as they are put behind a sentence.
    pub(crate) fn refused_for_good(&self) -> Option<String> {
        self.refusal()
            .filter(|refusal| (400..500).contains(&refusal.status) && self.is_final())
            .map(Refusal::words)
    }

    /// How long the server wants to be left alone.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        self.refusal().and_then(|refusal| refusal.retry_after)
    }

    /// Whether the version that the write expected, or had to name, is not the current one.
    pub(crate) fn is_conflict(&self) -> bool {
        self.refusal().is_some_and(|refusal| refusal.status == 400 && refusal.says("check-and-set"))
    }

    /// For a read or a list: that there is nothing; with the version that was deleted, if one was.
    pub(crate) fn nothing_there(&self) -> Option<Option<u64>> {
        // With words in it, it is about the path: the mount does not exist.
        let refusal = self.refusal().filter(|refusal| refusal.status == 404)?;
        (refusal.errors.is_empty() || refusal.gone_version.is_some())
            .then_some(refusal.gone_version)
    }

    /// What the caller is told. `action` is what was tried, such as ``read secret `a` ``, and
    /// `needs` what a policy must allow for it.
    pub(crate) fn into_error(self, address: &str, action: &str, needs: &str) -> BackendError {
        let new = |kind, message: String| BackendError::new(kind, message);
        match self {
            Self::Refused(refusal) => refusal.into_error(address, action, needs),
            Self::Unreachable(error) => {
                let shown = new(ErrorKind::Unavailable, String::new()).with_source(error);
                // Only the text tells: the error's type is private to libraries.
                let hint = if shown.chain().contains("certificate") {
                    "; `ca_file` names the authority of its certificate"
                } else {
                    ""
                };

                BackendError {
                    message: format!("cannot reach vault at `{address}` to {action}{hint}"),
                    ..shown
                }
            }
            Self::NoAnswer(error) if error.is_timeout() => new(
                ErrorKind::Timeout,
                format!("vault at `{address}` did not answer in time when asked to {action}"),
            )
            .with_source(error),
            Self::NoAnswer(error) => {
                let message =
                    format!("vault at `{address}` broke off the connection when asked to {action}");
                new(ErrorKind::Unavailable, message).with_source(error)
            }
            Self::Garbled(why) => {
                new(ErrorKind::Internal, format!("cannot {action} in vault at `{address}`: {why}"))
            }
        }
    }
}

impl Refusal {
    /// The server's words on one line, with a colon before them, or nothing.
    fn words(&self) -> String {
        let words = self.errors.join(", ");
        let words: Vec<&str> = words.split_whitespace().collect();
        if words.is_empty() {
            return String::new();
        }
        let words: String = words.join(" ").chars().take(MAX_QUOTED_CHARS).collect();
        format!(": {words}")
    }

    fn into_error(self, address: &str, action: &str, needs: &str) -> BackendError {
        let words = self.words();
        let vault = format!("vault at `{address}`");
        let (kind, message) = match self.status {
            403 => {
                let next_step =
                    format!("the token needs {needs}; see config/vault/gofer-policy.hcl");
                (
                    ErrorKind::Denied,
                    format!("{vault} does not let gofer {action}{words}; {next_step}"),
                )
            }
            404 => {
                let next_step = "does the mount exist, and is it a KV engine of version 2?";
                (
                    ErrorKind::Invalid,
                    format!("{vault} does not know where to {action}{words}; {next_step}"),
                )
            }
            429 => {
                (ErrorKind::RateLimited, format!("{vault} has too much to do to {action}{words}"))
            }
            501 => {
                let next_step = "run `vault operator init`";
                (
                    ErrorKind::Unavailable,
                    format!("{vault} is not initialized, so it cannot {action}; {next_step}"),
                )
            }
            503 if self.says("sealed") => {
                let next_step = "run `vault operator unseal`";
                (
                    ErrorKind::Unavailable,
                    format!("{vault} is sealed, so it cannot {action}; {next_step}"),
                )
            }
            status @ (412 | 472 | 473 | 500..) => (
                ErrorKind::Unavailable,
                format!("{vault} cannot {action} now (status {status}){words}"),
            ),
            status @ 300..400 => {
                let next_step = "set `address` to the server that answers itself";
                let message = format!(
                    "{vault} points elsewhere when asked to {action} (status {status}); \
                     {next_step}"
                );
                (ErrorKind::Unavailable, message)
            }
            413 => (
                ErrorKind::Invalid,
                format!("{vault} finds the request too long to {action}{words}"),
            ),
            status => (
                ErrorKind::Invalid,
                format!("{vault} refuses to {action} (status {status}){words}"),
            ),
        };

        BackendError::new(kind, message)
    }
}

/// Runs file work on a thread that may block. A panic there goes on here, as if there had been no
/// thread.
pub(crate) async fn blocking<T, F>(work: F) -> Result<T, BackendError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, BackendError> + Send + 'static,
{
    joined(tokio::task::spawn_blocking(work).await)
}

/// What a task came to.
pub(crate) fn joined<T, E: From<BackendError>>(
    result: Result<Result<T, E>, tokio::task::JoinError>,
) -> Result<T, E> {
    match result {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(error) => Err(BackendError::new(ErrorKind::Unavailable, "gofer is shutting down")
            .with_source(error)
            .into()),
    }
}
