//! The scheduler as an instance: one per directory, bounded watch streams, many starts, nothing
//! leaked.

use std::collections::HashSet;

use gofer_conformance::Harness as _;
use gofer_conformance::scheduler::host_command;
use gofer_core::scheduler::{ExecutionState, Scheduler};
use gofer_core::{ErrorKind, ExecutionId};
use gofer_scheduler_local::{Launcher, LocalScheduler};

use crate::support::{
    Local, config, ended, exited, id, launcher, next_end, output, run, script, state, zygote_pid,
};

#[tokio::test]
async fn a_second_server_on_the_directory_is_refused() {
    let local = Local::open().await;
    let error = LocalScheduler::connect(local.config.clone(), launcher())
        .await
        .expect_err("a second instance");
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert!(error.message.contains("in use by the server with process id"), "{error}");
}

#[tokio::test]
async fn a_wrong_launcher_is_named() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let wrong = |program: &str| Launcher { program: program.into(), args: Vec::new() };
    let missing = LocalScheduler::connect(config(dir.path()), wrong("/no/such/program")).await;
    assert!(missing.expect_err("no program").message.contains("`/no/such/program`"));
    let mute =
        LocalScheduler::connect(config(dir.path()), wrong("/bin/true")).await.expect("connect");
    let error = mute.check().await.expect_err("no answer");
    assert!(error.message.contains("`/bin/true` does not answer"), "{error}");
    // Nothing was started, and the call may be repeated.
    let error = mute.start(&id("task"), &host_command(["true"])).await.expect_err("no zygote");
    assert!(error.is_retryable(), "{error}");
    assert_eq!(state(&mute, &id("task")).await, ExecutionState::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_start_at_once_and_each_is_reported() {
    let local = Local::open().await;
    let scheduler = local.scheduler();
    let mut events = scheduler.watch().await.expect("watch");
    let ids: Vec<_> = (0..500).map(|number| id(&format!("t{number}"))).collect();
    let spec = host_command(["true"]);
    let starts = ids.iter().map(|id| scheduler.start(id, &spec));

    for result in futures::future::join_all(starts).await {
        result.expect("start");
    }

    let mut waiting: HashSet<_> = ids.iter().cloned().collect();
    while !waiting.is_empty() {
        let event = next_end(&mut events).await;
        assert_eq!(event.state, exited(0));
        assert!(waiting.remove(&event.id), "`{}` ended twice", event.id);
    }

    gofer_conformance::eventually("the live entries are gone", async || {
        let left = crate::support::live_files(&local.config);
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
}

/// In a process of its own, because the other tests of this one open and close descriptors
/// meanwhile.
#[test]
fn nothing_leaks() {
    let output =
        crate::crash::in_child("server::leak_process", &[]).output().expect("run the test binary");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[tokio::test]
#[ignore = "run by nothing_leaks in a process of its own"]
async fn leak_process() {
    let mut local = Local::open().await;
    let scheduler = local.scheduler();
    let zygote = zygote_pid(scheduler).await;
    let mut before = None;

    for round in 0..3 {
        for number in 0..40 {
            let id = id(&format!("r{round}-{number}"));
            scheduler.start(&id, &host_command(["echo", "text"])).await.expect("start");
            assert_eq!(output(scheduler, &id, true).await.0, "text\n");
            assert_eq!(ended(scheduler, &id).await, exited(0));
            scheduler.remove(&id).await.expect("remove");
        }

        gofer_conformance::eventually("no child is left but the zygote", async || {
            let children = (children_of(std::process::id().cast_signed()), children_of(zygote));
            if children == (vec![zygote], Vec::new()) {
                Ok(())
            } else {
                Err(format!("{children:?}"))
            }
        })
        .await;

        let now = (open_files("self"), open_files(&zygote.to_string()));
        assert_eq!(
            *before.get_or_insert(now),
            now,
            "descriptors of the server and the zygote after round {round}"
        );
    }

    // One after the other, they all had the same directory; the next server deletes it.
    let x = local.config.dir.join("x");
    let directories = || {
        let entries = std::fs::read_dir(&x).expect("x");
        entries.map(|entry| entry.expect("an entry").file_name()).collect::<Vec<_>>()
    };

    let left = directories();
    assert!(left.len() == 1 && left[0].as_encoded_bytes().starts_with(b"~"), "{left:?}");
    local.restart().await;
    assert_eq!(directories().len(), 0);
}

#[tokio::test]
async fn a_directory_that_is_used_again_is_as_new() {
    let local = Local::open().await;
    let scheduler = local.scheduler();
    let look = "stat -c %a . && ls -A && echo this >&2";
    let leave = [
        "true",
        "echo a > file",
        "mkdir -p b/c",
        "chmod 755 .",
        "echo out",
        "rmdir $PWD",
        "exit 3",
    ];

    for (number, leave) in leave.into_iter().enumerate() {
        let [first, second] = ["first", "second"].map(|name| id(&format!("{name}-{number}")));
        ended_with(scheduler, &first, leave).await;
        scheduler.remove(&first).await.expect("remove");
        assert_eq!(state(scheduler, &first).await, ExecutionState::NotFound);
        ended_with(scheduler, &second, look).await;
        let seen = output(scheduler, &second, false).await;
        assert_eq!(seen, ("700\nthis\n".to_owned(), String::new()), "after `{leave}`");
        scheduler.remove(&second).await.expect("remove");
    }
}

async fn ended_with(scheduler: &LocalScheduler, id: &ExecutionId, text: &str) {
    let end = run(scheduler, id, &script(text, [])).await;
    assert!(matches!(end, ExecutionState::Exited { .. }), "`{text}`: {end:?}");
}

fn open_files(process: &str) -> usize {
    std::fs::read_dir(format!("/proc/{process}/fd")).expect("the descriptors").count()
}

fn children_of(parent: i32) -> Vec<i32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields = stat.rsplit(") ").next().unwrap_or_default();
        if fields.split(' ').nth(1) == Some(&parent.to_string()) {
            found.push(pid);
        }
    }
    found
}
