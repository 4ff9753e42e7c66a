//! What a task that kills its supervisor leaves: nothing.

use std::path::{Path, PathBuf};
use std::time::Duration;

use gofer_core::scheduler::{ExecutionSpec, ExecutionState, Scheduler};
use gofer_scheduler_local::{Cgroup, LandlockMode, LocalScheduler};

use crate::crash::in_child;
use crate::support::{
    Local, ended, exited, id, is_gone, kill_hard, launcher, output, run, script, zygote_pid,
};

/// Leaves a process in its own session and one that escaped twice, kills its supervisor, and goes
/// on.
const ESCAPE: &str = r#"
sleep 1000 & echo $! >> "$1"
setsid sh -c 'echo $$ >> "$0"; setsid sh -c "echo \$\$ >> \"\$0\"; exec sleep 1000" "$0" & exec sleep 1000' "$1" &
while [ "$(wc -l < "$1")" -lt 3 ]; do sleep 0.01; done
kill -9 $PPID
exec sleep 1000"#;

/// The same, once it is let go.
fn gated_escape(dir: &Path) -> (ExecutionSpec, PathBuf, PathBuf) {
    let (pids, go) = (dir.join("pids"), dir.join("go"));
    let text = format!("while [ ! -e \"$2\" ]; do sleep 0.01; done; {ESCAPE}");
    (script(&text, [pids.to_str().expect("UTF-8"), go.to_str().expect("UTF-8")]), pids, go)
}

/// Landlock would not let it begin.
async fn without_landlock(cgroup: Cgroup) -> Local {
    Local::open_with(|config| (config.landlock, config.cgroup) = (LandlockMode::Off, cgroup)).await
}

async fn all_are_gone(pids: &Path) {
    let text = std::fs::read_to_string(pids).expect("the processes");
    assert_eq!(text.lines().count(), 3, "{text}");
    for pid in text.lines() {
        is_gone(pid.parse().expect("a number")).await;
    }
}

#[tokio::test]
async fn what_escapes_from_a_killed_supervisor_falls_to_the_zygote() {
    let local = without_landlock(Cgroup::Off).await;
    let dir = tempfile::tempdir().expect("a directory");
    let pids = dir.path().join("pids");
    let scheduler = local.scheduler();
    let escape = script(ESCAPE, [pids.to_str().expect("UTF-8")]);
    assert_eq!(run(scheduler, &id("escape"), &escape).await, ExecutionState::Lost);
    all_are_gone(&pids).await;
    // The next one runs as if nothing had been.
    assert_eq!(run(scheduler, &id("next"), &script("exit 4", [])).await, exited(4));
}

#[tokio::test]
async fn what_escapes_from_a_killed_supervisor_and_zygote_is_killed_with_its_cgroup() {
    let local = without_landlock(Cgroup::Auto).await;
    let scheduler = local.scheduler();
    if scheduler.check().await.expect("check").contains("no cgroup each") {
        return gofer_conformance::skip(
            "cgroup",
            "what_escapes_is_killed_with_its_cgroup",
            "none can be had here",
        );
    }

    let dir = tempfile::tempdir().expect("a directory");
    let (escape, pids, go) = gated_escape(dir.path());
    scheduler.start(&id("escape"), &escape).await.expect("start");
    let zygote = zygote_pid(scheduler).await;
    kill_hard(zygote);
    is_gone(zygote).await;
    std::fs::write(&go, "").expect("let it go");
    assert_eq!(ended(scheduler, &id("escape")).await, ExecutionState::Lost);
    all_are_gone(&pids).await;
}

#[tokio::test]
async fn the_zygote_outlives_its_server_for_what_its_supervisors_leave() {
    let mut local = without_landlock(Cgroup::Off).await;
    let dir = tempfile::tempdir().expect("a directory");
    let (escape, pids, go) = gated_escape(dir.path());
    local.scheduler().start(&id("escape"), &escape).await.expect("start");
    local.scheduler = None;
    std::fs::write(&go, "").expect("let it go");
    gofer_conformance::eventually("it has escaped", async || {
        let text = std::fs::read_to_string(&pids).unwrap_or_default();
        if text.lines().count() == 3 { Ok(()) } else { Err(text) }
    })
    .await;
    all_are_gone(&pids).await;
    local.scheduler =
        Some(LocalScheduler::connect(local.config.clone(), launcher()).await.expect("connect"));
    assert_eq!(ended(local.scheduler(), &id("escape")).await, ExecutionState::Lost);
}

/// In a process of its own, whose umask and limits are others.
#[test]
fn modes_and_limits_are_what_they_should_be() {
    let mut shell = std::process::Command::new("/bin/sh");
    let test = in_child("orphans::loose_process", &[]);
    let words: Vec<PathBuf> =
        [test.get_program()].into_iter().chain(test.get_args()).map(PathBuf::from).collect();
    let output = shell
        .args(["-c", "umask 0; ulimit -Sc 7; ulimit -Sn 333; exec \"$@\"", "sh"])
        .args(words)
        .output();
    let output = output.expect("run the test binary");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[tokio::test]
#[ignore = "run by modes_and_limits_are_what_they_should_be in a process of its own"]
async fn loose_process() {
    use std::os::unix::fs::PermissionsExt;

    gofer_scheduler_local::close_process();
    // As a server does that needs many.
    let raised = rustix::process::Rlimit {
        current: Some(444),
        maximum: rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum,
    };

    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).expect("raise it");
    let mut local = Local::open().await;
    let limits =
        script("ulimit -Sn; ulimit -Sc; touch file; umask 077; echo x > private; exit 3", []);
    assert_eq!(run(local.scheduler(), &id("limits"), &limits).await, exited(3));

    // Some systems have no cores at all.
    let hard = rustix::process::getrlimit(rustix::process::Resource::Core).maximum;
    let core = if hard == Some(0) { "0" } else { "7" };
    assert_eq!(output(local.scheduler(), &id("limits"), false).await.0, format!("333\n{core}\n"));
    local
        .scheduler()
        .start(&id("runs"), &script("echo ready; exec sleep 1000", []))
        .await
        .expect("start");
    local.scheduler().stop(&id("runs"), Duration::from_secs(600)).await.expect("stop");
    gofer_conformance::Harness::restart(&mut local).await;
    ended(local.scheduler(), &id("runs")).await;

    let mut seen = 0;
    let mut dirs = vec![local.config.dir.clone()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).expect("a directory").flatten() {
            let (path, found) = (entry.path(), entry.metadata().expect("an entry"));
            seen += 1;

            // What a task makes of its own directory is its own.
            if dir.ends_with("work") {
                continue;
            }

            assert_eq!(
                found.permissions().mode() & 0o077,
                0,
                "{} has mode {:o}",
                path.display(),
                found.permissions().mode()
            );

            if found.is_dir() {
                dirs.push(path);
            }
        }
    }

    assert!(seen >= 10, "only {seen} files and directories");
}
