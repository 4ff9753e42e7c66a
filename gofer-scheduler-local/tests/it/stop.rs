//! Stopping, beyond what every scheduler does.

use std::time::{Duration, Instant};

use gofer_conformance::eventually;
use gofer_core::ExecutionId;
use gofer_core::scheduler::{ExecutionSpec, ExecutionState, Scheduler};
use rustix::process::Signal;

use crate::support::{
    Local, ended, exited, has_written, id, is_gone, live_pids, output, script, signal,
};

/// Longer than any test runs: what ends did not end for want of patience.
const LONG: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn children_have_the_rest_of_the_grace() {
    let local = Local::open().await;
    let scheduler = local.scheduler();
    // The shell dies of SIGTERM at once; its child needs a moment to clean up.
    let text = "(trap 'sleep 0.2; echo cleaned; exit' TERM; echo ready; while :; do sleep 0.01; \
                done) & wait";
    // What the shell says of its child's end is not the test's business.
    let spec = ExecutionSpec { separate_output: true, ..script(text, []) };
    scheduler.start(&id("child"), &spec).await.expect("start");
    has_written(scheduler, &id("child"), "ready").await;
    scheduler.stop(&id("child"), LONG).await.expect("stop");
    assert_eq!(ended(scheduler, &id("child")).await, ExecutionState::Stopped);
    assert_eq!(output(scheduler, &id("child"), true).await.0, "ready\ncleaned\n");
}

#[tokio::test]
async fn detached_daemons_that_ignore_the_signal_are_killed() {
    let local = Local::open().await;
    let scheduler = local.scheduler();
    let text = "setsid sh -c \"trap '' TERM; echo \\$\\$ > pid; while :; do sleep 0.01; done\" & \
                while [ ! -s pid ]; do sleep 0.01; done; cat pid; echo ready; wait";
    scheduler.start(&id("daemon"), &script(text, [])).await.expect("start");
    has_written(scheduler, &id("daemon"), "ready").await;

    let pid = output(scheduler, &id("daemon"), false)
        .await
        .0
        .lines()
        .next()
        .expect("a line")
        .parse()
        .expect("a number");

    scheduler.stop(&id("daemon"), Duration::from_millis(50)).await.expect("stop");
    assert_eq!(ended(scheduler, &id("daemon")).await, ExecutionState::Stopped);
    is_gone(pid).await;
}

#[tokio::test]
async fn a_task_that_floods_its_log_can_be_stopped() {
    let local = Local::open_with(|config| config.max_log_bytes = 1 << 20).await;
    let scheduler = local.scheduler();
    scheduler.start(&id("flood"), &script("trap '' TERM; exec yes", [])).await.expect("start");
    eventually("the limit is reached", async || {
        let (out, err) = output(scheduler, &id("flood"), false).await;
        if err.contains("dropped") { Ok(()) } else { Err(format!("{} bytes", out.len())) }
    })
    .await;
    scheduler.stop(&id("flood"), Duration::from_millis(20)).await.expect("stop");
    assert_eq!(ended(scheduler, &id("flood")).await, ExecutionState::Stopped);
    let (out, err) = output(scheduler, &id("flood"), false).await;
    assert_eq!(out.len(), 1 << 20);
    assert_eq!(err, "gofer: output after the first 1048576 bytes was dropped (max_log_bytes)\n");
}

#[tokio::test]
async fn concurrent_stops_all_count() {
    let local = Local::open().await;
    let scheduler = local.scheduler();
    scheduler
        .start(&id("many"), &script("trap '' TERM; echo ready; while :; do sleep 0.01; done", []))
        .await
        .expect("start");
    has_written(scheduler, &id("many"), "ready").await;
    let many = id("many");
    let stops = (0..20)
        .map(|number| scheduler.stop(&many, if number == 7 { Duration::ZERO } else { LONG }));
    for result in futures::future::join_all(stops).await {
        result.expect("stop");
    }
    assert_eq!(ended(scheduler, &id("many")).await, ExecutionState::Stopped);
}

/// Its supervisor stands still from the start of `task` until the process has ended and `meanwhile`
/// is done.
async fn ends_unseen(
    local: &Local,
    task: &ExecutionId,
    spec: &ExecutionSpec,
    meanwhile: impl AsyncFnOnce(),
) {
    let scheduler = local.scheduler();
    scheduler.start(task, spec).await.expect("start");
    has_written(scheduler, task, "ready").await;
    let (supervisor, process) = live_pids(&local.config);
    signal(supervisor, Signal::STOP);
    std::fs::write(
        local.config.dir.join("x").join(task.to_string().replace('/', ".")).join("work/go"),
        "",
    )
    .expect("go");
    is_gone(process).await;
    meanwhile().await;
    signal(supervisor, Signal::CONT);
}

const UNTIL_GO: &str = "echo ready; while [ ! -e go ]; do sleep 0.01; done; exit 3";

#[tokio::test]
async fn a_stop_that_came_after_the_end_does_not_count() {
    let local = Local::open().await;
    let task = id("ends");
    ends_unseen(&local, &task, &script(UNTIL_GO, []), async || {
        local.scheduler().stop(&task, Duration::ZERO).await.expect("stop");
    })
    .await;
    assert_eq!(ended(local.scheduler(), &task).await, exited(3));
}

#[tokio::test]
async fn a_timeout_that_came_after_the_end_does_not_count() {
    let local = Local::open().await;
    let task = id("ends");
    // Long enough for a loaded machine to stop the supervisor before it is over.
    let timeout = Duration::from_secs(4);
    let mut spec = script(UNTIL_GO, []);
    spec.timeout = Some(timeout);
    let began = Instant::now();
    ends_unseen(&local, &task, &spec, async || {
        tokio::time::sleep_until((began + timeout + Duration::from_millis(500)).into()).await;
    })
    .await;
    assert_eq!(ended(local.scheduler(), &task).await, exited(3));
    let times = local.scheduler().state(&task).await.expect("state").times;
    assert!(times.run_time().is_some_and(|ran| ran <= timeout), "{times:?}");
}

#[tokio::test]
async fn what_ignores_its_timeout_is_killed_after_the_grace_and_a_stop_hastens_it() {
    let local = Local::open().await;
    let scheduler = local.scheduler();
    let mut spec = script("trap 'echo asked' TERM; echo ready; while :; do sleep 0.01; done", []);
    spec.timeout = Some(Duration::from_millis(100));
    scheduler.start(&id("stubborn"), &spec).await.expect("start");
    has_written(scheduler, &id("stubborn"), "asked").await;
    scheduler.stop(&id("stubborn"), Duration::ZERO).await.expect("stop");
    assert_eq!(ended(scheduler, &id("stubborn")).await, ExecutionState::Stopped);
}
