//! The memory that the server uses while it has nothing to do.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::report::{Report, Samples, Unit};
use crate::server::Server;
use crate::{Bench, processes, progress};

/// Until everything that a start sets off is over.
const SETTLE: Duration = Duration::from_secs(3);
const MIB: f64 = 1024.0 * 1024.0;

pub(crate) async fn measure(bench: &Bench, report: &mut Report) -> Result<()> {
    progress("the idle server");
    let server = Server::start(&bench.gofer, &bench.new_dir("idle-")?).await?;
    tokio::time::sleep(SETTLE).await;
    memory(bench, report, "idle server, memory")?;
    server.stop().await?;
    let bytes = std::fs::metadata(&bench.gofer).context("cannot look at the binary")?.len();
    report.add("binary", Unit::Mebibytes, None, &[Samples::of("size", [bytes as f64 / MIB])]);
    Ok(())
}

/// Adds the memory of the server and its helpers together.
pub(crate) fn memory(bench: &Bench, report: &mut Report, measure: &str) -> Result<()> {
    let processes = processes::of(&bench.gofer);
    ensure!(!processes.is_empty(), "the server has no process");
    let count = processes.len();
    let sum = |name: &str, mib: fn(&processes::Process) -> f64| {
        Samples::of(format!("{name}, {count} processes"), [processes.iter().map(mib).sum()])
    };
    let largest = processes.iter().map(|process| process.rss_mib).fold(0.0, f64::max);
    let subjects = [
        sum("RSS", |process| process.rss_mib),
        sum("PSS", |process| process.pss_mib),
        Samples::of("RSS, largest", [largest]),
    ];
    report.add(measure, Unit::Mebibytes, None, &subjects);
    Ok(())
}
