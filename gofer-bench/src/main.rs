#![doc = include_str!("../README.md")]

mod active;
mod floor;
mod history;
mod http;
mod idle;
mod journal;
mod latency;
mod logs;
mod machine;
mod make;
mod nomad;
mod pipelines;
mod processes;
mod report;
mod scale;
mod scratch;
mod secrets;
mod server;
mod start;
mod stats;
mod throughput;
mod transfer;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};

use crate::machine::Machine;
use crate::report::Report;

/// The sizes that `all` gives to `logs` and `journal`, and their defaults alone.
const LOG_MIB: u32 = 512;
const JOURNAL_WIDTH: u32 = 100;

/// Measures the `gofer` binary as a user runs it, beside its anchors
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    group: Group,
    /// The binary to measure [default: `gofer` beside this program]
    #[arg(long, global = true, value_name = "FILE")]
    gofer: Option<PathBuf>,
    /// Where temporary data goes; the disk under it is part of what is measured [default: the
    /// system's]
    #[arg(long, global = true, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// How often each pair of `make`, and each start, is repeated
    #[arg(long, global = true, default_value_t = 11, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    reps: u32,
    /// How long one round of `throughput` and of the open loop of `latency` lasts
    #[arg(long, global = true, default_value_t = 5, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// How many runs `throughput` keeps going at once
    #[arg(long, global = true, default_value_t = 16, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    in_flight: u32,
    /// A Markdown table for people, or JSON for programs
    #[arg(short, long, global = true, value_enum, default_value = "table", value_name = "FORMAT")]
    output: Format,
}

#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
enum Group {
    /// Every group that takes minutes at most, one after the other
    All,
    /// Chain and width of 40 beside GNU make
    Make,
    /// Runs of one task per second
    Throughput,
    /// From asking for a run to the task's exec and its first instruction
    Latency,
    /// From starting the server until it answers
    Start,
    /// Memory of the idle server, size of the binary
    Idle,
    /// How soon a line of a log arrives, and how many bytes a second
    Logs {
        /// How long the log is whose bytes are counted; a server keeps 1024 at most
        #[arg(long, default_value_t = LOG_MIB, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..=1000))]
        mib: u32,
    },
    /// Changes of state per second of an engine whose scheduler does nothing
    Journal {
        /// Tasks in each run's width
        #[arg(long, default_value_t = JOURNAL_WIDTH, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
        width: u32,
    },
    /// Many runs that wait at once: the server's memory, and the time to cancel them (not in `all`)
    Active {
        /// How many
        #[arg(long, default_value_t = 10_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
        runs: u32,
    },
    /// A database with a long history beside an empty one (not in `all`)
    History {
        /// How many complete runs
        #[arg(long, default_value_t = 1_000_000, value_name = "N", value_parser = clap::value_parser!(u64).range(100..))]
        runs: u64,
        /// How many events, shared out evenly among the runs
        #[arg(long, default_value_t = 10_000_000, value_name = "M", value_parser = clap::value_parser!(u64).range(100..))]
        events: u64,
    },
    /// Large DAGs: time and memory per task (not in `all`)
    Scale {
        /// Tasks in the largest; the same is measured with a tenth
        #[arg(long, default_value_t = 10_000, value_name = "N", value_parser = clap::value_parser!(u32).range(10..=10_000))]
        tasks: u32,
    },
    /// Chain of 40 and width of 200 on Nomad, beside a client that registers the same jobs (not in
    /// `all`)
    Nomad(nomad::Options),
    /// Long objects to and from an S3 store, beside its own client (not in `all`)
    Transfer(transfer::Options),
    /// Secrets read from Vault or OpenBao, beside bare reads (not in `all`)
    Secrets(secrets::Options),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
}

/// The options that every group gets.
#[derive(Debug)]
struct Bench {
    /// The copy of the binary that is measured.
    gofer: PathBuf,
    /// Where everything temporary goes.
    dir: PathBuf,
    reps: u32,
    seconds: u32,
    in_flight: u32,
}

impl Bench {
    /// A new empty directory.
    fn new_dir(&self, name: &str) -> Result<PathBuf> {
        let dir = tempfile::Builder::new()
            .prefix(name)
            .tempdir_in(&self.dir)
            .context("cannot make a directory")?;
        Ok(dir.keep())
    }
}

fn main() -> ExitCode {
    // Before anything else: as a task of a measured run this program is a stopwatch, or prints; or
    // it starts others.
    let mut args = std::env::args_os().skip(1);
    let result = match args.next() {
        Some(arg) if arg == latency::STAMP_COMMAND => latency::stamp(args.next().as_deref()),
        Some(arg) if arg == floor::RELAY_COMMAND => floor::relay(args),
        Some(arg) if arg == logs::TICK_COMMAND => logs::tick(args.next().as_deref()),
        Some(arg) if arg == logs::POUR_COMMAND => logs::pour(args.next().as_deref()),
        _ => run(),
    };

    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The code alone tells when there is no standard error.
            let _ = writeln!(std::io::stderr(), "gofer-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let cli = Cli::parse();
    // One thread: processor time of the harness is missing to the measured program.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(until_interrupted(measure(&cli)))?;
    let text = match cli.output {
        Format::Table => report.to_markdown(),
        Format::Json => serde_json::to_string_pretty(&report)? + "\n",
    };
    std::io::stdout().write_all(text.as_bytes()).context("cannot write to standard output")
}

/// Dropping what is being measured ends its servers and removes its files; a signal alone would
/// leave both.
async fn until_interrupted<T>(measured: impl Future<Output = Result<T>>) -> Result<T> {
    let mut terminated = signal(SignalKind::terminate())?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    tokio::select! {
        result = measured => result,
        _ = terminated.recv() => bail!("ended by a signal"),
        _ = interrupted.recv() => bail!("interrupted"),
    }
}

async fn measure(cli: &Cli) -> Result<Report> {
    let parent = cli.dir.clone().unwrap_or_else(std::env::temp_dir);
    let dir = tempfile::Builder::new().prefix("gofer-bench-").tempdir_in(&parent);
    let dir = dir.with_context(|| format!("cannot make a directory in `{}`", parent.display()))?;
    let gofer = copy_binary(cli.gofer.as_deref(), dir.path())?;
    let bench = Bench {
        gofer,
        dir: dir.path().into(),
        reps: cli.reps,
        seconds: cli.seconds,
        in_flight: cli.in_flight,
    };

    let mut report = Report::new(Machine::look(dir.path())?);
    let wanted = |group| cli.group == Group::All || cli.group == group;
    if wanted(Group::Start) {
        start::measure(&bench, &mut report).await?;
    }

    if wanted(Group::Idle) {
        idle::measure(&bench, &mut report).await?;
    }

    if wanted(Group::Latency) {
        latency::measure(&bench, &mut report).await?;
    }

    if wanted(Group::Make) {
        make::measure(&bench, &mut report).await?;
    }

    if wanted(Group::Throughput) {
        throughput::measure(&bench, &mut report).await?;
    }

    match &cli.group {
        Group::All => {
            logs::measure(&bench, LOG_MIB, &mut report).await?;
            journal::measure(&bench, JOURNAL_WIDTH, &mut report).await?;
        }
        Group::Logs { mib } => logs::measure(&bench, *mib, &mut report).await?,
        Group::Journal { width } => journal::measure(&bench, *width, &mut report).await?,
        Group::Scale { tasks } => scale::measure(&bench, *tasks as usize, &mut report).await?,
        Group::Active { runs } => active::measure(&bench, *runs, &mut report).await?,
        Group::History { runs, events } => {
            history::measure(&bench, *runs, *events, &mut report).await?
        }
        Group::Nomad(options) => nomad::measure(&bench, options, &mut report).await?,
        Group::Transfer(options) => transfer::measure(&bench, options, &mut report).await?,
        Group::Secrets(options) => secrets::measure(&bench, options, &mut report).await?,
        _ => {}
    }

    Ok(report)
}

/// The copy's path is known to nobody else, so that its processes can be found by it.
fn copy_binary(named: Option<&Path>, dir: &Path) -> Result<PathBuf> {
    let beside = || Ok::<_, std::io::Error>(std::env::current_exe()?.with_file_name("gofer"));
    let binary = named.map_or_else(beside, |path| Ok(path.to_owned()))?;
    let copy = dir.canonicalize()?.join("gofer");
    std::fs::copy(&binary, &copy).with_context(|| {
        let build = "build it with `cargo build --release -p gofer-cli`, or name it with `--gofer`";
        format!("cannot copy the binary `{}`; {build}", binary.display())
    })?;
    Ok(copy)
}

/// Tells a waiting person what is being measured.
fn progress(what: &str) {
    // Nobody to tell is no reason to stop.
    let _ = writeln!(std::io::stderr(), "measuring {what} ...");
}
