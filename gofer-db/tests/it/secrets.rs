use gofer_core::entity::{SecretRecord, SecretScope};
use gofer_core::journal::Journal as _;
use gofer_db::DbError;

use crate::engines::{Place, on_both_engines};
use crate::setup::{all, at, default, last_event, missing, ns, pages, pl, register, types_after};

on_both_engines! {
    a_secrets_record_lives_and_dies
    secrets_are_listed_per_scope
}

fn pipeline() -> SecretScope {
    SecretScope::Pipeline(default(), pl("ci"))
}

fn record(scope: SecretScope, key: &str, seconds: i64) -> SecretRecord {
    SecretRecord {
        scope,
        key: key.to_owned(),
        allowed_namespaces: vec![default(), ns("team")],
        updated_by: format!("ada-{seconds}"),
        created_at: at(seconds),
        updated_at: at(seconds),
    }
}

async fn a_secrets_record_lives_and_dies(place: Place) {
    let db = place.open().await;
    missing(db.secret_put_record(&record(pipeline(), "k", 1), false).await, "pipeline");
    register(&db, "ci", &["a"]).await;
    for scope in [pipeline(), SecretScope::Global] {
        let before = last_event(&db);
        let first = record(scope.clone(), "k", 1);
        assert_eq!(db.secret_put_record(&first, true).await.unwrap(), first);
        let taken = db.secret_put_record(&first, true).await;
        assert!(matches!(taken, Err(DbError::AlreadyExists { what: "secret", .. })), "{taken:?}");
        let second = SecretRecord { allowed_namespaces: vec![], ..record(scope.clone(), "k", 2) };
        let stored = db.secret_put_record(&second, false).await.unwrap();
        assert_eq!(stored, SecretRecord { created_at: at(1), ..second });
        assert_eq!(db.secret_get(&scope, "k").await.unwrap(), stored);
        assert_eq!(db.secret_delete(&scope, "k", "ada", at(3)).await.unwrap(), Some(stored));
        assert_eq!(db.secret_delete(&scope, "k", "ada", at(3)).await.unwrap(), None);
        missing(db.secret_get(&scope, "k").await, "secret");
        assert_eq!(types_after(&db, before).await, ["secret_put", "secret_put", "secret_deleted"]);
    }
    assert_eq!(db.secret_delete(&SecretScope::Pipeline(default(), pl("no")), "k", "ada", at(3)).await.unwrap(), None);
}

async fn secrets_are_listed_per_scope(place: Place) {
    let db = place.open().await;
    register(&db, "ci", &["a"]).await;
    for (scope, key) in [(pipeline(), "b/2"), (pipeline(), "a"), (SecretScope::Global, "g"), (pipeline(), "b/1")] {
        db.secret_put_record(&record(scope, key, 1), false).await.unwrap();
    }
    let scope = pipeline();
    let listed = pages!(1, |page| db.secret_list(&scope, "b/", page));
    assert_eq!(listed.iter().map(|secret| secret.key.as_str()).collect::<Vec<_>>(), ["b/1", "b/2"]);
    assert_eq!(db.secret_list(&SecretScope::Global, "", &all()).await.unwrap().items.len(), 1);
    assert_eq!(db.global_secret("g").await.unwrap(), Some(vec![default(), ns("team")]));
    assert_eq!(db.global_secret("a").await.unwrap(), None, "a pipeline's secret is not global");
}
