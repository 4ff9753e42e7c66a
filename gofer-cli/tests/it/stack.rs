//! Gofer on a team's own backends, all four at once: PostgreSQL, S3, Vault and Nomad, chosen by a
//! file. The examples run on it as they are, and end as their READMEs say; two servers share it,
//! and one of them dies.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::json;
use tempfile::TempDir;

use crate::campaign::postgres::Postgres;
use crate::campaign::volume::skip;
use crate::harness::{finish_with_stdin, text};
use crate::pipelines::script;
use crate::serving::{Serving, rest, wait, wait_for_line};

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/rust");
const NAMES: [&str; 6] = ["hello", "dag", "retry", "secrets", "objects", "ci"];

/// Where the backends are, and what the servers on them share.
struct Stack {
    postgres: Postgres,
    dir: TempDir,
    name: String,
}

impl Stack {
    /// `None`, printed, where one of the four is missing and none is required.
    fn start(test: &str) -> Option<Self> {
        let required = std::env::var("GOFER_TEST_REQUIRE").unwrap_or_default();
        for (product, variable) in [
            ("s3", "GOFER_TEST_S3_ENDPOINT"),
            ("vault", "GOFER_TEST_VAULT_ADDR"),
            ("nomad", "GOFER_TEST_NOMAD_ADDR"),
        ] {
            if std::env::var_os(variable).is_none() {
                assert!(
                    !required.contains(product),
                    "GOFER_TEST_REQUIRE names {product}, and {variable} is not set"
                );
                skip(test, &format!("{variable} is not set"));
                return None;
            }
        }

        let postgres = Postgres::start(test)?;
        let dir = tempfile::tempdir().expect("a folder");
        let name = format!(
            "gofer-stack-{}",
            text(dir.path()).rsplit(['/', '.']).next().expect("a name").to_lowercase()
        );

        std::fs::write(dir.path().join("task.nomad.hcl"), template()).expect("a file");
        Some(Self { postgres, dir, name })
    }

    /// A server on all of it.
    fn serve(&self) -> Serving {
        let named =
            |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"));
        let Self { name, dir, postgres } = self;
        let config = format!(
            "[database]\nurl = {:?}\n[scheduler]\nbackend = \
             \"nomad\"\n[scheduler.nomad]\naddresses = [{:?}]\ntoken = {:?}\nhost_driver = \
             \"raw_exec\"\njob_prefix = {name:?}\njob_template = {:?}\n[objects]\nbackend = \
             \"s3\"\n[objects.s3]\nendpoint = {:?}\nbucket = {:?}\nprefix = \
             \"gofer-test/{name}/\"\naccess_key = {:?}\nsecret_key = {:?}\n[secrets]\nbackend = \
             \"vault\"\n[secrets.vault]\naddress = {:?}\nprefix = \
             {name:?}\n[secrets.vault.auth]\nmethod = \"token\"\ntoken = {:?}\n[engine]\nlease_ttl \
             = \"3s\"\n",
            postgres.url,
            named("GOFER_TEST_NOMAD_ADDR"),
            named("GOFER_TEST_NOMAD_TOKEN"),
            text(&dir.path().join("task.nomad.hcl")),
            named("GOFER_TEST_S3_ENDPOINT"),
            named("GOFER_TEST_S3_BUCKET"),
            named("GOFER_TEST_S3_ACCESS_KEY"),
            named("GOFER_TEST_S3_SECRET_KEY"),
            named("GOFER_TEST_VAULT_ADDR"),
            named("GOFER_TEST_VAULT_TOKEN"),
        );
        Serving::start_configured(tempfile::tempdir().expect("a folder"), &config)
    }
}

/// What nodes have in a team's cluster: `gofer` on every task's PATH, and a home for its tools.
fn template() -> String {
    let bin = Path::new(env!("CARGO_BIN_EXE_gofer")).parent().expect("a folder");
    let home = std::env::var("HOME").unwrap_or_else(|_| "/root".to_owned());
    let path = format!("{}:/usr/local/bin:/usr/bin:/bin", text(bin));
    format!(
        "job \"template\" {{\n  datacenters = [\"*\"]\n  group \"work\" {{\n    task \"run\" {{\n      \
         driver = \"raw_exec\"\n      env {{\n        PATH = {path:?}\n        HOME = {home:?}\n      \
         }}\n    }}\n  }}\n}}\n"
    )
}

/// Apart from the directory these tests were built in: that is another workspace, with other
/// features.
fn target_dir() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => Path::new(&dir).join("examples"),
        None => Path::new(EXAMPLES).join("target"),
    }
}

fn register(server: &Serving, example: &str) {
    let mut up = server.command(&["up", text(&Path::new(EXAMPLES).join(example))]);
    up.env("CARGO_TARGET_DIR", target_dir());
    finish_with_stdin(up, b"").expect(0);
    if example == "secrets" {
        let put = ["secret", "put", "greeting_token", "--pipeline", "secrets"];
        server.run_with_stdin(&put, b"correct horse").expect(0);
    }
}

/// What the example's README says of a run that has ended well.
fn ended_as_promised(server: &Serving, example: &str, run: &str) {
    let logs = || server.run(&["run", "logs", example, run]).expect(0).stdout;
    let get = |key: &str| {
        server.run(&["object", "get", key, "-", "--pipeline", example, "--run", run, "--direct"])
    };

    match example {
        "hello" => assert!(logs().contains("hello, world"), "{}", logs()),
        "dag" => {
            let tasks = server.run(&["task", "list", "dag", run]).expect(0).stdout;
            let has = |task: &str, status: &str| {
                tasks
                    .lines()
                    .any(|line| line.contains(task) && line.to_lowercase().contains(status))
            };

            assert!(
                has("risky", "failed")
                    && has("celebrate", "skipped")
                    && has("rescue", "successful"),
                "{tasks}"
            );
        }
        "retry" => {
            let flaky = server.run(&["task", "get", "retry", run, "flaky"]).expect(0).stdout;
            assert!(flaky.contains('3'), "{flaky}");
        }
        "secrets" => {
            let logs = logs();
            assert!(
                logs.contains("the token is ***") && logs.contains("it has 13 characters"),
                "{logs}"
            );
            assert!(!logs.contains("correct horse"), "a secret is in the log");
        }
        "objects" => assert!(!get("greeting.txt").expect(0).stdout.is_empty()),
        "ci" => {
            let kept = server.json(&["object", "list", "--pipeline", "ci", "--run", run]);
            assert!(kept.to_string().contains("wordcount.tar.gz"), "{kept:#}");
        }
        other => panic!("nobody says how `{other}` ends"),
    }
}

#[test]
fn every_example_is_listed_here() {
    let folders = std::fs::read_dir(EXAMPLES).expect("the examples").flatten();
    let mut found: Vec<_> = folders
        .filter(|entry| entry.path().join("Cargo.toml").is_file())
        .map(|entry| entry.file_name().into_string().expect("a name"))
        .collect();
    found.sort();
    let mut listed = NAMES.to_vec();
    listed.sort_unstable();
    assert_eq!(found, listed);
}

#[test]
fn every_example_ends_as_its_readme_says() {
    let Some(stack) = Stack::start("stack::every_example_ends_as_its_readme_says") else { return };
    let server = stack.serve();
    let info = server.json(&["system", "info", "--check"]);
    let backends = info["backends"].to_string();
    assert!(
        ["nomad", "s3", "vault", "postgres"].iter().all(|product| backends.contains(product)),
        "{info:#}"
    );
    for example in NAMES {
        register(&server, example);
        server.run(&["run", "start", example, "--follow"]).expect(0);
        ended_as_promised(&server, example, "1");
    }
}

#[test]
fn two_servers_share_the_examples_and_one_dies() {
    let Some(stack) = Stack::start("stack::two_servers_share_the_examples_and_one_dies") else {
        return;
    };

    let (mut first, second) = (stack.serve(), stack.serve());
    for example in NAMES {
        register(&first, example);
        first.run(&["run", "start", example]).expect(0);
        second.run(&["run", "follow", example, "1"]).expect(0);
        ended_as_promised(&second, example, "1");
    }

    let gate = stack.dir.path().join("gate");
    let waiting =
        format!("echo begun; while ! test -e {}; do sleep 0.1; done; echo over", text(&gate));
    first.up(&json!({ "name": "long", "tasks": [script("wait", &waiting, &[]), script("after", "true", &["wait"])] }));
    first.run(&["run", "start", "long"]).expect(0);

    let mut follow = second.command(&["run", "follow", "long", "1", "--logs"]);
    let mut follow =
        follow.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts");
    wait_for_line(&mut follow, |line| line.contains("| begun"));
    second.run(&["run", "cancel", "long", "1"]).expect(0);

    let said = rest(&mut follow);
    assert_eq!(wait(&mut follow).code(), Some(1), "a cancelled run: {said}");

    first.run(&["run", "start", "long"]).expect(0);
    let mut follow = second.command(&["run", "follow", "long", "2", "--logs"]);
    let mut follow =
        follow.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts");
    wait_for_line(&mut follow, |line| line.contains("| begun"));
    first.kill();
    std::fs::write(&gate, "").expect("a file");

    let said = rest(&mut follow);
    assert_eq!(wait(&mut follow).code(), Some(0), "{said}");
    assert_eq!(
        second.run(&["run", "logs", "long", "2"]).expect(0).stdout,
        "wait  | begun\nwait  | over\n"
    );

    let events = second.json(&[
        "event",
        "list",
        "--pipeline",
        "long",
        "--run",
        "2",
        "--type",
        "task_run_starting",
    ]);

    assert_eq!(
        events["events"].as_array().map(Vec::len),
        Some(2),
        "something ran twice: {events:#}"
    );

    for example in ["dag", "objects"] {
        second.run(&["run", "start", example, "--follow"]).expect(0);
        ended_as_promised(&second, example, "2");
    }
}
