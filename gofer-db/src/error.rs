//! What can go wrong, and the one place that reads the engines' own errors.

use std::error::Error;

use diesel::result::{DatabaseErrorKind, Error as DieselError};
use gofer_core::journal::{JournalError, TooManyMasks};
use gofer_core::quota::QuotaExceeded;
use gofer_core::validate::Violation;
use gofer_core::{BackendError, ErrorKind, Resource};

use crate::sqlstate;

type Source = Box<dyn Error + Send + Sync>;

/// Why the database did not do what it was asked. `Display` never repeats the source.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// The named thing does not exist.
    #[error("{what} `{key}` does not exist")]
    NotFound {
        /// Of which kind.
        what: Resource,
        /// Its name.
        key: String,
    },
    /// It exists already.
    #[error("{what} `{key}` exists already")]
    AlreadyExists {
        /// Of which kind.
        what: Resource,
        /// Its name.
        key: String,
    },
    /// The pipeline is disabled.
    #[error("pipeline `{key}` is disabled; enable it with `gofer pipeline enable`")]
    Disabled {
        /// `namespace/pipeline`.
        key: String,
    },
    /// The run's variables are not what its pipeline's version takes.
    #[error("{}", gofer_core::validate::joined(.0))]
    Variables(Vec<Violation>),
    /// The run masks as many values as a run may.
    #[error(transparent)]
    TooManyMasks(#[from] TooManyMasks),
    /// The namespace has as much as it may.
    #[error(transparent)]
    Quota(#[from] QuotaExceeded),
    /// Nobody could make a token without this one.
    #[error("token `{id}` is the last management token that works; create another one first")]
    LastManagementToken {
        /// Its id.
        id: String,
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
    #[error(
        "another Gofer server uses `{database}` ({holder}); stop it first, or give this one its \
         own database"
    )]
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
    /// The disk is full, or a limit of the database is reached; the same call may succeed when
    /// there is room again.
    #[error(
        "the database has no room left; free space on its disk, everything goes on by itself then"
    )]
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
    pub(crate) fn not_found(what: Resource, key: impl ToString) -> Self {
        Self::NotFound { what, key: key.to_string() }
    }

    pub(crate) fn exists(what: Resource, key: impl ToString) -> Self {
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

const CONNECTION_LOST: &str = "the connection to the database was lost";
const NO_WRITES: &str = "the database takes no writes now";
const BUSY: &str = "the database is busy or restarting";
const NO_FILES: &str = "the database cannot use its files";
const DAMAGED: &str = "the database is damaged";
const UNREADABLE: &str = "the database holds what cannot be read";
const REFUSED: &str = "the database refused a statement";

/// What an engine's error means.
#[derive(Clone, Copy)]
enum Meaning {
    Unavailable(&'static str),
    Exhausted,
    Corrupt(&'static str),
    Internal,
}

/// The one place where an engine's error gets its meaning.
impl From<DieselError> for DbError {
    fn from(error: DieselError) -> Self {
        let meaning = match &error {
            DieselError::DeserializationError(_) => Meaning::Corrupt(UNREADABLE),
            DieselError::BrokenTransactionManager | DieselError::AlreadyInTransaction => {
                Meaning::Unavailable(CONNECTION_LOST)
            }
            DieselError::DatabaseError(kind, told) => match sqlstate::of(told.message()) {
                Some(code) => of_sqlstate(code),
                None => of_text(kind, told.message()),
            },
            _ => Meaning::Internal,
        };
        match meaning {
            Meaning::Unavailable(message) => Self::unavailable(message, error),
            Meaning::Exhausted => Self::Exhausted { source: Some(error.into()) },
            Meaning::Corrupt(message) => {
                Self::Corrupt { message: message.into(), source: Some(error.into()) }
            }
            Meaning::Internal => Self::internal(REFUSED, error),
        }
    }
}

/// PostgreSQL's errors, by the codes of its appendix A; their texts are in any language.
fn of_sqlstate(code: &str) -> Meaning {
    match code {
        // A read-only transaction: the server is a standby, or was made read-only.
        "25006" => Meaning::Unavailable(NO_WRITES),
        // The session's own limit for a client that says nothing.
        "25P03" => Meaning::Unavailable(CONNECTION_LOST),
        "53100" => Meaning::Exhausted,
        "XX001" | "XX002" => Meaning::Corrupt(DAMAGED),
        // A lock was not given in time.
        "55P03" => Meaning::Unavailable(BUSY),
        // An error of reading or writing files.
        "58030" => Meaning::Unavailable(NO_FILES),
        _ => match &code[..2] {
            // Broken connections.
            "08" => Meaning::Unavailable(CONNECTION_LOST),
            // Serialization failures and deadlocks; no room for memory or connections; cancelled,
            // shutting down, starting.
            "40" | "53" | "57" => Meaning::Unavailable(BUSY),
            _ => Meaning::Internal,
        },
    }
}

/// SQLite's errors and those of PostgreSQL's driver, which have no code here. Their texts are
/// English everywhere.
fn of_text(kind: &DatabaseErrorKind, text: &str) -> Meaning {
    let says = |parts: &[&str]| parts.iter().any(|part| text.contains(part));
    match kind {
        DatabaseErrorKind::ClosedConnection | DatabaseErrorKind::SerializationFailure => {
            Meaning::Unavailable(CONNECTION_LOST)
        }
        DatabaseErrorKind::ReadOnlyTransaction => Meaning::Unavailable(NO_WRITES),
        // A socket that broke; the driver's other errors of this kind are about values.
        DatabaseErrorKind::UnableToSendCommand
            if says(&["error communicating with the server", "connection closed"]) =>
        {
            Meaning::Unavailable(CONNECTION_LOST)
        }
        // SQLite's file or its file system, after an error of the disk.
        _ if says(&["attempt to write a readonly database"]) => Meaning::Unavailable(NO_WRITES),
        _ if says(&["database or disk is full"]) => Meaning::Exhausted,
        _ if says(&["malformed", "file is not a database"]) => Meaning::Corrupt(DAMAGED),
        _ if says(&["database is locked"]) => Meaning::Unavailable(BUSY),
        _ if says(&["disk I/O error", "unable to open database file"]) => {
            Meaning::Unavailable(NO_FILES)
        }
        _ => Meaning::Internal,
    }
}

impl From<DbError> for BackendError {
    fn from(error: DbError) -> Self {
        let kind = match &error {
            DbError::NotFound { .. } => ErrorKind::NotFound,
            DbError::AlreadyExists { .. } => ErrorKind::AlreadyExists,
            DbError::Disabled { .. }
            | DbError::Conflict { .. }
            | DbError::LastManagementToken { .. }
            | DbError::Variables(_)
            | DbError::TooManyMasks(_)
            | DbError::Quota(_)
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
            DbError::Variables(refused) => Self::Variables(refused),
            DbError::TooManyMasks(full) => Self::TooManyMasks(full),
            DbError::Quota(exceeded) => Self::Quota(exceeded),
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
            (
                said(DatabaseErrorKind::ClosedConnection, "connection closed"),
                ErrorKind::Unavailable,
            ),
            (
                said(DatabaseErrorKind::SerializationFailure, "could not serialize access"),
                ErrorKind::Unavailable,
            ),
            (said(DatabaseErrorKind::UniqueViolation, "duplicate key"), ErrorKind::Internal),
            (
                said(DatabaseErrorKind::UnableToSendCommand, "error communicating with the server"),
                ErrorKind::Unavailable,
            ),
            (
                said(DatabaseErrorKind::UnableToSendCommand, "error serializing parameter 0"),
                ErrorKind::Internal,
            ),
            (unknown("attempt to write a readonly database"), ErrorKind::Unavailable),
            (unknown("database is locked"), ErrorKind::Unavailable),
            (unknown("SQLSTATE 40P01: Verklemmung entdeckt"), ErrorKind::Unavailable),
            (
                unknown("SQLSTATE 57014: storniere Anfrage wegen Zeitüberschreitung der Anfrage"),
                ErrorKind::Unavailable,
            ),
            (
                unknown(
                    "SQLSTATE 57P01: breche Verbindung ab aufgrund von Anweisung des \
                     Administrators",
                ),
                ErrorKind::Unavailable,
            ),
            (
                unknown("SQLSTATE 55P03: storniere Anfrage wegen Zeitüberschreitung einer Sperre"),
                ErrorKind::Unavailable,
            ),
            (
                unknown("SQLSTATE 53300: tut mir leid, schon zu viele Verbindungen"),
                ErrorKind::Unavailable,
            ),
            (unknown("SQLSTATE 25P03: Verbindung abgebrochen"), ErrorKind::Unavailable),
            (unknown("SQLSTATE 25006: kann INSERT nicht ausführen"), ErrorKind::Unavailable),
            (unknown("SQLSTATE 08006: Verbindung verloren"), ErrorKind::Unavailable),
            (unknown("SQLSTATE 58030: Eingabe-/Ausgabefehler"), ErrorKind::Unavailable),
            (
                said(DatabaseErrorKind::UniqueViolation, "SQLSTATE 23505: doppelter Schlüsselwert"),
                ErrorKind::Internal,
            ),
            (
                said(DatabaseErrorKind::UnableToSendCommand, "connection closed"),
                ErrorKind::Unavailable,
            ),
            (unknown("database or disk is full"), ErrorKind::Exhausted),
            (
                unknown("SQLSTATE 53100: konnte Datei »base/1/2« nicht erweitern"),
                ErrorKind::Exhausted,
            ),
            (unknown("SQLSTATE XX001: ungültige Seite in Block 1"), ErrorKind::Corrupt),
            (unknown("SQLSTATE XX002: Index ist beschädigt"), ErrorKind::Corrupt),
            (unknown("SQLSTATE 42601: Syntaxfehler"), ErrorKind::Internal),
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
