//! The whole of it on a real Nomad agent: this server, its scheduler, and `gofer supervise` in
//! front of every task.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::Instant;

use serde_json::{Value, json};

use crate::campaign::volume::skip;
use crate::harness::text;
use crate::pipelines::script;
use crate::serving::{SOON, Serving};

/// What the scheduler says of a report that it takes.
const TAKEN: &str = "an execution reported its end";

/// A server whose tasks run on the agent of the environment, supervised by this binary.
fn serve(test: &str) -> Option<Serving> {
    let value = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let Some(agent) = value("GOFER_TEST_NOMAD_ADDR") else {
        let required = value("GOFER_TEST_REQUIRE").unwrap_or_default();
        assert!(
            !required.split(',').any(|name| name == "nomad"),
            "GOFER_TEST_REQUIRE names nomad, and there is none"
        );
        skip(test, "GOFER_TEST_NOMAD_ADDR is not set");
        return None;
    };

    let dir = tempfile::tempdir().expect("a folder");
    let mut config = format!(
        "[log]\nlevel = \"gofer_scheduler_nomad=debug,info\"\n[scheduler]\nbackend = \
         \"nomad\"\n[scheduler.nomad]\naddresses = [\"{agent}\"]\nhost_driver = \
         \"raw_exec\"\nidentity = true\nsupervisor = \"{}\"\njob_prefix = \
         \"gofer-{}\"\ndefault_memory_mb = 32\n",
        env!("CARGO_BIN_EXE_gofer"),
        dir.path()
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .trim_start_matches('.')
            .to_lowercase(),
    );

    if let Some(token) = value("GOFER_TEST_NOMAD_TOKEN") {
        let path = dir.path().join("nomad-token");
        let options = std::fs::File::options().create_new(true).write(true).mode(0o600).open(&path);
        options.expect("a file").write_all(token.as_bytes()).expect("the token");
        config += &format!("token_file = \"{}\"\n", text(&path));
    }

    Some(Serving::start_configured(dir, &config))
}

fn complete(server: &Serving, run: &str) -> Value {
    server.eventually(&["run", "get", "ci", run], |found| {
        found["run"]["state"] == "RUN_STATE_COMPLETE"
    })
}

/// How a task ended.
fn ended(server: &Serving, run: &str, task: &str) -> Value {
    server.json(&["task", "get", "ci", run, task])["taskRun"].clone()
}

/// How many reports were taken, once they are so many.
fn eventually_taken(server: &Serving, wanted: usize) {
    let since = Instant::now();
    loop {
        let taken = server.log().matches(TAKEN).count();
        if taken >= wanted {
            assert_eq!(taken, wanted, "more reports than ends");
            return;
        }
        assert!(
            since.elapsed() < SOON,
            "{taken} of {wanted} reports were taken:\n{}",
            server.log()
        );
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn supervised_tasks_report_their_ends_and_end_as_they_did() {
    let Some(server) = serve("supervised tasks on a real agent") else { return };
    let tasks = json!([
        script("good", "echo out $GOFER_API_TOKEN; echo err >&2", &[]),
        script("bad", "echo bad; exit 3", &[]),
        script("signal", "kill -TERM $$; sleep 60", &[]),
        script("after", "true", &["good"]),
    ]);

    server.up(&json!({"name": "ci", "tasks": tasks}));
    server.run(&["run", "start", "ci"]).expect(0);
    assert_eq!(complete(&server, "1")["run"]["status"], "RUN_STATUS_FAILED");

    for task in ["good", "after"] {
        let found = ended(&server, "1", task);
        assert_eq!(found["status"], "TASK_RUN_STATUS_SUCCESSFUL", "{found:#}");
    }

    let (bad, signal) = (ended(&server, "1", "bad"), ended(&server, "1", "signal"));
    assert_eq!(bad["exitCode"], 3, "{bad:#}");
    assert!(signal["reason"].to_string().contains("signal 15"), "{signal:#}");
    eventually_taken(&server, 4);

    // Nomad's log collector had not written all of it when the end was reported.
    let log = server.run(&["task", "logs", "ci", "1", "good", "--follow"]).expect(0).says("err\n");
    assert_eq!(log.stdout, "out ***\n", "the token that Nomad gave it is masked");
    assert!(!server.log().contains("ended otherwise than it reported"), "{}", server.log());
}

#[test]
fn tasks_end_as_they_did_when_their_gofer_is_away() {
    let Some(mut server) = serve("supervised tasks without a server") else { return };
    let dir = tempfile::tempdir().expect("a folder");
    let gate = dir.path().join("gate");
    let wait = format!("while [ ! -e {} ]; do sleep 0.05; done; exit 5", text(&gate));
    server.up(&json!({"name": "ci", "tasks": [script("t", &wait, &[])]}));
    server.run(&["run", "start", "ci"]).expect(0);
    server.eventually(&["task", "get", "ci", "1", "t"], |found| {
        found["taskRun"]["state"] == "TASK_RUN_STATE_RUNNING"
    });

    server.kill();
    std::fs::write(&gate, "").expect("open the gate");
    server.restart();
    complete(&server, "1");

    let found = ended(&server, "1", "t");
    assert_eq!(
        (&found["status"], &found["exitCode"]),
        (&json!("TASK_RUN_STATUS_FAILED"), &json!(5)),
        "{found:#}"
    );
}
