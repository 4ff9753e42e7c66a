//! What became of an execution, and why it has not begun.

use std::time::Duration;

use gofer_conformance::scheduler::Workloads;
use gofer_core::ErrorKind;
use gofer_core::scheduler::{
    EnvValue, ExecutionSpec, ExecutionState, FailureKind, LogCursor, Scheduler,
};

use super::Watcher;
use crate::agent::Agent;
use crate::fake::{FakeNomad, Image};
use crate::support::{SHORT, Setup, exited, id, image, script};

const MIB: u64 = 1024 * 1024;

/// The reason why it waits, once there is one with this text.
async fn waits_because(setup: &Setup, task: &gofer_core::ExecutionId, part: &str) -> String {
    let waits = |state: &ExecutionState| matches!(state, ExecutionState::Queued { reason } if reason.contains(part));
    match setup.becomes(&format!("`{task}` waits because of `{part}`"), task, waits).await {
        ExecutionState::Queued { reason } => reason,
        other => panic!("{other:?}"),
    }
}

async fn cancel(setup: &Setup) {
    for (index, text) in
        ["trap 'exit 0' TERM", "trap 'exit 7' TERM", "true"].into_iter().enumerate()
    {
        let task = id(&format!("task-{index}"));
        let text = format!("{text}; echo ready; while [ -d \"$1\" ]; do sleep 0.05; done");
        let dir = tempfile::tempdir().expect("a directory");
        setup.start(&task, &script(&text, [dir.path().to_str().expect("text")])).await;
        setup.becomes("it has written", &task, |state| *state == ExecutionState::Running).await;
        setup.scheduler().stop(&task, Duration::from_secs(20)).await.expect("stop");
        assert_eq!(setup.ended(&task).await, ExecutionState::Stopped, "`{text}`");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn case_05_a_cancelled_execution_is_no_success() {
    let setup = Setup::fake().await;
    cancel(&setup).await;
    for alloc in setup.fake_agent().allocations() {
        assert_eq!(alloc["ClientStatus"], "complete", "what Nomad says of it");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn case_05_a_cancelled_execution_is_no_success_on_a_real_agent() {
    let Some(agent) = Agent::find("case_05 on a real agent") else { return };
    cancel(&Setup::real(&agent, |_| {}).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn case_07_who_waits_for_memory_is_told_how_much_and_runs_when_there_is_some() {
    let setup = Setup::on_fake(FakeNomad::start().await, |_| {}).await;
    let task = id("task");
    let mut spec = setup.workloads.exit(0);
    spec.resources.memory_bytes = Some(100_000 * MIB);
    setup.start(&task, &spec).await;
    let reason = waits_because(&setup, &task, "memory").await;
    assert!(reason.contains("100000") && reason.contains('1'), "{reason}");
    setup.fake_agent().add_node("large", &["raw_exec"], 200_000);
    assert_eq!(setup.ended(&task).await, exited(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn case_07_room_that_becomes_free_is_used() {
    let setup = Setup::fake().await;
    let (first, second) = (id("first"), id("second"));
    let gated = |gate: &str| {
        let mut spec = setup.workloads.gated(b"", gate, b"");
        spec.resources.memory_bytes = Some(40_000 * MIB);
        spec
    };

    setup.start(&first, &gated("one")).await;
    // Evaluations are processed in any order: only who runs has taken its room.
    setup.running(&first).await;
    setup.start(&second, &gated("two")).await;
    waits_because(&setup, &second, "memory").await;
    setup.workloads.release("one").await;
    setup.running(&second).await;
    setup.workloads.release("two").await;
    assert_eq!(setup.ended(&second).await, exited(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn case_07_what_no_node_can_run_says_so_and_can_be_stopped() {
    let setup = Setup::on_fake(FakeNomad::start().await, |config| {
        config.image_driver = gofer_scheduler_nomad::ImageDriver::Podman;
    })
    .await;
    setup.start(&id("task"), &image("alpine:3.20", "true")).await;
    let reason = waits_because(&setup, &id("task"), "podman").await;
    assert!(reason.contains("lack"), "{reason}");
    setup.scheduler().stop(&id("task"), SHORT).await.expect("stop");
    assert_eq!(setup.ended(&id("task")).await, ExecutionState::Stopped);
}

#[tokio::test(flavor = "multi_thread")]
async fn case_07_who_waits_for_memory_is_told_how_much_on_a_real_agent() {
    let Some(agent) = Agent::find("case_07 on a real agent") else { return };
    let setup = Setup::real(&agent, |_| {}).await;
    let mut spec = setup.workloads.exit(0);
    spec.resources.memory_bytes = Some(100_000_000 * MIB);
    setup.start(&id("task"), &spec).await;
    let reason = waits_because(&setup, &id("task"), "memory").await;
    assert!(reason.contains("100000000"), "{reason}");
    setup.scheduler().stop(&id("task"), SHORT).await.expect("stop");
    assert_eq!(setup.ended(&id("task")).await, ExecutionState::Stopped);
}

#[tokio::test(flavor = "multi_thread")]
async fn case_08_an_image_that_cannot_be_had_is_told_in_the_drivers_words() {
    const DENIED: &str =
        "Error response from daemon: pull access denied for missing, repository does not exist";
    const TIMEOUT: &str = "Error response from daemon: net/http: TLS handshake timeout";

    let setup = Setup::fake().await;
    setup.fake_agent().faults(|faults| {
        faults.images.insert("missing:1", Image::PullFails(DENIED));
        faults.images.insert("slow:1", Image::PullFails(TIMEOUT));
    });

    for (name, words) in [("missing:1", "pull access denied"), ("slow:1", "TLS handshake timeout")]
    {
        let task = id(name.trim_end_matches(":1"));
        match setup.run(&task, &image(name, "true")).await {
            ExecutionState::Failed { kind: FailureKind::ImageUnavailable, message } => {
                assert!(message.contains(words) && message.contains(name), "{message}");
            }
            other => panic!("{other:?}"),
        }
    }

    assert_eq!(setup.run(&id("good"), &image("good:1", "exit 3")).await, exited(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn case_09_exit_137_is_want_of_memory_only_when_nomad_says_so() {
    let setup = Setup::fake().await;
    setup.fake_agent().faults(|faults| {
        faults.images.insert("told:1", Image::OutOfMemory { told: true });
        faults.images.insert("untold:1", Image::OutOfMemory { told: false });
    });
    for (name, oom) in [("told:1", true), ("untold:1", false), ("other:1", false)] {
        let task = id(name.trim_end_matches(":1"));
        let expected = ExecutionState::Exited { code: 137, oom, signal: Some(9) };
        assert_eq!(setup.run(&task, &image(name, "kill -9 $$")).await, expected, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn case_09_exit_137_without_a_word_of_memory_on_a_real_agent() {
    let Some(agent) = Agent::find("case_09 on a real agent") else { return };
    let setup = Setup::real(&agent, |_| {}).await;
    let killed = ExecutionState::Exited { code: 137, oom: false, signal: Some(9) };
    assert_eq!(setup.run(&id("killed"), &script("kill -9 $$", [])).await, killed);
    // Not a signal: a program may end with any code it likes.
    assert_eq!(setup.run(&id("exits"), &script("exit 137", [])).await, exited(137));
}

#[tokio::test(flavor = "multi_thread")]
async fn case_10_what_was_collected_before_it_was_read_is_not_guessed() {
    let setup = Setup::fake().await;
    let mut watcher = Watcher::of(setup.scheduler()).await;
    let task = id("task");
    setup.start(&task, &setup.workloads.gated(b"", "gate", b"")).await;
    setup.running(&task).await;
    setup
        .fake_agent()
        .faults(|faults| (faults.silent_streams, faults.collect_at_once) = (true, true));
    setup.workloads.release("gate").await;

    let gone =
        |state: &ExecutionState| matches!(state, ExecutionState::NotFound | ExecutionState::Lost);
    setup.becomes("it was collected", &task, gone).await;
    setup.fake_agent().lose_events();
    setup.fake_agent().faults(|faults| faults.silent_streams = false);
    setup.fake_agent().cut_streams();

    let told = watcher.end_of(&task).await;
    assert!(gone(&told), "{told:?}");
    assert_eq!(told, setup.state(&task).await, "the stream and `state` differ");
    let error =
        setup.scheduler().logs(&task, LogCursor::default(), false).await.err().expect("no logs");
    assert_eq!(error.kind, ErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn case_10_what_was_collected_is_not_guessed_on_a_real_agent() {
    let Some(agent) = Agent::find("case_10 on a real agent") else { return };
    // It would collect what other tests still want to read.
    let setup = Setup::real_alone(&agent, |_| {}).await;
    let task = id("task");
    assert_eq!(setup.run(&task, &setup.workloads.exit(0)).await, exited(0));
    agent.put("/v1/system/gc", &serde_json::Value::Null).await;
    let gone =
        |state: &ExecutionState| matches!(state, ExecutionState::NotFound | ExecutionState::Lost);
    setup.becomes("it was collected", &task, gone).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn case_18_a_task_whose_secret_does_not_come_says_where_it_waits_and_can_be_stopped() {
    let setup = Setup::fake().await;
    setup.fake_agent().faults(|faults| faults.hide_variables = true);
    let task = id("task");
    let secret = EnvValue::Secret("value".into());
    let spec =
        ExecutionSpec { env: [("SECRET".to_owned(), secret)].into(), ..setup.workloads.exit(0) };
    setup.start(&task, &spec).await;
    let reason = waits_because(&setup, &task, "node-1").await;
    assert!(!reason.contains("value"), "{reason}");
    setup.scheduler().stop(&task, SHORT).await.expect("stop");
    assert_eq!(setup.ended(&task).await, ExecutionState::Stopped);
    assert_eq!(setup.stdout(&task, true).await, b"");
}
