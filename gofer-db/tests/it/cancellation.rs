//! Callers that go away leave nothing half done and nothing locked.

use std::time::Duration;

use futures::FutureExt as _;
use gofer_conformance::eventually;
use gofer_core::journal::{Leases, Runs};

use crate::engines::{Place, on_both_engines};
use crate::setup::{at, claim, default, insert, new_run, ns, register};

on_both_engines! {
    abandoned_calls_leave_nothing_locked
    calls_cut_short_at_any_moment_leave_nothing_locked
}

/// Polled once and dropped.
async fn abandoned_calls_leave_nothing_locked(place: Place) {
    let db = place.open().await;
    register(&db, "ci", &["a"]).await;
    for round in 0..30 {
        drop(db.insert_run(new_run(&default(), "ci", round)).now_or_never());
        drop(db.claim("gone", at(round), Duration::from_secs(1), 1.into()).now_or_never());
        drop(db.namespace_create(&ns(&format!("n{round}")), "", "ada", at(round)).now_or_never());
        drop(db.namespace_get(&default()).now_or_never());
    }
    still_works(&db).await;
}

/// Dropped after some microseconds, which is in the middle of something.
async fn calls_cut_short_at_any_moment_leave_nothing_locked(place: Place) {
    let db = place.open().await;
    register(&db, "ci", &["a"]).await;
    for round in 0..100 {
        let limit = Duration::from_micros(20 * round);
        let _ = tokio::time::timeout(limit, db.insert_run(new_run(&default(), "ci", round as i64)))
            .await;
        let _ = tokio::time::timeout(
            limit,
            db.claim("gone", at(round as i64), Duration::from_secs(1), 2.into()),
        )
        .await;
    }
    still_works(&db).await;
}

async fn still_works(db: &gofer_db::Db) {
    let last = insert(db, "ci", 1_000).await;
    let runs = claim(db, 1_000).await;
    assert!(runs.iter().any(|lease| lease.run == last.key), "{runs:?}");
    // What was abandoned goes on behind our back, and may only now come to its run.
    eventually("every run that was inserted is claimed", async || {
        claim(db, 1_000).await;
        let pending = db.run_counts().await.unwrap().pending_runs;
        if pending == 0 { Ok(()) } else { Err(format!("{pending} are pending")) }
    })
    .await;
    let counts = db.run_counts().await.unwrap();
    let events = db.event_list_before(None, &Default::default(), 1).await.unwrap();
    assert_eq!(events[0].id, counts.last_event_id, "no number is lost");
}
