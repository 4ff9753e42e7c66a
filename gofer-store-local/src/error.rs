//! From the operating system's errors to the backend's.

use std::io;
use std::path::Path;

use gofer_core::{BackendError, ErrorKind};
use rustix::io::Errno;

/// The error of doing `action` (a verb, such as `write`) to `path`, with the next step where there
/// is one.
pub(crate) fn io_error(action: &str, path: &Path, error: io::Error) -> BackendError {
    let (kind, next_step) = classify(&error);
    BackendError::new(kind, format!("cannot {action} `{}`{next_step}", path.display()))
        .with_source(error)
}

fn classify(error: &io::Error) -> (ErrorKind, &'static str) {
    match Errno::from_io_error(error) {
        Some(Errno::NOSPC) => (ErrorKind::Exhausted, "; free space on its file system"),
        Some(Errno::DQUOT) => {
            (ErrorKind::Exhausted, "; raise the disk quota of the user that runs gofer")
        }
        Some(Errno::MFILE | Errno::NFILE) => {
            (ErrorKind::Exhausted, "; raise the limit of open files")
        }
        Some(Errno::ACCESS | Errno::PERM) => {
            (ErrorKind::Denied, "; the user that runs gofer must own it")
        }
        Some(Errno::ROFS) => (ErrorKind::Denied, "; its file system is mounted read-only"),
        Some(Errno::INTR | Errno::AGAIN | Errno::STALE) => (ErrorKind::Unavailable, ""),
        _ if error.kind() == io::ErrorKind::WouldBlock => (ErrorKind::Unavailable, ""),
        _ => (ErrorKind::Internal, ""),
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

/// The result of a blocking task; a panic there goes on here.
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

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::io::Write;

    use super::*;

    #[test]
    fn a_full_disk_is_exhausted_and_names_the_path() {
        let path = Path::new("/dev/full");
        let mut full = OpenOptions::new().write(true).open(path).unwrap();
        let error = io_error("write", path, full.write_all(b"x").unwrap_err());
        assert_eq!(error.kind, ErrorKind::Exhausted);
        assert_eq!(error.to_string(), "cannot write `/dev/full`; free space on its file system");
        assert!(error.chain().contains("No space left"), "{}", error.chain());
    }

    #[test]
    fn denied_is_not_retryable() {
        let error = io_error("open", Path::new("/x"), Errno::ACCESS.into());
        assert_eq!(error.kind, ErrorKind::Denied);
        assert!(!error.is_retryable());
    }
}
