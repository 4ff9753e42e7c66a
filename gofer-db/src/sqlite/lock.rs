//! One server per database: an operating system lock on a file beside it, which ends with the
//! process.

use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::error::DbError;

/// For the database's owner, whatever the umask.
const MODE: u32 = 0o600;

pub(super) struct Lock {
    _file: File,
}

impl Lock {
    /// The lock of the database at `path`; whoever has it is named in the error.
    pub(super) fn take(path: &Path) -> Result<Self, DbError> {
        let lock_path = beside(path);
        let cannot = |error: std::io::Error| {
            DbError::unavailable(format!("cannot lock `{}`", lock_path.display()), error)
        };

        // A process that may open the file may hold its lock, and keep the server from starting.
        let options =
            OpenOptions::new().read(true).append(true).create(true).mode(MODE).open(&lock_path);
        let mut file = options.map_err(cannot)?;
        if file.metadata().map_err(cannot)?.permissions().mode() & 0o777 != MODE {
            file.set_permissions(Permissions::from_mode(MODE)).map_err(cannot)?;
        }

        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Only for the message: an unreadable file does not change the answer.
                let _ = file.rewind().and_then(|()| (&file).take(200).read_to_string(&mut holder));
                let holder = holder.trim();
                return Err(DbError::Locked {
                    database: path.display().to_string(),
                    holder: if holder.is_empty() {
                        "unknown process".to_owned()
                    } else {
                        holder.to_owned()
                    },
                });
            }
            Err(TryLockError::Error(error)) => return Err(cannot(error)),
        }

        let note = format!("{}\n", crate::support::this_process());
        file.set_len(0).and_then(|()| file.write_all(note.as_bytes())).map_err(cannot)?;
        Ok(Self { _file: file })
    }
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_else_may_hold_it() {
        let dir = tempfile::tempdir().unwrap();
        let database = dir.path().join("gofer.db");
        let mode = || beside(&database).metadata().unwrap().permissions().mode() & 0o777;
        drop(Lock::take(&database).unwrap());
        assert_eq!(mode(), 0o600);
        // As an earlier version left it.
        std::fs::set_permissions(beside(&database), Permissions::from_mode(0o666)).unwrap();
        drop(Lock::take(&database).unwrap());
        assert_eq!(mode(), 0o600);
    }
}
