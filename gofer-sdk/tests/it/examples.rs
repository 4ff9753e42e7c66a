//! Every example as a user has it: `cargo run` in its own folder prints a pipeline, and the
//! pipeline is what its README says. `--locked` also proves that the examples' lock file is up to
//! date.

use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use gofer_proto::v1;
use prost::Message;

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/rust");

/// Apart from the target directory these tests were built in: that is another workspace, with other
/// features.
fn target_dir() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => Path::new(&dir).join("examples"),
        None => Path::new(EXAMPLES).join("target"),
    }
}

fn printed_by(example: &str) -> v1::PipelineSpec {
    let output = Command::new(env!("CARGO"))
        .args(["run", "--quiet", "--locked"])
        .current_dir(Path::new(EXAMPLES).join(example))
        .env("CARGO_TARGET_DIR", target_dir())
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);

    assert!(
        output.status.success(),
        "`cargo run --locked` in {example} ended with {}:\n{stderr}",
        output.status
    );
    assert!(!output.stdout.is_empty(), "{example} printed nothing:\n{stderr}");

    let spec = v1::PipelineSpec::decode(&*output.stdout).unwrap();
    assert_eq!(spec.name, example, "the pipeline is named as its folder");
    assert!(!spec.description.is_empty());

    for task in &spec.tasks {
        assert_eq!(custom(task).image, "", "examples run on this machine alone");
    }

    spec
}

fn custom(task: &v1::TaskSpec) -> &v1::CustomTask {
    match &task.kind {
        Some(v1::task_spec::Kind::Custom(custom)) => custom,
        other => panic!("{} is {other:?}", task.id),
    }
}

/// One line per task, such as `report: build any, test any`.
fn shape(spec: &v1::PipelineSpec) -> Vec<String> {
    let condition = |edge: &v1::Dependency| match edge.condition() {
        v1::DependencyCondition::Success => "success",
        v1::DependencyCondition::Failure => "failure",
        v1::DependencyCondition::Any => "any",
        v1::DependencyCondition::Unspecified => "unspecified",
    };

    let edges = |task: &v1::TaskSpec| {
        let edges: Vec<String> = task
            .depends_on
            .iter()
            .map(|edge| format!("{} {}", edge.task, condition(edge)))
            .collect();
        edges.join(", ")
    };

    spec.tasks
        .iter()
        .map(|task| format!("{}: {}", task.id, edges(task)).trim_end().to_owned())
        .collect()
}

fn by_id(spec: &v1::PipelineSpec) -> BTreeMap<&str, &v1::TaskSpec> {
    spec.tasks.iter().map(|task| (task.id.as_str(), task)).collect()
}

#[test]
fn hello() {
    let spec = printed_by("hello");
    assert_eq!(shape(&spec), ["greet:"]);
    assert_eq!(spec.variables["NAME"], "world");
}

#[test]
fn dag() {
    let expected = [
        "fetch:",
        "count-words: fetch success",
        "count-lines: fetch success",
        "risky: fetch success",
        "rescue: risky failure",
        "celebrate: risky success",
        "summary: count-words any, count-lines any, rescue any, celebrate any",
    ];
    assert_eq!(shape(&printed_by("dag")), expected);
}

#[test]
fn retry() {
    let spec = printed_by("retry");
    assert_eq!(shape(&spec), ["flaky:", "hanging:", "after: flaky success, hanging success"]);
    let tasks = by_id(&spec);
    let retries = |id: &str| tasks[id].retries.clone().unwrap();
    assert_eq!(retries("flaky").attempts, 3);
    assert_eq!(
        retries("flaky").backoff,
        Some(prost_types::Duration { seconds: 0, nanos: 200_000_000 })
    );
    assert_eq!(retries("hanging").on().collect::<Vec<_>>(), [v1::RetryOn::TimedOut]);
    assert_eq!(tasks["hanging"].timeout, Some(prost_types::Duration { seconds: 2, nanos: 0 }));
}

#[test]
fn secrets() {
    let spec = printed_by("secrets");
    assert_eq!(shape(&spec), ["greet:", "connect: greet success"]);
    let tasks = by_id(&spec);
    assert_eq!(tasks["greet"].variables["TOKEN"], "secret{{greeting_token}}");
    assert_eq!(
        tasks["connect"].variables["URL"],
        "https://robot:secret{{greeting_token}}@greetings.example.com/"
    );
}

#[test]
fn objects() {
    let spec = printed_by("objects");
    assert_eq!(
        shape(&spec),
        ["write:", "read-variable: write success", "read-stream: write success"]
    );
    assert_eq!(by_id(&spec)["read-variable"].variables["GREETING"], "run_object{{greeting.txt}}");
}

#[test]
fn ci() {
    let spec = printed_by("ci");
    let expected = [
        "fmt:",
        "lint: fmt success",
        "test-unit: fmt success",
        "test-integration: fmt success",
        "build: fmt success",
        "package: lint success, test-unit success, test-integration success, build success",
        "report: fmt any, lint any, test-unit any, test-integration any, build any, package any",
        "notify: report failure",
    ];

    assert_eq!(shape(&spec), expected);
    let tasks = by_id(&spec);
    let project = Path::new(&custom(tasks["build"]).working_dir);
    assert!(project.is_absolute() && project.join("Cargo.lock").is_file(), "{}", project.display());
    assert!(
        Path::new(&spec.variables["TOOLCHAIN"]).join("cargo").is_file(),
        "{}",
        spec.variables["TOOLCHAIN"]
    );
    assert_eq!(
        tasks["report"].variables["STEPS"],
        "fmt lint test-unit test-integration build package"
    );
}
