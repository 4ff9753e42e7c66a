//! From the operating system's errors to [`BackendError`].

use std::io;

use gofer_core::{BackendError, ErrorKind};

/// An I/O error with what was being done.
pub(crate) fn io_error(doing: impl Into<String>, error: io::Error) -> BackendError {
    let kind = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::Exhausted,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => ErrorKind::Denied,
        io::ErrorKind::InvalidData => ErrorKind::Corrupt,
        _ => ErrorKind::Unavailable,
    };
    BackendError::new(kind, doing).with_source(error)
}

/// Runs blocking work off the async threads. It goes on if the caller stops waiting.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BackendError> + Send + 'static,
) -> Result<T, BackendError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => {
            Err(BackendError::new(ErrorKind::Internal, "a part of the local scheduler failed")
                .with_source(error))
        }
    }
}
