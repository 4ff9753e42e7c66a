//! Many runs that are active at once: what the server needs for them, and how soon all of them are
//! cancelled.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use gofer_proto::v1::system_service_client::SystemServiceClient;
use gofer_proto::v1::{CancelRunRequest, GetSystemInfoRequest, Run, RunStatus, event};
use tokio::task::JoinSet;

use crate::pipelines::single;
use crate::report::{Report, Samples, Unit};
use crate::server::{NAMESPACE, Server, next_event, start_run};
use crate::{Bench, processes, progress};

const PIPELINE: &str = "waiting";
/// Calls under way at once.
const CALLS: usize = 64;
/// How long all of them may take to become active, or to end; far more than any that works.
const PATIENCE: Duration = Duration::from_secs(600);
/// Until everything that a start or a call sets off is over.
const SETTLE: Duration = Duration::from_secs(3);

/// One slot: the first run's task has it, all others are active and wait for it.
pub(crate) async fn measure(bench: &Bench, runs: u32, report: &mut Report) -> Result<()> {
    let measure = format!("{runs} active runs");
    progress(&measure);
    let most = (runs + 1).to_string();
    let settings =
        [("GOFER_ENGINE__MAX_EXECUTIONS", "1"), ("GOFER_ENGINE__MAX_ACTIVE_RUNS", most.as_str())];
    let server =
        Server::start_with(&bench.gofer, &bench.new_dir("active-")?, &settings, PATIENCE).await?;

    server.register(single(PIPELINE, &["sleep", "600"])).await?;
    let mut completions = server.completions(PIPELINE).await?;
    tokio::time::sleep(SETTLE).await;
    let pid = server.pid()?;
    let idle = processes::memory(pid)?;
    processes::forget_peak(pid)?;

    let start = Instant::now();
    let started = start_all(&server, runs).await?;
    until_active(&server, runs).await?;
    let starting_ms = start.elapsed().as_secs_f64() * 1e3;
    tokio::time::sleep(SETTLE).await;

    let active = processes::memory(pid)?;

    let start = Instant::now();
    let asked = tokio::spawn(cancel_all(server.runs(), started));
    for _ in 0..runs {
        let completed = next_event(&mut completions, PATIENCE).await?;
        let Some(event::Details::RunCompleted(end)) = &completed.details else {
            anyhow::bail!("another event than asked for: {completed:?}");
        };
        ensure!(end.status() == RunStatus::Cancelled, "a run was not cancelled: {completed:?}");
    }

    let cancelling_ms = start.elapsed().as_secs_f64() * 1e3;
    asked.await??;
    tokio::time::sleep(SETTLE).await;
    let after = processes::memory(pid)?;
    server.stop().await?;

    let one = |subject: &str, value: f64| Samples::of(subject, [value]);
    let rss = [
        one("RSS with all", active.now_mib),
        one("RSS at most", active.peak_mib),
        one("RSS after they were cancelled", after.now_mib),
    ];
    let rss_idle = one("RSS of the idle server", idle.now_mib);

    report.add(&format!("{measure}, server"), Unit::Mebibytes, Some(&rss_idle), &rss);
    let each = (active.now_mib - idle.now_mib) * 1024.0 / f64::from(runs);
    report.add(
        &format!("{measure}, server, per run"),
        Unit::Kibibytes,
        None,
        &[one("RSS above idle", each)],
    );

    let times = [
        one("first StartRun to all active", starting_ms),
        one("first CancelRun to all cancelled", cancelling_ms),
    ];
    report.add(&measure, Unit::Milliseconds, None, &times);

    Ok(())
}

async fn start_all(server: &Server, runs: u32) -> Result<Vec<Run>> {
    let mut calls = JoinSet::new();
    let mut started = Vec::new();
    for _ in 0..runs {
        if calls.len() == CALLS {
            started.push(calls.join_next().await.context("no call is under way")???);
        }
        let client = server.runs();
        calls.spawn(async move { start_run(client, PIPELINE, None).await });
    }
    for run in calls.join_all().await {
        started.push(run?);
    }
    Ok(started)
}

/// Waits until the server says that it works on all of them.
async fn until_active(server: &Server, runs: u32) -> Result<()> {
    let mut system = SystemServiceClient::new(server.channel());
    let deadline = Instant::now() + PATIENCE;
    loop {
        let info = system.get_system_info(GetSystemInfoRequest::default()).await?.into_inner();
        if info.active_runs == u64::from(runs) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{} of {runs} runs became active", info.active_runs);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn cancel_all(
    client: gofer_proto::v1::run_service_client::RunServiceClient<crate::server::Connection>,
    runs: Vec<Run>,
) -> Result<()> {
    let mut calls: JoinSet<Result<_, tonic::Status>> = JoinSet::new();
    for run in runs {
        if calls.len() == CALLS {
            calls.join_next().await.context("no call is under way")???;
        }

        let mut client = client.clone();
        let request = CancelRunRequest {
            namespace: NAMESPACE.to_owned(),
            pipeline: run.pipeline,
            run: run.run,
            force: true,
            ..CancelRunRequest::default()
        };

        calls.spawn(async move { client.cancel_run(request).await });
    }

    for answer in calls.join_all().await {
        answer?;
    }

    Ok(())
}
