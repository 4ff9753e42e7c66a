//! The directory for everything local, and who else may look into it.

use std::fs::{DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use super::FileError;
use crate::config::{SchedulerBackend, ServerConfig};

/// Nobody else's.
const PRIVATE_MODE: u32 = 0o700;
/// Others may pass, and see nothing: for tasks that run as users of their own.
const PASSABLE_MODE: u32 = 0o711;
/// Permissions to write, of the group and of others.
const OTHERS_WRITE_MODE_BITS: u32 = 0o022;
/// Permissions to list.
const OTHERS_READ_MODE_BITS: u32 = 0o044;

/// Makes the directory, whatever the umask. One that exists is taken as it is if others may at most
/// look into it, which is said: whoever may write there can replace the database.
///
/// # Errors
/// When it cannot be made, or others may write there.
pub(crate) fn make_data_dir(config: &ServerConfig) -> Result<(), FileError> {
    let local = config.scheduler.backend == SchedulerBackend::Local;
    let mode =
        if local && config.scheduler.local.users.is_some() { PASSABLE_MODE } else { PRIVATE_MODE };
    let dir = config.data_dir();
    let failed = |source| FileError::Unusable { path: dir.clone(), source };
    if !dir.exists() {
        DirBuilder::new().recursive(true).mode(PRIVATE_MODE).create(&dir).map_err(failed)?;
        std::fs::set_permissions(&dir, Permissions::from_mode(mode)).map_err(failed)?;
    }

    let found = dir.metadata().map_err(failed)?;
    if !found.is_dir() {
        return Err(failed(std::io::ErrorKind::NotADirectory.into()));
    }

    match look(&dir, found.mode(), found.uid(), mode) {
        Found::Safe => {}
        Found::Readable(sentence) => tracing::warn!("{sentence}"),
        Found::Writable(sentence) => return Err(FileError::Exposed(sentence)),
    }

    Ok(())
}

/// How open the directory is, and what to do about it.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Safe,
    Readable(String),
    Writable(String),
}

fn look(dir: &Path, mode: u32, owner: u32, wanted: u32) -> Found {
    let (dir, bits) = (dir.display(), mode & 0o7777);
    let own = rustix::process::geteuid().as_raw();
    if owner != own && owner != 0 {
        return Found::Writable(format!(
            "the data directory `{dir}` belongs to user {owner}, who can replace everything in it: \
             `chown {own} {dir}`, or choose another with `server.data_dir`"
        ));
    }

    if mode & OTHERS_WRITE_MODE_BITS != 0 {
        return Found::Writable(format!(
            "the data directory `{dir}` has mode {bits:04o}, so that others may replace the \
             database and its keys: `chmod {wanted:o} {dir}`, or choose another with \
             `server.data_dir`"
        ));
    }

    if mode & OTHERS_READ_MODE_BITS != 0 {
        return Found::Readable(format!(
            "the data directory `{dir}` has mode {bits:04o}, so that others may list it: `chmod \
             {wanted:o} {dir}`"
        ));
    }

    Found::Safe
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(dir: &Path) -> ServerConfig {
        ServerConfig::default_dev(dir)
    }

    #[test]
    fn it_is_made_private_and_refused_where_others_may_write() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("a/data");
        make_data_dir(&config(&dir)).unwrap();
        let mode = |path: &Path| path.metadata().unwrap().mode() & 0o7777;
        assert_eq!((mode(&dir), mode(&root.path().join("a"))), (0o700, 0o700));

        for (mode, refused) in
            [(0o755, false), (0o711, false), (0o770, true), (0o702, true), (0o1777, true)]
        {
            std::fs::set_permissions(&dir, Permissions::from_mode(mode)).unwrap();
            let made = make_data_dir(&config(&dir));
            assert_eq!(made.is_err(), refused, "{mode:o}: {made:?}");

            if let Err(error) = made {
                assert!(
                    error.to_string().contains(&format!("`chmod 700 {}`", dir.display())),
                    "{error}"
                );
            }
        }
    }

    #[test]
    fn who_may_look_into_it_is_told() {
        let own = rustix::process::geteuid().as_raw();
        let dir = Path::new("/d");
        assert_eq!(look(dir, 0o700, own, 0o700), Found::Safe);
        assert_eq!(look(dir, 0o711, 0, 0o711), Found::Safe);
        assert!(
            matches!(look(dir, 0o755, own, 0o700), Found::Readable(said) if said.contains("`chmod 700 /d`"))
        );
        assert!(
            matches!(look(dir, 0o700, own + 1, 0o700), Found::Writable(said) if said.contains("chown"))
        );
    }
}
