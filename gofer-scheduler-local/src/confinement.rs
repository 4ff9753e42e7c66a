//! What a task does not get: from the server's settings to the request that tells its supervisor.

use std::ffi::{CStr, OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use rustix::process::{Resource, Rlimit};

/// What binds the processes of one execution, its sessions included.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Confinement {
    /// Limits in place of the supervisor's own.
    pub(crate) limits: Vec<Limit>,
    /// Whom they run as; `None` is the server's own user.
    pub(crate) user: Option<User>,
    /// What Landlock keeps from them.
    pub(crate) landlock: Option<Landlock>,
}

/// A limit of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Limit {
    pub(crate) resource: Resource,
    pub(crate) values: Rlimit,
}

/// A user of this machine, by number.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Further groups.
    pub(crate) groups: Vec<u32>,
}

/// What Landlock keeps from a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Landlock {
    /// Signals to processes, and abstract sockets, that are not of the task.
    pub(crate) scopes: bool,
    /// Absolute paths, without links in them, of files and directories that it may not open
    /// anything in. Empty: everything is open.
    pub(crate) protected: Vec<PathBuf>,
    /// Directories below these that every task may read and execute from.
    pub(crate) readable: Vec<PathBuf>,
}

const RESOURCES: [(&str, Resource); 3] =
    [("core", Resource::Core), ("files", Resource::Nofile), ("processes", Resource::Nproc)];

impl Confinement {
    /// As strings of a request: none holds a NUL byte.
    pub(crate) fn encode(&self) -> Vec<Vec<u8>> {
        let mut fields =
            vec![self.limits.iter().map(Limit::encode).collect::<Vec<_>>().join(",").into_bytes()];
        let numbers =
            |numbers: &[u32]| numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
        let user =
            self.user.as_ref().map(|user| [&[user.uid, user.gid], user.groups.as_slice()].concat());

        fields.push(user.map_or(String::new(), |user| numbers(&user)).into());

        let Some(Landlock { scopes, protected, readable }) = &self.landlock else {
            fields.push(Vec::new());
            return fields;
        };

        fields.push(format!("{} {} {}", u8::from(*scopes), protected.len(), readable.len()).into());
        fields.extend(
            protected.iter().chain(readable).map(|path| path.as_os_str().as_bytes().to_vec()),
        );

        fields
    }

    /// Reads what [`Confinement::encode`] wrote.
    pub(crate) fn decode<'a>(mut next: impl FnMut() -> Option<&'a CStr>) -> Option<Self> {
        let mut text = || next()?.to_str().ok();
        let limits = text()?
            .split(',')
            .filter(|limit| !limit.is_empty())
            .map(Limit::decode)
            .collect::<Option<_>>()?;
        let user = match text()? {
            "" => None,
            numbers => {
                let mut numbers = numbers.split(' ').map(str::parse);
                let (uid, gid) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
                Some(User { uid, gid, groups: numbers.collect::<Result<_, _>>().ok()? })
            }
        };

        let landlock = match text()? {
            "" => None,
            words => {
                let mut words = words.split(' ');
                let scopes = words.next()? == "1";
                let (protected, readable) =
                    (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
                let mut paths =
                    |count: usize| (0..count).map(|_| next().map(path)).collect::<Option<Vec<_>>>();
                Some(Landlock { scopes, protected: paths(protected)?, readable: paths(readable)? })
            }
        };

        Some(Self { limits, user, landlock })
    }
}

fn path(text: &CStr) -> PathBuf {
    PathBuf::from(OsString::from(OsStr::from_bytes(text.to_bytes())))
}

/// The path as a field of a request.
pub(crate) fn path_field(path: Option<&std::path::Path>) -> Vec<u8> {
    path.map_or_else(Vec::new, |path| path.as_os_str().to_owned().into_vec())
}

impl Limit {
    pub(crate) fn new(resource: Resource, values: Rlimit) -> Self {
        Self { resource, values }
    }

    fn encode(&self) -> String {
        let name = RESOURCES
            .iter()
            .find(|(_, resource)| *resource == self.resource)
            .map_or("", |(name, _)| name);
        let value =
            |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
        format!("{name}:{}:{}", value(self.values.current), value(self.values.maximum))
    }

    fn decode(text: &str) -> Option<Self> {
        let mut words = text.split(':');
        let name = words.next()?;
        let (_, resource) = *RESOURCES.iter().find(|(known, _)| *known == name)?;
        let mut value = || match words.next()? {
            "-" => Some(None),
            number => number.parse().ok().map(Some),
        };
        Some(Self { resource, values: Rlimit { current: value()?, maximum: value()? } })
    }
}

/// The way into a cgroup.
pub(crate) struct Entrance {
    /// The cgroup's directory.
    pub(crate) dir: OwnedFd,
    /// Whether a process is born there, or moves in.
    pub(crate) by_birth: bool,
}

#[cfg(test)]
mod tests {
    use std::ffi::CString;

    use super::*;

    #[test]
    fn it_round_trips() {
        let limits = vec![
            Limit::new(Resource::Core, Rlimit { current: Some(0), maximum: None }),
            Limit::new(Resource::Nproc, Rlimit { current: Some(4096), maximum: Some(4096) }),
        ];
        let user = Some(User { uid: 70_000, gid: 70_001, groups: vec![4, 5] });
        let landlock = Some(Landlock {
            scopes: true,
            protected: vec!["/a b".into(), "/c".into()],
            readable: vec!["/a b/bin".into()],
        });

        let whole = Confinement { limits, user, landlock };
        for confinement in
            [Confinement::default(), whole.clone(), Confinement { landlock: None, ..whole }]
        {
            let fields: Vec<CString> = confinement
                .encode()
                .into_iter()
                .map(|field| CString::new(field).unwrap())
                .collect();
            let mut fields = fields.iter();

            assert_eq!(
                Confinement::decode(|| fields.next().map(CString::as_c_str)),
                Some(confinement)
            );
            assert_eq!(fields.next(), None);
        }
    }
}
