//! Every mistake is found while building, all at once, each with field, value and rule.

use std::time::Duration;

use gofer_sdk::{Overlap, Pipeline, RetryOn, Task, run_object, secret};

fn ok(id: &str) -> Task {
    Task::new(id).command(["true"])
}

/// The lines of the error, without its headline.
fn errors(pipeline: Pipeline) -> Vec<String> {
    let errors = pipeline.build().expect_err("the pipeline was taken");
    let lines: Vec<String> =
        errors.to_string().lines().skip(1).map(|line| line.trim().to_owned()).collect();
    assert_eq!(lines.len(), errors.violations().len());
    lines
}

#[track_caller]
fn assert_error(pipeline: Pipeline, parts: &[&str]) {
    let found = errors(pipeline);
    assert_eq!(found.len(), 1, "{found:#?}");
    for part in parts {
        assert!(found[0].contains(part), "`{part}` is not in: {}", found[0]);
    }
}

#[test]
fn bad_identifiers() {
    for bad in ["", "has space", "..", "Upper", "a/b", &"x".repeat(65)] {
        assert_error(Pipeline::new(bad).task(ok("a")), &["name:", "lower-case letters"]);
        assert_error(Pipeline::new("p").task(ok(bad)), &["tasks[", ".id:", "lower-case letters"]);
    }
    let child = ok("child").depends_on("Bad Id");
    assert_error(
        Pipeline::new("p").tasks([ok("Bad Id"), child]),
        &["tasks[Bad Id].id:", "(got `Bad Id`)"],
    );
}

#[test]
fn a_task_with_a_bad_id_is_checked_all_the_same() {
    let bad = Task::new("Bad Id").depends_on("missing").timeout(Duration::ZERO);
    let found = errors(Pipeline::new("p").tasks([bad.clone(), bad]));
    let text = found.join("\n");
    for part in [
        "tasks[Bad Id].id: 1 to 64 characters",
        "tasks[Bad Id].id: task ids are unique",
        "tasks[Bad Id].timeout: more than 0",
        "tasks[Bad Id].custom.command: a task without an image has a command",
        "tasks[Bad Id].depends_on[0].task: names no task",
    ] {
        assert!(text.contains(part), "`{part}` is not in:\n{text}");
    }
    assert!(!text.contains("stand-in"), "{text}");
}

#[test]
fn graphs_that_cannot_run() {
    assert_error(Pipeline::new("p"), &["tasks: a pipeline has at least one task"]);
    assert_error(Pipeline::new("p").tasks([ok("a"), ok("a")]), &["tasks[a].id", "unique"]);
    let child = ok("a").depends_on("ftm");
    assert_error(
        Pipeline::new("p").task(child),
        &["tasks[a].depends_on[0].task", "names no task", "(got `ftm`)"],
    );

    let child = ok("b").depends_on("a").depends_on_failure("a");
    assert_error(
        Pipeline::new("p").tasks([ok("a"), child]),
        &["tasks[b].depends_on[1].task", "once"],
    );

    let circle = [ok("a").depends_on("c"), ok("b").depends_on("a"), ok("c").depends_on("b")];
    assert_error(Pipeline::new("p").tasks(circle), &["in a circle: a -> c -> b -> a"]);
    assert_error(Pipeline::new("p").task(ok("a").depends_on("a")), &["in a circle: a -> a"]);
    let circle = [ok("A").depends_on("b"), ok("b").depends_on("A")];
    assert!(
        errors(Pipeline::new("p").tasks(circle)).join("\n").contains("in a circle: A -> b -> A")
    );
}

#[test]
fn settings_that_contradict_each_other() {
    let of = |task: Task| Pipeline::new("p").task(task);
    let none: [(&str, &str); 0] = [];
    assert_error(
        of(Task::new("a")),
        &["tasks[a].custom.command", "without an image has a command"],
    );
    assert_error(
        of(ok("a").common("slack", none)),
        &["tasks[a].common.name", "brings its own image", "(got `slack`)"],
    );
    assert_error(
        of(ok("a").registry_auth("robot", "key")),
        &["tasks[a].custom.registry_auth", "set `image`"],
    );
    assert_error(
        of(ok("a").backoff(Duration::from_secs(1))),
        &["tasks[a].retries", "set `retries`"],
    );
    assert_error(of(ok("a").retries(1).retry_on([])), &["tasks[a].retries.on", "at least one"]);

    let task =
        ok("a").retries(1).backoff(Duration::from_secs(9)).max_backoff(Duration::from_secs(3));
    assert_error(
        of(task),
        &["tasks[a].retries.max_backoff", "at least `backoff`, which is 9s", "(got `3s`)"],
    );
    assert_error(
        of(ok("a").working_dir("relative")),
        &["tasks[a].custom.working_dir", "absolute", "(got `relative`)"],
    );
    assert_error(of(ok("a").image("alpine").working_dir("/srv")), &["tasks[a].custom.working_dir"]);
    assert_error(of(ok("a")).overlap(Overlap::Skip), &["overlap", "set `parallelism`"]);
    assert_error(of(ok("a")).parallelism(0), &["parallelism", "(got `0`)"]);
    assert!(
        of(ok("a").retries(0).backoff(Duration::from_secs(1)).retry_on([RetryOn::Lost]))
            .build()
            .is_ok()
    );
}

#[test]
fn variables_and_what_they_refer_to() {
    let of = |name: &str, value: String| Pipeline::new("p").task(ok("a").variable(name, value));
    let huge = errors(of("A", "x".repeat(10_000_000)));
    assert!(huge.iter().all(|line| line.len() < 300), "{huge:#?}");
    assert!(huge.iter().any(|line| line.starts_with("tasks[a].variables[A]:")), "{huge:#?}");
    assert_error(of("GOFER_RUN", "1".into()), &["tasks[a].variables[GOFER_RUN]", "set by Gofer"]);
    assert_error(of("1A", "1".into()), &["tasks[a].variables[1A]", "does not start with a digit"]);
    assert_error(of("A", "\0".into()), &["tasks[a].variables[A]", "NUL"]);
    assert_error(
        of("A", secret("../root").to_string()),
        &["tasks[a].variables[A]", "(got `secret{{../root}}`)"],
    );
    assert_error(of("A", secret("").to_string()), &["tasks[a].variables[A]", "(got `secret{{}}`)"]);
    assert_error(
        of("A", run_object("a}}b").to_string()),
        &["tasks[a].variables[A]", "letters, digits"],
    );
}

#[test]
fn a_pipeline_fits_into_one_message() {
    let script = "x".repeat(60_000);
    let tasks = (0..60).map(|n| Task::new(format!("task-{n}")).script(&script));
    assert_error(Pipeline::new("p").tasks(tasks), &["pipeline: at most 3 MiB", "bytes`)"]);
}

#[test]
fn everything_at_once() {
    let found = errors(
        Pipeline::new("Bad Name")
            .parallelism(0)
            .variable("GOFER_X", 1)
            .task(ok("a").retries(101).depends_on("b"))
            .task(Task::new("c").cpu_millis(0).memory_mib(0)),
    );
    assert_eq!(found.len(), 8, "{found:#?}");
}
