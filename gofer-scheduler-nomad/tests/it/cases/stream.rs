//! The event stream, which drops, repeats and goes back.

use gofer_conformance::scheduler::Workloads;
use gofer_core::ExecutionId;
use gofer_core::scheduler::{ExecutionState, Scheduler};

use super::Watcher;
use crate::agent::Agent;
use crate::fake::FakeNomad;
use crate::proxy::Proxy;
use crate::support::{Gate, Setup, exited, id};

/// Starts many that end all at once.
async fn start_many(setup: &Setup, gate: &Gate, count: usize) -> Vec<ExecutionId> {
    let ids: Vec<ExecutionId> = (0..count).map(|index| id(&format!("task-{index}"))).collect();
    let starts = ids.iter().map(|id| setup.start(id, gate.spec()));
    futures::future::join_all(starts).await;
    for id in &ids {
        setup.running(id).await;
    }
    ids
}

#[tokio::test(flavor = "multi_thread")]
async fn case_02_a_stream_cut_during_300_ends_with_a_buffer_of_100_loses_none() {
    let fake = FakeNomad::start_with_events(100).await;
    fake.add_node("large", &["raw_exec"], 1_000_000);
    let setup = Setup::on_fake(fake, |_| {}).await;
    let gate = Gate::new();
    let ids = start_many(&setup, &gate, 300).await;
    let mut watcher = Watcher::of(setup.scheduler()).await;
    let fake = setup.fake_agent();

    fake.faults(|faults| faults.silent_streams = true);
    gate.open();
    for id in &ids {
        fake.allocation("all have ended", |alloc| {
            alloc["Job"]["Meta"]["gofer_execution"] == id.to_string()
                && alloc["ClientStatus"] == "complete"
        })
        .await;
    }

    fake.faults(|faults| faults.silent_streams = false);
    fake.cut_streams();
    for id in &ids {
        assert_eq!(watcher.end_of(id).await, exited(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn case_02_a_stream_cut_again_and_again_loses_none() {
    let setup = Setup::on_fake(FakeNomad::start_with_events(10).await, |_| {}).await;
    let mut watcher = Watcher::of(setup.scheduler()).await;
    let ids: Vec<ExecutionId> = (0..40).map(|index| id(&format!("task-{index}"))).collect();
    for (index, id) in ids.iter().enumerate() {
        setup.start(id, &setup.workloads.exit(3)).await;
        match index % 8 {
            3 => setup.fake_agent().cut_streams(),
            7 => setup.fake_agent().cut_connections(),
            _ => {}
        }
    }
    for id in &ids {
        assert_eq!(watcher.end_of(id).await, exited(3));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn case_02_a_stream_cut_during_ends_loses_none_on_a_real_agent() {
    let Some(agent) = Agent::find("case_02 on a real agent") else { return };
    let proxy = Proxy::to(&agent.address).await;
    let setup = Setup::real(&agent, |config| config.addresses = vec![proxy.address()]).await;
    let gate = Gate::new();
    let ids = start_many(&setup, &gate, 30).await;
    let mut watcher = Watcher::of(setup.scheduler()).await;
    gate.open();
    proxy.cut();
    watcher.end_of(&ids[0]).await;
    proxy.cut();
    for id in &ids {
        assert_eq!(watcher.end_of(id).await, exited(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn case_03_repeated_and_reordered_events_tell_every_change_once() {
    let setup = Setup::fake().await;
    setup
        .fake_agent()
        .faults(|faults| (faults.duplicate_events, faults.reorder_events) = (true, true));

    let mut watcher = Watcher::of(setup.scheduler()).await;
    let ids: Vec<ExecutionId> = (0..20).map(|index| id(&format!("task-{index}"))).collect();
    for id in &ids {
        setup.start(id, &setup.workloads.exit(3)).await;
        setup.fake_agent().cut_streams();
    }

    for id in &ids {
        assert_eq!(watcher.end_of(id).await, exited(3));
    }

    // What comes after all of it has come: a repeat of it would have come before.
    setup.start(&id("last"), &setup.workloads.exit(0)).await;
    watcher.end_of(&id("last")).await;
    for id in &ids {
        let told: Vec<_> =
            watcher.told.iter().filter(|event| event.id == *id).map(|event| &event.state).collect();
        assert_eq!(told.iter().filter(|state| state.is_final()).count(), 1, "{told:?}");
        assert!(told.last().is_some_and(|last| last.is_final()), "{told:?}");
        assert!(told.windows(2).all(|pair| pair[0] != pair[1]), "{told:?}");
        let runs = told.iter().filter(|state| ***state == ExecutionState::Running).count();
        assert!(runs <= 1, "{told:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn case_16_an_index_that_goes_back_is_begun_anew() {
    let setup = Setup::fake().await;
    let mut watcher = Watcher::of(setup.scheduler()).await;
    let (before, over, after) = (id("before"), id("over"), id("after"));
    setup.start(&before, &setup.workloads.exit(3)).await;
    assert_eq!(watcher.end_of(&before).await, exited(3));
    setup.start(&over, &setup.workloads.gated(b"", "gate", b"")).await;
    setup.running(&over).await;
    setup.fake_agent().restore_older_snapshot();
    setup.workloads.release("gate").await;
    assert_eq!(watcher.end_of(&over).await, exited(0), "what ran when the index went back");
    setup.start(&after, &setup.workloads.exit(4)).await;
    assert_eq!(watcher.end_of(&after).await, exited(4), "what was started afterwards");
    assert_eq!(setup.state(&before).await, exited(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_polls_for_each_execution() {
    let setup = Setup::fake().await;
    let gate = Gate::new();
    let ids = start_many(&setup, &gate, 20).await;
    let mut watcher = Watcher::of(setup.scheduler()).await;
    let before = setup.fake_agent().requests().len();
    gate.open();
    for id in &ids {
        assert_eq!(watcher.end_of(id).await, exited(0));
    }
    let requests = setup.fake_agent().requests().split_off(before);
    assert!(requests.is_empty(), "the events were enough to know all: {requests:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scheduler_that_is_dropped_lets_go_of_its_stream() {
    let mut setup = Setup::fake().await;
    let stream = setup.scheduler().watch().await.expect("watch");
    setup.scheduler = None;
    drop(stream);
    let before = setup.fake_agent().count("GET /v1/event/stream");
    setup.fake_agent().cut_streams();
    // Had it gone on, it would have come back, as the next one does.
    let other = Setup::on_fake(FakeNomad::start().await, |_| {}).await;
    let mut watcher = Watcher::of(other.scheduler()).await;
    other.fake_agent().cut_streams();
    other.start(&id("task"), &other.workloads.exit(0)).await;
    watcher.end_of(&id("task")).await;
    assert_eq!(setup.fake_agent().count("GET /v1/event/stream"), before);
}

/// Nomad publishes an event before the change can be read.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_told_is_what_is_read_afterwards() {
    let setup = Setup::fake().await;
    let mut watcher = Watcher::of(setup.scheduler()).await;
    let task = id("task");
    setup.start(&task, &setup.workloads.gated(b"", "gate", b"")).await;
    setup.running(&task).await;
    setup.workloads.release("gate").await;
    assert_eq!(watcher.end_of(&task).await, exited(0));
    setup.fake_agent().faults(|faults| faults.behind = 3);
    assert_eq!(setup.scheduler().state(&task).await.expect("a state").state, exited(0));
    assert_eq!(
        setup.fake_agent().faults(|faults| faults.behind),
        0,
        "older answers were read again"
    );

    // What no reading shows any more keeps nobody for ever.
    setup.fake_agent().faults(|faults| faults.behind = usize::MAX);
    assert_eq!(
        setup.scheduler().state(&task).await.expect("a state").state,
        ExecutionState::Running
    );
}
