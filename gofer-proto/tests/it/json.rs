//! Canonical JSON, there and back.

use gofer_proto::json::{from_json, from_json_slice, to_json};
use gofer_proto::v1::{
    CustomTask, Dependency, DependencyCondition, LogChunk, OverlapPolicy, PipelineSpec, Resources,
    RetryOn, RetryPolicy, StartRunRequest, TaskSpec, task_spec,
};
use serde_json::json;

fn spec() -> PipelineSpec {
    PipelineSpec {
        name: "ci".to_owned(),
        description: "größe, \u{1F980}".to_owned(),
        tasks: vec![TaskSpec {
            id: "build".to_owned(),
            kind: Some(task_spec::Kind::Custom(CustomTask {
                command: vec!["cargo".to_owned(), "build".to_owned()],
                ..Default::default()
            })),
            depends_on: vec![Dependency {
                task: "fmt".to_owned(),
                condition: DependencyCondition::Any.into(),
            }],
            retries: Some(RetryPolicy {
                attempts: 2,
                backoff: Some(prost_types::Duration { seconds: 1, nanos: 500_000_000 }),
                on: vec![RetryOn::Lost.into(), RetryOn::TimedOut.into()],
                ..Default::default()
            }),
            resources: Some(Resources { cpu_millis: 500, memory_bytes: u64::MAX }),
            ..Default::default()
        }],
        variables: [("A".to_owned(), "secret{{b}}".to_owned())].into(),
        overlap: OverlapPolicy::Skip.into(),
        ..Default::default()
    }
}

#[test]
fn a_pipeline_spec_survives_the_round_trip() {
    let value = to_json(&spec());
    assert_eq!(
        value,
        json!({
            "name": "ci",
            "description": "größe, \u{1F980}",
            "tasks": [{
                "id": "build",
                "custom": { "command": ["cargo", "build"] },
                "dependsOn": [{ "task": "fmt", "condition": "DEPENDENCY_CONDITION_ANY" }],
                "retries": {
                    "attempts": 2,
                    "backoff": "1.500s",
                    "on": ["RETRY_ON_LOST", "RETRY_ON_TIMED_OUT"],
                },
                "resources": { "cpuMillis": 500, "memoryBytes": "18446744073709551615" },
            }],
            "variables": { "A": "secret{{b}}" },
            "overlap": "OVERLAP_POLICY_SKIP",
        })
    );
    assert_eq!(from_json::<PipelineSpec>(value.clone()).expect("its own JSON"), spec());
    assert_eq!(
        from_json_slice::<PipelineSpec>(value.to_string().as_bytes()).expect("its own JSON"),
        spec()
    );
}

#[test]
fn names_of_the_proto_files_are_read_too() {
    let read: TaskSpec =
        from_json(json!({ "id": "a", "depends_on": [{ "task": "b" }] })).expect("valid");
    assert_eq!(read.depends_on[0].task, "b");
}

#[test]
fn an_unknown_field_is_an_error_that_names_it() {
    let error = from_json::<PipelineSpec>(
        json!({ "name": "ci", "tasks": [{ "id": "a", "dependson": [] }] }),
    )
    .expect_err("`dependson` is not a field");
    let text = error.to_string();
    assert!(text.contains("dependson") && text.contains("gofer.v1.PipelineSpec"), "{text}");
}

#[test]
fn a_wrong_type_is_an_error_with_its_place() {
    let error = from_json_slice::<PipelineSpec>(b"{\"name\": \"ci\",\n \"parallelism\": \"many\"}")
        .expect_err("not a number");
    assert!(error.to_string().contains("line 2"), "{error}");
}

#[test]
fn an_unknown_enum_value_is_an_error() {
    let error = from_json::<PipelineSpec>(json!({ "overlap": "OVERLAP_POLICY_NEVER" }))
        .expect_err("no such value");
    assert!(error.to_string().contains("OVERLAP_POLICY_NEVER"), "{error}");
}

#[test]
fn garbage_and_text_after_the_value_are_errors() {
    for text in [&b""[..], b"garbage", b"[]", b"{} {}", b"\xff\xfe"] {
        assert!(from_json_slice::<StartRunRequest>(text).is_err(), "{text:?}");
    }
    assert!(from_json_slice::<StartRunRequest>(b" {} \n").is_ok());
}

#[test]
fn bytes_are_base64() {
    let chunk =
        LogChunk { data: prost::bytes::Bytes::from_static(b"\0\xff"), ..Default::default() };
    assert_eq!(to_json(&chunk), json!({ "data": "AP8=" }));
}

#[test]
fn a_key_that_is_there_twice_is_an_error_that_names_it() {
    for text in [
        r#"{"name": "a", "name": "b"}"#,
        r#"{"name": "a", "tasks": [{"id": "t", "variables": {"A": "1", "name": "x", "name": "y"}}]}"#,
    ] {
        let error = from_json_slice::<PipelineSpec>(text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains("the key `name` is there twice at line 1 column"), "{error}");
    }
}

#[test]
fn a_duration_of_another_form_is_told_which() {
    let text = br#"{"name": "a", "tasks": [{"id": "t", "timeout": "5m"}]}"#;
    let error = from_json_slice::<PipelineSpec>(text).unwrap_err().to_string();
    assert!(
        error.ends_with(
            r#"; a duration is a number of seconds with an `s`, such as "300s" or "0.5s""#
        ),
        "{error}"
    );
}
