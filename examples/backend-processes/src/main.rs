//! The supervisor of one execution: `processes-supervisor FOLDER task|service WORKING-DIR COMMAND…`.
//!
//! It is alone with its folder. It starts the command, keeps the time of a stop, kills the rest of the process
//! tree, and writes how the command ended. It needs no server, and holds the folder's lock as its standard input
//! for as long as it lives.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind as IoKind};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use backend_processes::{Folder, POLL, uptime_ms};
use gofer_core::scheduler::{ExecutionState, FailureKind};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, getpid, kill_process, set_child_subreaper, setsid, wait};

/// Between the end of a service and its next start.
const RESTART_PAUSE: Duration = Duration::from_millis(500);

// ANCHOR: supervise
fn main() -> io::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [folder, kind, working_dir, command @ ..] = &args[..] else { return Err(IoKind::InvalidInput.into()) };
    let folder = Folder(folder.into());
    let failed = |kind, message: io::Error| ExecutionState::Failed { kind, message: message.to_string() };
    let end = supervise(&folder, kind == "service", working_dir, command).unwrap_or_else(|error| match error.kind() {
        IoKind::NotFound | IoKind::PermissionDenied => failed(FailureKind::CommandNotFound, error),
        _ => failed(FailureKind::Setup, error),
    });
    // The end is the command's: cleaning up after it does not count.
    let ended_at = SystemTime::now();
    // Nothing of the tree may run or write on once the end is known.
    kill_the_tree()?;
    folder.end(end, ended_at)
}

fn supervise(folder: &Folder, service: bool, working_dir: &str, command: &[String]) -> io::Result<ExecutionState> {
    // Away from the server's terminal and signals, and the parent of all processes that the command leaves behind.
    setsid()?;
    set_child_subreaper(Some(getpid()))?;
    let no_directory = |error| io::Error::other(format!("working directory `{working_dir}`: {error}"));
    std::env::set_current_dir(working_dir).map_err(no_directory)?;
    loop {
        if folder.kill_at_ms().is_some() {
            return Ok(ExecutionState::Stopped);
        }
        let main = spawn(folder, command)?;
        fs::write(folder.0.join("running"), "")?;
        let Some(status) = until_its_end(folder, main)? else { return Ok(ExecutionState::Stopped) };
        if !service {
            let signal = status.terminating_signal();
            let code = status.exit_status().or(signal.map(|signal| 128 + signal)).unwrap_or(-1);
            return Ok(ExecutionState::Exited { code, oom: false, signal });
        }
        kill_the_tree()?;
        std::thread::sleep(RESTART_PAUSE);
    }
}
// ANCHOR_END: supervise

fn spawn(folder: &Folder, command: &[String]) -> io::Result<Pid> {
    let (program, arguments) = command.split_first().ok_or_else(|| io::Error::other("the command is empty"))?;
    let output = |name| OpenOptions::new().append(true).open(folder.0.join(name));
    let mut child = Command::new(program);
    child.args(arguments).process_group(0).stdin(Stdio::null()).stdout(output("stdout")?).stderr(output("stderr")?);
    let named = |error: io::Error| io::Error::new(error.kind(), format!("cannot execute `{program}`: {error}"));
    Ok(Pid::from_child(&child.spawn().map_err(named)?))
}

/// How the main process ended; `None` if it was asked to, or its time was over.
fn until_its_end(folder: &Folder, main: Pid) -> io::Result<Option<WaitStatus>> {
    let mut asked = false;
    loop {
        // Orphans of the tree are this process's children, too, and are reaped on the way.
        while let Some((pid, status)) = wait(WaitOptions::NOHANG)? {
            if pid == main {
                return Ok((!asked).then_some(status));
            }
        }
        match folder.kill_at_ms() {
            Some(at) if uptime_ms() >= at => return Ok(None),
            Some(_) if !asked => asked = kill_process(main, Signal::TERM).is_ok(),
            _ => std::thread::sleep(POLL),
        }
    }
}

// ANCHOR: tree
/// Kills every descendant until none is left. A process whose parent dies becomes a child of this one, the
/// subreaper.
fn kill_the_tree() -> io::Result<()> {
    loop {
        let children = fs::read_to_string("/proc/thread-self/children")?;
        for pid in children.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)) {
            // It may have ended already.
            let _ = kill_process(pid, Signal::KILL);
        }
        match wait(WaitOptions::empty()) {
            Err(rustix::io::Errno::CHILD) => return Ok(()),
            reaped => drop(reaped?),
        }
    }
}
// ANCHOR_END: tree
