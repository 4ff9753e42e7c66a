//! How many runs of one task a server completes in a second.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tokio::sync::{Semaphore, mpsc};

use crate::pipelines::{Work, single};
use crate::report::{Report, Samples, Unit};
use crate::server::{Server, start_run};
use crate::{Bench, idle, processes, progress};

const ROUNDS: usize = 3;
const PIPELINE: &str = "single";
/// How long the last runs of a round may take.
const DRAIN: Duration = Duration::from_secs(30);

pub(crate) async fn measure(bench: &Bench, report: &mut Report) -> Result<()> {
    progress("runs per second");
    let server = Server::start(&bench.gofer, &bench.new_dir("throughput-")?).await?;
    server.register(single(PIPELINE, Work::Direct.command())).await?;
    let window = Duration::from_secs(bench.seconds.into());
    let mut spawned = Samples::new("spawn and wait, one after the other");
    let mut runs = Samples::new(format!("gofer server, {} at once", bench.in_flight));
    let mut cpu = Samples::new("server, helpers and tasks");
    let mut total = 0;

    for _ in 0..ROUNDS {
        spawned.values.push(spawn_and_wait(window)?);
        let before = processes::cpu_ms(&bench.gofer);
        let round = sustain(&server, bench.in_flight, window).await?;
        cpu.values.push((processes::cpu_ms(&bench.gofer) - before) / round.all as f64);
        runs.values.push(round.in_window as f64 / window.as_secs_f64());
        total += round.all;
    }

    report.add("`true` per second", Unit::PerSecond, Some(&spawned), &[runs]);
    report.add("processor time per run", Unit::Milliseconds, None, &[cpu]);
    idle::memory(bench, report, &format!("memory after {total} runs"))?;

    server.stop().await
}

/// Runs completed within the window, and with those that were still going on then.
struct Round {
    in_window: usize,
    all: usize,
}

/// Keeps `in_flight` runs going for as long as the window, then waits for the last.
async fn sustain(server: &Server, in_flight: u32, window: Duration) -> Result<Round> {
    let mut completions = server.completions(PIPELINE).await?;
    let permits = Arc::new(Semaphore::new(in_flight as usize));
    let (failed, mut failures) = mpsc::channel(1);
    let start = Instant::now();
    let starter =
        tokio::spawn(keep_starting(server.runs(), Arc::clone(&permits), failed, start + window));
    let mut round = Round { in_window: 0, all: 0 };
    let mut started = None;
    let mut starter = std::pin::pin!(starter);

    while started.is_none_or(|started| round.all < started) {
        tokio::select! {
            message = tokio::time::timeout(window + DRAIN, completions.message()) => {
                let message = message.context("no run was completed for too long")??;
                if message.context("the stream of events ended")?.event.is_some() {
                    round.all += 1;
                    round.in_window += usize::from(start.elapsed() < window);
                    permits.add_permits(1);
                }
            }
            Some(error) = failures.recv() => return Err(error),
            count = &mut starter, if started.is_none() => started = Some(count?),
        }
    }

    ensure!(round.all > 0, "no run was completed within the window");
    Ok(round)
}

/// Starts a run for each permit until the deadline; permits come back when runs complete. The
/// number of runs started.
async fn keep_starting(
    runs: gofer_proto::v1::run_service_client::RunServiceClient<crate::server::Connection>,
    permits: Arc<Semaphore>,
    failed: mpsc::Sender<anyhow::Error>,
    deadline: Instant,
) -> usize {
    let mut started = 0;
    while let Ok(Ok(permit)) = tokio::time::timeout_at(deadline.into(), permits.acquire()).await {
        permit.forget();
        started += 1;
        let (runs, failed) = (runs.clone(), failed.clone());
        tokio::spawn(async move {
            if let Err(error) = start_run(runs, PIPELINE, None).await {
                // The first error ends the measurement; more say nothing new.
                let _ = failed.try_send(error);
            }
        });
    }
    started
}

/// How often per second this program can start `true` and wait for it.
fn spawn_and_wait(window: Duration) -> Result<f64> {
    let start = Instant::now();
    let mut count = 0_u32;
    while start.elapsed() < window {
        let status =
            Command::new("true").stdin(Stdio::null()).status().context("cannot start `true`")?;
        ensure!(status.success(), "`true` ended with {status}");
        count += 1;
    }
    Ok(f64::from(count) / start.elapsed().as_secs_f64())
}
