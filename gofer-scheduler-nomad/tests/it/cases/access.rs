//! Tokens that are refused.

use std::path::Path;

use futures::StreamExt;
use gofer_conformance::scheduler::Workloads;
use gofer_conformance::{eventually, within};
use gofer_core::ErrorKind;
use gofer_core::scheduler::Scheduler;
use gofer_scheduler_nomad::NomadConfig;
use reqwest::Method;

use super::Watcher;
use crate::acl;
use crate::agent::{Agent, skip};
use crate::fake::{FakeNomad, Token};
use crate::support::{Setup, exited, id};

/// Settings with the token in a file.
fn in_file(config: &mut NomadConfig, file: &Path, token: &str) {
    std::fs::write(file, format!("{token}\n")).expect("write the token");
    (config.token, config.token_file) = (None, Some(file.to_owned()));
}

/// From the moment a token is revoked until another one is in the file.
async fn revoked(setup: &Setup, revoke: impl AsyncFnOnce(), file: &Path, old: &str, new: &str) {
    let task = id("task");
    let mut stream = setup.scheduler().watch().await.expect("watch");
    setup.start(&task, &setup.workloads.gated(b"", "gate", b"")).await;
    setup.running(&task).await;
    revoke().await;

    let told = within("the watcher is told of the refusal", async {
        loop {
            match stream.next().await {
                Some(Ok(event)) => assert!(!event.state.is_final(), "{event:?}"),
                Some(Err(error)) => return Some(error),
                None => return None,
            }
        }
    })
    .await;

    assert!(told.is_none_or(|error| error.kind == ErrorKind::Denied));
    let error = setup.scheduler().state(&task).await.expect_err("the token was revoked");
    assert_eq!(error.kind, ErrorKind::Denied, "{error}");
    assert!(!error.chain().contains(old), "{}", error.chain());
    std::fs::write(file, format!("{new}\n")).expect("write the new token");
    setup.running(&task).await;

    let mut watcher = eventually("the stream is open again", async || {
        setup.scheduler().watch().await.map_err(|error| error.to_string()).map(drop)?;
        Ok(Watcher::of(setup.scheduler()).await)
    })
    .await;
    setup.workloads.release("gate").await;
    assert_eq!(watcher.end_of(&task).await, exited(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn case_14_a_revoked_token_is_an_alarm_and_no_failure_of_a_task() {
    let fake = FakeNomad::start().await;
    fake.set_token("first", Token::Management);
    fake.set_token("second", Token::Management);
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("token");
    let setup = Setup::on_fake(fake, |config| in_file(config, &file, "first")).await;
    revoked(&setup, async || setup.fake_agent().revoke_token("first"), &file, "first", "second")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn case_14_a_revoked_token_is_an_alarm_on_a_real_agent() {
    let Some(agent) = Agent::find("case_14 on a real agent") else { return };
    if agent.root_token.is_empty() {
        skip("case_14 on a real agent", "GOFER_TEST_NOMAD_ROOT_TOKEN is not set");
        return;
    }

    let token = acl::token(&agent, "gofer-test-case-14", &acl::policy()).await;
    let text = |field: &str| token[field].as_str().expect("text").to_owned();
    let (secret, path) = (text("SecretID"), format!("/v1/acl/token/{}", text("AccessorID")));
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("token");
    let setup = Setup::real(&agent, |config| in_file(config, &file, &secret)).await;
    let revoke = async || {
        let (status, answer) = agent.call(Method::DELETE, &path, None).await.expect("a call");
        assert!(status < 300, "{status} {answer}");
    };

    revoked(&setup, revoke, &file, &secret, &agent.token).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_says_what_the_token_lacks() {
    let fake = FakeNomad::start().await;
    let all = [
        "list-jobs",
        "read-job",
        "submit-job",
        "parse-job",
        "read-fs",
        "alloc-lifecycle",
        "agent:read",
        "node:read",
        "variables:write",
        "variables:read",
        "variables:destroy",
        "variables:list",
    ];

    fake.set_token("root", Token::Management);
    let allowed = |without: &str| {
        Token::Client(
            all.iter().filter(|has| **has != without).map(|has| (*has).to_owned()).collect(),
        )
    };

    fake.set_token("gofer", allowed(""));
    let setup = Setup::on_fake(fake, |config| config.token = Some("gofer".to_owned().into())).await;
    let found = setup.scheduler().check().await.expect("check");
    assert!(found.contains("2.0.5") && found.contains("raw_exec on 1 of 1"), "{found}");

    for needed in ["list-jobs", "submit-job", "variables:write", "variables:destroy"] {
        setup.fake_agent().set_token("gofer", allowed(needed));
        let error = setup.scheduler().check().await.expect_err(needed);
        assert_eq!(error.kind, ErrorKind::Denied, "without {needed}: {error}");
        assert!(error.message.contains("gofer-policy.hcl"), "{error}");
    }

    setup.fake_agent().revoke_token("gofer");
    let error = setup.scheduler().check().await.expect_err("no token");
    assert_eq!(error.kind, ErrorKind::Denied, "{error}");
}
