//! What an execution finds when it starts.

use gofer_core::scheduler::EnvValue;
use secrecy::SecretString;

use super::{SchedulerHarness, ended, exited, followed, running, start};

/// Variables, plain and secret, arrive unchanged.
pub async fn variables_arrive_unchanged(harness: &dyn SchedulerHarness) {
    let scheduler = harness.backend();
    let long = "x".repeat(64 * 1024);
    let values = [
        "",
        " spaces ",
        "two\nlines\n",
        "naïve 🔑",
        "quotes \" ' ` \\ $HOME $(id) %s ${x} {{y}}",
        "a=b",
        &long,
    ];

    for (index, value) in values.into_iter().enumerate() {
        for secret in [false, true] {
            let mut spec = harness.workloads().print_env("GOFER_CONFORMANCE");
            let other = EnvValue::Plain("another's value".to_owned());
            let wanted = if secret {
                EnvValue::Secret(SecretString::from(value))
            } else {
                EnvValue::Plain(value.to_owned())
            };

            spec.env.extend([
                ("GOFER_CONFORMANCE".to_owned(), wanted),
                ("GOFER_CONFORMANCE_2".to_owned(), other),
            ]);

            let id = start(&*scheduler, &spec).await;
            let output = followed(&*scheduler, &id).await;
            assert!(
                output.stdout == value.as_bytes(),
                "value {index}, secret: {secret}: {output:?}"
            );
        }
    }
}

/// The environment is complete: nothing of the server's own comes with it.
pub async fn no_variable_of_the_server_leaks(harness: &dyn SchedulerHarness) {
    let scheduler = harness.backend();
    // Cargo sets this one for every test.
    let id = start(&*scheduler, &harness.workloads().print_env("CARGO_MANIFEST_DIR")).await;
    assert_eq!(followed(&*scheduler, &id).await.stdout, b"");
    assert_eq!(ended(&*scheduler, &id).await, exited(0));
}

/// Without a working directory in the spec, the host executor gives each execution a fresh one; it
/// may have the same name where each execution has a file system of its own.
pub async fn each_execution_has_a_working_directory_of_its_own(harness: &dyn SchedulerHarness) {
    let scheduler = harness.backend();
    if !scheduler.capabilities().host {
        return;
    }
    let mut dirs = Vec::new();
    for _ in 0..2 {
        let id = start(&*scheduler, &harness.workloads().print_working_dir()).await;
        dirs.push(String::from_utf8(followed(&*scheduler, &id).await.stdout).expect("a path"));
        assert_eq!(ended(&*scheduler, &id).await, exited(0));
    }
    assert!(dirs[0].starts_with('/'), "{dirs:?}");
    if !harness.workloads().has_own_root() {
        assert_ne!(dirs[0], dirs[1]);
    }
}

/// The host executor runs a command in the directory that its spec names.
pub async fn a_given_working_directory_is_used(harness: &dyn SchedulerHarness) {
    let scheduler = harness.backend();
    if !scheduler.capabilities().host {
        return;
    }
    let mut spec = harness.workloads().print_working_dir();
    spec.working_dir = Some("/".to_owned());
    let id = start(&*scheduler, &spec).await;
    assert_eq!(followed(&*scheduler, &id).await.stdout, b"/\n");
}

/// On the host executor, the entrypoint's words come before the command's.
pub async fn the_entrypoint_comes_before_the_command(harness: &dyn SchedulerHarness) {
    let scheduler = harness.backend();
    if !scheduler.capabilities().host {
        return;
    }

    let mut spec = harness.workloads().print(b"out", b"err");
    let words = spec.command.clone();
    for length in [1, words.len()] {
        spec.entrypoint = words[..length].to_vec();
        spec.command = words[length..].to_vec();
        let id = start(&*scheduler, &spec).await;
        assert_eq!(
            followed(&*scheduler, &id).await.stdout,
            b"out",
            "{length} words in the entrypoint"
        );
        assert_eq!(ended(&*scheduler, &id).await, exited(0));
    }
}

/// A secret variable does not show in the scheduler's `Debug`.
pub async fn no_secret_shows_in_debug(harness: &dyn SchedulerHarness) {
    const CANARY: &str = "canary-77a1d0";
    let scheduler = harness.backend();
    let mut spec = harness.workloads().until_stopped();
    spec.env.insert("GOFER_CONFORMANCE".to_owned(), EnvValue::Secret(SecretString::from(CANARY)));
    let id = start(&*scheduler, &spec).await;
    running(&*scheduler, &id).await;
    assert!(!format!("{scheduler:?} {spec:?}").contains(CANARY), "the value shows");
    scheduler.stop(&id, std::time::Duration::ZERO).await.expect("stop");
    ended(&*scheduler, &id).await;
}
