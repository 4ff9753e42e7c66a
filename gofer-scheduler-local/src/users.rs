//! A user of this machine for each namespace: the boundary between namespaces that the kernel
//! itself keeps.
//!
//! A namespace has the user that the operator names, or a number from a range, which it keeps: the
//! numbers are in a file of the scheduler's directory, and none is ever given to another namespace.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use gofer_core::id::NamespaceId;
use gofer_core::{BackendError, ErrorKind};
use rustix::process::geteuid;

use crate::accounts::{Account, Accounts, numbers_in_use};
use crate::config::{UidRange, UsersConfig};
use crate::confinement::User;
use crate::disk;

/// What the server needs to start, stop and clean up after processes of other users: the names and
/// numbers of capabilities.
const CAPABILITIES: [(&str, u32); 6] = [
    ("CAP_CHOWN", 0),
    ("CAP_DAC_OVERRIDE", 1),
    ("CAP_FOWNER", 3),
    ("CAP_KILL", 5),
    ("CAP_SETGID", 6),
    ("CAP_SETUID", 7),
];

/// The users of all namespaces.
#[derive(Debug)]
pub(crate) struct Users {
    named: BTreeMap<String, Account>,
    range: Option<UidRange>,
    /// Where the numbers are kept.
    file: PathBuf,
    given: Mutex<BTreeMap<String, u32>>,
}

impl Users {
    /// Checks that this server may have tasks run as others, and that these reach their
    /// directories.
    ///
    /// # Errors
    /// `Invalid`, naming what is missing and the next step; or when the file with the numbers
    /// cannot be read.
    pub(crate) fn open(config: &UsersConfig, dir: &Path) -> Result<Self, BackendError> {
        config.validate()?;
        let missing = missing_capabilities();
        if !missing.is_empty() {
            return invalid(format!(
                "`users` needs capabilities that this server has not got: {}; run it as root, or \
                 with `AmbientCapabilities=` of these in its systemd unit, or without `users`",
                missing.join(", ")
            ));
        }

        reachable(dir)?;
        let accounts = Accounts::read().map_err(|error| unreadable("/etc/passwd", error))?;
        let mut named: BTreeMap<String, Account> = BTreeMap::new();

        for (namespace, text) in &config.namespaces {
            let key = format!("`users.namespaces.{namespace}` is `{text}`");
            let account = match accounts.find(text) {
                Some(account) => account,
                None => {
                    return invalid(format!("{key}: must be a name in /etc/passwd, or `uid:gid`"));
                }
            };

            if account.user.uid == 0 || account.user.uid == geteuid().as_raw() {
                return invalid(format!("{key}: must be neither root nor the server's own user"));
            }

            if let Some((other, _)) =
                named.iter().find(|(_, known)| known.user.uid == account.user.uid)
            {
                return invalid(format!(
                    "{key}: must not be the user of another namespace, `{other}`, too"
                ));
            }

            named.insert(namespace.clone(), account);
        }

        let file = dir.join("users");
        let given =
            read_numbers(&file).map_err(|error| unreadable(&file.display().to_string(), error))?;

        Ok(Self { named, range: config.range, file, given: Mutex::new(given) })
    }

    /// The user of a namespace, from now on.
    ///
    /// # Errors
    /// Why it has none.
    pub(crate) fn of(&self, namespace: &NamespaceId) -> Result<Account, String> {
        let name = namespace.as_str();
        if let Some(account) = self.named.get(name) {
            return Ok(account.clone());
        }

        let Some(range) = self.range else {
            return Err(format!(
                "namespace `{name}` has no user: name one in `scheduler.local.users.namespaces`, \
                 or give a `range`"
            ));
        };

        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(&uid) = given.get(name) {
            return Ok(numbered(uid));
        }

        let taken = |uid: &u32| {
            given.values().any(|known| known == uid)
                || self
                    .named
                    .values()
                    .any(|account| account.user.uid == *uid || account.user.gid == *uid)
                || *uid == geteuid().as_raw()
        };

        let used = numbers_in_use()
            .map_err(|error| format!("the users of this machine cannot be read: {error}"))?;
        let free = (range.first..=range.last).find(|uid| !taken(uid) && !used.contains(uid));
        let Some(uid) = free else {
            return Err(format!(
                "namespace `{name}` has no user: all of `scheduler.local.users.range` ({range}) \
                 are taken"
            ));
        };

        let mut all = given.clone();
        all.insert(name.to_owned(), uid);

        // Before it is used: a number that is forgotten would be another namespace's later.
        let text: String = all.iter().map(|(name, uid)| format!("{name} {uid}\n")).collect();
        let kept = disk::replace_durably(&self.file, &text);
        kept.map_err(|error| {
            format!("the user of namespace `{name}` could not be noted: {error}")
        })?;

        *given = all;
        Ok(numbered(uid))
    }
}

fn numbered(uid: u32) -> Account {
    Account { user: User { uid, gid: uid, groups: Vec::new() }, name: None }
}

fn read_numbers(file: &Path) -> io::Result<BTreeMap<String, u32>> {
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(error),
    };
    let parse = |line: &str| {
        Some((line.split_once(' ')?.0.to_owned(), line.split_once(' ')?.1.parse().ok()?))
    };
    let damaged =
        || io::Error::new(io::ErrorKind::InvalidData, "a line is not a namespace and a number");
    text.lines().map(|line| parse(line).ok_or_else(damaged)).collect()
}

/// The names of those that this process has not got, or could not hand on.
fn missing_capabilities() -> Vec<&'static str> {
    // A process that is not root keeps over an exec what is ambient.
    let tag = if geteuid().is_root() { "CapEff:" } else { "CapAmb:" };
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let held = status
        .lines()
        .find_map(|line| u64::from_str_radix(line.strip_prefix(tag)?.trim(), 16).ok());
    let held = held.unwrap_or(0);
    CAPABILITIES.iter().filter(|(_, bit)| held & (1 << bit) == 0).map(|(name, _)| *name).collect()
}

/// Everybody has to get through the directories above the executions', to one's own.
fn reachable(dir: &Path) -> Result<(), BackendError> {
    for above in dir.ancestors().skip(1) {
        let mode = fs::metadata(above)
            .map_err(|error| unreadable(&above.display().to_string(), error))?
            .mode();
        if mode & 0o001 == 0 {
            let (above, mode) = (above.display(), mode & 0o7777);
            return invalid(format!(
                "`users` needs that others may pass `{above}` on the way to `{}`, and its mode is \
                 {mode:04o}: `chmod o+x {above}` lets them pass and not list it; or set `dir` \
                 elsewhere",
                dir.display()
            ));
        }
    }
    Ok(())
}

fn invalid<T>(message: String) -> Result<T, BackendError> {
    Err(BackendError::new(ErrorKind::Invalid, message))
}

fn unreadable(what: &str, error: io::Error) -> BackendError {
    crate::error::io_error(format!("`users` needs `{what}`, which cannot be read"), error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users(dir: &Path, range: &str) -> Users {
        let range = Some(UidRange::try_from(range.to_owned()).unwrap());
        let file = dir.join("users");
        let given = Mutex::new(read_numbers(&file).unwrap());
        Users { named: BTreeMap::new(), range, file, given }
    }

    #[test]
    fn a_namespace_keeps_its_number_and_shares_it_with_none() {
        let dir = tempfile::tempdir().unwrap();
        let [red, blue, green] =
            ["red", "blue", "green"].map(|name| NamespaceId::new(name).unwrap());
        let first = users(dir.path(), "3000000000-3000000001");
        let (a, b) = (first.of(&red).unwrap(), first.of(&blue).unwrap());
        assert_ne!(a.user.uid, b.user.uid);
        assert!(first.of(&green).unwrap_err().contains("3000000000-3000000001"));

        let second = users(dir.path(), "3000000001-3000000009");
        assert_eq!((second.of(&blue).unwrap(), second.of(&red).unwrap()), (b, a));
        assert_eq!(second.of(&green).unwrap().user.uid, 3_000_000_002);
        fs::write(dir.path().join("users"), "red x\n").unwrap();
        assert!(
            read_numbers(&dir.path().join("users")).is_err(),
            "a number that is lost could be given twice"
        );
    }
}
