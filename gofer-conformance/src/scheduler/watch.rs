//! The watch stream.

use std::time::Duration;

use futures::StreamExt;
use futures::future::join_all;
use futures::stream::BoxStream;
use gofer_core::error::BackendError;
use gofer_core::id::ExecutionId;
use gofer_core::scheduler::{ExecutionState, Scheduler, WatchEvent};

use super::{SchedulerHarness, ended, exited, fresh_id, running, start, state};
use crate::within;

/// The end of an execution that was started after the stream was handed out is on it, or followed
/// by the stream's end.
pub async fn watch_tells_of_the_end_or_ends(harness: &dyn SchedulerHarness) {
    let scheduler = harness.backend();
    let events = scheduler.watch().await.expect("watch");
    let id = start(&*scheduler, &harness.workloads().exit(3)).await;
    assert_eq!(told(&*scheduler, events, &id).await, exited(3));
}

/// The same of an execution that was running before, and is stopped.
pub async fn watch_tells_of_a_stop_or_ends(harness: &dyn SchedulerHarness) {
    let scheduler = harness.backend();
    let id = start(&*scheduler, &harness.workloads().until_stopped()).await;
    running(&*scheduler, &id).await;
    let events = scheduler.watch().await.expect("watch");
    scheduler.stop(&id, Duration::ZERO).await.expect("stop");
    assert_eq!(told(&*scheduler, events, &id).await, ExecutionState::Stopped);
}

/// The same of an execution that cannot be started.
pub async fn watch_tells_of_a_failed_start_or_ends(harness: &dyn SchedulerHarness) {
    let scheduler = harness.backend();
    let events = scheduler.watch().await.expect("watch");
    let id = start(&*scheduler, &harness.workloads().command_not_found()).await;
    let end = told(&*scheduler, events, &id).await;
    assert!(matches!(end, ExecutionState::Failed { .. }), "{end:?}");
}

/// Every watcher is told of every execution, also when another watcher went away.
pub async fn every_watcher_is_told(harness: &dyn SchedulerHarness) {
    let (scheduler, workloads) = (harness.backend(), harness.workloads());
    let one = scheduler.watch().await.expect("watch");
    let gone = scheduler.watch().await.expect("watch");
    let other = scheduler.watch().await.expect("watch");
    let ids: Vec<ExecutionId> = (0..8).map(|index| fresh_id(&format!("task-{index}"))).collect();
    let spec = workloads.gated(b"", "end", b"");

    for id in &ids {
        scheduler.start(id, &spec).await.expect("start");
    }

    drop(gone);
    workloads.release("end").await;
    for ends in
        join_all([told_all(&*scheduler, one, &ids), told_all(&*scheduler, other, &ids)]).await
    {
        assert!(ends.iter().all(|end| *end == exited(0)), "{ends:?}");
    }
}

/// The state that the stream says the execution ended with; if the stream ends first, what `state`
/// says.
async fn told(
    scheduler: &dyn Scheduler,
    events: BoxStream<'static, Result<WatchEvent, BackendError>>,
    id: &ExecutionId,
) -> ExecutionState {
    told_all(scheduler, events, std::slice::from_ref(id)).await.remove(0)
}

async fn told_all(
    scheduler: &dyn Scheduler,
    mut events: BoxStream<'static, Result<WatchEvent, BackendError>>,
    ids: &[ExecutionId],
) -> Vec<ExecutionState> {
    let mut ends = vec![None; ids.len()];
    while ends.iter().any(Option::is_none) {
        let next =
            within(&format!("the stream tells of {ids:?} or ends; told: {ends:?}"), events.next())
                .await;
        let Some(Ok(event)) = next else { break };
        let known = ids.iter().position(|id| *id == event.id);

        if let Some(index) = known.filter(|_| event.state.is_final()) {
            assert_eq!(
                state(scheduler, &event.id).await,
                event.state,
                "the stream and `state` differ"
            );
            ends[index] = Some(event.state);
        }
    }

    let mut all = Vec::new();
    for (id, end) in ids.iter().zip(ends) {
        all.push(match end {
            Some(end) => end,
            None => ended(scheduler, id).await,
        });
    }

    all
}
