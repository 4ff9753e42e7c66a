//! From starting the server until it answers a call.

use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Result, ensure};

use crate::report::{Report, Samples, Unit};
use crate::server::Server;
use crate::{Bench, progress};

pub(crate) async fn measure(bench: &Bench, report: &mut Report) -> Result<()> {
    progress("the start of the server");
    let mut version = Samples::new("gofer --version");
    let mut fresh = Samples::new("new data directory");
    let mut again = Samples::new("data directory of before");

    for _ in 0..bench.reps {
        version.values.push(print_version(bench)?);
        let data_dir = bench.new_dir("start-")?;
        for samples in [&mut fresh, &mut again] {
            let server = Server::start(&bench.gofer, &data_dir).await?;
            samples.values.push(server.started_in.as_secs_f64() * 1e3);
            server.stop().await?;
        }
    }

    report.add("server start to first answer", Unit::Milliseconds, Some(&version), &[fresh, again]);
    Ok(())
}

/// Milliseconds until the binary has been loaded and has said something: the floor of every start.
fn print_version(bench: &Bench) -> Result<f64> {
    let start = Instant::now();
    let status = Command::new(&bench.gofer).arg("--version").stdout(Stdio::null()).status()?;
    ensure!(status.success(), "`gofer --version` ended with {status}");
    Ok(start.elapsed().as_secs_f64() * 1e3)
}
