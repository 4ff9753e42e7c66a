//! Figures, not assertions:
//! `cargo test --release -p gofer-scheduler-local --test it figures -- --ignored --nocapture --test-threads 1`.
#![expect(clippy::print_stdout, reason = "the figures are for the person who runs this")]

use std::time::{Duration, Instant};

use futures::StreamExt;
use gofer_conformance::scheduler::host_command;
use gofer_core::scheduler::{LogCursor, Scheduler};

use crate::support::{Local, has_written, id, next_end, run, script};

fn percentiles(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |share: usize| times[(times.len() - 1) * share / 100];
    println!(
        "{what}: p50 {:?}, p90 {:?}, p99 {:?}, max {:?} (n = {})",
        at(50),
        at(90),
        at(99),
        at(100),
        times.len()
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "prints figures"]
async fn latency() {
    latencies(&Local::open().await).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "prints figures"]
async fn rate() {
    rates(&Local::open().await).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "prints figures"]
async fn bytes_and_memory() {
    let local = Local::open().await;
    throughput(&local).await;
    memory(&local).await;
}

/// One after the other, as a chain of tasks runs.
async fn latencies(local: &Local) {
    let scheduler = local.scheduler();
    let mut events = scheduler.watch().await.expect("watch");
    let (mut starting, mut executing, mut ending, mut whole) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());

    for number in 0..200 {
        let id = id(&format!("chain-{number}"));
        let began = Instant::now();
        scheduler.start(&id, &host_command(["true"])).await.expect("start");
        starting.push(began.elapsed());
        next_end(&mut events).await;
        whole.push(began.elapsed());
    }

    for number in 0..100 {
        // The task says on the system's clock when its first instruction ran, and when its last
        // did.
        let id = id(&format!("clock-{number}"));
        let began = now_nanos();
        scheduler.start(&id, &host_command(["date", "+%s%N"])).await.expect("start");
        next_end(&mut events).await;

        let end = now_nanos();
        let printed: u128 =
            crate::support::output(scheduler, &id, true).await.0.trim().parse().expect("a number");
        executing.push(Duration::from_nanos((printed - began).try_into().expect("short")));
        ending.push(Duration::from_nanos((end - printed).try_into().expect("short")));
    }

    percentiles("  start() returns after", starting);
    percentiles("  start() to the program's own code (date)", executing);
    percentiles("  the program's own code to the event of its end", ending);
    percentiles("  start() to the event of its end (true)", whole);
}

fn now_nanos() -> u128 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock").as_nanos()
}

async fn rates(local: &Local) {
    let scheduler = local.scheduler();
    for (name, count) in [("wide-a", 40), ("wide-b", 40), ("burst", 1000)] {
        let mut events = scheduler.watch().await.expect("watch");
        let ids: Vec<_> = (0..count).map(|number| id(&format!("{name}-{number}"))).collect();
        let spec = host_command(["true"]);
        let began = Instant::now();
        let starts = ids.iter().map(|id| scheduler.start(id, &spec));

        for result in futures::future::join_all(starts).await {
            result.expect("start");
        }

        let started = began.elapsed();
        for _ in 0..count {
            next_end(&mut events).await;
        }

        let took = began.elapsed();
        let rate = f64::from(count) / took.as_secs_f64();
        println!("  {count} at once: started in {started:?}, all ended in {took:?}, {rate:.0}/s");
    }
}

async fn throughput(local: &Local) {
    let scheduler = local.scheduler();
    const BYTES: u32 = 400_000_000;
    let began = Instant::now();
    run(scheduler, &id("bytes"), &script("head -c \"$1\" /dev/zero", [&BYTES.to_string()])).await;
    let written = began.elapsed();
    let began = Instant::now();
    let mut stream = scheduler.logs(&id("bytes"), LogCursor::default(), true).await.expect("logs");
    while let Some(chunk) = stream.next().await {
        chunk.expect("a chunk");
    }
    let read = began.elapsed();
    let rate = |took: Duration| f64::from(BYTES) / 1e6 / took.as_secs_f64();
    println!("log written at {:.0} MB/s, read at {:.0} MB/s", rate(written), rate(read));
}

async fn memory(local: &Local) {
    let scheduler = local.scheduler();
    scheduler.start(&id("sleep"), &script("echo ready; exec sleep 1000", [])).await.expect("start");
    has_written(scheduler, &id("sleep"), "ready").await;
    let zygote = crate::support::zygote_pid(scheduler).await;
    let (supervisor, _) = crate::support::live_pids(&local.config);
    for (name, pid) in [("zygote", zygote), ("supervisor", supervisor)] {
        let rollup =
            std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("smaps_rollup");
        let line = |key: &str| {
            rollup.lines().find(|line| line.starts_with(key)).unwrap_or_default().to_owned()
        };
        println!("{name}: {}, {}", line("Pss:"), line("Private_Dirty:"));
    }
    scheduler.stop(&id("sleep"), Duration::ZERO).await.expect("stop");
}
