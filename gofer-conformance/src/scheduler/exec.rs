//! Commands in a running execution. Every case needs the capability `exec`, and a `/bin/sh` where
//! executions run.

use std::time::Duration;

use bytes::Bytes;
use futures::channel::mpsc;
use futures::{SinkExt, StreamExt};
use gofer_core::error::ErrorKind;
use gofer_core::exec::{
    ExecInput, ExecOutput, ExecRequest, ExecSession, MAX_EXEC_CHUNK_BYTES, TerminalSize,
};
use gofer_core::id::ExecutionId;
use gofer_core::scheduler::{EnvValue, ExecSupport, ExecutionSpec, ExecutionState, Scheduler};

use super::{
    Output, SchedulerHarness, ended, exited, followed, fresh_id, logs, running, start, state,
};
use crate::{eventually, within};

/// A grace that no case lives to see the end of.
const LONG: Duration = Duration::from_secs(3_600);

/// A command runs beside the execution's own, its two outputs apart; its exit code comes last, and
/// the execution's log, state and exit know nothing of it.
pub async fn a_command_runs_beside_the_execution(harness: &dyn SchedulerHarness) {
    let Some((scheduler, id)) = host(harness).await else { return };
    let mut session =
        open(&*scheduler, &id, shell("cat; printf out; printf err >&2; exit 7")).await;
    // The input ends when its sender is dropped.
    drop(std::mem::replace(&mut session.input, mpsc::channel(0).0));
    assert_eq!(whole(session).await, (output(b"out", b"err"), 7));
    let killed = open(&*scheduler, &id, shell("kill -9 $$")).await;
    assert_eq!(whole(killed).await.1, 128 + 9);
    assert_eq!(state(&*scheduler, &id).await, ExecutionState::Running);
    assert_eq!(logs(&*scheduler, &id).await.stdout, b"ready\n");
    scheduler.stop(&id, LONG).await.expect("stop");
    assert_eq!(ended(&*scheduler, &id).await, ExecutionState::Stopped);
    assert_eq!(followed(&*scheduler, &id).await.stdout, b"ready\nstopped\n");
}

/// Any bytes survive both ways, more of them than all queues hold, also when nobody reads at first.
pub async fn input_and_output_survive_unread_queues(harness: &dyn SchedulerHarness) {
    let Some((scheduler, id)) = host(harness).await else { return };
    let bytes: Vec<u8> =
        (0..1024 * 1024_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let ExecSession { mut input, output } = open(&*scheduler, &id, shell("cat")).await;
    let mut pieces = bytes
        .chunks(MAX_EXEC_CHUNK_BYTES)
        .map(|piece| ExecInput::Stdin(Bytes::copy_from_slice(piece)));
    let mut refused = None;

    for piece in pieces.by_ref() {
        if let Err(full) = input.try_send(piece) {
            refused = Some(full.into_inner());
            break;
        }
    }

    let rest: Vec<ExecInput> =
        refused.into_iter().chain(pieces).chain([ExecInput::StdinEnd]).collect();
    let writing = async {
        for piece in rest {
            input.send(piece).await.expect("the command reads");
        }
        input
    };

    let (_input, read) =
        within("1 MiB goes through `cat`", futures::future::join(writing, collect(output))).await;
    assert_eq!(read.1, Some(0), "{:?}", read.0);
    assert!(read.0.stdout == bytes, "{:?}", read.0);
}

/// The command has the execution's environment, secrets included, and nothing of the server's.
pub async fn a_command_has_the_environment_of_the_execution(harness: &dyn SchedulerHarness) {
    let scheduler = harness.backend();
    if !can(&*scheduler) {
        return;
    }
    let mut spec = harness.workloads().until_stopped();
    let values = ["two\nlines and \"quotes\"", "a secret"];
    spec.env.insert("GOFER_PLAIN".to_owned(), EnvValue::Plain(values[0].to_owned()));
    spec.env.insert("GOFER_SECRET".to_owned(), EnvValue::Secret(values[1].into()));
    let id = start(&*scheduler, &spec).await;
    running(&*scheduler, &id).await;
    let script = r#"printf %s "$GOFER_PLAIN/$GOFER_SECRET/${CARGO_MANIFEST_DIR-}""#;
    let session = open(&*scheduler, &id, shell(script)).await;
    assert_eq!(whole(session).await, (output(values.join("/").as_bytes(), b"").with(b"/"), 0));
    kill(&*scheduler, &id).await;
}

/// The command runs where the execution's own does.
pub async fn a_command_runs_in_the_working_directory_of_the_execution(
    harness: &dyn SchedulerHarness,
) {
    let scheduler = harness.backend();
    if !can(&*scheduler) {
        return;
    }

    let mut spec = harness.workloads().until_stopped();
    spec.working_dir = Some("/usr".to_owned());
    let fresh = harness.workloads().until_stopped();

    for (spec, expected) in [(spec, Some("/usr\n")), (fresh, None)] {
        let id = start(&*scheduler, &spec).await;
        running(&*scheduler, &id).await;
        let session = open(&*scheduler, &id, shell("pwd")).await;
        let (written, code) = whole(session).await;
        let dir = String::from_utf8(written.stdout).expect("a path");
        assert_eq!(code, 0);

        // A root of its own is as fresh as a directory.
        let is_fresh =
            dir.starts_with('/') && (dir.len() > 2 || harness.workloads().has_own_root());
        assert!(expected.map_or(is_fresh, |expected| dir == expected), "{dir:?}");
        kill(&*scheduler, &id).await;
    }
}

/// What was never seen is `NotFound`; what has ended, a request without a program, and a program
/// that does not exist are `Invalid`.
pub async fn what_cannot_be_is_refused(harness: &dyn SchedulerHarness) {
    let Some((scheduler, id)) = host(harness).await else { return };
    let refused = async |id: &ExecutionId, request: ExecRequest| {
        let answer = within("an answer", exec(&*scheduler).open_session(id, request)).await;
        answer.expect_err("an error").kind
    };
    assert_eq!(refused(&fresh_id("task"), shell("true")).await, ErrorKind::NotFound);
    assert_eq!(
        refused(&id, ExecRequest { command: Vec::new(), terminal: None }).await,
        ErrorKind::Invalid
    );
    let absent = ExecRequest { command: vec!["gofer-no-such-command".to_owned()], terminal: None };
    assert_eq!(refused(&id, absent).await, ErrorKind::Invalid);
    kill(&*scheduler, &id).await;
    assert_eq!(refused(&id, shell("true")).await, ErrorKind::Invalid);
}

/// A session that is dropped leaves no process, also none that the command has started and that
/// does not want to end.
pub async fn a_dropped_session_ends_its_processes(harness: &dyn SchedulerHarness) {
    let Some((scheduler, id)) = host(harness).await else { return };
    let tree = request(&harness.workloads().tree("dropped"));
    let mut session = open(&*scheduler, &id, tree).await;
    ready(&mut session).await;
    drop(session);
    no_more_marks(harness, "dropped").await;
    assert_eq!(state(&*scheduler, &id).await, ExecutionState::Running);
    kill(&*scheduler, &id).await;
}

/// What a command left behind ends with it.
pub async fn a_command_that_ends_leaves_no_process(harness: &dyn SchedulerHarness) {
    let Some((scheduler, id)) = host(harness).await else { return };
    let mut tree = request(&harness.workloads().tree("left"));
    tree.command = ["/bin/sh", "-c", r#""$@" & read line; exit 3"#, "sh"]
        .into_iter()
        .map(str::to_owned)
        .chain(tree.command)
        .collect();

    let mut session = open(&*scheduler, &id, tree).await;
    ready(&mut session).await;
    session
        .input
        .send(ExecInput::Stdin(Bytes::from_static(b"go\n")))
        .await
        .expect("the command reads");
    assert_eq!(whole(session).await.1, 3);
    no_more_marks(harness, "left").await;
    kill(&*scheduler, &id).await;
}

/// The end of the execution ends every session in it.
pub async fn the_end_of_the_execution_ends_its_sessions(harness: &dyn SchedulerHarness) {
    let Some((scheduler, id)) = host(harness).await else { return };
    let mut session = open(&*scheduler, &id, request(&harness.workloads().tree("ended"))).await;
    ready(&mut session).await;
    scheduler.stop(&id, Duration::ZERO).await.expect("stop");
    assert_eq!(ended(&*scheduler, &id).await, ExecutionState::Stopped);
    let code = within("the session ends", collect(session.output)).await.1;
    assert_ne!(code, Some(0), "a command that was killed has not succeeded");
    no_more_marks(harness, "ended").await;
}

/// With a terminal the command sees one on all three streams, of the size that was asked for and
/// then of the size it was given; what is typed arrives, and so does its end.
pub async fn a_terminal_is_one(harness: &dyn SchedulerHarness) {
    let Some((scheduler, id)) = host(harness).await else { return };
    // Some shells give up reading when the size changes.
    let script = "trap 'stty size' WINCH; test -t 0 && test -t 1 && test -t 2 && stty size; until \
                  read line; do :; done; echo \"got $line\"; while read line; do :; done; echo \
                  over; exit 5";
    let request =
        ExecRequest { terminal: Some(TerminalSize { rows: 31, columns: 97 }), ..shell(script) };
    let mut session = open(&*scheduler, &id, request).await;
    let mut seen = String::new();

    reads(&mut session, &mut seen, "31 97").await;
    let size = TerminalSize { rows: 11, columns: 53 };
    session.input.send(ExecInput::Resize(size)).await.expect("the command lives");

    // Sizes and what is typed may go different ways; what is typed after the size was seen comes
    // after it.
    reads(&mut session, &mut seen, "11 53").await;
    session
        .input
        .send(ExecInput::Stdin(Bytes::from_static(b"typed\n")))
        .await
        .expect("the command reads");
    reads(&mut session, &mut seen, "got typed").await;
    session.input.send(ExecInput::StdinEnd).await.expect("the command reads");

    let (rest, code) = whole(session).await;
    assert!(
        String::from_utf8_lossy(&rest.stdout).contains("over") && rest.stderr.is_empty(),
        "{rest:?}"
    );
    assert_eq!(code, 5);
    kill(&*scheduler, &id).await;
}

fn can(scheduler: &dyn Scheduler) -> bool {
    scheduler.exec().is_some() && scheduler.capabilities().host
}

/// A running execution, where commands can be run in one.
async fn host(
    harness: &dyn SchedulerHarness,
) -> Option<(std::sync::Arc<dyn Scheduler>, ExecutionId)> {
    let scheduler = harness.backend();
    if !can(&*scheduler) {
        return None;
    }
    let id = start(&*scheduler, &harness.workloads().until_stopped()).await;
    running(&*scheduler, &id).await;
    Some((scheduler, id))
}

fn shell(script: &str) -> ExecRequest {
    ExecRequest { command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(), terminal: None }
}

/// What an execution would run, as a command in another one.
fn request(spec: &ExecutionSpec) -> ExecRequest {
    ExecRequest {
        command: spec.entrypoint.iter().chain(&spec.command).cloned().collect(),
        terminal: None,
    }
}

fn exec(scheduler: &dyn Scheduler) -> &dyn ExecSupport {
    scheduler.exec().expect("it was there a moment ago")
}

async fn open(scheduler: &dyn Scheduler, id: &ExecutionId, request: ExecRequest) -> ExecSession {
    let opening = exec(scheduler).open_session(id, request);
    within("the command runs", opening).await.expect("a session")
}

fn output(stdout: &[u8], stderr: &[u8]) -> Output {
    Output { stdout: stdout.to_vec(), stderr: stderr.to_vec() }
}

impl Output {
    fn with(mut self, more: &[u8]) -> Self {
        self.stdout.extend_from_slice(more);
        self
    }
}

type Pieces =
    futures::stream::BoxStream<'static, Result<ExecOutput, gofer_core::error::BackendError>>;

/// What a command writes until its end, and its exit code; `None` when the session broke off.
async fn collect(mut pieces: Pieces) -> (Output, Option<i32>) {
    let mut all = Output::default();
    while let Some(piece) = pieces.next().await {
        match piece {
            Ok(ExecOutput::Stdout(data)) => all.stdout.extend_from_slice(&checked(data)),
            Ok(ExecOutput::Stderr(data)) => all.stderr.extend_from_slice(&checked(data)),
            Ok(ExecOutput::Exited(code)) => {
                assert!(pieces.next().await.is_none(), "something came after the exit code");
                return (all, Some(code));
            }
            Err(_) => break,
        }
    }
    (all, None)
}

fn checked(data: Bytes) -> Bytes {
    assert!((1..=MAX_EXEC_CHUNK_BYTES).contains(&data.len()), "a piece of {} bytes", data.len());
    data
}

async fn whole(session: ExecSession) -> (Output, i32) {
    let ExecSession { input: _input, output } = session;
    let (written, code) = within("the command ends", collect(output)).await;
    let code = code.unwrap_or_else(|| panic!("the session broke off after {written:?}"));
    (written, code)
}

async fn ready(session: &mut ExecSession) {
    reads(session, &mut String::new(), "ready").await;
}

/// Reads until the text has come.
async fn reads(session: &mut ExecSession, seen: &mut String, text: &str) {
    within(&format!("the command writes `{text}`"), async {
        while !seen.contains(text) {
            match session.output.next().await {
                Some(Ok(ExecOutput::Stdout(data))) => {
                    seen.push_str(&String::from_utf8_lossy(&data))
                }
                other => panic!("{other:?} instead of `{text}` after {seen:?}"),
            }
        }
    })
    .await;
}

/// Waits until the mark is not made any more. A tree that makes marks is the clock.
async fn no_more_marks(harness: &dyn SchedulerHarness, mark: &str) {
    let (scheduler, workloads) = (harness.backend(), harness.workloads());
    let clock = start(&*scheduler, &workloads.tree("clock")).await;
    eventually(&format!("no more marks `{mark}` are made"), async || {
        let (before, began) = (workloads.marks(mark).await, workloads.marks("clock").await);
        eventually("the clock makes 20 marks", async || {
            let made = workloads.marks("clock").await - began;
            if made >= 20 { Ok(()) } else { Err(format!("{made} marks")) }
        })
        .await;

        let after = workloads.marks(mark).await;
        if after == before && after > 0 {
            Ok(())
        } else {
            Err(format!("{before} marks, then {after}"))
        }
    })
    .await;
    kill(&*scheduler, &clock).await;
}

async fn kill(scheduler: &dyn Scheduler, id: &ExecutionId) {
    scheduler.stop(id, Duration::ZERO).await.expect("stop");
    ended(scheduler, id).await;
}

/// Without the ability, whoever needs it is told so.
pub async fn without_the_capability_exec_is_unsupported(harness: &dyn SchedulerHarness) {
    let scheduler = harness.backend();
    if scheduler.exec().is_some() {
        return;
    }
    let id = start(&*scheduler, &harness.workloads().exit(0)).await;
    assert_eq!(scheduler.require_exec().expect_err("an error").kind, ErrorKind::Unsupported);
    assert_eq!(ended(&*scheduler, &id).await, exited(0));
}
