use futures::future::join_all;
use gofer_core::Resource;
use gofer_core::entity::ObjectRecord;
use gofer_db::{Db, DbError, ObjectPut};

use crate::engines::{Place, on_both_engines};
use crate::setup::{
    all, at, insert, last_event, missing, object_key, pages, register, scope, serial, types_after,
};

on_both_engines! {
    an_object_is_put_replaced_and_deleted
    the_oldest_objects_make_room
    objects_are_listed_by_prefix
    of_concurrent_puts_each_knows_what_it_replaces
    a_put_and_a_delete_at_once_leave_the_bytes_of_one
}

fn record(run: Option<u64>, key: &str, seconds: i64) -> ObjectRecord {
    ObjectRecord {
        scope: scope(run),
        key: object_key(key),
        location: object_key(&format!("objects/{}", serial())),
        size_bytes: 5_000_000_000,
        sha256: "ab".repeat(32),
        created_at: at(seconds),
    }
}

const ANY: ObjectPut = ObjectPut { if_absent: false, keep: None };

async fn an_object_is_put_replaced_and_deleted(place: Place) {
    let db = place.open().await;
    missing(db.object_put_record(&record(None, "x", 1), ANY, "ada").await, Resource::Pipeline);
    register(&db, "ci", &["a"]).await;
    insert(&db, "ci", 1).await;

    let before = last_event(&db);
    let (first, of_run) = (record(None, "x", 2), record(Some(1), "x", 2));
    for new in [&first, &of_run] {
        assert_eq!(db.object_put_record(new, ANY, "ada").await.unwrap(), Default::default());
        assert_eq!(db.object_get(&new.scope, &new.key).await.unwrap(), *new);
    }

    let second = record(None, "x", 3);
    let refused = db.object_put_record(&second, ObjectPut { if_absent: true, ..ANY }, "ada").await;
    assert!(
        matches!(refused, Err(DbError::AlreadyExists { what: Resource::Object, .. })),
        "{refused:?}"
    );

    let replaced = db.object_put_record(&second, ANY, "ada").await.unwrap();
    assert_eq!((replaced.replaced, replaced.evicted), (Some(first), vec![]));
    assert_eq!(
        db.object_delete(&second.scope, &second.key, "ada", at(4)).await.unwrap(),
        Some(second.clone())
    );
    assert_eq!(db.object_delete(&second.scope, &second.key, "ada", at(4)).await.unwrap(), None);
    missing(db.object_get(&second.scope, &second.key).await, Resource::Object);
    assert_eq!(
        db.object_get(&of_run.scope, &of_run.key).await.unwrap(),
        of_run,
        "another scope is another object"
    );
    missing(db.object_put_record(&record(Some(2), "x", 1), ANY, "ada").await, Resource::Run);
    assert_eq!(
        types_after(&db, before).await,
        ["object_put", "object_put", "object_put", "object_deleted"]
    );
}

async fn the_oldest_objects_make_room(place: Place) {
    let db = place.open().await;
    register(&db, "ci", &["a"]).await;
    insert(&db, "ci", 1).await;
    let keep = ObjectPut { keep: Some(2), ..ANY };
    let names = async |db: &Db, run| {
        let listed = db.object_list(&scope(run), "", &all()).await.unwrap().items;
        listed.iter().map(|record| record.key.to_string()).collect::<String>()
    };

    let evicted = async |key: &str, seconds| {
        let outcome = db.object_put_record(&record(None, key, seconds), keep, "ada").await.unwrap();
        outcome.evicted.iter().map(|record| record.key.to_string()).collect::<String>()
    };

    assert_eq!(evicted("a", 1).await, "");
    assert_eq!(evicted("b", 2).await, "");
    assert_eq!(evicted("a", 3).await, "", "a replaced key is no further key, and young again");
    let before = last_event(&db);
    assert_eq!(evicted("c", 4).await, "b");
    assert_eq!(types_after(&db, before).await, ["object_put", "object_evicted"]);
    assert_eq!(names(&db, None).await, "ac");

    // A clock that went back must not make a put evict itself.
    assert_eq!(evicted("d", 0).await, "a");
    assert_eq!(names(&db, None).await, "cd");
    for (key, seconds) in [("e", 5), ("f", 6), ("g", 7)] {
        db.object_put_record(&record(None, key, seconds), ANY, "ada").await.unwrap();
    }

    assert_eq!(evicted("h", 8).await, "dcef", "a limit that was lowered is caught up with");
    for (key, seconds) in [("a", 1), ("b", 2), ("c", 3)] {
        let outcome =
            db.object_put_record(&record(Some(1), key, seconds), keep, "ada").await.unwrap();
        assert_eq!(outcome.evicted, [], "run objects expire, they are not evicted");
    }

    assert_eq!(names(&db, Some(1)).await, "abc");
}

async fn objects_are_listed_by_prefix(place: Place) {
    let db = place.open().await;
    missing(db.object_list(&scope(None), "", &all()).await, Resource::Pipeline);
    register(&db, "ci", &["a"]).await;
    for key in ["a", "dir/b", "dir/a", "dir-a", "dir.a", "e"] {
        db.object_put_record(&record(None, key, 1), ANY, "ada").await.unwrap();
    }
    let list = async |prefix: &str| {
        let listed = pages!(2, |page| db.object_list(&scope(None), prefix, page));
        listed.iter().map(|record| record.key.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(list("").await, ["a", "dir-a", "dir.a", "dir/a", "dir/b", "e"]);
    assert_eq!(list("dir/").await, ["dir/a", "dir/b"]);
    assert_eq!(list("di").await, ["dir-a", "dir.a", "dir/a", "dir/b"]);
    assert_eq!(list("%").await, [""; 0], "a prefix is a text, not a pattern");
}

async fn of_concurrent_puts_each_knows_what_it_replaces(place: Place) {
    let db = place.open().await;
    register(&db, "ci", &["a"]).await;
    let puts = (0..12).map(|_| {
        let (db, new) = (db.clone(), record(None, "x", 1));
        tokio::spawn(async move {
            let outcome = db.object_put_record(&new, ANY, "ada").await.unwrap();
            (new.location, outcome.replaced.map(|record| record.location))
        })
    });

    let outcomes: Vec<_> = join_all(puts).await.into_iter().map(|joined| joined.unwrap()).collect();
    let mut put: Vec<String> = outcomes.iter().map(|(location, _)| location.to_string()).collect();
    let mut replaced: Vec<String> =
        outcomes.iter().filter_map(|(_, old)| old.as_ref()).map(|l| l.to_string()).collect();
    replaced
        .push(db.object_get(&scope(None), &object_key("x")).await.unwrap().location.to_string());
    put.sort();
    replaced.sort();
    assert_eq!(put, replaced, "every location was replaced once, but for the last");
}

async fn a_put_and_a_delete_at_once_leave_the_bytes_of_one(place: Place) {
    let db = place.open().await;
    register(&db, "ci", &["a"]).await;
    for _ in 0..10 {
        let (first, second) = (record(None, "x", 1), record(None, "x", 2));
        db.object_put_record(&first, ANY, "ada").await.unwrap();
        let putting = db.object_put_record(&second, ANY, "ada");
        let (put, deleted) =
            tokio::join!(putting, db.object_delete(&first.scope, &first.key, "ada", at(3)));
        let (put, deleted) =
            (put.unwrap().replaced, deleted.unwrap().expect("there was always one"));

        match db.object_get(&second.scope, &second.key).await {
            Ok(left) => assert_eq!((left, deleted, put), (second, first, None)),
            Err(DbError::NotFound { .. }) => assert_eq!((deleted, put), (second, Some(first))),
            Err(error) => panic!("{error:?}"),
        }
    }
}
