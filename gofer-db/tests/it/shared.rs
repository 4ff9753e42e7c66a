//! Several servers on one PostgreSQL database: who may connect, and what they tell each other.

use std::time::Duration;

use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _};
use gofer_core::journal::{Hint, Hints, Leases, Runs};
use gofer_core::run::CancelRequest;
use gofer_db::{Db, DbConfig, DbError};

use crate::engines::{Place, administer};
use crate::setup::{at, claim, insert, register};

const PATIENCE: Duration = Duration::from_secs(20);

async fn shared(place: &Place) -> Db {
    Db::connect(DbConfig { shared: true, ..place.config() }).await.expect("connect")
}

async fn next(hints: &mut BoxStream<'static, Hint>) -> Option<Hint> {
    tokio::time::timeout(PATIENCE, hints.next()).await.expect("a hint within 20 s")
}

/// Those that share keep out one that does not, and the other way round.
#[tokio::test(flavor = "multi_thread")]
async fn servers_that_share_a_database_keep_out_one_that_does_not() {
    let Some(place) = Place::postgres().await else { return };
    let (first, second) = (shared(&place).await, shared(&place).await);
    let refused = place.connect().await.unwrap_err();
    assert!(matches!(refused, DbError::Locked { .. }), "{refused:?}");
    first.close().await;
    assert!(matches!(place.connect().await, Err(DbError::Locked { .. })), "the second is there");
    second.close().await;
    let alone = place.open().await;
    let refused = Db::connect(DbConfig { shared: true, ..place.config() }).await.unwrap_err();
    assert!(matches!(refused, DbError::Locked { .. }), "{refused:?}");
    alone.close().await;
}

/// All have one clock, which is not their hosts'.
#[tokio::test(flavor = "multi_thread")]
async fn those_that_share_a_database_share_its_clock() {
    let Some(place) = Place::postgres().await else { return };
    let (one, other) = (shared(&place).await, shared(&place).await);
    let mut times = Vec::new();
    for db in [&one, &other, &one, &other] {
        times.push(db.clock().await.unwrap().expect("a time for all"));
    }
    assert!(times.is_sorted(), "{times:?}");
    assert!(times[3].since(times[0]) < PATIENCE, "in microseconds: {times:?}");
    let alone = Place::sqlite().open().await;
    assert_eq!(alone.clock().await.unwrap(), None, "nobody else can use it");
}

/// A server hears of the others' runs, wishes and events, and of its own only the wishes.
#[tokio::test(flavor = "multi_thread")]
async fn each_hears_what_the_others_commit() {
    let Some(place) = Place::postgres().await else { return };
    let (one, other) = (shared(&place).await, shared(&place).await);
    let (mut own, mut heard) =
        (one.subscribe_hints().await.unwrap(), other.subscribe_hints().await.unwrap());
    register(&one, "ci", &["a"]).await;
    assert_eq!(next(&mut heard).await, Some(Hint::Committed));

    let run = insert(&one, "ci", 1).await;
    assert_eq!(next(&mut heard).await, Some(Hint::Claimable));
    assert_eq!(next(&mut heard).await, Some(Hint::Committed));
    claim(&other, 2).await;

    let wish =
        CancelRequest { at: at(3), by: "ada".to_owned(), force: false, message: String::new() };
    assert!(one.request_cancel(&run.key, None, wish).await.unwrap());
    assert_eq!(next(&mut heard).await, Some(Hint::Cancel(run.key.clone())));

    // Only now, so that what it had to hear is certain to have come: it hears of the claim, and of
    // its own wish.
    assert_eq!(next(&mut own).await, Some(Hint::Committed));
    assert_eq!(next(&mut own).await, Some(Hint::Cancel(run.key)));
    assert!(own.next().now_or_never().is_none());
}

/// Followers of events wake up whoever committed them.
#[tokio::test(flavor = "multi_thread")]
async fn the_newest_event_is_known_to_all() {
    let Some(place) = Place::postgres().await else { return };
    let (one, other) = (shared(&place).await, shared(&place).await);
    register(&one, "ci", &["a"]).await;
    insert(&one, "ci", 1).await;
    let newest = *one.event_watch().borrow();
    let mut watch = other.event_watch();
    let reached = tokio::time::timeout(PATIENCE, watch.wait_for(|id| *id >= newest)).await;
    assert!(reached.is_ok(), "stands at {} instead of {newest}", *other.event_watch().borrow());
}

/// A server that was cut off says so by the end of its hints, and hears again by itself.
#[tokio::test(flavor = "multi_thread")]
async fn hints_end_with_their_connection_and_can_be_followed_again() {
    let Some(place) = Place::postgres().await else { return };
    let (one, other) = (shared(&place).await, shared(&place).await);
    register(&one, "ci", &["a"]).await;
    let mut hints = other.subscribe_hints().await.unwrap();
    let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = \
               current_database() AND (query LIKE 'LISTEN%' OR query LIKE 'SELECT last FROM \
               event_counter%')";
    administer(&place.url(), cut).await;
    while next(&mut hints).await.is_some() {}
    let mut hints = other.subscribe_hints().await.unwrap();
    insert(&one, "ci", 1).await;
    assert_eq!(next(&mut hints).await, Some(Hint::Claimable));
}
