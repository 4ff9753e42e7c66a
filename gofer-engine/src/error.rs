//! Why the engine did not do what it was asked.

use gofer_core::journal::{JournalError, TooManyMasks};
use gofer_core::quota::QuotaExceeded;
use gofer_core::validate::Violation;
use gofer_core::{BackendError, ErrorKind, ExecutionId, Resource};

/// Why the engine did not do what it was asked. `Display` names the thing and the next step.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The named thing does not exist.
    #[error("{what} `{key}` does not exist")]
    NotFound {
        /// Of which kind.
        what: Resource,
        /// Its name.
        key: String,
    },
    /// The log of an attempt that ended is in no store any more.
    #[error(
        "the log of `{id}` is gone: it expired, or the scheduler no longer had it when it was to \
         be archived"
    )]
    LogGone {
        /// The attempt.
        id: ExecutionId,
    },
    /// The pipeline is disabled.
    #[error("pipeline `{key}` is disabled; enable it with `gofer pipeline enable`")]
    Disabled {
        /// `namespace/pipeline`.
        key: String,
    },
    /// The input breaks rules.
    #[error("{}", gofer_core::validate::joined(.0))]
    Invalid(Vec<Violation>),
    /// Only a complete run can be repeated.
    #[error("run `{key}` is not complete; wait for it or cancel it first")]
    NotComplete {
        /// `namespace/pipeline/run`.
        key: String,
    },
    /// Only in a task that runs can something be run beside it.
    #[error(
        "task run `{key}` is {state}: a command can only be run while it runs; `gofer task get` \
         shows it"
    )]
    NotRunning {
        /// `namespace/pipeline/run/task`.
        key: String,
        /// The state it is in, as in `starting`.
        state: &'static str,
    },
    /// The run masks as many values as a run may.
    #[error(transparent)]
    TooManyMasks(TooManyMasks),
    /// This engine, or its backends as configured, cannot do that.
    #[error("{message}")]
    Unsupported {
        /// What and why.
        message: String,
    },
    /// The namespace has as much as it may.
    #[error(transparent)]
    Quota(#[from] QuotaExceeded),
    /// A backend's or the database's own error.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The engine is shutting down.
    #[error("the server is shutting down; try again on the next one")]
    Stopped,
}

/// The journal's error as one of a backend.
pub(crate) fn of_journal(error: JournalError) -> BackendError {
    match error {
        JournalError::Backend(error) => error,
        other => BackendError::new(ErrorKind::Internal, other.to_string()),
    }
}

impl From<JournalError> for EngineError {
    fn from(error: JournalError) -> Self {
        match error {
            JournalError::NotFound { what, key } => Self::NotFound { what, key },
            JournalError::Disabled { key } => Self::Disabled { key },
            JournalError::Variables(refused) => Self::Invalid(refused),
            JournalError::TooManyMasks(full) => Self::TooManyMasks(full),
            JournalError::Quota(exceeded) => Self::Quota(exceeded),
            JournalError::Backend(error) => Self::Backend(error),
        }
    }
}
