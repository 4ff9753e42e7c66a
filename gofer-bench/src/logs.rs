//! Logs: how soon a line arrives at a follower, and how many bytes a second go through.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use gofer_proto::v1::task_run_service_client::TaskRunServiceClient;
use gofer_proto::v1::{LogStream, Run, StreamLogsRequest, StreamLogsResponse};
use tonic::Streaming;

use crate::latency::{ms_between, now_ns};
use crate::pipelines::single;
use crate::report::{Report, Samples, Unit};
use crate::server::{Server, next_event};
use crate::{Bench, progress};

/// The hidden command by which a task prints the time, a line each.
pub(crate) const TICK_COMMAND: &str = "__tick";
/// The hidden command by which a task prints as fast as it can.
pub(crate) const POUR_COMMAND: &str = "__pour";
const LINES_PER_SECOND: u32 = 100;
const ROUNDS: usize = 3;
const MIB: usize = 1024 * 1024;
/// The bytes that `cat` writes at once.
const BLOCK: usize = 128 * 1024;
/// How long archiving may take; far more than any that works.
const PATIENCE: Duration = Duration::from_secs(300);

/// Prints so many lines of the time, at a fixed rate.
pub(crate) fn tick(lines: Option<&OsStr>) -> Result<()> {
    let (start, period) = (Instant::now(), Duration::from_secs(1) / LINES_PER_SECOND);
    let mut out = std::io::stdout().lock();
    for index in 0..number(lines)? {
        std::thread::sleep((start + period * index).saturating_duration_since(Instant::now()));
        out.write_all(format!("{}\n", now_ns()?).as_bytes())?;
        out.flush()?;
    }
    Ok(())
}

/// Prints so many MiB of lines.
pub(crate) fn pour(mib: Option<&OsStr>) -> Result<()> {
    let line =
        b"2026-11-24T14:30:00.000000Z  INFO build: a line of a log as programs print them, 100 bytes long ....\n";
    let block: Vec<u8> = line.iter().copied().cycle().take(BLOCK).collect();
    // Not by way of the standard library's buffer, which would look for the ends of the lines.
    let mut out = File::from(std::io::stdout().as_fd().try_clone_to_owned()?);
    for _ in 0..number(mib)? as usize * MIB / BLOCK {
        out.write_all(&block)?;
    }
    Ok(())
}

fn number(text: Option<&OsStr>) -> Result<u32> {
    text.and_then(OsStr::to_str)
        .and_then(|text| text.parse().ok())
        .context("name how much to print")
}

pub(crate) async fn measure(bench: &Bench, mib: u32, report: &mut Report) -> Result<()> {
    progress("logs");
    let server = Server::start(&bench.gofer, &bench.new_dir("logs-")?).await?;
    let program = std::env::current_exe()?
        .to_str()
        .context("the path of this program is not UTF-8")?
        .to_owned();
    latency(&server, &program, bench.seconds * LINES_PER_SECOND, report).await?;
    throughput(&server, &program, mib, report).await?;
    server.stop().await
}

/// From printing a line until it is here, through Gofer and through a pipe, at the same time.
async fn latency(server: &Server, program: &str, lines: u32, report: &mut Report) -> Result<()> {
    let count = lines.to_string();
    let anchor = {
        let (program, count) = (program.to_owned(), count.clone());
        tokio::task::spawn_blocking(move || ticks_by_pipe(&program, &count))
    };

    server.register(single("tick", &[program, TICK_COMMAND, &count])).await?;
    let run = server.start_run("tick", None).await?;
    let mut log = follow(server, &run).await?;
    let mut arrivals = Arrivals::default();

    while let Some(message) = log.message().await? {
        arrivals.add(&message.chunk.unwrap_or_default().data)?;
    }

    server.finish(run).await?;
    ensure!(arrivals.ms.len() == lines as usize, "{} of {lines} lines came", arrivals.ms.len());
    let anchor = Samples::of("a pipe", anchor.await??);
    let gofer = Samples::of("StreamLogs, following", arrivals.ms);
    report.add(
        &format!("a line's way, {LINES_PER_SECOND} a second"),
        Unit::Milliseconds,
        Some(&anchor),
        &[gofer],
    );

    Ok(())
}

fn ticks_by_pipe(program: &str, count: &str) -> Result<Vec<f64>> {
    let mut arrivals = Arrivals::default();
    by_pipe(program, &[TICK_COMMAND, count], |bytes| arrivals.add(bytes))?;
    Ok(arrivals.ms)
}

/// Lines of times, cut anywhere, against the time they come at.
#[derive(Default)]
struct Arrivals {
    rest: Vec<u8>,
    ms: Vec<f64>,
}

impl Arrivals {
    fn add(&mut self, bytes: &[u8]) -> Result<()> {
        let now = now_ns()?;
        self.rest.extend_from_slice(bytes);
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            let printed =
                std::str::from_utf8(&line)?.trim_end().parse().context("a line is no time")?;
            self.ms.push(ms_between(printed, now));
        }
        Ok(())
    }
}

/// MiB per second of the same bytes: through a pipe, to a follower, into the archive, and out of
/// it.
async fn throughput(server: &Server, program: &str, mib: u32, report: &mut Report) -> Result<()> {
    let count = mib.to_string();
    server.register(single("pour", &[program, POUR_COMMAND, &count])).await?;
    let mut archived = server.events("pour", "log_archived").await?;
    let mut pipe = Samples::new("a pipe");
    let mut followed = Samples::new("StartRun to the last byte, following");
    let mut archive = Samples::new("archived, from the last byte on");
    let mut read = Samples::new("StreamLogs, of the archive");

    for _ in 0..ROUNDS {
        let rate = |start: Instant| f64::from(mib) / start.elapsed().as_secs_f64();
        let start = Instant::now();
        let mut bytes = 0;
        by_pipe(program, &[POUR_COMMAND, &count], |block| {
            bytes += block.len();
            Ok(())
        })?;

        whole(bytes, mib)?;
        pipe.values.push(rate(start));

        let start = Instant::now();
        let run = server.start_run("pour", None).await?;
        whole(drain(follow(server, &run).await?).await?, mib)?;
        followed.values.push(rate(start));

        let start = Instant::now();
        next_event(&mut archived, PATIENCE).await?;
        archive.values.push(rate(start));
        let start = Instant::now();
        whole(drain(follow(server, &run).await?).await?, mib)?;
        read.values.push(rate(start));
        server.finish(run).await?;
    }

    report.add(
        &format!("a log of {mib} MiB"),
        Unit::MebibytesPerSecond,
        Some(&pipe),
        &[followed, archive, read],
    );

    Ok(())
}

/// Runs a program and takes what it prints, in this thread.
fn by_pipe(program: &str, args: &[&str], mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let mut child =
        Command::new(program).args(args).stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let mut stdout = child.stdout.take().context("no standard output")?;
    let mut buffer = vec![0; BLOCK];
    loop {
        let length = stdout.read(&mut buffer)?;
        if length == 0 {
            break;
        }
        take(&buffer[..length])?;
    }
    let status = child.wait()?;
    ensure!(status.success(), "`{program}` ended with {status}");
    Ok(())
}

async fn follow(server: &Server, run: &Run) -> Result<Streaming<StreamLogsResponse>> {
    let request = StreamLogsRequest {
        namespace: run.namespace.clone(),
        pipeline: run.pipeline.clone(),
        run: run.run,
        task: "task".to_owned(),
        follow: true,
        ..StreamLogsRequest::default()
    };
    Ok(TaskRunServiceClient::new(server.channel()).stream_logs(request).await?.into_inner())
}

/// The bytes that come on standard output.
async fn drain(mut log: Streaming<StreamLogsResponse>) -> Result<usize> {
    let mut bytes = 0;
    while let Some(message) = log.message().await? {
        let chunk = message.chunk.unwrap_or_default();
        ensure!(chunk.stream() == LogStream::Stdout, "it printed on standard error");
        bytes += chunk.data.len();
    }
    Ok(bytes)
}

fn whole(bytes: usize, mib: u32) -> Result<()> {
    ensure!(bytes == mib as usize * MIB, "{bytes} bytes of {mib} MiB came");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_arrive_once_however_they_are_cut() {
        let mut arrivals = Arrivals::default();
        let printed = now_ns().unwrap();
        let text = format!("{printed}\n{printed}\n");
        for piece in text.as_bytes().chunks(7) {
            arrivals.add(piece).unwrap();
        }
        assert_eq!(arrivals.ms.len(), 2);
        assert!(arrivals.add(b"no time\n").is_err());
    }
}
