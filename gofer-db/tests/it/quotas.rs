//! What namespaces use is counted, and no more is let in than they may. Of runs: the journal's
//! suite.

use futures::future::join_all;
use gofer_core::entity::ObjectRecord;
use gofer_core::event::{EventDetails, NewEvent, Subject};
use gofer_core::journal::{JournalError, Leases, Runs};
use gofer_core::quota::{QuotaExceeded, QuotaKind};
use gofer_core::{Attempt, ExecutionId, RunKey, RunNumber};
use gofer_db::{Db, DbError, EventFilter, ObjectPut, ObjectUpload, UploadState, UploadedObject};

use crate::engines::{Place, on_both_engines};
use crate::setup::{
    OWNER, TTL, at, claim_one, default, insert, last_event, missing, ns, object_key, pl,
    put_secret, register, registration, scope, serial, spec, task, types_after,
};

on_both_engines! {
    limits_are_the_namespaces_own_or_the_default
    concurrent_changes_of_limits_add_up
    a_version_beyond_the_quota_is_refused_and_deleted_ones_make_room
    names_of_deleted_pipelines_count
    bytes_of_objects_are_counted_to_the_byte
    an_open_upload_counts_with_what_it_reserved
    of_concurrent_puts_no_more_bytes_are_stored_than_may_be
    secrets_are_counted
    sessions_are_counted_by_task_and_namespace_until_their_server_ends
    runs_are_counted_however_many_others_insert
}

async fn set(db: &Db, quota: QuotaKind, limit: u64) {
    db.quota_set(&default(), &[(quota, Some(limit))], "ada", at(0)).await.expect("set");
}

async fn used(db: &Db, quota: QuotaKind) -> u64 {
    let found = db.quota_get(&default(), quota, at(0)).await.expect("get");
    let listed = db.quota_list(&default(), at(0)).await.expect("list");
    assert_eq!(listed.iter().find(|one| one.quota == quota), Some(&found), "both count the same");
    found.used
}

#[track_caller]
fn exceeded<T: std::fmt::Debug>(
    result: Result<T, DbError>,
    quota: QuotaKind,
    used: u64,
) -> QuotaExceeded {
    match result {
        Err(DbError::Quota(exceeded)) => {
            assert_eq!((exceeded.quota, exceeded.used), (quota, used), "{exceeded}");
            exceeded
        }
        other => panic!("expected that quota `{quota}` is exceeded: {other:?}"),
    }
}

async fn limits_are_the_namespaces_own_or_the_default(place: Place) {
    let db = place.open().await;
    let listed = db.quota_list(&default(), at(0)).await.unwrap();
    assert_eq!(listed.iter().map(|one| one.quota).collect::<Vec<_>>(), QuotaKind::ALL);
    assert!(
        listed
            .iter()
            .all(|one| !one.overridden && one.used == 0 && one.limit == one.quota.default_limit())
    );

    let before = last_event(&db);
    let changes = [(QuotaKind::Secrets, Some(0)), (QuotaKind::LogBytes, Some(5))];
    db.quota_set(&default(), &changes, "ada", at(3)).await.unwrap();
    db.quota_set(&default(), &changes[1..], "ada", at(4)).await.unwrap();
    db.quota_set(&default(), &[(QuotaKind::Secrets, None)], "ada", at(5)).await.unwrap();

    let events = db.event_list_after(before, &EventFilter::default(), 10).await.unwrap();
    let told = |quota, limit| EventDetails::NamespaceQuotaUpdated { quota, limit };
    assert_eq!(
        events.iter().map(|event| event.body.details.clone()).collect::<Vec<_>>(),
        [
            told(QuotaKind::Secrets, Some(0)),
            told(QuotaKind::LogBytes, Some(5)),
            told(QuotaKind::Secrets, None)
        ],
        "what changes nothing is no event"
    );
    assert!(
        events
            .iter()
            .all(|event| event.body.actor == "ada"
                && event.body.subject.namespace == Some(default()))
    );

    let listed = db.quota_list(&default(), at(0)).await.unwrap();
    let own: Vec<_> =
        listed.iter().filter(|one| one.overridden).map(|one| (one.quota, one.limit)).collect();
    assert_eq!(own, [(QuotaKind::LogBytes, 5)]);
    missing(db.quota_list(&ns("nowhere"), at(0)).await, gofer_core::Resource::Namespace);
    missing(
        db.quota_set(&ns("nowhere"), &changes, "ada", at(0)).await,
        gofer_core::Resource::Namespace,
    );
}

async fn concurrent_changes_of_limits_add_up(place: Place) {
    let db = place.open().await;
    let changing = QuotaKind::ALL.iter().map(|quota| {
        let (db, quota) = (db.clone(), *quota);
        tokio::spawn(
            async move { db.quota_set(&default(), &[(quota, Some(7))], "ada", at(0)).await },
        )
    });
    for joined in join_all(changing).await {
        joined.unwrap().unwrap();
    }
    assert!(db.quota_list(&default(), at(0)).await.unwrap().iter().all(|one| one.limit == 7));
}

async fn a_version_beyond_the_quota_is_refused_and_deleted_ones_make_room(place: Place) {
    let db = place.open().await;
    set(&db, QuotaKind::PipelineVersions, 2).await;
    register(&db, "ci", &["a"]).await;
    register(&db, "other", &["a"]).await;

    let before = last_event(&db);
    let third = || registration(&default(), spec("ci", &["a", "b"]), "third");
    exceeded(db.pipeline_register(third(), "ada", at(0)).await, QuotaKind::PipelineVersions, 2);
    assert_eq!(db.pipeline_get(&default(), &pl("ci")).await.unwrap().latest_version.0, 1);
    assert_eq!(last_event(&db), before);

    db.pipeline_delete(&default(), &pl("other"), "ada", at(1)).await.unwrap();
    db.pipeline_register(third(), "ada", at(2)).await.unwrap();
    let bytes = used(&db, QuotaKind::PipelineBytes).await;
    assert!(bytes > 0 && used(&db, QuotaKind::PipelineVersions).await == 2);
    set(&db, QuotaKind::PipelineVersions, 100).await;
    set(&db, QuotaKind::PipelineBytes, bytes).await;

    let fourth = registration(&default(), spec("ci", &["a", "b", "c"]), "fourth");
    exceeded(db.pipeline_register(fourth, "ada", at(0)).await, QuotaKind::PipelineBytes, bytes);
}

async fn names_of_deleted_pipelines_count(place: Place) {
    let db = place.open().await;
    set(&db, QuotaKind::Pipelines, 1).await;
    register(&db, "ci", &["a"]).await;
    db.pipeline_delete(&default(), &pl("ci"), "ada", at(1)).await.unwrap();
    let other = registration(&default(), spec("other", &["a"]), "x");
    exceeded(db.pipeline_register(other, "ada", at(0)).await, QuotaKind::Pipelines, 1);
    register(&db, "ci", &["a"]).await;
}

fn object(key: &str, run: Option<u64>, size_bytes: u64) -> ObjectRecord {
    ObjectRecord {
        scope: scope(run),
        key: object_key(key),
        location: object_key(&format!("objects/{}", serial())),
        size_bytes,
        sha256: "ab".repeat(32),
        created_at: at(0),
    }
}

async fn put(db: &Db, key: &str, run: Option<u64>, size_bytes: u64) -> Result<(), DbError> {
    let keep = ObjectPut { keep: run.is_none().then_some(2), ..ObjectPut::default() };
    db.object_put_record(&object(key, run, size_bytes), keep, "ada").await.map(drop)
}

async fn bytes_of_objects_are_counted_to_the_byte(place: Place) {
    let db = place.open().await;
    register(&db, "ci", &["a"]).await;
    insert(&db, "ci", 0).await;
    set(&db, QuotaKind::ObjectBytes, 100).await;
    put(&db, "x", None, 40).await.unwrap();
    put(&db, "y", Some(1), 60).await.unwrap();

    let before = last_event(&db);
    assert_eq!(exceeded(put(&db, "z", Some(1), 1).await, QuotaKind::ObjectBytes, 100).wanted, 1);
    missing(db.object_get(&scope(Some(1)), &object_key("z")).await, gofer_core::Resource::Object);
    assert_eq!(last_event(&db), before, "nothing happened");

    put(&db, "x", None, 39).await.expect("it replaces a larger one");
    assert_eq!(used(&db, QuotaKind::ObjectBytes).await, 99);
    exceeded(put(&db, "x", None, 41).await, QuotaKind::ObjectBytes, 99);
    put(&db, "x2", None, 1).await.unwrap();
    put(&db, "x3", None, 30).await.expect("it evicts one of 39 bytes");
    assert_eq!(used(&db, QuotaKind::ObjectBytes).await, 91);
    db.object_delete(&scope(Some(1)), &object_key("y"), "ada", at(1)).await.unwrap();
    assert_eq!(used(&db, QuotaKind::ObjectBytes).await, 31);
    set(&db, QuotaKind::ObjectBytes, 5).await;
    put(&db, "x3", None, 20).await.expect("less than before, though still too much");

    let lease = claim_one(&db, 1).await;
    crate::setup::finish(&db, &lease, &task("a"), gofer_core::run::RunStatus::Successful, 2).await;
    db.pipeline_delete(&default(), &pl("ci"), "ada", at(3)).await.unwrap();
    assert_eq!(used(&db, QuotaKind::ObjectBytes).await, 0);
}

fn upload(key: &str) -> ObjectUpload {
    ObjectUpload {
        id: format!("{:032}", serial()),
        scope: scope(None),
        key: object_key(key),
        location: object_key(&format!("objects/{}", serial())),
        size_bytes: None,
        sha256: None,
        if_absent: false,
        expires_at: at(10),
        state: UploadState::Open,
    }
}

async fn an_open_upload_counts_with_what_it_reserved(place: Place) {
    let db = place.open().await;
    register(&db, "ci", &["a"]).await;
    set(&db, QuotaKind::ObjectBytes, 100).await;
    let (first, second) = (upload("x"), upload("y"));
    db.upload_begin(&first, 60, at(0)).await.unwrap();
    db.upload_begin(&second, 40, at(0)).await.unwrap();
    exceeded(db.upload_begin(&upload("z"), 1, at(0)).await, QuotaKind::ObjectBytes, 100);
    exceeded(put(&db, "z", None, 1).await, QuotaKind::ObjectBytes, 100);

    let found = |size_bytes| UploadedObject { size_bytes, sha256: None, keep: None, at: at(1) };
    exceeded(
        db.upload_complete(&scope(None), &first.id, &found(61), "ada").await,
        QuotaKind::ObjectBytes,
        40,
    );
    db.upload_complete(&scope(None), &first.id, &found(30), "ada")
        .await
        .expect("less than it reserved");
    assert_eq!(used(&db, QuotaKind::ObjectBytes).await, 70);
    assert!(db.upload_give_up(&scope(None), &second.id).await.unwrap());
    assert!(!db.upload_give_up(&scope(None), &second.id).await.unwrap(), "once");
    assert_eq!(used(&db, QuotaKind::ObjectBytes).await, 30);
}

async fn of_concurrent_puts_no_more_bytes_are_stored_than_may_be(place: Place) {
    let db = place.open().await;
    for pipeline in ["ci", "other"] {
        register(&db, pipeline, &["a"]).await;
    }

    set(&db, QuotaKind::ObjectBytes, 50).await;
    let putting = (0..12_u32).map(|nth| {
        let mut record = object(&format!("key{nth}"), None, 10);
        record.scope.pipeline = pl(["ci", "other"][nth as usize % 2]);
        let db = db.clone();
        tokio::spawn(async move {
            db.object_put_record(&record, ObjectPut::default(), "ada").await.is_ok()
        })
    });

    let stored =
        join_all(putting).await.into_iter().filter(|joined| *joined.as_ref().unwrap()).count();
    assert_eq!((stored, used(&db, QuotaKind::ObjectBytes).await), (5, 50));
}

async fn secrets_are_counted(place: Place) {
    let db = place.open().await;
    register(&db, "ci", &["a"]).await;
    set(&db, QuotaKind::Secrets, 1).await;
    let secret = |key: &str| gofer_core::entity::SecretRecord {
        scope: gofer_core::entity::SecretScope::Pipeline(default(), pl("ci")),
        key: key.to_owned(),
        location: crate::setup::fresh_location(),
        allowed_namespaces: Vec::new(),
        updated_by: "ada".to_owned(),
        created_at: at(0),
        updated_at: at(0),
    };

    put_secret(&db, &secret("one"), false).await.unwrap();
    put_secret(&db, &secret("one"), false).await.expect("it replaces one");
    exceeded(put_secret(&db, &secret("two"), false).await, QuotaKind::Secrets, 1);
    assert_eq!(used(&db, QuotaKind::Secrets).await, 1);
}

async fn session(db: &Db, id: &str, server: &str, name: &str) -> Result<(), DbError> {
    let run = RunKey { namespace: default(), pipeline: pl("ci"), run: RunNumber(1) };
    let execution = ExecutionId { run, task: task(name), attempt: Attempt::FIRST };
    let details = EventDetails::TaskRunExecRequested { command: "sh".to_owned(), terminal: false };
    let subject = Subject::of_execution(&execution);
    db.exec_begin(
        id,
        server,
        &execution,
        NewEvent { at: at(0), actor: "ada".to_owned(), subject, details },
    )
    .await
}

async fn sessions_are_counted_by_task_and_namespace_until_their_server_ends(place: Place) {
    let db = place.open().await;
    set(&db, QuotaKind::ExecSessions, 3).await;
    set(&db, QuotaKind::ExecSessionsPerTask, 2).await;

    for server in [OWNER, "server-2"] {
        db.heartbeat(server, at(0), TTL).await.unwrap();
    }

    session(&db, "1", OWNER, "a").await.unwrap();
    session(&db, "2", "server-2", "a").await.unwrap();
    let before = last_event(&db);
    exceeded(session(&db, "3", OWNER, "a").await, QuotaKind::ExecSessionsPerTask, 2);
    session(&db, "4", OWNER, "b").await.unwrap();
    exceeded(session(&db, "5", OWNER, "c").await, QuotaKind::ExecSessions, 3);
    assert_eq!(
        types_after(&db, before).await,
        ["task_run_exec_requested"],
        "who is refused did nothing"
    );

    db.exec_end("4").await.unwrap();
    assert_eq!(used(&db, QuotaKind::ExecSessions).await, 2);

    // The second server dies; the first lives on.
    db.heartbeat(OWNER, at(100), TTL).await.unwrap();
    assert_eq!(used(&db, QuotaKind::ExecSessions).await, 1);
    db.release(OWNER).await.unwrap();
    assert_eq!(
        (used(&db, QuotaKind::ExecSessions).await, used(&db, QuotaKind::ExecSessionsPerTask).await),
        (0, 0)
    );
}

/// What need not be counted because there is room is counted again when there is none, also after
/// runs of others, after the newest runs were deleted, and on another server.
async fn runs_are_counted_however_many_others_insert(place: Place) {
    let db = place.open().await;
    db.namespace_create(&ns("other"), "", "ada", at(0)).await.unwrap();
    register(&db, "ci", &["a"]).await;

    for name in ["one", "two"] {
        let of_other = registration(&ns("other"), spec(name, &["a"]), name);
        db.pipeline_register(of_other, "ada", at(0)).await.unwrap();
    }

    set(&db, QuotaKind::PendingRuns, 4).await;
    insert(&db, "ci", 0).await;
    for name in ["one", "two"] {
        for _ in 0..3 {
            db.insert_run(crate::setup::new_run(&ns("other"), name, 0)).await.unwrap();
        }
    }

    insert(&db, "ci", 0).await;
    for lease in db.claim(OWNER, at(1), TTL, 100.into()).await.unwrap() {
        crate::setup::finish(&db, &lease, &task("a"), gofer_core::run::RunStatus::Successful, 2)
            .await;
    }

    for name in ["one", "two"] {
        db.pipeline_delete(&ns("other"), &pl(name), "ada", at(3)).await.unwrap();
    }

    for _ in 0..4 {
        insert(&db, "ci", 4).await;
    }

    let refused = db.insert_run(crate::setup::new_run(&default(), "ci", 4)).await;
    assert!(
        matches!(&refused, Err(JournalError::Quota(refused)) if refused.used == 4),
        "{refused:?}"
    );
    assert_eq!(used(&db, QuotaKind::PendingRuns).await, 4);
}
