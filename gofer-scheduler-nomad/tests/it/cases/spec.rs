//! From a spec and an operator's template to a job.

use std::path::PathBuf;

use gofer_conformance::scheduler::{Workloads, host_command};
use gofer_core::scheduler::{ExecutionState, FailureKind};
use gofer_core::{BackendError, ErrorKind, ExecutionId};
use gofer_scheduler_nomad::{NomadConfig, NomadScheduler};
use serde_json::{Value, json};

use crate::agent::Agent;
use crate::fake::FakeNomad;
use crate::support::{Setup, exited, id, script};

/// Connects with a job template of this text.
async fn connect(
    address: &str,
    token: &str,
    text: &str,
) -> (Result<NomadScheduler, BackendError>, PathBuf) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("task.nomad.hcl");
    std::fs::write(&path, text).expect("write the template");
    let config = NomadConfig {
        addresses: vec![address.to_owned()],
        token: Some(token.to_owned()).filter(|token| !token.is_empty()).map(Into::into),
        job_template: Some(path.clone()),
        ..NomadConfig::default()
    };
    (NomadScheduler::connect(config).await, path)
}

/// Puts something into a template.
type Change = fn(&mut Value);

/// What must not be in a template, as the fake takes it, and what the refusal names.
fn refused() -> [(Change, &'static str); 5] {
    [
        (|job| job["Periodic"] = json!({"Spec": "@daily", "Enabled": true}), "periodic"),
        (|job| job["TaskGroups"][0]["Update"] = json!({"MaxParallel": 1}), "update"),
        (
            |job| {
                let second =
                    json!({"Name": "second", "Driver": "raw_exec", "Config": {"command": "true"}});
                job["TaskGroups"][0]["Tasks"].as_array_mut().expect("tasks").push(second);
            },
            "task",
        ),
        (|job| job["TaskGroups"][0]["Count"] = json!(3), "count"),
        (|job| job["Datacenters"] = json!(["${file(\"/etc/passwd\")}"]), "file"),
    ]
}

fn template() -> Value {
    json!({
        "ID": "template", "Name": "template",
        "Constraints": [{"LTarget": "${attr.kernel.name}", "Operand": "=", "RTarget": "linux"}],
        "TaskGroups": [{
            "Name": "work", "Count": 1,
            "Tasks": [{"Name": "run", "Driver": "raw_exec", "Config": {"command": "true"},
                       "Env": {"FROM_TEMPLATE": "yes"}}],
        }],
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn case_15_a_template_that_takes_a_decision_from_gofer_is_refused_with_file_and_stanza() {
    let fake = FakeNomad::start().await;
    for (change, stanza) in refused() {
        let mut job = template();
        change(&mut job);
        let (outcome, path) = connect(&fake.address(), "", &job.to_string()).await;
        let error = outcome.expect_err(stanza);
        assert_eq!(error.kind, ErrorKind::Invalid, "{error}");
        let text = error.chain();
        assert!(
            text.contains(path.to_str().expect("text")) && text.contains(stanza),
            "`{stanza}`: {text}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn case_15_a_template_is_refused_with_file_and_stanza_on_a_real_agent() {
    let Some(agent) = Agent::find("case_15 on a real agent") else { return };
    let job = |inside: &str, group: &str| {
        format!(
            "job \"template\" {{\n{inside}\n group \"work\" {{\n{group}\n  task \"run\" {{\n   \
             driver = \"raw_exec\"\n   config {{\n    command = \"true\"\n   }}\n  }}\n }}\n}}\n"
        )
    };

    let second =
        "task \"second\" {\n driver = \"raw_exec\"\n config {\n command = \"true\"\n }\n }";
    for (text, stanza) in [
        (job("periodic {\n crons = [\"@daily\"]\n }", ""), "periodic"),
        (job("", "update {\n max_parallel = 1\n }"), "update"),
        (job("", second), "task"),
        (job("", "count = 3"), "count"),
        (job("datacenters = [file(\"/etc/passwd\")]", ""), "file"),
        ("job \"template\" {".to_owned(), "parse"),
    ] {
        let (outcome, path) = connect(&agent.address, &agent.token, &text).await;
        let error = outcome.expect_err(stanza);
        assert_eq!(error.kind, ErrorKind::Invalid, "{error}");
        let shown = error.chain();
        assert!(
            shown.contains(path.to_str().expect("text")) && shown.contains(stanza),
            "`{stanza}`: {shown}"
        );
    }

    let (outcome, _) = connect(&agent.address, &agent.token, &job("", "")).await;
    outcome.expect("a good template");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_gives_what_gofer_does_not_decide() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("task.nomad.hcl");
    std::fs::write(&path, template().to_string()).expect("write the template");
    let setup =
        Setup::on_fake(FakeNomad::start().await, |config| config.job_template = Some(path)).await;
    assert_eq!(
        setup.run(&id("task"), &script("printf %s \"$FROM_TEMPLATE\"", [])).await,
        exited(0)
    );
    assert_eq!(setup.stdout(&id("task"), true).await, b"yes");

    let job = setup.fake_agent().jobs().remove(0);
    assert_eq!(job["Constraints"], template()["Constraints"]);
    assert_eq!(job["Type"], "batch");
    assert_eq!(job["TaskGroups"][0]["RestartPolicy"]["Attempts"], 0);
    assert!(job["ID"].as_str().is_some_and(|id| id != "template"), "{}", job["ID"]);
}

/// What `config/nomad` ships is what Nomad takes.
#[tokio::test(flavor = "multi_thread")]
async fn the_shipped_job_specifications_are_valid_on_a_real_agent() {
    let Some(agent) = Agent::find("the_shipped_job_specifications on a real agent") else { return };
    let shipped = |name: &str| {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../config/nomad").join(name);
        std::fs::read_to_string(path).expect("a shipped file")
    };
    let (outcome, _) = connect(&agent.address, &agent.token, &shipped("task.nomad.hcl")).await;
    outcome.expect("the job template");
    let job = agent
        .put("/v1/jobs/parse", &json!({"JobHCL": shipped("gofer.nomad.hcl"), "Canonicalize": true}))
        .await;
    let validation = agent.put("/v1/validate/job", &json!({ "Job": job })).await;
    assert_eq!(validation["Error"], "", "{validation}");
}

/// Texts that Nomad, HCL or a template could take for more than text.
const ODD: [&str; 12] = [
    "${x}",
    "$${x}",
    "%{x}",
    "%%{x}",
    "${NOMAD_ALLOC_ID}",
    "$${NOMAD_ALLOC_ID}",
    "{{ env \"HOME\" }}",
    "$",
    "${",
    "%{ if",
    "\\n \" ' `",
    "naïve\n🔑",
];

async fn odd_texts(setup: &Setup) {
    let longest = "n".repeat(64);
    let long: ExecutionId = format!("{longest}/{longest}/18446744073709551/{longest}/4294967295")
        .parse()
        .expect("an id");
    let dashed: ExecutionId = "a-b_c/0--x/7/1_-_2/1".parse().expect("an id");

    for task in [long, dashed] {
        let words = ["printf", "%s|"].into_iter().chain(ODD);
        assert_eq!(setup.run(&task, &host_command(words)).await, exited(0), "`{task}`");
        let expected: String = ODD.iter().map(|word| format!("{word}|")).collect();
        let output = String::from_utf8(setup.stdout(&task, true).await).expect("text");
        assert_eq!(output, expected, "`{task}`");
    }

    for (index, text) in ODD.into_iter().enumerate() {
        let task = id(&format!("variable-{index}"));
        let mut spec = script("printf %s \"$ODD\"", []);
        spec.env.insert("ODD".to_owned(), gofer_core::scheduler::EnvValue::Plain(text.to_owned()));
        assert_eq!(setup.run(&task, &spec).await, exited(0));
        assert_eq!(String::from_utf8(setup.stdout(&task, true).await).expect("text"), text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn case_17_odd_names_and_texts_arrive() {
    let setup = Setup::fake().await;
    odd_texts(&setup).await;
    for job in setup.fake_agent().jobs() {
        let id = job["ID"].as_str().expect("an ID");
        assert!(
            id.len() <= 100
                && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)),
            "{id}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn case_17_odd_names_and_texts_arrive_on_a_real_agent() {
    let Some(agent) = Agent::find("case_17 on a real agent") else { return };
    odd_texts(&Setup::real(&agent, |_| {}).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_run_is_refused_and_not_an_error_of_start() {
    let setup = Setup::fake().await;
    let refused = |state: ExecutionState, part: &str| match state {
        ExecutionState::Failed { kind: FailureKind::Refused, message } => {
            assert!(message.contains(part), "{message}")
        }
        other => panic!("{other:?}"),
    };
    refused(setup.run(&id("empty"), &host_command([""; 0])).await, "command");
    let mut relative = setup.workloads.exit(0);
    relative.working_dir = Some("here".to_owned());
    refused(setup.run(&id("relative"), &relative).await, "`here`");
    refused(setup.run(&id("nul"), &host_command(["echo", "a\0b"])).await, "NUL");
    assert!(setup.fake_agent().allocations().is_empty(), "nothing of it ran");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_of_somebody_else_is_not_taken_for_an_execution() {
    let setup = Setup::fake().await;
    setup.run(&id("task"), &setup.workloads.exit(0)).await;
    let job_id = setup.fake_agent().jobs().remove(0)["ID"].as_str().expect("an ID").to_owned();
    let fake = FakeNomad::start().await;
    let agent = Agent::at(&fake.address(), "");
    let mut job = template();

    job["ID"] = json!(job_id);
    job["Type"] = json!("batch");
    agent.put("/v1/jobs", &json!({"Job": job})).await;
    let prefix = setup.config.job_prefix.clone();
    let other = Setup::on_fake(fake, |config| config.job_prefix = prefix).await;
    assert_eq!(other.state(&id("task")).await, ExecutionState::NotFound);

    let error = gofer_core::scheduler::Scheduler::start(
        other.scheduler(),
        &id("task"),
        &other.workloads.exit(0),
    )
    .await;
    let error = error.expect_err("the job is somebody else's");
    assert!(error.kind == ErrorKind::Invalid && error.message.contains("job_prefix"), "{error}");
}
