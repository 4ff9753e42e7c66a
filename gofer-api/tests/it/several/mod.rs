//! Several servers on one PostgreSQL database.

mod fleet;

use std::time::Duration;

use futures::StreamExt as _;
use gofer_conformance::MemoryScheduler;
use gofer_core::Timestamp;
use gofer_core::run::{CancelRequest, RunStatus};
use gofer_core::scheduler::{ExecutionTimes, LogCursor, ReportedEnd};

use crate::harness::{SOON, eventually};
use fleet::{Fleet, LONG, SHORT, chain, execution};

/// Long before a lease of [`LONG`] runs out: only a hint of the other server can be this fast.
const PROMPTLY: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn work_is_shared_and_done_once() {
    let Some(fleet) = Fleet::create("several::work_is_shared_and_done_once", LONG).await else {
        return;
    };

    let servers =
        [fleet.server("one").await, fleet.server("two").await, fleet.server("three").await];
    servers[0].register(chain("ci", &[&["print first", "wait gate"], &["print second"]])).await;
    let mut keys = Vec::new();

    for at in 0..30 {
        keys.push(servers[at % 3].start_run("ci").await);
    }

    for server in &servers {
        server.drives(10).await;
    }

    fleet.scheduler.release("gate");
    for (at, key) in keys.iter().enumerate() {
        servers[(at + 1) % 3].ended(key, RunStatus::Successful).await;
    }

    fleet.is_tidy().await;
    for key in &keys {
        assert_eq!([0, 1].map(|at| fleet.scheduler.starts(&execution(key, at))), [1, 1], "{key}");
    }

    assert_eq!(servers[1].events("run_completed").await, 30);
    assert_eq!(servers[1].events("task_run_starting").await, 60);

    // Two attempts of each run have a log; each was archived by one server.
    eventually("each log is archived", || async {
        let archived = servers[2].events("log_archived").await;
        if archived == 60 { Ok(()) } else { Err(archived) }
    })
    .await;

    let puts = fleet.objects.puts();
    assert!(puts.len() == 60 && puts.values().all(|count| *count == 1), "{puts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_runs_of_a_killed_server_go_on_elsewhere() {
    let Some(fleet) =
        Fleet::create("several::the_runs_of_a_killed_server_go_on_elsewhere", SHORT).await
    else {
        return;
    };

    let (one, two) = (fleet.server("one").await, fleet.server("two").await);
    one.register(chain("ci", &[&["print first", "wait gate"], &["print second"]])).await;
    let keys = [one.start_run("ci").await, one.start_run("ci").await, one.start_run("ci").await];

    for key in &keys {
        started(&fleet, key).await;
    }

    drop(one);
    two.drives(3).await;
    fleet.scheduler.release("gate");

    for key in &keys {
        two.ended(key, RunStatus::Successful).await;
        assert_eq!([0, 1].map(|at| fleet.scheduler.starts(&execution(key, at))), [1, 1], "{key}");
    }

    fleet.is_tidy().await;
    assert_eq!(two.events("run_completed").await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_frozen_server_writes_too_late_is_refused() {
    let test = "several::what_a_frozen_server_writes_too_late_is_refused";
    let Some(fleet) = Fleet::create(test, SHORT).await else { return };
    let (one, two) = (fleet.server("one").await, fleet.server("two").await);
    one.register(chain(
        "ci",
        &[&["print first", "wait gate"], &["print second", "wait gate"], &["print third"]],
    ))
    .await;

    let keys = [one.start_run("ci").await, one.start_run("ci").await, one.start_run("ci").await];
    for key in &keys {
        started(&fleet, key).await;
    }

    let frozen = one.freeze().await;
    two.drives(3).await;

    // The frozen one has all of this still to hear, and believes that the leases are its own.
    fleet.scheduler.release("gate");
    for key in &keys {
        two.ended(key, RunStatus::Successful).await;
    }

    let completed = two.events("task_run_completed").await;
    drop(frozen);
    one.drives(0).await;

    // It is as good as before.
    let key = one.start_run("ci").await;
    two.ended(&key, RunStatus::Successful).await;
    fleet.is_tidy().await;

    for key in keys.iter().chain([&key]) {
        assert_eq!(
            [0, 1, 2].map(|at| fleet.scheduler.starts(&execution(key, at))),
            [1; 3],
            "{key}"
        );
    }

    assert_eq!(completed, 9);
    assert_eq!(two.events("task_run_completed").await, 12);
    assert_eq!(two.events("run_completed").await, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_through_another_server_takes_effect_at_once() {
    let test = "several::a_cancel_through_another_server_takes_effect_at_once";
    let Some(fleet) = Fleet::create(test, LONG).await else { return };
    let (one, two) = (fleet.server("one").await, fleet.server("two").await);
    one.register(chain("ci", &[&["forever"]])).await;

    let key = one.start_run("ci").await;
    started(&fleet, &key).await;
    assert_eq!((one.active_runs(), two.active_runs()), (1, 0));
    let wish = CancelRequest {
        at: Timestamp::now(),
        by: "test".to_owned(),
        force: true,
        message: "enough".to_owned(),
    };

    let cancelled = key.clone();
    let changed = two
        .within(|engine, _| async move { engine.cancel_run(&cancelled, wish).await })
        .await
        .unwrap();
    assert!(changed);

    let ended = tokio::time::timeout(PROMPTLY, two.ended(&key, RunStatus::Cancelled)).await;
    assert!(ended.is_ok(), "not cancelled within {PROMPTLY:?}: {:?}", two.run(&key).await);
    fleet.is_tidy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_another_server_is_told_of_counts_at_once() {
    let test = "several::an_end_that_another_server_is_told_of_counts_at_once";
    let Some(fleet) = Fleet::create(test, LONG).await else { return };
    let (one, two) = (fleet.server("one").await, fleet.server("two").await);
    one.register(chain("ci", &[&["forever"]])).await;

    for (code, status) in [(0, RunStatus::Successful), (3, RunStatus::Failed)] {
        let key = one.start_run("ci").await;
        started(&fleet, &key).await;
        one.drives(1).await;
        assert_eq!(two.active_runs(), 0);

        let token = MemoryScheduler::token(&execution(&key, 0));
        let end = ReportedEnd { code, signal: None, times: ExecutionTimes::UNKNOWN };
        two.within(|engine, _| async move { engine.report_end(&token, end).await }).await.unwrap();
        let ended = tokio::time::timeout(PROMPTLY, one.ended(&key, status)).await;
        assert!(ended.is_ok(), "not over within {PROMPTLY:?}: {:?}", one.run(&key).await);
    }

    // Whom nobody drives, nobody hears of; and what is no token is refused.
    let token = secrecy::SecretString::from("memory.default/ci/9/t0/1.token");
    let end = ReportedEnd { code: 0, signal: None, times: ExecutionTimes::UNKNOWN };
    let refused = two.within(|engine, _| async move { engine.report_end(&token, end).await }).await;
    assert!(refused.is_err());
    fleet.is_tidy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_and_events_are_followed_through_any_server() {
    let test = "several::logs_and_events_are_followed_through_any_server";
    let Some(fleet) = Fleet::create(test, LONG).await else { return };
    let (one, two) = (fleet.server("one").await, fleet.server("two").await);
    one.register(chain("ci", &[&["print before", "wait gate", "print after"]])).await;

    let key = one.start_run("ci").await;
    let id = execution(&key, 0);

    // Opened in the other server, perhaps before the attempt has started, and read to its end.
    let mut log = two
        .within(|engine, _| async move { engine.logs(&id, LogCursor::default(), true).await })
        .await
        .unwrap();
    let mut watch = two.within(|_, db| async move { db.event_watch() }).await;
    let mut text = Vec::new();

    while let Some(chunk) =
        tokio::time::timeout(SOON, log.next()).await.expect("the log goes on within 30 s")
    {
        text.extend_from_slice(&chunk.unwrap().data);
        if text == b"before\n" {
            fleet.scheduler.release("gate");
        }
    }

    assert_eq!(String::from_utf8(text).unwrap(), "before\nafter\n");
    one.ended(&key, RunStatus::Successful).await;
    let newest = *one.within(|_, db| async move { db.event_watch() }).await.borrow();
    let reached = tokio::time::timeout(SOON, watch.wait_for(|id| *id >= newest)).await.is_ok();
    assert!(reached, "the other server knows of event {} instead of {newest}", *watch.borrow());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_for_all_is_done_by_one() {
    let Some(fleet) = Fleet::create("several::what_is_for_all_is_done_by_one", SHORT).await else {
        return;
    };

    let first = fleet.server("first").await;
    first.register(chain("ci", &[&["print first"], &["print second"]])).await;
    let mut keys = Vec::new();

    for _ in 0..5 {
        keys.push(first.start_run("ci").await);
    }

    for key in &keys {
        first.ended(key, RunStatus::Successful).await;
    }

    eventually("each log is archived", || async {
        let archived = first.events("log_archived").await;
        if archived == 10 { Ok(()) } else { Err(archived) }
    })
    .await;

    // Dead without giving up its lead; of the others, for whom all logs are old, one gets it.
    drop(first);
    let expire = |config: &mut gofer_engine::EngineConfig| config.log_retention = Duration::ZERO;
    let others = [
        fleet.server_with("two", expire).await,
        fleet.server_with("three", expire).await,
        fleet.server_with("four", expire).await,
    ];

    eventually("all logs are expired", || async {
        let expired = others[0].events("log_expired").await;
        if expired == 10 { Ok(()) } else { Err(expired) }
    })
    .await;

    // New logs are archived by who drove the run, once.
    let key = others[1].start_run("ci").await;
    others[2].ended(&key, RunStatus::Successful).await;
    eventually("the new logs are archived", || async {
        let archived = others[0].events("log_archived").await;
        if archived == 12 { Ok(()) } else { Err(archived) }
    })
    .await;
    assert_eq!(others[0].events("log_expired").await, 10, "retention walks every ten minutes");

    let deletes = fleet.objects.deletes();
    assert!(deletes.len() == 10 && deletes.values().all(|count| *count == 1), "{deletes:?}");
    assert!(fleet.objects.puts().values().all(|count| *count == 1), "{:?}", fleet.objects.puts());
}

/// Waits until the run's first execution is there.
async fn started(fleet: &Fleet, key: &gofer_core::RunKey) {
    let id = execution(key, 0);
    eventually("the first task is started", || async {
        match fleet.scheduler.starts(&id) {
            1 => Ok(()),
            other => Err(other),
        }
    })
    .await;
}
