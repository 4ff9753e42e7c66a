//! What a task cannot get at: under Landlock, as another user, and without either.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use futures::StreamExt;
use gofer_conformance::{eventually, within};
use gofer_core::exec::{ExecOutput, ExecRequest};
use gofer_core::scheduler::{EnvValue, ExecSupport, ExecutionState, FailureKind, Scheduler};
use gofer_scheduler_local::{LandlockMode, LocalScheduler, UsersConfig};

use crate::support::{
    Local, ended, exited, has_written, id, launcher, live_pids, output, run, script, state,
    zygote_pid,
};

/// A scheduler whose tasks are under Landlock; `None` where the kernel has none, and says so.
async fn landlocked(test: &str) -> Option<Local> {
    let mut config = crate::support::config(Path::new("/nowhere"));
    config.landlock = LandlockMode::Require;
    match LocalScheduler::connect(config, launcher()).await {
        Err(error) if error.message.contains("Landlock ABI 6") => {
            gofer_conformance::skip("landlock", test, "this kernel has no Landlock of ABI 6");
            None
        }
        _ => {
            let _ = std::fs::remove_dir_all("/nowhere");
            let outside = |config: &mut gofer_scheduler_local::LocalSchedulerConfig| {
                config.landlock = LandlockMode::Require;
                let data = config.dir.parent().expect("a parent").join("data");
                std::fs::create_dir(&data).expect("the data directory");
                std::fs::write(data.join("secrets.key"), "key\n").expect("a file of the server");
                config.protected = vec![data];
            };

            Some(Local::open_with(outside).await)
        }
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[tokio::test]
async fn a_task_under_landlock_opens_nothing_of_the_server() {
    let Some(local) = landlocked("a_task_under_landlock_opens_nothing_of_the_server").await else {
        return;
    };

    let scheduler = local.scheduler();
    scheduler
        .start(&id("other"), &script("echo mine > file; echo ready; exec sleep 1000", []))
        .await
        .expect("start");
    has_written(scheduler, &id("other"), "ready").await;

    let other = local.config.dir.join("x/ns.pipe.1.other.1");
    let free = tempfile::tempdir().expect("a directory");

    let attack = r#"
        cat "$1/secrets.key" && echo "reads the key"
        cat "$2/work/file" && echo "reads another's file"
        cat "$2/log" && echo "reads another's log"
        echo 0 > "$2/stop" && echo "stops another"
        echo x > "$1/new" && echo "writes into the data directory"
        rm "$1/secrets.key" && echo "deletes the key"
        ln "$1/secrets.key" link && echo "links the key"
        cat ../../other* ../../../server.lock && echo "reads by a relative path"
        echo own > own && cat own && mkdir -p a/b && mv own a/b/ && rm -r a && echo "has its directory"
        echo free > "$3/file" && cat "$3/file" && ls / > /dev/null && echo "has the rest"
        echo out > /dev/stdout && sh -c 'sleep 1000 & kill $!' && echo "has its children""#;
    let data = local.config.protected[0].clone();
    let mut attack = script(attack, [text(&data), text(&other), text(free.path())]);

    attack.separate_output = true;
    assert_eq!(run(scheduler, &id("attack"), &attack).await, exited(0));
    let (out, err) = output(scheduler, &id("attack"), false).await;
    let had = "own\nhas its directory\nfree\nhas the rest\nout\nhas its children\n";
    assert_eq!(out, had, "{err}");
    assert_eq!(std::fs::read_to_string(data.join("secrets.key")).expect("the key"), "key\n");

    // What is made beside the way later is open to who starts after it.
    let late = data.with_file_name("late");
    std::fs::create_dir(&late).expect("a directory");
    let writes = script("echo late > \"$1/file\"", [text(&late)]);
    assert_eq!(run(scheduler, &id("late"), &writes).await, exited(0));
    scheduler.stop(&id("other"), Duration::ZERO).await.expect("stop");
    ended(scheduler, &id("other")).await;
}

#[tokio::test]
async fn a_task_under_landlock_signals_and_sees_only_its_own_processes() {
    let Some(local) =
        landlocked("a_task_under_landlock_signals_and_sees_only_its_own_processes").await
    else {
        return;
    };

    let scheduler = local.scheduler();
    let mut victim = script("echo ready; exec sleep 1000", []);
    victim.env.insert("CANARY".into(), EnvValue::Secret("canary".into()));
    scheduler.start(&id("victim"), &victim).await.expect("start");
    has_written(scheduler, &id("victim"), "ready").await;

    let (supervisor, task) = live_pids(&local.config);
    let (zygote, server) = (zygote_pid(scheduler).await, std::process::id());

    let attack = "for pid in $PPID \"$@\"; do kill -0 $pid && echo \"signals $pid\"; cat \
                  /proc/$pid/environ > /dev/null && echo \"reads $pid\"; done; kill -9 $PPID; echo \
                  lives";
    let pids = [supervisor.to_string(), task.to_string(), zygote.to_string(), server.to_string()];
    let mut attack = script(attack, pids.each_ref().map(String::as_str));
    attack.separate_output = true;
    assert_eq!(run(scheduler, &id("attack"), &attack).await, exited(0));

    let (out, err) = output(scheduler, &id("attack"), false).await;
    assert_eq!(out, "lives\n", "{err}");

    // A session beside the victim is bound as it is.
    let command = format!(
        "kill -9 {supervisor} {server} || echo bound; cat /proc/{server}/environ || echo blind"
    );
    assert_eq!(session(scheduler, "victim", &command).await, "bound\nblind\n");
    assert_eq!(state(scheduler, &id("victim")).await, ExecutionState::Running);
    scheduler.stop(&id("victim"), Duration::ZERO).await.expect("stop");
    ended(scheduler, &id("victim")).await;
}

/// What a shell command beside a task writes to stdout.
async fn session(scheduler: &LocalScheduler, task: &str, command: &str) -> String {
    let command = ["/bin/sh", "-c", command].map(str::to_owned).to_vec();
    let request = ExecRequest { command, terminal: None };
    let mut session = scheduler.open_session(&id(task), request).await.expect("a session");
    let mut written = Vec::new();
    within("the session ends", async {
        while let Some(output) = session.output.next().await {
            if let ExecOutput::Stdout(data) = output.expect("output") {
                written.extend_from_slice(&data);
            }
        }
    })
    .await;
    String::from_utf8(written).expect("text")
}

/// With a user per namespace; `None` where this test may not become others, and says so.
async fn with_users(test: &str) -> Option<Local> {
    if !rustix::process::geteuid().is_root() {
        gofer_conformance::skip("root", test, "only root becomes other users");
        return None;
    }
    Some(Local::open_for_users().await)
}

mod conformance_of_users {
    async fn local() -> crate::support::Local {
        if rustix::process::geteuid().is_root() {
            crate::support::Local::open_for_users().await
        } else {
            gofer_conformance::skip(
                "root",
                "conformance with users",
                "only root becomes other users",
            );
            crate::support::Local::open().await
        }
    }

    mod scheduler {
        gofer_conformance::scheduler_conformance!(super::local);
    }
}

#[tokio::test]
async fn a_task_of_another_user_is_at_home_in_its_directory() {
    let Some(local) = with_users("a_task_of_another_user_is_at_home_in_its_directory").await else {
        return;
    };

    let scheduler = local.scheduler();
    assert!(scheduler.capabilities().isolates_namespaces);
    let look = r#"id -u; id -G; pwd -P; [ "$HOME" = "$PWD" ] && mktemp; touch "$HOME/file"; stat -c %a . "$TMPDIR";
                  grep NoNewPrivs /proc/self/status; echo out > /dev/stdout;
                  ls ../../.. >&2 || echo unlisted; ls .. >&2 || echo unlisted; cat ../../../users >&2 || echo closed;
                  mkdir -m 0 closed; exit 3"#;
    let mut look = script(look, []);

    look.separate_output = true;
    assert_eq!(run(scheduler, &id("home"), &look).await, exited(3));
    let (out, err) = output(scheduler, &id("home"), false).await;
    let lines: Vec<&str> = out.lines().collect();
    let uid: u32 = lines[0].parse().expect("a number");
    assert!(uid >= 3_000_000_000 && lines[1] == lines[0], "{out}{err}");

    let dir = local.config.dir.join("x/ns.pipe.1.home.1");
    assert_eq!(lines[2], text(&dir.join("work")));
    assert!(lines[3].starts_with(text(&dir.join("tmp"))), "{out}{err}");
    assert_eq!(lines[4..8], ["700", "700", "NoNewPrivs:\t1", "out"], "{out}{err}");
    assert_eq!(lines[8..], ["unlisted", "unlisted", "closed"], "{out}{err}");
    assert_eq!(std::fs::metadata(dir.join("log")).expect("the log").uid(), 0);

    // A session is the same user, and may do to the task what the task may.
    scheduler.start(&id("shell"), &script("echo ready; exec sleep 1000", [])).await.expect("start");
    has_written(scheduler, &id("shell"), "ready").await;
    let (supervisor, task) = live_pids(&local.config);
    let command =
        format!("id -u; kill -9 {supervisor} || echo bound; kill -CONT {task} && echo told");
    assert_eq!(session(scheduler, "shell", &command).await, format!("{uid}\nbound\ntold\n"));
    scheduler.stop(&id("shell"), Duration::ZERO).await.expect("stop");
    assert_eq!(ended(scheduler, &id("shell")).await, ExecutionState::Stopped);
    scheduler.remove(&id("home")).await.expect("remove");
    assert!(!dir.exists());
}

#[tokio::test]
async fn a_user_that_cannot_be_is_named_with_what_to_do() {
    let Some(local) = with_users("a_user_that_cannot_be_is_named_with_what_to_do").await else {
        return;
    };

    let connect = async |range: Option<&str>, red: Option<&str>, dir: PathBuf| {
        let mut config = local.config.clone();
        config.dir = dir;
        config.users = Some(UsersConfig {
            range: range.map(|range| range.to_owned().try_into().expect("a range")),
            namespaces: red.map(|user| ("red".to_owned(), user.to_owned())).into_iter().collect(),
        });
        LocalScheduler::connect(config, launcher()).await
    };

    let other = local.config.dir.with_file_name("other");
    for (range, red, expected) in [
        (None, None, "`users` is empty"),
        (None, Some("no-such-user"), "must be a name in /etc/passwd"),
        (None, Some("root"), "must be neither root nor"),
    ] {
        let error = connect(range, red, other.clone()).await.expect_err(expected);
        assert!(error.message.contains(expected), "{error}");
    }

    let closed = tempfile::tempdir().expect("a directory");
    std::fs::set_permissions(closed.path(), std::fs::Permissions::from_mode(0o700))
        .expect("close it");
    let error = connect(Some("3000000000-3000000009"), None, closed.path().join("x"))
        .await
        .expect_err("closed");

    assert!(error.message.contains(&format!("chmod o+x {}", closed.path().display())), "{error}");

    let only_red = connect(None, Some("70001:70001"), other).await.expect("connect");
    match run(&only_red, &id("task"), &script("true", [])).await {
        ExecutionState::Failed { kind: FailureKind::Refused, message } => {
            assert!(message.contains("namespace `ns` has no user"), "{message}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_supervisor_is_closed_to_others_of_its_user() {
    if !rustix::process::geteuid().is_root() {
        return gofer_conformance::skip(
            "root",
            "a_supervisor_is_closed",
            "only root becomes another user",
        );
    }

    // Where that user finds it.
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).expect("open it");
    let program = dir.path().join("supervisor");
    std::fs::copy(&launcher().program, &program).expect("copy the program");

    let (_ours, theirs) = std::os::unix::net::UnixDatagram::pair().expect("a socket");
    let as_nobody = |program: &Path| {
        use std::os::unix::process::CommandExt as _;
        let mut command = Command::new(program);
        command.uid(65_534).gid(65_534).current_dir("/");
        command
    };

    let mut zygote =
        as_nobody(&program).stdin(std::os::fd::OwnedFd::from(theirs)).spawn().expect("start it");
    let read = |name: &str| {
        let file = format!("/proc/{}/{name}", zygote.id());
        as_nobody(Path::new("/bin/cat")).arg(file).output().expect("run cat")
    };

    eventually("its environment is closed", async || {
        let output = read("environ");
        if String::from_utf8_lossy(&output.stderr).contains("Permission denied") {
            Ok(())
        } else {
            Err(format!("{output:?}"))
        }
    })
    .await;

    let limits = String::from_utf8(read("limits").stdout).expect("text");
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a line");
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    zygote.kill().expect("end it");
    zygote.wait().expect("wait for it");
}
