//! Opening, closing, and who may.

use std::sync::Arc;

use futures::future::join_all;
use gofer_core::Resource;
use gofer_db::{Db, DbConfig, DbError, TlsConfig};

use crate::engines::{Place, administer, on_both_engines};
use crate::setup::{at, default, insert, missing, ns, register};

on_both_engines! {
    a_second_server_is_refused_with_a_reason
    of_servers_that_start_together_one_gets_the_database
    a_dropped_server_frees_the_database
    a_closed_database_answers_no_more
    check_says_what_was_found
    what_was_committed_is_there_after_a_restart
}

async fn a_second_server_is_refused_with_a_reason(place: Place) {
    let first = place.open().await;
    let refused = place.connect().await.unwrap_err();
    assert!(matches!(refused, DbError::Locked { .. }), "{refused:?}");
    let (text, process) = (refused.to_string(), format!("process {}", std::process::id()));
    assert!(text.contains(&process) && text.contains("stop it first"), "{text}");
    register(&first, "ci", &["a"]).await;
    first.close().await;
    place.open().await.check().await.unwrap();
}

async fn of_servers_that_start_together_one_gets_the_database(place: Place) {
    for _ in 0..3 {
        let starts = (0..4).map(|_| {
            let config = place.config();
            tokio::spawn(async move { Db::connect(config).await })
        });

        let results: Vec<_> =
            join_all(starts).await.into_iter().map(|joined| joined.unwrap()).collect();
        let (started, refused): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
        assert_eq!(started.len(), 1, "{refused:?}");
        assert!(
            refused.iter().all(|result| matches!(result, Err(DbError::Locked { .. }))),
            "{refused:?}"
        );

        for db in started.into_iter().flatten() {
            db.namespace_get(&default()).await.unwrap();
            db.close().await;
        }
    }
}

async fn a_dropped_server_frees_the_database(place: Place) {
    let db = place.open().await;
    register(&db, "ci", &["a"]).await;
    drop(db);
    // The thread or connection that had it ends a moment later.
    gofer_conformance::eventually("the database is free", || async {
        place.connect().await.map(drop).map_err(|error| error.to_string())
    })
    .await;
}

async fn a_closed_database_answers_no_more(place: Place) {
    let db = place.open().await;
    db.close().await;
    db.close().await;
    for result in [
        db.namespace_get(&default()).await.map(drop),
        db.namespace_delete(&ns("x"), "ada", at(1)).await,
        db.check().await.map(drop),
    ] {
        assert!(matches!(result, Err(DbError::Unavailable { .. })), "{result:?}");
    }
}

async fn check_says_what_was_found(place: Place) {
    let db = place.open().await;
    let found = db.check().await.unwrap();
    let product = if db.product() == "sqlite" { "SQLite 3." } else { "PostgreSQL 1" };
    assert!(found.starts_with(product) && found.contains("://"), "{found}");
}

async fn what_was_committed_is_there_after_a_restart(place: Place) {
    let db = place.open().await;
    register(&db, "ci", &["a"]).await;
    let run = insert(&db, "ci", 1).await;
    db.close().await;
    let db = place.open().await;
    assert_eq!(db.run_get(&run.key).await.unwrap(), run);
    missing(db.run_get(&gofer_core::RunKey { namespace: ns("x"), ..run.key }).await, Resource::Run);
}

#[tokio::test]
async fn sqlite_runs_on_a_single_threaded_runtime() {
    let place = Place::sqlite();
    let db = place.open().await;
    register(&db, "ci", &["a"]).await;
    let late =
        tokio::time::timeout(std::time::Duration::from_nanos(1), db.namespace_get(&default()))
            .await;
    drop(late);
    insert(&db, "ci", 1).await;
    db.close().await;
}

#[tokio::test]
async fn sqlite_files_are_private_and_their_folder_is_made() {
    use std::os::unix::fs::PermissionsExt as _;

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("new/folder/gofer.db");
    let db = Db::connect(DbConfig::sqlite(&file)).await.unwrap();
    register(&db, "ci", &["a"]).await;
    for name in ["gofer.db", "gofer.db-wal"] {
        let mode = std::fs::metadata(file.with_file_name(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{name} is {mode:o}");
    }
    db.close().await;
    let folder = file.parent().unwrap().join("gofer.db").join("below");
    let refused = Db::connect(DbConfig::sqlite(folder)).await.unwrap_err();
    assert!(refused.to_string().contains("cannot open the database file `"), "{refused}");
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gofer.db");
    std::fs::write(&file, "this is a letter, and not a short one: ".repeat(100)).unwrap();
    let refused = Db::connect(DbConfig::sqlite(&file)).await.unwrap_err();
    assert!(matches!(refused, DbError::Corrupt { .. }), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_schema_is_refused() {
    let Some(place) = Place::postgres().await else { return };
    place.open().await.close().await;
    administer(
        &place.url(),
        "INSERT INTO __diesel_schema_migrations (version) VALUES ('99990101000000')",
    )
    .await;
    let refused = place.connect().await.unwrap_err();
    assert!(
        matches!(&refused, DbError::Corrupt { .. }) && refused.to_string().contains("newer Gofer"),
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_lock_is_taken_again_or_reported() {
    let Some(place) = Place::postgres().await else { return };
    let db = place.open().await;
    let kill = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND \
                database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    administer(&place.url(), kill).await;
    db.check().await.expect("nobody else wanted it");
    administer(&place.url(), kill).await;

    let other = gofer_conformance::eventually("the lock is free", || async {
        place.connect().await.map_err(|error| error.to_string())
    })
    .await;
    let lost = db.check().await.unwrap_err();
    assert!(matches!(lost, DbError::Locked { .. }), "{lost:?}");
    other.close().await;
    db.check().await.expect("the other is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_tls_is_refused_where_tls_is_required() {
    let Some(place) = Place::postgres().await else { return };
    let folder = tempfile::tempdir().unwrap();
    let ca_file = Some(folder.path().join("ca.pem"));
    let config =
        DbConfig { tls: TlsConfig { require: true, ca_file: ca_file.clone() }, ..place.config() };
    let unreadable = Db::connect(config.clone()).await.unwrap_err();
    assert!(
        unreadable.to_string().starts_with("tls.ca_file: cannot read certificates from `"),
        "{unreadable}"
    );
    std::fs::write(ca_file.as_ref().unwrap(), CERTIFICATE).unwrap();
    let refused = Db::connect(config).await.unwrap_err();
    assert!(matches!(refused, DbError::Unavailable { .. }), "{refused:?}");
}

/// Any certificate, for a server that shows none.
const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----
MIIBeDCCAR+gAwIBAgIUXSaQv+tFr+HiZsN6Zqm/nrIrehkwCgYIKoZIzj0EAwIw
ETEPMA0GA1UEAwwGbm9ib2R5MCAXDTI2MTEyNDExMTIyNFoYDzIxMjYxMDMxMTEx
MjI0WjARMQ8wDQYDVQQDDAZub2JvZHkwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNC
AAR8E5/IU6XWl0ysft377P1jrM6N1FbCroHZXSehpRWJXMcB/rq4ubRUe1YERGNi
pySSGE4EHCjHnQPFEoRfUDqeo1MwUTAdBgNVHQ4EFgQUVVS30+QZc7q7+K0wxjJb
IpamSHYwHwYDVR0jBBgwFoAUVVS30+QZc7q7+K0wxjJbIpamSHYwDwYDVR0TAQH/
BAUwAwEB/zAKBggqhkjOPQQDAgNHADBEAiB2wyDuXXO/+5unsmHylVkcV3NuTylv
StjW5cFZa6fFgwIgewQgDapEXNUqFXRUNYrONltcR2Sk2lviNW5ddPDtFCA=
-----END CERTIFICATE-----
";

#[tokio::test(flavor = "multi_thread")]
async fn killed_connections_are_replaced() {
    let Some(place) = Place::postgres().await else { return };
    let db = Arc::new(place.open().await);
    register(&db, "ci", &["a"]).await;
    let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = \
                current_database() AND pid <> pg_backend_pid()";
    administer(&place.url(), kill).await;
    gofer_conformance::eventually("the pool has a living connection", || async {
        db.namespace_get(&default()).await.map(drop).map_err(|error| error.to_string())
    })
    .await;
    insert(&db, "ci", 1).await;
}
