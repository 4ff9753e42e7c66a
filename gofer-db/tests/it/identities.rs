//! A namespace that is deleted and made again is another one.

use gofer_core::NamespaceId;
use gofer_core::entity::{SecretRecord, SecretScope, Token, TokenKind};
use gofer_core::journal::Catalog;
use gofer_db::{Db, EventFilter};

use crate::engines::{Place, on_both_engines};
use crate::setup::{at, fresh_location, hash, ns, pl, put_secret, registration, spec, token};

on_both_engines! {
    the_old_tokens_get_nothing_and_the_old_events_are_not_shown
    many_changes_in_one_transaction_keep_namespaces_apart
    a_global_secret_forgets_a_deleted_namespace
    the_ids_of_an_older_database_are_filled_in
}

fn for_namespaces(id: &str, namespaces: &[&str]) -> Token {
    Token {
        namespaces: namespaces.iter().map(|name| ns(name)).collect(),
        ..token(id, TokenKind::Client, 2)
    }
}

async fn namespaces_of(db: &Db, id: &str) -> Vec<NamespaceId> {
    let token = db.token_get(id).await.unwrap();
    assert_eq!(db.token_some(vec![id.to_owned()]).await.unwrap(), std::slice::from_ref(&token));
    token.namespaces
}

async fn shown(db: &Db, filter: EventFilter) -> Vec<&'static str> {
    let after = db.event_list_after(0, &filter, 1_000).await.unwrap();
    let mut before = db.event_list_before(None, &filter, 1_000).await.unwrap();
    before.reverse();
    assert_eq!(after, before);
    after.iter().map(|event| event.body.details.type_name()).collect()
}

fn of(namespace: &str) -> EventFilter {
    EventFilter { namespaces: Some(vec![ns(namespace)]), ..EventFilter::default() }
}

async fn the_old_tokens_get_nothing_and_the_old_events_are_not_shown(place: Place) {
    let db = place.open().await;
    let green = ns("green");
    db.namespace_create(&green, "of the old team", "ada", at(1)).await.unwrap();
    let hashed = hash();
    db.token_insert(&for_namespaces("old", &["green", "default"]), &hashed).await.unwrap();
    assert_eq!(namespaces_of(&db, "old").await, [green.clone(), ns("default")]);
    db.pipeline_register(registration(&green, spec("ci", &["a"]), "d"), "ada", at(3))
        .await
        .unwrap();
    db.pipeline_delete(&green, &pl("ci"), "ada", at(4)).await.unwrap();
    db.namespace_delete(&green, "ada", at(5)).await.unwrap();
    assert_eq!(namespaces_of(&db, "old").await, [ns("default")]);
    assert!(shown(&db, of("green")).await.is_empty(), "there is no such namespace");

    db.namespace_create(&green, "of the new team", "ada", at(6)).await.unwrap();
    assert_eq!(namespaces_of(&db, "old").await, [ns("default")]);
    assert_eq!(db.token_by_hash(&hashed).await.unwrap().unwrap().namespaces, [ns("default")]);
    db.token_insert(&for_namespaces("new", &["green"]), &hash()).await.unwrap();
    assert_eq!(namespaces_of(&db, "new").await, std::slice::from_ref(&green));
    db.pipeline_register(registration(&green, spec("ci", &["a"]), "e"), "ada", at(7))
        .await
        .unwrap();

    let check = async |db: &Db| {
        assert_eq!(shown(db, of("green")).await, ["namespace_created", "pipeline_registered"]);
        let of_pipeline = EventFilter { pipeline: Some(pl("ci")), ..of("green") };
        assert_eq!(shown(db, of_pipeline).await, ["pipeline_registered"]);
        let all = shown(db, EventFilter::default()).await;
        assert_eq!(all.iter().filter(|name| **name == "namespace_deleted").count(), 1, "{all:?}");
        assert_eq!(all.iter().filter(|name| **name == "pipeline_registered").count(), 2, "{all:?}");
    };

    check(&db).await;
    db.close().await;
    check(&place.open().await).await;
}

/// SQLite makes one transaction of what is asked for at once.
async fn many_changes_in_one_transaction_keep_namespaces_apart(place: Place) {
    let db = place.open().await;
    for round in 0..20 {
        let name = ns(&format!("team-{round}"));
        let steps = async {
            let first = db.namespace_create(&name, "old", "ada", at(1));
            let renamed = db.namespace_update(&name, "older", "ada", at(2));
            let deleted = db.namespace_delete(&name, "ada", at(3));
            let made = db.namespace_create(&name, "new", "ada", at(4));
            // The writer gets them in this order, and the others while it waits for the disk with
            // the first.
            let (first, renamed, deleted, made) = tokio::join!(first, renamed, deleted, made);
            first.is_ok() && renamed.is_ok() && deleted.is_ok() && made.is_ok()
        };

        if steps.await {
            assert_eq!(shown(&db, of(name.as_str())).await, ["namespace_created"], "round {round}");
            db.close().await;
            let again = place.open().await;
            assert_eq!(
                shown(&again, of(name.as_str())).await,
                ["namespace_created"],
                "round {round}"
            );
            return;
        }
    }

    // PostgreSQL runs them at once, in any order.
    assert_eq!(db.product(), "postgres", "the writer takes them in order");
}

async fn a_global_secret_forgets_a_deleted_namespace(place: Place) {
    let db = place.open().await;
    for name in ["green", "gr_en"] {
        db.namespace_create(&ns(name), "", "ada", at(1)).await.unwrap();
    }

    let record = SecretRecord {
        scope: SecretScope::Global,
        key: "k".to_owned(),
        location: fresh_location(),
        allowed_namespaces: vec![ns("green"), ns("gr_en"), ns("default")],
        updated_by: "ada".to_owned(),
        created_at: at(2),
        updated_at: at(2),
    };

    put_secret(&db, &record, false).await.unwrap();
    db.namespace_delete(&ns("gr_en"), "ada", at(3)).await.unwrap();
    let allowed =
        async || db.secret(&SecretScope::Global, "k").await.unwrap().unwrap().allowed_namespaces;
    assert_eq!(allowed().await, [ns("green"), ns("default")]);
    db.namespace_delete(&ns("green"), "ada", at(4)).await.unwrap();
    db.namespace_create(&ns("green"), "", "ada", at(5)).await.unwrap();
    assert_eq!(allowed().await, [ns("default")]);
}

macro_rules! migrations {
    ($engine:literal) => {
        [
            include_str!(concat!("../../migrations/", $engine, "/00000000000001_initial/up.sql")),
            include_str!(concat!("../../migrations/", $engine, "/00000000000002_lead/up.sql")),
            include_str!(concat!("../../migrations/", $engine, "/00000000000003_settled/up.sql")),
            include_str!(concat!("../../migrations/", $engine, "/00000000000004_uploads/up.sql")),
            include_str!(concat!(
                "../../migrations/",
                $engine,
                "/00000000000005_secret_values/up.sql"
            )),
        ]
    };
}

/// As the version before left it: a token older than its namespace, and events of the namespace
/// before.
async fn the_ids_of_an_older_database_are_filled_in(place: Place) {
    let is_sqlite = place.is_sqlite();
    let older = if is_sqlite { migrations!("sqlite") } else { migrations!("postgres") };
    let blob = if is_sqlite {
        |n: u8| format!("x'{n:064x}'")
    } else {
        |n: u8| format!("'\\x{n:064x}'::bytea")
    };

    let off = if is_sqlite { "0" } else { "false" };
    let mut statements = older.concat();
    statements += "CREATE TABLE __diesel_schema_migrations (version VARCHAR(50) PRIMARY KEY NOT \
                   NULL, run_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP);";

    for version in 1..=5 {
        statements +=
            &format!("INSERT INTO __diesel_schema_migrations (version) VALUES ('{version:014}');");
    }

    for (name, at) in [("green", 50), ("blue", 10)] {
        statements += &format!(
            "INSERT INTO namespaces (id, description, created_at, updated_at) VALUES ('{name}', \
             '', {at}, {at});"
        );
    }

    let tokens = [
        ("before", "client", r#"["blue","green"]"#, 20, 1),
        ("after", "client", r#"["green","default","gone"]"#, 60, 2),
        ("manager", "management", "[]", 5, 3),
    ];

    for (id, kind, namespaces, at, number) in tokens {
        statements += &format!(
            "INSERT INTO tokens (id, hash, kind, namespaces, description, created_by, created_at, \
             disabled) VALUES ('{id}', {}, '{kind}', '{namespaces}', '', 'ada', {at}, {off});",
            blob(number)
        );
    }

    let events = [
        ("green", "namespace_created", r#"{"type":"namespace_created","description":""}"#),
        ("blue", "namespace_created", r#"{"type":"namespace_created","description":""}"#),
        ("green", "namespace_deleted", r#"{"type":"namespace_deleted"}"#),
        ("green", "namespace_created", r#"{"type":"namespace_created","description":""}"#),
        ("green", "namespace_updated", r#"{"type":"namespace_updated","description":""}"#),
    ];

    for (at, (namespace, kind, details)) in (1..).zip(events) {
        statements += &format!(
            "INSERT INTO events (id, at, actor, namespace, type, details) \
             VALUES ({at}, {at}, 'ada', '{namespace}', '{kind}', '{details}');"
        );
    }

    statements += "UPDATE event_counter SET last = 5;";
    place.batch(&statements).await;

    let db = place.open().await;
    assert_eq!(namespaces_of(&db, "before").await, [ns("blue")], "it was made for another `green`");
    assert_eq!(namespaces_of(&db, "after").await, [ns("green"), ns("default")]);
    assert_eq!(namespaces_of(&db, "manager").await, []);
    assert_eq!(shown(&db, of("green")).await, ["namespace_created", "namespace_updated"]);
    assert_eq!(shown(&db, of("blue")).await, ["namespace_created"]);
    assert_eq!(shown(&db, EventFilter::default()).await.len(), 5);
    db.namespace_update(&ns("green"), "new", "ada", at(1)).await.unwrap();
    assert_eq!(shown(&db, of("green")).await.len(), 3);
    db.namespace_delete(&ns("blue"), "ada", at(2)).await.unwrap();
    assert_eq!(namespaces_of(&db, "before").await, []);
}
