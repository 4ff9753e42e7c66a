//! `gofer local`: one command, no server.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{Ended, finish_with_stdin, gofer, run, run_with_stdin, text};
use crate::pipelines::script;
use crate::serving::{Serving, signal, wait, wait_for_line};

fn spec(tasks: Vec<Value>) -> Vec<u8> {
    json!({ "name": "ci", "tasks": tasks }).to_string().into_bytes()
}

fn local(args: &[&str], tasks: Vec<Value>) -> Ended {
    run_with_stdin(&[&["local", "-"], args].concat(), &spec(tasks))
}

fn example(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../examples/rust").join(name)
}

#[test]
fn a_run_that_succeeds_ends_with_0() {
    let ended =
        local(&[], vec![script("build", "echo quiet", &[]), script("test", "true", &["build"])])
            .expect(0);
    assert!(ended.stdout.contains("default/ci #1 successful in"), "{}", ended.stdout);
    assert!(!ended.stdout.contains("quiet"), "{}", ended.stdout);
    assert!(
        ended.stdout.contains("build  running") || ended.stdout.contains("build  successful"),
        "{}",
        ended.stdout
    );
}

#[test]
fn a_run_that_fails_ends_with_1_and_shows_why() {
    let ended = local(&[], vec![script("build", "echo the reason; exit 9", &[])]).expect(1);
    assert!(ended.stdout.contains("build | the reason\n"), "{}", ended.stdout);
    assert!(ended.stdout.contains("default/ci #1 failed in"), "{}", ended.stdout);
}

#[test]
fn quiet_leaves_the_logs_of_failures() {
    let ended = local(&["-q"], vec![script("build", "echo the reason; exit 9", &[])]).expect(1);
    assert_eq!(ended.stdout, "build | the reason\n");
}

#[test]
fn a_wrong_spec_ends_with_2_before_anything_runs() {
    local(&[], vec![script("a", "true", &["nobody"])]).expect(2).says("nobody");
    local(&["--var", "GOFER_X=1"], vec![script("a", "true", &[])]).expect(2).says("GOFER_X");
    local(&["--secret", "no-such"], vec![script("a", "true", &[])])
        .expect(2)
        .says("GOFER_SECRET_NO_SUCH");
}

#[test]
fn another_namespace_is_made() {
    let ended = local(&["-n", "web", "--logs"], vec![script("a", "echo in $GOFER_NAMESPACE", &[])])
        .expect(0);
    assert!(ended.stdout.contains("a | in web\n"), "{}", ended.stdout);
}

#[test]
fn secrets_come_from_files_and_the_environment() {
    let dir = tempfile::tempdir().expect("a folder");
    let (own, global) = (dir.path().join("own"), dir.path().join("global"));
    std::fs::write(&own, "# mine\nfirst=hunter-one\n").expect("a file");
    std::fs::write(&global, "second=hunter-two\n").expect("a file");

    let mut task =
        script("a", "test $A$B$C = hunter-onehunter-twohunter-three && echo $A $B $C", &[]);
    task["variables"] =
        json!({"A": "secret{{first}}", "B": "global_secret{{second}}", "C": "secret{{third}}"});

    let mut command =
        gofer(&["local", "-", "--logs", "--secret", "third", "--secret-file", text(&own)]);
    command.args(["--global-secret-file", text(&global)]).env("GOFER_SECRET_THIRD", "hunter-three");
    let ended = finish_with_stdin(command, &spec(vec![task])).expect(0);
    assert!(ended.stdout.contains("a | *** *** ***\n"), "{}", ended.stdout);
    assert!(
        !ended.stdout.contains("hunter") && !ended.stderr.contains("hunter"),
        "a secret is shown"
    );
}

#[test]
fn what_is_kept_can_be_served() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut command = gofer(&["local", "-", "--keep"]);
    command.env("TMPDIR", dir.path());
    let ended = finish_with_stdin(command, &spec(vec![script("a", "echo kept", &[])])).expect(0);
    let kept = ended.stderr.split('`').nth(1).expect("the folder's name").to_owned();
    let server = Serving::start_on(dir, Path::new(&kept));
    assert_eq!(server.run(&["run", "logs", "ci"]).expect(0).stdout, "a | kept\n");
}

#[test]
fn nothing_is_left_behind() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut command = gofer(&["local", "-"]);
    command.env("TMPDIR", dir.path());
    finish_with_stdin(command, &spec(vec![script("a", "true", &[])])).expect(0);
    let left: Vec<_> = std::fs::read_dir(dir.path()).expect("the folder").collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Starts a run of one task and waits until its log says "begun".
fn begun(task: Value) -> std::process::Child {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("spec.json");
    std::fs::write(&file, spec(vec![task])).expect("a file");
    let mut command = gofer(&["local", text(&file), "--logs"]);
    let mut child =
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts");
    wait_for_line(&mut child, |line| line.contains("| begun"));
    child
}

#[test]
fn ctrl_c_cancels_the_run() {
    let mut child = begun(script("a", "echo begun; exec sleep 600", &[]));
    signal(&child, Signal::INT);
    let rest = crate::serving::rest(&mut child);
    assert_eq!(wait(&mut child).code(), Some(130), "{rest}");
    assert!(rest.contains("default/ci #1 cancelled in"), "{rest}");
}

#[test]
fn a_second_ctrl_c_kills_what_does_not_listen() {
    let mut child =
        begun(script("a", "trap '' TERM INT; echo begun; while true; do sleep 1; done", &[]));
    signal(&child, Signal::INT);
    // The first one has been seen when the note is there; it goes to stderr.
    use std::io::{BufRead as _, BufReader};
    let mut note = String::new();
    BufReader::new(child.stderr.as_mut().expect("stderr is piped"))
        .read_line(&mut note)
        .expect("a line");
    assert!(note.contains("cancelling"), "{note}");
    signal(&child, Signal::INT);
    let rest = crate::serving::rest(&mut child);
    assert_eq!(wait(&mut child).code(), Some(130), "{rest}");
    assert!(rest.contains("cancelled in"), "{rest}");
}

#[test]
fn example_hello() {
    let ended = run(&["local", text(&example("hello")), "--var", "NAME=you", "--logs"]).expect(0);
    assert!(ended.stdout.contains("greet | hello, you\n"), "{}", ended.stdout);
}

#[test]
fn example_dag() {
    let ended = run(&["local", text(&example("dag"))]).expect(0);
    assert!(
        ended.stdout.contains("celebrate") && ended.stdout.contains("skipped"),
        "{}",
        ended.stdout
    );
}

#[test]
fn example_retry() {
    run(&["local", text(&example("retry"))]).expect(0);
}

#[test]
fn example_objects() {
    run(&["local", text(&example("objects"))]).expect(0);
}

#[test]
fn example_secrets() {
    let secrets = example("secrets");
    run(&["local", text(&secrets)]).expect(1);
    let mut command = gofer(&["local", text(&secrets), "--logs", "--secret", "greeting_token"]);
    command.env("GOFER_SECRET_GREETING_TOKEN", "correct horse");
    let ended = finish_with_stdin(command, b"").expect(0);
    assert!(
        ended.stdout.contains("the token is ***") && !ended.stdout.contains("correct horse"),
        "{}",
        ended.stdout
    );
}

#[test]
fn example_ci() {
    let ended = run(&["local", text(&example("ci"))]).expect(0);
    assert!(ended.stdout.contains("default/ci #1 successful in"), "{}", ended.stdout);
}
