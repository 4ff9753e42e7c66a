//! Credentials that a server leaves for its own user on this machine: the credential is the first
//! line of a file that only that user may read, the server's address the second. A link in a
//! well-known folder leads from the address to the file, so that `gofer` finds it wherever the data
//! directory is, and sends it nowhere else.

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, symlink};
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};

use super::FileError;

/// Longest file that is read; one of ours is a few lines.
const FILE_MAX_BYTES: u64 = 4 * 1024;
/// Permissions of the group and of others.
const OTHERS_MODE_BITS: u32 = 0o077;

/// Such a file, and the link to it.
#[derive(Debug)]
pub(crate) struct CredentialFile {
    path: PathBuf,
    link: Option<PathBuf>,
    contents: SecretString,
}

impl CredentialFile {
    /// Writes the file, whole or not at all, over one of a server before. A link that cannot be
    /// made is told in the log.
    ///
    /// # Errors
    /// [`FileError`].
    pub(crate) fn write(
        (dir, name): (&Path, &str),
        credential: &SecretString,
        addr: &str,
        links: Option<&Path>,
    ) -> Result<Self, FileError> {
        let path = std::path::absolute(dir.join(name)).unwrap_or_else(|_| dir.join(name));
        let contents = SecretString::from(format!("{}\n{addr}\n", credential.expose_secret()));
        let written = write_private(&path, contents.expose_secret().as_bytes());
        written.map_err(|source| FileError::Unusable { path: path.clone(), source })?;

        let link = links.map(|links| links.join(link_name(addr, name)));
        if let Some(link) = &link
            && let Err(error) = make_link(link, &path)
        {
            let (link, path) = (link.display(), path.display());
            tracing::warn!(%error, %link, "`gofer` will not find `{path}` by itself; name it with \
                                           `--token-file`");
        }
        Ok(Self { path, link, contents })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the file, unless another server has written its own over it.
    pub(crate) fn remove(&self) {
        let is_own = fs::read(&self.path)
            .is_ok_and(|found| found == self.contents.expose_secret().as_bytes());
        if !is_own {
            return;
        }
        if let Some(link) =
            self.link.as_ref().filter(|link| fs::read_link(link).is_ok_and(|to| to == self.path))
        {
            let _ = fs::remove_file(link);
        }
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "a credential that is worth \
                                                                 nothing any more is left behind");
        }
    }
}

/// The name of the link, such as `127.0.0.1:8469.token`.
fn link_name(addr: &str, name: &str) -> String {
    let authority = addr.split_once("://").map_or(addr, |(_, authority)| authority);
    format!("{authority}.{name}")
}

fn write_private(path: &Path, contents: &[u8]) -> io::Result<()> {
    let new = beside(path);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    let written = file
        .write_all(contents)
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&new, path));
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written
}

fn make_link(link: &Path, to: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;

    if let Some(dir) = link.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    }
    let new = beside(link);
    symlink(to, &new)?;
    fs::rename(&new, link).inspect_err(|_| drop(fs::remove_file(&new)))
}

/// A name that nobody else uses, in the same folder.
fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{:016x}", rand::random::<u64>()))
}

/// The first line of a file that holds a credential.
pub(crate) fn read(path: &Path) -> io::Result<SecretString> {
    let mut text = String::new();
    fs::File::open(path)?.take(FILE_MAX_BYTES).read_to_string(&mut text)?;
    Ok(SecretString::from(text.lines().next().unwrap_or_default().trim()))
}

/// The same of a file that this server's user has written and nobody else can read; `None` for any
/// other.
pub(crate) fn read_own(path: &Path) -> Option<SecretString> {
    let found = fs::symlink_metadata(path).ok()?;
    let is_own = found.is_file()
        && found.uid() == rustix::process::geteuid().as_raw()
        && found.mode() & OTHERS_MODE_BITS == 0;
    is_own.then(|| read(path).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_is_private_and_leaves_with_its_server_only() {
        let (data, links) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let links = links.path().join("servers");
        let write = |secret: &str| {
            let (place, secret) = ((data.path(), "token"), SecretString::from(secret));
            CredentialFile::write(place, &secret, "http://127.0.0.1:8469", Some(&links)).unwrap()
        };

        let (first, second) = (write("one"), write("two"));
        let link = links.join("127.0.0.1:8469.token");
        assert_eq!(fs::read_to_string(&link).unwrap(), "two\nhttp://127.0.0.1:8469\n");
        assert_eq!(fs::metadata(second.path()).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(fs::metadata(&links).unwrap().mode() & 0o7777, 0o700);
        assert_eq!(read_own(second.path()).unwrap().expose_secret(), "two");
        first.remove();
        assert!(link.exists(), "it is another server's");
        second.remove();
        assert_eq!(
            fs::read_dir(data.path()).unwrap().count() + fs::read_dir(&links).unwrap().count(),
            0
        );
        assert!(!format!("{second:?}").contains("two"));
    }

    #[test]
    fn what_others_can_read_is_not_ones_own() {
        use std::os::unix::fs::PermissionsExt as _;

        let data = tempfile::tempdir().unwrap();
        let path = data.path().join("bootstrap");
        fs::write(&path, "code\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(read_own(&path).is_none());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(read_own(&path).is_some());
        symlink(&path, data.path().join("link")).unwrap();
        assert!(read_own(&data.path().join("link")).is_none());
    }
}
