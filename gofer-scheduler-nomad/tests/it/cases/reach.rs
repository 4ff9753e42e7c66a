//! Nodes out of reach: what is there cannot be read now, and is not gone.

use std::time::Duration;

use futures::StreamExt;
use gofer_conformance::scheduler::Workloads;
use gofer_core::scheduler::{LogCursor, Scheduler};
use gofer_core::{BackendError, ErrorKind};

use crate::fake::FakeNomad;
use crate::support::{Setup, exited, id};

/// One whose only task has ended and left a log, on a node that is down now.
async fn ended_on_a_node_that_is_down(node_gone_after: Duration) -> (Setup, String) {
    let setup =
        Setup::on_fake(FakeNomad::start().await, |config| config.node_gone_after = node_gone_after)
            .await;
    assert_eq!(setup.run(&id("task"), &setup.workloads.print(b"out", b"err")).await, exited(0));
    let node = setup.fake_agent().allocations()[0]["NodeID"].as_str().expect("a node").to_owned();
    setup.fake_agent().node_down(&node);
    (setup, node)
}

async fn refusal(setup: &Setup) -> BackendError {
    match setup.scheduler().logs(&id("task"), LogCursor::default(), false).await {
        Err(error) => error,
        Ok(mut log) => log.next().await.expect("an error").expect_err("no log"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_of_an_ended_task_waits_for_its_node() {
    let (setup, node) = ended_on_a_node_that_is_down(Duration::from_secs(3_600)).await;
    let error = refusal(&setup).await;
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    assert!(
        error.message.contains("node `node-1`") && error.message.contains("out of reach now"),
        "{error}"
    );
    setup.fake_agent().node_up(&node);
    assert_eq!(setup.stdout(&id("task"), true).await, b"out");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_of_a_running_task_says_that_its_node_is_out_of_reach() {
    let setup = Setup::fake().await;
    setup.start(&id("task"), &setup.workloads.gated(b"before ", "gate", b"after")).await;
    setup.running(&id("task")).await;
    let node = setup.fake_agent().allocations()[0]["NodeID"].as_str().expect("a node").to_owned();
    setup.fake_agent().node_down(&node);
    let error = refusal(&setup).await;
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    assert!(error.message.contains("out of reach now"), "{error}");
    setup.fake_agent().node_up(&node);
    setup.workloads.release("gate").await;
    assert_eq!(setup.stdout(&id("task"), true).await, b"before after");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_gone_with_its_node_or_after_a_time() {
    let (setup, node) = ended_on_a_node_that_is_down(Duration::from_secs(3_600)).await;
    setup.fake_agent().forget_node(&node);
    let error = refusal(&setup).await;
    assert_eq!(error.kind, ErrorKind::NotFound, "{error}");
    assert!(error.message.contains("does not know any more"), "{error}");
    let (setup, _) = ended_on_a_node_that_is_down(Duration::ZERO).await;
    let error = refusal(&setup).await;
    assert_eq!(error.kind, ErrorKind::NotFound, "{error}");
    assert!(error.message.contains("`node_gone_after`"), "{error}");
}

/// An agent answers as soon as it is connected, and that is before it has read its own state.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_was_just_started_is_asked_again() {
    let setup = Setup::fake().await;
    assert_eq!(setup.run(&id("task"), &setup.workloads.print(b"out", b"err")).await, exited(0));
    setup.fake_agent().faults(|faults| faults.restoring = 3);
    assert_eq!(setup.stdout(&id("task"), true).await, b"out");
}
