//! Registering, when the answer does not come.

use std::time::Duration;

use gofer_conformance::eventually;
use gofer_conformance::scheduler::Workloads;
use gofer_core::scheduler::{ExecutionState, Scheduler};

use crate::agent::Agent;
use crate::fake::{Action, FakeNomad, When};
use crate::proxy::Proxy;
use crate::support::{Setup, exited, id};

const REGISTER: When = When { method: "PUT", path: "/v1/jobs" };
const ANY: When = When { method: "", path: "/v1/" };

#[tokio::test(flavor = "multi_thread")]
async fn case_01_a_registration_without_an_answer_is_one_run() {
    for action in [Action::CutAfterCommit, Action::RefuseAfterCommit(500, "No cluster leader")] {
        let setup = Setup::fake().await;
        setup.fake_agent().on(REGISTER, 1, action);
        assert_eq!(setup.run(&id("task"), &setup.workloads.mark("run", 0)).await, exited(0));
        assert_eq!(setup.fake_agent().count("PUT /v1/jobs"), 2, "not tried again");
        assert_eq!(setup.fake_agent().jobs().len(), 1);
        assert_eq!(setup.workloads.marks("run").await, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn case_01_a_registration_that_times_out_after_commit_is_one_run() {
    let fake = FakeNomad::start().await;
    fake.on(REGISTER, 1, Action::Late(Duration::from_secs(60)));
    let setup =
        Setup::on_fake(fake, |config| config.request_timeout = Duration::from_secs(2)).await;
    let spec = setup.workloads.mark("run", 0);
    let error = setup.scheduler().start(&id("task"), &spec).await.expect_err("the answer is late");
    assert!(error.kind.is_retryable(), "{error}");
    setup.start(&id("task"), &spec).await;
    assert_eq!(setup.ended(&id("task")).await, exited(0));
    assert_eq!(setup.fake_agent().jobs().len(), 1);
    assert_eq!(setup.workloads.marks("run").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn case_12_429_and_bare_closes_are_waited_out() {
    const TOO_MANY: &str =
        "Your IP is issuing too many concurrent connections, please rate limit your calls\n";
    let setup = Setup::fake().await;
    let spec = setup.workloads.mark("run", 0);
    for action in [Action::Refuse(429, TOO_MANY), Action::Cut] {
        setup.fake_agent().on(ANY, 3, action);
        let task = id(&format!("task-{}", setup.workloads.marks("run").await));
        setup.start(&task, &spec).await;
        assert_eq!(setup.ended(&task).await, exited(0));
    }
    assert_eq!(setup.workloads.marks("run").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn case_12_bare_closes_are_waited_out_on_a_real_agent() {
    let Some(agent) = Agent::find("case_12 on a real agent") else { return };
    let proxy = Proxy::to(&agent.address).await;
    let setup = Setup::real(&agent, |config| config.addresses = vec![proxy.address()]).await;
    for index in 0..4 {
        proxy.refuse(2);
        let task = id(&format!("task-{index}"));
        assert_eq!(setup.run(&task, &setup.workloads.mark("run", 0)).await, exited(0));
    }
    assert_eq!(setup.workloads.marks("run").await, 4);
}

/// As the engine does it: whatever fails with a retryable error is tried again.
#[tokio::test(flavor = "multi_thread")]
async fn case_13_no_leader_during_a_dag_costs_time_and_nothing_else() {
    let setup = Setup::fake().await;
    let (first, second, third) = (id("first"), id("second"), id("third"));
    setup.start(&first, &setup.workloads.gated(b"first", "gate", b"")).await;
    setup.running(&first).await;
    setup.fake_agent().set_leader(false);
    setup.workloads.release("gate").await;

    // Clients go on without servers that agree.
    setup
        .fake_agent()
        .allocation("the first ends", |alloc| alloc["ClientStatus"] == "complete")
        .await;

    let error = setup.scheduler().state(&first).await.expect_err("there is no leader");
    assert!(error.kind.is_retryable() && error.message.contains("No cluster leader"), "{error}");
    let error = setup
        .scheduler()
        .start(&second, &setup.workloads.mark("run", 0))
        .await
        .expect_err("no leader");

    assert!(error.kind.is_retryable(), "{error}");
    setup.fake_agent().set_leader(true);
    assert_eq!(setup.ended(&first).await, exited(0));

    for task in [&second, &third] {
        eventually(&format!("`{task}` is started"), async || {
            setup
                .scheduler()
                .start(task, &setup.workloads.mark("run", 0))
                .await
                .map_err(|error| error.to_string())
        })
        .await;
        assert_eq!(setup.ended(task).await, exited(0));
    }

    assert_eq!(setup.workloads.marks("run").await, 2);
    assert_eq!(setup.state(&id("other")).await, ExecutionState::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_agent_is_asked_when_one_is_away() {
    let away = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let nobody = format!("http://{}", away.local_addr().expect("an address"));
    drop(away);
    let fake = FakeNomad::start().await;
    let address = fake.address();
    let setup = Setup::on_fake(fake, |config| config.addresses = vec![nobody, address]).await;
    assert_eq!(setup.run(&id("task"), &setup.workloads.exit(0)).await, exited(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_restarts_is_waited_for() {
    let setup = Setup::fake().await;
    let task = id("task");
    setup.start(&task, &setup.workloads.gated(b"before ", "gate", b"after")).await;
    setup.running(&task).await;
    setup.fake_agent().stop_listening();
    let error = setup.scheduler().state(&task).await.expect_err("nobody listens");
    assert!(error.kind.is_retryable(), "{error}");
    setup.workloads.release("gate").await;
    setup.fake_agent().listen_again().await;
    assert_eq!(setup.ended(&task).await, exited(0));
    assert_eq!(setup.stdout(&task, true).await, b"before after");
}
