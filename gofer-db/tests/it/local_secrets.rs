use futures::future::join_all;
use gofer_core::{Resource, SecretPath};
use gofer_db::{DbError, LocalSecret};

use crate::engines::{Place, on_both_engines};
use crate::setup::{all, last_event, missing, pages};

on_both_engines! {
    a_ciphertext_lives_and_dies
    of_concurrent_puts_if_absent_one_wins
    a_key_rotation_finds_what_is_left
}

fn path(text: &str) -> SecretPath {
    SecretPath::new(text).unwrap()
}

fn secret(key_id: &str, byte: u8) -> LocalSecret {
    LocalSecret { key_id: key_id.to_owned(), ciphertext: vec![0, byte, 255] }
}

async fn a_ciphertext_lives_and_dies(place: Place) {
    let db = place.open().await;
    missing(db.local_secret_get(&path("a/b")).await, Resource::Secret);
    db.local_secret_put(&path("a/b"), &secret("k1", 1), true).await.unwrap();
    let taken = db.local_secret_put(&path("a/b"), &secret("k1", 2), true).await;
    assert!(matches!(taken, Err(DbError::AlreadyExists { .. })), "{taken:?}");
    assert_eq!(db.local_secret_get(&path("a/b")).await.unwrap(), secret("k1", 1));
    db.local_secret_put(&path("a/b"), &secret("k2", 2), false).await.unwrap();
    assert_eq!(db.local_secret_get(&path("a/b")).await.unwrap(), secret("k2", 2));
    assert!(db.local_secret_delete(&path("a/b")).await.unwrap());
    assert!(!db.local_secret_delete(&path("a/b")).await.unwrap());
    assert_eq!(last_event(&db), 0, "the records of secrets have the events");
}

async fn of_concurrent_puts_if_absent_one_wins(place: Place) {
    let db = place.open().await;
    let puts = (0..8).map(|byte| {
        let db = db.clone();
        tokio::spawn(async move {
            db.local_secret_put(&path("x"), &secret("k", byte), true).await.map(|()| byte)
        })
    });
    let won: Vec<u8> =
        join_all(puts).await.into_iter().filter_map(|joined| joined.unwrap().ok()).collect();
    assert_eq!(won.len(), 1, "{won:?}");
    assert_eq!(db.local_secret_get(&path("x")).await.unwrap(), secret("k", won[0]));
}

async fn a_key_rotation_finds_what_is_left(place: Place) {
    let db = place.open().await;
    for (name, key) in [("a", "old"), ("b", "new"), ("c/x", "old"), ("c/y", "older")] {
        db.local_secret_put(&path(name), &secret(key, 1), false).await.unwrap();
    }

    assert_eq!(pages!(3, |page| db.local_secret_list("", page)).len(), 4);
    assert_eq!(db.local_secret_list("c/", &all()).await.unwrap().items, [path("c/x"), path("c/y")]);
    let stale = pages!(1, |page| db.local_secret_list_stale("new", page));
    assert_eq!(
        stale.iter().map(|(path, _)| path.to_string()).collect::<Vec<_>>(),
        ["a", "c/x", "c/y"]
    );

    for (path, old) in &stale {
        assert!(db.local_secret_rewrite(path, old, &secret("new", 2)).await.unwrap());
        assert!(
            !db.local_secret_rewrite(path, old, &secret("new", 3)).await.unwrap(),
            "a put in between wins"
        );
    }

    assert_eq!(db.local_secret_list_stale("new", &all()).await.unwrap().items, []);
    assert_eq!(db.local_secret_get(&path("a")).await.unwrap(), secret("new", 2));
}
