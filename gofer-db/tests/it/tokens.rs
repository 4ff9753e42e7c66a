use futures::future::join_all;
use gofer_core::Resource;
use gofer_core::entity::{Token, TokenKind};
use gofer_db::{BootstrapProof, DbError, ManagementEnd};

use crate::engines::{Place, on_both_engines};
use crate::setup::{
    at, conflicting, default, hash, last_event, missing, page, pages, token, types_after,
};

on_both_engines! {
    a_token_lives_and_dies
    the_first_management_token_is_made_once
    a_management_token_closes_the_door_for_good
    an_operator_opens_bootstrap_again
    the_end_of_management_is_known
    tokens_are_listed_newest_first
    the_last_management_token_that_works_stays
    of_concurrent_ends_of_management_tokens_one_token_stays
}

async fn a_token_lives_and_dies(place: Place) {
    let db = place.open().await;
    let (made, hashed) = (token("t1", TokenKind::Client, 1), hash());
    db.token_insert(&made, &hashed).await.unwrap();
    assert_eq!(db.token_by_hash(&hashed).await.unwrap().as_ref(), Some(&made));
    assert_eq!(db.token_get("t1").await.unwrap(), made);
    assert_eq!(db.token_by_hash(&hash()).await.unwrap(), None);

    let again = db.token_insert(&made, &hash()).await;
    assert!(
        matches!(again, Err(DbError::AlreadyExists { what: Resource::Token, .. })),
        "{again:?}"
    );

    for (disabled, seconds) in [(false, 2), (true, 3), (true, 4), (false, 5)] {
        let now = db.token_set_disabled("t1", disabled, "ada", at(seconds)).await.unwrap();
        assert_eq!(now.disabled, disabled);
    }

    db.token_delete("t1", "ada", at(6)).await.unwrap();
    assert_eq!(db.token_by_hash(&hashed).await.unwrap(), None);
    missing(db.token_get("t1").await, Resource::Token);
    missing(db.token_delete("t1", "ada", at(7)).await, Resource::Token);
    missing(db.token_set_disabled("t1", true, "ada", at(7)).await, Resource::Token);
    assert_eq!(
        types_after(&db, 0).await,
        ["token_created", "token_disabled", "token_enabled", "token_deleted"]
    );
}

async fn the_first_management_token_is_made_once(place: Place) {
    let db = place.open().await;
    db.token_insert(&token("client", TokenKind::Client, 0), &hash()).await.unwrap();
    let codes = [hash(), hash()];

    for code in &codes {
        assert!(db.bootstrap_accept(code, at(0)).await.unwrap());
    }

    let wrong = BootstrapProof::Code(hash());
    assert!(
        !db.token_bootstrap(&token("wrong", TokenKind::Management, 1), &hash(), wrong)
            .await
            .unwrap()
    );

    let calls = (0..8).map(|number| {
        let db = db.clone();
        let first = token(&format!("t{number}"), TokenKind::Management, 1);
        let code = codes[number % 2];
        tokio::spawn(async move {
            db.token_bootstrap(&first, &hash(), BootstrapProof::Code(code)).await
        })
    });

    let results: Vec<_> = join_all(calls).await.into_iter().map(|joined| joined.unwrap()).collect();
    assert_eq!(
        results.iter().filter(|result| matches!(result, Ok(true))).count(),
        1,
        "{results:?}"
    );

    for refused in results.into_iter().filter(Result::is_err) {
        conflicting(refused, "has had a management token already");
    }

    let made = pages!(10, |page| db.token_list(&[TokenKind::Management], page));
    assert_eq!(made.len(), 1);
    db.token_insert(&token("other", TokenKind::Management, 1), &hash()).await.unwrap();
    db.token_delete(&made[0].id, "ada", at(2)).await.unwrap();

    let late = token("late", TokenKind::Management, 3);
    for proof in
        [BootstrapProof::Management, BootstrapProof::Code(codes[0]), BootstrapProof::Code(codes[1])]
    {
        conflicting(db.token_bootstrap(&late, &hash(), proof).await, "already");
    }

    assert!(!db.bootstrap_accept(&hash(), at(3)).await.unwrap());
}

/// Beside another server where several may share the database.
async fn an_operator_opens_bootstrap_again(place: Place) {
    let servers = place.servers().await;
    let (db, other) = (&servers[0], servers.last().unwrap());
    let (old, new) = (hash(), hash());
    assert!(db.bootstrap_accept(&old, at(0)).await.unwrap());
    db.token_insert(&token("m", TokenKind::Management, 1), &hash()).await.unwrap();

    let before = last_event(db);
    other.bootstrap_reset(&new, "operator", at(2)).await.unwrap();
    let again = token("again", TokenKind::Management, 3);

    for wrong in [old, hash()] {
        assert!(!db.token_bootstrap(&again, &hash(), BootstrapProof::Code(wrong)).await.unwrap());
    }

    assert!(db.token_bootstrap(&again, &hash(), BootstrapProof::Code(new)).await.unwrap());
    conflicting(
        db.token_bootstrap(
            &token("more", TokenKind::Management, 4),
            &hash(),
            BootstrapProof::Code(new),
        )
        .await,
        "already",
    );
    assert_eq!(types_after(other, before).await, ["bootstrap_reset", "token_created"]);
    assert!(!db.token_get("m").await.unwrap().disabled, "tokens stay as they are");
}

async fn the_end_of_management_is_known(place: Place) {
    let db = place.open().await;
    assert_eq!(db.token_management_end(at(0)).await.unwrap(), ManagementEnd::None);
    db.token_insert(&token("client", TokenKind::Client, 1), &hash()).await.unwrap();

    for (id, end) in [("a", 10), ("b", 20)] {
        let made = Token { expires_at: Some(at(end)), ..token(id, TokenKind::Management, 1) };
        db.token_insert(&made, &hash()).await.unwrap();
    }

    assert_eq!(db.token_management_end(at(5)).await.unwrap(), ManagementEnd::At(at(20)));
    assert_eq!(db.token_management_end(at(20)).await.unwrap(), ManagementEnd::None);
    let endless = Token { expires_at: None, ..token("c", TokenKind::Management, 1) };
    db.token_insert(&endless, &hash()).await.unwrap();
    assert_eq!(db.token_management_end(at(20)).await.unwrap(), ManagementEnd::Never);
    db.token_set_disabled("a", true, "ada", at(6)).await.unwrap();
    db.token_set_disabled("c", true, "ada", at(6)).await.unwrap();
    assert_eq!(db.token_management_end(at(7)).await.unwrap(), ManagementEnd::At(at(20)));

    let found = db
        .token_some(vec!["b".to_owned(), "unknown".to_owned(), "client".to_owned()])
        .await
        .unwrap();
    let mut found: Vec<_> = found.into_iter().map(|token| (token.id, token.namespaces)).collect();
    found.sort();
    assert_eq!(found, [("b".to_owned(), vec![]), ("client".to_owned(), vec![default()])]);
}

async fn a_management_token_closes_the_door_for_good(place: Place) {
    let db = place.open().await;
    db.token_insert(&token("m", TokenKind::Management, 1), &hash()).await.unwrap();
    let late = db
        .token_bootstrap(&token("b", TokenKind::Management, 3), &hash(), BootstrapProof::Management)
        .await;
    conflicting(late, "already");
}

#[track_caller]
fn last<T: std::fmt::Debug>(result: Result<T, DbError>, wanted: &str) {
    assert!(
        matches!(&result, Err(DbError::LastManagementToken { id }) if id == wanted),
        "{result:?}"
    );
}

async fn the_last_management_token_that_works_stays(place: Place) {
    let db = place.open().await;
    for (id, kind) in
        [("a", TokenKind::Management), ("b", TokenKind::Management), ("c", TokenKind::Client)]
    {
        db.token_insert(&token(id, kind, 1), &hash()).await.unwrap();
    }

    let expired = Token { expires_at: Some(at(3)), ..token("expired", TokenKind::Management, 1) };
    db.token_insert(&expired, &hash()).await.unwrap();
    let before = last_event(&db);
    db.token_set_disabled("a", true, "ada", at(4)).await.unwrap();
    last(db.token_set_disabled("b", true, "ada", at(4)).await, "b");
    last(db.token_delete("b", "ada", at(4)).await, "b");

    // Others, and those that do not work, may go.
    db.token_set_disabled("a", true, "ada", at(4)).await.unwrap();
    db.token_delete("a", "ada", at(4)).await.unwrap();
    db.token_delete("expired", "ada", at(4)).await.unwrap();
    db.token_delete("c", "ada", at(4)).await.unwrap();
    assert!(!db.token_get("b").await.unwrap().disabled);

    let events = types_after(&db, before).await;
    assert_eq!(events, ["token_disabled", "token_deleted", "token_deleted", "token_deleted"]);
}

/// Each through a handle of its own where several may share the database, as several servers do.
async fn of_concurrent_ends_of_management_tokens_one_token_stays(place: Place) {
    let servers = place.servers().await;
    let mut ids = Vec::new();
    for round in 0..10 {
        ids.extend((0..6).map(|number| format!("{round}-{number}")));
        for id in &ids[ids.len() - 6..] {
            servers[0].token_insert(&token(id, TokenKind::Management, 1), &hash()).await.unwrap();
        }

        let calls = ids.iter().enumerate().map(|(number, id)| {
            let (db, id) = (servers[number % servers.len()].clone(), id.clone());
            tokio::spawn(async move {
                match number % 3 {
                    0 => db.token_delete(&id, "ada", at(2)).await,
                    _ => db.token_set_disabled(&id, true, "ada", at(2)).await.map(drop),
                }
            })
        });

        let results: Vec<_> =
            join_all(calls).await.into_iter().map(|joined| joined.unwrap()).collect();
        let mut working = pages!(100, |page| servers[0].token_list(&[TokenKind::Management], page));
        working.retain(|token| !token.disabled);
        ids = working.into_iter().map(|token| token.id).collect();
        assert_eq!(ids.len(), 1, "round {round}: {results:?}");
    }
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
