//! `config/nomad/gofer-policy.hcl` is enough, and nothing in it is too much. Wants a real agent
//! with ACLs.

use std::time::Duration;

use futures::StreamExt;
use gofer_conformance::eventually;
use gofer_conformance::scheduler::Workloads;
use gofer_core::BackendError;
use gofer_core::scheduler::{EnvValue, ExecRequest, ExecSupport, LogCursor, Scheduler};
use gofer_scheduler_nomad::{NomadConfig, NomadScheduler};
use reqwest::Method;
use serde_json::{Value, json};

use crate::agent::{Agent, skip};
use crate::support::{Setup, id};

const POLICY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/nomad/gofer-policy.hcl");
/// How long something may take that needs a right and does it; far less than what happens without
/// it.
const PATIENCE: Duration = Duration::from_secs(15);

/// An agent with ACLs, or why there is none.
fn agent(test: &str) -> Option<Agent> {
    let agent = Agent::find(test)?;
    if agent.root_token.is_empty() {
        skip(test, "GOFER_TEST_NOMAD_ROOT_TOKEN is not set");
        return None;
    }
    Some(agent)
}

/// A token that these rules are for, as Nomad describes it.
pub(crate) async fn token(agent: &Agent, name: &str, rules: &str) -> Value {
    let policy = json!({"Name": name, "Description": "for a test", "Rules": rules});
    agent.put(&format!("/v1/acl/policy/{name}"), &policy).await;
    agent.put("/v1/acl/token", &json!({"Name": name, "Type": "client", "Policies": [name]})).await
}

/// The agent with a token that may besides run commands in tasks, as the policy's comments have it;
/// without ACLs, as it is.
pub(crate) async fn with_exec(agent: &Agent) -> Agent {
    if agent.root_token.is_empty() {
        return agent.clone();
    }
    let text = std::fs::read_to_string(POLICY).expect("the policy");
    let rules = text
        .replace("# \"alloc-exec\"", "\"alloc-exec\"")
        .replace("# \"alloc-node-exec\"", "\"alloc-node-exec\"");
    let token = token(agent, "gofer-test-exec", &rules).await;
    agent.with_token(token["SecretID"].as_str().expect("a secret"))
}

/// Does whatever Gofer does with Nomad; what went wrong first.
async fn everything(agent: &Agent, token: &Value) -> Result<(), String> {
    let agent = agent.with_token(token["SecretID"].as_str().expect("a secret"));
    // A stop without a grace then takes this long if it cannot send a signal.
    let setup = Setup::real(&agent, |config| config.max_grace = Duration::from_secs(120)).await;
    let outcome = tokio::time::timeout(PATIENCE * 2, steps(&setup, &agent))
        .await
        .unwrap_or(Err("it does not end".to_owned()));
    // Nothing is left running, whatever the token may not do.
    let jobs = agent.get(&format!("/v1/jobs?prefix={}", setup.config.job_prefix)).await;
    for job in jobs.as_array().into_iter().flatten() {
        let path = format!("/v1/job/{}?purge=true", job["ID"].as_str().expect("an ID"));
        agent.call(Method::DELETE, &path, None).await.expect("a call");
    }
    outcome
}

async fn steps(setup: &Setup, agent: &Agent) -> Result<(), String> {
    let failed = |error: BackendError| error.to_string();
    let scheduler = setup.scheduler();
    let found = scheduler.check().await.map_err(failed)?;
    if found.contains("lacks") {
        return Err(found);
    }

    with_template(&setup.config).await.map_err(failed)?;
    let watch = tokio::time::timeout(PATIENCE, scheduler.watch()).await.map_err(|_| "no stream")?;
    let mut watch = watch.map_err(failed)?;
    let mut spec = setup.workloads.ignoring_stop();
    spec.env.insert("SECRET".to_owned(), EnvValue::Secret("value".into()));
    scheduler.start(&id("task"), &spec).await.map_err(failed)?;
    eventually_prints(setup, |output| output == "ready\n").await?;
    scheduler.stop(&id("task"), Duration::ZERO).await.map_err(failed)?;

    let ended = async {
        while let Some(event) = watch.next().await {
            if event.map_err(failed)?.state.is_final() {
                return Ok(());
            }
        }
        Err("the stream ended".to_owned())
    };

    tokio::time::timeout(PATIENCE, ended).await.map_err(|_| "it is not killed")??;
    scheduler.remove(&id("task")).await.map_err(failed)?;
    stray_secret(setup, agent).await
}

/// What was never started may have left a secret behind; Nomad lists those alone that a token may
/// see, without a word.
async fn stray_secret(setup: &Setup, agent: &Agent) -> Result<(), String> {
    let path = format!("nomad/jobs/{}-ns-pipe-r1-other-a1", setup.config.job_prefix);
    let variable = json!({"Namespace": "default", "Path": path, "Items": {"secret": "value"}});
    agent.put(&format!("/v1/var/{path}"), &variable).await;
    setup.scheduler().remove(&id("other")).await.map_err(|error| error.to_string())?;
    let (_, left) = agent.call(Method::GET, &format!("/v1/vars?prefix={path}"), None).await?;
    if left.trim() == "[]" { Ok(()) } else { Err("a secret is left behind".to_owned()) }
}

/// Waits until the task has written something, as often as the token allows it to be asked.
async fn eventually_prints(setup: &Setup, wanted: impl Fn(&str) -> bool) -> Result<(), String> {
    let reading = async {
        loop {
            let logs = setup.scheduler().logs(&id("task"), LogCursor::default(), false).await;
            let mut logs = logs.map_err(|error| error.to_string())?;
            let mut output = Vec::new();

            while let Some(chunk) = logs.next().await {
                output.extend_from_slice(&chunk.map_err(|error| error.to_string())?.data);
            }

            if wanted(&String::from_utf8_lossy(&output)) {
                return Ok(());
            }

            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.map_err(|_| "it does not begin")?
}

async fn with_template(config: &NomadConfig) -> Result<(), BackendError> {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("task.nomad.hcl");
    let text = "job \"t\" {\n group \"g\" {\n task \"t\" {\n driver = \"raw_exec\"\n config {\n \
                command = \"true\"\n }\n }\n }\n}\n";
    std::fs::write(&path, text).expect("write the template");
    let config = NomadConfig { job_template: Some(path), ..config.clone() };
    NomadScheduler::connect(config).await.map(drop)
}

/// The rules with one right less, each time another one, and what is missing.
fn reduced(rules: &str) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for (start, _) in rules.match_indices("capabilities = [") {
        let open = start + "capabilities = [".len();
        let close = open + rules[open..].find(']').expect("the list ends");
        let words: Vec<&str> =
            rules[open..close].split(',').map(str::trim).filter(|word| !word.is_empty()).collect();

        for (index, word) in words.iter().enumerate() {
            let rest: Vec<&str> = words
                .iter()
                .enumerate()
                .filter(|(at, _)| *at != index)
                .map(|(_, word)| *word)
                .collect();
            let text = format!("{}{}{}", &rules[..open], rest.join(", "), &rules[close..]);
            all.push((word.trim_matches('"').to_owned(), text));
        }
    }

    let read = "policy = \"read\"";
    for (start, _) in rules.match_indices(read) {
        let block =
            rules[..start].lines().last().unwrap_or_default().trim().trim_end_matches('{').trim();
        let text = format!("{}policy = \"deny\"{}", &rules[..start], &rules[start + read.len()..]);
        all.push((format!("{block}:read"), text));
    }

    all
}

/// The policy without its comments.
pub(crate) fn policy() -> String {
    let text = std::fs::read_to_string(POLICY).expect("the policy");
    text.lines()
        .map(|line| line.split('#').next().unwrap_or_default())
        .collect::<Vec<_>>()
        .join("\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_policy_is_enough_on_a_real_agent() {
    let Some(agent) = agent("the_policy_is_enough") else { return };
    let token = token(&agent, "gofer-test-whole", &policy()).await;
    everything(&agent, &token).await.expect("everything works");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_in_the_policy_is_too_much_on_a_real_agent() {
    let Some(agent) = agent("nothing_in_the_policy_is_too_much") else { return };
    let reduced = reduced(&policy());
    assert!(reduced.len() >= 10, "the policy was not understood: {reduced:?}");
    let mut too_much = Vec::new();
    for (index, (missing, rules)) in reduced.into_iter().enumerate() {
        let token = token(&agent, &format!("gofer-test-{index}"), &rules).await;
        if everything(&agent, &token).await.is_ok() {
            too_much.push(missing);
        }
    }
    assert!(too_much.is_empty(), "everything works without any of {too_much:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_nomad_does_not_know_is_denied_on_a_real_agent() {
    let Some(agent) = agent("a_token_that_nomad_does_not_know") else { return };
    let unknown = "00000000-0000-0000-0000-000000000000";
    let agent = agent.with_token(unknown);
    let setup = Setup::real(&agent, |config| config.request_timeout = Duration::from_secs(5)).await;
    let error = setup.scheduler().check().await.expect_err("an unknown token");
    assert_eq!(error.kind, gofer_core::ErrorKind::Denied, "{error}");
    assert!(!error.chain().contains(unknown), "{}", error.chain());
    let error = setup.scheduler().watch().await.err().expect("an unknown token");
    assert_eq!(error.kind, gofer_core::ErrorKind::Denied, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_in_a_task_needs_rights_of_its_own_on_a_real_agent() {
    let Some(agent) = agent("a_command_in_a_task_needs_rights_of_its_own") else { return };
    let setup = Setup::real(&agent, |_| {}).await;
    let scheduler = setup.scheduler();
    scheduler.start(&id("task"), &setup.workloads.until_stopped()).await.expect("start");

    let error = eventually("nomad is asked for a command", async || {
        let request = ExecRequest { command: vec!["true".to_owned()], terminal: None };
        let error =
            scheduler.open_session(&id("task"), request).await.expect_err("a right is missing");
        // It does not run yet.
        if error.kind == gofer_core::ErrorKind::Invalid {
            Err(error.to_string())
        } else {
            Ok(error)
        }
    })
    .await;

    assert_eq!(error.kind, gofer_core::ErrorKind::Denied, "{error}");
    assert!(
        error.message.contains("`alloc-exec`") && error.message.contains("gofer-policy.hcl"),
        "{error}"
    );
    scheduler.stop(&id("task"), Duration::ZERO).await.expect("stop");
}
