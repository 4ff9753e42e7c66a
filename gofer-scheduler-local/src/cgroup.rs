//! A cgroup v2 per execution, where a directory for them can be had: it limits memory, cpu and
//! processes as far as the kernel offers that there, and whatever a task makes of itself, it can be
//! killed with everything that came of it.
//!
//! The server makes the cgroup, and the task's process is born in it. Its
//! supervisor stays outside, so that it never dies with the task.

use std::cell::Cell;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use gofer_core::pipeline::Resources;
use gofer_core::{BackendError, ErrorKind};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::config::Cgroup;
use crate::confinement::Entrance;
use crate::layout::LiveName;
use crate::sys;

/// The period of `cpu.max`, the kernel's default.
const CPU_PERIOD_MICROS: u64 = 100_000;
/// The kernel takes no smaller quota.
const CPU_QUOTA_MIN_MICROS: u64 = 1_000;
/// How long to wait for killed processes to be gone: as long as a supervisor waits.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);
/// Looks again this often, should the kernel not tell.
const KILL_POLL_INTERVAL: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// A directory for the cgroups of one scheduler's executions.
#[derive(Debug, Clone)]
pub(crate) struct CgroupBase {
    dir: PathBuf,
    /// Memory and cpu are limited in it.
    limits: bool,
    /// The number of processes is, to this.
    max_processes: Option<u32>,
}

/// Where this process is.
struct OwnCgroup {
    dir: PathBuf,
    /// It is the root, as far as this process sees: a container's, or a machine's on which nobody
    /// manages cgroups.
    is_root: bool,
}

impl CgroupBase {
    /// Opens what the operator chose, for the scheduler of a directory. `auto` gives `None` when
    /// there is none to be had, with `for_limits` also when memory and cpu cannot be limited in it.
    pub(crate) fn open(
        choice: &Cgroup,
        scheduler: &Path,
        max_processes: u32,
        for_limits: bool,
    ) -> Result<Option<Self>, BackendError> {
        match choice {
            Cgroup::Off => Ok(None),
            Cgroup::Auto => {
                let Some(own) = own_cgroup() else { return Ok(None) };
                let parent = own.dir.parent().filter(|dir| !own.is_root && is_delegated(dir));
                let delegated =
                    parent.or((own.is_root || is_delegated(&own.dir)).then_some(own.dir.as_path()));
                Ok(delegated
                    .and_then(|dir| Self::within(dir, scheduler, max_processes, for_limits).ok()))
            }
            Cgroup::Path(dir) => {
                let unusable = |error: io::Error| {
                    let message = format!(
                        "`cgroup` is `{}`: must be a cgroup v2 directory without processes that \
                         this user may write, with the controllers `memory` and `cpu`",
                        dir.display()
                    );
                    BackendError::new(ErrorKind::Invalid, message).with_source(error)
                };
                Self::within(dir, scheduler, max_processes, true).map(Some).map_err(unusable)
            }
        }
    }

    /// A directory of its own in this one, so that what is left in it is nobody else's.
    fn within(
        dir: &Path,
        scheduler: &Path,
        max_processes: u32,
        for_limits: bool,
    ) -> io::Result<Self> {
        let found = fs::metadata(scheduler)?;
        let own = dir.join(format!("gofer-{:x}-{:x}", found.dev(), found.ino()));
        let missing = || io::Error::new(io::ErrorKind::Unsupported, "a controller is missing");
        let offered = enable(dir);

        // Before anything is made and tried that would be thrown away.
        if for_limits && !limit(&offered) {
            return Err(missing());
        }

        make(&own)?;
        let base = Self::enabled(own, max_processes);

        // Proves that cgroups can be made, entered and killed: who finds out later that one cannot
        // runs no task.
        let probe = base.dir.join("probe");
        make(&probe)?;
        let usable = can_be_entered(&probe) && probe.join("cgroup.kill").exists();

        fs::remove_dir(probe)?;
        if !usable {
            base.leave();
            return Err(io::ErrorKind::Unsupported.into());
        }

        if for_limits && !base.limits {
            base.leave();
            return Err(missing());
        }

        Ok(base)
    }

    fn enabled(dir: PathBuf, max_processes: u32) -> Self {
        let controllers = enable(&dir);
        let limits = limit(&controllers);
        let max_processes = controllers.contains(&"pids").then_some(max_processes);
        Self { dir, limits, max_processes }
    }

    /// Whether memory and cpu are limited.
    pub(crate) fn limits(&self) -> bool {
        self.limits
    }

    /// The most processes of one execution, if that is limited.
    pub(crate) fn max_processes(&self) -> Option<u32> {
        self.max_processes
    }

    /// The directory, for people.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The cgroup of one execution, if it has one.
    pub(crate) fn of(&self, live: &LiveName) -> Option<PathBuf> {
        let task = self.dir.join(live.as_str());
        task.is_dir().then_some(task)
    }

    /// Makes the cgroup of one execution and sets its limits.
    pub(crate) fn create(&self, live: &LiveName, resources: &Resources) -> io::Result<PathBuf> {
        let task = self.dir.join(live.as_str());
        make(&task)?;
        if let Some(most) = self.max_processes {
            fs::write(task.join("pids.max"), most.to_string())?;
        }

        if let Some(bytes) = resources.memory_bytes.filter(|_| self.limits) {
            fs::write(task.join("memory.max"), bytes.to_string())?;
            // A task that lost one of its processes is no use; and swapping would make the limit a
            // suggestion.
            let _ = fs::write(task.join("memory.oom.group"), "1");
            let _ = fs::write(task.join("memory.swap.max"), "0");
        }

        if let Some(millis) = resources.cpu_millis.filter(|_| self.limits) {
            let quota = (u64::from(millis) * CPU_PERIOD_MICROS / 1000).max(CPU_QUOTA_MIN_MICROS);
            fs::write(task.join("cpu.max"), format!("{quota} {CPU_PERIOD_MICROS}"))?;
        }

        Ok(task)
    }

    /// Kills what a dead supervisor left of its execution, and removes the cgroup.
    pub(crate) fn clear(&self, live: &LiveName) {
        if let Some(task) = self.of(live) {
            let task = TaskCgroup::new(task);
            task.kill();
            task.wait_until_empty();
        }
    }

    /// Does that with all that are none of these.
    pub(crate) fn sweep(&self, alive: &[&LiveName]) {
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let name = entry.file_name();
            if let Some((_, live)) = name.to_str().and_then(LiveName::parse)
                && !alive.contains(&&live)
            {
                self.clear(&live);
            }
        }
    }

    /// Removes the directory, if nothing is left in it.
    pub(crate) fn leave(&self) {
        let _ = fs::remove_dir(&self.dir);
    }
}

/// By a process that is born there, or where the kernel knows no such thing, by one that moves.
fn can_be_entered(dir: &Path) -> bool {
    let born = entrance(dir).is_ok_and(|to| sys::can_be_born_in(to.dir.as_fd()));
    let moves = || {
        Command::new("/bin/sh")
            .args(["-c", "echo 0 > \"$0/cgroup.procs\""])
            .arg(dir)
            .status()
            .is_ok_and(|status| status.success())
    };
    born || moves()
}

/// Whether these controllers limit memory and cpu.
fn limit(controllers: &[&str]) -> bool {
    ["memory", "cpu"].iter().all(|name| controllers.contains(name))
}

fn make(dir: &Path) -> io::Result<()> {
    match fs::create_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// Which controllers the cgroups below this one have now.
fn enable(dir: &Path) -> Vec<&'static str> {
    let offered = fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
    let wanted = ["memory", "cpu", "pids"];
    let wanted: Vec<_> = wanted
        .into_iter()
        .filter(|name| offered.split_whitespace().any(|offered| offered == *name))
        .collect();
    let text = wanted.iter().map(|name| format!("+{name}")).collect::<Vec<_>>().join(" ");
    if wanted.is_empty() || fs::write(dir.join("cgroup.subtree_control"), text).is_err() {
        Vec::new()
    } else {
        wanted
    }
}

fn own_cgroup() -> Option<OwnCgroup> {
    let text = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let mount = mount_point(&fs::read_to_string("/proc/self/mountinfo").ok()?)?;
    Some(OwnCgroup {
        dir: if path.is_empty() { mount } else { mount.join(path) },
        is_root: path.is_empty(),
    })
}

/// Where cgroup v2 is mounted whole.
fn mount_point(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, source) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        (source.starts_with("cgroup2 ") && root == "/").then(|| PathBuf::from(point))
    })
}

/// systemd marks the directory of a unit with `Delegate=yes`; with `DelegateSubgroup=` the server
/// runs one level below.
fn is_delegated(dir: &Path) -> bool {
    ["user.delegate", "trusted.delegate"].iter().any(|name| {
        let mut value = [0_u8; 4];
        matches!(rustix::fs::getxattr(dir, *name, &mut value), Ok(length) if value[..length] == *b"1")
    })
}

/// One execution's cgroup; dropping it removes the cgroup.
pub(crate) struct TaskCgroup {
    dir: PathBuf,
    was_killed: Cell<bool>,
}

impl TaskCgroup {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir, was_killed: Cell::new(false) }
    }

    /// Kills everything in it at once, also what is being forked.
    pub(crate) fn kill(&self) {
        self.was_killed.set(true);
        let _ = fs::write(self.dir.join("cgroup.kill"), "1");
    }

    /// Whether the kernel killed anything in it for want of memory.
    pub(crate) fn ran_out_of_memory(&self) -> bool {
        let events = fs::read_to_string(self.dir.join("memory.events")).unwrap_or_default();
        let kills = events
            .lines()
            .find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse::<u64>().ok());
        kills.is_some_and(|count| count > 0)
    }

    /// The way in for the next process. Linux kills what is born in a cgroup that was killed once:
    /// it compares the cgroup's count of kills with that of the parent's. The later lives of a
    /// service move in, therefore.
    pub(crate) fn entrance(&self) -> io::Result<Entrance> {
        Ok(Entrance { by_birth: !self.was_killed.get(), ..entrance(&self.dir)? })
    }

    /// Waits for killed processes to be gone, for a while.
    fn wait_until_empty(&self) {
        let deadline = Instant::now() + KILL_TIMEOUT;
        let Ok(events) = fs::File::open(self.dir.join("cgroup.events")) else { return };
        while Instant::now() < deadline {
            let mut text = [0; 256];
            let length = std::os::unix::fs::FileExt::read_at(&events, &mut text, 0).unwrap_or(0);
            if !String::from_utf8_lossy(&text[..length]).contains("populated 1") {
                return;
            }
            let _ = poll(&mut [PollFd::new(&events, PollFlags::PRI)], Some(&KILL_POLL_INTERVAL));
        }
    }
}

/// The way into a cgroup that may have been killed.
pub(crate) fn entrance(dir: &Path) -> io::Result<Entrance> {
    Ok(Entrance { dir: fs::File::open(dir)?.into(), by_birth: false })
}

impl Drop for TaskCgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.dir);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base(controllers: &str) -> (tempfile::TempDir, CgroupBase) {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("cgroup.controllers"), controllers).unwrap();
        let base = CgroupBase::enabled(root.path().into(), 99);
        (root, base)
    }

    fn live(task: &str) -> LiveName {
        LiveName::new(&format!("n/p/1/{task}/1").parse().unwrap(), 7)
    }

    #[test]
    fn limits_are_written_in_the_kernels_units() {
        let (root, base) = base("cpuset cpu io memory pids\n");
        let resources = Resources { cpu_millis: Some(1500), memory_bytes: Some(64 << 20) };
        let task = base.create(&live("task"), &resources).unwrap();
        let read = |name: &str| fs::read_to_string(task.join(name)).unwrap();
        assert_eq!(read("memory.max"), "67108864");
        assert_eq!(read("cpu.max"), "150000 100000");
        assert_eq!(read("pids.max"), "99");
        assert_eq!(
            fs::read_to_string(root.path().join("cgroup.subtree_control")).unwrap(),
            "+memory +cpu +pids"
        );

        let tiny = base
            .create(&live("tiny"), &Resources { cpu_millis: Some(1), memory_bytes: None })
            .unwrap();
        assert_eq!(fs::read_to_string(tiny.join("cpu.max")).unwrap(), "1000 100000");
    }

    #[test]
    fn out_of_memory_is_read_from_the_events() {
        let (_root, base) = base("cpu memory\n");
        let task = TaskCgroup::new(base.create(&live("task"), &Resources::default()).unwrap());
        assert!(!task.ran_out_of_memory());
        let events = task.dir.join("memory.events");
        fs::write(&events, "low 0\noom 1\noom_kill 0\n").unwrap();
        assert!(!task.ran_out_of_memory());
        fs::write(&events, "low 0\noom 1\noom_kill 2\n").unwrap();
        assert!(task.ran_out_of_memory());
    }

    #[test]
    fn without_controllers_nothing_is_limited() {
        let (root, base) = base("hugetlb\n");
        assert!(!base.limits() && base.max_processes().is_none());
        let all = Resources { cpu_millis: Some(1), memory_bytes: Some(1) };
        let task = base.create(&live("task"), &all).unwrap();
        assert_eq!(fs::read_dir(task).unwrap().count(), 0);
        let named =
            CgroupBase::open(&Cgroup::Path(root.path().into()), root.path(), 1, false).unwrap_err();
        assert!(named.message.contains("must be a cgroup v2 directory"), "{named}");
        assert!(CgroupBase::open(&Cgroup::Off, root.path(), 1, false).unwrap().is_none());
    }

    #[test]
    fn the_mount_is_found_where_both_versions_are() {
        let mountinfo = "25 20 0:23 / /sys/fs/cgroup rw shared:9 - tmpfs tmpfs rw\n26 25 0:24 \
                         /inner /elsewhere rw - cgroup2 cgroup2 rw\n27 25 0:24 / \
                         /sys/fs/cgroup/unified rw shared:10 - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(mount_point(mountinfo), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(mount_point("25 20 0:23 / /sys/fs/cgroup rw - cgroup cgroup rw,memory"), None);
    }
}
