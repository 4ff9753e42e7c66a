//! What a namespace may use at most.

use std::collections::BTreeMap;

use futures::future::join_all;
use gofer_core::id::{NamespaceId, RunNumber};
use gofer_core::journal::{Claim, Cluster, Journal, JournalError, NewRun};
use gofer_core::pipeline::Overlap;
use gofer_core::quota::{QuotaExceeded, QuotaKind};
use gofer_core::run::{LogState, RunState};

use super::JournalFixture;
use super::fixture::{
    OWNER, TTL, at, claim_one, finish, insert, keys, last_event, load, namespace, new_run, simple,
    spec,
};

/// How many inserts are under way at once.
const AT_ONCE: usize = 12;

/// A run beyond those of its minute is refused with what there is, and takes neither number nor
/// event; the next minute's is not.
pub async fn runs_beyond_those_of_a_minute_are_refused_and_nothing_changes(
    fixture: &dyn JournalFixture,
) {
    let journal = fixture.backend();
    for name in ["one", "other"] {
        simple(fixture, name, None, Overlap::Queue).await;
    }

    fixture.set_quota(&namespace(), QuotaKind::RunsPerMinute, 3).await;
    // The fixed moment is 20 seconds into its minute.
    for (name, seconds) in [("one", 0), ("other", 1), ("one", 39)] {
        insert(&*journal, name, seconds).await;
    }

    let before = last_event(fixture).await;
    for name in ["one", "other"] {
        let refused =
            refused(journal.insert_run(new_run(name, 39)).await.map(|inserted| inserted.run.key));
        assert_eq!(refused, exceeded(QuotaKind::RunsPerMinute, 3, 3, 1));
    }

    assert_eq!(last_event(fixture).await, before, "nothing happened");
    let run = insert(&*journal, "one", 40).await;
    assert_eq!(run.key.run, RunNumber(3), "a run that was refused takes no number");
}

/// Bytes of variables count per minute, and hold up only runs that have many.
pub async fn bytes_of_large_runs_beyond_those_of_a_minute_are_refused(
    fixture: &dyn JournalFixture,
) {
    let journal = fixture.backend();
    simple(fixture, "ci", None, Overlap::Queue).await;
    fixture.set_quota(&namespace(), QuotaKind::RunBytesPerMinute, 20_000).await;
    let large =
        || NewRun { variables: [("A".to_owned(), "x".repeat(9_999))].into(), ..new_run("ci", 0) };
    for _ in 0..2 {
        journal.insert_run(large()).await.expect("within the quota");
    }
    let refused = refused(journal.insert_run(large()).await.map(|inserted| inserted.run.key));
    assert_eq!(refused, exceeded(QuotaKind::RunBytesPerMinute, 20_000, 20_000, 10_000));
    insert(&*journal, "ci", 0).await;
    journal.insert_run(NewRun { at: at(40), ..large() }).await.expect("in the next minute");
}

/// A run that would wait is refused when as many wait as may, whatever their pipelines; when one
/// begins there is room.
pub async fn pending_runs_beyond_the_quota_are_refused(fixture: &dyn JournalFixture) {
    let journal = fixture.backend();
    for name in ["one", "other"] {
        simple(fixture, name, None, Overlap::Queue).await;
    }
    fixture.set_quota(&namespace(), QuotaKind::PendingRuns, 2).await;
    insert(&*journal, "one", 0).await;
    insert(&*journal, "other", 0).await;
    let refused =
        refused(journal.insert_run(new_run("one", 1)).await.map(|inserted| inserted.run.key));
    assert_eq!(refused, exceeded(QuotaKind::PendingRuns, 2, 2, 1));
    claim_one(&*journal, 2).await;
    insert(&*journal, "one", 3).await;
}

/// A run that is claimed as it is inserted waits for nothing.
pub async fn a_run_that_begins_at_once_is_not_held_against_those_that_wait(
    fixture: &dyn JournalFixture,
) {
    let journal = fixture.backend();
    simple(fixture, "narrow", Some(1), Overlap::Queue).await;
    simple(fixture, "ci", None, Overlap::Queue).await;
    fixture.set_quota(&namespace(), QuotaKind::PendingRuns, 1).await;
    for _ in 0..2 {
        journal.insert_run(begins("narrow")).await.expect("the first begins, the second waits");
    }
    let run = journal.insert_run(begins("ci")).await.expect("it begins").run;
    assert_eq!(run.state, RunState::Running);
    let refused =
        refused(journal.insert_run(begins("narrow")).await.map(|inserted| inserted.run.key));
    assert_eq!(refused.quota, QuotaKind::PendingRuns);
}

/// Beyond the quota of active runs a run waits, whether it is claimed as it is inserted or later,
/// until one has ended.
pub async fn active_runs_beyond_the_quota_wait(fixture: &dyn JournalFixture) {
    let journal = fixture.backend();
    for name in ["one", "other"] {
        simple(fixture, name, None, Overlap::Queue).await;
    }

    fixture.set_quota(&namespace(), QuotaKind::ActiveRuns, 2).await;
    let first =
        journal.insert_run(begins("one")).await.expect("insert_run").claimed.expect("it begins").0;
    insert(&*journal, "other", 0).await;

    let waiting = insert(&*journal, "other", 1).await;
    assert_eq!(
        journal.claim(OWNER, at(2), TTL, 10.into()).await.expect("claim").len(),
        1,
        "one of the two"
    );

    let third = journal.insert_run(begins("one")).await.expect("insert_run");
    assert_eq!((third.run.state, third.claimed.is_some()), (RunState::Pending, false));
    assert!(journal.claim(OWNER, at(3), TTL, 10.into()).await.expect("claim").is_empty());

    finish(&*journal, &first, LogState::Lost, 4).await;
    let claimed = journal.claim(OWNER, at(5), TTL, 10.into()).await.expect("claim");
    assert_eq!(keys(&claimed).len(), 1, "as many as ended");
    assert_eq!(
        load(&*journal, &waiting.key).await.run.state,
        RunState::Pending,
        "its pipeline has one more than the other"
    );
}

/// What one namespace uses and may use is not another's.
pub async fn a_quota_is_its_own_namespaces(fixture: &dyn JournalFixture) {
    let journal = fixture.backend();
    simple(fixture, "ci", None, Overlap::Queue).await;
    let other = NamespaceId::new("other").expect("a valid namespace");
    fixture.add_namespace(&other).await;
    fixture.add_pipeline(&other, spec("ci", &["build"], None, Overlap::Queue)).await;

    for quota in [QuotaKind::RunsPerMinute, QuotaKind::PendingRuns, QuotaKind::ActiveRuns] {
        fixture.set_quota(&namespace(), quota, 1).await;
    }

    insert(&*journal, "ci", 0).await;
    assert!(journal.insert_run(new_run("ci", 0)).await.is_err());
    for _ in 0..3 {
        journal
            .insert_run(NewRun { namespace: other.clone(), ..new_run("ci", 0) })
            .await
            .expect("it has quotas of its own");
    }

    assert_eq!(journal.claim(OWNER, at(1), TTL, 10.into()).await.expect("claim").len(), 4);
}

/// However many are inserted at once, of different pipelines, too.
pub async fn of_concurrent_inserts_no_quota_is_exceeded(fixture: &dyn JournalFixture) {
    let names: Vec<String> = (0..4).map(|at| format!("p{at}")).collect();
    for name in &names {
        simple(fixture, name, None, Overlap::Queue).await;
    }

    for (quota, limit) in [(QuotaKind::PendingRuns, 5), (QuotaKind::RunsPerMinute, 7)] {
        fixture.set_quota(&namespace(), quota, limit).await;
        let inserting = (0..AT_ONCE).map(|nth| {
            let (journal, new) = (fixture.backend(), new_run(&names[nth % names.len()], 0));
            tokio::spawn(async move { journal.insert_run(new).await })
        });

        let mut inserted = 0;
        for joined in join_all(inserting).await {
            match joined.expect("no panic") {
                Ok(_) => inserted += 1,
                Err(JournalError::Quota(refused)) => {
                    assert_eq!((refused.quota, refused.limit), (quota, limit))
                }
                Err(error) => panic!("{error:?}"),
            }
        }

        // Of the second round those of the first are of the same minute.
        let expected = if quota == QuotaKind::PendingRuns { 5 } else { 2 };
        assert_eq!(inserted, expected, "{quota}");
        let journal = fixture.backend();
        journal.claim(OWNER, at(1), TTL, 100.into()).await.expect("claim");
    }
}

/// However many are inserted and claimed at once.
pub async fn of_concurrent_inserts_and_claims_no_more_are_active_than_may_be(
    fixture: &dyn JournalFixture,
) {
    let names: Vec<String> = (0..4).map(|at| format!("p{at}")).collect();
    for name in &names {
        simple(fixture, name, None, Overlap::Queue).await;
        insert(&*fixture.backend(), name, 0).await;
    }

    fixture.set_quota(&namespace(), QuotaKind::ActiveRuns, 3).await;
    let working = (0..AT_ONCE).map(|nth| {
        let (journal, new) = (fixture.backend(), begins(&names[nth % names.len()]));
        tokio::spawn(async move {
            let inserted = journal.insert_run(new).await.expect("insert_run").claimed.is_some();
            let claimed =
                journal.claim(&format!("server-{nth}"), at(1), TTL, 2.into()).await.expect("claim");
            usize::from(inserted) + claimed.len()
        })
    });

    let mut active = 0;
    for joined in join_all(working).await {
        active += joined.expect("no panic");
    }

    assert_eq!(active, 3);
}

/// A server counts from its first sign of life until the last one runs out, or it gives up what it
/// holds.
pub async fn a_server_counts_until_its_heartbeat_runs_out(fixture: &dyn JournalFixture) {
    let journal = fixture.backend();
    assert_eq!(cluster(&*journal, OWNER, 0).await.servers, 1);
    assert_eq!(cluster(&*journal, "server-2", 10).await.servers, 2);
    assert_eq!(cluster(&*journal, OWNER, 29).await.servers, 2, "the other's is good until 40");
    assert_eq!(cluster(&*journal, OWNER, 40).await.servers, 1, "it ran out");
    assert_eq!(cluster(&*journal, "server-2", 41).await.servers, 2);
    journal.release("server-2").await.expect("release");
    assert_eq!(cluster(&*journal, OWNER, 42).await.servers, 1);
}

/// The limits of executions that namespaces have of their own are told, and whether there is more
/// than one namespace.
pub async fn limits_of_executions_are_told_with_the_heartbeat(fixture: &dyn JournalFixture) {
    let journal = fixture.backend();
    simple(fixture, "ci", None, Overlap::Queue).await;
    let told = cluster(&*journal, OWNER, 0).await;
    assert_eq!((told.namespaces, told.executions_of), (1, BTreeMap::new()));
    assert_eq!(told.executions, QuotaKind::Executions.default_limit());
    let other = NamespaceId::new("other").expect("a valid namespace");
    fixture.add_namespace(&other).await;
    fixture.add_pipeline(&other, spec("ci", &["build"], None, Overlap::Queue)).await;
    fixture.set_quota(&other, QuotaKind::Executions, 7).await;
    fixture.set_quota(&namespace(), QuotaKind::Secrets, 7).await;
    let told = cluster(&*journal, OWNER, 1).await;
    assert_eq!((told.namespaces, told.executions_of), (2, BTreeMap::from([(other, 7)])));
}

/// A run to insert that is claimed at once if its turn has come.
fn begins(pipeline: &str) -> NewRun {
    let claim = Claim { owner: OWNER.to_owned(), ttl: TTL, most: 100, first: None };
    NewRun { claim: Some(claim), ..new_run(pipeline, 0) }
}

fn refused<T: std::fmt::Debug>(result: Result<T, JournalError>) -> QuotaExceeded {
    match result {
        Err(JournalError::Quota(refused)) => refused,
        other => panic!("not refused: {other:?}"),
    }
}

fn exceeded(quota: QuotaKind, limit: u64, used: u64, wanted: u64) -> QuotaExceeded {
    QuotaExceeded { quota, namespace: namespace(), limit, used, wanted }
}

async fn cluster(journal: &dyn Journal, owner: &str, seconds: i64) -> Cluster {
    journal.heartbeat(owner, at(seconds), TTL).await.expect("heartbeat")
}
