//! Where everything lies on the disk.
//!
//! ```text
//! <dir>/server.lock             held by the server that uses the directory
//! <dir>/boot                    the kernel's boot id when a server last came up
//! <dir>/users                   with `users.range`: the number of each namespace's user
//! <dir>/live/<id>~<nonce>       one per execution that has not ended; its supervisor holds a lock on it while it lives,
//!                               and last writes into it how it ended (see `live`)
//! <dir>/x/<id>/
//!     log                       stdout and stderr in frames (see `frame`), once there is some
//!     work/                     the working directory, unless the spec names one
//!     tmp/                      with `users` alone: the task's directory for temporary files
//!     stop                      a stop was asked for; the grace in milliseconds
//!     exit                      how it ended (see `record`): the live entry, moved here by the server. Without this and
//!                               without a live entry the directory is on its way out
//!     left                      something of the task could not be killed, so nothing else may use this directory
//! <dir>/x/~<nonce>/             for an execution that comes: `work/`, and `entry`, its live entry (see `spares`)
//! <dir>/x/~<nonce>.gone/        on its way out
//! ```

use std::path::{Path, PathBuf};

use gofer_core::ExecutionId;

/// The scheduler's directory.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    root: PathBuf,
}

impl Layout {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn server_lock(&self) -> PathBuf {
        self.root.join("server.lock")
    }

    pub(crate) fn boot(&self) -> PathBuf {
        self.root.join("boot")
    }

    pub(crate) fn live_dir(&self) -> PathBuf {
        self.root.join("live")
    }

    pub(crate) fn live(&self, name: &LiveName) -> PathBuf {
        self.live_dir().join(&name.0)
    }

    pub(crate) fn executions(&self) -> PathBuf {
        self.root.join("x")
    }

    /// A directory that is kept for an execution that comes. No execution's name begins like this.
    pub(crate) fn spare(&self, nonce: u64) -> PathBuf {
        self.executions().join(format!("~{nonce:x}"))
    }

    /// A directory on its way out.
    pub(crate) fn gone(&self, nonce: u64) -> PathBuf {
        self.executions().join(format!("~{nonce:x}.gone"))
    }

    /// One directory each, side by side: to make and to remove one touches nothing that others are
    /// at.
    pub(crate) fn execution(&self, id: &ExecutionId) -> ExecutionDir {
        ExecutionDir { path: self.executions().join(file_name(id)) }
    }
}

/// The id as one name: no identifier holds a `.` or a `/`, so it is no other's.
fn file_name(id: &ExecutionId) -> String {
    id.to_string().replace('/', ".")
}

/// The directory of one execution.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct ExecutionDir {
    path: PathBuf,
}

impl ExecutionDir {
    pub(crate) fn at(path: PathBuf) -> Self {
        Self { path }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.path.join("log")
    }

    pub(crate) fn work(&self) -> PathBuf {
        self.path.join("work")
    }

    pub(crate) fn tmp(&self) -> PathBuf {
        self.path.join("tmp")
    }

    pub(crate) fn stop(&self) -> PathBuf {
        self.path.join("stop")
    }

    pub(crate) fn entry(&self) -> PathBuf {
        self.path.join("entry")
    }

    pub(crate) fn left(&self) -> PathBuf {
        self.path.join("left")
    }

    pub(crate) fn exit(&self) -> PathBuf {
        self.path.join("exit")
    }
}

/// The name of a live entry: the execution's id with `.` for `/`, which no identifier contains, and
/// a nonce that is different for every attempt to launch. A supervisor that comes too late (its
/// server died, and the next one declared the launch void) looks for a nonce that is gone and does
/// nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LiveName(String);

impl LiveName {
    pub(crate) fn new(id: &ExecutionId, nonce: u64) -> Self {
        Self(format!("{}~{nonce:x}", file_name(id)))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn parse(name: &str) -> Option<(ExecutionId, Self)> {
        let (id, _nonce) = name.split_once('~')?;
        Some((id.replace('.', "/").parse().ok()?, Self(name.to_owned())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn live_names_round_trip_and_fit_a_file_name() {
        let long = "x".repeat(64);
        let id: ExecutionId =
            format!("{long}/{long}/{}/{long}/{}", u64::MAX, u32::MAX).parse().unwrap();
        let name = LiveName::new(&id, u64::MAX);
        assert!(name.0.len() <= 255, "{} bytes", name.0.len());
        assert_eq!(LiveName::parse(&name.0), Some((id, name)));
        assert_eq!(LiveName::parse("something else"), None);
    }

    #[test]
    fn an_execution_has_one_directory() {
        let layout = Layout::new("/s".into());
        let dir = layout.execution(&"default/ci/41/build/2".parse().unwrap());
        assert_eq!(dir.exit(), PathBuf::from("/s/x/default.ci.41.build.2/exit"));
    }
}
