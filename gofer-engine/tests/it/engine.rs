//! The engine whole, on memory backends and under a paused clock: what the API's callers see.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use gofer_conformance::{
    Faults, Faulty, MemoryJournal, MemoryObjectStore, MemoryScheduler, MemorySecretStore,
};
use gofer_core::entity::{ObjectRecord, ObjectScope, SecretRecord, SecretScope};
use gofer_core::journal::{Journal, Logs, RunSnapshot, Runs};
use gofer_core::object_store::{ObjectStore, PutOptions};
use gofer_core::pipeline::{Condition, Overlap, PipelineSpec, TaskKind, TaskSpec};
use gofer_core::run::{
    CancelRequest, Initiator, LogState, ReasonKind, Run, RunState, RunStatus, TaskState, TaskStatus,
};
use gofer_core::scheduler::{ExecutionState, LogCursor, Scheduler};
use gofer_core::secret_store::SecretStore;
use gofer_core::{Attempt, ExecutionId, NamespaceId, ObjectKey, RunKey, Timestamp};
use gofer_engine::{Backends, Engine, EngineConfig, EngineError, StartRun, layout};
use secrecy::SecretString;

use crate::support::{id, pipeline, retried, task};

/// Everything that outlives a server.
pub(crate) struct House {
    pub(crate) journal: Arc<MemoryJournal>,
    pub(crate) scheduler: MemoryScheduler,
    pub(crate) objects: Arc<MemoryObjectStore>,
    pub(crate) secrets: Arc<MemorySecretStore>,
    namespace: NamespaceId,
}

impl House {
    pub(crate) fn new() -> Self {
        Self {
            journal: Arc::new(MemoryJournal::new()),
            scheduler: MemoryScheduler::new(),
            objects: Arc::new(MemoryObjectStore::new()),
            secrets: Arc::new(MemorySecretStore::new()),
            namespace: NamespaceId::new("default").unwrap(),
        }
    }

    pub(crate) async fn engine(&self) -> Engine {
        self.engine_with(EngineConfig::default()).await
    }

    pub(crate) async fn engine_with(&self, config: EngineConfig) -> Engine {
        Engine::start(self.journal.clone(), self.backends(), config).await.unwrap()
    }

    pub(crate) fn backends(&self) -> Backends {
        Backends {
            scheduler: Arc::new(self.scheduler.clone()),
            objects: self.objects.clone(),
            secrets: self.secrets.clone(),
        }
    }

    pub(crate) fn register(&self, spec: PipelineSpec) {
        self.journal.add_pipeline(&self.namespace, spec, true);
    }

    pub(crate) async fn start(&self, engine: &Engine, variables: &[(&str, &str)]) -> Run {
        let variables = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        engine.start_run(self.request(variables)).await.unwrap()
    }

    pub(crate) fn request(&self, variables: BTreeMap<String, String>) -> StartRun {
        StartRun {
            namespace: self.namespace.clone(),
            pipeline: "p".parse().unwrap(),
            version: None,
            variables,
            initiator: Initiator::Token("ann".to_owned()),
            idempotency_key: None,
        }
    }

    pub(crate) async fn until(
        &self,
        key: &RunKey,
        what: &str,
        reached: impl Fn(&RunSnapshot) -> bool,
    ) -> RunSnapshot {
        for _ in 0..100_000 {
            let snapshot = self.journal.load(key).await.unwrap();
            if reached(&snapshot) {
                return snapshot;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{key} did not become {what}: {:#?}", self.journal.load(key).await);
    }

    pub(crate) async fn complete(&self, key: &RunKey) -> RunSnapshot {
        self.until(key, "complete", |snapshot| snapshot.run.state.is_complete()).await
    }

    pub(crate) async fn log_becomes(&self, execution: &ExecutionId, wanted: LogState) {
        for _ in 0..100_000 {
            if self.journal.log_state(execution).await.unwrap() == Some(wanted) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the log of {execution} is {:?}", self.journal.log_state(execution).await);
    }

    async fn put_secret(&self, key: &str, value: &str) {
        let scope = SecretScope::Pipeline(self.namespace.clone(), "p".parse().unwrap());
        let location = layout::secret_location(&scope, key).unwrap();
        self.secrets
            .put(&location, &SecretString::from(value), PutOptions::default())
            .await
            .unwrap();

        let at = Timestamp::now();
        self.journal.put_secret_record(SecretRecord {
            scope,
            key: key.to_owned(),
            location,
            allowed_namespaces: Vec::new(),
            updated_by: "test".to_owned(),
            created_at: at,
            updated_at: at,
        });
    }
}

pub(crate) fn steps(name: &str, parents: &[(&str, Condition)], steps: &[&str]) -> TaskSpec {
    let mut spec = task(name, parents);
    let TaskKind::Custom(custom) = &mut spec.kind else {
        unreachable!("support makes custom tasks")
    };
    custom.command = steps.iter().map(|step| (*step).to_owned()).collect();
    spec
}

/// Its runs wait at a gate.
fn one_at_a_time(overlap: Overlap) -> PipelineSpec {
    PipelineSpec {
        parallelism: Some(1),
        overlap,
        ..pipeline(vec![steps("a", &[], &["wait gate"])])
    }
}

pub(crate) fn first(key: &RunKey, task: &str) -> ExecutionId {
    ExecutionId { run: key.clone(), task: id(task), attempt: Attempt::FIRST }
}

pub(crate) async fn read(
    engine: &Engine,
    execution: &ExecutionId,
    from: u64,
    follow: bool,
) -> Result<String, EngineError> {
    let cursor = LogCursor { stdout: from, stderr: 0 };
    let chunks: Vec<_> = engine.logs(execution, cursor, follow).await?.try_collect().await?;
    Ok(chunks.iter().map(|chunk| String::from_utf8_lossy(&chunk.data).into_owned()).collect())
}

fn cancel() -> CancelRequest {
    CancelRequest { at: Timestamp(0), by: "ann".to_owned(), force: false, message: String::new() }
}

#[tokio::test(start_paused = true)]
async fn a_run_goes_through_its_dag_and_its_logs_are_archived() {
    let house = House::new();
    let both = [("a", Condition::Success), ("b", Condition::Success)];
    house.register(pipeline(vec![
        steps("a", &[], &["print hello", "sleep-ms 500"]),
        steps("b", &[], &["sleep-ms 100"]),
        steps("c", &both, &["eprint bye"]),
    ]));

    let engine = house.engine().await;
    let run = house.start(&engine, &[]).await;
    assert_eq!(run.key.run.0, 1);
    let live = read(&engine, &first(&run.key, "a"), 0, true).await.unwrap();
    assert_eq!(live, "hello\n", "follows from before the start to the end");

    let done = house.complete(&run.key).await;
    assert_eq!(done.run.state, RunState::Complete(RunStatus::Successful));
    house.log_becomes(&first(&run.key, "a"), LogState::Archived).await;
    house.log_becomes(&first(&run.key, "b"), LogState::Empty).await;
    house.log_becomes(&first(&run.key, "c"), LogState::Archived).await;
    assert_eq!(read(&engine, &first(&run.key, "a"), 2, false).await.unwrap(), "llo\n");
    assert_eq!(read(&engine, &first(&run.key, "c"), 0, true).await.unwrap(), "bye\n");
    assert_eq!(read(&engine, &first(&run.key, "b"), 0, true).await.unwrap(), "");
    assert!(matches!(
        read(&engine, &first(&run.key, "z"), 0, true).await,
        Err(EngineError::NotFound { .. })
    ));
    engine.shutdown().await;
}

/// What the archiver did before each moment at which a server may have died, and what the next one
/// makes of it.
#[tokio::test(start_paused = true)]
async fn an_empty_log_is_not_lost_wherever_the_archiver_dies() {
    for (noted, forgotten, becomes) in [
        (false, false, LogState::Empty),
        (true, false, LogState::Empty),
        (true, true, LogState::Empty),
        // Forgotten before anybody looked: by the scheduler itself.
        (false, true, LogState::Lost),
    ] {
        let house = House::new();
        house.register(pipeline(vec![steps("a", &[], &["sleep-ms 100"])]));
        let engine = house.engine().await;
        let run = house.start(&engine, &[]).await.key;
        house
            .until(&run, "running", |snapshot| snapshot.tasks[&id("a")].state == TaskState::Running)
            .await;
        house.complete(&run).await;
        engine.shutdown().await;

        let log = first(&run, "a");
        assert_eq!(
            house.journal.log_state(&log).await.unwrap(),
            Some(LogState::Live),
            "the archiver waits a moment"
        );

        if noted {
            assert!(
                house
                    .journal
                    .set_log_state(&log, LogState::Live, LogState::EmptyUnsettled, None)
                    .await
                    .unwrap()
            );
        }

        if forgotten {
            house.scheduler.remove(&log).await.unwrap();
        }

        let engine = house.engine().await;
        house.log_becomes(&log, becomes).await;
        let known = house.scheduler.state(&log).await.unwrap();
        assert_eq!(known.state, ExecutionState::NotFound, "it is forgotten in the end");
        engine.shutdown().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_log_that_takes_long_holds_up_no_other() {
    let house = House::new();
    house.register(pipeline(vec![steps("a", &[], &["print hello"])]));
    let objects: Arc<dyn ObjectStore> = house.objects.clone();
    let objects = Arc::new(Faulty::new(objects, 1, Faults::default()));
    let backends = Backends { objects: objects.clone(), ..house.backends() };
    let engine =
        Engine::start(house.journal.clone(), backends, EngineConfig::default()).await.unwrap();

    objects.set_faults(Faults { latency: Duration::from_secs(50), ..Faults::default() });
    let slow = house.start(&engine, &[]).await.key;
    house.complete(&slow).await;

    // By now it is on its way to the store.
    tokio::time::sleep(Duration::from_secs(1)).await;
    objects.set_faults(Faults::default());
    let quick = house.start(&engine, &[]).await.key;
    house.log_becomes(&first(&quick, "a"), LogState::Archived).await;

    let log = house.journal.log_state(&first(&slow, "a")).await.unwrap();
    assert_eq!(log, Some(LogState::Live), "it is still on its way");
    house.log_becomes(&first(&slow, "a"), LogState::Archived).await;
    engine.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn secrets_reach_the_task_and_never_its_log() {
    let house = House::new();
    house.put_secret("db", "hunter2").await;
    let mut spec = steps(
        "a",
        &[],
        &["print-env URL", "print-env GOFER_API_TOKEN", "print-env GOFER_TASK", "wait gate"],
    );

    spec.variables.insert("URL".to_owned(), "pg://u:secret{{db}}@h".to_owned());
    house.register(pipeline(vec![spec]));
    let engine = house.engine().await;
    let run = house.start(&engine, &[]).await;
    house
        .until(&run.key, "running", |snapshot| snapshot.tasks[&id("a")].state == TaskState::Running)
        .await;

    // The secret changes while the task runs, and the server is restarted: what was passed is still
    // masked.
    house.put_secret("db", "other").await;
    engine.shutdown().await;
    let engine = house.engine().await;
    let live = read(&engine, &first(&run.key, "a"), 0, false).await.unwrap();
    assert!(live.starts_with("pg://u:***@h") && live.contains("***a"), "{live}");
    assert!(!live.contains("hunter2") && !live.contains("gofer_r_"), "{live}");
    house.scheduler.release("gate");
    house.complete(&run.key).await;
    house.log_becomes(&first(&run.key, "a"), LogState::Archived).await;
    assert_eq!(
        read(&engine, &first(&run.key, "a"), 0, false).await.unwrap(),
        live,
        "archived as it was live"
    );

    let left = house
        .secrets
        .list("internal/masks/", gofer_core::object_store::ListPage { after: None, limit: 10 });
    assert!(
        left.await.unwrap().paths.is_empty(),
        "what is to be masked is forgotten with the log's archiving"
    );
}

#[tokio::test(start_paused = true)]
async fn a_token_that_the_scheduler_gave_never_shows_in_a_log() {
    const TOKEN: &str = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJnb2ZlciJ9.c2ln-bmF0_dXJl";
    for (workload_identity, shown) in [(true, "***"), (false, TOKEN)] {
        let mut house = House::new();
        house.scheduler = house.scheduler.with_identities(workload_identity);
        house.register(pipeline(vec![steps("a", &[], &[&format!("print {TOKEN}!")])]));

        let engine = house.engine().await;
        let run = house.start(&engine, &[]).await.key;
        house.complete(&run).await;
        house.log_becomes(&first(&run, "a"), LogState::Archived).await;
        assert_eq!(
            read(&engine, &first(&run, "a"), 0, false).await.unwrap(),
            format!("{shown}!\n")
        );
        engine.shutdown().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_missing_value_fails_the_task_by_name_before_anything_starts() {
    let house = House::new();
    let mut spec = retried(steps("a", &[], &["exit 0"]), 3);
    spec.variables.insert("KEY".to_owned(), "secret{{nope}}".to_owned());
    house.register(pipeline(vec![spec]));
    let engine = house.engine().await;
    let run = house.start(&engine, &[]).await;
    let done = house.complete(&run.key).await;
    let reason = done.tasks[&id("a")].reason.clone().unwrap();
    assert_eq!(reason.kind, ReasonKind::MissingValue);
    assert!(reason.message.contains("task `a`") && reason.message.contains("`nope`"), "{reason}");
    let of_run = done.run.reason.clone().unwrap();
    assert_eq!(of_run.message.matches("task `a`").count(), 1, "{of_run}");
    assert_eq!(house.scheduler.starts(&first(&run.key, "a")), 0);
}

#[tokio::test(start_paused = true)]
async fn later_variables_win_and_objects_become_values() {
    let house = House::new();
    let key = ObjectKey::new("greeting").unwrap();
    let scope = ObjectScope {
        namespace: house.namespace.clone(),
        pipeline: "p".parse().unwrap(),
        run: None,
    };

    let location = layout::object_location(&scope);
    let body = Box::pin(futures::stream::iter([Ok("good day".into())]));
    house.objects.put(&location, body, PutOptions::default()).await.unwrap();
    let (size_bytes, sha256, created_at) = (8, String::new(), Timestamp(0));
    house.journal.put_object_record(ObjectRecord {
        scope,
        key,
        location,
        size_bytes,
        sha256,
        created_at,
    });

    let mut spec = steps("a", &[], &["print-env A", "print-env B", "print-env C", "print-env D"]);
    spec.variables.extend(
        [("A", "task"), ("B", "task")].map(|(name, value)| (name.to_owned(), value.to_owned())),
    );
    spec.variables.insert("D".to_owned(), "pipeline_object{{greeting}}!".to_owned());

    let mut spec = pipeline(vec![spec]);
    spec.variables.extend(
        [("A", "pl"), ("C", "pl")].map(|(name, value)| (name.to_owned(), value.to_owned())),
    );
    house.register(spec);

    let engine = house.engine().await;
    let run = house.start(&engine, &[("B", "run")]).await;
    house.complete(&run.key).await;
    assert_eq!(read(&engine, &first(&run.key, "a"), 0, true).await.unwrap(), "taskrunplgood day!");
}

#[tokio::test(start_paused = true)]
async fn bad_variables_are_refused_and_change_nothing() {
    let house = House::new();
    house.register(pipeline(vec![task("a", &[])]));
    let engine = house.engine().await;
    let variables = BTreeMap::from([
        ("OK".to_owned(), "x".repeat(10 << 20)),
        ("9 bad".to_owned(), String::new()),
    ]);
    let error = engine.start_run(house.request(variables)).await.unwrap_err();
    let EngineError::Invalid(violations) = &error else { panic!("{error}") };
    assert!(violations.len() >= 3, "{error}");
    assert!(house.journal.runs().is_empty());
    let missing = StartRun { pipeline: "other".parse().unwrap(), ..house.request(BTreeMap::new()) };
    assert!(matches!(engine.start_run(missing).await, Err(EngineError::NotFound { .. })));
}

#[tokio::test(start_paused = true)]
async fn cancelling_stops_what_runs_and_leaves_nothing_behind() {
    let house = House::new();
    house.register(pipeline(vec![
        steps("polite", &[], &["on-stop stopping", "forever"]),
        steps("rude", &[], &["ignore-stop", "forever"]),
        steps("never", &[("polite", Condition::Any)], &["exit 0"]),
    ]));

    let engine = house.engine().await;
    let run = house.start(&engine, &[]).await;
    let running = |snapshot: &RunSnapshot| snapshot.tasks[&id("rude")].state == TaskState::Running;
    house.until(&run.key, "running", running).await;
    assert!(engine.cancel_run(&run.key, cancel()).await.unwrap());

    let done = house.complete(&run.key).await;
    assert_eq!(done.run.state, RunState::Complete(RunStatus::Cancelled));
    assert!(
        done.tasks.values().all(|task| task.state == TaskState::Complete(TaskStatus::Cancelled))
    );
    assert!(
        !engine.cancel_run(&run.key, cancel()).await.unwrap(),
        "there is nothing left to cancel"
    );
    assert_eq!(house.scheduler.starts(&first(&run.key, "never")), 0);
    house.log_becomes(&first(&run.key, "polite"), LogState::Archived).await;
    assert_eq!(engine.stats().executions, 0);
}

#[tokio::test(start_paused = true)]
async fn a_queued_run_waits_its_turn_and_can_be_cancelled_there() {
    let house = House::new();
    house.register(one_at_a_time(Overlap::Queue));
    let engine = house.engine().await;
    let (one, two, three) = (
        house.start(&engine, &[]).await,
        house.start(&engine, &[]).await,
        house.start(&engine, &[]).await,
    );

    house
        .until(&one.key, "running", |snapshot| snapshot.tasks[&id("a")].state == TaskState::Running)
        .await;
    assert!(engine.cancel_run(&two.key, cancel()).await.unwrap());
    assert_eq!(house.complete(&two.key).await.run.state, RunState::Complete(RunStatus::Cancelled));
    assert_eq!(house.journal.load(&three.key).await.unwrap().run.state, RunState::Pending);
    house.scheduler.release("gate");

    for key in [&one.key, &three.key] {
        assert_eq!(house.complete(key).await.run.state, RunState::Complete(RunStatus::Successful));
    }
}

#[tokio::test(start_paused = true)]
async fn a_newer_run_cancels_the_running_one_if_the_pipeline_says_so() {
    let house = House::new();
    house.register(one_at_a_time(Overlap::CancelRunning));
    let engine = house.engine().await;
    let one = house.start(&engine, &[]).await;
    house
        .until(&one.key, "running", |snapshot| snapshot.tasks[&id("a")].state == TaskState::Running)
        .await;
    let two = house.start(&engine, &[]).await;
    assert_eq!(house.complete(&one.key).await.run.state, RunState::Complete(RunStatus::Cancelled));
    house.scheduler.release("gate");
    assert_eq!(house.complete(&two.key).await.run.state, RunState::Complete(RunStatus::Successful));
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_superseded_before_its_insert_is_answered_ends_cancelled() {
    let house = House::new();
    house.register(one_at_a_time(Overlap::CancelRunning));
    let stored: Arc<dyn Journal> = house.journal.clone();
    let journal = Arc::new(Faulty::new(stored, 1, Faults::default()));
    let engine =
        Engine::start(journal.clone(), house.backends(), EngineConfig::default()).await.unwrap();

    // By now it hears the hints of others, and is not about to look at everything.
    tokio::time::sleep(Duration::from_secs(1)).await;
    journal.set_faults(Faults { latency: Duration::from_secs(10), ..Faults::default() });
    let (asked, request) = (engine.clone(), house.request(BTreeMap::new()));
    let one = tokio::spawn(async move { asked.start_run(request).await });

    while house.journal.runs().is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    journal.set_faults(Faults::default());
    let two = house.start(&engine, &[]).await;
    assert!(!one.is_finished(), "it is inserted, and its answer still on its way");
    let one = one.await.unwrap().unwrap();
    assert_eq!(house.complete(&one.key).await.run.state, RunState::Complete(RunStatus::Cancelled));
    house.scheduler.release("gate");
    assert_eq!(house.complete(&two.key).await.run.state, RunState::Complete(RunStatus::Successful));
    engine.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn retrying_from_the_failed_tasks_reuses_the_rest() {
    let house = House::new();
    house.register(pipeline(vec![
        steps("a", &[], &["mark a"]),
        steps("b", &[("a", Condition::Success)], &["mark b", "wait gate", "exit 1"]),
    ]));

    let engine = house.engine().await;
    let one = house.start(&engine, &[]).await;
    let initiator = Initiator::Token("ann".to_owned());
    let early = engine.retry_run(&one.key, true, initiator.clone()).await;
    assert!(matches!(early, Err(EngineError::NotComplete { .. })), "{early:?}");
    house.scheduler.release("gate");
    house.complete(&one.key).await;

    let two = engine.retry_run(&one.key, true, initiator.clone()).await.unwrap();
    assert_eq!(two.retry_of, Some(one.key.run));
    let done = house.complete(&two.key).await;
    assert_eq!(
        done.tasks[&id("a")].reason.as_ref().map(|reason| reason.kind),
        Some(ReasonKind::Reused)
    );

    let three = engine.retry_run(&one.key, false, initiator).await.unwrap();
    house.complete(&three.key).await;
    assert_eq!((house.scheduler.marks("a"), house.scheduler.marks("b")), (2, 3));
}

#[tokio::test(start_paused = true)]
async fn what_lies_below_a_task_that_runs_again_is_decided_anew() {
    let house = House::new();
    house.register(pipeline(vec![
        steps("deploy", &[], &["wait gate", "exit 1"]),
        steps("rollback", &[("deploy", Condition::Failure)], &["mark rollback"]),
        steps("mail", &[("rollback", Condition::Success)], &["mark mail", "exit 1"]),
        steps("cleanup", &[("deploy", Condition::Any)], &["mark cleanup"]),
        steps("other", &[], &["mark other"]),
    ]));

    let engine = house.engine().await;
    house.scheduler.release("gate");
    let one = house.start(&engine, &[]).await;
    house.complete(&one.key).await;

    let two = engine.retry_run(&one.key, true, Initiator::Token("ann".to_owned())).await.unwrap();
    let done = house.complete(&two.key).await;
    let marks = ["rollback", "mail", "cleanup", "other"].map(|name| house.scheduler.marks(name));
    assert_eq!(marks, [2, 2, 2, 1], "{:?}", done.tasks);
}

#[tokio::test(start_paused = true)]
async fn what_was_skipped_is_no_reason_to_run_its_children_again() {
    let house = House::new();
    house.register(pipeline(vec![
        steps("deploy", &[], &["mark deploy"]),
        steps("rollback", &[("deploy", Condition::Failure)], &["mark rollback"]),
        steps("cleanup", &[("rollback", Condition::Any)], &["mark cleanup"]),
        steps("mail", &[("cleanup", Condition::Success)], &["mark mail", "exit 1"]),
    ]));
    let engine = house.engine().await;
    let one = house.start(&engine, &[]).await;
    house.complete(&one.key).await;
    let two = engine.retry_run(&one.key, true, Initiator::Token("ann".to_owned())).await.unwrap();
    let done = house.complete(&two.key).await;
    let marks = ["deploy", "rollback", "cleanup", "mail"].map(|name| house.scheduler.marks(name));
    assert_eq!(marks, [1, 0, 1, 2], "{:?}", done.tasks);
}
