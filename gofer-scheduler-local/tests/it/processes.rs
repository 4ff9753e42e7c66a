//! What a task finds when it starts, and what becomes of one that cannot.

use std::os::unix::fs::PermissionsExt;

use gofer_conformance::scheduler::host_command;
use gofer_core::scheduler::{EnvValue, ExecutionKind, ExecutionState, FailureKind, Scheduler};

use crate::support::{Local, ended, exited, has_written, id, output, run, script, zygote_pid};

#[tokio::test]
async fn a_task_starts_with_clean_hands() {
    let local = Local::open().await;
    let scheduler = local.scheduler();

    // `read` is a builtin, so `$$` is the process the supervisor started. No pipeline: the shell
    // would have its ends open.
    let text = "cat; echo stdin $?; grep -E '^Sig(Blk|Ign)' /proc/self/status; read -r _ _ _ _ \
                group session _ < /proc/$$/stat; echo $$ $group $session; ls /proc/$$/fd";
    assert_eq!(run(scheduler, &id("clean"), &script(text, [])).await, exited(0));
    let (out, err) = output(scheduler, &id("clean"), false).await;
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[0], "stdin 0", "{out} {err}");

    for line in &lines[1..3] {
        let mask = u64::from_str_radix(line.split_whitespace().nth(1).expect("a mask"), 16)
            .expect("a number");
        // The C library keeps 32 and 33 for itself, and its posix_spawn ignores them.
        assert_eq!(mask & 0x7fff_ffff, 0, "{line}");
    }

    assert_eq!(lines[4..], ["0", "1", "2"]);
    let ids: Vec<&str> = lines[3].split(' ').collect();
    assert!(ids.iter().all(|&each| each == ids[0]), "not its own session and group: {ids:?}");
}

#[tokio::test]
async fn a_mebibyte_of_environment_arrives_and_more_is_refused() {
    let local = Local::open().await;
    let scheduler = local.scheduler();
    let mut spec = script("echo ${#V0} ${#V9} ${#1}", [&"a".repeat(100_000)]);

    for number in 0..10 {
        spec.env.insert(format!("V{number}"), EnvValue::Secret("x".repeat(100_000).into()));
    }

    assert_eq!(run(scheduler, &id("large"), &spec).await, exited(0));
    assert_eq!(output(scheduler, &id("large"), false).await.0, "100000 100000 100000\n");

    for (task, value_bytes) in [("too-large", 200_000), ("far-too-large", 9_000_000)] {
        spec.env.insert("V0".into(), EnvValue::Plain("x".repeat(value_bytes)));
        match run(scheduler, &id(task), &spec).await {
            ExecutionState::Failed { message, .. } => {
                assert!(message.contains("as objects"), "{message}")
            }
            other => panic!("{task}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn what_cannot_be_executed_says_why() {
    let local = Local::open().await;
    let scheduler = local.scheduler();
    let dir = local.config.dir.clone();
    let file = |name: &str, text: &str, mode: u32| {
        let path = dir.join(name);
        std::fs::write(&path, text).expect("write a file");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))
            .expect("set its mode");
        path.to_str().expect("UTF-8").to_owned()
    };

    let cases = [
        ("missing", "/no/such/program".to_owned(), "there is no such file"),
        ("unknown", "gofer-no-such-command".to_owned(), "was not found in the task's PATH `"),
        ("closed", file("closed", "#!/bin/sh\n", 0o600), "may execute"),
        ("plain", file("plain", "just text\n", 0o700), "neither a program"),
        ("orphan", file("orphan", "#!/no/such/shell\n", 0o700), "interpreter"),
        ("directory", "/etc".to_owned(), "may execute"),
    ];

    for (task, program, expected) in cases {
        match run(scheduler, &id(task), &host_command([program.as_str()])).await {
            ExecutionState::Failed { kind: FailureKind::CommandNotFound, message } => {
                assert!(
                    message.contains(expected) && message.contains(&program),
                    "{task}: {message}"
                );
            }
            other => panic!("{task}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_working_directory_must_exist_and_an_image_needs_another_scheduler() {
    let local = Local::open().await;
    let scheduler = local.scheduler();
    let mut nowhere = host_command(["true"]);
    nowhere.working_dir = Some("/no/such/directory".into());

    match run(scheduler, &id("nowhere"), &nowhere).await {
        ExecutionState::Failed { kind: FailureKind::Setup, message } => {
            assert!(message.contains("`/no/such/directory`"), "{message}");
        }
        other => panic!("{other:?}"),
    }

    let mut image = host_command(["true"]);
    image.image = Some("alpine".into());
    match run(scheduler, &id("image"), &image).await {
        ExecutionState::Failed { kind: FailureKind::Refused, message } => {
            assert!(message.contains("`alpine` needs a scheduler that runs images"), "{message}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_a_task_leaves_behind_is_killed_when_it_exits() {
    let local = Local::open().await;
    let scheduler = local.scheduler();

    // Two daemons: one detached by setsid, one whose parent and grandparent are gone. Each reports
    // its process id.
    let text = "setsid sh -c 'echo $$ > one; exec sleep 1000' & \
                (sh -c '(setsid sh -c \"echo \\$\\$ > two; exec sleep 1000\" &) &'); \
                while [ ! -s one ] || [ ! -s two ]; do sleep 0.01; done; cat one two; exit 5";
    assert_eq!(run(scheduler, &id("daemons"), &script(text, [])).await, exited(5));

    let (out, err) = output(scheduler, &id("daemons"), true).await;
    let pids: Vec<&str> = out.lines().collect();
    assert_eq!(pids.len(), 2, "{out} {err}");

    for pid in pids {
        // Reaped before the end was recorded: not even a zombie is left.
        assert!(
            !std::path::Path::new("/proc").join(pid).exists(),
            "process {pid} outlived its execution"
        );
    }
}

#[tokio::test]
async fn a_service_is_started_again_and_stopped_while_it_waits() {
    let local = Local::open().await;
    let scheduler = local.scheduler();
    let mut spec = script("echo life; exit 3", []);
    spec.kind = ExecutionKind::Service;
    scheduler.start(&id("service"), &spec).await.expect("start");
    gofer_conformance::eventually("the service lives twice", async || {
        let (out, err) = output(scheduler, &id("service"), false).await;
        let lives = out.lines().count();
        if lives >= 2 { Ok(err) } else { Err(format!("{out:?} {err:?}")) }
    })
    .await;
    scheduler.stop(&id("service"), std::time::Duration::from_secs(600)).await.expect("stop");
    assert_eq!(ended(scheduler, &id("service")).await, ExecutionState::Stopped);

    let (_, err) = output(scheduler, &id("service"), false).await;
    assert!(
        err.starts_with("gofer: the service exited with code 3; starting it again in 1 s\n"),
        "{err}"
    );
}

#[tokio::test]
async fn a_secret_is_in_no_file_and_no_process_list() {
    const SECRET: &str = "hunter2-and-more-of-it";

    let local = Local::open().await;
    let scheduler = local.scheduler();
    let mut spec = script("echo ${#PASSWORD}; exec sleep 1000", []);
    spec.env.insert("PASSWORD".into(), EnvValue::Secret(SECRET.into()));
    scheduler.start(&id("secret"), &spec).await.expect("start");
    has_written(scheduler, &id("secret"), &SECRET.len().to_string()).await;

    let mut looked_at = 0;
    let mut dirs = vec![local.config.dir.clone()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                looked_at += 1;
                let bytes = std::fs::read(&path).expect("a file");
                assert!(!contains(&bytes, SECRET), "the secret is in {}", path.display());
            }
        }
    }

    assert!(looked_at >= 4, "only {looked_at} files under the directory");
    for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let bytes = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        assert!(
            !contains(&bytes, SECRET),
            "the secret is in the arguments of {:?}",
            entry.file_name()
        );
    }

    let zygote = zygote_pid(scheduler).await;
    let environ =
        std::fs::read(format!("/proc/{zygote}/environ")).expect("the zygote's environment");
    assert!(environ.is_empty(), "{}", String::from_utf8_lossy(&environ));
    scheduler.stop(&id("secret"), std::time::Duration::ZERO).await.expect("stop");
    ended(scheduler, &id("secret")).await;
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}
