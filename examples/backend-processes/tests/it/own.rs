//! Questions that the suite cannot ask.

use std::fs;
use std::path::Path;

use gofer_conformance::scheduler::{SchedulerHarness as _, host_command};
use gofer_conformance::{Harness as _, eventually};
use gofer_core::scheduler::{EnvValue, ExecutionState, FailureKind};
use gofer_core::{ErrorKind, ExecutionId};
use rustix::process::{Pid, Signal, kill_process};

use crate::conformance::processes;

const CHAPTER: &str = include_str!("../../../../docs/src/your-own-backend.md");

fn id(task: &str) -> ExecutionId {
    format!("ns/pipe/1/{task}/1").parse().expect("a valid id")
}

/// A supervisor that was killed wrote no end. The fate of its task is not known, and nobody guesses.
#[tokio::test]
async fn without_its_supervisor_an_execution_is_lost() {
    let harness = processes().await;
    let (scheduler, id) = (harness.backend(), id("task"));
    scheduler.start(&id, &harness.workloads().until_stopped()).await.expect("start");
    eventually("it runs", async || match scheduler.state(&id).await.expect("state").state {
        ExecutionState::Running => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    kill_process(supervisor_of(&harness.config.dir), Signal::KILL).expect("kill the supervisor");
    eventually("it is lost", async || match scheduler.state(&id).await.expect("state").state {
        ExecutionState::Lost => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    assert_eq!(scheduler.remove(&id).await.map_err(|error| error.kind), Ok(()));
    assert_eq!(scheduler.state(&id).await.expect("state").state, ExecutionState::NotFound);
}

/// The one process with this directory in its command line.
fn supervisor_of(dir: &Path) -> Pid {
    let folder = dir.join("executions");
    let folder = folder.to_str().expect("UTF-8").as_bytes();
    let is_it = |path: &Path| {
        let line = fs::read(path.join("cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).nth(1).is_some_and(|word| word.starts_with(folder))
    };
    let entries = fs::read_dir("/proc").expect("/proc").flatten().map(|entry| entry.path());
    let found: Vec<_> = entries.filter(|path| is_it(path)).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    let number = found[0].file_name().and_then(|name| name.to_str()?.parse().ok()).expect("a process id");
    Pid::from_raw(number).expect("a process id")
}

/// A secret goes from process to process; no file and no command line has it.
#[tokio::test]
async fn a_secret_is_never_written() {
    const CANARY: &str = "canary-5d07c4";
    let harness = processes().await;
    let (scheduler, id) = (harness.backend(), id("task"));
    let mut spec = host_command(["/bin/sh", "-c", r#"printf %s "${#TOKEN}""#]);
    spec.env.insert("TOKEN".to_owned(), EnvValue::Secret(CANARY.into()));
    scheduler.start(&id, &spec).await.expect("start");
    let folder = harness.config.dir.join("executions/ns.pipe.1.task.1");
    eventually("it has ended", async || match scheduler.state(&id).await.expect("state").state {
        ExecutionState::Exited { code: 0, .. } => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    assert_eq!(fs::read_to_string(folder.join("stdout")).expect("stdout"), CANARY.len().to_string());
    let files = fs::read_dir(&folder).expect("the folder").flatten().filter(|entry| entry.path().is_file());
    let texts: Vec<_> = files.map(|entry| fs::read(entry.path()).expect("a file")).collect();
    assert!(texts.len() >= 4, "{} files", texts.len());
    assert!(!texts.iter().any(|text| String::from_utf8_lossy(text).contains(CANARY)), "the value was written");
}

/// A request beyond this scheduler's abilities is an error of `start`, and no execution.
#[tokio::test]
async fn an_image_is_unsupported() {
    let harness = processes().await;
    let (scheduler, id) = (harness.backend(), id("task"));
    let mut spec = host_command(["true"]);
    spec.image = Some("busybox".to_owned());
    assert_eq!(scheduler.start(&id, &spec).await.expect_err("it has no images").kind, ErrorKind::Unsupported);
    assert_eq!(scheduler.state(&id).await.expect("state").state, ExecutionState::NotFound);
}

/// A working directory that is not there is named; it does not look like a missing command.
#[tokio::test]
async fn a_missing_working_directory_is_named() {
    let harness = processes().await;
    let (scheduler, id) = (harness.backend(), id("task"));
    let mut spec = host_command(["true"]);
    spec.working_dir = Some("/no/such/directory".to_owned());
    scheduler.start(&id, &spec).await.expect("start");
    let message = eventually("it has failed", async || match scheduler.state(&id).await.expect("state").state {
        ExecutionState::Failed { kind: FailureKind::Setup, message } => Ok(message),
        other => Err(format!("{other:?}")),
    })
    .await;
    assert!(message.contains("/no/such/directory"), "{message}");
}

#[test]
fn unknown_settings_are_refused() {
    let text = "dir = '/a'\nsupervisor = '/b'\n";
    assert!(toml::from_str::<backend_processes::ProcessesConfig>(text).is_ok());
    let error = toml::from_str::<backend_processes::ProcessesConfig>(&format!("{text}poll = 1\n")).unwrap_err();
    assert!(error.to_string().contains("poll"), "{error}");
}

#[tokio::test]
async fn a_directory_that_cannot_be_made_is_denied_or_unavailable() {
    let config = backend_processes::ProcessesConfig { dir: "/proc/processes".into(), supervisor: "/b".into() };
    let error = backend_processes::ProcessScheduler::connect(config).await.expect_err("no directory there");
    assert!(matches!(error.kind, ErrorKind::Denied | ErrorKind::Unavailable), "{error:?}");
}

/// The guide promises it. Comments, empty lines and the marks of the guide do not count.
#[test]
fn it_is_under_three_hundred_lines() {
    let text = [include_str!("../../src/lib.rs"), include_str!("../../src/main.rs")].concat();
    let code = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("//")).count();
    assert!((200..300).contains(&code), "{code} lines of code");
}

/// The code in the chapter is the code that is tested: every piece it includes is there.
#[test]
fn the_chapter_includes_pieces_that_exist() {
    let chapter = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/src");
    let includes: Vec<&str> =
        CHAPTER.split("{{#include ").skip(1).filter_map(|rest| Some(rest.split_once("}}")?.0)).collect();
    assert!(includes.len() >= 5, "{includes:?}");
    for include in includes {
        let (file, piece) = include.split_once(':').expect("a file and a piece of it");
        let text = fs::read_to_string(chapter.join(file)).unwrap_or_else(|error| panic!("`{file}`: {error}"));
        for mark in ["ANCHOR", "ANCHOR_END"] {
            let mark = format!("// {mark}: {piece}");
            assert_eq!(text.lines().filter(|line| line.trim() == mark).count(), 1, "`{mark}` in `{file}`");
        }
    }
}
