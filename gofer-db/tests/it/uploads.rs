//! Uploads by URL: completed once, given up once, and forgotten by retention with their bytes.

use futures::future::join_all;
use gofer_core::Resource;
use gofer_core::journal::{Expirable, Expiry, Retention};
use gofer_db::{Db, DbError, MAX_OPEN_UPLOADS, ObjectUpload, UploadState, UploadedObject};

use crate::engines::{Place, on_both_engines};
use crate::setup::{
    at, default, insert, keep_all, last_event, missing, object_key, pl, register, scope, serial,
    types_after,
};

on_both_engines! {
    an_upload_becomes_an_object_once
    an_upload_that_was_given_up_stays_so
    of_a_completion_and_giving_up_one_happens
    an_upload_heeds_what_the_object_must_be
    retention_names_bytes_that_no_record_names
    a_deleted_pipeline_completes_nothing
    open_uploads_are_bounded
}

/// An upload whose URL ends after so many seconds.
fn upload(run: Option<u64>, key: &str, seconds: i64) -> ObjectUpload {
    let serial = serial();
    ObjectUpload {
        id: format!("upload-{serial}"),
        scope: scope(run),
        key: object_key(key),
        location: object_key(&format!("objects/{serial}")),
        size_bytes: Some(5_000_000_000),
        sha256: None,
        if_absent: false,
        expires_at: at(seconds),
        state: UploadState::Open,
    }
}

fn found(keep: Option<u64>) -> UploadedObject {
    UploadedObject { size_bytes: 5_000_000_000, sha256: Some("ab".repeat(32)), keep, at: at(5) }
}

async fn with_run(place: &Place) -> Db {
    let db = place.open().await;
    register(&db, "ci", &["a"]).await;
    insert(&db, "ci", 1).await;
    db
}

/// What retention finds when what ended 100 seconds in is old.
async fn due(db: &Db) -> Vec<Expirable> {
    let policy = Retention { uploads_before: at(100), ..keep_all() };
    db.expirable(&policy, 100).await.unwrap()
}

fn named(upload: &ObjectUpload, bytes: bool) -> Expirable {
    Expirable::Upload { id: upload.id.clone(), location: bytes.then(|| upload.location.clone()) }
}

async fn an_upload_becomes_an_object_once(place: Place) {
    let db = with_run(&place).await;
    let before = last_event(&db);
    let (first, second) = (upload(Some(1), "x", 9), upload(Some(1), "x", 9));

    for new in [&first, &second] {
        db.upload_begin(new, 0, at(0)).await.unwrap();
        assert_eq!(db.upload_get(&new.scope, &new.id).await.unwrap(), *new);
    }

    missing(db.object_get(&first.scope, &first.key).await, Resource::Object);
    missing(db.upload_get(&scope(None), &first.id).await, Resource::Upload);
    missing(
        db.upload_complete(&scope(None), &first.id, &found(None), "ada").await,
        Resource::Upload,
    );

    let done = db.upload_complete(&first.scope, &first.id, &found(None), "ada").await.unwrap();
    assert_eq!(
        (done.record.location.clone(), done.no_longer_named.len()),
        (first.location.clone(), 0)
    );
    assert_eq!(db.object_get(&first.scope, &first.key).await.unwrap(), done.record);

    let other = UploadedObject { size_bytes: 1, sha256: None, ..found(None) };
    assert_eq!(
        db.upload_complete(&first.scope, &first.id, &other, "eve").await.unwrap(),
        done,
        "the same once more"
    );

    let complete = UploadState::Complete(done.record.clone(), vec![]);
    assert_eq!(db.upload_get(&first.scope, &first.id).await.unwrap().state, complete);

    let replaced =
        db.upload_complete(&second.scope, &second.id, &found(None), "ada").await.unwrap();
    assert_eq!(replaced.no_longer_named, std::slice::from_ref(&done.record));
    assert_eq!(
        db.upload_complete(&first.scope, &first.id, &found(None), "ada").await.unwrap(),
        done
    );
    assert_eq!(
        db.object_get(&second.scope, &second.key).await.unwrap(),
        replaced.record,
        "a repetition replaces nothing"
    );
    assert_eq!(types_after(&db, before).await, ["object_put", "object_put"]);
}

async fn an_upload_that_was_given_up_stays_so(place: Place) {
    let db = with_run(&place).await;
    let upload = upload(None, "x", 9);
    db.upload_begin(&upload, 0, at(0)).await.unwrap();
    assert!(db.upload_give_up(&upload.scope, &upload.id).await.unwrap());
    assert!(!db.upload_give_up(&upload.scope, &upload.id).await.unwrap());
    missing(
        db.upload_complete(&upload.scope, &upload.id, &found(None), "ada").await,
        Resource::Upload,
    );
    missing(db.object_get(&upload.scope, &upload.key).await, Resource::Object);
    missing(db.upload_give_up(&upload.scope, "another").await, Resource::Upload);
}

async fn of_a_completion_and_giving_up_one_happens(place: Place) {
    let db = with_run(&place).await;
    for round in 0..10 {
        let upload = upload(None, &format!("x{round}"), 9);
        db.upload_begin(&upload, 0, at(0)).await.unwrap();
        let uploaded = found(None);
        let completing =
            (0..2).map(|_| db.upload_complete(&upload.scope, &upload.id, &uploaded, "ada"));
        let (given_up, completed) =
            tokio::join!(db.upload_give_up(&upload.scope, &upload.id), join_all(completing));
        let there = db.object_get(&upload.scope, &upload.key).await.is_ok();
        let completed = completed.iter().filter(|completed| completed.is_ok()).count();
        assert_eq!((given_up.unwrap(), completed), (!there, if there { 2 } else { 0 }));
    }
}

async fn an_upload_heeds_what_the_object_must_be(place: Place) {
    let db = with_run(&place).await;
    missing(db.upload_begin(&upload(Some(9), "x", 9), 0, at(0)).await, Resource::Run);
    let absent = ObjectUpload { if_absent: true, ..upload(None, "x", 9) };
    let other = upload(None, "x", 9);

    for new in [&absent, &other] {
        db.upload_begin(new, 0, at(0)).await.unwrap();
    }

    db.upload_complete(&other.scope, &other.id, &found(None), "ada").await.unwrap();
    let refused = db.upload_complete(&absent.scope, &absent.id, &found(None), "ada").await;
    assert!(
        matches!(refused, Err(DbError::AlreadyExists { what: Resource::Object, .. })),
        "{refused:?}"
    );
    assert_eq!(db.upload_get(&absent.scope, &absent.id).await.unwrap().state, UploadState::Open);

    let late = ObjectUpload { if_absent: true, ..upload(None, "x", 9) };
    let refused = db.upload_begin(&late, 0, at(0)).await;
    assert!(
        matches!(refused, Err(DbError::AlreadyExists { what: Resource::Object, .. })),
        "{refused:?}"
    );

    let more = upload(None, "y", 9);
    db.upload_begin(&more, 0, at(0)).await.unwrap();
    let done = db.upload_complete(&more.scope, &more.id, &found(Some(1)), "ada").await.unwrap();
    assert_eq!(
        (done.evicted_keys.as_slice(), done.no_longer_named.len()),
        (["x".to_owned()].as_slice(), 1)
    );

    let again = db.upload_complete(&more.scope, &more.id, &found(Some(1)), "ada").await.unwrap();
    assert_eq!((again.evicted_keys, again.no_longer_named), (done.evicted_keys, vec![]));
}

async fn retention_names_bytes_that_no_record_names(place: Place) {
    let db = with_run(&place).await;
    let (open, complete, replaced, young) = (
        upload(None, "open", 1),
        upload(None, "kept", 2),
        upload(None, "gone", 3),
        upload(None, "young", 101),
    );

    for new in [&open, &complete, &replaced, &young] {
        db.upload_begin(new, 0, at(0)).await.unwrap();
    }

    for done in [&complete, &replaced] {
        db.upload_complete(&done.scope, &done.id, &found(None), "ada").await.unwrap();
    }

    db.object_delete(&replaced.scope, &replaced.key, "ada", at(6)).await.unwrap();
    // What is open is not deleted yet: it is given up first, so that it cannot be completed while
    // its bytes go.
    assert_eq!(
        due(&db).await,
        [named(&open, false), named(&complete, false), named(&replaced, true)]
    );
    db.expired(&named(&open, false), at(7)).await.unwrap();
    missing(db.upload_complete(&open.scope, &open.id, &found(None), "ada").await, Resource::Upload);
    assert_eq!(
        due(&db).await,
        [named(&open, true), named(&complete, false), named(&replaced, true)]
    );

    for (what, bytes) in [(&open, true), (&complete, false), (&replaced, true)] {
        for _ in 0..2 {
            db.expired(&named(what, bytes), at(8)).await.unwrap();
        }
    }

    assert_eq!(due(&db).await, []);
    assert!(db.object_get(&complete.scope, &complete.key).await.is_ok(), "the object stays");
    missing(db.upload_get(&complete.scope, &complete.id).await, Resource::Upload);

    // What retention saw as deletable and is open after all stays.
    db.expired(&named(&young, true), at(9)).await.unwrap();
    assert_eq!(db.upload_get(&young.scope, &young.id).await.unwrap().state, UploadState::Open);
}

async fn a_deleted_pipeline_completes_nothing(place: Place) {
    let db = place.open().await;
    register(&db, "ci", &["a"]).await;
    let upload = upload(None, "x", 9);
    db.upload_begin(&upload, 0, at(0)).await.unwrap();
    db.pipeline_delete(&default(), &pl("ci"), "ada", at(1)).await.unwrap();
    missing(
        db.upload_complete(&upload.scope, &upload.id, &found(None), "ada").await,
        Resource::Pipeline,
    );
    register(&db, "ci", &["a"]).await;
    missing(
        db.upload_complete(&upload.scope, &upload.id, &found(None), "ada").await,
        Resource::Upload,
    );
    assert_eq!(due(&db).await, [named(&upload, true)]);
}

async fn open_uploads_are_bounded(place: Place) {
    let db = place.open().await;
    register(&db, "ci", &["a"]).await;
    let first = upload(None, "x", 9);
    db.upload_begin(&first, 0, at(0)).await.unwrap();
    for _ in 1..MAX_OPEN_UPLOADS {
        db.upload_begin(&upload(None, "x", 9), 0, at(0)).await.unwrap();
    }
    let refused = db.upload_begin(&upload(None, "x", 9), 0, at(0)).await;
    assert!(
        matches!(&refused, Err(error @ DbError::Conflict { .. }) if error.to_string().contains("1000 uploads"))
    );
    db.upload_complete(&first.scope, &first.id, &found(None), "ada").await.unwrap();
    db.upload_begin(&upload(None, "x", 9), 0, at(0)).await.unwrap();
}
