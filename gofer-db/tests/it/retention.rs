//! The end of versions and events, and of many runs. Of runs one by one: the journal's suite.

use gofer_core::event::{EventDetails, NewEvent, Subject};
use gofer_core::journal::{Expirable, Expiry, Logs, Retention, Runs};
use gofer_core::quota::QuotaKind;
use gofer_core::run::{LogState, RunStatus};
use gofer_core::{Attempt, ExecutionId, Version};
use gofer_db::{Db, EventFilter};

use crate::engines::{Place, on_both_engines};
use crate::setup::{
    all, at, claim, default, finish, insert, keep_all, last_event, new_run, pl, register, task,
    types_after,
};

on_both_engines! {
    versions_that_no_kept_run_is_of_expire
    events_expire_and_their_ids_are_not_used_again
    many_runs_expire_in_transactions_of_few
    the_oldest_logs_go_when_a_namespace_has_more_than_it_may
}

/// Deletes all that expires, page by page; what that was.
async fn expire_all(db: &Db, policy: &Retention) -> Vec<Expirable> {
    let mut gone = Vec::new();
    loop {
        let page = db.expirable(policy, 100).await.unwrap();
        if page.is_empty() {
            return gone;
        }
        for what in &page {
            db.expired(what, at(1_000)).await.unwrap();
        }
        gone.extend(page);
        assert!(gone.len() < 1_000, "it does not end: {gone:?}");
    }
}

async fn versions(db: &Db) -> Vec<u64> {
    let listed = db.pipeline_version_list(&default(), &pl("ci"), &all()).await.unwrap();
    listed.items.iter().map(|version| version.version.0).collect()
}

async fn versions_that_no_kept_run_is_of_expire(place: Place) {
    let db = place.open().await;
    for _ in 0..5 {
        register(&db, "ci", &["a"]).await;
    }

    let mut of_second = new_run(&default(), "ci", 0);
    of_second.version = Some(Version(2));
    db.insert_run(of_second).await.unwrap();
    let before = last_event(&db);
    let policy = Retention { keep_versions: 2, ..keep_all() };
    let gone = expire_all(&db, &policy).await;

    assert_eq!(versions(&db).await, [5, 4, 2], "{gone:?}");
    assert_eq!(types_after(&db, before).await, ["pipeline_versions_expired"]);
    assert_eq!(db.quota_get(&default(), QuotaKind::PipelineVersions, at(0)).await.unwrap().used, 3);

    // Of a page that was read before, what has come into use meanwhile stays.
    let found = db.expirable(&Retention { keep_versions: 1, ..keep_all() }, 100).await.unwrap();
    let mut of_fourth = new_run(&default(), "ci", 1);
    of_fourth.version = Some(Version(4));
    db.insert_run(of_fourth).await.unwrap();

    for what in &found {
        db.expired(what, at(1_000)).await.unwrap();
    }

    assert_eq!(versions(&db).await, [5, 4, 2], "{found:?}");
    let none = expire_all(&db, &Retention { keep_versions: 0, ..keep_all() }).await;
    assert_eq!(none, [], "the latest stays");
}

async fn events_expire_and_their_ids_are_not_used_again(place: Place) {
    let db = place.open().await;
    register(&db, "ci", &["a"]).await;
    for seconds in 1..4 {
        insert(&db, "ci", seconds).await;
    }

    let (last, day) = (last_event(&db), 24 * 3600);
    let policy = |seconds| Retention { events_before: at(seconds), ..keep_all() };
    assert_eq!(expire_all(&db, &policy(3)).await, [], "a few wait for company");
    let gone = expire_all(&db, &policy(3 + day)).await;
    assert_eq!(gone, [Expirable::Events { up_to: last }]);

    let left = db.event_list_after(0, &EventFilter::default(), 10).await.unwrap();
    assert_eq!(
        left.iter().map(|event| event.id).collect::<Vec<_>>(),
        [last + 1],
        "that they were deleted is an event"
    );
    assert_eq!(db.event_oldest().await.unwrap(), last + 1);
    insert(&db, "ci", 9).await;
    assert_eq!(last_event(&db), last + 2);
}

/// No transaction deletes more than fifty runs, and what is left is found again.
async fn many_runs_expire_in_transactions_of_few(place: Place) {
    let db = place.open().await;
    register(&db, "ci", &["a"]).await;
    for _ in 0..120 {
        insert(&db, "ci", 0).await;
    }

    for lease in claim(&db, 1).await {
        finish(&db, &lease, &task("a"), RunStatus::Successful, 2).await;
        let id = ExecutionId { run: lease.run, task: task("a"), attempt: Attempt::FIRST };
        assert!(db.set_log_state(&id, LogState::Live, LogState::Lost, None).await.unwrap());
    }

    let gone = expire_all(&db, &Retention { keep_runs: 10, ..keep_all() }).await;
    let sizes: Vec<usize> = gone
        .iter()
        .map(|what| match what {
            Expirable::Runs { runs, .. } => runs.len(),
            other => panic!("{other:?}"),
        })
        .collect();

    assert_eq!(sizes.iter().sum::<usize>(), 110);
    assert!(sizes.iter().all(|size| *size <= 50), "{sizes:?}");
    assert_eq!(insert(&db, "ci", 3).await.key.run.0, 121);
}

async fn the_oldest_logs_go_when_a_namespace_has_more_than_it_may(place: Place) {
    let db = place.open().await;
    register(&db, "ci", &["a"]).await;
    let mut logs = Vec::new();

    for nth in 0..4 {
        insert(&db, "ci", nth).await;
        let lease = claim(&db, nth).await.remove(0);
        finish(&db, &lease, &task("a"), RunStatus::Successful, nth).await;
        let id = ExecutionId { run: lease.run, task: task("a"), attempt: Attempt::FIRST };
        let event = NewEvent {
            at: at(nth),
            actor: "gofer".to_owned(),
            subject: Subject::of_execution(&id),
            details: EventDetails::LogArchived { size_bytes: 100 },
        };

        assert!(
            db.set_log_state(&id, LogState::Live, LogState::Archived, Some(event)).await.unwrap()
        );
        logs.push(Expirable::Log(id));
    }

    let used = async || db.quota_get(&default(), QuotaKind::LogBytes, at(0)).await.unwrap().used;
    assert_eq!((used().await, expire_all(&db, &keep_all()).await), (400, Vec::new()));
    db.quota_set(&default(), &[(QuotaKind::LogBytes, Some(250))], "ada", at(0)).await.unwrap();
    assert_eq!(expire_all(&db, &keep_all()).await, logs[..2]);
    assert_eq!(used().await, 200);
}
