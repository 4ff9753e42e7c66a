//! Executions that end with their owner.

use gofer_conformance::{Harness, eventually};
use gofer_core::scheduler::{ExecutionKind, ExecutionState, Scheduler};
use gofer_scheduler_local::Owner;

use crate::support::{Local, has_written, id, is_gone, live_pids, script, state};

#[tokio::test]
async fn an_execution_outlives_its_scheduler_but_not_its_owner() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("more"), "").expect("a file");
    let owner = Owner::new(Some(folder.path().to_owned())).expect("an owner");
    let mut local = Local::open_with(|config| config.owner = Some(owner.clone())).await;
    let text =
        "trap 'echo told; exit' TERM; setsid sleep 600 & echo ready; while :; do sleep 0.01; done";

    local.scheduler().start(&id("owned"), &script(text, [])).await.expect("start");
    has_written(local.scheduler(), &id("owned"), "ready").await;

    local.restart().await;
    assert_eq!(state(local.scheduler(), &id("owned")).await, ExecutionState::Running);
    let (supervisor, task) = live_pids(&local.config);
    local.scheduler = None;
    local.config.owner = None;
    assert!(std::fs::exists(format!("/proc/{task}")).expect("/proc") && folder.path().exists());

    drop(owner);
    is_gone(task).await;
    is_gone(supervisor).await;
    eventually("the folder is gone", async || {
        if folder.path().exists() { Err("it is there".to_owned()) } else { Ok(()) }
    })
    .await;

    // The next server of the directory, though there will be none, would know why.
    local.restart().await;
    assert_eq!(state(local.scheduler(), &id("owned")).await, ExecutionState::Stopped);
    has_written(local.scheduler(), &id("owned"), "told").await;
}

#[tokio::test]
async fn a_service_that_waits_for_its_next_life_ends_with_its_owner() {
    let owner = Owner::new(None).expect("an owner");
    let mut local = Local::open_with(|config| config.owner = Some(owner.clone())).await;
    let mut service = script("echo lives; exit 1", []);
    service.kind = ExecutionKind::Service;
    local.scheduler().start(&id("service"), &service).await.expect("start");
    has_written(local.scheduler(), &id("service"), "lives").await;
    let (supervisor, _) = live_pids(&local.config);
    local.scheduler = None;
    local.config.owner = None;
    drop(owner);
    is_gone(supervisor).await;
}
