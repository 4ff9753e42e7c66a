use futures::future::join_all;
use gofer_core::entity::{SecretRecord, SecretScope};
use gofer_core::journal::{Expirable, Expiry, Retention};
use gofer_core::{Resource, SecretPath, Timestamp};
use gofer_db::{Db, DbError, SecretPutOutcome};

use crate::engines::{Place, on_both_engines};
use crate::setup::{
    all, at, default, fresh_location, keep_all, last_event, missing, ns, pages, pl, put_secret,
    register, types_after,
};

on_both_engines! {
    a_secrets_record_lives_and_dies
    secrets_are_listed_per_scope
    of_concurrent_puts_each_replaces_another_value
    of_concurrent_puts_if_absent_one_wins
    a_put_that_was_interrupted_is_found_and_refused
    values_without_a_record_are_found_until_they_are_deleted
    secrets_of_before_lie_where_their_scope_says
}

fn pipeline() -> SecretScope {
    SecretScope::Pipeline(default(), pl("ci"))
}

fn record(scope: SecretScope, key: &str, seconds: i64) -> SecretRecord {
    SecretRecord {
        scope,
        key: key.to_owned(),
        location: fresh_location(),
        allowed_namespaces: vec![default(), ns("team")],
        updated_by: format!("ada-{seconds}"),
        created_at: at(seconds),
        updated_at: at(seconds),
    }
}

/// Values that no record names, since before this second.
async fn unnamed(db: &Db, before: i64) -> Vec<(SecretPath, bool)> {
    let policy = Retention { secret_values_before: at(before), ..keep_all() };
    let found = db.expirable(&policy, 100).await.unwrap();
    let value = |what| match what {
        Expirable::SecretValue { location, being_put } => (location, being_put),
        other => panic!("{other:?}"),
    };
    found.into_iter().map(value).collect()
}

async fn expired(db: &Db, location: &SecretPath, being_put: bool) {
    let what = Expirable::SecretValue { location: location.clone(), being_put };
    db.expired(&what, at(100)).await.unwrap();
}

async fn a_secrets_record_lives_and_dies(place: Place) {
    let db = place.open().await;
    missing(put_secret(&db, &record(pipeline(), "k", 1), false).await, Resource::Pipeline);
    register(&db, "ci", &["a"]).await;

    for scope in [pipeline(), SecretScope::Global] {
        let before = last_event(&db);
        let first = record(scope.clone(), "k", 1);
        let put = put_secret(&db, &first, true).await.unwrap();
        assert_eq!(put, SecretPutOutcome { record: first.clone(), replaced: None });

        let taken = put_secret(&db, &record(scope.clone(), "k", 1), true).await;
        assert!(
            matches!(taken, Err(DbError::AlreadyExists { what: Resource::Secret, .. })),
            "{taken:?}"
        );

        let second = SecretRecord { allowed_namespaces: vec![], ..record(scope.clone(), "k", 2) };
        let put = put_secret(&db, &second, false).await.unwrap();
        let stored = SecretRecord { created_at: at(1), ..second };
        assert_eq!(
            put,
            SecretPutOutcome { record: stored.clone(), replaced: Some(first.location) }
        );
        assert_eq!(db.secret_get(&scope, "k").await.unwrap(), stored);
        assert_eq!(db.secret_delete(&scope, "k", "ada", at(3)).await.unwrap(), Some(stored));
        assert_eq!(db.secret_delete(&scope, "k", "ada", at(3)).await.unwrap(), None);
        missing(db.secret_get(&scope, "k").await, Resource::Secret);
        assert_eq!(types_after(&db, before).await, ["secret_put", "secret_put", "secret_deleted"]);
    }

    assert_eq!(
        db.secret_delete(&SecretScope::Pipeline(default(), pl("no")), "k", "ada", at(3))
            .await
            .unwrap(),
        None
    );
}

async fn secrets_are_listed_per_scope(place: Place) {
    let db = place.open().await;
    register(&db, "ci", &["a"]).await;
    for (scope, key) in
        [(pipeline(), "b/2"), (pipeline(), "a"), (SecretScope::Global, "g"), (pipeline(), "b/1")]
    {
        put_secret(&db, &record(scope, key, 1), false).await.unwrap();
    }
    let scope = pipeline();
    let listed = pages!(1, |page| db.secret_list(&scope, "b/", page));
    assert_eq!(listed.iter().map(|secret| secret.key.as_str()).collect::<Vec<_>>(), ["b/1", "b/2"]);
    assert_eq!(db.secret_list(&SecretScope::Global, "", &all()).await.unwrap().items.len(), 1);
}

/// Puts of one key, each with a time and a namespace of its own, at the same time.
async fn put_at_once(
    db: &Db,
    scope: &SecretScope,
    if_absent: bool,
) -> Vec<(SecretRecord, Option<SecretPutOutcome>)> {
    let calls = (0..8).map(|number| {
        let (db, mut record) = (db.clone(), record(scope.clone(), "k", number));
        record.allowed_namespaces = vec![ns(&format!("team-{number}"))];
        tokio::spawn(async move {
            let outcome = match put_secret(&db, &record, if_absent).await {
                Err(DbError::AlreadyExists { .. }) => None,
                outcome => Some(outcome.unwrap()),
            };
            (record, outcome)
        })
    });
    join_all(calls).await.into_iter().map(|joined| joined.unwrap()).collect()
}

async fn of_concurrent_puts_each_replaces_another_value(place: Place) {
    let db = place.open().await;
    register(&db, "ci", &["a"]).await;
    for scope in [pipeline(), SecretScope::Global] {
        let puts = put_at_once(&db, &scope, false).await;
        let stored = db.secret_get(&scope, "k").await.unwrap();
        let winner = &puts.iter().find(|(put, _)| put.location == stored.location).unwrap().0;
        assert_eq!(
            stored.allowed_namespaces, winner.allowed_namespaces,
            "value and list are of one put"
        );

        // Each value but the last was replaced by exactly one put, and is listed to be deleted.
        let mut replaced: Vec<SecretPath> =
            puts.iter().filter_map(|(_, put)| put.as_ref().unwrap().replaced.clone()).collect();
        let mut others: Vec<SecretPath> =
            puts.iter().map(|(put, _)| put.location.clone()).collect();
        others.retain(|location| *location != stored.location);
        replaced.sort();
        others.sort();
        assert_eq!(replaced, others);

        let mut listed: Vec<SecretPath> =
            unnamed(&db, 100).await.into_iter().map(|(location, _)| location).collect();
        listed.sort();
        assert_eq!(listed, others);

        for location in listed {
            db.secret_value_forget(&location).await.unwrap();
        }
    }
}

async fn of_concurrent_puts_if_absent_one_wins(place: Place) {
    let db = place.open().await;
    register(&db, "ci", &["a"]).await;
    for scope in [pipeline(), SecretScope::Global] {
        let puts = put_at_once(&db, &scope, true).await;
        let won: Vec<_> = puts.iter().filter(|(_, outcome)| outcome.is_some()).collect();
        assert_eq!(won.len(), 1, "{puts:?}");
        assert_eq!(db.secret_get(&scope, "k").await.unwrap(), won[0].0);
    }
}

async fn a_put_that_was_interrupted_is_found_and_refused(place: Place) {
    let db = place.open().await;
    let old = record(SecretScope::Global, "k", 1);
    put_secret(&db, &old, false).await.unwrap();
    let late = record(SecretScope::Global, "k", 10);
    db.secret_put_begin(&late.location, at(10)).await.unwrap();
    assert_eq!(unnamed(&db, 10).await, [], "it may still be under way");
    assert_eq!(unnamed(&db, 11).await, [(late.location.clone(), true)]);
    expired(&db, &late.location, true).await;
    assert_eq!(unnamed(&db, 11).await, [(late.location.clone(), false)]);

    // The put goes on after all: it is refused whole, and may be repeated.
    let refused = db.secret_put_record(&late, false).await;
    assert!(
        matches!(&refused, Err(error @ DbError::Unavailable { .. }) if error.is_retryable()),
        "{refused:?}"
    );
    assert_eq!(db.secret_get(&SecretScope::Global, "k").await.unwrap(), old);
    expired(&db, &late.location, false).await;
    assert_eq!(unnamed(&db, 100).await, []);
}

async fn values_without_a_record_are_found_until_they_are_deleted(place: Place) {
    let db = place.open().await;
    register(&db, "ci", &["a"]).await;
    let [first, second, third] = [1, 2, 3].map(|seconds| record(pipeline(), "k", seconds));
    put_secret(&db, &first, false).await.unwrap();
    put_secret(&db, &second, false).await.unwrap();
    assert_eq!(unnamed(&db, 100).await, [(first.location.clone(), false)]);

    // What retention believed to be under way is named meanwhile, and stays.
    db.secret_put_begin(&third.location, at(3)).await.unwrap();
    assert_eq!(unnamed(&db, 100).await.last(), Some(&(third.location.clone(), true)));
    db.secret_put_record(&third, false).await.unwrap();
    expired(&db, &third.location, true).await;

    let left = |locations: &[&SecretRecord]| -> Vec<(SecretPath, bool)> {
        locations.iter().map(|record| (record.location.clone(), false)).collect()
    };

    assert_eq!(unnamed(&db, 100).await, left(&[&first, &second]));
    db.secret_value_forget(&first.location).await.unwrap();
    db.pipeline_delete(&default(), &pl("ci"), "ada", Timestamp(at(4).0)).await.unwrap();
    assert_eq!(unnamed(&db, 100).await, left(&[&second, &third]));
}

/// The schema as it was before the migration that gave secrets their locations.
const BEFORE_LOCATIONS: &str = "ALTER TABLE secrets DROP COLUMN location; DROP TABLE \
                                secret_values; DELETE FROM __diesel_schema_migrations WHERE \
                                version = '00000000000005'";

async fn secrets_of_before_lie_where_their_scope_says(place: Place) {
    let db = place.open().await;
    register(&db, "ci", &["a"]).await;
    for scope in [pipeline(), SecretScope::Global] {
        put_secret(&db, &record(scope, "db/password", 1), false).await.unwrap();
    }

    db.close().await;
    place.execute(BEFORE_LOCATIONS).await;

    let db = place.open().await;
    for (scope, location) in [
        (pipeline(), "pipeline/default/ci/db/password"),
        (SecretScope::Global, "global/db/password"),
    ] {
        assert_eq!(db.secret_get(&scope, "db/password").await.unwrap().location.as_str(), location);
    }

    assert_eq!(unnamed(&db, 1_000).await, []);
}
