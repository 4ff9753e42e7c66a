//! Help, completions, and what each kind of wrong use ends with.

use crate::harness::{NOBODY, gofer, run};

const COMMANDS: [&[&str]; 12] = [
    &["up"],
    &["pipeline", "get"],
    &["run", "start"],
    &["run", "logs"],
    &["task", "logs"],
    &["namespace", "create"],
    &["object", "put"],
    &["secret", "put"],
    &["event", "list"],
    &["token", "create"],
    &["system", "info"],
    &["completion"],
];

#[test]
fn every_command_has_help_with_an_example() {
    for command in COMMANDS {
        let ended = run(&[command, &["--help"]].concat()).expect(0);
        assert!(ended.stdout.contains("Examples:\n  gofer"), "{command:?}:\n{}", ended.stdout);
    }
}

#[test]
fn the_exit_codes_are_documented() {
    let help = run(&["--help"]).expect(0).stdout;
    for line in [
        "0  everything",
        "1  the run",
        "2  wrong use",
        "3  the server is unreachable",
        "4  refused",
    ] {
        assert!(help.contains(line), "`{line}` is not in:\n{help}");
    }
}

#[test]
fn the_supervisor_is_not_for_people() {
    let help = run(&["--help"]).expect(0).stdout;
    assert!(!help.contains("__supervisor"), "{help}");
}

#[test]
fn every_shell_gets_completions() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = run(&["completion", shell]).expect(0).stdout;
        assert!(script.contains("idempotency-key"), "{shell}: {script}");
    }
}

#[test]
fn wrong_use_ends_with_2() {
    let wrong: [&[&str]; 8] = [
        &["fly"],
        &["run", "start"],
        &["run", "get", "ci", "0"],
        &["run", "start", "ci", "--var", "NOVALUE"],
        &["secret", "put", "key"],
        &["secret", "put", "key", "--pipeline", "p", "--allow", "ns"],
        &["token", "create"],
        &["event", "list", "--follow", "--reverse"],
    ];
    for args in wrong {
        run(args).expect(2);
    }
}

#[test]
fn a_secret_is_never_an_argument() {
    run(&["secret", "put", "key", "value", "--pipeline", "p"])
        .expect(2)
        .says("unexpected argument");
    run(&["run", "list", "--token", "gofer_t_x"]).expect(2).says("unexpected argument");
}

#[test]
fn no_server_ends_with_3_and_says_how_to_start_one() {
    let ended = run(&["--addr", NOBODY, "run", "list"]).expect(3);
    ended.says(NOBODY).says("gofer server");
    let ended = gofer(&["system", "info"])
        .env("GOFER_API_ADDR", NOBODY)
        .output()
        .expect("the binary starts");
    assert_eq!(ended.status.code(), Some(3));
}

#[test]
fn an_address_that_is_none_ends_with_2() {
    run(&["--addr", "localhost:8469", "run", "list"]).expect(2).says("write it as");
    run(&["--addr", "https://localhost:1", "--ca-file", "/dev/null", "run", "list"])
        .expect(2)
        .says("no PEM certificate");
    run(&["--token-file", "/does/not/exist", "run", "list"]).expect(2).says("/does/not/exist");
}

#[test]
fn a_token_is_not_sent_in_clear_to_another_machine() {
    let output = gofer(&["--addr", "http://192.0.2.1:8469", "run", "list"])
        .env("GOFER_API_TOKEN", "gofer_t_hidden")
        .output();
    let output = output.expect("the binary starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("not encrypted") && !stderr.contains("gofer_t_hidden"), "{stderr}");
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    use std::io::Read as _;
    let mut child = gofer(&["completion", "zsh"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut first = [0; 1];
    let mut stdout = child.stdout.take().expect("stdout is piped");
    stdout.read_exact(&mut first).expect("a byte");
    drop(stdout);
    assert_eq!(child.wait().expect("the binary ends").code(), Some(0));
}
