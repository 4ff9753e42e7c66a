//! Secret values: whole in the task, and nowhere else.

use std::time::Duration;

use gofer_conformance::eventually;
use gofer_conformance::scheduler::Workloads;
use gofer_core::scheduler::{EnvValue, ExecutionSpec, ExecutionState, FailureKind, Scheduler};
use serde_json::Value;

use crate::agent::Agent;
use crate::cases::identities::running_with_token;
use crate::fake::{Action, FakeNomad, When};
use crate::support::{SHORT, Setup, exited, id, image, script};

const CANARY: &str = "canary-5f0c2e";

/// The spec with a secret of one line and one of several.
fn with_secrets(mut spec: ExecutionSpec) -> ExecutionSpec {
    let key = format!(
        "-----BEGIN {CANARY}-----\n\tone \\n \"two\" 'three' $HOME ${{x}} \
         {{{{y}}}}\n\n-----END-----\n"
    );
    for (name, value) in [("TOKEN", CANARY.to_owned()), ("KEY", key)] {
        spec.env.insert(name.to_owned(), EnvValue::Secret(value.into()));
    }
    spec
}

fn value(spec: &ExecutionSpec, name: &str) -> String {
    match &spec.env[name] {
        EnvValue::Secret(value) => secrecy::ExposeSecret::expose_secret(value).to_owned(),
        EnvValue::Plain(value) => value.clone(),
    }
}

async fn arrives(setup: &Setup) {
    for name in ["TOKEN", "KEY"] {
        let task = id(&name.to_lowercase());
        let spec = with_secrets(script(&format!("printf %s \"${name}\""), []));
        assert_eq!(setup.run(&task, &spec).await, exited(0));
        assert_eq!(
            String::from_utf8(setup.stdout(&task, true).await).expect("text"),
            value(&spec, name)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_of_several_lines_arrives_whole() {
    arrives(&Setup::fake().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_of_several_lines_arrives_whole_on_a_real_agent() {
    let Some(agent) = Agent::find("a_secret_of_several_lines on a real agent") else { return };
    arrives(&Setup::real(&agent, |_| {}).await).await;
}

/// A task with an image has no shell to help it.
#[tokio::test(flavor = "multi_thread")]
async fn secrets_of_a_task_with_an_image_arrive_without_a_shell() {
    let setup = Setup::fake().await;
    let mut spec = with_secrets(image("good:1", ""));
    spec.command = ["printenv", "TOKEN"].map(str::to_owned).to_vec();
    assert_eq!(setup.run(&id("task"), &spec).await, exited(0));
    assert_eq!(setup.stdout(&id("task"), true).await, format!("{CANARY}\n").as_bytes());
    let job = setup.fake_agent().jobs().remove(0);
    assert_eq!(
        job["TaskGroups"][0]["Tasks"][0]["Config"]["command"], "printenv",
        "the command is as it was given"
    );
}

/// What the task itself sees of files with its secrets that others may read.
async fn started(setup: &Setup) -> String {
    let text = "find \"$NOMAD_SECRETS_DIR\" -type f ! -empty -perm /o=r; echo ready";
    let task = id("task");
    setup.start(&task, &with_secrets(script(text, []))).await;
    eventually("it has written", async || {
        let output = String::from_utf8(setup.stdout(&task, false).await).expect("text");
        if output.contains("ready") { Ok(output) } else { Err(output) }
    })
    .await
}

/// No process names the value where every user of the machine can see it.
fn no_process_shows_it() {
    for entry in std::fs::read_dir("/proc").expect("processes").flatten() {
        // Of a process that ended meanwhile there is nothing to see.
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        assert!(!line.contains(CANARY), "process {}: {line}", entry.path().display());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_in_no_job_version_evaluation_allocation_or_event() {
    let setup = Setup::fake().await;
    let seen = started(&setup).await;
    assert_eq!(seen, "ready\n", "files with secrets that others may read");
    assert_eq!(setup.ended(&id("task")).await, exited(0));
    setup.start(&id("waits"), &with_secrets(setup.workloads.until_stopped())).await;
    setup.running(&id("waits")).await;
    no_process_shows_it();
    assert!(!setup.fake_agent().variables().is_empty(), "it must be somewhere");
    assert!(!setup.fake_agent().dump().contains(CANARY));
    assert!(!format!("{:?}", setup.scheduler()).contains(CANARY));
    setup.scheduler().stop(&id("waits"), SHORT).await.expect("stop");
    assert_eq!(setup.ended(&id("waits")).await, ExecutionState::Stopped);
    assert!(!setup.fake_agent().dump().contains(CANARY));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_in_no_job_version_evaluation_allocation_or_event_on_a_real_agent() {
    let Some(agent) = Agent::find("a_secret_is_in_no_job on a real agent") else { return };
    let setup = Setup::real(&agent, |_| {}).await;
    no_secret_shows(&agent, &setup, &[CANARY]).await;
}

/// The token that Nomad signs for the task is one more.
#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_in_no_job_with_identities_on_a_real_agent() {
    let Some(agent) = Agent::find("a_secret_is_in_no_job with identities on a real agent") else {
        return;
    };
    let setup = Setup::real(&agent, |config| config.identity = true).await;
    let (task, token) = running_with_token(&setup, "token").await;
    let signature = token.rsplit('.').next().expect("a signature");
    no_secret_shows(&agent, &setup, &[CANARY, signature]).await;
    setup.scheduler().stop(&task, Duration::ZERO).await.expect("stop");
    setup.ended(&task).await;
    nothing_shows(&agent, &setup.config.job_prefix, &[CANARY, signature]).await;
}

async fn no_secret_shows(agent: &Agent, setup: &Setup, secrets: &[&str]) {
    let seen = started(setup).await;
    assert_eq!(seen, "ready\n", "files with secrets that others may read");
    setup.start(&id("waits"), &with_secrets(setup.workloads.until_stopped())).await;
    setup.running(&id("waits")).await;
    no_process_shows_it();
    let prefix = &setup.config.job_prefix;
    let variables = agent.get(&format!("/v1/vars?prefix=nomad/jobs/{prefix}")).await;
    assert!(variables.as_array().is_some_and(|all| !all.is_empty()), "it must be somewhere");
    nothing_shows(agent, prefix, secrets).await;
    setup.scheduler().stop(&id("waits"), Duration::ZERO).await.expect("stop");
    setup.ended(&id("waits")).await;
    nothing_shows(agent, prefix, secrets).await;
    assert!(!format!("{:?}", setup.scheduler()).contains(CANARY));
}

async fn nothing_shows(agent: &Agent, prefix: &str, secrets: &[&str]) {
    let mut texts = Vec::new();
    let jobs = agent.get(&format!("/v1/jobs?prefix={prefix}&meta=true")).await;
    let id_of = |value: &Value| value["ID"].as_str().expect("an ID").to_owned();
    assert!(!jobs.as_array().expect("a list").is_empty());

    for job in jobs.as_array().expect("a list") {
        let path = format!("/v1/job/{}", id_of(job));
        for rest in ["", "/versions", "/evaluations", "/allocations"] {
            texts.push((
                format!("{path}{rest}"),
                agent.get(&format!("{path}{rest}")).await.to_string(),
            ));
        }

        for alloc in agent.get(&format!("{path}/allocations")).await.as_array().expect("a list") {
            let path = format!("/v1/allocation/{}", id_of(alloc));
            texts.push((path.clone(), agent.get(&path).await.to_string()));
        }
    }

    let events = agent.events(Duration::from_secs(2)).await;
    assert!(events.contains(prefix), "the stream told of the jobs");
    texts.push(("the event stream".to_owned(), events));

    for (place, text) in texts {
        assert!(!secrets.iter().any(|secret| text.contains(secret)), "{place} shows it");
    }
}

async fn no_variable_is_left(setup: &Setup) {
    eventually("no variable is left", async || {
        let left = setup.fake_agent().variables();
        if left.is_empty() { Ok(()) } else { Err(left.join(", ")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_variable_goes_when_the_execution_ends_however_it_does() {
    let setup = Setup::fake().await;
    // The stream is open: what ends before that is known only when somebody asks.
    let _watch = setup.scheduler().watch().await.expect("watch");
    setup.run(&id("exits"), &with_secrets(setup.workloads.exit(3))).await;
    setup.run(&id("fails"), &with_secrets(setup.workloads.command_not_found())).await;
    no_variable_is_left(&setup).await;
    setup.start(&id("stopped"), &with_secrets(setup.workloads.until_stopped())).await;
    setup.running(&id("stopped")).await;
    setup.scheduler().stop(&id("stopped"), SHORT).await.expect("stop");
    setup.ended(&id("stopped")).await;
    no_variable_is_left(&setup).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_variable_goes_with_an_execution_that_ended_while_no_server_was_there() {
    let mut setup = Setup::fake().await;
    setup.start(&id("task"), &with_secrets(setup.workloads.gated(b"", "gate", b""))).await;
    setup.running(&id("task")).await;
    setup.scheduler = None;
    setup.workloads.release("gate").await;
    setup.fake_agent().allocation("it ends", |alloc| alloc["ClientStatus"] == "complete").await;
    gofer_conformance::Harness::restart(&mut setup).await;
    assert_eq!(setup.ended(&id("task")).await, exited(0));
    setup.scheduler().remove(&id("task")).await.expect("remove");
    no_variable_is_left(&setup).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_of_an_execution_that_nomad_refuses() {
    let fake = FakeNomad::start().await;
    let refusal = "1 error occurred:\n\t* Task group g validation failed: no\n\n";
    fake.on(When { method: "PUT", path: "/v1/jobs" }, 1, Action::Refuse(500, refusal));
    let setup = Setup::on_fake(fake, |_| {}).await;
    match setup.run(&id("task"), &with_secrets(setup.workloads.exit(0))).await {
        ExecutionState::Failed { kind: FailureKind::Refused, message } => {
            assert!(
                message.contains("validation failed") && !message.contains(CANARY),
                "{message}"
            );
        }
        other => panic!("{other:?}"),
    }
    no_variable_is_left(&setup).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_that_fit_no_variable_are_refused_by_name() {
    let setup = Setup::fake().await;
    let mut spec = setup.workloads.exit(0);
    spec.env.insert("HUGE".to_owned(), EnvValue::Secret("x".repeat(300_000).into()));
    match setup.run(&id("task"), &spec).await {
        ExecutionState::Failed { kind: FailureKind::Refused, message } => {
            assert!(message.contains("`HUGE`"), "{message}")
        }
        other => panic!("{other:?}"),
    }
    no_variable_is_left(&setup).await;
}
