//! Reading and writing the key file. Everything here blocks.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use gofer_core::{BackendError, ErrorKind};
use secrecy::zeroize::Zeroizing;

use crate::error::io_error;
use crate::key_ring::KeyRing;

/// Far more than any number of keys needs; a longer file is no key file.
const MAX_KEY_FILE_BYTES: u64 = 64 * 1024;

/// The keys; `None` when there is no file.
pub(crate) fn read(path: &Path) -> Result<Option<KeyRing>, BackendError> {
    let mut file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        result => result.map_err(|error| io_error("read", path, error))?,
    };

    let meta = file.metadata().map_err(|error| io_error("read", path, error))?;
    let mode = meta.mode() & 0o777;
    if mode & 0o077 != 0 {
        let message = format!(
            "key file `{0}` is open to other users (mode {mode:04o}); run `chmod 600 {0}`",
            path.display()
        );
        return Err(BackendError::new(ErrorKind::Denied, message));
    }

    if meta.len() > MAX_KEY_FILE_BYTES {
        return Err(not_a_key_file(path, &format!("it has more than {MAX_KEY_FILE_BYTES} bytes")));
    }

    // One buffer of the right size: growing it would leave copies of keys behind.
    let mut text =
        Zeroizing::new(String::with_capacity(usize::try_from(meta.len()).unwrap_or_default() + 1));
    match file.read_to_string(&mut text) {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Err(not_a_key_file(path, "it is no text"))
        }
        Err(error) => Err(io_error("read", path, error)),
        Ok(_) => KeyRing::parse(&text).map(Some).map_err(|why| not_a_key_file(path, &why)),
    }
}

/// Makes the file with these keys, unless it exists; returns whether it did.
pub(crate) fn create(path: &Path, keys: &KeyRing) -> Result<bool, BackendError> {
    let failed = |error| io_error("make", path, error);
    if let Some(parent) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(failed)?;
    }
    // A hard link fails when the name is taken, and so never shows half a file, even after a crash.
    let placed = with_aside(path, keys, |aside| fs::hard_link(aside, path));
    match placed {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        result => result.map(|()| true).map_err(failed),
    }
}

/// Replaces the file's keys by these: readers, and a crash, see the old or the new.
pub(crate) fn replace(path: &Path, keys: &KeyRing) -> Result<(), BackendError> {
    // The path may be a link, and the file elsewhere.
    let target = fs::canonicalize(path).map_err(|error| io_error("find", path, error))?;
    with_aside(&target, keys, |aside| fs::rename(aside, &target))
        .map_err(|error| io_error("replace", path, error))
}

/// Writes the keys beside `path`, has them placed, and sees to it that nothing else is left.
fn with_aside(
    path: &Path,
    keys: &KeyRing,
    place: impl FnOnce(&Path) -> io::Result<()>,
) -> io::Result<()> {
    let aside = aside_path(path);
    let written = write_private(&aside, &keys.text()).and_then(|()| place(&aside));
    // After a rename there is nothing to remove.
    let _ = fs::remove_file(&aside);
    written?;
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

fn write_private(path: &Path, text: &str) -> io::Result<()> {
    // Left by a process of the same number that crashed.
    let _ = fs::remove_file(path);
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn aside_path(path: &Path) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".new-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
    PathBuf::from(name)
}

fn not_a_key_file(path: &Path, why: &str) -> BackendError {
    let message =
        format!("key file `{}` cannot be used: {why}; restore it from a backup", path.display());
    BackendError::new(ErrorKind::Corrupt, message)
}
