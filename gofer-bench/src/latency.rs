//! From asking for a run until the task's exec, and until its first instruction.

use std::ffi::OsStr;
use std::mem::MaybeUninit;
use std::os::unix::net::UnixDatagram as StdUnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use rustix::fs::inotify;
use tokio::net::UnixDatagram;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use crate::pipelines::single;
use crate::report::{Report, Samples, Unit};
use crate::server::{Server, start_run};
use crate::{Bench, progress};

/// The hidden command by which a task reports when it began.
pub(crate) const STAMP_COMMAND: &str = "__stamp";
/// The variable that tells the tasks of one measurement apart.
const INDEX: &str = "STAMP_INDEX";
const PIPELINE: &str = "stamp";
const WARM_UP: usize = 20;
const SEQUENTIAL: usize = 300;
const PER_SECOND: u32 = 100;
/// Room for the events of one program that is opened.
const EVENTS_BYTES: usize = 4096;
/// How long a stamp may stay away before the measurement is given up.
const PATIENCE: Duration = Duration::from_secs(30);

/// The task: it sends one datagram with its index and the time.
pub(crate) fn stamp(socket: Option<&OsStr>) -> Result<()> {
    let now = now_ns()?;
    let socket = socket.context("name the socket to report to")?;
    let index = std::env::var(INDEX).unwrap_or_default();
    StdUnixDatagram::unbound()?.send_to(format!("{index} {now}").as_bytes(), socket)?;
    Ok(())
}

pub(crate) async fn measure(bench: &Bench, report: &mut Report) -> Result<()> {
    progress("latency");
    let server = Server::start(&bench.gofer, &bench.new_dir("latency-")?).await?;
    let stamps = Stamps::bind(&bench.dir)?;
    let copy = bench.dir.join("stamp-program");
    std::fs::copy(std::env::current_exe()?, &copy).context("cannot copy this program")?;
    let mut execs = Execs::watch(&copy)?;
    let program =
        copy.to_str().context("the path of a copy of this program is not UTF-8")?.to_owned();
    let socket = stamps.path.to_str().context("the path of the socket is not UTF-8")?;
    server.register(single(PIPELINE, &[program.as_str(), STAMP_COMMAND, socket])).await?;
    sequential(&server, &stamps, &mut execs, &program, report).await?;
    open_loop(&server, &stamps, bench.seconds, report).await?;
    server.stop().await
}

/// One run at a time, each beside a bare spawn of the same program.
async fn sequential(
    server: &Server,
    stamps: &Stamps,
    execs: &mut Execs,
    program: &str,
    report: &mut Report,
) -> Result<()> {
    let mut spawned = [Samples::new("spawn to exec"), Samples::new("spawn to first instruction")];
    let mut answered = Samples::new("StartRun answered");
    let mut started = Samples::new("StartRun to exec");
    let mut executed = Samples::new("StartRun to first instruction");
    let mut complete = Samples::new("StartRun to complete");

    for index in 0..WARM_UP + SEQUENTIAL {
        let asked = now_ns()?;
        let mut child = Command::new(program)
            .arg(STAMP_COMMAND)
            .arg(&stamps.path)
            .env(INDEX, index.to_string())
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start `{program}`"))?;
        let spawn_ms =
            [execs.next().await?, stamps.next().await?.at_ns].map(|at_ns| ms_between(asked, at_ns));

        child.wait()?;

        let asked = now_ns()?;
        let run = server.start_run(PIPELINE, Some((INDEX, index.to_string()))).await?;
        let answered_ms = ms_between(asked, now_ns()?);
        let exec_ns = execs.next().await?;
        let stamp = stamps.next().await?;
        ensure!(stamp.index == index, "run {index} was asked for, the stamp is of {}", stamp.index);
        server.finish(run).await?;

        let complete_ms = ms_between(asked, now_ns()?);
        if index >= WARM_UP {
            for (samples, spawn_ms) in spawned.iter_mut().zip(spawn_ms) {
                samples.values.push(spawn_ms);
            }
            started.values.push(ms_between(asked, exec_ns));
            answered.values.push(answered_ms);
            executed.values.push(ms_between(asked, stamp.at_ns));
            complete.values.push(complete_ms);
        }
    }

    let [spawned_exec, spawned] = spawned;
    report.add("one run at a time, to exec", Unit::Milliseconds, Some(&spawned_exec), &[started]);
    report.add(
        "one run at a time",
        Unit::Milliseconds,
        Some(&spawned),
        &[answered, executed, complete],
    );

    Ok(())
}

/// Runs are asked for at fixed moments, without waiting for those before. A late request counts
/// from its moment.
async fn open_loop(
    server: &Server,
    stamps: &Stamps,
    seconds: u32,
    report: &mut Report,
) -> Result<()> {
    let period = Duration::from_secs(1) / PER_SECOND;
    let count = (seconds * PER_SECOND) as usize;
    let (start, start_ns) = (Instant::now() + period, now_ns()? + period.as_nanos() as i64);
    let moment_ns = |index: usize| start_ns + (period.as_nanos() as i64) * index as i64;
    let runs = server.runs();
    let asking = tokio::spawn(async move {
        let mut calls = tokio::task::JoinSet::new();
        for index in 0..count {
            tokio::time::sleep_until(start + period * index as u32).await;
            let runs = runs.clone();
            calls.spawn(async move {
                start_run(runs, PIPELINE, Some((INDEX, index.to_string()))).await
            });
        }

        calls.join_all().await.into_iter().collect::<Result<Vec<_>>>()
    });

    let mut executed = Samples::new("StartRun to first instruction");
    for _ in 0..count {
        let Stamp { index, at_ns } = stamps.next().await?;
        executed.values.push(ms_between(moment_ns(index), at_ns));
    }

    for run in asking.await?? {
        server.finish(run).await?;
    }

    report.add(&format!("{PER_SECOND} runs a second"), Unit::Milliseconds, None, &[executed]);
    Ok(())
}

/// The moments at which a program is executed, as the kernel tells that its file is opened.
struct Execs(mpsc::UnboundedReceiver<i64>);

impl Execs {
    fn watch(program: &Path) -> Result<Self> {
        let fd = inotify::init(inotify::CreateFlags::CLOEXEC)?;
        inotify::add_watch(&fd, program, inotify::WatchFlags::OPEN)?;
        let (sender, receiver) = mpsc::unbounded_channel();
        // It ends with the process: nothing else would wake it.
        std::thread::Builder::new().name("execs".to_owned()).spawn(move || {
            let mut buffer = [MaybeUninit::uninit(); EVENTS_BYTES];
            let mut reader = inotify::Reader::new(fd, &mut buffer);
            while let (Ok(_), Ok(at_ns)) = (reader.next(), now_ns()) {
                if sender.send(at_ns).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self(receiver))
    }

    async fn next(&mut self) -> Result<i64> {
        timeout(PATIENCE, self.0.recv())
            .await
            .context("no task was executed")?
            .context("inotify ended")
    }
}

/// Where tasks report to.
struct Stamps {
    socket: UnixDatagram,
    path: PathBuf,
}

struct Stamp {
    index: usize,
    at_ns: i64,
}

impl Stamps {
    fn bind(dir: &Path) -> Result<Self> {
        let path = dir.join("stamps");
        let socket = UnixDatagram::bind(&path)
            .with_context(|| format!("cannot bind `{}`", path.display()))?;
        Ok(Self { socket, path })
    }

    async fn next(&self) -> Result<Stamp> {
        let mut buffer = [0; 64];
        let length = timeout(PATIENCE, self.socket.recv(&mut buffer))
            .await
            .context("a task did not report")??;
        let text = std::str::from_utf8(&buffer[..length])?;
        let (index, at_ns) =
            text.split_once(' ').with_context(|| format!("`{text}` is no stamp"))?;
        Ok(Stamp {
            index: index.parse().with_context(|| format!("`{text}` has no index"))?,
            at_ns: at_ns.parse()?,
        })
    }
}

/// The one clock that two processes share by name.
pub(crate) fn now_ns() -> Result<i64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos().try_into()?)
}

pub(crate) fn ms_between(from_ns: i64, to_ns: i64) -> f64 {
    (to_ns - from_ns) as f64 / 1e6
}
