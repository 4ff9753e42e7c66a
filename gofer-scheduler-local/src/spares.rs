//! Directories and live entries of executions that were removed, for those that come. To make and
//! to delete a file and two directories costs some file systems more than all else about a short
//! task.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use gofer_core::scheduler::ExecutionState;
use rustix::process::geteuid;

use crate::disk;
use crate::layout::{ExecutionDir, Layout};
use crate::live::LiveRecord;

/// Spares that are kept: more than start at once on a machine are not worth it.
const SPARES_MAX: usize = 256;

/// Where they are. They do not outlive the server: the next one deletes what is no execution's.
#[derive(Debug, Default)]
pub(crate) struct Spares {
    dirs: Mutex<Vec<PathBuf>>,
    /// Held while an execution's directory is taken away: of two who remove the same one, the
    /// second finds nothing.
    removing: Mutex<()>,
}

impl Spares {
    fn dirs(&self) -> MutexGuard<'_, Vec<PathBuf>> {
        self.dirs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes one of them the directory and the live entry of an execution; `false` when there is
    /// none that will do.
    pub(crate) fn use_for(&self, dir: &ExecutionDir, live: &Path) -> bool {
        let Some(spare) = self.dirs().pop() else { return false };
        if fs::rename(&spare, dir.path()).is_err() {
            // Something lies there already; or somebody took the spare away.
            disk::delete_tree(&spare);
            return false;
        }
        let used = fs::rename(dir.entry(), live);
        if used.is_err() {
            disk::delete_tree(dir.path());
        }
        used.is_ok()
    }

    /// Removes an execution that has ended: it is unknown at once, and off the disk or a spare
    /// after.
    ///
    /// # Errors
    /// When it could not be made unknown.
    pub(crate) fn discard(&self, layout: &Layout, dir: &ExecutionDir) -> io::Result<()> {
        let turn = self.removing.lock().unwrap_or_else(PoisonError::into_inner);
        let as_new = ended_orderly(dir)
            && self.dirs().len() < SPARES_MAX
            && make_as_new(dir).is_ok_and(|as_new| as_new);
        disk::remove_file(&dir.exit())?;

        let nonce = disk::nonce();
        let away = if as_new { layout.spare(nonce) } else { layout.gone(nonce) };
        match fs::rename(dir.path(), &away) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        }

        drop(turn);
        if as_new {
            self.dirs().push(away);
        } else {
            disk::delete_tree(&away);
        }

        Ok(())
    }
}

/// Whether its own supervisor has seen the end, and so that of every process that was in the
/// directory.
fn ended_orderly(dir: &ExecutionDir) -> bool {
    let record = fs::read(dir.exit())
        .ok()
        .and_then(|text| LiveRecord::parse(&String::from_utf8_lossy(&text)));
    record.is_some_and(|record| {
        record.end.is_some_and(|end| matches!(end.state, ExecutionState::Exited { .. }))
    })
}

/// Makes the directory as it was at first, with an empty entry in it, if all that the task left is
/// an untouched working directory.
fn make_as_new(dir: &ExecutionDir) -> io::Result<bool> {
    // From here on it is unknown. Its supervisor has closed it, and nobody else writes to it.
    fs::rename(dir.exit(), dir.entry())?;
    fs::OpenOptions::new()
        .write(true)
        .truncate(true)
        .custom_flags(libc::O_NOFOLLOW)
        .open(dir.entry())?;
    disk::remove_file(&dir.log())?;
    disk::remove_file(&dir.stop())?;
    is_as_new(dir)
}

fn is_as_new(dir: &ExecutionDir) -> io::Result<bool> {
    let is_ours = |path: &Path| {
        let found = fs::symlink_metadata(path)?;
        let owned = found.mode() & 0o7777 == 0o700 && found.uid() == geteuid().as_raw();
        Ok::<_, io::Error>(found.is_dir() && owned)
    };

    let entries = |path: &Path| {
        fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<io::Result<HashSet<_>>>()
    };

    let (work, entry) = (dir.work(), fs::symlink_metadata(dir.entry())?);
    Ok(entry.is_file()
        && entry.nlink() == 1
        && entry.len() == 0
        && is_ours(dir.path())?
        && is_ours(&work)?
        && entries(&work)?.is_empty()
        && entries(dir.path())? == HashSet::from([work, dir.entry()]))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::layout::LiveName;
    use crate::live::Claim;

    const ORDERLY: &str = "S 7\nT 8 1 1\nX 1 exited 3 0 0\n";

    /// What is left of an execution that ended like this, after `touch` did something to its
    /// directory.
    fn left(end: &str, touch: impl Fn(&ExecutionDir)) -> bool {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::new(root.path().to_owned());
        disk::prepare(&layout, false).unwrap();
        let dir = |number: u64| {
            layout.execution(&format!("default/ci/{number}/build/1").parse().unwrap())
        };

        disk::make_execution_dir(&dir(1)).unwrap();
        fs::write(dir(1).log(), "text").unwrap();
        fs::write(dir(1).exit(), end).unwrap();
        touch(&dir(1));

        let spares = Spares::default();
        for _ in 0..2 {
            spares.discard(&layout, &dir(1)).unwrap();
            assert!(!dir(1).path().exists());
        }

        let live = layout.live(&LiveName::new(&"default/ci/2/build/1".parse().unwrap(), 7));
        let used = spares.use_for(&dir(2), &live);
        assert_eq!(dir(2).path().exists(), used);
        if used {
            fs::rename(&live, dir(2).entry()).unwrap();
            assert!(is_as_new(&dir(2)).unwrap());
            fs::rename(dir(2).entry(), &live).unwrap();
            assert!(Claim::take(&live).unwrap().is_some());
        }

        assert_eq!(fs::read_dir(layout.executions()).unwrap().count(), usize::from(used));
        used
    }

    #[test]
    fn a_directory_is_used_again_only_as_good_as_new() {
        assert!(left(ORDERLY, |_| ()));
        assert!(!left("X 1 exited 3 0 0\n", |_| ()), "its supervisor recorded no end");
        assert!(!left("S 7\nT 8 1 1\nX 1 lost\n", |_| ()));
        assert!(!left(ORDERLY, |dir| fs::write(dir.work().join("file"), "").unwrap()));
        assert!(!left(ORDERLY, |dir| fs::write(dir.path().join("left"), "").unwrap()));
        assert!(!left(ORDERLY, |dir| fs::set_permissions(
            dir.work(),
            fs::Permissions::from_mode(0o755)
        )
        .unwrap()));
        assert!(!left(ORDERLY, |dir| fs::hard_link(dir.exit(), dir.path().join("../../other"))
            .unwrap()));
        assert!(!left(ORDERLY, |dir| {
            fs::remove_dir(dir.work()).unwrap();
            std::os::unix::fs::symlink("/tmp", dir.work()).unwrap();
        }));
    }

    #[test]
    fn one_that_lies_in_the_way_stays() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::new(root.path().to_owned());
        disk::prepare(&layout, false).unwrap();
        let dir = |number: u64| {
            layout.execution(&format!("default/ci/{number}/build/1").parse().unwrap())
        };

        let spares = Spares::default();
        for number in [1, 2] {
            disk::make_execution_dir(&dir(number)).unwrap();
        }

        fs::write(dir(1).exit(), ORDERLY).unwrap();
        spares.discard(&layout, &dir(1)).unwrap();
        let live = layout.root().join("live/entry");
        assert!(!spares.use_for(&dir(2), &live));
        assert!(dir(2).work().exists() && !spares.use_for(&dir(3), &live) && !live.exists());
    }
}
