//! What the tests need in a database.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use gofer_core::entity::{ObjectScope, SecretRecord, Token, TokenKind};
use gofer_core::event::EventDetails;
use gofer_core::journal::{
    Commit, Committed, Lease, Leases, NewRun, Retention, RunTransition, Runs, TaskTransition,
};
use gofer_core::object_store::ListPage;
use gofer_core::pipeline::{CustomTask, PipelineSpec, TaskKind, TaskSpec};
use gofer_core::run::{
    AttemptRecord, Initiator, LogState, Run, RunState, RunStatus, TaskRun, TaskState, TaskStatus,
};
use gofer_core::{
    NamespaceId, ObjectKey, PipelineId, Resource, RunNumber, SecretPath, TaskId, Timestamp, Version,
};
use gofer_db::{Db, DbError, EventFilter, Registered, Registration, SecretPutOutcome};

pub(crate) const OWNER: &str = "server-1";
pub(crate) const TTL: Duration = Duration::from_secs(30);

pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp(1_700_000_000_000_000 + seconds * 1_000_000)
}

pub(crate) fn ns(name: &str) -> NamespaceId {
    NamespaceId::new(name).expect("a valid namespace")
}

pub(crate) fn pl(name: &str) -> PipelineId {
    PipelineId::new(name).expect("a valid pipeline")
}

pub(crate) fn task(name: &str) -> TaskId {
    TaskId::new(name).expect("a valid task")
}

pub(crate) fn object_key(name: &str) -> ObjectKey {
    ObjectKey::new(name).expect("a valid key")
}

pub(crate) fn default() -> NamespaceId {
    ns("default")
}

/// A policy by which nothing expires.
pub(crate) fn keep_all() -> Retention {
    Retention {
        logs_before: at(0),
        run_objects_keep_runs: 1_000,
        runs_before: at(0),
        keep_runs: 1_000,
        events_before: at(0),
        keep_versions: 1_000,
        uploads_before: at(0),
        secret_values_before: at(0),
    }
}

/// Of the pipeline `ci`, or of a run of it.
pub(crate) fn scope(run: Option<u64>) -> ObjectScope {
    ObjectScope { namespace: default(), pipeline: pl("ci"), run: run.map(RunNumber) }
}

pub(crate) fn page(after: Option<&str>, limit: usize) -> ListPage {
    ListPage { after: after.map(str::to_owned), limit }
}

pub(crate) fn all() -> ListPage {
    page(None, 1_000)
}

pub(crate) fn spec(name: &str, tasks: &[&str]) -> PipelineSpec {
    let one = |id: &&str| TaskSpec {
        id: task(id),
        description: String::new(),
        kind: TaskKind::Custom(CustomTask {
            command: vec!["true".to_owned()],
            ..CustomTask::default()
        }),
        depends_on: Vec::new(),
        variables: Default::default(),
        retries: Default::default(),
        timeout: None,
        start_timeout: None,
        resources: Default::default(),
        continue_on_failure: false,
    };
    PipelineSpec {
        run_variables: Vec::new(),
        name: pl(name),
        description: String::new(),
        tasks: tasks.iter().map(one).collect(),
        variables: Default::default(),
        parallelism: None,
        overlap: Default::default(),
        subscriptions: Vec::new(),
        sdk: "test/1".to_owned(),
    }
}

pub(crate) fn registration(
    namespace: &NamespaceId,
    spec: PipelineSpec,
    digest: &str,
) -> Registration {
    Registration {
        namespace: namespace.clone(),
        spec: Arc::new(spec),
        digest: digest.to_owned(),
        expected_version: None,
    }
}

/// Registers a pipeline of the namespace `default` with these tasks; every call is another version.
pub(crate) async fn register(db: &Db, name: &str, tasks: &[&str]) -> Registered {
    let digest = format!("digest-{}", serial());
    db.pipeline_register(registration(&default(), spec(name, tasks), &digest), "ada", at(0))
        .await
        .expect("register")
}

pub(crate) fn serial() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed)
}

/// 32 bytes that nobody else has.
pub(crate) fn hash() -> [u8; 32] {
    let mut hash = [7; 32];
    hash[..8].copy_from_slice(&serial().to_be_bytes());
    hash
}

pub(crate) fn new_run(namespace: &NamespaceId, pipeline: &str, seconds: i64) -> NewRun {
    NewRun {
        namespace: namespace.clone(),
        pipeline: pl(pipeline),
        version: None,
        variables: [("KEY".to_owned(), "value".to_owned())].into(),
        initiator: Initiator::Token("ada".to_owned()),
        retry_of: None,
        reused: Vec::new(),
        idempotency_key: None,
        token_nonce: [3; 16],
        token_hash: hash(),
        at: at(seconds),
        claim: None,
    }
}

pub(crate) async fn insert(db: &Db, pipeline: &str, seconds: i64) -> Run {
    db.insert_run(new_run(&default(), pipeline, seconds)).await.expect("insert_run").run
}

pub(crate) async fn claim(db: &Db, seconds: i64) -> Vec<Lease> {
    db.claim(OWNER, at(seconds), TTL, 1_000.into()).await.expect("claim")
}

/// The lease of the one run that can be claimed.
pub(crate) async fn claim_one(db: &Db, seconds: i64) -> Lease {
    let leases = claim(db, seconds).await;
    let [lease] = &leases[..] else { panic!("one lease: {leases:?}") };
    lease.clone()
}

pub(crate) fn starting(task: &TaskId, seconds: i64) -> TaskTransition {
    let to = TaskRun {
        state: TaskState::Starting,
        intended_at: Some(at(seconds)),
        ..TaskRun::pending(task.clone())
    };
    TaskTransition { from: TaskState::Pending, from_attempt: to.attempt, to, ended: None }
}

pub(crate) fn ended(task: &TaskId, status: TaskStatus, seconds: i64) -> TaskTransition {
    let to = TaskRun {
        state: TaskState::Complete(status),
        ended_at: Some(at(seconds)),
        ..TaskRun::pending(task.clone())
    };

    let record = AttemptRecord {
        attempt: to.attempt,
        status,
        reason: None,
        exit_code: None,
        intended_at: at(seconds),
        started_at: None,
        ended_at: at(seconds),
        log: LogState::Live,
    };

    TaskTransition { from: TaskState::Starting, from_attempt: to.attempt, to, ended: Some(record) }
}

/// Ends one task and the run, both at once.
pub(crate) async fn finish(db: &Db, lease: &Lease, task: &TaskId, status: RunStatus, seconds: i64) {
    let task_status =
        if status == RunStatus::Successful { TaskStatus::Successful } else { TaskStatus::Failed };
    let run = RunTransition {
        from: RunState::Running,
        to: RunState::Complete(status),
        reason: None,
        at: at(seconds),
    };
    let tasks = vec![starting(task, seconds), ended(task, task_status, seconds)];
    commit(db, Commit { lease: lease.clone(), tasks, run: Some(run), events: Vec::new() }).await;
}

pub(crate) async fn commit(db: &Db, commit: Commit) {
    assert_eq!(db.commit(vec![commit]).await.expect("commit"), [Committed::Done]);
}

pub(crate) fn token(id: &str, kind: TokenKind, seconds: i64) -> Token {
    Token {
        id: id.to_owned(),
        kind,
        namespaces: if kind == TokenKind::Client { vec![default()] } else { Vec::new() },
        description: format!("token {id}"),
        created_by: "ada".to_owned(),
        created_at: at(seconds),
        expires_at: Some(at(seconds + 100)),
        disabled: false,
    }
}

/// The type names of all events after this one, whose numbers have no gaps.
pub(crate) async fn types_after(db: &Db, cursor: u64) -> Vec<&'static str> {
    let events = db.event_list_after(cursor, &EventFilter::default(), 1_000).await.expect("events");
    for (expected, event) in (cursor + 1..).zip(&events) {
        assert_eq!(event.id, expected, "no gaps: {events:?}");
    }
    events.iter().map(|event| EventDetails::type_name(&event.body.details)).collect()
}

pub(crate) fn last_event(db: &Db) -> u64 {
    *db.event_watch().borrow()
}

/// Begins a put of a secret at the record's location, and names it.
pub(crate) async fn put_secret(
    db: &Db,
    record: &SecretRecord,
    if_absent: bool,
) -> Result<SecretPutOutcome, DbError> {
    db.secret_put_begin(&record.location, record.updated_at).await?;
    db.secret_put_record(record, if_absent).await
}

/// A location that was never used.
pub(crate) fn fresh_location() -> SecretPath {
    static LAST: AtomicU64 = AtomicU64::new(0);
    SecretPath::new(format!("test/{}", LAST.fetch_add(1, Ordering::Relaxed))).expect("a valid path")
}

/// Asserts `NotFound`.
#[track_caller]
pub(crate) fn missing<T: std::fmt::Debug>(result: Result<T, DbError>, wanted: Resource) {
    match result {
        Err(DbError::NotFound { what, .. }) => assert_eq!(what, wanted),
        other => panic!("expected that no {wanted} is found: {other:?}"),
    }
}

/// Asserts `Conflict`, whose message has this text.
#[track_caller]
pub(crate) fn conflicting<T: std::fmt::Debug>(result: Result<T, DbError>, text: &str) {
    match result {
        Err(DbError::Conflict { message }) => assert!(message.contains(text), "{message}"),
        other => panic!("expected a conflict with `{text}`: {other:?}"),
    }
}

/// Walks all pages of a list.
macro_rules! pages {
    ($limit:expr, |$page:ident| $call:expr) => {{
        let mut items = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let wanted = $crate::setup::page(after.as_deref(), $limit);
            let $page = &wanted;
            let got = $call.await.expect("a page");
            assert!(got.items.len() <= $limit, "at most as many as asked for");
            items.extend(got.items);
            after = got.next;
            if after.is_none() {
                break items;
            }
        }
    }};
}
pub(crate) use pages;

pub(crate) fn version(number: u64) -> Option<Version> {
    Some(Version(number))
}
