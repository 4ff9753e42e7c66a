//! Limits of memory and cpu through cgroup v2, where a directory was delegated to us.
//!
//! The server makes one cgroup per execution that asks for limits. The supervisor steps into it, starts the task, and
//! steps out again, so that it never dies with the task.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use gofer_core::pipeline::Resources;
use gofer_core::{BackendError, ErrorKind};

use crate::config::Cgroup;
use crate::wire::CgroupPair;

/// Where cgroup v2 is mounted on every distribution that mounts it alone.
const MOUNT: &str = "/sys/fs/cgroup";
/// The period of `cpu.max`, the kernel's default.
const CPU_PERIOD_MICROS: u64 = 100_000;
/// The kernel takes no smaller quota.
const CPU_QUOTA_MIN_MICROS: u64 = 1_000;

/// A delegated directory in which the kernel limits memory and cpu.
#[derive(Debug, Clone)]
pub(crate) struct CgroupBase {
    dir: PathBuf,
    home: PathBuf,
}

impl CgroupBase {
    /// Opens what the operator chose. `auto` gives `None` when there is nothing delegated.
    pub(crate) fn open(choice: &Cgroup) -> Result<Option<Self>, BackendError> {
        match choice {
            Cgroup::Off => Ok(None),
            Cgroup::Auto => {
                let Some(home) = own_cgroup() else { return Ok(None) };
                let delegated = home.parent().filter(|dir| is_delegated(dir)).map(Path::to_path_buf);
                Ok(delegated.and_then(|dir| Self::enable(dir, home).ok()))
            }
            Cgroup::Path(dir) => {
                let unusable = |error: io::Error| {
                    let message = format!(
                        "`cgroup` is `{}`: must be a cgroup v2 directory without processes that this user may write, with \
                         the controllers `memory` and `cpu`",
                        dir.display()
                    );
                    BackendError::new(ErrorKind::Invalid, message).with_source(error)
                };
                let home = own_cgroup().ok_or_else(|| unusable(io::ErrorKind::NotFound.into()))?;
                Self::enable(dir.clone(), home).map(Some).map_err(unusable)
            }
        }
    }

    fn enable(dir: PathBuf, home: PathBuf) -> io::Result<Self> {
        let offered = fs::read_to_string(dir.join("cgroup.controllers"))?;
        if !["memory", "cpu"].iter().all(|wanted| offered.split_whitespace().any(|name| name == *wanted)) {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "a controller is missing"));
        }
        fs::write(dir.join("cgroup.subtree_control"), "+memory +cpu")?;
        Ok(Self { dir, home })
    }

    /// The cgroup of one execution, if it has one of its own.
    pub(crate) fn of(&self, name: &str) -> Option<CgroupPair> {
        let task = self.dir.join(name);
        task.is_dir().then(|| CgroupPair { task, home: self.home.clone() })
    }

    /// The directory, for people.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Makes the cgroup of one execution and sets its limits.
    pub(crate) fn create(&self, name: &str, resources: &Resources) -> io::Result<CgroupPair> {
        let task = self.dir.join(name);
        match fs::create_dir(&task) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => other?,
        }
        if let Some(bytes) = resources.memory_bytes {
            fs::write(task.join("memory.max"), bytes.to_string())?;
            // A task that lost one of its processes is no use; and swapping would make the limit a suggestion.
            let _ = fs::write(task.join("memory.oom.group"), "1");
            let _ = fs::write(task.join("memory.swap.max"), "0");
        }
        if let Some(millis) = resources.cpu_millis {
            let quota = (u64::from(millis) * CPU_PERIOD_MICROS / 1000).max(CPU_QUOTA_MIN_MICROS);
            fs::write(task.join("cpu.max"), format!("{quota} {CPU_PERIOD_MICROS}"))?;
        }
        Ok(CgroupPair { task, home: self.home.clone() })
    }
}

/// Moves this process into the task's cgroup.
pub(crate) fn enter(pair: &CgroupPair) -> io::Result<()> {
    fs::write(pair.task.join("cgroup.procs"), "0")
}

/// Moves this process back out.
///
/// # Errors
/// Then it shares the task's limits, which is tight but not wrong.
pub(crate) fn leave(pair: &CgroupPair) -> io::Result<()> {
    fs::write(pair.home.join("cgroup.procs"), "0")
}

fn own_cgroup() -> Option<PathBuf> {
    if !Path::new(MOUNT).join("cgroup.controllers").exists() {
        return None;
    }
    let text = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(Path::new(MOUNT).join(path))
}

/// systemd marks the directory of a unit with `Delegate=yes`; with `DelegateSubgroup=` the server runs one level below.
fn is_delegated(dir: &Path) -> bool {
    ["user.delegate", "trusted.delegate"].iter().any(|name| {
        let mut value = [0_u8; 4];
        matches!(rustix::fs::getxattr(dir, *name, &mut value), Ok(length) if value[..length] == *b"1")
    })
}

/// The supervisor's view of its task's cgroup; dropping it removes the cgroup.
pub(crate) struct TaskCgroup {
    pair: CgroupPair,
}

impl TaskCgroup {
    pub(crate) fn new(pair: CgroupPair) -> Self {
        Self { pair }
    }

    /// Moves this process in.
    pub(crate) fn enter(&self) -> io::Result<()> {
        enter(&self.pair)
    }

    /// Moves this process back out.
    pub(crate) fn leave(&self) -> io::Result<()> {
        leave(&self.pair)
    }

    /// Kills everything in it at once, whatever it forks meanwhile.
    pub(crate) fn kill(&self) {
        let _ = fs::write(self.pair.task.join("cgroup.kill"), "1");
    }

    /// Whether the kernel killed anything in it for want of memory.
    pub(crate) fn ran_out_of_memory(&self) -> bool {
        let events = fs::read_to_string(self.pair.task.join("memory.events")).unwrap_or_default();
        let kills = events.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse::<u64>().ok());
        kills.is_some_and(|count| count > 0)
    }
}

impl Drop for TaskCgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.pair.task);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base() -> (tempfile::TempDir, CgroupBase) {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("cgroup.controllers"), "cpuset cpu io memory\n").unwrap();
        let base = CgroupBase::enable(root.path().into(), root.path().join("home")).unwrap();
        (root, base)
    }

    #[test]
    fn limits_are_written_in_the_kernels_units() {
        let (root, base) = base();
        let resources = Resources { cpu_millis: Some(1500), memory_bytes: Some(64 << 20) };
        let pair = base.create("task", &resources).unwrap();
        let read = |name: &str| fs::read_to_string(pair.task.join(name)).unwrap();
        assert_eq!(read("memory.max"), "67108864");
        assert_eq!(read("cpu.max"), "150000 100000");
        assert_eq!(fs::read_to_string(root.path().join("cgroup.subtree_control")).unwrap(), "+memory +cpu");
        let tiny = base.create("tiny", &Resources { cpu_millis: Some(1), memory_bytes: None }).unwrap();
        assert_eq!(fs::read_to_string(tiny.task.join("cpu.max")).unwrap(), "1000 100000");
    }

    #[test]
    fn out_of_memory_is_read_from_the_events() {
        let (_root, base) = base();
        let task = TaskCgroup::new(base.create("task", &Resources::default()).unwrap());
        assert!(!task.ran_out_of_memory());
        let events = task.pair.task.join("memory.events");
        fs::write(&events, "low 0\noom 1\noom_kill 0\n").unwrap();
        assert!(!task.ran_out_of_memory());
        fs::write(&events, "low 0\noom 1\noom_kill 2\n").unwrap();
        assert!(task.ran_out_of_memory());
    }

    #[test]
    fn a_directory_without_the_controllers_is_refused() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("cgroup.controllers"), "hugetlb\n").unwrap();
        assert!(CgroupBase::enable(root.path().into(), "/".into()).is_err());
        assert!(CgroupBase::open(&Cgroup::Off).unwrap().is_none());
    }
}
