//! Nodes that are lost, come back, or are drained.

use std::time::Duration;

use gofer_conformance::eventually;
use gofer_conformance::scheduler::Workloads;
use gofer_core::scheduler::{ExecutionState, Scheduler};

use super::Watcher;
use crate::fake::FakeNomad;
use crate::support::{Setup, exited, id, script};

/// A fake agent with a second node.
async fn two_nodes(node_lost_after: Duration) -> Setup {
    let fake = FakeNomad::start().await;
    fake.add_node("node-2", &["raw_exec"], 64 * 1024);
    Setup::on_fake(fake, |config| config.node_lost_after = node_lost_after).await
}

async fn node_of(setup: &Setup) -> String {
    let alloc =
        setup.fake_agent().allocation("it runs", |alloc| alloc["ClientStatus"] == "running").await;
    alloc["NodeID"].as_str().expect("a node").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn case_04_what_replaces_a_lost_allocation_is_refused() {
    let setup = two_nodes(Duration::from_secs(3_600)).await;
    let task = id("task");
    let dir = tempfile::tempdir().expect("a directory");
    let text = "echo $NOMAD_ALLOC_ID; while [ -d \"$1\" ]; do sleep 0.05; done";
    setup.start(&task, &script(text, [dir.path().to_str().expect("text")])).await;
    setup.running(&task).await;

    let fake = setup.fake_agent();
    let node = node_of(&setup).await;
    fake.node_down(&node);
    let unknown =
        fake.allocation("the node is away", |alloc| alloc["ClientStatus"] == "unknown").await;
    assert_eq!(setup.state(&task).await, ExecutionState::Running, "it may come back");
    fake.expire_disconnect(&node);

    let second = fake
        .allocation("Nomad replaces it", |alloc| alloc["PreviousAllocation"] == unknown["ID"])
        .await;
    assert_eq!(setup.ended(&task).await, ExecutionState::Lost);
    fake.allocation("the replacement is stopped", |alloc| {
        alloc["ID"] == second["ID"]
            && alloc["ClientStatus"] == "complete"
            && alloc["DesiredStatus"] == "stop"
    })
    .await;
    fake.node_up(&node);
    fake.allocation("the first one is stopped, too", |alloc| {
        alloc["ID"] == unknown["ID"] && alloc["ClientStatus"] == "complete"
    })
    .await;
    assert_eq!(setup.state(&task).await, ExecutionState::Lost, "for good");

    let output = String::from_utf8(setup.stdout(&task, true).await).expect("text");
    assert_eq!(
        output.trim(),
        unknown["ID"].as_str().expect("an ID"),
        "only the first one's output counts"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_comes_back_in_time_changes_nothing() {
    let setup = two_nodes(Duration::from_secs(3_600)).await;
    let task = id("task");
    setup.start(&task, &setup.workloads.gated(b"before ", "gate", b"after")).await;
    setup.running(&task).await;

    let node = node_of(&setup).await;
    setup.fake_agent().node_down(&node);
    setup
        .fake_agent()
        .allocation("the node is away", |alloc| alloc["ClientStatus"] == "unknown")
        .await;
    setup.workloads.release("gate").await;
    setup.fake_agent().node_up(&node);
    assert_eq!(setup.ended(&task).await, exited(0));
    assert_eq!(setup.stdout(&task, true).await, b"before after");
    assert_eq!(setup.fake_agent().allocations().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stays_away_is_lost_and_its_job_is_fenced() {
    let setup = two_nodes(Duration::from_millis(500)).await;
    let task = id("task");
    let mut watcher = Watcher::of(setup.scheduler()).await;
    setup.start(&task, &setup.workloads.until_stopped()).await;
    setup.running(&task).await;

    let node = node_of(&setup).await;
    setup.fake_agent().node_down(&node);
    assert_eq!(watcher.end_of(&task).await, ExecutionState::Lost, "without anybody asking");
    eventually("the job is stopped, so that nothing of it can go on", async || {
        let jobs = setup.fake_agent().jobs();
        if jobs.iter().all(|job| job["Stop"] == true) { Ok(()) } else { Err(format!("{jobs:?}")) }
    })
    .await;
    setup.fake_agent().node_up(&node);
    setup
        .fake_agent()
        .allocation("it is killed", |alloc| alloc["ClientStatus"] == "complete")
        .await;
    assert_eq!(setup.state(&task).await, ExecutionState::Lost);
    assert_eq!(setup.fake_agent().allocations().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn case_06_a_drain_is_a_loss_and_not_a_stop() {
    let setup = two_nodes(Duration::from_secs(3_600)).await;
    let task = id("task");
    let mut watcher = Watcher::of(setup.scheduler()).await;
    setup.start(&task, &setup.workloads.until_stopped()).await;
    setup.running(&task).await;
    let node = node_of(&setup).await;
    setup.fake_agent().drain(&node);
    assert_eq!(watcher.end_of(&task).await, ExecutionState::Lost);
    assert_eq!(setup.state(&task).await, ExecutionState::Lost);
    assert_eq!(setup.fake_agent().allocations().len(), 1, "nothing runs a second time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preempted_execution_is_lost() {
    let setup = Setup::fake().await;
    let task = id("task");
    setup.start(&task, &setup.workloads.until_stopped()).await;
    setup.running(&task).await;
    setup.fake_agent().preempt(&node_alloc(&setup).await);
    assert_eq!(setup.ended(&task).await, ExecutionState::Lost);
}

async fn node_alloc(setup: &Setup) -> String {
    let alloc =
        setup.fake_agent().allocation("it runs", |alloc| alloc["ClientStatus"] == "running").await;
    alloc["ID"].as_str().expect("an ID").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_what_is_on_a_lost_node_succeeds() {
    let setup = two_nodes(Duration::from_millis(500)).await;
    let task = id("task");
    setup.start(&task, &setup.workloads.until_stopped()).await;
    setup.running(&task).await;

    let node = node_of(&setup).await;
    setup.fake_agent().node_down(&node);
    setup
        .fake_agent()
        .allocation("the node is away", |alloc| alloc["ClientStatus"] == "unknown")
        .await;
    setup.scheduler().stop(&task, Duration::ZERO).await.expect("stop");

    let end = setup.ended(&task).await;
    assert!(matches!(end, ExecutionState::Stopped | ExecutionState::Lost), "{end:?}");
    setup.fake_agent().node_up(&node);
    setup
        .fake_agent()
        .allocation("it is killed", |alloc| alloc["ClientStatus"] == "complete")
        .await;
}
