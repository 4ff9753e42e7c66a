//! The pipelines of the load, and what must come of every run of them.

use std::path::Path;

use gofer_proto::v1::RunStatus;
use gofer_proto::v1::TaskRunStatus::{self, Cancelled, Failed, Skipped, Successful, TimedOut};
use serde_json::{Value, json};

use crate::harness::text;
use crate::pipelines::script;

/// What every task prints after its name where it says a lot.
pub(crate) const LINES: u32 = 2_000;

/// A pipeline and how each of its runs ends.
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    pub(crate) status: RunStatus,
    /// Each task, how it ends, and after how many attempts.
    pub(crate) tasks: &'static [(&'static str, TaskRunStatus, u32)],
    /// The tasks that say a lot.
    pub(crate) talkative: &'static [&'static str],
    build: fn(&Tasks<'_>) -> Vec<Value>,
}

impl Shape {
    /// As it is registered; every execution of a task appends a line to the file `marks`.
    pub(crate) fn pipeline(&self, marks: &Path) -> Value {
        json!({ "name": self.name, "tasks": (self.build)(&Tasks { marks }) })
    }

    /// Whether its runs only end by being cancelled.
    pub(crate) fn is_endless(&self) -> bool {
        self.status == RunStatus::Cancelled
    }
}

/// Parallel steps, one that fails at first, one that may fail, a report whatever happened, and a
/// notification of a failure: what `examples/rust/ci` does.
pub(crate) const CI: Shape = Shape {
    name: "ci",
    status: RunStatus::Successful,
    tasks: &[
        ("fmt", Successful, 1),
        ("lint", Failed, 1),
        ("flaky", Successful, 2),
        ("test", Successful, 1),
        ("build", Successful, 1),
        ("package", Successful, 1),
        ("broken", Failed, 1),
        ("skipped", Skipped, 0),
        ("report", Successful, 1),
        ("notify", Successful, 1),
    ],
    talkative: &[],
    build: |tasks| {
        let mut flaky = tasks.step("flaky", "sleep 0.02; test $GOFER_ATTEMPT = 2", &["fmt"]);
        flaky["retries"] = json!({ "attempts": 1, "backoff": "0.010s" });
        let mut lint = tasks.step("lint", "exit 1", &["fmt"]);
        lint["continueOnFailure"] = json!(true);
        let mut report = tasks.step("report", "true", &[]);
        report["dependsOn"] = json!([
            { "task": "package", "condition": "DEPENDENCY_CONDITION_ANY" },
            { "task": "broken", "condition": "DEPENDENCY_CONDITION_ANY" },
        ]);
        vec![
            tasks.step("fmt", "true", &[]),
            lint,
            flaky,
            tasks.step("test", "sleep 0.05", &["fmt"]),
            tasks.step("build", "sleep 0.1", &["fmt"]),
            tasks.step("package", "true", &["lint", "flaky", "test", "build"]),
            tasks.step("broken", "exit 7", &["fmt"]),
            tasks.step("skipped", "true", &["broken"]),
            report,
            after_failure(tasks.step("notify", "true", &[]), "broken"),
        ]
    },
};

const CHAIN: Shape = Shape {
    name: "chain",
    status: RunStatus::Successful,
    tasks: &[
        ("a", Successful, 1),
        ("b", Successful, 1),
        ("c", Successful, 1),
        ("d", Successful, 1),
        ("e", Successful, 1),
        ("f", Successful, 1),
    ],
    talkative: &["f"],
    build: |tasks| {
        let names = ["a", "b", "c", "d", "e", "f"];
        let links = names
            .windows(2)
            .map(|pair| tasks.step(pair[1], last_words(pair[1] == "f"), &[pair[0]]));
        std::iter::once(tasks.step("a", "true", &[])).chain(links).collect()
    },
};

const FAN: Shape = Shape {
    name: "fan",
    status: RunStatus::Successful,
    tasks: &[
        ("root", Successful, 1),
        ("a", Successful, 1),
        ("b", Successful, 1),
        ("c", Successful, 1),
        ("d", Successful, 1),
        ("e", Successful, 1),
        ("f", Successful, 1),
        ("join", Successful, 1),
    ],
    talkative: &["join"],
    build: |tasks| {
        let between = ["a", "b", "c", "d", "e", "f"];
        let mut all = vec![tasks.step("root", "true", &[])];
        all.extend(between.map(|name| tasks.step(name, "sleep 0.05", &["root"])));
        all.push(tasks.step("join", last_words(true), &between));
        all
    },
};

/// Fails for good, after all its retries.
const FAILING: Shape = Shape {
    name: "failing",
    status: RunStatus::Failed,
    tasks: &[("a", Failed, 3), ("b", Skipped, 0), ("c", Successful, 1)],
    talkative: &[],
    build: |tasks| {
        let mut failing = tasks.step("a", "exit 9", &[]);
        failing["retries"] = json!({ "attempts": 2, "backoff": "0.050s" });
        vec![failing, tasks.step("b", "true", &["a"]), tasks.step("c", "sleep 0.2", &[])]
    },
};

/// Takes too long, which another task makes good.
const SLOW: Shape = Shape {
    name: "slow",
    status: RunStatus::Successful,
    tasks: &[("hang", TimedOut, 1), ("rescue", Successful, 1)],
    talkative: &[],
    build: |tasks| {
        let mut hang = tasks.step("hang", "exec sleep 600", &[]);
        hang["timeout"] = json!("1s");
        vec![hang, after_failure(tasks.step("rescue", "true", &[]), "hang")]
    },
};

/// Has to be cancelled. How far it gets before is not known; the numbers are the most there can be.
const ENDLESS: Shape = Shape {
    name: "endless",
    status: RunStatus::Cancelled,
    tasks: &[("first", Cancelled, 1), ("hang", Cancelled, 1), ("after", Cancelled, 0)],
    talkative: &[],
    build: |tasks| {
        vec![
            tasks.step("first", "true", &[]),
            tasks.step("hang", "exec sleep 600", &["first"]),
            tasks.step("after", "true", &["hang"]),
        ]
    },
};

/// All that the load consists of.
pub(crate) const ALL: [&Shape; 6] = [&CI, &CHAIN, &FAN, &FAILING, &SLOW, &ENDLESS];

/// Where [`CI`] is in [`ALL`].
pub(crate) const CI_AT: usize = 0;

/// The line that an execution leaves.
pub(crate) fn mark(pipeline: &str, run: u64, task: &str, attempt: u32) -> String {
    format!("{pipeline}/{run}/{task}/{attempt}")
}

struct Tasks<'a> {
    marks: &'a Path,
}

impl Tasks<'_> {
    fn step(&self, id: &str, then: &str, after: &[&str]) -> Value {
        let marks = text(self.marks);
        let mark = "$GOFER_PIPELINE/$GOFER_RUN/$GOFER_TASK/$GOFER_ATTEMPT";
        script(id, &format!("echo {mark} >> {marks}; echo out of $GOFER_TASK; {then}"), after)
    }
}

fn after_failure(mut task: Value, of: &str) -> Value {
    task["dependsOn"] = json!([{ "task": of, "condition": "DEPENDENCY_CONDITION_FAILURE" }]);
    task
}

fn last_words(talkative: bool) -> &'static str {
    if talkative { "exec seq 1 2000" } else { "true" }
}
