//! The rules of Landlock for one task after another.
//!
//! What is allowed is everything beside the way to what is protected: of each directory on that way
//! all entries but the one that leads on. It is looked at once, and again when one of these
//! directories has changed; the zygote does so before it forks, so that its supervisors need not.
//! What is made in one of them while a task runs is closed to that task, and open to the next.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use landlock::{AccessFs, PathBeneath, RulesetCreatedAttr};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;

use crate::confinement::Landlock;
use crate::policy::{all_access, empty_ruleset};

/// Each is a descriptor of every supervisor, and a rule of every task.
const MAX_ENTRIES: usize = 512;

#[derive(Default)]
pub(super) struct Sandbox {
    view: Option<View>,
}

/// What there was beside the way.
struct View {
    protected: Vec<PathBuf>,
    way: Vec<OnTheWay>,
    beside: Vec<OwnedFd>,
}

struct OnTheWay {
    path: PathBuf,
    stamp: Stamp,
    dir: OwnedFd,
}

/// Differs once an entry was made or removed.
#[derive(PartialEq, Eq)]
struct Stamp(u64, u64, i64, i64);

impl Sandbox {
    /// Looks at the file system, if that has changed. A failure is said by [`Sandbox::ruleset`].
    pub(super) fn refresh(&mut self, landlock: &Landlock) {
        if !self.view.as_ref().is_some_and(|view| view.holds_for(landlock)) {
            self.view = None;
            self.view = View::look(&landlock.protected).ok();
        }
    }

    /// The rules for a task that may have these directories to itself.
    pub(super) fn ruleset(
        &mut self,
        landlock: &Landlock,
        own: &[&Path],
    ) -> Result<Option<OwnedFd>, String> {
        let failed = |error: &dyn std::fmt::Display| {
            format!("the rules of Landlock could not be made: {error}")
        };

        let mut ruleset = empty_ruleset(landlock).map_err(|error| failed(&error))?;
        if landlock.protected.is_empty() {
            return Ok(ruleset.into());
        }

        self.refresh(landlock);
        if self.view.is_none() {
            self.view = Some(View::look(&landlock.protected).map_err(|error| failed(&error))?);
        }

        let Some(view) = &self.view else { return Ok(None) };
        let (list, run) =
            (AccessFs::ReadDir, AccessFs::ReadDir | AccessFs::ReadFile | AccessFs::Execute);
        let mut rules = Vec::with_capacity(view.beside.len() + view.way.len() + own.len());
        rules.extend(view.beside.iter().map(|fd| (fd.as_fd(), all_access())));
        rules.extend(view.way.iter().map(|found| (found.dir.as_fd(), list.into())));

        let opened = |paths: &mut dyn Iterator<Item = &Path>| {
            paths.map(open_path).collect::<Result<Vec<_>, _>>()
        };

        let own = opened(&mut own.iter().copied()).map_err(|error| failed(&error))?;
        let readable = opened(&mut landlock.readable.iter().map(PathBuf::as_path))
            .map_err(|error| failed(&error))?;
        rules.extend(own.iter().map(|fd| (fd.as_fd(), all_access())));
        rules.extend(readable.iter().map(|fd| (fd.as_fd(), run)));

        for (fd, access) in rules {
            ruleset =
                ruleset.add_rule(PathBeneath::new(fd, access)).map_err(|error| failed(&error))?;
        }

        Ok(ruleset.into())
    }
}

impl View {
    fn look(protected: &[PathBuf]) -> io::Result<Self> {
        let way: BTreeSet<&Path> =
            protected.iter().flat_map(|path| path.ancestors().skip(1)).collect();
        let mut view = Self { protected: protected.to_vec(), way: Vec::new(), beside: Vec::new() };

        for dir in &way {
            // First the stamp: what changes after it is seen the next time.
            let Ok(stamp) = Stamp::of(dir) else { continue };
            view.way.push(OnTheWay { path: dir.to_path_buf(), stamp, dir: open_path(dir)? });
            for entry in fs::read_dir(dir)? {
                let entry = entry?;
                let path = entry.path();

                // What a link leads to counts where it lies.
                let is_link = entry.file_type().is_ok_and(|kind| kind.is_symlink());
                if is_link || way.contains(path.as_path()) || protected.contains(&path) {
                    continue;
                }

                match open_path(&path) {
                    Ok(fd) => view.beside.push(fd),
                    Err(Errno::NOENT | Errno::ACCESS) => continue,
                    Err(error) => return Err(error.into()),
                }

                if view.beside.len() > MAX_ENTRIES {
                    let message = format!(
                        "beside the data directory there are more than {MAX_ENTRIES} files and \
                         directories, as in `{}`; move it, or set `scheduler.local.landlock = \
                         \"off\"`",
                        dir.display()
                    );
                    return Err(io::Error::other(message));
                }
            }
        }

        Ok(view)
    }

    fn holds_for(&self, landlock: &Landlock) -> bool {
        self.protected == landlock.protected
            && self.way.iter().all(|dir| Stamp::of(&dir.path).is_ok_and(|stamp| stamp == dir.stamp))
    }
}

impl Stamp {
    fn of(dir: &Path) -> io::Result<Self> {
        let found = fs::symlink_metadata(dir)?;
        Ok(Self(found.dev(), found.ino(), found.ctime(), found.ctime_nsec()))
    }
}

fn open_path(path: &Path) -> rustix::io::Result<OwnedFd> {
    open(path, OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn what_is_made_beside_the_way_is_seen_the_next_time() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        let inner = root.join("a/b");
        fs::create_dir_all(&inner).unwrap();

        let protected = vec![inner.join("data")];
        // Other tests make things beside the way, too; only this directory is looked at.
        let has_changed = |view: &View| {
            let found = view.way.iter().find(|dir| dir.path == inner).expect("it is on the way");
            found.stamp != Stamp::of(&inner).unwrap()
        };

        let beside = |view: &View| {
            let path =
                |fd: &OwnedFd| fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap();
            view.beside.iter().map(path).filter(|path| path.starts_with(&inner)).collect::<Vec<_>>()
        };

        let first = View::look(&protected).unwrap();
        assert!(first.way.iter().any(|dir| dir.path == Path::new("/")) && !has_changed(&first));
        fs::create_dir(inner.join("data")).unwrap();
        fs::write(inner.join("data/secret"), "").unwrap();

        let second = View::look(&protected).unwrap();
        assert_eq!(
            beside(&second),
            Vec::<PathBuf>::new(),
            "what is protected is not beside the way"
        );
        std::os::unix::fs::symlink("data", inner.join("link")).unwrap();
        fs::write(inner.join("new"), "").unwrap();
        assert!(has_changed(&second));
        assert_eq!(beside(&View::look(&protected).unwrap()), [inner.join("new")]);
    }
}
