//! Logs, beyond what every scheduler does.

use futures::StreamExt;
use gofer_conformance::within;
use gofer_core::scheduler::{ExecutionSpec, ExecutionState, LogCursor, LogStream, Scheduler};
use gofer_scheduler_local::LocalScheduler;

use crate::support::{Local, ended, exited, id, launcher, output, run, script};

/// The longest line anybody was known to write, and then some.
const LONG_LINE_BYTES: usize = 200_000_000;

#[tokio::test]
async fn a_line_of_200_megabytes_survives() {
    let local = Local::open().await;
    let scheduler = local.scheduler();
    let text = "head -c \"$1\" /dev/zero | tr '\\0' x; echo";
    let spec = script(text, [&LONG_LINE_BYTES.to_string()]);
    assert_eq!(run(scheduler, &id("line"), &spec).await, exited(0));

    let mut stream = scheduler.logs(&id("line"), LogCursor::default(), true).await.expect("logs");
    let mut length = 0;
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.expect("a chunk");
        assert_eq!((chunk.stream, chunk.offset), (LogStream::Stdout, length as u64));
        let text = chunk.data.strip_suffix(b"\n").unwrap_or(&chunk.data);
        assert!(text.iter().all(|&byte| byte == b'x'));
        length += chunk.data.len();
    }

    assert_eq!(length, LONG_LINE_BYTES + 1);
}

#[tokio::test]
async fn the_order_between_the_streams_is_kept() {
    let local = Local::open().await;
    let scheduler = local.scheduler();

    // Each line waits until the log file has grown by the one before: two pipes alone have no
    // order.
    let text = "wait_for() { until [ \"$(stat -c %s ../log 2> /dev/null || echo 0)\" -ge \"$1\" ]; \
                do sleep 0.01; done; }; echo a; wait_for 18; echo b >&2; wait_for 36; echo c; \
                wait_for 54; echo d >&2";
    let spec = ExecutionSpec { separate_output: true, ..script(text, []) };
    assert_eq!(run(scheduler, &id("order"), &spec).await, exited(0));

    let stream = scheduler.logs(&id("order"), LogCursor::default(), false).await.expect("logs");
    let chunks: Vec<_> = stream.map(|chunk| chunk.expect("a chunk")).collect().await;
    let seen: Vec<_> = chunks.iter().map(|chunk| (chunk.stream, &chunk.data[..])).collect();
    let expected: [(LogStream, &[u8]); 4] = [
        (LogStream::Stdout, b"a\n"),
        (LogStream::Stderr, b"b\n"),
        (LogStream::Stdout, b"c\n"),
        (LogStream::Stderr, b"d\n"),
    ];
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn a_task_may_open_its_streams_anew() {
    let local = Local::open().await;
    let scheduler = local.scheduler();
    let text =
        "echo one; echo two > /dev/stdout; echo three >> /proc/self/fd/1; echo four > /dev/stderr";
    assert_eq!(run(scheduler, &id("reopen"), &script(text, [])).await, exited(0));
    let expected = ("one\ntwo\nthree\nfour\n".to_owned(), String::new());
    assert_eq!(output(scheduler, &id("reopen"), false).await, expected);
}

#[tokio::test]
async fn following_ends_with_an_error_when_the_scheduler_is_closed() {
    let mut local = Local::open().await;
    let spec = script("echo ready; exec sleep 1000", []);
    local.scheduler().start(&id("open"), &spec).await.expect("start");
    let mut stream =
        local.scheduler().logs(&id("open"), LogCursor::default(), true).await.expect("logs");
    assert_eq!(&stream.next().await.expect("a chunk").expect("a chunk").data[..], b"ready\n");
    local.scheduler = None;

    let error =
        within("the stream ends", stream.next()).await.expect("an item").expect_err("closed");
    assert!(error.message.contains("was closed"), "{error}");
    assert!(stream.next().await.is_none());
    local.scheduler =
        Some(LocalScheduler::connect(local.config.clone(), launcher()).await.expect("connect"));
    local.scheduler().stop(&id("open"), std::time::Duration::ZERO).await.expect("stop");
    assert_eq!(ended(local.scheduler(), &id("open")).await, ExecutionState::Stopped);
}

#[tokio::test]
async fn byte_by_byte_output_is_joined() {
    let local = Local::open().await;
    let scheduler = local.scheduler();
    let spec = script("for i in 1 2 3 4 5 6 7 8 9; do printf $i; done", []);
    assert_eq!(run(scheduler, &id("bytes"), &spec).await, exited(0));
    let stream = scheduler
        .logs(&id("bytes"), LogCursor { stdout: 2, stderr: 0 }, false)
        .await
        .expect("logs");
    let chunks: Vec<_> = stream.map(|chunk| chunk.expect("a chunk")).collect().await;
    assert_eq!(chunks.len(), 1);
    assert_eq!((chunks[0].offset, &chunks[0].data[..]), (2, &b"3456789"[..]));
}
