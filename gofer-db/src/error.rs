//! What can go wrong, and the one place that reads the engines' own errors.

use std::error::Error;

use diesel::result::{DatabaseErrorKind, Error as DieselError};
use gofer_core::journal::JournalError;
use gofer_core::{BackendError, ErrorKind};

type Source = Box<dyn Error + Send + Sync>;

/// Why the database did not do what it was asked. `Display` never repeats the source.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// The named thing does not exist.
    #[error("{what} `{key}` does not exist")]
    NotFound {
        /// Such as `pipeline`.
        what: &'static str,
        /// Its name.
        key: String,
    },
    /// It exists already.
    #[error("{what} `{key}` exists already")]
    AlreadyExists {
        /// Such as `namespace`.
        what: &'static str,
        /// Its name.
        key: String,
    },
    /// The pipeline is disabled.
    #[error("pipeline `{key}` is disabled; enable it with `gofer pipeline enable`")]
    Disabled {
        /// `namespace/pipeline`.
        key: String,
    },
    /// Things are not as the call needs them; the message says what to do first.
    #[error("{message}")]
    Conflict {
        /// What stands in the way.
        message: String,
    },
    /// An argument breaks a rule.
    #[error("{field}: {rule} (got `{value}`)")]
    Invalid {
        /// Which.
        field: &'static str,
        /// As given.
        value: String,
        /// What it breaks.
        rule: &'static str,
    },
    /// The settings name no usable database.
    #[error("{message}")]
    Config {
        /// Starts with the key.
        message: String,
    },
    /// Another server uses this database.
    #[error("another Gofer server uses `{database}` ({holder}); stop it first, or give this one its own database")]
    Locked {
        /// Which database.
        database: String,
        /// What is known of the other server.
        holder: String,
    },
    /// The database cannot be reached or is too busy; the same call may succeed later.
    #[error("{message}")]
    Unavailable {
        /// What was tried.
        message: String,
        /// The cause.
        #[source]
        source: Option<Source>,
    },
    /// The disk is full, or a limit of the database is reached; the same call may succeed when there is room again.
    #[error("the database has no room left; free space on its disk, everything goes on by itself then")]
    Exhausted {
        /// The cause.
        #[source]
        source: Option<Source>,
    },
    /// Stored data is damaged, or was written by a newer Gofer.
    #[error("{message}")]
    Corrupt {
        /// What was read.
        message: String,
        /// The cause.
        #[source]
        source: Option<Source>,
    },
    /// A fault of the database or of Gofer that fits nothing above.
    #[error("{message}")]
    Internal {
        /// What was tried.
        message: String,
        /// The cause.
        #[source]
        source: Option<Source>,
    },
}

impl DbError {
    pub(crate) fn not_found(what: &'static str, key: impl ToString) -> Self {
        Self::NotFound { what, key: key.to_string() }
    }

    pub(crate) fn exists(what: &'static str, key: impl ToString) -> Self {
        Self::AlreadyExists { what, key: key.to_string() }
    }

    pub(crate) fn conflict(message: impl Into<String>) -> Self {
        Self::Conflict { message: message.into() }
    }

    pub(crate) fn config(message: impl Into<String>) -> Self {
        Self::Config { message: message.into() }
    }

    pub(crate) fn unavailable(message: impl Into<String>, source: impl Into<Source>) -> Self {
        Self::Unavailable { message: message.into(), source: Some(source.into()) }
    }

    pub(crate) fn corrupt(message: impl Into<String>) -> Self {
        Self::Corrupt { message: message.into(), source: None }
    }

    pub(crate) fn internal(message: impl Into<String>, source: impl Into<Source>) -> Self {
        Self::Internal { message: message.into(), source: Some(source.into()) }
    }

    /// The error of a transaction, once more for another operation that was part of it.
    pub(crate) fn repeated(&self) -> Self {
        let message = self.to_string();
        let source: Option<Source> = self.source().map(|cause| cause.to_string().into());
        match self {
            Self::Unavailable { .. } => Self::Unavailable { message, source },
            Self::Exhausted { .. } => Self::Exhausted { source },
            Self::Corrupt { .. } => Self::Corrupt { message, source },
            _ => Self::Internal { message, source },
        }
    }

    /// Whether the same call may succeed later without anybody changing anything.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::Exhausted { .. })
    }
}

/// The one place where an engine's error gets its meaning.
impl From<DieselError> for DbError {
    fn from(error: DieselError) -> Self {
        let text = error.to_string();
        let kind = match &error {
            DieselError::DatabaseError(kind, _) => Some(kind),
            _ => None,
        };
        let says = |parts: &[&str]| parts.iter().any(|part| text.contains(part));
        match (&error, kind) {
            (DieselError::DeserializationError(_), _) => {
                Self::Corrupt { message: "the database holds what cannot be read".into(), source: Some(error.into()) }
            }
            (_, Some(DatabaseErrorKind::ClosedConnection | DatabaseErrorKind::SerializationFailure))
            | (DieselError::BrokenTransactionManager | DieselError::AlreadyInTransaction, _) => {
                Self::unavailable("the connection to the database was lost", error)
            }
            (_, Some(DatabaseErrorKind::ReadOnlyTransaction)) => {
                Self::unavailable("the database takes no writes now", error)
            }
            // SQLite's file or its file system, after an error of the disk.
            _ if says(&["attempt to write a readonly database"]) => {
                Self::unavailable("the database takes no writes now", error)
            }
            // The driver's words for a socket that broke; its other errors of this kind are about values.
            (_, Some(DatabaseErrorKind::UnableToSendCommand)) if says(&["error communicating with the server"]) => {
                Self::unavailable("the connection to the database was lost", error)
            }
            _ if says(&[
                "database or disk is full",
                "No space left on device",
                "could not extend file",
                "Disk quota exceeded",
            ]) =>
            {
                Self::Exhausted { source: Some(error.into()) }
            }
            _ if says(&["malformed", "file is not a database", "invalid page in block"]) => {
                Self::Corrupt { message: "the database is damaged".into(), source: Some(error.into()) }
            }
            _ if says(&["database is locked", "deadlock detected", "lock timeout", "statement timeout"])
                || says(&[
                    "too many clients",
                    "the database system is",
                    "terminating connection",
                    "connection closed",
                ]) =>
            {
                Self::unavailable("the database is busy or restarting", error)
            }
            _ if says(&["disk I/O error", "unable to open database file"]) => {
                Self::unavailable("the database file cannot be used", error)
            }
            _ => Self::internal("the database refused a statement", error),
        }
    }
}

impl From<DbError> for BackendError {
    fn from(error: DbError) -> Self {
        let kind = match &error {
            DbError::NotFound { .. } => ErrorKind::NotFound,
            DbError::AlreadyExists { .. } => ErrorKind::AlreadyExists,
            DbError::Disabled { .. }
            | DbError::Conflict { .. }
            | DbError::Invalid { .. }
            | DbError::Config { .. }
            | DbError::Locked { .. } => ErrorKind::Invalid,
            DbError::Unavailable { .. } => ErrorKind::Unavailable,
            DbError::Exhausted { .. } => ErrorKind::Exhausted,
            DbError::Corrupt { .. } => ErrorKind::Corrupt,
            DbError::Internal { .. } => ErrorKind::Internal,
        };
        let message = error.to_string();
        let source = match error {
            DbError::Unavailable { source, .. }
            | DbError::Exhausted { source }
            | DbError::Corrupt { source, .. }
            | DbError::Internal { source, .. } => source,
            _ => None,
        };
        Self { kind, message, source }
    }
}

impl From<DbError> for JournalError {
    fn from(error: DbError) -> Self {
        match error {
            DbError::NotFound { what, key } => Self::NotFound { what, key },
            DbError::Disabled { key } => Self::Disabled { key },
            other => Self::Backend(other.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engines_errors_have_one_meaning_each() {
        let said = |kind, text: &str| DieselError::DatabaseError(kind, Box::new(text.to_owned()));
        let unknown = |text: &str| said(DatabaseErrorKind::Unknown, text);
        for (error, kind) in [
            (said(DatabaseErrorKind::ClosedConnection, "connection closed"), ErrorKind::Unavailable),
            (said(DatabaseErrorKind::SerializationFailure, "could not serialize access"), ErrorKind::Unavailable),
            (said(DatabaseErrorKind::UniqueViolation, "duplicate key"), ErrorKind::Internal),
            (
                said(DatabaseErrorKind::UnableToSendCommand, "error communicating with the server"),
                ErrorKind::Unavailable,
            ),
            (said(DatabaseErrorKind::UnableToSendCommand, "error serializing parameter 0"), ErrorKind::Internal),
            (unknown("attempt to write a readonly database"), ErrorKind::Unavailable),
            (unknown("database is locked"), ErrorKind::Unavailable),
            (unknown("deadlock detected"), ErrorKind::Unavailable),
            (unknown("canceling statement due to statement timeout"), ErrorKind::Unavailable),
            (unknown("terminating connection due to administrator command"), ErrorKind::Unavailable),
            (unknown("database or disk is full"), ErrorKind::Exhausted),
            (unknown("could not extend file \"base/1/2\": No space left on device"), ErrorKind::Exhausted),
            (unknown("could not write to file \"base/pgsql_tmp\": Disk quota exceeded"), ErrorKind::Exhausted),
            (unknown("database disk image is malformed"), ErrorKind::Corrupt),
            (unknown("file is not a database"), ErrorKind::Corrupt),
            (unknown("syntax error"), ErrorKind::Internal),
            (DieselError::BrokenTransactionManager, ErrorKind::Unavailable),
            (DieselError::DeserializationError("no UTF-8".into()), ErrorKind::Corrupt),
            (DieselError::NotFound, ErrorKind::Internal),
        ] {
            let text = error.to_string();
            let error = DbError::from(error);
            assert!(!error.to_string().contains(&text), "`{error}` repeats its source");
            let repeated = BackendError::from(error.repeated());
            let error = BackendError::from(error);
            assert_eq!((error.kind, repeated.kind), (kind, kind), "{text}");
            assert!(error.source.is_some(), "{text}");
        }
    }
}
