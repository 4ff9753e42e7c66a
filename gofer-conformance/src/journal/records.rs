//! Objects, global secrets, and retention.

use futures::future::join_all;
use gofer_core::Resource;
use gofer_core::entity::{ObjectRecord, ObjectScope, SecretRecord, SecretScope};
use gofer_core::event::{EventDetails, NewEvent};
use gofer_core::id::{NamespaceId, ObjectKey, RunKey, RunNumber, SecretPath};
use gofer_core::journal::{
    Expirable, Journal, JournalError, MAX_RUN_MASK_BYTES, MAX_RUN_MASKS, Retention, RunMask,
};
use gofer_core::pipeline::Overlap;
use gofer_core::run::LogState;
use gofer_core::time::Timestamp;

use super::JournalFixture;
use super::fixture::{
    at, claim_one, finish, insert, keep_all, last_event, namespace, new_events, pipeline_id,
    register, simple, spec,
};

/// The record of an object is found by scope and key, and by nothing else.
pub async fn object_records_are_found_by_scope_and_key(fixture: &dyn JournalFixture) {
    let journal = fixture.backend();
    simple(fixture, "ci", None, Overlap::Queue).await;
    simple(fixture, "other", None, Overlap::Queue).await;

    for seconds in 0..2 {
        insert(&*journal, "ci", seconds).await;
    }

    let of_pipeline = record("ci", None, "out/report.txt", "objects/1");
    let of_run = record("ci", Some(1), "out/report.txt", "objects/2");
    for record in [&of_pipeline, &of_run] {
        fixture.put_object_record(record.clone()).await;
    }

    for record in [of_pipeline.clone(), of_run.clone()] {
        assert_eq!(find(&*journal, &record.scope, "out/report.txt").await, Some(record.clone()));
        assert_eq!(find(&*journal, &record.scope, "out/report").await, None);
    }

    for scope in [scope("ci", Some(2)), scope("other", None)] {
        assert_eq!(find(&*journal, &scope, "out/report.txt").await, None, "{scope:?}");
    }

    let replaced = ObjectRecord { location: key("objects/3"), size_bytes: 99, ..of_pipeline };
    fixture.put_object_record(replaced.clone()).await;
    assert_eq!(find(&*journal, &replaced.scope, "out/report.txt").await, Some(replaced));
}

/// The record of a secret is found by scope and key, whole, and by nothing else.
pub async fn secret_records_are_found_by_scope_and_key(fixture: &dyn JournalFixture) {
    let journal = fixture.backend();
    let namespaces = [namespace(), NamespaceId::new("other").expect("a valid namespace")];
    for namespace in &namespaces {
        fixture.add_namespace(namespace).await;
    }

    simple(fixture, "ci", None, Overlap::Queue).await;
    simple(fixture, "other", None, Overlap::Queue).await;
    let of_pipeline = SecretScope::Pipeline(namespace(), pipeline_id("ci"));
    let everywhere = secret(SecretScope::Global, "registry/password", &namespaces, "v/1");
    let nowhere = secret(SecretScope::Global, "nobody", &[], "v/2");
    let own = secret(of_pipeline.clone(), "registry/password", &[], "v/3");

    for record in [&everywhere, &nowhere, &own] {
        fixture.put_secret_record(record.clone()).await;
    }

    for record in [&everywhere, &nowhere, &own] {
        assert_eq!(
            journal.secret(&record.scope, &record.key).await.expect("secret").as_ref(),
            Some(record)
        );
    }

    let other = SecretScope::Pipeline(namespace(), pipeline_id("other"));
    let unknown = SecretScope::Pipeline(namespace(), pipeline_id("unknown"));
    for (scope, key) in [
        (&SecretScope::Global, "registry"),
        (&SecretScope::Global, "unknown"),
        (&of_pipeline, "nobody"),
        (&other, "registry/password"),
        (&unknown, "registry/password"),
    ] {
        assert_eq!(journal.secret(scope, key).await.expect("secret"), None, "{scope:?} {key}");
    }

    let replaced = secret(SecretScope::Global, "registry/password", &[], "v/4");
    fixture.put_secret_record(replaced.clone()).await;
    assert_eq!(
        journal.secret(&replaced.scope, &replaced.key).await.expect("secret"),
        Some(replaced)
    );
}

/// Archived logs of attempts that ended before the given time are to be deleted; once that is
/// recorded, they are not.
pub async fn archived_logs_expire_by_age(fixture: &dyn JournalFixture) {
    let journal = fixture.backend();
    simple(fixture, "ci", None, Overlap::Queue).await;
    let mut attempts = Vec::new();

    for (round, log) in [LogState::Archived, LogState::Live, LogState::Archived, LogState::Archived]
        .iter()
        .enumerate()
    {
        let seconds = 10 * i64::try_from(round).expect("a small number");
        insert(&*journal, "ci", seconds).await;
        let (lease, _) = claim_one(&*journal, seconds + 1).await;
        attempts.extend(finish(&*journal, &lease, *log, seconds + 2).await);
    }

    let policy = retention(at(32), 100);
    let first = Expirable::Log(attempts[0].clone());
    let expected = [first.clone(), Expirable::Log(attempts[2].clone())];
    assert_eq!(sorted(journal.expirable(&policy, 10).await.expect("expirable")), expected);
    assert_eq!(
        journal.expirable(&policy, 1).await.expect("expirable").len(),
        1,
        "at most as many as asked for"
    );

    let before = last_event(fixture).await;
    for _ in 0..2 {
        journal.expired(&first, at(50)).await.expect("expired");
    }

    assert_eq!(journal.log_state(&attempts[0]).await.expect("log_state"), Some(LogState::Expired));
    assert_eq!(journal.expirable(&policy, 10).await.expect("expirable"), expected[1..]);
    let events = new_events(fixture, before).await;
    assert!(
        matches!(&events[..], [event] if event.details == EventDetails::LogExpired {} && event.at == at(50)),
        "{events:?}"
    );
    assert_eq!(events[0].subject.run, Some(attempts[0].run.run));
}

/// Run objects are kept for the newest runs of a pipeline; those of older ones are to be deleted.
pub async fn objects_of_old_runs_expire(fixture: &dyn JournalFixture) {
    let journal = fixture.backend();
    register(fixture, spec("ci", &["build"], None, Overlap::Queue)).await;
    register(fixture, spec("other", &["build"], None, Overlap::Queue)).await;

    for (pipeline, runs) in [("ci", 4), ("other", 2)] {
        for seconds in 0..runs {
            insert(&*journal, pipeline, seconds).await;
            let (lease, _) = claim_one(&*journal, seconds + 1).await;
            finish(&*journal, &lease, LogState::Lost, seconds + 2).await;
        }
    }

    for (pipeline, run, name) in [
        ("ci", None, "x"),
        ("ci", Some(1), "x"),
        ("ci", Some(2), "x"),
        ("ci", Some(2), "y"),
        ("ci", Some(3), "x"),
        ("other", Some(1), "x"),
    ] {
        let location = format!("objects/{pipeline}-{}-{name}", run.unwrap_or_default());
        fixture.put_object_record(record(pipeline, run, name, &location)).await;
    }

    let policy = retention(at(0), 2);
    let expected = [object(1, "x"), object(2, "x"), object(2, "y")];
    assert_eq!(sorted(journal.expirable(&policy, 10).await.expect("expirable")), expected);
    assert_eq!(
        journal.expirable(&policy, 2).await.expect("expirable").len(),
        2,
        "at most as many as asked for"
    );

    let before = last_event(fixture).await;
    for _ in 0..2 {
        journal.expired(&expected[1], at(50)).await.expect("expired");
    }

    assert_eq!(find(&*journal, &scope("ci", Some(2)), "x").await, None);
    assert!(
        find(&*journal, &scope("ci", Some(2)), "y").await.is_some(),
        "the other object of the run"
    );

    let left = sorted(journal.expirable(&policy, 10).await.expect("expirable"));
    assert_eq!(left, [expected[0].clone(), expected[2].clone()]);
    let events = new_events(fixture, before).await;
    assert!(
        matches!(&events[..], [event] if event.subject.run == Some(RunNumber(2)) && event.at == at(50)),
        "{events:?}"
    );
}

/// What was replaced after it was found to expire is another object: recording the deletion of the
/// old one keeps it.
pub async fn a_replaced_object_does_not_expire_with_its_old_location(fixture: &dyn JournalFixture) {
    let journal = fixture.backend();
    simple(fixture, "ci", None, Overlap::Queue).await;
    insert(&*journal, "ci", 0).await;
    let (lease, _) = claim_one(&*journal, 1).await;
    finish(&*journal, &lease, LogState::Lost, 2).await;
    fixture.put_object_record(record("ci", Some(1), "x", "objects/old")).await;
    let policy = retention(at(0), 0);
    let found = journal.expirable(&policy, 10).await.expect("expirable");
    let newer = record("ci", Some(1), "x", "objects/new");
    fixture.put_object_record(newer.clone()).await;
    let before = last_event(fixture).await;
    journal.expired(&found[0], at(50)).await.expect("expired");
    assert_eq!(find(&*journal, &newer.scope, "x").await, Some(newer));
    assert_eq!(last_event(fixture).await, before);
}

fn retention(logs_before: Timestamp, run_objects_keep_runs: u64) -> Retention {
    Retention { logs_before, run_objects_keep_runs, ..keep_all() }
}

fn key(text: &str) -> ObjectKey {
    ObjectKey::new(text).expect("a valid key")
}

fn scope(pipeline: &str, run: Option<u64>) -> ObjectScope {
    ObjectScope { namespace: namespace(), pipeline: pipeline_id(pipeline), run: run.map(RunNumber) }
}

fn secret(
    scope: SecretScope,
    key: &str,
    allowed_namespaces: &[NamespaceId],
    location: &str,
) -> SecretRecord {
    SecretRecord {
        scope,
        key: key.to_owned(),
        location: SecretPath::new(location).expect("a valid path"),
        allowed_namespaces: allowed_namespaces.to_vec(),
        updated_by: "test".to_owned(),
        created_at: at(3),
        updated_at: at(3),
    }
}

fn record(pipeline: &str, run: Option<u64>, name: &str, location: &str) -> ObjectRecord {
    ObjectRecord {
        scope: scope(pipeline, run),
        key: key(name),
        location: key(location),
        size_bytes: 12,
        sha256: "ab".repeat(32),
        created_at: at(3),
    }
}

/// An object of a run of `ci` that expires. A run's masks are listed, each once, with an event
/// each; they expire when the run is complete and all its logs are settled.
pub async fn values_that_a_run_masks_are_listed_until_its_logs_are_archived(
    fixture: &dyn JournalFixture,
) {
    let journal = fixture.backend();
    simple(fixture, "ci", None, Overlap::Queue).await;
    let run = insert(&*journal, "ci", 0).await;
    let other = insert(&*journal, "ci", 0).await;
    let before = last_event(fixture).await;

    for name in ["b", "a", "b"] {
        journal.add_run_mask(mask(&run.key, name, 10)).await.expect("add_run_mask");
    }

    let listed = [path("masks/1/a"), path("masks/1/b")];
    assert_eq!(journal.run_masks(&run.key).await.expect("run_masks"), listed);
    assert_eq!(journal.run_masks(&other.key).await.expect("run_masks"), []);
    let events = new_events(fixture, before).await;
    let masked = |event: &NewEvent| {
        event.details == EventDetails::ValueMasked {}
            && event.subject.run_key().as_ref() == Some(&run.key)
    };

    assert!(events.len() == 2 && events.iter().all(masked), "{events:?}");

    assert_eq!(expirable_masks(&*journal).await, []);
    let (lease, _) = claim_one(&*journal, 1).await;
    let attempt = finish(&*journal, &lease, LogState::Live, 2).await.remove(0);
    assert_eq!(expirable_masks(&*journal).await, [], "the log is still to be masked");

    let late =
        journal.add_run_mask(mask(&run.key, "late", 1)).await.expect_err("the run is complete");
    assert!(matches!(late, JournalError::NotFound { what: Resource::Run, .. }), "{late:?}");

    assert!(
        journal
            .set_log_state(&attempt, LogState::Live, LogState::Archived, None)
            .await
            .expect("set_log_state")
    );
    assert_eq!(expirable_masks(&*journal).await, listed);
    journal
        .expired(&Expirable::RunMask { location: path("masks/1/a") }, at(9))
        .await
        .expect("expired");
    assert_eq!(expirable_masks(&*journal).await, [path("masks/1/b")]);
}

/// Also when several add at once.
pub async fn a_run_masks_no_more_than_it_may(fixture: &dyn JournalFixture) {
    let journal = fixture.backend();
    simple(fixture, "ci", None, Overlap::Queue).await;
    let run = insert(&*journal, "ci", 0).await;
    let adds = (0..MAX_RUN_MASKS + 5).map(|number| {
        let (journal, mask) = (fixture.backend(), mask(&run.key, &format!("{number}"), 1));
        async move { journal.add_run_mask(mask).await }
    });

    let refused = join_all(adds).await.into_iter().filter_map(Result::err);
    let refused: Vec<_> =
        refused.filter(|error| matches!(error, JournalError::TooManyMasks(_))).collect();
    assert_eq!(refused.len(), 5, "{refused:?}");
    assert_eq!(journal.run_masks(&run.key).await.expect("run_masks").len(), MAX_RUN_MASKS);

    let large = insert(&*journal, "ci", 0).await;
    journal
        .add_run_mask(mask(&large.key, "all", MAX_RUN_MASK_BYTES))
        .await
        .expect("exactly as much");

    let error = journal.add_run_mask(mask(&large.key, "more", 1)).await.expect_err("one byte more");
    assert!(matches!(error, JournalError::TooManyMasks(_)), "{error:?}");
}

fn mask(run: &RunKey, name: &str, size_bytes: u64) -> RunMask {
    let location = path(&format!("masks/{}/{name}", run.run));
    RunMask { run: run.clone(), location, size_bytes, actor: format!("run:{run}"), at: at(1) }
}

fn path(text: &str) -> SecretPath {
    SecretPath::new(text).expect("a valid path")
}

async fn expirable_masks(journal: &dyn Journal) -> Vec<SecretPath> {
    let mut found: Vec<SecretPath> = journal
        .expirable(&keep_all(), 500)
        .await
        .expect("expirable")
        .into_iter()
        .filter_map(|what| match what {
            Expirable::RunMask { location } => Some(location),
            _ => None,
        })
        .collect();
    found.sort();
    found
}

fn object(run: u64, name: &str) -> Expirable {
    let run_key = gofer_core::RunKey {
        namespace: namespace(),
        pipeline: pipeline_id("ci"),
        run: RunNumber(run),
    };
    Expirable::RunObject {
        run: run_key,
        key: key(name),
        location: key(&format!("objects/ci-{run}-{name}")),
    }
}

/// In an order that no journal has to keep to.
fn sorted(mut found: Vec<Expirable>) -> Vec<Expirable> {
    let id = |what: &Expirable| match what {
        Expirable::Log(id) => (id.to_string(), String::new()),
        Expirable::RunObject { run, key, .. } => (run.to_string(), key.to_string()),
        Expirable::Upload { id, .. } => (id.clone(), String::new()),
        Expirable::SecretValue { location, .. } | Expirable::RunMask { location } => {
            (location.to_string(), String::new())
        }
        other => panic!("not to be deleted: {other:?}"),
    };
    found.sort_by_key(id);
    found
}

async fn find(journal: &dyn Journal, scope: &ObjectScope, name: &str) -> Option<ObjectRecord> {
    journal.object(scope, &key(name)).await.expect("object")
}
