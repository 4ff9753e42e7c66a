//! DAGs of `true` on a Nomad agent, beside a client that registers the same jobs and waits on the
//! same event stream.

mod bare;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result};

use crate::nomad::bare::Bare;
use crate::pipelines::{Dag, Shape, Work};
use crate::report::{Report, Samples, Unit};
use crate::server::Server;
use crate::{Bench, http, progress};

/// Calls to Nomad under way at once, on both sides: the scheduler's default.
const CALLS: usize = 16;
/// All of a width at once, on both sides.
const MAX_EXECUTIONS: usize = 256;
/// The resources that Gofer asks for when a task asks for none; and little disk, so that no job
/// waits for room.
const CPU_MHZ: u64 = 100;
const MEMORY_MB: u64 = 64;
const LOG_MB: u64 = 1;
const DISK_MB: u64 = 10;

/// Which agent, and how much.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub(crate) struct Options {
    /// Address of an agent
    #[arg(long, default_value = "http://127.0.0.1:4646", value_name = "URL")]
    nomad_addr: String,
    /// A file that holds an ACL token
    #[arg(long, value_name = "FILE")]
    nomad_token_file: Option<PathBuf>,
    /// The driver, on both sides
    #[arg(long, default_value = "raw_exec", value_name = "NAME", value_parser = ["raw_exec", "exec"])]
    driver: String,
    /// More keys of Gofer's `[scheduler.nomad]`, as TOML; the bare client knows nothing of them
    #[arg(long, value_name = "FILE")]
    scheduler_toml: Option<PathBuf>,
    /// Tasks of the chain; 0 leaves it out
    #[arg(long, default_value_t = 40, value_name = "N")]
    chain: usize,
    /// Tasks of the width; 0 leaves it out
    #[arg(long, default_value_t = 200, value_name = "N", value_parser = clap::value_parser!(u64).range(..=256))]
    wide: u64,
    /// How often each pair is repeated
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
}

pub(crate) async fn measure(bench: &Bench, options: &Options, report: &mut Report) -> Result<()> {
    let server =
        Server::start_configured(&bench.gofer, &bench.new_dir("nomad-")?, &config(options)?)
            .await?;
    let token = options.nomad_token_file.as_deref().map(http::secret).transpose()?;
    let bare = Bare::connect(&options.nomad_addr, token, &options.driver).await?;
    let wide = usize::try_from(options.wide)?;
    for (shape, tasks) in [(Shape::Chain, options.chain), (Shape::Wide, wide)] {
        if tasks > 0 {
            compare(options.rounds, &server, &bare, report, shape, tasks).await?;
        }
    }
    server.stop().await
}

/// Interleaved; the first round of Gofer's finds a connected event stream, as the bare client's
/// does.
async fn compare(
    rounds: u32,
    server: &Server,
    bare: &Bare,
    report: &mut Report,
    shape: Shape,
    tasks: usize,
) -> Result<()> {
    let measure = format!("{} of {tasks} × `true` on Nomad, per task", shape.name());
    progress(&measure);
    let spec = Dag::new(shape, Work::Direct, tasks).spec();
    let pipeline = spec.name.clone();
    server.register(spec).await?;

    let mut anchor = Samples::new("bare client");
    let mut gofer = Samples::new("StartRun to complete");
    let mut more = Samples::new("StartRun to complete less bare client");

    for round in 0..rounds {
        let start = Instant::now();
        let jobs = bare
            .run(
                &format!("{pipeline}-{round}"),
                tasks,
                if shape == Shape::Chain { 1 } else { tasks },
            )
            .await?;
        let bare_ms = per_task_ms(start, tasks);

        bare.remove(&jobs).await?;
        let start = Instant::now();
        server.finish(server.start_run(&pipeline, None).await?).await?;
        let gofer_ms = per_task_ms(start, tasks);
        anchor.values.push(bare_ms);
        gofer.values.push(gofer_ms);
        more.values.push(gofer_ms - bare_ms);
    }

    report.add(&measure, Unit::Milliseconds, Some(&anchor), &[gofer]);
    report.add(&format!("{measure}, more"), Unit::Milliseconds, None, &[more]);
    Ok(())
}

fn per_task_ms(start: Instant, tasks: usize) -> f64 {
    start.elapsed().as_secs_f64() * 1e3 / tasks as f64
}

fn config(options: &Options) -> Result<String> {
    let mut text = format!(
        "[engine]\nmax_executions = {MAX_EXECUTIONS}\n[scheduler]\nbackend = \
         \"nomad\"\n[scheduler.nomad]\naddresses = [{}]\nhost_driver = {}\nmax_in_flight = \
         {CALLS}\njob_prefix = \"gofer-bench-{}\"\ndefault_cpu_mhz = {CPU_MHZ}\ndefault_memory_mb \
         = {MEMORY_MB}\nlog = {{ max_files = 1, max_file_size_mb = {LOG_MB}, disk_mb = {DISK_MB} \
         }}\n",
        http::quoted(&options.nomad_addr),
        http::quoted(&options.driver),
        std::process::id(),
    );

    if let Some(file) = &options.nomad_token_file {
        text += &format!("token_file = {}\n", http::quoted_path(file)?);
    }

    if let Some(file) = &options.scheduler_toml {
        text += &std::fs::read_to_string(file)
            .with_context(|| format!("cannot read `{}`", file.display()))?;
    }

    Ok(text)
}
