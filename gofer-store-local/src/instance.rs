//! One connected process: its directories, its lock, and the sweeping of those that are gone.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use gofer_core::BackendError;

use crate::durable::Durable;
use crate::error::io_error;

/// The name of both lock files: the store's and each instance's.
const LOCK: &str = "lock";
/// How long to wait for another process that is connecting to the same directory.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// The store as one process has it open. Puts on their way lie in `staging`, which is this
/// instance's alone.
#[derive(Debug)]
pub(crate) struct Instance {
    /// The directory `objects` of the store.
    pub(crate) objects: PathBuf,
    staging: PathBuf,
    next_staged: AtomicU64,
    /// Directories that need no further sync.
    pub(crate) durable: Durable,
    /// Locked for as long as this lives; the kernel lets go when the process dies, however it dies.
    _lock: File,
}

impl Instance {
    /// Makes the directories, removes what dead processes left, and takes a staging directory.
    /// Blocks.
    pub(crate) fn open(dir: &Path) -> Result<Self, BackendError> {
        let objects = dir.join("objects");
        let all_staging = dir.join("staging");
        for made in [dir, &objects, &all_staging] {
            make_dirs(made).map_err(|error| io_error("make the directory", made, error))?;
        }

        // Held until this function returns, so that nobody sees a staging directory whose lock is
        // not taken yet.
        let entry = dir.join(LOCK);
        let _entry_lock = locked_file(&entry).map_err(|error| io_error("lock", &entry, error))?;
        sweep(&all_staging)?;
        let staging = make_staging(&all_staging)
            .map_err(|error| io_error("write to", &all_staging, error))?;
        let lock_path = staging.join(LOCK);
        let lock = locked_file(&lock_path).map_err(|error| io_error("lock", &lock_path, error))?;

        Ok(Self {
            objects,
            staging,
            next_staged: AtomicU64::new(0),
            durable: Durable::default(),
            _lock: lock,
        })
    }

    /// A path in the staging directory that was not given out before.
    pub(crate) fn staged_path(&self) -> PathBuf {
        self.staging.join(self.next_staged.fetch_add(1, Ordering::Relaxed).to_string())
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // A put keeps its instance alive, so only the lock file is left. If removing it fails here,
        // the next sweep does it.
        let _ = fs::remove_dir_all(&self.staging);
    }
}

/// Makes a directory and its parents, for their owner only. That it exists already is fine.
pub(crate) fn make_dirs(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// The locked file. Its holder releases it within moments, unless that process was stopped just
/// then.
fn locked_file(path: &Path) -> io::Result<File> {
    let file =
        OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)?;
    let give_up = Instant::now() + LOCK_TIMEOUT;

    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) if Instant::now() >= give_up => {
                return Err(io::Error::new(
                    io::ErrorKind::WouldBlock,
                    "another process has held it for 10 seconds",
                ));
            }
            Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(5)),
        }
    }
}

fn make_staging(all_staging: &Path) -> io::Result<PathBuf> {
    let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
    let process = std::process::id();
    for number in 0_u64.. {
        let path = all_staging.join(format!("{started}-{process}-{number}"));
        match DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            result => return result.map(|()| path),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// Removes the staging directories that nobody holds a lock on.
fn sweep(all_staging: &Path) -> Result<(), BackendError> {
    let failed = |error| io_error("sweep", all_staging, error);
    for entry in fs::read_dir(all_staging).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if is_left_over(&path).map_err(failed)? {
            match fs::remove_dir_all(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
                _ => {}
            }
        }
    }
    Ok(())
}

fn is_left_over(staging: &Path) -> io::Result<bool> {
    if !staging.is_dir() {
        return Ok(false);
    }
    let lock = match OpenOptions::new().write(true).open(staging.join(LOCK)) {
        // Its process died between making the directory and the lock, or it is going away in this
        // moment.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        result => result?,
    };
    match lock.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}
