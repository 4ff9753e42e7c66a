//! PostgreSQL writes its errors in the language of `lc_messages`; what they mean does not depend on it.

use std::time::Duration;

use gofer_core::conformance::skip;
use gofer_db::DbError;
use tokio_postgres::{Client, NoTls};

use crate::engines::Place;
use crate::setup::default;

/// By `localedef` in `testbed/postgres.sh`.
const GERMAN: &str = "de_DE.UTF-8";
const TEST: &str = "gofer-db with errors in German";

#[tokio::test(flavor = "multi_thread")]
async fn an_error_means_the_same_in_another_language() {
    let Some(place) = Place::postgres().await else { return };
    place.open().await.close().await;
    let admin = connect(&place.url()).await;
    let set = |name: &str, value: &str| {
        format!(
            "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET {name} = %L', current_database(), '{value}'); END $$"
        )
    };
    admin.batch_execute(&set("lock_timeout", "100ms")).await.unwrap();
    if let Err(error) = admin.batch_execute(&set("lc_messages", GERMAN)).await {
        skip("german", TEST, &format!("PostgreSQL has no `{GERMAN}`: {error}"));
    }

    let db = place.open().await;
    admin.batch_execute("BEGIN; LOCK TABLE namespaces IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let refused = tokio::time::timeout(Duration::from_secs(30), db.namespace_get(&default())).await.unwrap();
    let Err(DbError::Unavailable { source: Some(source), .. }) = &refused else { panic!("{refused:?}") };
    assert!(source.to_string().starts_with("SQLSTATE 55P03: "), "{source}");
    if source.to_string().contains("canceling statement") {
        skip("german", TEST, "its translations are not installed");
    }
    admin.batch_execute("ROLLBACK").await.unwrap();
    db.namespace_get(&default()).await.unwrap();
}

async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("the test server answers");
    tokio::spawn(connection);
    client
}
