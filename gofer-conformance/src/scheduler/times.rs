//! When things happened, and deadlines.

use std::time::Duration;

use gofer_core::scheduler::{ExecutionSpec, ExecutionState, ExecutionTimes};
use gofer_core::time::Timestamp;

use super::{SchedulerHarness, ended, exited, last, running, start};

/// A timeout that is soon over.
const SOON: Duration = Duration::from_millis(300);
/// A timeout that no case lives to see the end of.
const LONG: Duration = Duration::from_secs(3_600);
/// The clocks of two machines may differ by this much, and Nomad's and a file system's are coarse.
const SKEW: Duration = Duration::from_secs(2);

/// An execution that ended says when it began and ended, by the execution's own clock.
pub async fn an_end_has_its_own_times(harness: &dyn SchedulerHarness) {
    let scheduler = harness.backend();
    let earliest = Timestamp::now().before(SKEW);
    for spec in [harness.workloads().exit(0), harness.workloads().exit(3)] {
        let id = start(&*scheduler, &spec).await;
        let times = last(&*scheduler, &id).await.times;
        let latest = Timestamp::now().after(SKEW);
        let (started_at, ended_at) =
            (times.started_at.expect("it ran"), times.ended_at.expect("it has ended"));
        assert!(
            earliest <= started_at && started_at <= ended_at && ended_at <= latest,
            "{times:?} until {latest}"
        );

        let ran = times.run_time().expect("it ran");
        assert!(ran <= latest.since(earliest), "it ran {ran:?}");
        assert_eq!(last(&*scheduler, &id).await.times, times, "its times are for good");
    }
}

/// An execution that runs says since when.
pub async fn what_runs_has_begun(harness: &dyn SchedulerHarness) {
    let (scheduler, workloads) = (harness.backend(), harness.workloads());
    let id = start(&*scheduler, &workloads.gated(b"waiting\n", "end", b"")).await;
    running(&*scheduler, &id).await;
    let times = scheduler.state(&id).await.expect("state").times;
    assert!(
        times.started_at.is_some() && times.ended_at.is_none() && times.ran.is_none(),
        "{times:?}"
    );
    workloads.release("end").await;
    let after = last(&*scheduler, &id).await.times;
    assert_same_start(after, times);
}

/// An end may come from another part of a backend than what was told before, by other words for the
/// same moment.
#[track_caller]
fn assert_same_start(end: ExecutionTimes, before: ExecutionTimes) {
    let (end, before) = (end.started_at.expect("it ran"), before.started_at.expect("it ran"));
    assert!(end.since(before).max(before.since(end)) < SKEW, "{end} after {before}");
}

/// An execution that never ran has no beginning.
pub async fn what_never_ran_has_no_run_time(harness: &dyn SchedulerHarness) {
    let scheduler = harness.backend();
    let id = start(&*scheduler, &harness.workloads().command_not_found()).await;
    assert_eq!(last(&*scheduler, &id).await.times.run_time(), None);
}

/// Where the capability says so, an execution that runs longer than its timeout is stopped without
/// anybody asking.
pub async fn a_timeout_is_held_where_the_execution_runs(harness: &dyn SchedulerHarness) {
    let scheduler = harness.backend();
    if !scheduler.capabilities().deadlines {
        return;
    }
    let id = start(&*scheduler, &soon_over(harness)).await;
    let end = last(&*scheduler, &id).await;
    assert_eq!(end.state, ExecutionState::Stopped);
    assert!(end.times.run_time().is_some_and(|ran| ran > SOON), "{end:?}");
}

/// An execution that ends before its timeout ended by itself, and ran for less than that.
pub async fn an_end_before_the_timeout_is_its_own(harness: &dyn SchedulerHarness) {
    let scheduler = harness.backend();
    let mut spec = harness.workloads().exit(3);
    spec.timeout = Some(LONG);
    let id = start(&*scheduler, &spec).await;
    let end = last(&*scheduler, &id).await;
    assert_eq!(end.state, exited(3));
    assert!(end.times.run_time().is_some_and(|ran| ran <= LONG), "{end:?}");
}

/// Runs until it is stopped, which its timeout does soon.
fn soon_over(harness: &dyn SchedulerHarness) -> ExecutionSpec {
    ExecutionSpec { timeout: Some(SOON), ..harness.workloads().until_stopped() }
}

/// The times of an end do not depend on when, and by which server, it is asked for.
pub(super) async fn stay_the_same(harness: &mut dyn SchedulerHarness) {
    let scheduler = harness.backend();
    let ended_before = start(&*scheduler, &harness.workloads().exit(0)).await;
    let runs_on = start(&*scheduler, &harness.workloads().gated(b"waiting\n", "end", b"")).await;
    let before = last(&*scheduler, &ended_before).await;
    running(&*scheduler, &runs_on).await;

    let since = scheduler.state(&runs_on).await.expect("state").times;
    drop(scheduler);
    harness.restart().await;
    let scheduler = harness.backend();
    assert_eq!(last(&*scheduler, &ended_before).await, before);
    assert_eq!(scheduler.state(&runs_on).await.expect("state").times, since);
    harness.workloads().release("end").await;

    let times = last(&*scheduler, &runs_on).await.times;
    assert_same_start(times, since);
    assert!(times.ended_at > times.started_at, "{times:?}");
}

/// A deadline does not need the server that started the execution.
pub(super) async fn held_over_a_restart(harness: &mut dyn SchedulerHarness) {
    let scheduler = harness.backend();
    if !scheduler.capabilities().deadlines {
        return;
    }
    let id = start(&*scheduler, &soon_over(harness)).await;
    drop(scheduler);
    harness.restart().await;
    assert_eq!(ended(&*harness.backend(), &id).await, ExecutionState::Stopped);
}
