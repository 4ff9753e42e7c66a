//! Commands in running tasks that Nomad does not let in at once.

use futures::StreamExt;
use gofer_conformance::scheduler::Workloads;
use gofer_core::ErrorKind;
use gofer_core::scheduler::{ExecOutput, ExecRequest, ExecSession, ExecSupport};

use crate::support::{Setup, id};

fn echo() -> ExecRequest {
    ExecRequest { command: ["echo", "in"].map(str::to_owned).to_vec(), terminal: None }
}

/// Nomad says that a task runs a moment before its node knows of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_behind_is_waited_for() {
    let setup = Setup::fake().await;
    setup.start(&id("task"), &setup.workloads.gated(b"", "gate", b"")).await;
    setup.running(&id("task")).await;
    setup.fake_agent().faults(|faults| faults.not_started = 2);

    let ExecSession { input, output } =
        setup.scheduler().open_session(&id("task"), echo()).await.expect("exec");
    let said: Vec<ExecOutput> = output.map(|piece| piece.expect("a piece")).collect().await;
    assert_eq!(said, [ExecOutput::Stdout("in\n".into()), ExecOutput::Exited(0)]);
    assert_eq!(setup.fake_agent().faults(|faults| faults.not_started), 0);
    drop(input);
    setup.fake_agent().faults(|faults| faults.not_started = usize::MAX);

    let error =
        setup.scheduler().open_session(&id("task"), echo()).await.expect_err("it never starts");
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("not started"), "{error}");
    setup.workloads.release("gate").await;
    setup.ended(&id("task")).await;
}
