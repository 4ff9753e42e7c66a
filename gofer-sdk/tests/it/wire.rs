//! From the builder to bytes and back: nothing is lost and nothing is made up.

use std::collections::BTreeMap;
use std::time::Duration;

use gofer_proto::v1;
use gofer_sdk::{Overlap, Pipeline, RetryOn, Subscription, Task, secret, to_proto};
use proptest::prelude::*;
use prost::Message;

use crate::{decode, random};

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

fn edge(task: &str, condition: v1::DependencyCondition) -> v1::Dependency {
    v1::Dependency { task: task.into(), condition: condition.into() }
}

fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

fn custom(task: &v1::TaskSpec) -> v1::CustomTask {
    match task.kind.clone() {
        Some(v1::task_spec::Kind::Custom(custom)) => custom,
        other => panic!("{other:?}"),
    }
}

/// The message the pipeline's bytes hold.
fn sent(pipeline: Pipeline) -> v1::PipelineSpec {
    v1::PipelineSpec::decode(&*pipeline.build().unwrap().encode()).unwrap()
}

/// The message of the pipeline's only task.
fn sent_task(task: Task) -> v1::TaskSpec {
    sent(Pipeline::new("p").task(task)).tasks.remove(0)
}

#[test]
fn every_setting_of_a_pipeline() {
    let spec = sent(
        Pipeline::new("ci")
            .description("about")
            .parallelism(2)
            .overlap(Overlap::CancelRunning)
            .variable("DB", format!("postgres://u:{}@db", secret("db")))
            .variable("COUNT", 3)
            .run_variable("BRANCH")
            .run_template("KEY")
            .task(Task::new("a").command(["true"]))
            .subscribe(
                Subscription::new("cron", "nightly")
                    .setting("expression", "0 4 * * *")
                    .variable("NIGHT", true),
            ),
    );
    let expected = v1::PipelineSpec {
        name: "ci".into(),
        description: "about".into(),
        tasks: spec.tasks.clone(),
        variables: map(&[("COUNT", "3"), ("DB", "postgres://u:secret{{db}}@db")]),
        parallelism: 2,
        overlap: v1::OverlapPolicy::CancelRunning.into(),
        subscriptions: vec![v1::TriggerSubscription {
            trigger: "cron".into(),
            name: "nightly".into(),
            settings: map(&[("expression", "0 4 * * *")]),
            variables: map(&[("NIGHT", "true")]),
        }],
        sdk: concat!("rust/", env!("CARGO_PKG_VERSION")).into(),
        run_variables: vec![
            v1::RunVariable { name: "BRANCH".into(), template: false },
            v1::RunVariable { name: "KEY".into(), template: true },
        ],
    };

    assert_eq!(spec, expected);
    assert_eq!(spec.tasks.len(), 1);
}

#[test]
fn every_setting_of_a_task() {
    let task = Task::new("test")
        .description("tests")
        .image("rust:1.95")
        .registry_auth("robot", "registry/password")
        .separate_output()
        .script("cargo test")
        .depends_on("fmt")
        .depends_on_failure(["lint".to_owned()])
        .depends_on_any(&["docs"][..])
        .variable("A", "b")
        .retries(2)
        .backoff(Duration::from_millis(1500))
        .max_backoff(Duration::from_secs(60))
        .retry_on([RetryOn::TimedOut, RetryOn::Lost])
        .timeout(Duration::from_secs(600))
        .start_timeout(Duration::from_secs(61))
        .cpu_millis(500)
        .memory_mib(64)
        .continue_on_failure();
    let parents = ["fmt", "lint", "docs"].map(|id| Task::new(id).command(["true"]));
    let spec = sent(Pipeline::new("p").task(task).tasks(parents));
    let expected = v1::TaskSpec {
        id: "test".into(),
        description: "tests".into(),
        kind: Some(v1::task_spec::Kind::Custom(v1::CustomTask {
            image: "rust:1.95".into(),
            entrypoint: words(&["sh", "-euc"]),
            command: words(&["cargo test"]),
            working_dir: String::new(),
            registry_auth: Some(v1::RegistryAuth {
                username: "robot".into(),
                password_secret_key: "registry/password".into(),
            }),
            separate_output: true,
        })),
        depends_on: vec![
            edge("fmt", v1::DependencyCondition::Success),
            edge("lint", v1::DependencyCondition::Failure),
            edge("docs", v1::DependencyCondition::Any),
        ],
        variables: map(&[("A", "b")]),
        retries: Some(v1::RetryPolicy {
            attempts: 2,
            backoff: Some(prost_types::Duration { seconds: 1, nanos: 500_000_000 }),
            max_backoff: seconds(60),
            on: vec![v1::RetryOn::TimedOut.into(), v1::RetryOn::Lost.into()],
        }),
        timeout: seconds(600),
        start_timeout: seconds(61),
        resources: Some(v1::Resources { cpu_millis: 500, memory_bytes: 64 << 20 }),
        continue_on_failure: true,
    };

    assert_eq!(spec.tasks[0], expected);
}

#[test]
fn what_was_not_said_is_absent() {
    let task = sent_task(Task::new("fmt").command(["cargo", "fmt"]).working_dir("/srv"));
    let custom = v1::CustomTask {
        command: words(&["cargo", "fmt"]),
        working_dir: "/srv".into(),
        ..v1::CustomTask::default()
    };
    let expected = v1::TaskSpec {
        id: "fmt".into(),
        kind: Some(v1::task_spec::Kind::Custom(custom)),
        ..v1::TaskSpec::default()
    };
    assert_eq!(task, expected);
}

#[test]
fn a_common_task_with_its_settings() {
    let task = sent_task(Task::new("notify").common("slack", [("channel", "#ci")]));
    let slack = v1::CommonTaskUse { name: "slack".into(), settings: map(&[("channel", "#ci")]) };
    assert_eq!(task.kind, Some(v1::task_spec::Kind::Common(slack)));
}

#[test]
fn a_script_is_run_by_the_entrypoint_when_there_is_one() {
    let custom =
        custom(&sent_task(Task::new("a").script("print(1)").entrypoint(["python3", "-c"])));
    assert_eq!(
        (custom.entrypoint, custom.command),
        (words(&["python3", "-c"]), words(&["print(1)"]))
    );
}

#[test]
fn the_later_of_command_and_script_counts() {
    let custom = custom(&sent_task(Task::new("a").script("exit 1").command(["true"])));
    assert_eq!((custom.entrypoint, custom.command), (words(&[]), words(&["true"])));
}

proptest! {
    #[test]
    fn random_specs_survive_the_wire(spec in random::pipeline()) {
        let bytes = to_proto(&spec).encode_to_vec();
        let read = v1::PipelineSpec::decode(&*bytes).unwrap();
        prop_assert_eq!(&decode::pipeline(&read), &spec);
        prop_assert_eq!(read.encode_to_vec(), bytes, "the encoding is deterministic");
    }
}
