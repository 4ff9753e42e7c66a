//! What the cases need around a journal.

use std::time::Duration;

use async_trait::async_trait;
use gofer_core::entity::{ObjectRecord, SecretRecord};
use gofer_core::event::{Event, EventDetails, NewEvent, Subject};
use gofer_core::id::{ExecutionId, NamespaceId, PipelineId, RunKey, TaskId, Version};
use gofer_core::journal::{
    Commit, Committed, Journal, Lease, NewRun, Retention, RunSnapshot, RunTransition,
    TaskTransition,
};
use gofer_core::pipeline::{
    CustomTask, Overlap, PipelineSpec, Resources, RetryPolicy, TaskKind, TaskSpec,
};
use gofer_core::quota::QuotaKind;
use gofer_core::run::{
    AttemptRecord, Initiator, LogState, Reason, Run, RunState, RunStatus, TaskRun, TaskState,
    TaskStatus,
};
use gofer_core::time::Timestamp;

use crate::Harness;

/// The journal under test, and the writes that are nobody's but the administrator's.
///
/// These may record events of their own; the cases look only at later ones.
#[async_trait]
pub trait JournalFixture: Harness<dyn Journal> {
    /// Makes a namespace; there may be one of this name.
    async fn add_namespace(&self, id: &NamespaceId);

    /// Registers the next version of a pipeline, enabled.
    async fn add_pipeline(&self, namespace: &NamespaceId, spec: PipelineSpec) -> Version;

    /// Enables or disables a pipeline.
    async fn set_pipeline_enabled(
        &self,
        namespace: &NamespaceId,
        pipeline: &PipelineId,
        enabled: bool,
    );

    /// Gives a namespace that exists a limit of its own.
    async fn set_quota(&self, namespace: &NamespaceId, quota: QuotaKind, limit: u64);

    /// Puts the record of an object, replacing one of the same scope and key.
    async fn put_object_record(&self, record: ObjectRecord);

    /// Puts the record of a secret, replacing one of the same scope and key.
    async fn put_secret_record(&self, record: SecretRecord);

    /// Every event after this id, in order.
    async fn events(&self, after: u64) -> Vec<Event>;
}

/// How long leases are, in cases that do not care.
pub(super) const TTL: Duration = Duration::from_secs(30);
/// Who claims, in cases with one owner.
pub(super) const OWNER: &str = "server-1";

/// A moment, so many seconds after a fixed one.
pub(super) fn at(seconds: i64) -> Timestamp {
    Timestamp(1_700_000_000_000_000 + seconds * 1_000_000)
}

pub(super) fn namespace() -> NamespaceId {
    NamespaceId::new("conformance").expect("a valid namespace")
}

pub(super) fn pipeline_id(name: &str) -> PipelineId {
    PipelineId::new(name).expect("a valid pipeline")
}

pub(super) fn task_id(name: &str) -> TaskId {
    TaskId::new(name).expect("a valid task")
}

/// A pipeline with these tasks and no edges.
pub(super) fn spec(
    name: &str,
    tasks: &[&str],
    parallelism: Option<u32>,
    overlap: Overlap,
) -> PipelineSpec {
    let task = |id: &&str| TaskSpec {
        id: task_id(id),
        description: String::new(),
        kind: TaskKind::Custom(CustomTask {
            command: vec!["true".to_owned()],
            ..CustomTask::default()
        }),
        depends_on: Vec::new(),
        variables: [("TASK".to_owned(), "value \"quoted\" 🔑".to_owned())].into(),
        retries: RetryPolicy::default(),
        timeout: Some(Duration::from_secs(60)),
        start_timeout: None,
        resources: Resources::default(),
        continue_on_failure: false,
    };
    PipelineSpec {
        name: pipeline_id(name),
        description: "of the conformance suite".to_owned(),
        tasks: tasks.iter().map(task).collect(),
        variables: [("PIPELINE".to_owned(), "two\nlines".to_owned())].into(),
        run_variables: Vec::new(),
        parallelism,
        overlap,
        subscriptions: Vec::new(),
        sdk: "conformance/1".to_owned(),
    }
}

/// A pipeline with one task, registered.
pub(super) async fn simple(
    fixture: &dyn JournalFixture,
    name: &str,
    parallelism: Option<u32>,
    overlap: Overlap,
) {
    register(fixture, spec(name, &["build"], parallelism, overlap)).await;
}

pub(super) async fn register(fixture: &dyn JournalFixture, spec: PipelineSpec) -> Version {
    fixture.add_namespace(&namespace()).await;
    fixture.add_pipeline(&namespace(), spec).await
}

/// A run to insert, made so many seconds after the fixed moment.
pub(super) fn new_run(pipeline: &str, seconds: i64) -> NewRun {
    NewRun {
        namespace: namespace(),
        pipeline: pipeline_id(pipeline),
        version: None,
        variables: [("RUN".to_owned(), "value".to_owned())].into(),
        initiator: Initiator::Token("token-1".to_owned()),
        retry_of: None,
        reused: Vec::new(),
        idempotency_key: None,
        token_nonce: unique_nonce(),
        token_hash: [unique_nonce(), unique_nonce()].concat().try_into().expect("twice 16 bytes"),
        at: at(seconds),
        claim: None,
    }
}

/// A nonce that no other run of this process has.
fn unique_nonce() -> [u8; 16] {
    use std::sync::atomic::{AtomicU64, Ordering};
    static LAST: AtomicU64 = AtomicU64::new(0);
    let serial = LAST.fetch_add(1, Ordering::Relaxed);
    (u128::from(serial) << 64 | 0x5EED).to_be_bytes()
}

pub(super) async fn insert(journal: &dyn Journal, pipeline: &str, seconds: i64) -> Run {
    let inserted = journal.insert_run(new_run(pipeline, seconds)).await.expect("insert_run");
    assert!(inserted.new, "a new run");
    inserted.run
}

/// Claims exactly one run, and loads it.
pub(super) async fn claim_one(journal: &dyn Journal, seconds: i64) -> (Lease, RunSnapshot) {
    let mut leases = journal.claim(OWNER, at(seconds), TTL, 1.into()).await.expect("claim");
    assert_eq!(leases.len(), 1, "one run to claim");
    let lease = leases.remove(0);
    let snapshot = load(journal, &lease.run).await;
    (lease, snapshot)
}

pub(super) async fn load(journal: &dyn Journal, key: &RunKey) -> RunSnapshot {
    journal.load(key).await.expect("load")
}

/// A policy by which nothing expires.
pub(super) fn keep_all() -> Retention {
    Retention {
        logs_before: at(0),
        run_objects_keep_runs: u64::MAX,
        runs_before: at(0),
        keep_runs: u64::MAX,
        events_before: at(0),
        keep_versions: u64::MAX,
        uploads_before: at(0),
        secret_values_before: at(0),
    }
}

/// The keys of leases.
pub(super) fn keys(leases: &[Lease]) -> Vec<RunKey> {
    leases.iter().map(|lease| lease.run.clone()).collect()
}

/// The number of the last event.
pub(super) async fn last_event(fixture: &dyn JournalFixture) -> u64 {
    fixture.events(0).await.last().map_or(0, |event| event.id)
}

/// The events after `after` without their numbers, which are checked to be gapless.
pub(super) async fn new_events(fixture: &dyn JournalFixture, after: u64) -> Vec<NewEvent> {
    let events = fixture.events(after).await;
    for (event, expected) in events.iter().zip(after + 1..) {
        assert_eq!(event.id, expected, "ids are gapless and in order");
    }
    events.into_iter().map(|event| event.body).collect()
}

/// An event about a run, or a task of it.
pub(super) fn event(
    key: &RunKey,
    task: Option<&TaskId>,
    seconds: i64,
    actor: &str,
    details: EventDetails,
) -> NewEvent {
    NewEvent {
        at: at(seconds),
        actor: actor.to_owned(),
        subject: Subject::of_task(key, task),
        details,
    }
}

/// A commit of nothing.
pub(super) fn nothing(lease: &Lease) -> Commit {
    Commit { lease: lease.clone(), tasks: Vec::new(), run: None, events: Vec::new() }
}

/// A change of one task run.
pub(super) fn step(from: &TaskRun, change: impl FnOnce(&mut TaskRun)) -> TaskTransition {
    let mut to = from.clone();
    change(&mut to);
    TaskTransition { from: from.state, from_attempt: from.attempt, to, ended: None }
}

/// A commit of one task's change, with an event.
pub(super) fn stepping(lease: &Lease, seconds: i64, transition: TaskTransition) -> Commit {
    let happened = event(
        &lease.run,
        Some(&transition.to.task),
        seconds,
        "gofer",
        EventDetails::TaskRunStarting {},
    );
    Commit { tasks: vec![transition], events: vec![happened], ..nothing(lease) }
}

/// `Pending` to `Starting`.
pub(super) fn starting(from: &TaskRun, seconds: i64) -> TaskTransition {
    step(from, |task| {
        task.state = TaskState::Starting;
        task.intended_at = Some(at(seconds));
    })
}

/// `Starting` or `Running` to an end, with the attempt's record.
pub(super) fn ending(
    from: &TaskRun,
    status: TaskStatus,
    log: LogState,
    seconds: i64,
) -> TaskTransition {
    let mut transition = step(from, |task| {
        task.state = TaskState::Complete(status);
        task.exit_code = Some(0);
        task.ended_at = Some(at(seconds));
    });

    transition.ended = Some(AttemptRecord {
        attempt: from.attempt,
        status,
        reason: None,
        exit_code: Some(0),
        intended_at: from.intended_at.unwrap_or(at(seconds)),
        started_at: None,
        ended_at: at(seconds),
        log,
    });

    transition
}

/// The run's end.
pub(super) fn run_ending(status: RunStatus, reason: Option<Reason>, seconds: i64) -> RunTransition {
    RunTransition {
        from: RunState::Running,
        to: RunState::Complete(status),
        reason,
        at: at(seconds),
    }
}

/// Commits one commit.
pub(super) async fn commit(journal: &dyn Journal, commit: Commit) -> Committed {
    let answers = journal.commit(vec![commit]).await.expect("commit");
    assert_eq!(answers.len(), 1, "one answer for one commit");
    answers[0]
}

/// Brings every task of a run, and the run, to a successful end; the attempts that ended.
pub(super) async fn finish(
    journal: &dyn Journal,
    lease: &Lease,
    log: LogState,
    seconds: i64,
) -> Vec<ExecutionId> {
    let snapshot = load(journal, &lease.run).await;
    let mut finished = Vec::new();
    for task in snapshot.tasks.values().filter(|task| !task.state.is_complete()) {
        let start = starting(task, seconds);
        let end = ending(&start.to, TaskStatus::Successful, log, seconds);
        let commits = vec![stepping(lease, seconds, start), stepping(lease, seconds, end)];
        assert_eq!(journal.commit(commits).await.expect("commit"), [Committed::Done; 2]);
        finished.push(ExecutionId {
            run: lease.run.clone(),
            task: task.task.clone(),
            attempt: task.attempt,
        });
    }

    let completed = EventDetails::RunCompleted { status: RunStatus::Successful, reason: None };
    let end = Commit {
        run: Some(run_ending(RunStatus::Successful, None, seconds)),
        events: vec![event(&lease.run, None, seconds, "gofer", completed)],
        ..nothing(lease)
    };

    assert_eq!(commit(journal, end).await, Committed::Done);
    finished
}

/// Polls a call once and goes away, as a caller whose request is dropped does; whether it was done
/// already.
pub(super) async fn abandon<T>(call: impl Future<Output = T>) -> Option<T> {
    let mut call = Box::pin(call);
    match futures::poll!(call.as_mut()) {
        std::task::Poll::Ready(done) => Some(done),
        std::task::Poll::Pending => None,
    }
}
