//! The suite. This file is what every scheduler of your own needs.

// ANCHOR: harness
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use backend_processes::{ProcessScheduler, ProcessesConfig};
use gofer_conformance::Harness;
use gofer_conformance::scheduler::{SchedulerHarness, ShellWorkloads, Workloads};
use gofer_core::scheduler::Scheduler;
use tempfile::TempDir;

/// The scheduler under test, in a directory of its own.
pub(crate) struct Processes {
    pub(crate) config: ProcessesConfig,
    scheduler: Option<Arc<ProcessScheduler>>,
    workloads: ShellWorkloads,
    _dir: TempDir,
}

/// Each case calls this once.
pub(crate) async fn processes() -> Processes {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let workloads = dir.path().join("workloads");
    std::fs::create_dir(&workloads).expect("a directory for the workloads");
    let config = ProcessesConfig { dir: dir.path().join("state"), supervisor: supervisor() };
    let mut harness = Processes { config, scheduler: None, workloads: ShellWorkloads::new(workloads), _dir: dir };
    harness.restart().await;
    harness
}

#[async_trait]
impl Harness<dyn Scheduler> for Processes {
    fn backend(&self) -> Arc<dyn Scheduler> {
        self.scheduler.clone().expect("an open scheduler")
    }

    async fn restart(&mut self) {
        self.scheduler = None;
        self.scheduler = Some(Arc::new(ProcessScheduler::connect(self.config.clone()).await.expect("connect")));
    }
}

impl SchedulerHarness for Processes {
    fn workloads(&self) -> &dyn Workloads {
        &self.workloads
    }
}

mod scheduler {
    gofer_conformance::scheduler_conformance!(super::processes);
}
// ANCHOR_END: harness

/// Cargo names it at run time. Without Cargo it lies beside the directory of the test binary.
fn supervisor() -> PathBuf {
    let beside = || {
        let tests = std::env::current_exe().expect("this test binary");
        tests.ancestors().nth(2).expect("the profile's directory").join("processes-supervisor")
    };
    std::env::var_os("CARGO_BIN_EXE_processes-supervisor").map_or_else(beside, PathBuf::from)
}
