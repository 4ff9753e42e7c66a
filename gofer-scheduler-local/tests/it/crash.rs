//! Killing what can be killed: the server, the zygote, a supervisor, the machine.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use gofer_conformance::scheduler::host_command;
use gofer_conformance::{Harness, eventually};
use gofer_core::scheduler::{ExecutionState, Scheduler};
use gofer_scheduler_local::{LocalScheduler, LocalSchedulerConfig};

use crate::support::{
    Local, config, ended, exited, has_written, id, is_gone, kill_hard, launcher, live_files,
    live_pids, next_end, output, run, script, state, zygote_pid,
};

/// An ignored test of this binary, to be run in a process of its own.
pub(crate) fn in_child(test: &str, env: &[(&str, &Path)]) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this test binary"));
    command.args(["--exact", test, "--ignored", "--nocapture"]).envs(env.iter().copied());
    command
}

const EXECUTIONS: usize = 24;

/// Appends a line to a file of its own, waits until it is let go, and exits with its number.
fn marker(shared: &Path, number: usize) -> gofer_core::scheduler::ExecutionSpec {
    let text = "echo run >> \"$1/mark-$2\"; echo \"out $2\"; while [ ! -e \"$1/go\" ]; do sleep \
                0.02; done; echo \"err $2\" >&2; exit \"$2\"";
    script(text, [shared.to_str().expect("UTF-8"), &number.to_string()])
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a server to be killed, run by a_killed_server_loses_nothing"]
async fn server_process() {
    let dir = std::env::var("GOFER_TEST_DIR").expect("GOFER_TEST_DIR");
    let shared = std::env::var("GOFER_TEST_SHARED").expect("GOFER_TEST_SHARED");
    let scheduler =
        LocalScheduler::connect(config(Path::new(&dir)), launcher()).await.expect("connect");
    let starts = (0..EXECUTIONS).map(|number| {
        let (scheduler, spec) = (scheduler.clone(), marker(Path::new(&shared), number));
        async move {
            scheduler.start(&id(&format!("t{number}")), &spec).await.expect("start");
            // One write per line, as the parent reads lines.
            use std::io::Write;
            std::io::stdout().write_all(format!("started {number}\n").as_bytes()).expect("write");
        }
    });

    futures::future::join_all(starts).await;
    std::future::pending::<()>().await;
}

/// Kills a server with SIGKILL after it has reported so many starts; more are under way at that
/// moment.
fn killed_server(dir: &Path, shared: &Path, after: usize) {
    let mut child = in_child(
        "crash::server_process",
        &[("GOFER_TEST_DIR", dir), ("GOFER_TEST_SHARED", shared)],
    )
    .stdout(Stdio::piped())
    .spawn()
    .expect("start the server");
    let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    let mut started = 0;

    if after > 0 {
        for line in lines {
            started += usize::from(line.expect("a line").contains("started "));
            if started == after {
                break;
            }
        }
    } else {
        // As soon as it has begun with anything.
        while std::fs::read_dir(dir.join("live")).map_or(0, Iterator::count) == 0 {
            std::thread::yield_now();
        }
    }

    child.kill().expect("kill the server");
    child.wait().expect("wait for the server");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_loses_nothing() {
    for after in [0, 0, 0, 1, 2, 5, 12, 20, EXECUTIONS] {
        let root = tempfile::tempdir().expect("a temporary directory");
        let (dir, shared) = (root.path().join("state"), root.path().join("shared"));
        std::fs::create_dir(&shared).expect("a directory");
        let (of_server, of_tasks) = (dir.clone(), shared.clone());
        let killing =
            tokio::task::spawn_blocking(move || killed_server(&of_server, &of_tasks, after));

        killing.await.expect("kill a server");

        let scheduler = LocalScheduler::connect(config(&dir), launcher()).await.expect("connect");
        let mut events = scheduler.watch().await.expect("watch");

        // What a restarted engine does with its intents: start again whatever is not known.
        let mut known = 0;
        for number in 0..EXECUTIONS {
            let id = id(&format!("t{number}"));
            match state(&scheduler, &id).await {
                ExecutionState::NotFound => {}
                ExecutionState::Running => known += 1,
                other => panic!("after {after} starts `{id}` is {other:?}"),
            }
            scheduler.start(&id, &marker(&shared, number)).await.expect("start");
        }

        assert!(known >= after, "{known} known after {after} starts");
        std::fs::write(shared.join("go"), "").expect("let them go");
        for _ in 0..EXECUTIONS {
            next_end(&mut events).await;
        }

        for number in 0..EXECUTIONS {
            let id = id(&format!("t{number}"));
            assert_eq!(
                state(&scheduler, &id).await,
                exited(number.try_into().expect("small")),
                "`{id}`"
            );

            let marks =
                std::fs::read_to_string(shared.join(format!("mark-{number}"))).expect("a mark");
            assert_eq!(marks, "run\n", "`{id}` ran twice, after {after} starts");
            let expected = (format!("out {number}\nerr {number}\n"), String::new());
            assert_eq!(output(&scheduler, &id, true).await, expected);
        }
    }
}

#[tokio::test]
async fn an_execution_ends_and_is_stopped_without_a_server() {
    let mut local = Local::open().await;
    let scheduler = local.scheduler();
    scheduler
        .start(
            &id("stubborn"),
            &script("trap '' TERM; echo ready; while :; do sleep 0.01; done", []),
        )
        .await
        .expect("start");
    has_written(scheduler, &id("stubborn"), "ready").await;

    let (_, task) = live_pids(&local.config);
    scheduler.stop(&id("stubborn"), Duration::from_millis(300)).await.expect("stop");
    local.scheduler = None;

    // The supervisor keeps the time itself.
    is_gone(task).await;
    local.scheduler =
        Some(LocalScheduler::connect(local.config.clone(), launcher()).await.expect("connect"));
    assert_eq!(ended(local.scheduler(), &id("stubborn")).await, ExecutionState::Stopped);
}

#[tokio::test]
async fn a_stop_that_was_written_but_not_told_is_told_by_the_next_server() {
    let mut local = Local::open().await;
    let task = id("task");
    local
        .scheduler()
        .start(&task, &script("echo ready; exec sleep 1000", []))
        .await
        .expect("start");
    has_written(local.scheduler(), &task, "ready").await;
    // As a server leaves it that dies between the two.
    std::fs::write(local.config.dir.join("x/ns.pipe.1.task.1/stop"), "60000\n")
        .expect("write the request");
    local.restart().await;
    assert_eq!(ended(local.scheduler(), &task).await, ExecutionState::Stopped);
}

#[tokio::test]
async fn a_killed_supervisor_leaves_a_lost_execution_and_no_process() {
    let mut local = Local::open().await;
    let text = "echo ready; sh -c 'trap \"\" TERM HUP; exec sleep 1000'";

    // While the server watches.
    let mut events = local.scheduler().watch().await.expect("watch");
    local.scheduler().start(&id("watched"), &script(text, [])).await.expect("start");
    has_written(local.scheduler(), &id("watched"), "ready").await;
    let log = local.scheduler().clone();
    let following = tokio::spawn(async move { output(&log, &id("watched"), true).await });
    let (supervisor, task) = live_pids(&local.config);

    kill_hard(supervisor);
    assert_eq!(next_end(&mut events).await.state, ExecutionState::Lost);
    assert_eq!(state(local.scheduler(), &id("watched")).await, ExecutionState::Lost);
    is_gone(task).await;
    assert_eq!(following.await.expect("the follower").0, "ready\n");

    // While there is no server.
    local.scheduler().start(&id("alone"), &script(text, [])).await.expect("start");
    has_written(local.scheduler(), &id("alone"), "ready").await;
    let (supervisor, task) = live_pids(&local.config);
    local.scheduler = None;
    kill_hard(supervisor);
    is_gone(supervisor).await;
    local.scheduler =
        Some(LocalScheduler::connect(local.config.clone(), launcher()).await.expect("connect"));
    assert_eq!(state(local.scheduler(), &id("alone")).await, ExecutionState::Lost);
    is_gone(task).await;

    // A name is used once: starting it again changes nothing.
    local.scheduler().start(&id("alone"), &host_command(["true"])).await.expect("start");
    assert_eq!(state(local.scheduler(), &id("alone")).await, ExecutionState::Lost);
}

/// Leaves a live entry as a server or a supervisor leaves it that dies there.
fn leave_entry(config: &LocalSchedulerConfig, task: &str, text: &str) {
    std::fs::write(config.dir.join(format!("live/ns.pipe.1.{task}.1~1")), text)
        .expect("write an entry");
    std::fs::create_dir_all(config.dir.join(format!("x/ns.pipe.1.{task}.1/work")))
        .expect("make its directory");
}

#[tokio::test]
async fn what_was_never_launched_is_not_found_and_can_be_started() {
    let mut local = Local::open().await;
    local.scheduler = None;
    leave_entry(&local.config, "void", "");
    local.restart().await;
    assert_eq!(state(local.scheduler(), &id("void")).await, ExecutionState::NotFound);
    assert!(live_files(&local.config).is_empty());
    local.scheduler().start(&id("void"), &host_command(["true"])).await.expect("start");
    assert_eq!(ended(local.scheduler(), &id("void")).await, exited(0));
}

#[tokio::test]
async fn a_process_id_that_was_used_again_is_neither_alive_nor_killed() {
    let mut local = Local::open().await;
    local.scheduler = None;
    // Both numbers now belong to a process that is very much alive: this one's child.
    let mut stranger = Command::new("sleep").arg("1000").spawn().expect("start sleep");
    let pid = stranger.id();
    leave_entry(&local.config, "reused", &format!("S {pid}\nT {pid} 1 1\n"));
    local.restart().await;
    assert_eq!(state(local.scheduler(), &id("reused")).await, ExecutionState::Lost);
    assert!(stranger.try_wait().expect("look at it").is_none(), "a stranger was killed");
    stranger.kill().expect("kill it");
    stranger.wait().expect("wait for it");
}

#[tokio::test]
async fn after_a_reboot_everything_unfinished_is_lost() {
    let mut local = Local::open().await;
    local.scheduler = None;
    leave_entry(&local.config, "launched", "S 1\nT 1 1 1\n");

    // Its supervisor may have written its line, and the power failed before it reached the disk.
    leave_entry(&local.config, "unclear", "");
    leave_entry(&local.config, "stopped", "S 1\n");
    std::fs::write(local.config.dir.join("x/ns.pipe.1.stopped.1/stop"), "0\n")
        .expect("write the request");
    std::fs::write(local.config.dir.join("boot"), "another boot\n").expect("change the boot id");
    local.restart().await;
    assert_eq!(state(local.scheduler(), &id("launched")).await, ExecutionState::Lost);
    assert_eq!(state(local.scheduler(), &id("unclear")).await, ExecutionState::Lost);
    assert_eq!(state(local.scheduler(), &id("stopped")).await, ExecutionState::Stopped);
    local.restart().await;
    assert_eq!(state(local.scheduler(), &id("unclear")).await, ExecutionState::Lost);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_zygote_is_replaced_and_nothing_runs_twice() {
    let local = Local::open().await;
    let scheduler = local.scheduler();
    let shared = tempfile::tempdir().expect("a temporary directory");
    scheduler
        .start(&id("before"), &script("echo ready; exec sleep 1000", []))
        .await
        .expect("start");

    let killer = {
        let scheduler = scheduler.clone();
        tokio::spawn(async move {
            for _ in 0..8 {
                let zygote = zygote_pid(&scheduler).await;
                kill_hard(zygote);
                is_gone(zygote).await;
            }
        })
    };

    std::fs::write(shared.path().join("go"), "").expect("let them go");
    let mut number = 0;

    // Starts go on as long as zygotes die, and a little longer.
    while !killer.is_finished() || number < 50 {
        let starts = (number..number + 10).map(|number| {
            let spec = marker(shared.path(), number % 100);
            async move {
                let id = id(&format!("t{number}"));
                eventually("the start is accepted", async || {
                    scheduler.start(&id, &spec).await.map_err(|error| {
                        assert!(error.is_retryable(), "{error}");
                        error.chain()
                    })
                })
                .await;
            }
        });

        futures::future::join_all(starts).await;
        number += 10;
        if number == 100 {
            break;
        }
    }

    killer.await.expect("the killer");
    for number in 0..number {
        assert_eq!(
            ended(scheduler, &id(&format!("t{number}"))).await,
            exited(number.try_into().expect("small"))
        );
        let marks =
            std::fs::read_to_string(shared.path().join(format!("mark-{number}"))).expect("a mark");
        assert_eq!(marks, "run\n", "number {number} ran twice");
    }

    assert_eq!(state(scheduler, &id("before")).await, ExecutionState::Running);
    scheduler.stop(&id("before"), Duration::ZERO).await.expect("stop");
    assert_eq!(ended(scheduler, &id("before")).await, ExecutionState::Stopped);
}

/// Whoever supervised an execution that has ended.
fn supervisor_of(local: &Local, task: &str) -> i32 {
    let path = local.config.dir.join(format!("x/ns.pipe.1.{task}.1/exit"));
    let text = std::fs::read_to_string(path).expect("the record of the end");
    let line =
        text.lines().find_map(|line| line.strip_prefix("S ")).expect("the supervisor's line");
    line.parse().expect("a process id")
}

#[tokio::test]
async fn an_idle_supervisor_takes_the_next_execution_and_is_not_missed_when_it_is_killed() {
    let local = Local::open().await;
    let scheduler = local.scheduler();
    let numbers = std::cell::Cell::new(0);

    // On a machine that is busy enough the next execution comes too late for it.
    let (last, supervisor) = eventually("two executions have one supervisor", async || {
        let names = [0, 1].map(|offset| format!("t{}", numbers.get() + offset));
        numbers.set(numbers.get() + 2);
        for name in &names {
            assert_eq!(run(scheduler, &id(name), &script("echo \"$0\" text", [])).await, exited(0));
        }
        let [first, second] = names.each_ref().map(|name| supervisor_of(&local, name));
        let [_, last] = names;
        if first == second { Ok((last, second)) } else { Err(format!("{first} and {second}")) }
    })
    .await;

    assert_eq!(output(scheduler, &id(&last), false).await, ("sh text\n".to_owned(), String::new()));

    // It may have gone by itself, which is as good.
    if let Some(pid) = rustix::process::Pid::from_raw(supervisor) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }

    is_gone(supervisor).await;
    for name in ["after", "long-after"] {
        let long = "x".repeat(100_000);
        assert_eq!(
            run(scheduler, &id(name), &script("exit \"${#1}\"", [&long[..7]])).await,
            exited(7)
        );

        // Too long for a packet.
        let name = format!("{name}-long");
        assert_eq!(
            run(scheduler, &id(&name), &script("test \"${#1}\" = 100000", [&long])).await,
            exited(0)
        );
    }
}
