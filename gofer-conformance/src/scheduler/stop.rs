//! Stopping.

use std::time::Duration;

use gofer_core::id::ExecutionId;
use gofer_core::scheduler::{ExecutionState, Scheduler};

use super::{SchedulerHarness, ended, exited, followed, fresh_id, running, start, state};
use crate::{eventually, within};

/// A grace that no case lives to see the end of.
const LONG: Duration = Duration::from_secs(3_600);
/// A grace that is soon over.
const SHORT: Duration = Duration::from_millis(100);

/// `stop` asks the process to end; one that does so within the grace is `Stopped`, whatever its
/// exit code.
pub async fn stop_asks_before_it_kills(harness: &dyn SchedulerHarness) {
    let scheduler = harness.backend();
    let id = start(&*scheduler, &harness.workloads().until_stopped()).await;
    running(&*scheduler, &id).await;
    scheduler.stop(&id, LONG).await.expect("stop");
    assert_eq!(ended(&*scheduler, &id).await, ExecutionState::Stopped);
    assert_eq!(followed(&*scheduler, &id).await.stdout, b"ready\nstopped\n");
}

/// A process that does not end when asked is killed after the grace.
pub async fn stop_kills_after_the_grace(harness: &dyn SchedulerHarness) {
    let scheduler = harness.backend();
    let id = start(&*scheduler, &harness.workloads().ignoring_stop()).await;
    running(&*scheduler, &id).await;
    scheduler.stop(&id, SHORT).await.expect("stop");
    assert_eq!(ended(&*scheduler, &id).await, ExecutionState::Stopped);
}

/// Without a grace a process is killed even if it does not want to end.
pub async fn stop_without_grace_kills_at_once(harness: &dyn SchedulerHarness) {
    let scheduler = harness.backend();
    let id = start(&*scheduler, &harness.workloads().ignoring_stop()).await;
    running(&*scheduler, &id).await;
    scheduler.stop(&id, Duration::ZERO).await.expect("stop");
    assert_eq!(ended(&*scheduler, &id).await, ExecutionState::Stopped);
    assert_eq!(followed(&*scheduler, &id).await.stdout, b"ready\n");
}

/// `stop` returns once the request is durable, not when the execution has ended.
pub async fn stop_returns_without_waiting_for_the_end(harness: &dyn SchedulerHarness) {
    let scheduler = harness.backend();
    let id = start(&*scheduler, &harness.workloads().ignoring_stop()).await;
    running(&*scheduler, &id).await;
    within("`stop` returns", scheduler.stop(&id, LONG)).await.expect("stop");
    assert_eq!(state(&*scheduler, &id).await, ExecutionState::Running);
    kill(&*scheduler, &id).await;
}

/// A second call with a shorter grace hastens the end.
pub async fn a_second_stop_with_a_shorter_grace_hastens(harness: &dyn SchedulerHarness) {
    let scheduler = harness.backend();
    for shorter in [SHORT, Duration::ZERO] {
        let id = start(&*scheduler, &harness.workloads().ignoring_stop()).await;
        running(&*scheduler, &id).await;
        scheduler.stop(&id, LONG).await.expect("stop");
        scheduler.stop(&id, shorter).await.expect("hasten");
        assert_eq!(ended(&*scheduler, &id).await, ExecutionState::Stopped);
    }
}

/// An execution can be stopped before it came to run.
pub async fn stop_right_after_start_stops(harness: &dyn SchedulerHarness) {
    let scheduler = harness.backend();
    for grace in [Duration::ZERO, SHORT] {
        let id = start(&*scheduler, &harness.workloads().ignoring_stop()).await;
        scheduler.stop(&id, grace).await.expect("stop");
        assert_eq!(ended(&*scheduler, &id).await, ExecutionState::Stopped);
    }
}

/// `stop` ends every process of the execution, also one that does not want to.
pub async fn stop_kills_the_whole_process_tree(harness: &dyn SchedulerHarness) {
    let (scheduler, workloads) = (harness.backend(), harness.workloads());
    let id = start(&*scheduler, &workloads.tree("stopped")).await;
    running(&*scheduler, &id).await;
    scheduler.stop(&id, SHORT).await.expect("stop");
    assert_eq!(ended(&*scheduler, &id).await, ExecutionState::Stopped);
    followed(&*scheduler, &id).await;

    let at_the_end = workloads.marks("stopped").await;
    // A second tree is the clock: while its child makes 20 marks, the first tree's child would have
    // made some too.
    let clock = start(&*scheduler, &workloads.tree("clock")).await;
    eventually("the second tree makes 20 marks", async || {
        let marks = workloads.marks("clock").await;
        if marks >= 20 { Ok(()) } else { Err(format!("{marks} marks")) }
    })
    .await;
    kill(&*scheduler, &clock).await;
    assert_eq!(workloads.marks("stopped").await, at_the_end, "a process outlived its execution");
}

/// Stopping what has ended succeeds, and it stays what it had become.
pub async fn stopping_what_is_finished_changes_nothing(harness: &dyn SchedulerHarness) {
    let (scheduler, workloads) = (harness.backend(), harness.workloads());
    for spec in [workloads.exit(0), workloads.exit(3), workloads.command_not_found()] {
        let id = start(&*scheduler, &spec).await;
        let before = ended(&*scheduler, &id).await;
        for grace in [SHORT, Duration::ZERO] {
            scheduler.stop(&id, grace).await.expect("stop");
            assert_eq!(state(&*scheduler, &id).await, before);
        }
    }
}

/// Stopping what was never seen succeeds and makes nothing of it.
pub async fn stopping_what_is_unknown_succeeds(harness: &dyn SchedulerHarness) {
    let scheduler = harness.backend();
    let id = fresh_id("task");
    scheduler.stop(&id, SHORT).await.expect("stop");
    assert_eq!(state(&*scheduler, &id).await, ExecutionState::NotFound);
    scheduler.start(&id, &harness.workloads().exit(0)).await.expect("start");
    assert_eq!(ended(&*scheduler, &id).await, exited(0));
}

async fn kill(scheduler: &dyn Scheduler, id: &ExecutionId) {
    scheduler.stop(id, Duration::ZERO).await.expect("stop");
    assert_eq!(ended(scheduler, id).await, ExecutionState::Stopped);
}
