//! What the tests share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use gofer_conformance::scheduler::{SchedulerHarness, ShellWorkloads, Workloads, host_command};
use gofer_conformance::{Harness, eventually, within};
use gofer_core::scheduler::{ExecutionSpec, ExecutionState, LogCursor, LogStream, Scheduler};
use gofer_core::{ExecutionId, Timestamp};
use gofer_scheduler_nomad::{HostDriver, NomadConfig, NomadScheduler};
use tempfile::TempDir;
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::agent::Agent;
use crate::fake::FakeNomad;

/// Tests on the real agent hold it for reading; one that disturbs the others, for writing.
static QUIET: RwLock<()> = RwLock::const_new(());

/// A scheduler, the workloads it can run, and the fake agent it talks to, if it does.
pub(crate) struct Setup {
    pub(crate) scheduler: Option<NomadScheduler>,
    pub(crate) config: NomadConfig,
    pub(crate) workloads: ShellWorkloads,
    fake: Option<FakeNomad>,
    _quiet: Option<Quiet>,
    _dir: TempDir,
}

/// Held for as long as the agent must be so.
enum Quiet {
    Shared { _guard: RwLockReadGuard<'static, ()> },
    Alone { _guard: RwLockWriteGuard<'static, ()> },
}

impl Setup {
    /// On a fake agent of its own.
    pub(crate) async fn fake() -> Self {
        Self::on_fake(FakeNomad::start().await, |_| {}).await
    }

    /// On this fake agent.
    pub(crate) async fn on_fake(fake: FakeNomad, adjust: impl FnOnce(&mut NomadConfig)) -> Self {
        let config = NomadConfig { addresses: vec![fake.address()], ..NomadConfig::default() };
        let mut setup = Self::open(config, adjust).await;
        setup.fake = Some(fake);
        setup
    }

    /// On a real agent.
    pub(crate) async fn real(agent: &Agent, adjust: impl FnOnce(&mut NomadConfig)) -> Self {
        let guard = QUIET.read().await;
        let mut setup = Self::on_agent(agent, adjust).await;
        setup._quiet = Some(Quiet::Shared { _guard: guard });
        setup
    }

    /// On a real agent that no other test uses meanwhile.
    pub(crate) async fn real_alone(agent: &Agent, adjust: impl FnOnce(&mut NomadConfig)) -> Self {
        let guard = QUIET.write().await;
        let mut setup = Self::on_agent(agent, adjust).await;
        setup._quiet = Some(Quiet::Alone { _guard: guard });
        setup
    }

    async fn on_agent(agent: &Agent, adjust: impl FnOnce(&mut NomadConfig)) -> Self {
        let token = Some(agent.token.clone()).filter(|token| !token.is_empty()).map(Into::into);
        let config =
            NomadConfig { addresses: vec![agent.address.clone()], token, ..NomadConfig::default() };
        Self::open(config, adjust).await
    }

    async fn open(mut config: NomadConfig, adjust: impl FnOnce(&mut NomadConfig)) -> Self {
        config.job_prefix = prefix();
        config.host_driver = HostDriver::RawExec;
        adjust(&mut config);
        let dir = tempfile::tempdir().expect("a temporary directory");
        let scheduler = NomadScheduler::connect(config.clone()).await.expect("connect");
        let workloads = ShellWorkloads::new(dir.path());
        Self { scheduler: Some(scheduler), config, workloads, fake: None, _quiet: None, _dir: dir }
    }

    pub(crate) fn fake_agent(&self) -> &FakeNomad {
        self.fake.as_ref().expect("a setup on a fake agent")
    }

    pub(crate) fn scheduler(&self) -> &NomadScheduler {
        self.scheduler.as_ref().expect("an open scheduler")
    }

    /// Starts it and waits for the end.
    pub(crate) async fn run(&self, id: &ExecutionId, spec: &ExecutionSpec) -> ExecutionState {
        self.start(id, spec).await;
        self.ended(id).await
    }

    pub(crate) async fn start(&self, id: &ExecutionId, spec: &ExecutionSpec) {
        self.scheduler().start(id, spec).await.expect("start");
    }

    pub(crate) async fn state(&self, id: &ExecutionId) -> ExecutionState {
        self.scheduler().state(id).await.expect("state").state
    }

    /// Waits for the end.
    pub(crate) async fn ended(&self, id: &ExecutionId) -> ExecutionState {
        self.becomes(&format!("`{id}` ends"), id, ExecutionState::is_final).await
    }

    /// Waits until it runs.
    pub(crate) async fn running(&self, id: &ExecutionId) {
        self.becomes(&format!("`{id}` runs"), id, |state| *state == ExecutionState::Running).await;
    }

    /// Waits until its state is as wanted. The agent may be away meanwhile.
    pub(crate) async fn becomes(
        &self,
        what: &str,
        id: &ExecutionId,
        wanted: impl Fn(&ExecutionState) -> bool,
    ) -> ExecutionState {
        eventually(what, async || match self.scheduler().state(id).await {
            Ok(found) if wanted(&found.state) => Ok(found.state),
            Ok(found) => Err(format!("{found:?}")),
            Err(error) => Err(error.to_string()),
        })
        .await
    }

    /// What it wrote to stdout.
    pub(crate) async fn stdout(&self, id: &ExecutionId, follow: bool) -> Vec<u8> {
        let mut stream =
            self.scheduler().logs(id, LogCursor::default(), follow).await.expect("logs");
        let mut bytes = Vec::new();
        within("the log ends", async {
            while let Some(chunk) = stream.next().await {
                let chunk = chunk.expect("a chunk");
                if chunk.stream == LogStream::Stdout {
                    assert_eq!(chunk.offset, bytes.len() as u64, "a gap or a repeat");
                    bytes.extend_from_slice(&chunk.data);
                }
            }
        })
        .await;
        bytes
    }
}

#[async_trait]
impl Harness<dyn Scheduler> for Setup {
    fn backend(&self) -> Arc<dyn Scheduler> {
        Arc::new(self.scheduler().clone())
    }

    async fn restart(&mut self) {
        self.scheduler = None;
        self.scheduler =
            Some(NomadScheduler::connect(self.config.clone()).await.expect("connect again"));
    }
}

impl SchedulerHarness for Setup {
    fn workloads(&self) -> &dyn Workloads {
        &self.workloads
    }
}

/// A prefix that no other test has, also not an earlier run on the same agent.
pub(crate) fn prefix() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("gofer-t{:x}-{:x}", Timestamp::now().0 / 1_000, count)
}

/// `ns/pipe/1/<task>/1`.
pub(crate) fn id(task: &str) -> ExecutionId {
    format!("ns/pipe/1/{task}/1").parse().expect("a valid id")
}

/// A shell script; `$1` and so on are the arguments.
pub(crate) fn script<const N: usize>(text: &str, arguments: [&str; N]) -> ExecutionSpec {
    host_command(["/bin/sh", "-c", text, "sh"].into_iter().chain(arguments))
}

/// The same in an image.
pub(crate) fn image(name: &str, text: &str) -> ExecutionSpec {
    ExecutionSpec { image: Some(name.to_owned()), ..script(text, []) }
}

/// The same by a program that Gofer does not know for a shell.
pub(crate) fn by_busybox(mut spec: ExecutionSpec) -> ExecutionSpec {
    if spec.command[0] == "/bin/sh" {
        spec.command.splice(0..1, ["/bin/busybox", "sh"].map(str::to_owned));
    }
    spec
}

pub(crate) fn exited(code: i32) -> ExecutionState {
    ExecutionState::Exited { code, oom: false, signal: None }
}

pub(crate) const SHORT: Duration = Duration::from_millis(100);

/// A gate that any number of executions wait at without using the processor.
pub(crate) struct Gate {
    spec: ExecutionSpec,
    fifo: std::path::PathBuf,
    _dir: TempDir,
}

impl Gate {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let fifo = dir.path().join("gate");
        let made = std::process::Command::new("mkfifo").arg(&fifo).status().expect("mkfifo");
        assert!(made.success());
        // Opening for reading waits for whoever writes; the end of what is written is the end of
        // the execution.
        let spec = script("exec cat \"$1\"", [fifo.to_str().expect("text")]);
        Self { spec, fifo, _dir: dir }
    }

    /// Waits at the gate, and exits with 0.
    pub(crate) fn spec(&self) -> &ExecutionSpec {
        &self.spec
    }

    /// Lets all go on who wait now. Some must.
    pub(crate) fn open(&self) {
        drop(std::fs::OpenOptions::new().write(true).open(&self.fifo).expect("open the gate"));
    }
}
