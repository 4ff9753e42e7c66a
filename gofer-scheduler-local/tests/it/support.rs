//! What the tests share.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use gofer_core::conformance::Harness;
use gofer_core::conformance::scheduler::{SchedulerHarness, ShellWorkloads, Workloads};
use gofer_core::scheduler::Scheduler;
use gofer_scheduler_local::{Launcher, LocalScheduler, LocalSchedulerConfig};
use tempfile::TempDir;

/// Runs the supervisor code in the small binary this crate brings for that.
pub(crate) fn launcher() -> Launcher {
    Launcher { program: PathBuf::from(env!("CARGO_BIN_EXE_gofer-supervisor")), args: Vec::new() }
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
        Self { scheduler: Some(scheduler), config, workloads: ShellWorkloads::new(&shared), _dir: dir }
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
