//! Attempts that told their end to a server that is gone, before the scheduler knew.

use std::time::Duration;

use gofer_core::journal::{Committed, Leases, Logs, Runs};
use gofer_core::run::{LogState, RunState, RunStatus, TaskState};
use gofer_core::scheduler::ExecutionState;
use gofer_core::{Attempt, ExecutionId, Timestamp};
use gofer_engine::Engine;
use gofer_engine::rules::{Input, Machine, SchedulerFacts};

use crate::engine::{House, first, read, steps};
use crate::support::{id, pipeline};

/// An attempt that is over, as the journal knows from another server, and which the scheduler still
/// sees running; and the next server.
async fn told(house: &House) -> (Engine, ExecutionId) {
    let engine = house.engine().await;
    house.register(pipeline(vec![steps("a", &[], &["print hello", "wait gate", "print bye"])]));
    let run = house.start(&engine, &[]).await;
    house
        .until(&run.key, "running", |snapshot| snapshot.tasks[&id("a")].state == TaskState::Running)
        .await;
    engine.shutdown().await;

    let now = Timestamp::now();
    let leases = house.journal.claim("gone", now, Duration::from_secs(60), 1.into()).await.unwrap();
    let mut machine =
        Machine::new(house.journal.load(&run.key).await.unwrap(), SchedulerFacts::default());
    let exited = ExecutionState::Exited { code: 0, oom: false, signal: None };
    let (commit, _) = machine
        .step(now, Input::Observed(id("a"), Attempt(1), exited.into()))
        .into_commit(leases[0].clone());

    assert_eq!(house.journal.commit(vec![commit]).await.unwrap(), [Committed::Done]);
    let complete = RunState::Complete(RunStatus::Successful);
    assert_eq!(house.journal.load(&run.key).await.unwrap().run.state, complete);

    (house.engine().await, first(&run.key, "a"))
}

#[tokio::test(start_paused = true)]
async fn its_log_is_archived_when_all_of_it_is_there() {
    let house = House::new();
    let (engine, execution) = told(&house).await;
    tokio::time::sleep(Duration::from_secs(120)).await;
    let log = house.journal.log_state(&execution).await.unwrap();
    assert_eq!(log, Some(LogState::Live), "what there is, is not all");
    house.scheduler.release("gate");
    house.log_becomes(&execution, LogState::Archived).await;
    assert_eq!(read(&engine, &execution, 0, false).await.unwrap(), "hello\nbye\n");
    assert_eq!(house.scheduler.executions(), [], "and the scheduler forgets it");
    engine.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn whoever_reads_its_log_gets_the_rest() {
    let house = House::new();
    let (engine, execution) = told(&house).await;
    let gate = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        house.scheduler.release("gate");
    };
    let (log, ()) = tokio::join!(read(&engine, &execution, 0, false), gate);
    assert_eq!(log.unwrap(), "hello\nbye\n");
    engine.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn who_reads_the_log_of_one_that_lives_on_does_not_wait_for_ever() {
    let house = House::new();
    let (engine, execution) = told(&house).await;
    assert_eq!(read(&engine, &execution, 0, false).await.unwrap(), "hello\n");
    engine.shutdown().await;
}
