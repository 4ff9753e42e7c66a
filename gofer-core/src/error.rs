//! What a backend says when it cannot do what it was asked.

use std::error::Error;

/// What kind of failure, as far as the caller acts on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The named thing does not exist.
    NotFound,
    /// It exists already, and the call asked that it should not (`if_absent`).
    AlreadyExists,
    /// The input breaks a rule of the backend; the same call will fail again.
    Invalid,
    /// The backend refuses these credentials or this action.
    Denied,
    /// The backend cannot be reached, or is not ready; the same call may succeed later.
    Unavailable,
    /// No answer within the time allowed. The call may or may not have taken effect.
    Timeout,
    /// The backend asks to be called less often.
    RateLimited,
    /// A limit is used up: disk full, quota reached.
    Exhausted,
    /// The backend cannot do this at all; see its capabilities.
    Unsupported,
    /// Stored data is damaged, or cannot be decrypted with the key at hand.
    Corrupt,
    /// A fault of the backend or of Gofer that fits nothing above.
    Internal,
}

impl ErrorKind {
    /// Whether the same call may succeed later without anybody changing anything.
    #[must_use]
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::Unavailable | Self::Timeout | Self::RateLimited | Self::Exhausted)
    }
}

/// A backend's error: a kind to act on, a message for a person, and the cause.
///
/// `Display` is the message alone and never repeats the source; print the chain once, at the
/// boundary.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct BackendError {
    /// What to do about it.
    pub kind: ErrorKind,
    /// Lower case, no full stop, values in backticks, and the next step where there is one.
    pub message: String,
    /// The client library's or the operating system's own error.
    #[source]
    pub source: Option<Box<dyn Error + Send + Sync>>,
}

impl BackendError {
    /// An error with no cause of its own.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Whether the same call may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.kind.is_retryable()
    }

    /// The message and every cause, joined by `: `; for logs and for reasons shown to people.
    #[must_use]
    pub fn chain(&self) -> String {
        chain(self)
    }
}

/// An error's message and every cause that adds something, joined by `: `.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let more = inner.to_string();
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = inner.source();
    }
    text
}
