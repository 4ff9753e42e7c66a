//! From the builder to bytes and back: nothing is lost and nothing is made up.

use std::collections::BTreeMap;
use std::time::Duration;

use gofer_proto::v1;
use gofer_sdk::{Overlap, Pipeline, RetryOn, Subscription, Task, secret, to_proto};
use proptest::prelude::*;
use prost::Message;

use crate::{decode, random};

#[test]
fn every_setting_reaches_the_wire() {
    let auth = || Task::new("private").image("registry.example.com/app:1").registry_auth("robot", "registry/password");
    let built = Pipeline::new("ci")
        .description("about")
        .parallelism(2)
        .overlap(Overlap::CancelRunning)
        .variable("DB", format!("postgres://u:{}@db", secret("db")))
        .variable("COUNT", 3)
        .task(Task::new("fmt").command(["cargo", "fmt"]).working_dir("/srv"))
        .task(
            Task::new("test")
                .description("tests")
                .image("rust:1.95")
                .script("cargo test")
                .depends_on("fmt")
                .variable("A", "b")
                .retries(2)
                .backoff(Duration::from_millis(1500))
                .max_backoff(Duration::from_secs(60))
                .retry_on([RetryOn::TimedOut, RetryOn::Lost])
                .timeout(Duration::from_secs(600))
                .start_timeout(Duration::from_secs(60))
                .cpu_millis(500)
                .memory_mib(64)
                .continue_on_failure(),
        )
        .task(auth().depends_on_failure("fmt").depends_on_any(["test"]))
        .task(Task::new("notify").common("slack", [("channel", "#ci")]).entrypoint::<&str>([]))
        .subscribe(Subscription::new("cron", "nightly").setting("expression", "0 4 * * *").variable("NIGHT", true))
        .build()
        .unwrap();
    let spec = v1::PipelineSpec::decode(&*built.encode()).unwrap();
    let map = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    let edge = |task: &str, condition: v1::DependencyCondition| v1::Dependency {
        task: task.into(),
        condition: condition.into(),
    };
    let custom = |task: &v1::TaskSpec| match task.kind.clone() {
        Some(v1::task_spec::Kind::Custom(custom)) => custom,
        other => panic!("{other:?}"),
    };

    assert_eq!((spec.name.as_str(), spec.description.as_str(), spec.parallelism), ("ci", "about", 2));
    assert_eq!(spec.overlap(), v1::OverlapPolicy::CancelRunning);
    assert_eq!(spec.variables, map(&[("COUNT", "3"), ("DB", "postgres://u:secret{{db}}@db")]));
    assert_eq!(spec.sdk, concat!("rust/", env!("CARGO_PKG_VERSION")));
    let [fmt, test, private, notify] = &spec.tasks[..] else { panic!("{:?}", spec.tasks) };
    assert_eq!(
        custom(fmt),
        v1::CustomTask {
            command: vec!["cargo".into(), "fmt".into()],
            working_dir: "/srv".into(),
            ..v1::CustomTask::default()
        }
    );
    assert_eq!((fmt.retries.as_ref(), fmt.timeout, fmt.resources), (None, None, None));
    let expected = v1::TaskSpec {
        id: "test".into(),
        description: "tests".into(),
        kind: Some(v1::task_spec::Kind::Custom(v1::CustomTask {
            image: "rust:1.95".into(),
            entrypoint: vec!["sh".into(), "-euc".into()],
            command: vec!["cargo test".into()],
            ..v1::CustomTask::default()
        })),
        depends_on: vec![edge("fmt", v1::DependencyCondition::Success)],
        variables: map(&[("A", "b")]),
        retries: Some(v1::RetryPolicy {
            attempts: 2,
            backoff: Some(prost_types::Duration { seconds: 1, nanos: 500_000_000 }),
            max_backoff: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
            on: vec![v1::RetryOn::TimedOut.into(), v1::RetryOn::Lost.into()],
        }),
        timeout: Some(prost_types::Duration { seconds: 600, nanos: 0 }),
        start_timeout: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
        resources: Some(v1::Resources { cpu_millis: 500, memory_bytes: 64 << 20 }),
        continue_on_failure: true,
    };
    assert_eq!(*test, expected);
    let auth = v1::RegistryAuth { username: "robot".into(), password_secret_key: "registry/password".into() };
    assert_eq!(custom(private).registry_auth, Some(auth));
    let edges = [edge("fmt", v1::DependencyCondition::Failure), edge("test", v1::DependencyCondition::Any)];
    assert_eq!(private.depends_on, edges);
    let slack = v1::CommonTaskUse { name: "slack".into(), settings: map(&[("channel", "#ci")]) };
    assert_eq!(notify.kind, Some(v1::task_spec::Kind::Common(slack)));
    let nightly = v1::TriggerSubscription {
        trigger: "cron".into(),
        name: "nightly".into(),
        settings: map(&[("expression", "0 4 * * *")]),
        variables: map(&[("NIGHT", "true")]),
    };
    assert_eq!(spec.subscriptions, [nightly]);
}

#[test]
fn a_script_is_run_by_the_entrypoint_when_there_is_one() {
    let task = Task::new("a").script("print(1)").entrypoint(["python3", "-c"]);
    let spec = Pipeline::new("p").task(task).build().unwrap().to_proto();
    let Some(v1::task_spec::Kind::Custom(custom)) = &spec.tasks[0].kind else { panic!("{spec:?}") };
    assert_eq!(
        (&custom.entrypoint[..], &custom.command[..]),
        (&["python3".into(), "-c".into()][..], &["print(1)".into()][..])
    );
}

#[test]
fn the_later_of_command_and_script_counts() {
    let task = Task::new("a").script("exit 1").command(["true"]);
    let spec = Pipeline::new("p").task(task).build().unwrap().to_proto();
    let Some(v1::task_spec::Kind::Custom(custom)) = &spec.tasks[0].kind else { panic!("{spec:?}") };
    assert_eq!((custom.entrypoint.len(), &custom.command[..]), (0, &["true".into()][..]));
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
