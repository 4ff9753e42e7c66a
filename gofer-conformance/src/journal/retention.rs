//! The end of what is kept.

use gofer_core::entity::{ObjectRecord, ObjectScope};
use gofer_core::event::EventDetails;
use gofer_core::id::{ObjectKey, RunKey, RunNumber};
use gofer_core::journal::{Expirable, Journal, JournalError, NewRun, Retention};
use gofer_core::pipeline::Overlap;
use gofer_core::run::LogState;

use super::JournalFixture;
use super::fixture::{
    at, claim_one, finish, insert, keep_all, last_event, namespace, new_events, new_run,
    pipeline_id, simple,
};

/// Of an old run the logs and objects go first, then the run itself with all its tasks; one that is
/// not complete stays, however old it is.
pub async fn old_runs_expire_when_nothing_of_them_is_left(fixture: &dyn JournalFixture) {
    let journal = fixture.backend();
    simple(fixture, "ci", None, Overlap::Queue).await;
    complete(&*journal, 3, LogState::Archived).await;
    insert(&*journal, "ci", 0).await;
    fixture.put_object_record(object(1)).await;

    // Run 1 ended at 2, run 2 at 5, run 3 at 8.
    let policy = Retention { runs_before: at(8), ..keep_all() };

    let first = journal.expirable(&policy, 10).await.expect("expirable");
    let objects = first.iter().filter(|what| matches!(what, Expirable::RunObject { .. })).count();
    let logs = first.iter().filter(|what| matches!(what, Expirable::Log(_))).count();
    assert_eq!((logs, objects, first.len()), (2, 1, 3), "{first:?}");
    assert!(!expire(&*journal, &policy).await.is_empty(), "what held bytes has none now");

    let before = last_event(fixture).await;
    let mut gone = Vec::new();
    loop {
        let found = expire(&*journal, &policy).await;
        if found.is_empty() {
            break;
        }
        gone.extend(found);
    }

    let mut runs: Vec<RunNumber> = gone.iter().flat_map(runs_of).collect();
    runs.sort_unstable();
    assert_eq!(runs, [RunNumber(1), RunNumber(2)], "{gone:?}");

    for run in 1..=2 {
        assert!(matches!(journal.load(&key(run)).await, Err(JournalError::NotFound { .. })));
    }

    for run in 3..=4 {
        journal.load(&key(run)).await.expect("it is kept");
    }

    let events = new_events(fixture, before).await;
    let counted = events.iter().map(|event| match event.details {
        EventDetails::RunsExpired { count, .. } => count,
        _ => panic!("{event:?}"),
    });

    assert_eq!(counted.sum::<u64>(), 2);
}

/// Beyond the newest runs of a pipeline, younger ones expire, too.
pub async fn runs_beyond_those_that_are_kept_expire(fixture: &dyn JournalFixture) {
    let journal = fixture.backend();
    simple(fixture, "ci", None, Overlap::Queue).await;
    complete(&*journal, 4, LogState::Lost).await;
    let policy = Retention { keep_runs: 3, ..keep_all() };
    assert_eq!(runs(&journal.expirable(&policy, 10).await.expect("expirable")), [RunNumber(1)]);
    let found =
        journal.expirable(&Retention { keep_runs: 0, ..keep_all() }, 10).await.expect("expirable");
    assert_eq!(runs(&found).len(), 4, "{found:?}");
}

/// A run that is being repeated stays until the repetition is complete.
pub async fn a_run_that_an_unfinished_one_repeats_stays(fixture: &dyn JournalFixture) {
    let journal = fixture.backend();
    simple(fixture, "ci", None, Overlap::Queue).await;
    complete(&*journal, 1, LogState::Lost).await;
    journal
        .insert_run(NewRun { retry_of: Some(RunNumber(1)), ..new_run("ci", 3) })
        .await
        .expect("insert_run");
    let policy = Retention { runs_before: at(100), ..keep_all() };
    assert_eq!(journal.expirable(&policy, 10).await.expect("expirable"), []);
    let (lease, _) = claim_one(&*journal, 4).await;
    finish(&*journal, &lease, LogState::Lost, 5).await;
    let found = journal.expirable(&policy, 10).await.expect("expirable");
    assert_eq!(runs(&found), [RunNumber(1), RunNumber(2)]);
}

/// A run that was deleted is not found, and neither its number nor anything of it comes back.
pub async fn numbers_of_expired_runs_are_not_used_again(fixture: &dyn JournalFixture) {
    let journal = fixture.backend();
    simple(fixture, "ci", None, Overlap::Queue).await;
    complete(&*journal, 2, LogState::Lost).await;
    let policy = Retention { runs_before: at(100), ..keep_all() };
    while !expire(&*journal, &policy).await.is_empty() {}
    assert_eq!(insert(&*journal, "ci", 7).await.key, key(3));
}

/// Runs `ci` so often, one after the other.
async fn complete(journal: &dyn Journal, times: i64, log: LogState) {
    for nth in 0..times {
        insert(journal, "ci", 3 * nth).await;
        let (lease, _) = claim_one(journal, 3 * nth + 1).await;
        finish(journal, &lease, log, 3 * nth + 2).await;
    }
}

/// One page of what expires, deleted.
async fn expire(journal: &dyn Journal, policy: &Retention) -> Vec<Expirable> {
    let page = journal.expirable(policy, 10).await.expect("expirable");
    for what in &page {
        journal.expired(what, at(200)).await.expect("expired");
    }
    page
}

fn runs_of(what: &Expirable) -> Vec<RunNumber> {
    match what {
        Expirable::Runs { namespace: found, pipeline, runs } => {
            assert_eq!((found, pipeline), (&namespace(), &pipeline_id("ci")));
            runs.clone()
        }
        other => panic!("not a run: {other:?}"),
    }
}

/// The runs that are to be deleted, ascending.
fn runs(found: &[Expirable]) -> Vec<RunNumber> {
    let mut runs: Vec<RunNumber> = found.iter().flat_map(runs_of).collect();
    runs.sort_unstable();
    runs
}

fn key(run: u64) -> RunKey {
    RunKey { namespace: namespace(), pipeline: pipeline_id("ci"), run: RunNumber(run) }
}

fn object(run: u64) -> ObjectRecord {
    let object_key = |text: &str| ObjectKey::new(text).expect("a valid key");
    ObjectRecord {
        scope: ObjectScope {
            namespace: namespace(),
            pipeline: pipeline_id("ci"),
            run: Some(RunNumber(run)),
        },
        key: object_key("x"),
        location: object_key("objects/x"),
        size_bytes: 12,
        sha256: "ab".repeat(32),
        created_at: at(0),
    }
}
