//! What the server does to the directory. All of it blocks, briefly.

use std::collections::HashSet;
use std::fs;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use gofer_core::ExecutionId;
use gofer_core::scheduler::{ExecutionState, ExecutionTimes, Observation};
use rustix::fs::{FlockOperation, flock};
use rustix::process::{PidfdFlags, Signal, geteuid, kill_process, pidfd_open, pidfd_send_signal};

use crate::cgroup::CgroupBase;
use crate::layout::{ExecutionDir, Layout, LiveName};
use crate::live::{self, LiveRecord, Probe, StartedTask};
use crate::{process, record};

/// Nobody else's.
const PRIVATE_MODE: u32 = 0o700;
/// Others may pass, and see nothing.
pub(crate) const PASSABLE_MODE: u32 = 0o711;

/// Makes the directories, and gives those that exist the modes they need: with `passable`, other
/// users reach theirs.
pub(crate) fn prepare(layout: &Layout, passable: bool) -> io::Result<()> {
    let outer = if passable { PASSABLE_MODE } else { PRIVATE_MODE };
    let dirs = [
        (layout.root().to_path_buf(), outer),
        (layout.live_dir(), PRIVATE_MODE),
        (layout.executions(), outer),
    ];
    for (dir, mode) in dirs {
        fs::DirBuilder::new().recursive(true).mode(PRIVATE_MODE).create(&dir)?;
        set_mode(&dir, mode)?;
    }
    Ok(())
}

/// Sets the mode, unless it is that. Whatever the umask.
pub(crate) fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    if fs::symlink_metadata(path)?.permissions().mode() & 0o7777 == mode {
        return Ok(());
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// Takes the lock that says a server uses the directory; `Err` with who has it.
pub(crate) fn lock_server(layout: &Layout) -> io::Result<Result<OwnedFd, String>> {
    let path = layout.server_lock();
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)?;

    // One of an earlier version, or of a restored backup.
    set_mode(&path, 0o600)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Err(rustix::io::Errno::WOULDBLOCK) => {
            return Ok(Err(fs::read_to_string(&path)?.trim().to_owned()));
        }
        other => other?,
    }

    fs::write(&path, format!("{}\n", std::process::id()))?;
    Ok(Ok(file.into()))
}

/// Whether the machine has booted since a server last came up here. Call [`note_boot`] once that
/// was acted upon.
pub(crate) fn has_rebooted(layout: &Layout) -> io::Result<bool> {
    match fs::read_to_string(layout.boot()) {
        Ok(text) => Ok(text != boot_id()?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Notes the current boot, durably.
pub(crate) fn note_boot(layout: &Layout) -> io::Result<()> {
    replace_durably(&layout.boot(), &boot_id()?)
}

/// The current boot as a number; never 0, which is the number of what never forgets.
pub(crate) fn boot() -> io::Result<u64> {
    let digits: String = boot_id()?.chars().filter(char::is_ascii_hexdigit).take(16).collect();
    let number = u64::from_str_radix(&digits, 16)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    Ok(number.max(1))
}

fn boot_id() -> io::Result<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
}

/// Makes the directory of an execution, and in it that of its process.
pub(crate) fn make_execution_dir(dir: &ExecutionDir) -> io::Result<()> {
    make_dir(dir.path()).and_then(|()| make_dir(&dir.work()))
}

/// Makes a directory in one that exists, unless it is there.
pub(crate) fn make_dir(path: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(PRIVATE_MODE).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// Records the end of an execution that never got a supervisor. Returns the state that counts,
/// which is an older one if there is one.
pub(crate) fn record_end(
    layout: &Layout,
    id: &ExecutionId,
    end: Observation,
) -> io::Result<Observation> {
    let dir = layout.execution(id);
    if let Some(known) = record::read(&dir)? {
        return Ok(known);
    }
    make_dir(dir.path())?;
    record::write(&dir, &end)?;
    Ok(end)
}

/// What is certain about a launch.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Settled {
    /// It has ended.
    Ended(Observation),
    /// Its supervisor lives, and what it says of its times.
    Alive(ExecutionTimes),
    /// Nothing was started, and nothing can be any more.
    Void,
}

/// How to settle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Settle {
    /// Look once.
    Now,
    /// The supervisor's entry was closed: wait the moment until its lock is gone.
    AfterClose,
    /// The machine has booted since: nothing lives, and what was not written to the disk may have
    /// happened.
    AfterReboot,
}

/// Finds out what became of a launch, and makes that final: files an end away, declares the launch
/// void, or records the execution as lost.
pub(crate) fn settle(
    layout: &Layout,
    cgroups: Option<&CgroupBase>,
    id: &ExecutionId,
    live: &LiveName,
    how: Settle,
) -> io::Result<Settled> {
    let dir = layout.execution(id);
    if let Some(state) = record::read(&dir)? {
        forget(layout, live);
        return Ok(Settled::Ended(state));
    }

    let path = layout.live(live);
    let probe =
        if how == Settle::AfterClose { live::probe_ended(&path)? } else { live::probe(&path)? };
    let (record, lock) = match probe {
        Probe::Held(Some(LiveRecord { end: Some(state), .. }))
        | Probe::Free(Some(LiveRecord { end: Some(state), .. }), _) => {
            file_away(layout, id, live)?;
            return Ok(Settled::Ended(state));
        }
        Probe::Held(record) => {
            return Ok(Settled::Alive(
                record.map_or_else(ExecutionTimes::default, |record| record.times()),
            ));
        }
        Probe::Free(record, lock) => (record, Some(lock)),
        Probe::Gone => (None, None),
    };

    if lock.is_none()
        && let Some(state) = record::read(&dir)?
    {
        // Filed away between our two looks.
        return Ok(Settled::Ended(state));
    }

    if record.is_none() && how != Settle::AfterReboot {
        forget(layout, live);
        if dir.path().exists() {
            delete_tree(dir.path());
        }
        return Ok(Settled::Void);
    }

    let times = record.as_ref().map_or_else(ExecutionTimes::default, LiveRecord::times);
    if how != Settle::AfterReboot {
        if let Some(cgroups) = cgroups {
            cgroups.clear(live);
        }
        if let Some(task) = record.and_then(|record| record.task) {
            kill_session(task);
        }
    }

    // A stop that was asked for has been reached; otherwise nobody can say how it ended.
    let state = if dir.stop().exists() { ExecutionState::Stopped } else { ExecutionState::Lost };
    let end = record_end(layout, id, Observation { state, times })?;
    forget(layout, live);

    Ok(Settled::Ended(end))
}

/// Moves the entry of an execution that has ended to its place as `exit`. Repeating it has no
/// effect.
pub(crate) fn file_away(layout: &Layout, id: &ExecutionId, live: &LiveName) -> io::Result<()> {
    let exit = layout.execution(id).exit();
    match fs::rename(layout.live(live), &exit) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && exit.exists() => Ok(()),
        other => other,
    }
}

/// Removes the live entry of a launch that is void, or whose end is recorded elsewhere.
pub(crate) fn forget(layout: &Layout, live: &LiveName) {
    if let Err(error) = remove_file(&layout.live(live)) {
        // The next server finds it and the record, and tries again.
        tracing::warn!(%error, "a live entry could not be removed");
    }
}

/// Kills what a dead supervisor's task left in its session. What detached itself into one of its
/// own is in the execution's cgroup, and falls to the zygote.
fn kill_session(task: StartedTask) {
    // Ticks are cut to hundredths of a second on both sides.
    let plausible = task.earliest.saturating_sub(1)..=task.latest + 1;
    let leader = process::stat(task.pid.as_raw_nonzero().get());
    if leader.is_some_and(|leader| !plausible.contains(&leader.started)) {
        return;
    }

    let mut killed = HashSet::new();
    loop {
        let before = killed.len();
        for member in process::all().filter(|stat| stat.session == Some(task.pid)) {
            if member.started >= *plausible.start() && killed.insert(member.pid) {
                let _ = kill_process(member.pid, Signal::KILL);
            }
        }

        if killed.len() == before {
            return;
        }
    }
}

/// Writes the stop request, where it outlives the server, and tells the supervisor. It reads the
/// file by itself if it has only just begun.
pub(crate) fn stop(
    layout: &Layout,
    id: &ExecutionId,
    live: &LiveName,
    grace: Duration,
) -> io::Result<()> {
    let dir = layout.execution(id);
    let wanted = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
    let asked =
        fs::read_to_string(dir.stop()).ok().and_then(|text| text.trim().parse::<u64>().ok());
    if asked.is_none_or(|asked| wanted < asked) {
        match replace(&dir.stop(), &format!("{wanted}\n")) {
            // Removed: it had ended.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        }
    }
    signal_supervisor(&layout.live(live))
}

/// Repeats a stop request that an earlier server may have written without telling.
pub(crate) fn repeat_stop(layout: &Layout, id: &ExecutionId, live: &LiveName) -> io::Result<()> {
    if layout.execution(id).stop().exists() {
        signal_supervisor(&layout.live(live))
    } else {
        Ok(())
    }
}

fn signal_supervisor(live: &Path) -> io::Result<()> {
    let Probe::Held(Some(record)) = live::probe(live)? else { return Ok(()) };
    let Ok(pidfd) = pidfd_open(record.supervisor, PidfdFlags::empty()) else { return Ok(()) };
    // Its lock is still held, so the number was still its own when the descriptor was made.
    if matches!(live::probe(live)?, Probe::Held(_)) {
        let _ = pidfd_send_signal(&pidfd, Signal::USR1);
    }
    Ok(())
}

/// Removes a file, if it is there.
pub(crate) fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Deletes what an earlier server left of removed executions, and its spare directories.
pub(crate) fn sweep(layout: &Layout, alive: &HashSet<ExecutionDir>) {
    for entry in fs::read_dir(layout.executions()).into_iter().flatten().flatten() {
        let dir = ExecutionDir::at(entry.path());
        if !alive.contains(&dir) && !dir.exit().exists() {
            delete_tree(dir.path());
        }
    }
}

pub(crate) fn delete_tree(path: &Path) {
    let result = fs::remove_dir_all(path).or_else(|_| {
        // Tasks leave directories without write permission (Go's module cache, for one). Root needs
        // none, and must not follow what another user may put in its way.
        if !geteuid().is_root() {
            make_writable(path);
        }
        fs::remove_dir_all(path)
    });
    if let Err(error) = result {
        tracing::warn!(%error, path = %path.display(), "a removed execution could not be deleted; \
                                                        the next start tries again");
    }
}

fn make_writable(path: &Path) {
    if fs::set_permissions(path, fs::Permissions::from_mode(0o700)).is_ok() {
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                make_writable(&entry.path());
            }
        }
    }
}

/// The live entries.
pub(crate) fn live_entries(layout: &Layout) -> io::Result<Vec<(ExecutionId, LiveName)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(layout.live_dir())? {
        found.extend(entry?.file_name().to_str().and_then(LiveName::parse));
    }
    Ok(found)
}

/// Whether the entry's supervisor lives.
pub(crate) fn is_held(layout: &Layout, live: &LiveName) -> io::Result<bool> {
    Ok(matches!(live::probe(&layout.live(live))?, Probe::Held(_)))
}

/// Proves that the directory can be written.
pub(crate) fn probe_write(layout: &Layout) -> io::Result<()> {
    let path = layout.root().join("check.tmp");
    write_private(&path, "gofer\n")?;
    fs::remove_file(path)
}

/// A number that no other call returns, in this server or an earlier one.
pub(crate) fn nonce() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = u64::try_from(since_epoch.as_nanos()).unwrap_or(0);
    let next = |last: u64| Some(now.max(last + 1));
    match LAST.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next) {
        Ok(last) | Err(last) => now.max(last + 1),
    }
}

/// Replaces a small file in one step.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    write_beside(path, text).and_then(|(temporary, _)| fs::rename(temporary, path))
}

/// The same, so that a power failure leaves the old text or the new one.
pub(crate) fn replace_durably(path: &Path, text: &str) -> io::Result<()> {
    let (temporary, file) = write_beside(path, text)?;
    file.sync_all()?;
    fs::rename(temporary, path)?;
    path.parent().map_or(Ok(()), |dir| fs::File::open(dir)?.sync_all())
}

/// Writes what is to be at a path under a name of its own, so that two callers do not write into
/// one file.
fn write_beside(path: &Path, text: &str) -> io::Result<(PathBuf, fs::File)> {
    let temporary = path.with_extension(format!("{:x}.tmp", nonce()));
    let file = write_private(&temporary, text)?;
    Ok((temporary, file))
}

/// Writes a file that only its owner may read.
pub(crate) fn write_private(path: &Path, text: &str) -> io::Result<fs::File> {
    let mut file =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    Ok(file)
}
