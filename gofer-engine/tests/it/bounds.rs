//! Limits of what is in flight, and what people see of a wait.

use gofer_core::event::EventDetails;
use gofer_core::pipeline::PipelineSpec;
use gofer_core::run::{CancelRequest, LogState, Reason, ReasonKind, Run, RunState, TaskState};
use gofer_core::{RunKey, Timestamp};
use gofer_engine::timeline::{self, Phase, RunFacts};
use gofer_engine::{Engine, EngineConfig, StartRun};

use crate::engine::{House, first, steps};
use crate::support::{id, pipeline};

/// A pipeline whose only task runs until its gate is opened.
fn gated(name: &str) -> PipelineSpec {
    PipelineSpec {
        name: name.parse().unwrap(),
        ..pipeline(vec![steps("t", &[], &[&format!("wait {name}")])])
    }
}

async fn start(house: &House, engine: &Engine, pipeline: &str) -> Run {
    let request =
        StartRun { pipeline: pipeline.parse().unwrap(), ..house.request(Default::default()) };
    engine.start_run(request).await.unwrap()
}

async fn running(house: &House, key: &RunKey) {
    house
        .until(key, "running", |snapshot| snapshot.tasks[&id("t")].state == TaskState::Running)
        .await;
}

/// The task's reason, once it has one.
async fn reason(house: &House, key: &RunKey) -> Reason {
    let told =
        house.until(key, "told why", |snapshot| snapshot.tasks[&id("t")].reason.is_some()).await;
    assert_eq!(told.tasks[&id("t")].state, TaskState::Starting);
    told.tasks[&id("t")].reason.clone().unwrap()
}

fn told_events(house: &House, key: &RunKey) -> Vec<(Timestamp, EventDetails)> {
    let of_run =
        house.journal.events().into_iter().filter(|event| event.body.subject.run == Some(key.run));
    let of_run = of_run.filter(|event| event.body.subject.pipeline.as_ref() == Some(&key.pipeline));
    let told =
        of_run.filter(|event| timeline::EVENT_TYPES[..2].contains(&event.body.details.type_name()));
    told.map(|event| (event.body.at, event.body.details)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_task_that_waits_for_a_slot_says_for_which() {
    let house = House::new();
    ["one", "two", "three"].into_iter().for_each(|name| house.register(gated(name)));
    let config = EngineConfig {
        max_executions: 2,
        max_executions_per_pipeline: Some(1),
        ..EngineConfig::default()
    };

    let engine = house.engine_with(config).await;
    let held = start(&house, &engine, "one").await.key;
    running(&house, &held).await;
    let second = start(&house, &engine, "one").await.key;
    let why = reason(&house, &second).await;
    assert_eq!(
        why,
        Reason::new(
            ReasonKind::Waiting,
            "waiting: 1 of 1 executions of pipeline default/one in flight"
        )
    );

    let other = start(&house, &engine, "two").await.key;
    running(&house, &other).await;
    assert_eq!(told_events(&house, &other), [], "a fast slot is not worth a word");
    let third = start(&house, &engine, "three").await.key;
    let why = reason(&house, &third).await;
    assert_eq!(why.message, "waiting: 2 of 2 executions of this server in flight");
    house.scheduler.release("two");
    running(&house, &third).await;

    let told = told_events(&house, &third);
    let [
        (waits, EventDetails::TaskRunWaiting { reason }),
        (acquired, EventDetails::TaskRunSlotAcquired {}),
    ] = &told[..]
    else {
        panic!("{told:?}")
    };

    assert_eq!(reason, &why);
    assert!(waits <= acquired);
    let snapshot = house.until(&third, "running", |_| true).await;
    assert_eq!(snapshot.tasks[&id("t")].reason, None);
    ["one", "three"].into_iter().for_each(|gate| house.scheduler.release(gate));

    for run in [held, second, other, third] {
        house.complete(&run).await;
    }

    engine.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_wait_is_taken_over_and_told_to_its_end() {
    let house = House::new();
    ["one", "two"].into_iter().for_each(|name| house.register(gated(name)));
    let narrow = || EngineConfig { max_executions: 1, ..EngineConfig::default() };
    let engine = house.engine_with(narrow()).await;
    running(&house, &start(&house, &engine, "one").await.key).await;
    let waiting = start(&house, &engine, "two").await.key;
    reason(&house, &waiting).await;
    engine.shutdown().await;
    let engine = house.engine_with(EngineConfig::default()).await;
    running(&house, &waiting).await;
    let told = told_events(&house, &waiting);
    assert!(matches!(told.last(), Some((_, EventDetails::TaskRunSlotAcquired {}))), "{told:?}");
    engine.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn runs_beyond_the_bound_stay_pending_and_are_claimed_fairly() {
    let house = House::new();
    ["flood", "other"].into_iter().for_each(|name| house.register(gated(name)));
    let engine =
        house.engine_with(EngineConfig { max_active_runs: 2, ..EngineConfig::default() }).await;
    let mut flood = Vec::new();

    for _ in 0..20 {
        flood.push(start(&house, &engine, "flood").await.key);
    }

    for run in &flood[..2] {
        running(&house, run).await;
    }

    let other = start(&house, &engine, "other").await.key;
    tokio::time::sleep(std::time::Duration::from_secs(60)).await;
    assert_eq!(engine.stats().active_runs, 2);
    let pending = house.until(&other, "pending", |_| true).await;
    assert_eq!(pending.run.state, RunState::Pending);

    let cancel = CancelRequest {
        at: Timestamp(0),
        by: "ann".to_owned(),
        force: true,
        message: String::new(),
    };

    engine.cancel_run(&flood[0], cancel).await.unwrap();
    running(&house, &other).await;
    house.scheduler.release("flood");
    let started: Vec<RunKey> = house
        .journal
        .events()
        .into_iter()
        .filter(|event| matches!(event.body.details, EventDetails::RunStarted {}))
        .filter_map(|event| event.body.subject.run.zip(event.body.subject.pipeline))
        .map(|(run, pipeline)| RunKey { pipeline, run, ..other.clone() })
        .collect();

    assert_eq!(
        started.iter().position(|key| *key == other),
        Some(2),
        "the first slot that came free was its own"
    );
    house.scheduler.release("other");

    for run in flood.iter().chain([&other]) {
        house.complete(run).await;
    }

    engine.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn every_moment_of_a_run_is_explained() {
    let house = House::new();
    house.register(gated("other"));
    house.register(pipeline(vec![
        steps("a", &[], &["print hello", "sleep-ms 3000"]),
        steps("t", &[("a", gofer_core::pipeline::Condition::Success)], &["wait gate"]),
    ]));

    let engine =
        house.engine_with(EngineConfig { max_executions: 1, ..EngineConfig::default() }).await;
    let other = start(&house, &engine, "other").await.key;
    running(&house, &other).await;

    let run = start(&house, &engine, "p").await.key;
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    house.scheduler.release("other");
    running(&house, &run).await;
    house.scheduler.release("gate");

    let snapshot = house.complete(&run).await;
    house.log_becomes(&first(&run, "a"), LogState::Archived).await;
    house.log_becomes(&first(&run, "t"), LogState::Empty).await;
    let events: Vec<_> = house.journal.events().into_iter().map(|event| event.body).collect();
    let of_task = |name: &str| {
        let own = |event: &&gofer_core::event::NewEvent| {
            (&event.subject.task, event.subject.run) == (&Some(id(name)), Some(run.run))
                && event.subject.pipeline.as_ref() == Some(&run.pipeline)
        };
        let events: Vec<_> = events.iter().filter(own).cloned().collect();
        timeline::of_task(&snapshot, &id(name), &house.journal.attempts(&run, &id(name)), &events)
    };

    let phases = |name: &str| of_task(name).iter().map(|span| span.phase).collect::<Vec<_>>();
    let a = phases("a");
    assert!(
        a.starts_with(&[Phase::WaitingForSlot]) && a.contains(&Phase::Running),
        "{:#?}",
        of_task("a")
    );

    let t = of_task("t");
    assert_eq!(t[0].phase, Phase::WaitingForParents, "{t:#?}");
    assert_eq!(t[0].why, "task `a` was the last parent to end, successfully");
    let own = timeline::of_run(&snapshot.run, &RunFacts::default());
    assert_eq!(
        (own[0].from, own.last().unwrap().to),
        (snapshot.run.created_at, snapshot.run.ended_at)
    );
    engine.shutdown().await;
}
