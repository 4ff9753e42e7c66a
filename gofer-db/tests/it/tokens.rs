use futures::future::join_all;
use gofer_core::entity::TokenKind;
use gofer_db::DbError;

use crate::engines::{Place, on_both_engines};
use crate::setup::{at, conflicting, hash, missing, page, pages, token, types_after};

on_both_engines! {
    a_token_lives_and_dies
    the_first_management_token_is_made_once
    a_management_token_closes_the_door_for_good
    tokens_are_listed_newest_first
}

async fn a_token_lives_and_dies(place: Place) {
    let db = place.open().await;
    let (made, hashed) = (token("t1", TokenKind::Client, 1), hash());
    db.token_insert(&made, &hashed).await.unwrap();
    assert_eq!(db.token_by_hash(&hashed).await.unwrap().as_ref(), Some(&made));
    assert_eq!(db.token_get("t1").await.unwrap(), made);
    assert_eq!(db.token_by_hash(&hash()).await.unwrap(), None);
    let again = db.token_insert(&made, &hash()).await;
    assert!(matches!(again, Err(DbError::AlreadyExists { what: "token", .. })), "{again:?}");
    for (disabled, seconds) in [(false, 2), (true, 3), (true, 4), (false, 5)] {
        let now = db.token_set_disabled("t1", disabled, "ada", at(seconds)).await.unwrap();
        assert_eq!(now.disabled, disabled);
    }
    db.token_delete("t1", "ada", at(6)).await.unwrap();
    assert_eq!(db.token_by_hash(&hashed).await.unwrap(), None);
    missing(db.token_get("t1").await, "token");
    missing(db.token_delete("t1", "ada", at(7)).await, "token");
    missing(db.token_set_disabled("t1", true, "ada", at(7)).await, "token");
    assert_eq!(types_after(&db, 0).await, ["token_created", "token_disabled", "token_enabled", "token_deleted"]);
}

async fn the_first_management_token_is_made_once(place: Place) {
    let db = place.open().await;
    db.token_insert(&token("client", TokenKind::Client, 0), &hash()).await.unwrap();
    let calls = (0..8).map(|number| {
        let db = db.clone();
        let first = token(&format!("t{number}"), TokenKind::Management, 1);
        tokio::spawn(async move { db.token_bootstrap(&first, &hash()).await })
    });
    let results: Vec<_> = join_all(calls).await.into_iter().map(|joined| joined.unwrap()).collect();
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1, "{results:?}");
    for refused in results.into_iter().filter(Result::is_err) {
        conflicting(refused, "has had a management token already");
    }
    let made = pages!(10, |page| db.token_list(&[TokenKind::Management], page));
    assert_eq!(made.len(), 1);
    db.token_delete(&made[0].id, "ada", at(2)).await.unwrap();
    conflicting(db.token_bootstrap(&token("late", TokenKind::Management, 3), &hash()).await, "already");
}

async fn a_management_token_closes_the_door_for_good(place: Place) {
    let db = place.open().await;
    db.token_insert(&token("m", TokenKind::Management, 1), &hash()).await.unwrap();
    db.token_delete("m", "ada", at(2)).await.unwrap();
    conflicting(db.token_bootstrap(&token("b", TokenKind::Management, 3), &hash()).await, "already");
}

async fn tokens_are_listed_newest_first(place: Place) {
    let db = place.open().await;
    for (id, kind, seconds) in [
        ("a", TokenKind::Client, 2),
        ("b", TokenKind::Management, 1),
        ("c", TokenKind::Client, 2),
        ("d", TokenKind::Client, 0),
    ] {
        db.token_insert(&token(id, kind, seconds), &hash()).await.unwrap();
    }
    let list = async |kinds: &[TokenKind]| {
        let listed = pages!(1, |page| db.token_list(kinds, page));
        listed.into_iter().map(|token| token.id).collect::<String>()
    };
    assert_eq!(list(&[]).await, "cabd");
    assert_eq!(list(&[TokenKind::Client]).await, "cad");
    assert_eq!(list(&[TokenKind::Management, TokenKind::Client]).await, "cabd");
    for nonsense in ["x", "x/y", ""] {
        let refused = db.token_list(&[], &page(Some(nonsense), 1)).await;
        assert!(matches!(refused, Err(DbError::Invalid { .. })), "{nonsense}: {refused:?}");
    }
}
