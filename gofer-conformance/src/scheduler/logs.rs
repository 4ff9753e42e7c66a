//! Logs.

use std::time::Duration;

use futures::future::join_all;
use gofer_core::error::ErrorKind;
use gofer_core::scheduler::{ExecutionState, LogCursor};

use super::{
    LogReading, Output, SchedulerHarness, ended, exited, followed, fresh_id, logs, logs_from,
    running, start, state,
};
use crate::within;

/// What a process writes to stdout and to stderr arrives as such.
pub async fn stdout_and_stderr_are_told_apart(harness: &dyn SchedulerHarness) {
    let scheduler = harness.backend();
    let id = start(&*scheduler, &harness.workloads().print(b"to stdout\n", b"to stderr\n")).await;
    let expected = Output { stdout: b"to stdout\n".to_vec(), stderr: b"to stderr\n".to_vec() };
    assert_eq!(followed(&*scheduler, &id).await, expected);
    ended(&*scheduler, &id).await;
    assert_eq!(logs(&*scheduler, &id).await, expected, "without following, after the end");
}

/// With the capability `merged_output`, an execution that does not want its outputs apart has one,
/// in which all is in the order in which it was written; without it, both come as they do to one
/// that wants that.
pub async fn both_outputs_are_one_in_the_order_of_writing(harness: &dyn SchedulerHarness) {
    const TIMES: usize = 200;

    let scheduler = harness.backend();
    let id = start(&*scheduler, &harness.workloads().print_in_turn(TIMES)).await;
    let lines = |name: &str| {
        (1..=TIMES).map(|turn| format!("{name} {turn}\n")).collect::<String>().into_bytes()
    };

    let in_turn = (1..=TIMES)
        .map(|turn| format!("out {turn}\nerr {turn}\n"))
        .collect::<String>()
        .into_bytes();
    let expected = match scheduler.capabilities().merged_output {
        true => Output { stdout: in_turn, stderr: Vec::new() },
        false => Output { stdout: lines("out"), stderr: lines("err") },
    };

    assert_eq!(followed(&*scheduler, &id).await, expected);
    ended(&*scheduler, &id).await;
    assert_eq!(logs(&*scheduler, &id).await, expected, "without following, after the end");
}

/// Bytes that are no text, and a last line without an end, survive.
pub async fn any_bytes_survive(harness: &dyn SchedulerHarness) {
    let scheduler = harness.backend();
    let all: Vec<u8> = (0..=255).cycle().take(10_000).collect();
    let odd = b"\xff\xfe\0\r\n\r\r\xc3(\xf0\x9f\x94".to_vec();
    let id = start(&*scheduler, &harness.workloads().print(&all, &odd)).await;
    assert_eq!(followed(&*scheduler, &id).await, Output { stdout: all, stderr: odd });
}

/// A line of 9 MiB survives.
pub async fn a_line_of_nine_mebibytes_survives(harness: &dyn SchedulerHarness) {
    const LENGTH: usize = 9 * 1024 * 1024;
    let scheduler = harness.backend();
    let id = start(&*scheduler, &harness.workloads().print_line(LENGTH)).await;
    let output = followed(&*scheduler, &id).await;
    assert_eq!(output.stdout.len(), LENGTH + 1);
    assert_eq!(output.stdout.last(), Some(&b'\n'));
    assert!(output.stdout[..LENGTH].iter().all(|byte| *byte == b'x'), "another byte than `x`");
    assert_eq!(ended(&*scheduler, &id).await, exited(0));
}

/// Reading begins at any position of each stream.
pub async fn logs_are_read_from_a_position(harness: &dyn SchedulerHarness) {
    let scheduler = harness.backend();
    let id = start(&*scheduler, &harness.workloads().print(b"0123456789", b"abcdef")).await;
    ended(&*scheduler, &id).await;
    followed(&*scheduler, &id).await;

    for (stdout, stderr) in [(0, 0), (3, 0), (0, 5), (10, 2), (9, 6), (10, 6)] {
        let expected = Output {
            stdout: b"0123456789"[stdout..].to_vec(),
            stderr: b"abcdef"[stderr..].to_vec(),
        };

        let from = LogCursor { stdout: stdout as u64, stderr: stderr as u64 };
        for follow in [false, true] {
            assert_eq!(
                logs_from(&*scheduler, &id, from, follow).await,
                expected,
                "from {from:?}, follow: {follow}"
            );
        }
    }
}

/// Without following, the stream ends with what there is, though the execution runs on.
pub async fn logs_without_follow_end_with_what_there_is(harness: &dyn SchedulerHarness) {
    let (scheduler, workloads) = (harness.backend(), harness.workloads());
    let id = start(&*scheduler, &workloads.gated(b"before\n", "end", b"after\n")).await;
    running(&*scheduler, &id).await;
    assert_eq!(logs(&*scheduler, &id).await.stdout, b"before\n");
    assert_eq!(state(&*scheduler, &id).await, ExecutionState::Running);
    workloads.release("end").await;
    ended(&*scheduler, &id).await;
    followed(&*scheduler, &id).await;
    assert_eq!(logs(&*scheduler, &id).await.stdout, b"before\nafter\n");
}

/// Following, the stream goes on while the execution runs, and ends by itself after everything was
/// delivered.
pub async fn followed_logs_go_on_and_end_by_themselves(harness: &dyn SchedulerHarness) {
    let (scheduler, workloads) = (harness.backend(), harness.workloads());
    let id = start(&*scheduler, &workloads.gated(b"before\n", "end", b"after\n")).await;
    let mut stream = scheduler.logs(&id, LogCursor::default(), true).await.expect("logs");
    let mut reading = LogReading::begin(LogCursor::default());

    while reading.output.stdout.len() < b"before\n".len() {
        assert!(
            within("a chunk arrives", reading.next(&mut stream)).await,
            "the stream ended while it ran"
        );
    }

    assert_eq!(reading.output.stdout, b"before\n");
    workloads.release("end").await;
    while within("the rest arrives, and the stream ends", reading.next(&mut stream)).await {}
    assert_eq!(reading.output, Output { stdout: b"before\nafter\n".to_vec(), stderr: Vec::new() });
    assert_eq!(ended(&*scheduler, &id).await, exited(0));
}

/// Any number of followers get everything, whenever they come.
pub async fn every_follower_gets_everything(harness: &dyn SchedulerHarness) {
    let (scheduler, workloads) = (harness.backend(), harness.workloads());
    let id = start(&*scheduler, &workloads.gated(b"before\n", "end", b"after\n")).await;
    let early = join_all((0..4).map(|_| followed(&*scheduler, &id)));
    let late = async {
        running(&*scheduler, &id).await;
        workloads.release("end").await;
        join_all((0..4).map(|_| followed(&*scheduler, &id))).await
    };
    let (early, late) = futures::join!(early, late);
    for output in early.into_iter().chain(late) {
        assert_eq!(output.stdout, b"before\nafter\n");
    }
}

/// A process that was left behind and holds stdout open keeps neither the execution nor its logs
/// from ending.
pub async fn followed_logs_end_although_a_child_was_left_behind(harness: &dyn SchedulerHarness) {
    let scheduler = harness.backend();
    let id = start(&*scheduler, &harness.workloads().leave_a_child()).await;
    assert_eq!(followed(&*scheduler, &id).await.stdout, b"ready\n");
    assert_eq!(ended(&*scheduler, &id).await, exited(0));
}

/// A stopped execution's logs can be read as any other's.
pub async fn logs_of_a_stopped_execution_are_kept(harness: &dyn SchedulerHarness) {
    let scheduler = harness.backend();
    let id = start(&*scheduler, &harness.workloads().ignoring_stop()).await;
    running(&*scheduler, &id).await;
    scheduler.stop(&id, Duration::ZERO).await.expect("stop");
    ended(&*scheduler, &id).await;
    assert_eq!(followed(&*scheduler, &id).await.stdout, b"ready\n");
    assert_eq!(logs(&*scheduler, &id).await.stdout, b"ready\n");
}

/// An execution that could not be started exists, so its logs are empty, not `NotFound`.
pub async fn logs_of_an_execution_that_never_ran_are_empty(harness: &dyn SchedulerHarness) {
    let scheduler = harness.backend();
    let id = start(&*scheduler, &harness.workloads().command_not_found()).await;
    ended(&*scheduler, &id).await;
    assert_eq!(followed(&*scheduler, &id).await, Output::default());
    assert_eq!(logs(&*scheduler, &id).await, Output::default());
}

/// Logs of what was never seen are `NotFound`.
pub async fn logs_of_an_unknown_execution_are_not_found(harness: &dyn SchedulerHarness) {
    let scheduler = harness.backend();
    for follow in [false, true] {
        let outcome = scheduler.logs(&fresh_id("task"), LogCursor::default(), follow).await;
        assert_eq!(outcome.err().expect("there are logs").kind, ErrorKind::NotFound);
    }
}
