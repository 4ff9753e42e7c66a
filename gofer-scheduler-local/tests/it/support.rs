//! What the tests share.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use futures::{Stream, StreamExt};
use gofer_conformance::scheduler::{SchedulerHarness, ShellWorkloads, Workloads, host_command};
use gofer_conformance::{Harness, eventually, within};
use gofer_core::scheduler::{
    ExecutionSpec, ExecutionState, LogChunk, LogCursor, LogStream, Scheduler, WatchEvent,
};
use gofer_core::{BackendError, ExecutionId};
use gofer_scheduler_local::{Launcher, LocalScheduler, LocalSchedulerConfig, UsersConfig};
use rustix::process::Signal;
use tempfile::TempDir;

/// Runs the supervisor code in the small binary this crate brings for that. Cargo names it at run
/// time; who runs the test binary by hand finds it beside the directory that is in. (At compile
/// time a caching compiler wrapper loses the name.)
pub(crate) fn launcher() -> Launcher {
    let beside = || {
        let tests = std::env::current_exe().expect("this test binary");
        tests.ancestors().nth(2).expect("the profile's directory").join("gofer-supervisor")
    };
    let program =
        std::env::var_os("CARGO_BIN_EXE_gofer-supervisor").map_or_else(beside, PathBuf::from);
    Launcher { program, args: Vec::new() }
}

/// Settings for a directory.
pub(crate) fn config(dir: &Path) -> LocalSchedulerConfig {
    LocalSchedulerConfig { dir: dir.to_owned(), ..LocalSchedulerConfig::default() }
}

/// A scheduler in a directory of its own.
pub(crate) struct Local {
    pub(crate) scheduler: Option<LocalScheduler>,
    pub(crate) config: LocalSchedulerConfig,
    workloads: ShellWorkloads,
    _dir: TempDir,
}

impl Local {
    pub(crate) async fn open() -> Self {
        Self::open_with(|_| {}).await
    }

    pub(crate) async fn open_with(adjust: impl FnOnce(&mut LocalSchedulerConfig)) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut config = config(&dir.path().join("state"));
        adjust(&mut config);
        let scheduler = LocalScheduler::connect(config.clone(), launcher()).await.expect("connect");
        let shared = dir.path().join("workloads");
        std::fs::create_dir(&shared).expect("a directory for the workloads");
        Self {
            scheduler: Some(scheduler),
            config,
            workloads: ShellWorkloads::new(&shared),
            _dir: dir,
        }
    }

    /// With a user per namespace, each of whom gets to what is its own.
    pub(crate) async fn open_for_users() -> Self {
        let mut local = Self::open_with(|config| {
            let above = config.dir.parent().expect("a directory above");
            std::fs::set_permissions(above, std::fs::Permissions::from_mode(0o711))
                .expect("let others pass");
            let range = "3000000000-3000000099".to_owned().try_into().expect("a range");
            config.users = Some(UsersConfig { range: Some(range), ..UsersConfig::default() });
        })
        .await;
        let shared = local._dir.path().join("workloads");
        std::fs::set_permissions(&shared, std::fs::Permissions::from_mode(0o777))
            .expect("let others write");
        local.workloads = ShellWorkloads::new(&shared).with_probes();
        local
    }

    pub(crate) fn scheduler(&self) -> &LocalScheduler {
        self.scheduler.as_ref().expect("an open scheduler")
    }
}

#[async_trait]
impl Harness<dyn Scheduler> for Local {
    fn backend(&self) -> Arc<dyn Scheduler> {
        Arc::new(self.scheduler().clone())
    }

    async fn restart(&mut self) {
        self.scheduler = None;
        let reopened = LocalScheduler::connect(self.config.clone(), launcher()).await;
        self.scheduler = Some(reopened.expect("connect again"));
    }
}

impl SchedulerHarness for Local {
    fn workloads(&self) -> &dyn Workloads {
        &self.workloads
    }
}

/// `ns/pipe/1/<task>/1`.
pub(crate) fn id(task: &str) -> ExecutionId {
    format!("ns/pipe/1/{task}/1").parse().expect("a valid id")
}

/// A shell script; `$1` and so on are the arguments.
pub(crate) fn script<const N: usize>(text: &str, arguments: [&str; N]) -> ExecutionSpec {
    host_command(["/bin/sh", "-c", text, "sh"].into_iter().chain(arguments))
}

pub(crate) fn exited(code: i32) -> ExecutionState {
    ExecutionState::Exited { code, oom: false, signal: None }
}

pub(crate) async fn state(scheduler: &LocalScheduler, id: &ExecutionId) -> ExecutionState {
    scheduler.state(id).await.expect("state").state
}

/// Waits for the end.
pub(crate) async fn ended(scheduler: &LocalScheduler, id: &ExecutionId) -> ExecutionState {
    eventually(&format!("`{id}` ends"), async || {
        let now = state(scheduler, id).await;
        if now.is_final() { Ok(now) } else { Err(format!("{now:?}")) }
    })
    .await
}

/// Starts it and waits for the end.
pub(crate) async fn run(
    scheduler: &LocalScheduler,
    id: &ExecutionId,
    spec: &ExecutionSpec,
) -> ExecutionState {
    scheduler.start(id, spec).await.expect("start");
    ended(scheduler, id).await
}

/// Waits for the next event that is the end of an execution.
pub(crate) async fn next_end<S>(events: &mut S) -> WatchEvent
where
    S: Stream<Item = Result<WatchEvent, BackendError>> + Unpin,
{
    within("an end on the watch stream", async {
        loop {
            let event = events.next().await.expect("the stream goes on").expect("an event");
            if event.state.is_final() {
                return event;
            }
        }
    })
    .await
}

/// What it wrote to stdout and stderr, as text.
pub(crate) async fn output(
    scheduler: &LocalScheduler,
    id: &ExecutionId,
    follow: bool,
) -> (String, String) {
    let mut stream = scheduler.logs(id, LogCursor::default(), follow).await.expect("logs");
    let mut texts = (Vec::new(), Vec::new());
    within("the log ends", async {
        while let Some(chunk) = stream.next().await {
            let LogChunk { stream, data, .. } = chunk.expect("a chunk");
            match stream {
                LogStream::Stdout => texts.0.extend_from_slice(&data),
                LogStream::Stderr => texts.1.extend_from_slice(&data),
            }
        }
    })
    .await;
    (String::from_utf8(texts.0).expect("text"), String::from_utf8(texts.1).expect("text"))
}

/// Waits until it has written this line to stdout.
pub(crate) async fn has_written(scheduler: &LocalScheduler, id: &ExecutionId, line: &str) {
    eventually(&format!("`{id}` writes `{line}`"), async || {
        let (out, err) = output(scheduler, id, false).await;
        if out.lines().any(|written| written == line) {
            Ok(())
        } else {
            Err(format!("{out:?} {err:?}"))
        }
    })
    .await;
}

/// The live entries' files.
pub(crate) fn live_files(config: &LocalSchedulerConfig) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(config.dir.join("live")).expect("the live entries");
    entries.map(|entry| entry.expect("an entry").path()).collect()
}

/// The process ids of the one live execution's supervisor and task.
pub(crate) fn live_pids(config: &LocalSchedulerConfig) -> (i32, i32) {
    let files = live_files(config);
    assert_eq!(files.len(), 1, "{files:?}");
    let text = std::fs::read_to_string(&files[0]).expect("the live entry");
    let pid = |tag: &str| {
        let line =
            text.lines().find_map(|line| line.strip_prefix(tag)).expect("a line with the tag");
        line.split(' ').next().expect("a word").parse().expect("a process id")
    };
    (pid("S "), pid("T "))
}

/// Ends a process the hard way.
pub(crate) fn kill_hard(pid: i32) {
    signal(pid, Signal::KILL);
}

pub(crate) fn signal(pid: i32, signal: Signal) {
    let pid = rustix::process::Pid::from_raw(pid).expect("a process id");
    rustix::process::kill_process(pid, signal).expect("signal");
}

/// Waits until there is no such process, or only its zombie.
pub(crate) async fn is_gone(pid: i32) {
    eventually(&format!("process {pid} is gone"), async || {
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return Ok(()) };
        let status = stat.rsplit(") ").next().unwrap_or_default().chars().next();
        if matches!(status, Some('Z' | 'X')) { Ok(()) } else { Err(stat) }
    })
    .await;
}

/// The process id in the line of `check`.
pub(crate) async fn zygote_pid(scheduler: &LocalScheduler) -> i32 {
    let line = scheduler.check().await.expect("check");
    let rest = line.split("supervisor process ").nth(1).expect("the process in the line");
    rest.split(',').next().expect("a number").parse().expect("a number")
}
