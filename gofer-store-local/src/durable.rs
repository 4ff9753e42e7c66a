//! Which directories are known to survive a power cut, so that a put syncs only those that may not.
//!
//! A directory is durable when the one above it was synced after it was made. Syncing a directory
//! without news still costs a flush of the disk, and a key has several directories. With this, the
//! usual put syncs its file and the file's directory.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Directories remembered, a few hundred bytes each. Beyond it all are forgotten, which costs a few
/// flushes.
const MAX_KNOWN_DIRECTORIES: usize = 10_000;

/// The directories that this process knows to be durable. It starts with none: another process may
/// have died before it synced a directory that it made.
#[derive(Debug, Default)]
pub(crate) struct Durable {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    dirs: HashSet<PathBuf>,
    /// Counts what was forgotten: a directory that was removed and made again while it was synced
    /// is not known.
    forgotten: u64,
}

impl Durable {
    /// Makes the name of a file that lies in `objects` or below it durable, and the directories on
    /// the way to it. The file must be there: it keeps the directories from being removed during
    /// this.
    pub(crate) fn sync_name(&self, file: &Path, objects: &Path) -> io::Result<()> {
        let forgotten = self.lock().forgotten;
        let mut synced = Vec::new();
        for dir in file.ancestors().skip(1) {
            if synced.is_empty() {
                sync_unless_gone(dir)?;
            }

            // Those above were synced before it was.
            if self.lock().dirs.contains(dir) {
                break;
            }

            let Some(above) = dir.parent() else { break };
            let result = sync_unless_gone(above);

            // Above the store, a directory may not be ours to open; it is not new, then.
            if above.starts_with(objects) {
                result?;
            }

            synced.push(dir.to_path_buf());
        }

        let mut known = self.lock();
        if known.dirs.len() + synced.len() > MAX_KNOWN_DIRECTORIES {
            known.dirs.clear();
        }

        if known.forgotten == forgotten {
            known.dirs.extend(synced);
        }

        Ok(())
    }

    /// To be called before a directory is removed.
    pub(crate) fn forget(&self, dir: &Path) {
        let mut known = self.lock();
        known.dirs.remove(dir);
        known.forgotten += 1;
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes what was done to the directory's entries durable. If it is gone, so is the object that was
/// to be durable in it.
pub(crate) fn sync_unless_gone(dir: &Path) -> io::Result<()> {
    match File::open(dir).and_then(|dir| dir.sync_all()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(durable: &Durable, dir: &Path) -> bool {
        durable.lock().dirs.contains(dir)
    }

    #[test]
    fn what_was_synced_is_known_until_it_is_forgotten() {
        let root = tempfile::tempdir().unwrap();
        let objects = root.path().join("objects");
        let (a, b) = (objects.join("a%"), objects.join("a%/b%"));
        std::fs::create_dir_all(&b).unwrap();
        let durable = Durable::default();

        durable.sync_name(&b.join("file"), &objects).unwrap();
        assert!([&a, &b, &objects, root.path()].iter().all(|dir| known(&durable, dir)));

        durable.forget(&b);
        assert!(!known(&durable, &b) && known(&durable, &a));
        durable.sync_name(&b.join("file"), &objects).unwrap();
        assert!(known(&durable, &b));
    }

    #[test]
    fn it_forgets_rather_than_grow() {
        let root = tempfile::tempdir().unwrap();
        let durable = Durable::default();
        durable
            .lock()
            .dirs
            .extend((0..MAX_KNOWN_DIRECTORIES).map(|n| PathBuf::from(n.to_string())));
        durable.sync_name(&root.path().join("file"), root.path()).unwrap();
        assert!(durable.lock().dirs.len() < 20);
        assert!(known(&durable, root.path()));
    }
}
