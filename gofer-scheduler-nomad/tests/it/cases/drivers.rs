//! The drivers exec and docker of a real agent. What they do is Nomad's; that a spec reaches them is not.

use std::time::Duration;

use gofer_core::scheduler::{EnvValue, ExecutionSpec, ExecutionState, FailureKind, Scheduler};
use gofer_scheduler_nomad::{HostDriver, NomadConfig};

use crate::agent::{Agent, skip};
use crate::support::{Setup, exited, id, image, script};

/// Ends, prints a secret of several lines, is stopped.
async fn lives(setup: &Setup, spec: impl Fn(&str) -> ExecutionSpec) {
    const SECRET: &str = "one\n\t\"two\" $HOME ${x} \\n\n";
    assert_eq!(setup.run(&id("exits"), &spec("exit 3")).await, exited(3));
    let mut secret = spec("printf '%s|%s' \"$SECRET\" \"$PLAIN\"");
    secret.env.insert("SECRET".to_owned(), EnvValue::Secret(SECRET.into()));
    secret.env.insert("PLAIN".to_owned(), EnvValue::Plain("${NOMAD_ALLOC_ID}".to_owned()));
    assert_eq!(setup.run(&id("secret"), &secret).await, exited(0));
    let output = String::from_utf8(setup.stdout(&id("secret"), true).await).expect("text");
    assert_eq!(output, format!("{SECRET}|${{NOMAD_ALLOC_ID}}"));
    for (name, text, grace) in [
        ("asked", "trap 'echo asked; exit 0' TERM; echo ready; while sleep 0.1; do :; done", 20_u64),
        ("killed", "trap '' TERM; echo ready; while sleep 0.1; do :; done", 0),
    ] {
        setup.start(&id(name), &spec(text)).await;
        setup.running(&id(name)).await;
        gofer_core::conformance::eventually("it has written", async || {
            let output = setup.stdout(&id(name), false).await;
            if output == b"ready\n" { Ok(()) } else { Err(format!("{output:?}")) }
        })
        .await;
        setup.scheduler().stop(&id(name), Duration::from_secs(grace)).await.expect("stop");
        assert_eq!(setup.ended(&id(name)).await, ExecutionState::Stopped);
    }
    assert_eq!(setup.stdout(&id("asked"), true).await, b"ready\nasked\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_runs_what_it_is_given_on_a_real_agent() {
    let Some(agent) = Agent::with_driver("exec on a real agent", "exec").await else { return };
    let setup = Setup::real(&agent, |config| config.host_driver = HostDriver::Exec).await;
    lives(&setup, |text| script(text, [])).await;
    let mut missing = script("", []);
    missing.command = vec!["gofer-no-such-command".to_owned()];
    match setup.run(&id("missing"), &missing).await {
        ExecutionState::Failed { kind: FailureKind::CommandNotFound, message } => {
            assert!(message.contains("gofer-no-such-command"), "{message}");
        }
        other => panic!("{other:?}"),
    }
    let mut huge = script("printf %s \"$HUGE\"", []);
    let value = "x".repeat(70_000);
    huge.env.insert("HUGE".to_owned(), EnvValue::Secret(value.clone().into()));
    assert_eq!(setup.run(&id("huge"), &huge).await, exited(0), "a secret that no line of variables holds");
    assert_eq!(setup.stdout(&id("huge"), true).await, value.as_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_runs_what_it_is_given_on_a_real_agent() {
    let Some(agent) = Agent::with_driver("docker on a real agent", "docker").await else { return };
    let named = std::env::var("GOFER_TEST_NOMAD_IMAGE").ok().filter(|name| !name.is_empty());
    let Some(name) = named else {
        skip("docker on a real agent", "GOFER_TEST_NOMAD_IMAGE names no image with a shell");
        return;
    };
    let setup = Setup::real(&agent, |_: &mut NomadConfig| {}).await;
    lives(&setup, |text| image(&name, text)).await;
    let mut limited = image(&name, "x=x; while :; do x=$x$x; done");
    limited.resources.memory_bytes = Some(32 * 1024 * 1024);
    match setup.run(&id("memory"), &limited).await {
        ExecutionState::Exited { code, .. } => assert_ne!(code, 0),
        other => panic!("{other:?}"),
    }
    let missing = image("127.0.0.1:1/gofer-no-such-image:1", "true");
    match setup.run(&id("image"), &missing).await {
        ExecutionState::Failed { kind: FailureKind::ImageUnavailable, message } => {
            assert!(message.contains("gofer-no-such-image"), "{message}");
        }
        other => panic!("{other:?}"),
    }
}
