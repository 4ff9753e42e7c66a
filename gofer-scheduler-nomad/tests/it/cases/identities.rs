//! Tokens that Nomad signs for tasks, and which execution each of them names.

use std::time::Duration;

use gofer_conformance::eventually;
use gofer_conformance::scheduler::host_command;
use gofer_core::scheduler::{EnvValue, ExecutionSpec, ExecutionState, Scheduler, WorkloadIdentity};
use gofer_core::{ErrorKind, ExecutionId};
use gofer_scheduler_nomad::{HostDriver, NomadConfig};
use serde_json::{Value, json};

use crate::agent::{self, Agent};
use crate::fake::{FakeNomad, Signer};
use crate::support::{SHORT, Setup, id, script};

async fn fake() -> Setup {
    Setup::on_fake(FakeNomad::start().await, |config| config.identity = true).await
}

/// Starts an execution that writes its token and waits to be stopped.
pub(crate) async fn running_with_token(setup: &Setup, name: &str) -> (ExecutionId, String) {
    token_of(setup, name, &writes_its_token()).await
}

fn writes_its_token() -> ExecutionSpec {
    script("printf %s \"$GOFER_API_TOKEN\"; exec sleep 600", [])
}

async fn token_of(setup: &Setup, name: &str, spec: &ExecutionSpec) -> (ExecutionId, String) {
    let task = id(name);
    setup.start(&task, spec).await;
    setup.running(&task).await;
    let token = eventually("the task has written its token", async || {
        let text = String::from_utf8(setup.stdout(&task, false).await).expect("text");
        if text.matches('.').count() == 2 { Ok(text) } else { Err(text) }
    })
    .await;
    (task, token)
}

async fn refused(setup: &Setup, token: &str, reason: &str) {
    let error = setup.scheduler().identify(&token.into()).await.expect_err(reason);
    assert_eq!(error.kind, ErrorKind::NotFound, "{reason}: {}", error.chain());
    assert!(error.message.contains(reason), "{reason}: {}", error.message);
    assert!(!error.chain().contains(token), "the token is in the message");
}

async fn a_task_is_known_by_its_token(setup: Setup, spec: ExecutionSpec) {
    assert!(setup.scheduler().identities().is_some());
    let (task, token) = token_of(&setup, "task", &spec).await;
    assert_eq!(setup.scheduler().identify(&token.as_str().into()).await.expect("identify"), task);
    setup.scheduler().stop(&task, SHORT).await.expect("stop");
    setup.ended(&task).await;
    refused(&setup, &token, "is over").await;
    setup.scheduler().remove(&task).await.expect("remove");
    refused(&setup, &token, "not an execution of this gofer any more").await;
    refused(&setup, "a.b.c", "not a token of nomad's").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_known_by_its_token_on_the_fake() {
    a_task_is_known_by_its_token(fake().await, writes_its_token()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_known_by_its_token_on_a_real_agent() {
    let Some(agent) = Agent::find("a_task_is_known_by_its_token on a real agent") else { return };
    let setup = Setup::real(&agent, |config| config.identity = true).await;
    let said = setup.scheduler().check().await.expect("check");
    assert!(said.starts_with("nomad "), "{said}");
    a_task_is_known_by_its_token(setup, writes_its_token()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_known_by_its_token_with_exec_on_a_real_agent() {
    let Some(agent) = Agent::with_driver("a_task_is_known_by_its_token with exec", "exec").await
    else {
        return;
    };
    let adjust = |config: &mut NomadConfig| {
        config.identity = true;
        config.host_driver = HostDriver::Exec;
    };
    a_task_is_known_by_its_token(Setup::real(&agent, adjust).await, writes_its_token()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_known_by_its_token_with_docker_on_a_real_agent() {
    const TEST: &str = "a_task_is_known_by_its_token with docker";
    let Some(agent) = Agent::with_driver(TEST, "docker").await else { return };
    let Some(image) = agent::image(TEST) else { return };
    let spec = ExecutionSpec { image: Some(image), ..writes_its_token() };
    a_task_is_known_by_its_token(Setup::real(&agent, |config| config.identity = true).await, spec)
        .await;
}

/// Beside a task of this scheduler, another Gofer's task in the same cluster.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_another_gofer_is_refused_on_a_real_agent() {
    let Some(agent) = Agent::find("a_token_of_another_gofer_is_refused on a real agent") else {
        return;
    };
    let (mine, other) = (
        Setup::real(&agent, |config| config.identity = true).await,
        Setup::real(&agent, |config| config.identity = true).await,
    );
    let (task, token) = running_with_token(&other, "task").await;
    refused(&mine, &token, "not valid: InvalidAudience").await;
    other.scheduler().stop(&task, SHORT).await.expect("stop");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_nomad_signed_for_this_very_task_is_believed() {
    let setup = fake().await;
    let (task, token) = running_with_token(&setup, "task").await;
    let fake = setup.fake_agent();
    let alloc = fake.allocations()[0]["ID"].as_str().expect("an ID").to_owned();
    let good = fake.claims(&alloc);
    let with = |change: fn(&mut Value)| {
        let mut claims = good.clone();
        change(&mut claims);
        fake.signer().sign(&claims)
    };

    assert_eq!(
        setup.scheduler().identify(&with(|_| {}).as_str().into()).await.expect("identify"),
        task
    );

    type Case = (fn(&mut Value), &'static str);

    let cases: [Case; 9] = [
        (|claims| claims["exp"] = json!(1_000_000_000), "ExpiredSignature"),
        (
            |claims| drop(claims.as_object_mut().expect("a map").remove("exp")),
            "Missing required claim: exp",
        ),
        (|claims| claims["nbf"] = json!(9_000_000_000_u64), "ImmatureSignature"),
        (|claims| claims["aud"] = json!(["vault.io"]), "InvalidAudience"),
        (|claims| claims["nomad_task"] = json!("sidecar"), "not of an execution"),
        (|claims| claims["nomad_namespace"] = json!("other"), "not of an execution"),
        (|claims| claims["nomad_job_id"] = json!("web"), "not of an execution"),
        (
            |claims| {
                claims["nomad_job_id"] =
                    json!(format!("{}x", claims["nomad_job_id"].as_str().expect("an ID")))
            },
            "not an execution of this gofer any more",
        ),
        (|claims| claims["nomad_allocation_id"] = json!("another"), "not the one that is"),
    ];

    for (change, reason) in cases {
        refused(&setup, &with(change), reason).await;
    }

    let (head, signature) = token.rsplit_once('.').expect("three parts");
    let (header, _) = head.split_once('.').expect("three parts");
    let other = with(|claims| claims["nomad_job_id"] = json!("gofer-other"));
    let payload = other.split('.').nth(1).expect("a payload");
    refused(&setup, &format!("{header}.{payload}.{signature}"), "InvalidSignature").await;
    refused(&setup, &fake.signer().impostor().sign(&good), "InvalidSignature").await;

    // Unknown keys are asked for, and not at every token.
    let asked = || fake.requests().iter().filter(|line| line.contains("jwks.json")).count();
    let before = asked();
    for _ in 0..5 {
        refused(&setup, &Signer::new().sign(&good), "a key that nomad does not have").await;
    }

    assert!(asked() <= before + 1, "{} questions", asked());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_of_a_fenced_allocation_is_refused() {
    let fake = FakeNomad::start().await;
    fake.add_node("node-2", &["raw_exec"], 64 * 1024);
    let adjust = |config: &mut gofer_scheduler_nomad::NomadConfig| {
        config.identity = true;
        config.node_lost_after = Duration::from_secs(3_600);
    };

    let setup = Setup::on_fake(fake, adjust).await;
    let (task, token) = running_with_token(&setup, "task").await;
    let fake = setup.fake_agent();
    let first = fake.allocation("it runs", |alloc| alloc["ClientStatus"] == "running").await;
    let node = first["NodeID"].as_str().expect("a node").to_owned();
    fake.node_down(&node);
    fake.expire_disconnect(&node);

    let second = fake
        .allocation("Nomad replaces it", |alloc| alloc["PreviousAllocation"] == first["ID"])
        .await;
    assert_eq!(setup.ended(&task).await, ExecutionState::Lost);
    refused(&setup, &token, "is over").await;

    let replacement = fake.signer().sign(&fake.claims(second["ID"].as_str().expect("an ID")));
    refused(&setup, &replacement, "not the one that is").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_without_secrets_needs_no_variable() {
    let setup = fake().await;
    let mut spec =
        host_command(["/bin/sh", "-c", "test -n \"$GOFER_API_TOKEN\" && test \"$A\" = b"]);
    spec.env.insert("A".into(), EnvValue::Plain("b".into()));
    assert_eq!(setup.run(&id("task"), &spec).await, crate::support::exited(0));
    let written = setup
        .fake_agent()
        .requests()
        .into_iter()
        .filter(|line| line.starts_with("PUT /v1/var/"))
        .count();
    assert_eq!(written, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_identities_no_token_is_believed() {
    let setup = Setup::fake().await;
    assert!(setup.scheduler().identities().is_none());
    refused(&setup, "a.b.c", "`scheduler.nomad.identity` is off").await;
}
