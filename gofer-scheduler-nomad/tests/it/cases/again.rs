//! What Nomad starts a second time in the same allocation.

use gofer_conformance::scheduler::Workloads;
use gofer_core::scheduler::{ExecutionSpec, ExecutionState, Scheduler};

use super::Watcher;
use crate::support::{Setup, exited, id, image, script};

/// Says that it begins, and goes on as long as this directory is there.
fn begins(mark: &std::path::Path, while_there: &std::path::Path) -> ExecutionSpec {
    let text = "echo begin >>\"$1\"; while [ -d \"$2\" ]; do sleep 0.05; done";
    script(text, [mark, while_there].map(|path| path.to_str().expect("text")))
}

fn times(mark: &std::path::Path) -> usize {
    std::fs::read_to_string(mark).unwrap_or_default().lines().count()
}

async fn begun(mark: &std::path::Path, wanted: usize) {
    gofer_conformance::eventually("the program begins", async || {
        let times = times(mark);
        if times >= wanted { Ok(()) } else { Err(format!("{times} times")) }
    })
    .await;
}

/// The node's power fails, and its agent starts the task again, whose shell does not let the
/// program begin.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_comes_back_does_not_run_the_program_a_second_time() {
    for forgets_starts in [false, true] {
        let setup = Setup::fake().await;
        setup.fake_agent().faults(|faults| faults.forgets_starts = forgets_starts);
        let dir = tempfile::tempdir().expect("a directory");
        let (mark, task) = (dir.path().join("mark"), id("task"));
        let mut watcher = Watcher::of(setup.scheduler()).await;
        setup.start(&task, &begins(&mark, dir.path())).await;
        begun(&mark, 1).await;
        setup.fake_agent().reboot();
        assert_eq!(watcher.end_of(&task).await, ExecutionState::Lost, "a fate that is not known");
        assert_eq!(setup.state(&task).await, ExecutionState::Lost);
        assert_eq!(times(&mark), 1);
        setup.scheduler().remove(&task).await.expect("remove");
    }
}

/// Nobody knows whether the image has a shell, so nothing keeps Nomad from starting the program
/// again. It is lost when what runs then is over, and not before.
#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_runs_a_second_time_is_killed_before_it_is_lost() {
    let setup = Setup::fake().await;
    let task = id("task");
    let mut spec = image("good:1", "");
    spec.command = ["sleep", "1000"].map(str::to_owned).to_vec();
    let mut watcher = Watcher::of(setup.scheduler()).await;
    setup.start(&task, &spec).await;
    setup.running(&task).await;
    setup.fake_agent().reboot();
    assert_eq!(watcher.end_of(&task).await, ExecutionState::Lost);
    let alloc = setup.fake_agent().allocations().remove(0);
    assert_eq!(alloc["ClientStatus"], "complete", "told while it ran: {alloc}");
    assert_eq!(setup.state(&task).await, ExecutionState::Lost);
}

/// The agent waits for its servers before it starts the program again: long enough to be told that
/// it must not.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_about_to_begin_again_is_stopped() {
    let setup = Setup::fake().await;
    let task = id("task");
    let dir = tempfile::tempdir().expect("a directory");
    let mark = dir.path().join("mark");
    setup.fake_agent().faults(|faults| faults.holds_restarts = true);

    let mut spec = ExecutionSpec { image: Some("good:1".to_owned()), ..begins(&mark, dir.path()) };
    spec.command.splice(0..1, ["env", "sh"].map(str::to_owned));
    let mut watcher = Watcher::of(setup.scheduler()).await;
    setup.start(&task, &spec).await;
    begun(&mark, 1).await;
    setup.fake_agent().reboot();
    assert_eq!(watcher.end_of(&task).await, ExecutionState::Lost);
    assert_eq!(times(&mark), 1);

    let queued = |told: &ExecutionState| matches!(told, ExecutionState::Queued { .. });
    let from = watcher
        .told
        .iter()
        .position(|event| event.state == ExecutionState::Running)
        .expect("it ran");
    assert!(!watcher.told[from..].iter().any(|event| queued(&event.state)), "{:?}", watcher.told);
}

/// The agent was killed in the moment in which the task ended: Nomad knows the end, and starts the
/// task again all the same.
#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_is_known_stays_one() {
    let setup = Setup::fake().await;
    for code in [0, 3] {
        setup.fake_agent().faults(|faults| faults.restarts_after_end = 1);
        let task = id(&format!("task-{code}"));
        assert_eq!(
            setup.run(&task, &setup.workloads.mark(&format!("mark-{code}"), code)).await,
            exited(code.into())
        );
        assert_eq!(setup.workloads.marks(&format!("mark-{code}")).await, 1, "it ran once");
    }

    // Without a shell before it, it ran twice.
    setup.fake_agent().faults(|faults| faults.restarts_after_end = 1);
    let mut spec = image("good:1", "");
    spec.command = ["true".to_owned()].to_vec();
    assert_eq!(setup.run(&id("image"), &spec).await, ExecutionState::Lost);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reserved_exit_code_is_a_programs_own_unless_it_had_begun() {
    let setup = Setup::fake().await;
    assert_eq!(setup.run(&id("task"), &setup.workloads.exit(118)).await, exited(118));
}
