//! Specs survive the way to the domain and back.

use super::*;

fn full_spec() -> v1::PipelineSpec {
    let seconds = |seconds| Some(prost_types::Duration { seconds, nanos: 500_000_000 });
    let map = |name: &str| [(name.to_owned(), "value".to_owned())].into();
    let custom = v1::TaskSpec {
        id: "build".into(),
        description: "builds".into(),
        kind: Some(v1::task_spec::Kind::Custom(v1::CustomTask {
            image: "registry.example.com/app:3".into(),
            entrypoint: vec!["/bin/sh".into()],
            command: vec!["-c".into(), "true".into()],
            working_dir: "/work".into(),
            registry_auth: Some(v1::RegistryAuth {
                username: "me".into(),
                password_secret_key: "key".into(),
            }),
            separate_output: true,
        })),
        depends_on: vec![v1::Dependency {
            task: "checkout".into(),
            condition: v1::DependencyCondition::Failure.into(),
        }],
        variables: map("A"),
        retries: Some(v1::RetryPolicy {
            attempts: 2,
            backoff: seconds(1),
            max_backoff: seconds(60),
            on: vec![v1::RetryOn::Lost.into()],
        }),
        timeout: seconds(30),
        start_timeout: seconds(40),
        resources: Some(v1::Resources { cpu_millis: 500, memory_bytes: 1 << 30 }),
        continue_on_failure: true,
    };

    let common = v1::TaskSpec {
        id: "checkout".into(),
        kind: Some(v1::task_spec::Kind::Common(v1::CommonTaskUse {
            name: "git".into(),
            settings: map("url"),
        })),
        ..v1::TaskSpec::default()
    };

    v1::PipelineSpec {
        name: "ci".into(),
        description: "everything".into(),
        tasks: vec![custom, common],
        variables: map("B"),
        parallelism: 3,
        overlap: v1::OverlapPolicy::CancelRunning.into(),
        subscriptions: vec![v1::TriggerSubscription {
            trigger: "cron".into(),
            name: "nightly".into(),
            settings: map("expression"),
            variables: map("C"),
        }],
        sdk: "rust/0.1.0".into(),
        run_variables: vec![v1::RunVariable { name: "REF".into(), template: true }],
    }
}

#[test]
fn a_spec_comes_back_as_it_went() {
    let wire = full_spec();
    assert_eq!(pipeline_spec_to_wire(&pipeline_spec_from_wire(wire.clone()).unwrap()), wire);
}

#[test]
fn what_is_left_out_has_its_documented_default() {
    let mut wire = full_spec();
    wire.overlap = 0;
    wire.parallelism = 0;
    wire.tasks[0].retries.as_mut().unwrap().on.clear();
    wire.tasks[0].depends_on[0].condition = 0;
    let spec = pipeline_spec_from_wire(wire).unwrap();
    assert_eq!((spec.overlap, spec.parallelism), (gofer_core::pipeline::Overlap::Queue, None));
    assert_eq!(spec.tasks[0].retries.on.len(), 3);
    assert_eq!(spec.tasks[0].depends_on[0].condition, gofer_core::pipeline::Condition::Success);
}

#[test]
fn times_are_exact_to_the_microsecond_also_before_1970() {
    assert_eq!(
        timestamp(Timestamp(1_500_000)),
        prost_types::Timestamp { seconds: 1, nanos: 500_000_000 }
    );
    assert_eq!(
        timestamp(Timestamp(-1)),
        prost_types::Timestamp { seconds: -1, nanos: 999_999_000 }
    );
}
