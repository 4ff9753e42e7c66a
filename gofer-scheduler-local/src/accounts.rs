//! The users and groups of `/etc/passwd` and `/etc/group`.

use std::collections::HashSet;
use std::fs;
use std::io;

use crate::confinement::User;

/// Whom a namespace's tasks run as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) user: User,
    /// As the system calls it, if it has a name.
    pub(crate) name: Option<String>,
}

/// Both files, as they are now.
pub(crate) struct Accounts {
    passwd: String,
    group: String,
}

impl Accounts {
    pub(crate) fn read() -> io::Result<Self> {
        Ok(Self {
            passwd: fs::read_to_string("/etc/passwd")?,
            group: fs::read_to_string("/etc/group")?,
        })
    }

    /// A user by name, or by `uid:gid`.
    pub(crate) fn find(&self, text: &str) -> Option<Account> {
        if let Some((uid, gid)) = text.split_once(':') {
            let user = User { uid: uid.parse().ok()?, gid: gid.parse().ok()?, groups: Vec::new() };
            return Some(Account { user, name: None });
        }

        let line = self.passwd.lines().find(|line| line.split(':').next() == Some(text))?;
        let mut fields = line.split(':').skip(2);
        let (uid, gid) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let groups = self.group.lines().filter_map(|line| {
            let mut fields = line.split(':').skip(2);
            let gid = fields.next()?.parse().ok()?;
            fields.next()?.split(',').any(|member| member == text).then_some(gid)
        });

        Some(Account {
            user: User { uid, gid, groups: groups.collect() },
            name: Some(text.to_owned()),
        })
    }
}

/// Numbers that somebody of this machine has, as a user or as a group.
pub(crate) fn numbers_in_use() -> io::Result<HashSet<u32>> {
    let Accounts { passwd, group } = Accounts::read()?;
    let number = |line: &str| line.split(':').nth(2)?.parse().ok();
    Ok(passwd.lines().chain(group.lines()).filter_map(number).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_with_its_groups() {
        let accounts = Accounts {
            passwd: "root:x:0:0:root:/root:/bin/sh\nci-red:x:70001:70002::/home/ci-red:/bin/sh\n"
                .into(),
            group: "root:x:0:\nci-red:x:70002:\ndocker:x:999:else,ci-red\nother:x:998:ci-redder\n"
                .into(),
        };
        let found = accounts.find("ci-red").unwrap();
        assert_eq!(found.user, User { uid: 70001, gid: 70002, groups: vec![999] });
        assert_eq!(accounts.find("1:2").unwrap().user, User { uid: 1, gid: 2, groups: Vec::new() });
        assert!(accounts.find("ci").is_none() && accounts.find("x:y").is_none());
    }
}
