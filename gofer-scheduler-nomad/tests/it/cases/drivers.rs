//! The drivers exec and docker of a real agent. What they do is Nomad's; that a spec reaches them
//! is not.

use std::time::Duration;

use futures::StreamExt;
use gofer_core::ErrorKind;
use gofer_core::scheduler::{
    EnvValue, ExecOutput, ExecRequest, ExecSession, ExecSupport, ExecutionSpec, ExecutionState,
    FailureKind, Scheduler,
};
use gofer_scheduler_nomad::{HostDriver, NomadConfig};
use sha2::{Digest as _, Sha256};

use crate::agent::{self, Agent};
use crate::support::{Setup, by_busybox, exited, id, image, script};

/// Ends, prints a secret of several lines, is stopped.
async fn lives(setup: &Setup, spec: impl Fn(&str) -> ExecutionSpec) {
    const SECRET: &str = "one\n\t\"two\" $HOME ${x} \\n\n";

    assert_eq!(setup.run(&id("exits"), &spec("exit 3")).await, exited(3));
    let mut secret = spec("printf '%s|%s' \"$SECRET\" \"$PLAIN\"");
    secret.env.insert("SECRET".to_owned(), EnvValue::Secret(SECRET.into()));
    secret.env.insert("PLAIN".to_owned(), EnvValue::Plain("${NOMAD_ALLOC_ID}".to_owned()));
    assert_eq!(setup.run(&id("secret"), &secret).await, exited(0));

    let output = String::from_utf8(setup.stdout(&id("secret"), true).await).expect("text");
    assert_eq!(output, format!("{SECRET}|${{NOMAD_ALLOC_ID}}"));
    for (name, text, grace) in [
        (
            "asked",
            "trap 'echo asked; exit 0' TERM; echo ready; while sleep 0.1; do :; done",
            20_u64,
        ),
        ("killed", "trap '' TERM; echo ready; while sleep 0.1; do :; done", 0),
    ] {
        setup.start(&id(name), &spec(text)).await;
        setup.running(&id(name)).await;
        gofer_conformance::eventually("it has written", async || {
            let output = setup.stdout(&id(name), false).await;
            if output == b"ready\n" { Ok(()) } else { Err(format!("{output:?}")) }
        })
        .await;
        setup.scheduler().stop(&id(name), Duration::from_secs(grace)).await.expect("stop");
        assert_eq!(setup.ended(&id(name)).await, ExecutionState::Stopped);
    }

    assert_eq!(setup.stdout(&id("asked"), true).await, b"ready\nasked\n");
}

/// A command in a container: it sees the task, its output and exit code come through, and nothing
/// is left of it, however the session ends.
async fn shell_in(setup: &Setup, spec: &ExecutionSpec) {
    let scheduler = setup.scheduler();
    setup.start(&id("shell"), spec).await;
    setup.running(&id("shell")).await;
    let open = async |script: &str| {
        let command: Vec<String> = ["sh", "-c", script].map(str::to_owned).to_vec();
        // With many containers at once docker loses one now and then.
        gofer_conformance::eventually("a command begins", async || {
            match scheduler
                .open_session(
                    &id("shell"),
                    ExecRequest { command: command.clone(), terminal: None },
                )
                .await
            {
                Ok(session) => Ok(session),
                Err(error) if error.kind == ErrorKind::Unavailable => Err(error.to_string()),
                Err(error) => panic!("{error}"),
            }
        })
        .await
    };

    let run = async |script: &str| {
        let ExecSession { input: _input, output } = open(script).await;
        let pieces: Vec<ExecOutput> = output.map(|piece| piece.expect("a piece")).collect().await;
        let text: Vec<u8> = pieces.iter().flat_map(stdout).copied().collect();
        (String::from_utf8(text).expect("text"), pieces.last().cloned())
    };

    assert_eq!(
        run("printf %s \"$SECRET\"; exit 6").await,
        ("value".to_owned(), Some(ExecOutput::Exited(6)))
    );

    for round in 0..5 {
        // Nomad itself drops what docker still holds when the command has ended.
        let (text, end) = run("head -c 500000 /dev/zero | tr '\\0' x; exit 4").await;
        assert_eq!((text.len(), end), (500_000, Some(ExecOutput::Exited(4))), "round {round}");
    }

    let is_gone = async |pid: &str| {
        gofer_conformance::eventually("nothing is left", async || {
            let (state, _) =
                run(&format!("cat /proc/{}/stat 2>/dev/null || echo gone", pid.trim())).await;
            if state == "gone\n" || state.contains(") Z ") { Ok(()) } else { Err(state) }
        })
        .await;
    };

    const CHILD: &str = "(trap '' TERM HUP; while :; do sleep 0.1; done) & echo $!";

    let (pid, _) = run(CHILD).await;
    is_gone(&pid).await;
    let mut session = open(&format!("{CHILD}; wait")).await;
    let first = session.output.next().await.expect("a line").expect("a line");
    drop(session);
    is_gone(&String::from_utf8_lossy(stdout(&first))).await;
    scheduler.stop(&id("shell"), Duration::ZERO).await.expect("stop");
    setup.ended(&id("shell")).await;
}

fn stdout(piece: &ExecOutput) -> &[u8] {
    match piece {
        ExecOutput::Stdout(data) => data,
        ExecOutput::Stderr(_) | ExecOutput::Exited(_) => b"",
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_runs_in_a_container_on_a_real_agent() {
    const TEST: &str = "a command in a container on a real agent";
    let Some(agent) = Agent::with_driver(TEST, "docker").await else { return };
    let Some(name) = agent::image(TEST) else { return };
    let setup = Setup::real(&crate::acl::with_exec(&agent).await, |_| {}).await;
    let mut spec = image(&name, "while sleep 0.1; do :; done");
    spec.env.insert("SECRET".to_owned(), EnvValue::Secret("value".into()));
    shell_in(&setup, &spec).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_runs_what_it_is_given_on_a_real_agent() {
    let Some(agent) = Agent::with_driver("exec on a real agent", "exec").await else { return };
    let setup = Setup::real(&agent, |config| config.host_driver = HostDriver::Exec).await;
    lives(&setup, |text| script(text, [])).await;
    let mut missing = script("", []);
    missing.command = vec!["gofer-no-such-command".to_owned()];

    match setup.run(&id("missing"), &missing).await {
        ExecutionState::Failed { kind: FailureKind::CommandNotFound, message } => {
            assert!(message.contains("gofer-no-such-command"), "{message}");
        }
        other => panic!("{other:?}"),
    }

    let mut huge = script("printf %s \"$HUGE\"", []);
    let value = "x".repeat(70_000);
    huge.env.insert("HUGE".to_owned(), EnvValue::Secret(value.clone().into()));
    assert_eq!(
        setup.run(&id("huge"), &huge).await,
        exited(0),
        "a secret that no line of variables holds"
    );
    assert_eq!(setup.stdout(&id("huge"), true).await, value.as_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_runs_what_it_is_given_on_a_real_agent() {
    let Some(agent) = Agent::with_driver("docker on a real agent", "docker").await else { return };
    let Some(name) = agent::image("docker on a real agent") else { return };
    let setup = Setup::real(&agent, |_: &mut NomadConfig| {}).await;
    lives(&setup, |text| image(&name, text)).await;

    let mut limited = image(&name, "x=x; while :; do x=$x$x; done");
    limited.resources.memory_bytes = Some(32 * 1024 * 1024);
    match setup.run(&id("memory"), &limited).await {
        ExecutionState::Exited { code, .. } => assert_ne!(code, 0),
        other => panic!("{other:?}"),
    }

    let missing = image("127.0.0.1:1/gofer-no-such-image:1", "true");
    match setup.run(&id("image"), &missing).await {
        ExecutionState::Failed { kind: FailureKind::ImageUnavailable, message } => {
            assert!(message.contains("gofer-no-such-image"), "{message}");
        }
        other => panic!("{other:?}"),
    }
}

/// Without the shell, most of this does not hold of such a program; see `docker_log.rs`.
#[tokio::test(flavor = "multi_thread")]
async fn any_program_of_an_image_runs_behind_its_shell_on_a_real_agent() {
    const TEST: &str = "any program behind the shell of its image on a real agent";

    let Some(agent) = Agent::with_driver(TEST, "docker").await else { return };
    let Some(name) = agent::image(TEST) else { return };
    let setup = Setup::real(&agent, |config| config.image_shell = Some("/bin/sh".to_owned())).await;
    let busybox = |text: &str| by_busybox(image(&name, text));
    lives(&setup, busybox).await;

    let mut last = busybox("printf '\\377%s' \"$SECRET\"; echo err >&2");
    let value = "x".repeat(70_000);
    last.env.insert("SECRET".to_owned(), EnvValue::Secret(value.clone().into()));
    assert_eq!(setup.run(&id("last"), &last).await, exited(0));

    let output = setup.stdout(&id("last"), true).await;
    assert_eq!(
        output,
        [&b"\xff"[..], value.as_bytes()].concat(),
        "no UTF-8, no newline, a long secret, and over at once"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_whose_user_is_not_root_runs_on_a_real_agent() {
    const TEST: &str = "an image whose user is not root on a real agent";

    let Some(agent) = Agent::with_driver(TEST, "docker").await else { return };
    let Some(name) = agent::user_image(TEST) else { return };
    let setup = Setup::real(&crate::acl::with_exec(&agent).await, |_| {}).await;

    // What it prints may come too late; what it ends with does not.
    let user = "while read -r key value _; do [ \"$key\" != Uid: ] || [ \"$value\" != 1000 ] || \
                exit 7; done </proc/self/status";
    assert_eq!(setup.run(&id("user"), &image(&name, user)).await, exited(7));

    for (task, value) in
        [("short", "one\n\t\"two\" $HOME ${x} \\n\n".to_owned()), ("long", "x".repeat(70_000))]
    {
        let check =
            "d=$(printf %s \"$SECRET\" | sha256sum) && [ \"${d%% *}\" = \"$DIGEST\" ] && exit 7";
        let mut secret = image(&name, check);
        let digest = Sha256::digest(&value).iter().map(|byte| format!("{byte:02x}")).collect();
        secret.env.insert("DIGEST".to_owned(), EnvValue::Plain(digest));
        secret.env.insert("SECRET".to_owned(), EnvValue::Secret(value.into()));
        assert_eq!(setup.run(&id(task), &secret).await, exited(7), "the {task} secret");
    }

    let waits = image(&name, "trap 'exit 0' TERM; while sleep 0.1; do :; done");
    setup.start(&id("stopped"), &waits).await;
    setup.running(&id("stopped")).await;
    setup.scheduler().stop(&id("stopped"), Duration::from_secs(20)).await.expect("stop");
    assert_eq!(setup.ended(&id("stopped")).await, ExecutionState::Stopped);

    let mut spec = image(&name, "while sleep 0.1; do :; done");
    spec.env.insert("SECRET".to_owned(), EnvValue::Secret("value".into()));
    shell_in(&setup, &spec).await;
}
