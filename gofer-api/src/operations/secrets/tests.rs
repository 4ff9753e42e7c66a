//! Several servers' puts at once, and what is left when the store fails or the server dies between
//! two steps.

#[path = "../../../tests/it/database.rs"]
mod database;

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::future::join_all;
use gofer_conformance::{Faults, Faulty, MemorySecretStore};
use gofer_core::NamespaceId;
use gofer_core::journal::{Expirable, Expiry, Retention};
use gofer_core::object_store::ListPage;
use gofer_db::{DatabaseUrl, DbConfig};
use gofer_engine::layout;
use secrecy::ExposeSecret as _;

use super::*;
use crate::operations::testing::{FAILS, LOSES_ITS_ANSWER, TAKES_TIME, die_at};
use database::TestDatabase;

/// Handles of two servers on one database, or of one on a file of its own.
struct Place {
    servers: Vec<Db>,
    _database: Option<TestDatabase>,
    _files: Option<tempfile::TempDir>,
}

impl Place {
    async fn sqlite() -> Self {
        let files = tempfile::tempdir().unwrap();
        let db = Db::connect(DbConfig::sqlite(files.path().join("gofer.db"))).await.unwrap();
        Self { servers: vec![db], _database: None, _files: Some(files) }
    }

    /// `None`, printed, without PostgreSQL.
    async fn postgres(test: &str) -> Option<Self> {
        let database = TestDatabase::create(test).await?;
        let config = || DbConfig {
            url: Some(DatabaseUrl::new(database.url())),
            pool_size: 6,
            shared: true,
            ..DbConfig::default()
        };
        let servers =
            vec![Db::connect(config()).await.unwrap(), Db::connect(config()).await.unwrap()];
        Some(Self { servers, _database: Some(database), _files: None })
    }
}

/// Emits a test per engine.
macro_rules! on_each_engine {
    ($($name:ident)+) => {
        mod sqlite {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $name() {
                    super::$name(super::Place::sqlite().await).await;
                }
            )+
        }
        mod postgres {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $name() {
                    let test = concat!("operations::secrets::", stringify!($name));
                    let Some(place) = super::Place::postgres(test).await else { return };
                    super::$name(place).await;
                }
            )+
        }
    };
}

on_each_engine! {
    concurrent_puts_never_mix_value_and_namespaces
    of_concurrent_puts_if_absent_exactly_one_says_that_it_won
    a_put_that_dies_anywhere_leaves_the_old_secret_or_the_new
    a_put_that_fails_at_any_step_leaves_the_old_secret_whole
    a_delete_whose_store_fails_is_finished_by_retention
}

fn faulty(inner: &Arc<MemorySecretStore>, faults: Faults) -> Faulty<dyn SecretStore> {
    Faulty::new(inner.clone() as Arc<dyn SecretStore>, 1, faults)
}

fn namespace(name: &str) -> NamespaceId {
    NamespaceId::new(name).unwrap()
}

fn record(key: &str, namespaces: &[&str]) -> SecretRecord {
    let at = Timestamp::now();
    SecretRecord {
        scope: SecretScope::Global,
        key: key.to_owned(),
        location: layout::secret_location(&SecretScope::Global, key).unwrap(),
        allowed_namespaces: namespaces.iter().copied().map(namespace).collect(),
        updated_by: "test".to_owned(),
        created_at: at,
        updated_at: at,
    }
}

async fn read(db: &Db, store: &dyn SecretStore, key: &str) -> (String, String) {
    let (record, value) = get(db, store, &SecretScope::Global, key).await.unwrap();
    let namespaces: Vec<_> = record.allowed_namespaces.iter().map(ToString::to_string).collect();
    (value.expose_secret().to_owned(), namespaces.join(","))
}

/// Does what retention does with values, as if all puts that are under way had been interrupted.
async fn sweep(db: &Db, store: &dyn SecretStore) {
    let later = Timestamp(Timestamp::now().0 + 1_000_000);
    let policy = Retention {
        logs_before: Timestamp(0),
        run_objects_keep_runs: 1,
        runs_before: Timestamp(0),
        keep_runs: 1,
        events_before: Timestamp(0),
        keep_versions: 1,
        uploads_before: Timestamp(0),
        secret_values_before: later,
    };

    loop {
        let found = db.expirable(&policy, 100).await.unwrap();
        if found.is_empty() {
            return;
        }

        for what in found {
            if let Expirable::SecretValue { location, being_put: false } = &what {
                store.delete(location).await.unwrap();
            }
            db.expired(&what, later).await.unwrap();
        }
    }
}

async fn stored(store: &dyn SecretStore) -> BTreeSet<String> {
    let listed = store.list("", ListPage { after: None, limit: 1_000 }).await.unwrap();
    assert!(!listed.more);
    listed.paths.iter().map(ToString::to_string).collect()
}

async fn concurrent_puts_never_mix_value_and_namespaces(place: Place) {
    let store = Arc::new(MemorySecretStore::new());
    for round in 0..20 {
        let key = format!("k{round}");
        let puts = ["red", "green", "blue", "white"].into_iter().enumerate().map(|(at, color)| {
            let (db, store) = (place.servers[at % place.servers.len()].clone(), store.clone());
            let record = record(&key, &[color]);
            tokio::spawn(
                async move { put(&db, &*store, &record, &color.into(), false).await.map(drop) },
            )
        });

        let watch = {
            let (db, store, key) = (place.servers[0].clone(), store.clone(), key.clone());
            tokio::spawn(async move {
                for _ in 0..20 {
                    if let Ok((record, value)) = get(&db, &*store, &SecretScope::Global, &key).await
                    {
                        assert_eq!(record.allowed_namespaces, [namespace(value.expose_secret())]);
                    }
                }
            })
        };

        for outcome in join_all(puts).await {
            outcome.unwrap().unwrap();
        }

        watch.await.unwrap();
        for db in &place.servers {
            let (value, namespaces) = read(db, &*store, &key).await;
            assert_eq!(value, namespaces);
        }
    }

    assert_eq!(stored(&*store).await.len(), 20, "one value of each secret is left");
}

async fn of_concurrent_puts_if_absent_exactly_one_says_that_it_won(place: Place) {
    let store = Arc::new(MemorySecretStore::new());
    for round in 0..20 {
        let key = format!("k{round}");
        let puts = ["red", "green", "blue", "white"].into_iter().enumerate().map(|(at, color)| {
            let (db, store) = (place.servers[at % place.servers.len()].clone(), store.clone());
            let record = record(&key, &[color]);
            tokio::spawn(async move {
                match put(&db, &*store, &record, &color.into(), true).await {
                    Ok(_) => Some(color),
                    Err(
                        ApiError::AlreadyExists { .. }
                        | ApiError::Db(DbError::AlreadyExists { .. }),
                    ) => None,
                    Err(error) => panic!("{error:?}"),
                }
            })
        });

        let won: Vec<&str> = join_all(puts).await.into_iter().filter_map(Result::unwrap).collect();
        assert_eq!(won.len(), 1, "{won:?}");
        assert_eq!(
            read(&place.servers[0], &*store, &key).await,
            (won[0].to_owned(), won[0].to_owned())
        );
    }

    assert_eq!(stored(&*store).await.len(), 20, "the others' values are deleted");
}

async fn a_put_that_dies_anywhere_leaves_the_old_secret_or_the_new(place: Place) {
    let db = &place.servers[0];
    let inner = Arc::new(MemorySecretStore::new());
    for wait in 0.. {
        let key = format!("k{wait}");
        put(db, &*inner, &record(&key, &["old"]), &"old".into(), false).await.unwrap();

        let (slow, new) = (faulty(&inner, TAKES_TIME), record(&key, &["new"]));
        let done = die_at(wait, put(db, &slow, &new, &"new".into(), false)).await;

        // Value and namespaces always belong together.
        let (value, namespaces) = read(db, &*inner, &key).await;
        assert_eq!(value, namespaces, "{wait}");
        if let Some(outcome) = done {
            outcome.unwrap();
            assert_eq!(value, "new");
            assert!(wait > 2, "it waits for the database and the store, not {wait} times");
            break;
        }
    }

    // What is in nobody's record goes; what is in one stays.
    sweep(db, &*inner).await;
    let named = stored(&*inner).await.len();
    assert!(named > 3, "{named}");
}

async fn a_put_that_fails_at_any_step_leaves_the_old_secret_whole(place: Place) {
    let db = &place.servers[0];
    let inner = Arc::new(MemorySecretStore::new());
    let old = record("k", &["wide", "wider"]);
    put(db, &*inner, &old, &"old".into(), false).await.unwrap();

    // The store refuses, or does it and says that it did not.
    for faults in [FAILS, LOSES_ITS_ANSWER] {
        let faulty = faulty(&inner, faults);
        let new = record("k", &["narrow"]);
        put(db, &faulty, &new, &"new".into(), false).await.unwrap_err();
        assert_eq!(read(db, &*inner, "k").await, ("old".to_owned(), "wide,wider".to_owned()));
    }

    // The server dies after any of its steps.
    for steps in 0..3 {
        let new = record("k", &["narrow"]);
        if steps >= 1 {
            db.secret_put_begin(&new.location, new.updated_at).await.unwrap();
        }
        if steps >= 2 {
            inner.put(&new.location, &"new".into(), PutOptions { if_absent: true }).await.unwrap();
        }
        assert_eq!(read(db, &*inner, "k").await, ("old".to_owned(), "wide,wider".to_owned()));
    }

    assert!(stored(&*inner).await.len() > 1);
    sweep(db, &*inner).await;
    assert_eq!(stored(&*inner).await, BTreeSet::from([old.location.to_string()]));
    assert_eq!(read(db, &*inner, "k").await, ("old".to_owned(), "wide,wider".to_owned()));

    // Or before it has deleted the value that it replaced.
    let new = record("k", &["narrow"]);
    db.secret_put_begin(&new.location, new.updated_at).await.unwrap();
    inner.put(&new.location, &"new".into(), PutOptions { if_absent: true }).await.unwrap();
    db.secret_put_record(&new, false).await.unwrap();
    assert_eq!(read(db, &*inner, "k").await, ("new".to_owned(), "narrow".to_owned()));
    assert_eq!(stored(&*inner).await.len(), 2);
    sweep(db, &*inner).await;
    assert_eq!(stored(&*inner).await, BTreeSet::from([new.location.to_string()]));
}

async fn a_delete_whose_store_fails_is_finished_by_retention(place: Place) {
    let db = &place.servers[0];
    let inner = Arc::new(MemorySecretStore::new());
    put(db, &*inner, &record("k", &[]), &"value".into(), false).await.unwrap();
    let faulty = faulty(&inner, FAILS);
    assert!(delete(db, &faulty, &SecretScope::Global, "k", "test").await.unwrap());
    assert!(!delete(db, &faulty, &SecretScope::Global, "k", "test").await.unwrap());
    let missing = get(db, &*inner, &SecretScope::Global, "k").await.unwrap_err();
    assert!(
        matches!(missing, ApiError::Db(DbError::NotFound { what: Resource::Secret, .. })),
        "{missing:?}"
    );
    assert_eq!(stored(&*inner).await.len(), 1);
    sweep(db, &*inner).await;
    assert_eq!(stored(&*inner).await.len(), 0);
}
