use std::sync::Arc;

use futures::future::join_all;
use gofer_core::entity::{ObjectRecord, ObjectScope, SecretRecord, SecretScope};
use gofer_core::journal::{Logs, Runs};
use gofer_core::run::{LogState, RunStatus};
use gofer_core::{ExecutionId, Resource, RunNumber, Version};
use gofer_db::{DbError, ObjectPut, Registration};

use crate::engines::{Place, on_both_engines};
use crate::setup::{
    all, at, claim_one, conflicting, default, finish, fresh_location, insert, last_event, missing,
    new_run, ns, object_key, pages, pl, put_secret, register, registration, spec, task,
    types_after, version,
};

on_both_engines! {
    versions_count_up_and_stay
    the_same_digest_changes_nothing
    a_stale_expectation_is_refused
    of_concurrent_registrations_each_sees_the_one_before
    pipelines_and_versions_are_listed_by_page
    enabling_records_only_changes
    a_deleted_pipeline_leaves_nothing_but_its_counters
    a_pipeline_with_active_runs_stays
}

async fn versions_count_up_and_stay(place: Place) {
    let db = place.open().await;
    let first = register(&db, "ci", &["a"]).await;
    let second = register(&db, "ci", &["a", "b"]).await;
    assert_eq!((first.version.version, second.version.version), (Version(1), Version(2)));
    assert_eq!(second.pipeline.latest_version, Version(2));
    assert!(first.changed && second.changed && second.pipeline.enabled);

    let latest = db.pipeline_version_get(&default(), &pl("ci"), None).await.unwrap();
    assert_eq!(latest, second.version);
    let old = db.pipeline_version_get(&default(), &pl("ci"), version(1)).await.unwrap();
    assert_eq!(old, first.version);
    assert_eq!(old.spec.tasks.len(), 1);
    missing(
        db.pipeline_version_get(&default(), &pl("ci"), version(3)).await,
        Resource::PipelineVersion,
    );
    missing(db.pipeline_version_get(&default(), &pl("no"), None).await, Resource::Pipeline);
    missing(db.pipeline_get(&ns("no"), &pl("ci")).await, Resource::Pipeline);

    let nowhere =
        db.pipeline_register(registration(&ns("no"), spec("ci", &["a"]), "d"), "ada", at(1)).await;
    missing(nowhere, Resource::Namespace);
    assert_eq!(types_after(&db, 0).await, ["pipeline_registered"; 2]);
}

async fn the_same_digest_changes_nothing(place: Place) {
    let db = place.open().await;
    let again = || registration(&default(), spec("ci", &["a"]), "same");
    let first = db.pipeline_register(again(), "ada", at(1)).await.unwrap();
    let repeated = db.pipeline_register(again(), "bob", at(2)).await.unwrap();
    assert!(first.changed && !repeated.changed);
    assert_eq!((repeated.pipeline, repeated.version), (first.pipeline, first.version));

    // Also when the caller has not seen the version that is just like its own.
    let late = Registration { expected_version: version(0), ..again() };
    assert!(!db.pipeline_register(late, "bob", at(3)).await.unwrap().changed);
    assert_eq!(types_after(&db, 0).await, ["pipeline_registered"]);

    // Only the latest counts: going back to an old spec is a change.
    register(&db, "ci", &["b"]).await;
    assert_eq!(
        db.pipeline_register(again(), "ada", at(4)).await.unwrap().version.version,
        Version(3)
    );
}

async fn a_stale_expectation_is_refused(place: Place) {
    let db = place.open().await;
    let expecting = |digest: &str, expected| Registration {
        expected_version: version(expected),
        ..registration(&default(), spec("ci", &["a"]), digest)
    };

    let early = db.pipeline_register(expecting("one", 1), "ada", at(1)).await;
    conflicting(early, "does not exist, and version 1 was expected");
    missing(db.pipeline_get(&default(), &pl("ci")).await, Resource::Pipeline);
    db.pipeline_register(expecting("one", 0), "ada", at(1)).await.unwrap();
    conflicting(
        db.pipeline_register(expecting("two", 0), "bob", at(2)).await,
        "exists already, at version 1",
    );
    db.pipeline_register(expecting("two", 1), "ada", at(2)).await.unwrap();
    conflicting(
        db.pipeline_register(expecting("three", 1), "bob", at(3)).await,
        "is at version 2, not 1",
    );
    assert_eq!(db.pipeline_get(&default(), &pl("ci")).await.unwrap().latest_version, Version(2));
}

async fn of_concurrent_registrations_each_sees_the_one_before(place: Place) {
    let db = place.open().await;
    let calls = (0..12).map(|number| {
        let db = db.clone();
        let wanted = Registration {
            expected_version: (number >= 6).then_some(Version(0)),
            ..registration(&default(), spec("ci", &["a"]), &format!("digest-{number}"))
        };
        tokio::spawn(async move { db.pipeline_register(wanted, "ada", at(1)).await })
    });

    let results: Vec<_> = join_all(calls).await.into_iter().map(|joined| joined.unwrap()).collect();
    let mut versions: Vec<u64> = results
        .iter()
        .filter_map(|result| result.as_ref().ok())
        .map(|done| done.version.version.0)
        .collect();

    versions.sort_unstable();
    let expected: Vec<u64> = (1..=versions.len() as u64).collect();
    assert_eq!(versions, expected);
    let creators = results[6..].iter().filter(|result| result.is_ok()).count();
    assert!(creators <= 1, "at most one can be the first");

    for refused in results.into_iter().filter_map(Result::err) {
        assert!(matches!(refused, DbError::Conflict { .. }), "{refused:?}");
    }
}

async fn pipelines_and_versions_are_listed_by_page(place: Place) {
    let db = place.open().await;
    for name in ["c", "a", "b"] {
        for _ in 0..3 {
            register(&db, name, &["t"]).await;
        }
    }

    let names = pages!(2, |page| db.pipeline_list(&default(), page));
    assert_eq!(
        names.iter().map(|pipeline| pipeline.id.as_str()).collect::<Vec<_>>(),
        ["a", "b", "c"]
    );

    let versions = pages!(1, |page| db.pipeline_version_list(&default(), &pl("b"), page));
    assert_eq!(versions.iter().map(|version| version.version.0).collect::<Vec<_>>(), [3, 2, 1]);
    let nonsense =
        db.pipeline_version_list(&default(), &pl("b"), &crate::setup::page(Some("x"), 1)).await;
    assert!(matches!(nonsense, Err(DbError::Invalid { field: "after", .. })), "{nonsense:?}");
    missing(db.pipeline_version_list(&default(), &pl("no"), &all()).await, Resource::Pipeline);
}

async fn enabling_records_only_changes(place: Place) {
    let db = place.open().await;
    register(&db, "ci", &["a"]).await;
    let before = last_event(&db);

    for (enabled, seconds) in [(true, 1), (false, 2), (false, 3), (true, 4)] {
        let now = db
            .pipeline_set_enabled(&default(), &pl("ci"), enabled, "ada", at(seconds))
            .await
            .unwrap();
        assert_eq!(now.enabled, enabled);
    }

    missing(
        db.pipeline_set_enabled(&default(), &pl("no"), true, "ada", at(5)).await,
        Resource::Pipeline,
    );
    assert_eq!(types_after(&db, before).await, ["pipeline_disabled", "pipeline_enabled"]);
    db.pipeline_set_enabled(&default(), &pl("ci"), false, "ada", at(5)).await.unwrap();
    register(&db, "ci", &["b"]).await;
    assert!(
        !db.pipeline_get(&default(), &pl("ci")).await.unwrap().enabled,
        "a new version enables nothing"
    );
}

async fn a_deleted_pipeline_leaves_nothing_but_its_counters(place: Place) {
    let db = place.open().await;
    register(&db, "ci", &["a"]).await;
    register(&db, "other", &["a"]).await;
    let run = insert(&db, "ci", 1).await.key;
    finish(&db, &claim_one(&db, 2).await, &task("a"), RunStatus::Successful, 3).await;

    let archived = insert(&db, "ci", 4).await.key;
    finish(&db, &claim_one(&db, 5).await, &task("a"), RunStatus::Successful, 6).await;
    let execution = |run: &gofer_core::RunKey| ExecutionId {
        run: run.clone(),
        task: task("a"),
        attempt: gofer_core::Attempt::FIRST,
    };

    assert!(
        db.set_log_state(&execution(&archived), LogState::Live, LogState::Archived, None)
            .await
            .unwrap()
    );

    let mut objects = Vec::new();
    for number in [None, Some(RunNumber(1))] {
        let scope = ObjectScope { namespace: default(), pipeline: pl("ci"), run: number };
        let location = object_key(&format!("objects/{}", number.map_or(0, |run| run.0)));
        let record = ObjectRecord {
            scope,
            key: object_key("x"),
            location,
            size_bytes: 1,
            sha256: String::new(),
            created_at: at(7),
        };

        db.object_put_record(&record, ObjectPut::default(), "ada").await.unwrap();
        objects.push(record);
    }

    let secret = SecretRecord {
        scope: SecretScope::Pipeline(default(), pl("ci")),
        key: "password".to_owned(),
        location: fresh_location(),
        allowed_namespaces: Vec::new(),
        updated_by: "ada".to_owned(),
        created_at: at(7),
        updated_at: at(7),
    };

    put_secret(&db, &secret, false).await.unwrap();

    let mut deleted = db.pipeline_delete(&default(), &pl("ci"), "ada", at(8)).await.unwrap();
    deleted.objects.sort_by_key(|record| record.scope.run);
    assert_eq!((deleted.objects, deleted.secrets), (objects, vec![secret.clone()]));
    assert_eq!(
        (deleted.archived_logs, deleted.live_logs),
        (vec![execution(&archived)], vec![execution(&run)])
    );
    missing(db.pipeline_get(&default(), &pl("ci")).await, Resource::Pipeline);
    missing(db.pipeline_delete(&default(), &pl("ci"), "ada", at(9)).await, Resource::Pipeline);
    missing(db.run_get(&run).await, Resource::Run);
    missing(db.secret_get(&secret.scope, "password").await, Resource::Pipeline);
    assert_eq!(db.live_logs(gofer_core::Timestamp(i64::MAX), None, 10).await.unwrap(), []);
    assert_eq!(db.pipeline_list(&default(), &all()).await.unwrap().items.len(), 1);
    assert!(db.insert_run(new_run(&default(), "ci", 10)).await.is_err());

    let digest = "a digest it had before".to_owned();
    let again = Registration {
        namespace: default(),
        spec: Arc::new(spec("ci", &["b"])),
        digest,
        expected_version: version(0),
    };

    let again = db.pipeline_register(again, "ada", at(11)).await.unwrap();
    assert_eq!((again.version.version, again.pipeline.created_at), (Version(2), at(11)));
    assert!(again.pipeline.enabled);
    assert_eq!(
        insert(&db, "ci", 12).await.key.run,
        RunNumber(3),
        "no execution is ever named twice"
    );
    missing(
        db.pipeline_version_get(&default(), &pl("ci"), version(1)).await,
        Resource::PipelineVersion,
    );
    missing(db.secret_get(&secret.scope, "password").await, Resource::Secret);
}

async fn a_pipeline_with_active_runs_stays(place: Place) {
    let db = place.open().await;
    register(&db, "ci", &["a"]).await;
    insert(&db, "ci", 1).await;
    let before = last_event(&db);
    conflicting(
        db.pipeline_delete(&default(), &pl("ci"), "ada", at(2)).await,
        "still has active runs, such as `1`",
    );
    assert_eq!(last_event(&db), before);
    finish(&db, &claim_one(&db, 2).await, &task("a"), RunStatus::Failed, 3).await;
    db.pipeline_delete(&default(), &pl("ci"), "ada", at(4)).await.unwrap();
}
