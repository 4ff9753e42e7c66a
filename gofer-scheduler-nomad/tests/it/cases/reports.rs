//! Executions that tell their own end. The test tells it in their stead; what runs is a supervisor
//! that only runs the program.

use std::os::unix::fs::PermissionsExt;

use gofer_conformance::eventually;
use gofer_core::scheduler::{
    ExecutionState, ExecutionTimes, FailureKind, LogCursor, ReportedEnd, Scheduler,
    WorkloadIdentity,
};
use gofer_core::{ErrorKind, ExecutionId};
use tempfile::TempDir;

use super::Watcher;
use super::identities::running_with_token;
use crate::agent::Agent;
use crate::fake::FakeNomad;
use crate::support::{SHORT, Setup, exited, id, script};

const OK: ReportedEnd = ReportedEnd { code: 0, signal: None, times: ExecutionTimes::UNKNOWN };

/// A program that does what it is told after `supervise --`.
fn supervisor() -> (TempDir, String) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("supervisor");
    std::fs::write(
        &path,
        "#!/bin/sh\n[ \"$1 $2\" = 'supervise --' ] || exit 99\nshift 2\nexec \"$@\"\n",
    )
    .expect("a script");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("its mode");
    let text = path.to_str().expect("text").to_owned();
    (dir, text)
}

async fn fake() -> (Setup, TempDir) {
    let (dir, path) = supervisor();
    let adjust = |config: &mut gofer_scheduler_nomad::NomadConfig| {
        config.identity = true;
        config.supervisor = Some(path);
    };
    (Setup::on_fake(FakeNomad::start().await, adjust).await, dir)
}

async fn real(agent: &Agent) -> (Setup, TempDir) {
    let (dir, path) = supervisor();
    let adjust = |config: &mut gofer_scheduler_nomad::NomadConfig| {
        config.identity = true;
        config.supervisor = Some(path);
    };
    (Setup::real(agent, adjust).await, dir)
}

/// Writes its token, waits for a file, and writes more before it ends.
async fn an_end_counts_from_its_report_on(setup: Setup) {
    let gate = tempfile::tempdir().expect("a directory");
    let gate = gate.path().join("gate");
    let text =
        "printf %s \"$GOFER_API_TOKEN\"; while [ ! -e \"$1\" ]; do sleep 0.05; done; printf ' end'";
    let task = id("task");
    let mut watcher = Watcher::of(setup.scheduler()).await;

    setup.start(&task, &script(text, [gate.to_str().expect("text")])).await;
    setup.running(&task).await;
    let token = eventually("the task has written its token", async || {
        let text = String::from_utf8(setup.stdout(&task, false).await).expect("text");
        if text.matches('.').count() == 2 { Ok(text) } else { Err(text) }
    })
    .await;
    let report = async |end| setup.scheduler().report_end(&token.as_str().into(), end).await;

    report(OK).await.expect("report");
    assert_eq!(setup.state(&task).await, exited(0));
    assert_eq!(watcher.end_of(&task).await, exited(0));
    report(OK).await.expect("the same again");

    let other = report(ReportedEnd { code: 1, signal: None, times: ExecutionTimes::UNKNOWN })
        .await
        .expect_err("another end");
    assert_eq!(other.kind, ErrorKind::Invalid, "{}", other.message);
    setup.scheduler().stop(&task, SHORT).await.expect("what has ended need not be stopped");

    let early = setup.scheduler().remove(&task).await.expect_err("its log is not whole");
    assert!(early.is_retryable(), "{}", early.message);

    // The log is asked for before the process has written its last; it ends with that.
    let log = async { String::from_utf8(setup.stdout(&task, false).await).expect("text") };
    let (log, ()) = tokio::join!(log, async { std::fs::write(&gate, "").expect("open the gate") });
    assert_eq!(log, format!("{token} end"));
    assert_eq!(setup.state(&task).await, exited(0));
    setup.scheduler().remove(&task).await.expect("remove");
    assert_eq!(setup.state(&task).await, ExecutionState::NotFound);
    assert!(setup.scheduler().logs(&task, LogCursor::default(), false).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_counts_from_its_report_on_the_fake() {
    let (setup, _dir) = fake().await;
    an_end_counts_from_its_report_on(setup).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_counts_from_its_report_on_a_real_agent() {
    let Some(agent) = Agent::find("an_end_counts_from_its_report on a real agent") else { return };
    let (setup, _dir) = real(&agent).await;
    an_end_counts_from_its_report_on(setup).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_allocation_contradicts_is_refused() {
    let (setup, _dir) = fake().await;
    let (task, token) = running_with_token(&setup, "stopped").await;
    setup.scheduler().stop(&task, SHORT).await.expect("stop");
    let refused = async |token: &str, why: &str| {
        let error = setup.scheduler().report_end(&token.into(), OK).await.expect_err(why);
        assert_eq!(error.kind, ErrorKind::Invalid, "{why}: {}", error.message);
    };

    refused(&token, "it is being stopped").await;
    assert_eq!(setup.ended(&task).await, ExecutionState::Stopped);
    refused(&token, "it was stopped").await;
    let failed = id("failed");
    assert_eq!(setup.run(&failed, &script("exit 3", [])).await, exited(3));

    let fake = setup.fake_agent();
    let allocs = fake.allocations();
    let alloc = allocs.last().expect("an allocation")["ID"].as_str().expect("an ID");
    refused(&fake.signer().sign(&fake.claims(alloc)), "it ended otherwise").await;
    assert_eq!(setup.state(&failed).await, exited(3));
}

/// The server that was told does not drive the run; the one that does looks for itself, and needs
/// no token.
#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_another_server_passes_on_counts_alike() {
    let (setup, _dir) = fake().await;
    let (task, _) = running_with_token(&setup, "task").await;
    let mut watcher = Watcher::of(setup.scheduler()).await;
    setup.scheduler().accept_forwarded_end(&task, OK).await.expect("reported");
    assert_eq!((setup.state(&task).await, watcher.end_of(&task).await), (exited(0), exited(0)));
    setup.scheduler().accept_forwarded_end(&task, OK).await.expect("the same again");

    let refused = async |id: &ExecutionId, end| {
        setup.scheduler().accept_forwarded_end(id, end).await.expect_err("refused").kind
    };

    assert_eq!(
        refused(&task, ReportedEnd { code: 1, signal: None, times: ExecutionTimes::UNKNOWN }).await,
        ErrorKind::Invalid
    );
    assert_eq!(refused(&id("unknown"), OK).await, ErrorKind::NotFound);

    let (stopped, _) = running_with_token(&setup, "stopped").await;
    setup.scheduler().stop(&stopped, SHORT).await.expect("stop");
    assert_eq!(refused(&stopped, OK).await, ErrorKind::Invalid);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_supervised_task_may_tell_its_end() {
    let setup = Setup::on_fake(FakeNomad::start().await, |config| config.identity = true).await;
    let (task, token) = running_with_token(&setup, "task").await;
    let error =
        setup.scheduler().report_end(&token.as_str().into(), OK).await.expect_err("no supervisor");
    assert_eq!(error.kind, ErrorKind::Invalid);
    assert_eq!(setup.state(&task).await, ExecutionState::Running);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_forgets_a_report_and_nomads_word_comes() {
    let (mut setup, _dir) = fake().await;
    let (task, token) = running_with_token(&setup, "task").await;
    setup
        .scheduler()
        .report_end(
            &token.as_str().into(),
            ReportedEnd { code: 7, signal: None, times: ExecutionTimes::UNKNOWN },
        )
        .await
        .expect("report");
    assert_eq!(setup.state(&task).await, exited(7));
    gofer_conformance::Harness::restart(&mut setup).await;
    assert_eq!(setup.state(&task).await, ExecutionState::Running);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shell_that_finds_no_program_is_no_missing_program() {
    let (setup, _dir) = fake().await;
    assert_eq!(setup.run(&id("task"), &script("exit 127", [])).await, exited(127));
    let left =
        "echo '{\"failed\":\"no such program\"}' >$NOMAD_ALLOC_DIR/gofer-exit.json; exit 127";
    let ended = setup.run(&id("other"), &script(left, [])).await;
    let expected = ExecutionState::Failed {
        kind: FailureKind::CommandNotFound,
        message: "no such program".to_owned(),
    };
    assert_eq!(ended, expected);
}
