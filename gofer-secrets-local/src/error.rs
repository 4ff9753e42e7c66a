//! The errors of this store. None of them ever holds a value or a key.

use std::io;
use std::path::Path;

use gofer_core::{BackendError, ErrorKind, SecretPath};

use crate::canary::CANARY;

/// Doing `action` to the key file went wrong in the operating system.
pub(crate) fn io_error(action: &str, path: &Path, error: io::Error) -> BackendError {
    let (kind, next_step) = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            (ErrorKind::Denied, "; the user that runs gofer must own it")
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            (ErrorKind::Denied, "; its file system is mounted read-only")
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            (ErrorKind::Exhausted, "; free space on its file system")
        }
        _ => (ErrorKind::Internal, ""),
    };
    BackendError::new(kind, format!("cannot {action} key file `{}`{next_step}", path.display()))
        .with_source(error)
}

/// The key file is not there, but something is encrypted with a key it had.
pub(crate) fn key_file_missing(key_file: &Path, key_id: &str) -> BackendError {
    let message = format!(
        "key file `{}` does not exist, but the database holds secrets encrypted with key \
         `{key_id}`; restore the file from a backup, or set `key_file` to where it is",
        key_file.display()
    );
    BackendError::new(ErrorKind::Corrupt, message)
}

/// The key file is there, but has not the key that a row needs.
pub(crate) fn key_missing(
    path: &SecretPath,
    key_id: &str,
    key_file: &Path,
    known: &str,
) -> BackendError {
    let message = format!(
        "{} needs key `{key_id}`, and key file `{}` has only {known}; restore the key file that \
         belongs to this database",
        what(path),
        key_file.display()
    );
    BackendError::new(ErrorKind::Corrupt, message)
}

/// The key is right, and the row is not what was stored.
pub(crate) fn damaged(path: &SecretPath, key_id: &str) -> BackendError {
    let next_step = if path.as_str() == CANARY {
        "delete it from table `local_secrets`"
    } else {
        "put the secret again"
    };
    let message = format!(
        "row `{path}` does not decrypt with its key `{key_id}`: it was changed; {next_step}"
    );
    BackendError::new(ErrorKind::Corrupt, message)
}

fn what(path: &SecretPath) -> String {
    if path.as_str() == CANARY { "this database".to_owned() } else { format!("secret `{path}`") }
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

/// The result of a spawned task; a panic there goes on here.
pub(crate) fn joined<T>(
    result: Result<Result<T, BackendError>, tokio::task::JoinError>,
) -> Result<T, BackendError> {
    match result {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(error) => {
            Err(BackendError::new(ErrorKind::Unavailable, "gofer is shutting down")
                .with_source(error))
        }
    }
}
