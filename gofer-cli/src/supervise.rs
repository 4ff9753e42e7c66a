//! `gofer supervise -- PROGRAM …`: runs one task on a Nomad node, and tells Gofer of its end at
//! once.
//!
//! To Nomad it looks as the program itself would: the same output, exit code and signal. Whatever
//! goes wrong between it and Gofer changes nothing of that, and is not written to the task's log;
//! Nomad's own report comes a second later.
//!
//! Two things it does besides. A program that had begun in this allocation before is not started
//! again: Nomad's client does that when it does not find its process after a restart. And it holds
//! the task's deadline, if it is given one, where no server need be there to do so.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use gofer_proto::v1::ReportEndRequest;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tonic::Code;

use crate::client::{self, Client, NOMAD_TOKEN, Target};
use crate::errors::Failure;

/// The command's name; not one of those that people see.
pub(crate) const COMMAND: &str = "supervise";
/// What a shell exits with when there is no such program.
const NO_PROGRAM: u8 = 127;
/// Wrong use.
const WRONG_USE: u8 = 2;
/// How long the end of a task may be held up by its report, all in all.
const REPORT_TIMEOUT: Duration = Duration::from_millis(1_500);
/// A report is tried once more when the connection broke.
const REPORT_TRIES: usize = 2;
/// Where exit codes begin that stand for a signal.
const SIGNAL_BASE: i32 = 128;
/// Searched after `PATH`: Nomad searches its own, which tasks do not see.
const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What is left in the allocation's directory, for what an exit code cannot say.
const EXIT_FILE: &str = "gofer-exit.json";
/// Is there once the program was started in this allocation; the shell that stands in for a
/// supervisor makes the same.
const BEGUN_FILE: &str = ".gofer-begun";
/// What such a shell, too, ends with when the program had begun before.
const BEGUN_BEFORE: u8 = 118;
/// The task's deadline, in milliseconds after its start. No argument: an older supervisor has to
/// understand the job, too.
const TIMEOUT: &str = "GOFER_SUPERVISE_TIMEOUT_MS";
/// How long a program has after its deadline.
const GRACE: Duration = Duration::from_secs(10);
/// Signals that are for the task. Others end, or stop, both.
const FORWARDED: [(SignalKind, Signal); 6] = [
    (SignalKind::terminate(), Signal::TERM),
    (SignalKind::interrupt(), Signal::INT),
    (SignalKind::hangup(), Signal::HUP),
    (SignalKind::quit(), Signal::QUIT),
    (SignalKind::user_defined1(), Signal::USR1),
    (SignalKind::user_defined2(), Signal::USR2),
];

/// The whole process.
pub(crate) fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(2);
    let (Some(dashes), Some(program)) = (words.next(), words.next()) else {
        return ExitCode::from(WRONG_USE);
    };

    if dashes != "--" {
        return ExitCode::from(WRONG_USE);
    }

    let arguments: Vec<OsString> = words.collect();
    // One thread: the program starts about as soon as without a supervisor.
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        // Better the program without a supervisor than none.
        return become_program(&program, &arguments);
    };

    if has_begun() {
        leave(&json!({"again": true}));
        return ExitCode::from(BEGUN_BEFORE);
    }

    let ended = runtime.block_on(supervise(&program, &arguments));
    runtime.shutdown_background();
    match ended {
        Ok(status) => end_as(status),
        Err(why) => {
            leave(&json!({"failed": why}));
            ExitCode::from(NO_PROGRAM)
        }
    }
}

/// Whether the program was started in this allocation before. If not, that it is now is on the disk
/// when this returns, so that a power cut does not undo it. Where no file can be made, nothing is
/// known.
fn has_begun() -> bool {
    let Some(dir) = std::env::var_os("NOMAD_ALLOC_DIR").map(PathBuf::from) else { return false };
    match OpenOptions::new().write(true).create_new(true).open(dir.join(BEGUN_FILE)) {
        Ok(file) => {
            let _ = file.sync_all();
            let _ = File::open(&dir).and_then(|dir| dir.sync_all());
            false
        }
        Err(error) => error.kind() == ErrorKind::AlreadyExists,
    }
}

/// Runs the program to its end, reports that, and returns it; the error says why the program could
/// not be started.
async fn supervise(program: &OsStr, arguments: &[OsString]) -> Result<ExitStatus, String> {
    // Before the program: what comes while it starts is for it, too.
    let mut signals = forwarded();
    let cannot =
        |error: std::io::Error| format!("`{}` cannot be started: {error}", program.display());
    let found = look_up(program)
        .ok_or_else(|| format!("binary `{}` could not be found", program.display()))?;
    let limit = timeout();
    let mut child =
        Command::new(found).args(arguments).env_remove(TIMEOUT).spawn().map_err(cannot)?;
    let mut deadline = Deadline::new(limit);

    // Meanwhile, so that a report is one round trip.
    let connecting = tokio::spawn(connect());
    let mut asked_to_end = false;
    let status = loop {
        tokio::select! {
            biased;
            status = child.wait() => break status.map_err(|error| format!("its end is not known: {error}"))?,
            Some(number) = signals.recv() => {
                asked_to_end |= matches!(number, Signal::TERM | Signal::INT | Signal::HUP | Signal::QUIT);
                forward(&child, number);
            }
            number = deadline.passes() => signal_all(&child, number),
        }
    };

    let times = deadline.times();
    leave(&times.with(json!({"exit_code": status.code(), "signal": status.signal()})));

    // What was asked to end is over when Nomad says so.
    if let Some(end) = told(status).filter(|_| !asked_to_end) {
        let end = times.of(end);
        let _ = tokio::time::timeout(REPORT_TIMEOUT, report(connecting, end)).await;
    }

    Ok(status)
}

/// How long the task may run, if it may not for ever.
fn timeout() -> Option<Duration> {
    std::env::var(TIMEOUT).ok()?.parse().ok().filter(|limit| *limit > 0).map(Duration::from_millis)
}

/// When a program is asked to end, and when it is killed.
struct Deadline {
    begun: Instant,
    /// The same by the clock on the wall.
    begun_at: SystemTime,
    limit: Option<Duration>,
    /// Signals that were sent.
    sent: u32,
}

impl Deadline {
    fn new(limit: Option<Duration>) -> Self {
        Self { begun: Instant::now(), begun_at: SystemTime::now(), limit, sent: 0 }
    }

    /// Waits until a signal is due; for ever, when there is none to come.
    async fn passes(&mut self) -> Signal {
        let (after, number) = match (self.limit, self.sent) {
            (Some(limit), 0) => (limit, Signal::TERM),
            (Some(limit), 1) => (limit + GRACE, Signal::KILL),
            _ => return std::future::pending().await,
        };
        tokio::time::sleep_until((self.begun + after).into()).await;
        self.sent += 1;
        number
    }

    /// How long the program ran. One that ended by itself did so in time, however late this process
    /// was to see it.
    fn ran(&self) -> Duration {
        let ran = self.begun.elapsed();
        self.limit.filter(|_| self.sent == 0).map_or(ran, |limit| ran.min(limit))
    }

    /// The times of a program that has just ended.
    fn times(&self) -> Times {
        let micros = |time: Duration| {
            Duration::from_micros(u64::try_from(time.as_micros()).unwrap_or(u64::MAX))
        };
        let started = self.begun_at.duration_since(UNIX_EPOCH).unwrap_or_default();
        Times {
            started: micros(started),
            ended: micros(started + self.begun.elapsed()),
            ran: micros(self.ran()),
        }
    }
}

/// When a program began and ended, since 1970, and how long it ran. All in whole microseconds, so
/// that the report and the file tell the same.
struct Times {
    started: Duration,
    ended: Duration,
    ran: Duration,
}

impl Times {
    /// The file's content, with the times.
    fn with(&self, mut content: serde_json::Value) -> serde_json::Value {
        let times = [("started_us", self.started), ("ended_us", self.ended), ("ran_us", self.ran)];
        for (name, time) in times {
            content[name] = u64::try_from(time.as_micros()).unwrap_or(u64::MAX).into();
        }
        content
    }

    /// The report, with the times.
    fn of(&self, end: ReportEndRequest) -> ReportEndRequest {
        ReportEndRequest {
            started_at: Some((UNIX_EPOCH + self.started).into()),
            ended_at: Some((UNIX_EPOCH + self.ended).into()),
            ran: self.ran.try_into().ok(),
            ..end
        }
    }
}

/// The signals that are for the task, as they come.
fn forwarded() -> mpsc::Receiver<Signal> {
    let (sender, receiver) = mpsc::channel(FORWARDED.len());
    for (kind, number) in FORWARDED {
        // One that cannot be heard does here what it does to any program.
        let Ok(mut heard) = signal(kind) else { continue };
        let sender = sender.clone();
        tokio::spawn(async move {
            while heard.recv().await.is_some() && sender.send(number).await.is_ok() {}
        });
    }
    receiver
}

fn forward(child: &Child, number: Signal) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // One that has just ended needs no signal.
        let _ = kill_process(pid, number);
    }
}

/// Signals the program and what it has started: all of this process's group but this one, if Nomad
/// made the group for it.
fn signal_all(child: &Child, number: Signal) {
    let own = rustix::process::getpid();
    if rustix::process::getpgrp() != own {
        return forward(child, number);
    }
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid =
            entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
        let is_in_group = std::fs::read_to_string(entry.path().join("stat"))
            .is_ok_and(|stat| group_in(&stat) == Some(own));
        if let Some(pid) = pid.filter(|pid| *pid != own && is_in_group) {
            // One that has just ended needs no signal.
            let _ = kill_process(pid, number);
        }
    }
}

/// The process group that a process's `stat` tells, after the name, which may hold anything, its
/// state and its parent. The kernel's own processes have none.
fn group_in(stat: &str) -> Option<Pid> {
    let (_, fields) = stat.rsplit_once(')')?;
    Pid::from_raw(fields.split_whitespace().nth(2)?.parse().ok()?)
}

/// What is told of an end. Who was killed may have had no memory left, which Nomad knows and a
/// supervisor does not.
fn told(status: ExitStatus) -> Option<ReportEndRequest> {
    let kill = Signal::KILL.as_raw();
    match (status.code(), status.signal()) {
        (Some(code), _) if code != SIGNAL_BASE + kill => {
            Some(ReportEndRequest { exit_code: code, ..ReportEndRequest::default() })
        }
        (None, Some(signal)) if signal != kill => {
            Some(ReportEndRequest { signal, ..ReportEndRequest::default() })
        }
        _ => None,
    }
}

async fn connect() -> Result<Client, Failure> {
    let (Ok(addr), Ok(token)) = (std::env::var("GOFER_API_ADDR"), std::env::var(NOMAD_TOKEN))
    else {
        return Err(Failure::usage("nobody is to be told"));
    };
    let insecure = std::env::var("GOFER_INSECURE")
        .is_ok_and(|value| !matches!(value.as_str(), "" | "0" | "false"));
    let file = |name| std::env::var_os(name).map(PathBuf::from);
    let client_files = file("GOFER_CLIENT_CERT_FILE").zip(file("GOFER_CLIENT_KEY_FILE"));
    let (ca_file, token) = (file("GOFER_CA_FILE"), Some(token.into()));
    Client::connect(&Target { addr, ca_file, client_files, insecure, token, token_source: None })
        .await
}

async fn report(connecting: JoinHandle<Result<Client, Failure>>, end: ReportEndRequest) {
    let mut connected = connecting.await.ok().and_then(Result::ok);
    for _ in 0..REPORT_TRIES {
        if connected.is_none() {
            connected = connect().await.ok();
        }
        let Some(client) = connected.take() else { continue };
        match client.executions().report_end(client::unary(end)).await {
            Err(status)
                if matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled) => {
            }
            _ => return,
        }
    }
}

/// Where Nomad would find the program: in the task's directories, as it is, or on the path.
fn look_up(program: &OsStr) -> Option<PathBuf> {
    let local = std::env::var_os("NOMAD_TASK_DIR").map(PathBuf::from);
    let task = local.iter().flat_map(|local| [Some(local.as_path()), local.parent()]).flatten();
    let beside = task.map(|dir| dir.join(program)).find(|path| path.is_file());
    if beside.is_some() || program.as_encoded_bytes().contains(&b'/') {
        return beside.or_else(|| Some(PathBuf::from(program)).filter(|path| path.exists()));
    }
    let paths = [std::env::var_os("PATH").unwrap_or_default(), SYSTEM_PATH.into()];
    let mut dirs = paths.iter().flat_map(std::env::split_paths);
    dirs.find_map(|dir| Some(dir.join(program)).filter(|path| is_program(path)))
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Leaves a file beside the log, whole or not at all. Without one, the exit code is all that is
/// known.
fn leave(content: &serde_json::Value) {
    let Some(dir) = std::env::var_os("NOMAD_ALLOC_DIR").map(PathBuf::from) else { return };
    let fresh = dir.join(format!("{EXIT_FILE}.new"));
    if std::fs::write(&fresh, content.to_string()).is_ok() {
        let _ = std::fs::rename(&fresh, dir.join(EXIT_FILE));
    }
}

/// Ends as the program did.
fn end_as(status: ExitStatus) -> ExitCode {
    let Some(signal) = status.signal() else {
        return ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1));
    };
    // A new program has no handlers of this one's; without a core of its own, which would be
    // nobody's.
    let dies = format!("ulimit -c 0; kill -{signal} $$");
    let _ = std::process::Command::new("/bin/sh").args(["-c", &dies]).exec();
    ExitCode::from(u8::try_from(SIGNAL_BASE + signal).unwrap_or(1))
}

fn become_program(program: &OsStr, arguments: &[OsString]) -> ExitCode {
    let found = look_up(program).unwrap_or_else(|| program.into());
    let why = std::process::Command::new(found).args(arguments).exec();
    leave(&json!({"failed": format!("`{}` cannot be started: {why}", program.display())}));
    ExitCode::from(NO_PROGRAM)
}
