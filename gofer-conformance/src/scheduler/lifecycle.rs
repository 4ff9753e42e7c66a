//! Starting, ending, removing.

use std::time::Duration;

use futures::future::join_all;
use gofer_core::error::ErrorKind;
use gofer_core::scheduler::{ExecutionKind, ExecutionState, FailureKind, LogCursor};

use super::{SchedulerHarness, ended, exited, followed, fresh_id, id, logs, running, start, state};
use crate::eventually;

/// `check` proves that the scheduler can be used, and says in one line what was found.
pub async fn check_says_what_was_found_in_one_line(harness: &dyn SchedulerHarness) {
    let found = harness.backend().check().await.expect("check");
    assert!(!found.is_empty() && !found.contains('\n'), "not one line: {found:?}");
}

/// Capabilities never change, and a scheduler can do something at all.
pub async fn capabilities_are_constant(harness: &dyn SchedulerHarness) {
    let scheduler = harness.backend();
    let abilities = || (scheduler.exec().is_some(), scheduler.identities().is_some());
    let (before, able) = (scheduler.capabilities(), abilities());
    let id = start(&*scheduler, &harness.workloads().exit(0)).await;
    ended(&*scheduler, &id).await;
    assert_eq!((scheduler.capabilities(), abilities()), (before, able));
    assert!(before.images || before.host, "neither images nor host commands");
}

/// A name that was never seen is `NotFound`.
pub async fn an_unknown_execution_is_not_found(harness: &dyn SchedulerHarness) {
    assert_eq!(state(&*harness.backend(), &fresh_id("task")).await, ExecutionState::NotFound);
}

/// A process that ends by itself is `Exited` with its exit code.
pub async fn the_exit_code_is_reported(harness: &dyn SchedulerHarness) {
    let scheduler = harness.backend();
    for code in [0, 1, 3, 255] {
        let id = start(&*scheduler, &harness.workloads().exit(code)).await;
        assert_eq!(ended(&*scheduler, &id).await, exited(i32::from(code)));
        assert_eq!(state(&*scheduler, &id).await, exited(i32::from(code)), "the end is for good");
    }
}

/// A process that a signal ends, without anybody having called `stop`, is `Exited` with 128 + the
/// signal and its number.
pub async fn death_by_signal_is_reported(harness: &dyn SchedulerHarness) {
    let scheduler = harness.backend();
    for signal in [9, 15] {
        let id = start(&*scheduler, &harness.workloads().die(signal)).await;
        let expected =
            ExecutionState::Exited { code: 128 + signal, oom: false, signal: Some(signal) };
        assert_eq!(ended(&*scheduler, &id).await, expected);
    }
}

/// A command that does not exist is not an error of `start`: the execution exists and is `Failed`.
pub async fn a_command_that_does_not_exist_is_a_failed_execution(harness: &dyn SchedulerHarness) {
    let scheduler = harness.backend();
    let id = start(&*scheduler, &harness.workloads().command_not_found()).await;
    match ended(&*scheduler, &id).await {
        ExecutionState::Failed { kind: FailureKind::CommandNotFound, message } => {
            assert!(
                message.contains("gofer-no-such-command"),
                "the message does not name it: {message}"
            );
        }
        other => panic!("{other:?}"),
    }
}

/// Once `start` returned, the execution exists; it is queued or running until it ends.
pub async fn an_execution_is_queued_or_running_until_it_ends(harness: &dyn SchedulerHarness) {
    let (scheduler, workloads) = (harness.backend(), harness.workloads());
    let id = start(&*scheduler, &workloads.gated(b"waiting\n", "end", b"")).await;
    let first = state(&*scheduler, &id).await;
    assert!(!first.is_final(), "{first:?} right after the start");
    running(&*scheduler, &id).await;
    assert_eq!(state(&*scheduler, &id).await, ExecutionState::Running);
    workloads.release("end").await;
    assert_eq!(ended(&*scheduler, &id).await, exited(0));
}

/// `start` on the name of a running execution does nothing and succeeds, whatever the spec says.
pub async fn start_of_a_running_execution_does_nothing(harness: &dyn SchedulerHarness) {
    let (scheduler, workloads) = (harness.backend(), harness.workloads());
    let id = start(&*scheduler, &workloads.gated(b"first ", "end", b"end")).await;
    for spec in [workloads.exit(1), workloads.mark("second", 1), workloads.command_not_found()] {
        scheduler.start(&id, &spec).await.expect("start again");
    }
    running(&*scheduler, &id).await;
    scheduler.start(&id, &workloads.mark("second", 1)).await.expect("start again");
    workloads.release("end").await;
    assert_eq!(ended(&*scheduler, &id).await, exited(0));
    assert_eq!(followed(&*scheduler, &id).await.stdout, b"first end");
    assert_eq!(workloads.marks("second").await, 0);
}

/// `start` on the name of an execution that exited, failed or was stopped does nothing and
/// succeeds.
pub async fn start_of_a_finished_execution_does_nothing(harness: &dyn SchedulerHarness) {
    let (scheduler, workloads) = (harness.backend(), harness.workloads());
    let exits = start(&*scheduler, &workloads.exit(3)).await;
    let fails = start(&*scheduler, &workloads.command_not_found()).await;
    let stops = start(&*scheduler, &workloads.until_stopped()).await;
    running(&*scheduler, &stops).await;
    scheduler.stop(&stops, Duration::ZERO).await.expect("stop");

    for id in [exits, fails, stops] {
        let before = ended(&*scheduler, &id).await;
        for _ in 0..2 {
            scheduler.start(&id, &workloads.mark("again", 0)).await.expect("start again");
        }
        assert_eq!(state(&*scheduler, &id).await, before);
    }

    // An execution that was started after them has ended: so would they have, had they been
    // started.
    let later = start(&*scheduler, &workloads.exit(0)).await;
    ended(&*scheduler, &later).await;
    assert_eq!(workloads.marks("again").await, 0);
}

/// Of concurrent starts of one name, all succeed and one execution is started.
pub async fn concurrent_starts_of_one_name_start_one(harness: &dyn SchedulerHarness) {
    let (scheduler, workloads) = (harness.backend(), harness.workloads());
    for round in 0..4 {
        let (id, mark) = (fresh_id("raced"), format!("round-{round}"));
        let spec = workloads.mark(&mark, 0);
        let starts = (0..8).map(|_| {
            let (scheduler, id, spec) = (scheduler.clone(), id.clone(), spec.clone());
            tokio::spawn(async move { scheduler.start(&id, &spec).await })
        });
        for joined in join_all(starts).await {
            joined.expect("no panic").expect("start");
        }
        assert_eq!(ended(&*scheduler, &id).await, exited(0));
        assert_eq!(workloads.marks(&mark).await, 1);
    }
}

/// The backend never restarts a task.
pub async fn a_task_is_never_restarted(harness: &dyn SchedulerHarness) {
    let (scheduler, workloads) = (harness.backend(), harness.workloads());
    let id = start(&*scheduler, &workloads.mark("run", 1)).await;
    assert_eq!(ended(&*scheduler, &id).await, exited(1));
    let later = start(&*scheduler, &workloads.exit(0)).await;
    ended(&*scheduler, &later).await;
    assert_eq!(state(&*scheduler, &id).await, exited(1));
    assert_eq!(workloads.marks("run").await, 1);
}

/// The backend keeps a service alive, however it ends, until it is stopped.
pub async fn a_service_is_kept_alive_until_it_is_stopped(harness: &dyn SchedulerHarness) {
    let (scheduler, workloads) = (harness.backend(), harness.workloads());
    let mut services = Vec::new();
    for (mark, code) in [("well", 0), ("badly", 1)] {
        let mut spec = workloads.mark(mark, code);
        spec.kind = ExecutionKind::Service;
        services.push(start(&*scheduler, &spec).await);
    }

    for mark in ["well", "badly"] {
        eventually(&format!("the service that ends {mark} is started again"), async || {
            let marks = workloads.marks(mark).await;
            if marks >= 2 { Ok(()) } else { Err(format!("started {marks} times")) }
        })
        .await;
    }

    for id in services {
        let now = state(&*scheduler, &id).await;
        assert!(!now.is_final(), "{now:?} before it was stopped");
        scheduler.stop(&id, Duration::ZERO).await.expect("stop");
        assert_eq!(ended(&*scheduler, &id).await, ExecutionState::Stopped);
    }
}

/// Names that differ only in where their parts are cut, in a digit or in a dash are different
/// executions.
pub async fn executions_with_similar_names_do_not_mix(harness: &dyn SchedulerHarness) {
    let (scheduler, workloads) = (harness.backend(), harness.workloads());
    let run = fresh_id("task").run.run.0;
    let longest = "n".repeat(64);
    let names = [
        id("a", "b-c", run, "d", 1),
        id("a-b", "c", run, "d", 1),
        id("a", "b", run, "c-d", 1),
        id("a_b", "c", run, "d", 1),
        id("a", "b-c", run, "d", 11),
        id("a", "b-c", run, "d-1", 1),
        id("a", "b-c", run + 1, "d", 1),
        id("a", "b-c", run * 10 + 1, "d", 1),
        id(&longest, &longest, run, &longest, u32::MAX),
        id(&longest, &longest, run, &longest, u32::MAX - 1),
    ];

    for name in &names {
        let spec = workloads.print(name.to_string().as_bytes(), b"");
        scheduler.start(name, &spec).await.expect("start");
    }

    for name in &names {
        assert_eq!(ended(&*scheduler, name).await, exited(0), "`{name}`");
        assert_eq!(followed(&*scheduler, name).await.stdout, name.to_string().as_bytes());
    }

    scheduler.remove(&names[0]).await.expect("remove");
    for name in &names[1..] {
        assert_eq!(
            state(&*scheduler, name).await,
            exited(0),
            "`{name}` after `{}` was removed",
            names[0]
        );
    }
}

/// Executions do not wait for each other.
pub async fn many_executions_run_at_once(harness: &dyn SchedulerHarness) {
    let (scheduler, workloads) = (harness.backend(), harness.workloads());
    let ids: Vec<_> = (0..16).map(|index| fresh_id(&format!("task-{index}"))).collect();
    let spec = workloads.gated(b"waiting\n", "all", b"done\n");
    for started in join_all(ids.iter().map(|id| scheduler.start(id, &spec))).await {
        started.expect("start");
    }
    for id in &ids {
        running(&*scheduler, id).await;
    }
    workloads.release("all").await;
    for id in &ids {
        assert_eq!(ended(&*scheduler, id).await, exited(0));
        assert_eq!(followed(&*scheduler, id).await.stdout, b"waiting\ndone\n");
    }
}

/// A removed execution is `NotFound`, and so are its logs.
pub async fn a_removed_execution_is_not_found(harness: &dyn SchedulerHarness) {
    let (scheduler, workloads) = (harness.backend(), harness.workloads());
    for spec in [workloads.print(b"x", b"y"), workloads.command_not_found()] {
        let id = start(&*scheduler, &spec).await;
        ended(&*scheduler, &id).await;
        for _ in 0..2 {
            scheduler.remove(&id).await.expect("remove");
            assert_eq!(state(&*scheduler, &id).await, ExecutionState::NotFound);
            let error = scheduler
                .logs(&id, LogCursor::default(), false)
                .await
                .err()
                .expect("its logs are still there");
            assert_eq!(error.kind, ErrorKind::NotFound);
        }
    }
}

/// Removing what was never seen succeeds.
pub async fn removing_what_is_unknown_succeeds(harness: &dyn SchedulerHarness) {
    harness.backend().remove(&fresh_id("task")).await.expect("remove");
}

/// Removing what has not finished is `Invalid` and changes nothing.
pub async fn removing_what_has_not_finished_is_invalid_and_changes_nothing(
    harness: &dyn SchedulerHarness,
) {
    let (scheduler, workloads) = (harness.backend(), harness.workloads());
    let id = start(&*scheduler, &workloads.gated(b"before ", "end", b"after")).await;
    for _ in 0..2 {
        let error = scheduler.remove(&id).await.expect_err("it has not finished");
        assert_eq!(error.kind, ErrorKind::Invalid, "{error}");
        running(&*scheduler, &id).await;
    }
    assert_eq!(logs(&*scheduler, &id).await.stdout, b"before ");
    workloads.release("end").await;
    assert_eq!(ended(&*scheduler, &id).await, exited(0));
    assert_eq!(followed(&*scheduler, &id).await.stdout, b"before after");
}
