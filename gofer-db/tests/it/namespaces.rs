use crate::engines::{Place, on_both_engines};
use crate::setup::{
    all, at, conflicting, default, last_event, missing, ns, pages, register, registration, spec,
    types_after,
};
use gofer_core::Resource;
use gofer_db::DbError;

on_both_engines! {
    a_namespace_lives_and_dies
    namespaces_are_listed_by_page_and_by_permission
    a_namespace_with_pipelines_stays
    of_a_registration_and_a_delete_at_once_one_wins
}

async fn a_namespace_lives_and_dies(place: Place) {
    let db = place.open().await;
    assert_eq!(db.namespace_get(&default()).await.unwrap().description, "", "there from the start");
    let team = ns("team");
    let made = db.namespace_create(&team, "the team's", "ada", at(1)).await.unwrap();
    assert_eq!((made.created_at, made.updated_at), (at(1), at(1)));
    assert_eq!(db.namespace_get(&team).await.unwrap(), made);

    let again = db.namespace_create(&team, "", "ada", at(2)).await;
    assert!(
        matches!(again, Err(DbError::AlreadyExists { what: Resource::Namespace, .. })),
        "{again:?}"
    );

    let changed = db.namespace_update(&team, "ours", "ada", at(3)).await.unwrap();
    assert_eq!((changed.description.as_str(), changed.updated_at), ("ours", at(3)));
    db.namespace_delete(&team, "ada", at(4)).await.unwrap();
    missing(db.namespace_get(&team).await, Resource::Namespace);
    missing(db.namespace_update(&team, "", "ada", at(5)).await, Resource::Namespace);
    missing(db.namespace_delete(&team, "ada", at(5)).await, Resource::Namespace);
    conflicting(db.namespace_delete(&default(), "ada", at(5)).await, "`default` cannot be deleted");
    assert_eq!(
        types_after(&db, 0).await,
        ["namespace_created", "namespace_updated", "namespace_deleted"]
    );
}

async fn namespaces_are_listed_by_page_and_by_permission(place: Place) {
    let db = place.open().await;
    // In byte order, whatever the server's language says of `-` and `_`.
    let names = ["a-b", "a_b", "a0", "ab", "b"];
    for name in names.iter().rev() {
        db.namespace_create(&ns(name), "", "ada", at(1)).await.unwrap();
    }

    for limit in [1, 2, 6, 100] {
        let listed = pages!(limit, |page| db.namespace_list(None, page));
        let listed: Vec<&str> = listed.iter().map(|namespace| namespace.id.as_str()).collect();
        assert_eq!(listed, ["a-b", "a0", "a_b", "ab", "b", "default"]);
    }

    let allowed = [ns("b"), ns("a0"), ns("unknown")];
    let listed = pages!(1, |page| db.namespace_list(Some(&allowed), page));
    let listed: Vec<&str> = listed.iter().map(|namespace| namespace.id.as_str()).collect();
    assert_eq!(listed, ["a0", "b"]);
    assert_eq!(db.namespace_list(Some(&[]), &all()).await.unwrap().items, []);
}

async fn a_namespace_with_pipelines_stays(place: Place) {
    let db = place.open().await;
    let team = ns("team");
    db.namespace_create(&team, "", "ada", at(1)).await.unwrap();
    db.pipeline_register(registration(&team, spec("ci", &["a"]), "d"), "ada", at(2)).await.unwrap();
    let before = last_event(&db);
    conflicting(db.namespace_delete(&team, "ada", at(3)).await, "such as `ci`");
    assert_eq!(last_event(&db), before);
    db.pipeline_delete(&team, &crate::setup::pl("ci"), "ada", at(4)).await.unwrap();
    db.namespace_delete(&team, "ada", at(5)).await.unwrap();
    missing(db.pipeline_list(&team, &all()).await, Resource::Namespace);
    register(&db, "ci", &["a"]).await;
}

async fn of_a_registration_and_a_delete_at_once_one_wins(place: Place) {
    let db = place.open().await;
    for round in 0..10 {
        let team = ns(&format!("team-{round}"));
        db.namespace_create(&team, "", "ada", at(1)).await.unwrap();
        let registering =
            db.pipeline_register(registration(&team, spec("ci", &["a"]), "d"), "ada", at(2));
        let (registered, deleted) =
            tokio::join!(registering, db.namespace_delete(&team, "ada", at(2)));

        match (registered, deleted) {
            (Ok(_), Err(DbError::Conflict { .. })) => {
                assert!(db.namespace_get(&team).await.is_ok())
            }
            (Err(DbError::NotFound { .. }), Ok(())) => {
                missing(db.namespace_get(&team).await, Resource::Namespace)
            }
            other => panic!("{other:?}"),
        }
    }
}
