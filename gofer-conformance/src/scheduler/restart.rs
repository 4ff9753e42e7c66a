//! An execution outlives the server that started it.

use std::time::Duration;

use gofer_core::scheduler::ExecutionState;

use super::{SchedulerHarness, ended, exited, followed, running, start, state, times};

/// After a restart, the states and logs of what had ended still answer.
pub async fn a_finished_execution_is_known_after_a_restart(harness: &mut dyn SchedulerHarness) {
    let scheduler = harness.backend();
    let printed = start(&*scheduler, &harness.workloads().print(b"out", b"err")).await;
    let failed = start(&*scheduler, &harness.workloads().command_not_found()).await;
    let stopped = start(&*scheduler, &harness.workloads().until_stopped()).await;
    running(&*scheduler, &stopped).await;
    scheduler.stop(&stopped, Duration::ZERO).await.expect("stop");

    let mut before = Vec::new();
    for id in [&printed, &failed, &stopped] {
        before.push((ended(&*scheduler, id).await, followed(&*scheduler, id).await));
    }

    drop(scheduler);
    harness.restart().await;
    let scheduler = harness.backend();

    for (id, (state_before, logs_before)) in [&printed, &failed, &stopped].into_iter().zip(before) {
        assert_eq!(state(&*scheduler, id).await, state_before);
        assert_eq!(followed(&*scheduler, id).await, logs_before);
    }
}

/// What was running runs on, its logs without a gap, and its end is seen.
pub async fn a_running_execution_outlives_the_server(harness: &mut dyn SchedulerHarness) {
    let scheduler = harness.backend();
    let id = start(&*scheduler, &harness.workloads().gated(b"before ", "end", b"after")).await;
    running(&*scheduler, &id).await;
    drop(scheduler);
    harness.restart().await;
    let scheduler = harness.backend();
    assert_eq!(state(&*scheduler, &id).await, ExecutionState::Running);
    harness.workloads().release("end").await;
    assert_eq!(followed(&*scheduler, &id).await.stdout, b"before after");
    assert_eq!(ended(&*scheduler, &id).await, exited(0));
}

/// An end that may have come while no server was there is known when one is back.
pub async fn an_execution_that_ends_while_the_server_is_down_is_known(
    harness: &mut dyn SchedulerHarness,
) {
    let scheduler = harness.backend();
    let id = start(&*scheduler, &harness.workloads().gated(b"before ", "end", b"after")).await;
    running(&*scheduler, &id).await;
    harness.workloads().release("end").await;
    drop(scheduler);
    harness.restart().await;
    let scheduler = harness.backend();
    assert_eq!(ended(&*scheduler, &id).await, exited(0));
    assert_eq!(followed(&*scheduler, &id).await.stdout, b"before after");
}

/// A name that was started before the restart is not started again.
pub async fn start_after_a_restart_does_nothing(harness: &mut dyn SchedulerHarness) {
    let scheduler = harness.backend();
    let ended_before = start(&*scheduler, &harness.workloads().mark("run", 3)).await;
    let runs_on = start(&*scheduler, &harness.workloads().gated(b"before ", "end", b"after")).await;
    ended(&*scheduler, &ended_before).await;
    drop(scheduler);
    harness.restart().await;

    let scheduler = harness.backend();
    for id in [&ended_before, &runs_on] {
        scheduler.start(id, &harness.workloads().mark("run", 0)).await.expect("start again");
    }

    assert_eq!(state(&*scheduler, &ended_before).await, exited(3));
    harness.workloads().release("end").await;
    assert_eq!(followed(&*scheduler, &runs_on).await.stdout, b"before after");
    assert_eq!(ended(&*scheduler, &runs_on).await, exited(0));
    assert_eq!(harness.workloads().marks("run").await, 1);
}

/// What was started before the restart can be stopped after it, and a stop that was asked for
/// before is not forgotten.
pub async fn stop_works_after_a_restart(harness: &mut dyn SchedulerHarness) {
    let scheduler = harness.backend();
    let asked_before = start(&*scheduler, &harness.workloads().ignoring_stop()).await;
    let asked_after = start(&*scheduler, &harness.workloads().ignoring_stop()).await;
    for id in [&asked_before, &asked_after] {
        running(&*scheduler, id).await;
    }
    scheduler.stop(&asked_before, Duration::from_millis(300)).await.expect("stop");
    drop(scheduler);
    harness.restart().await;
    let scheduler = harness.backend();
    assert_eq!(ended(&*scheduler, &asked_before).await, ExecutionState::Stopped);
    assert_eq!(state(&*scheduler, &asked_after).await, ExecutionState::Running);
    scheduler.stop(&asked_after, Duration::from_millis(100)).await.expect("stop");
    assert_eq!(ended(&*scheduler, &asked_after).await, ExecutionState::Stopped);
}

/// A removal is not undone by a restart.
pub async fn a_removed_execution_stays_removed_after_a_restart(harness: &mut dyn SchedulerHarness) {
    let scheduler = harness.backend();
    let id = start(&*scheduler, &harness.workloads().exit(0)).await;
    ended(&*scheduler, &id).await;
    scheduler.remove(&id).await.expect("remove");
    drop(scheduler);
    harness.restart().await;
    assert_eq!(state(&*harness.backend(), &id).await, ExecutionState::NotFound);
}

/// What is known of times is known after a restart, and stays what it was.
pub async fn times_stay_the_same_after_a_restart(harness: &mut dyn SchedulerHarness) {
    times::stay_the_same(harness).await;
}

/// Where the capability says so, a timeout is held while no server runs.
pub async fn a_timeout_is_held_over_a_restart(harness: &mut dyn SchedulerHarness) {
    times::held_over_a_restart(harness).await;
}
