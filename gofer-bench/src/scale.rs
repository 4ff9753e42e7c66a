//! Large DAGs: what one task costs in time and in the server's memory, and whether that depends on
//! how many there are.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use gofer_proto::v1::{RunStatus, event};

use crate::make::time;
use crate::pipelines::{Dag, Shape, Work};
use crate::report::{Report, Samples, Unit};
use crate::server::{Server, next_event};
use crate::{Bench, processes, progress};

/// Executions that a server hands out at once unless it is told otherwise; make gets as many.
const AT_ONCE: u32 = 64;
/// How long a run of 10,000 tasks may take; far more than any that works.
const PATIENCE: Duration = Duration::from_secs(1_800);
/// Until what a run has set off, such as the archiving of its logs, is over, and what is free again
/// was given back.
const SETTLE: Duration = Duration::from_secs(5);
const KIB_PER_MIB: f64 = 1024.0;

pub(crate) async fn measure(bench: &Bench, tasks: usize, report: &mut Report) -> Result<()> {
    for shape in [Shape::Chain, Shape::Wide, Shape::Random] {
        for count in [tasks / 10, tasks] {
            one(bench, shape, count, report).await?;
        }
    }
    Ok(())
}

/// On a server of its own, so that nothing of another run is in its memory.
async fn one(bench: &Bench, shape: Shape, tasks: usize, report: &mut Report) -> Result<()> {
    let measure = format!("{} of {tasks} × `true`", shape.name());
    progress(&measure);
    let dag = Dag::new(shape, Work::Direct, tasks);
    let dir = bench.new_dir("scale-")?;
    let (make, make_ms) = make_it(shape, &dag, &dir)?;

    let server = Server::start(&bench.gofer, &dir.join("data")).await?;
    let spec = dag.spec();
    let pipeline = spec.name.clone();
    let pid = server.pid()?;
    let before = processes::memory(pid)?;
    server.register(spec).await?;

    let registered = processes::memory(pid)?;
    processes::forget_peak(pid)?;
    let mut completions = server.completions(&pipeline).await?;
    let start = Instant::now();
    server.start_run(&pipeline, None).await?;

    let completed = next_event(&mut completions, PATIENCE).await?;
    let elapsed_ms = start.elapsed().as_secs_f64() * 1e3;
    let Some(event::Details::RunCompleted(end)) = &completed.details else {
        anyhow::bail!("another event than asked for: {completed:?}");
    };

    ensure!(
        end.status() == RunStatus::Successful,
        "the run of {tasks} tasks failed: {completed:?}"
    );

    let peak = processes::memory(pid)?;
    tokio::time::sleep(SETTLE).await;
    let after = processes::memory(pid)?;
    server.stop().await?;

    let each = |subject: &str, sum: f64| Samples::of(subject, [sum / tasks as f64]);
    let gofer = each("StartRun to complete", elapsed_ms);
    report.add(
        &format!("{measure}, per task"),
        Unit::Milliseconds,
        Some(&each(make, make_ms)),
        &[gofer],
    );

    let rss = [
        Samples::of("RSS before", [before.now_mib]),
        Samples::of("RSS, registered", [registered.now_mib]),
        Samples::of("RSS at most", [peak.peak_mib]),
        Samples::of("RSS after", [after.now_mib]),
    ];

    report.add(&format!("{measure}, server"), Unit::Mebibytes, None, &rss);
    let growth = |mib: f64| (mib - before.now_mib) * KIB_PER_MIB;
    let memory = [
        each("RSS at most, above before", growth(peak.peak_mib)),
        each("RSS after", growth(after.now_mib)),
    ];

    report.add(&format!("{measure}, server, per task"), Unit::Kibibytes, None, &memory);
    Ok(())
}

/// Make's time for it, in milliseconds; a chain has no parallel work.
fn make_it(shape: Shape, dag: &Dag, dir: &Path) -> Result<(&'static str, f64)> {
    let makefile = dir.join("Makefile");
    std::fs::write(&makefile, dag.makefile()).context("cannot write the makefile")?;
    let (name, jobs) = if shape == Shape::Chain { ("make -j1", 1) } else { ("make -j64", AT_ONCE) };
    Ok((name, time(Command::new("make").arg(format!("-j{jobs}")).arg("-f").arg(makefile))?))
}
