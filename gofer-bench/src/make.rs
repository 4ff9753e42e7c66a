//! Whole DAGs of `true`, beside GNU make.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use prost::Message as _;

use crate::floor::Floor;
use crate::journal::{EngineAlone, NullScheduler};
use crate::pipelines::{Dag, Shape, TASKS, Work};
use crate::report::{Report, Samples, Unit};
use crate::server::Server;
use crate::{Bench, progress};

/// By then the server has archived the logs of a run.
const ARCHIVED: Duration = Duration::from_millis(600);

pub(crate) async fn measure(bench: &Bench, report: &mut Report) -> Result<()> {
    let server = Server::start(&bench.gofer, &bench.new_dir("make-")?).await?;
    for shape in [Shape::Chain, Shape::Wide] {
        for work in [Work::Direct, Work::Shell] {
            compare(bench, &server, report, shape, work).await?;
        }
    }
    server.stop().await
}

/// Interleaved, after one round that only warms up caches.
async fn compare(
    bench: &Bench,
    server: &Server,
    report: &mut Report,
    shape: Shape,
    work: Work,
) -> Result<()> {
    let measure = format!("{} of {TASKS} × `{}`", shape.name(), work.name());
    progress(&measure);
    let dag = Dag::new(shape, work, TASKS);
    let spec = dag.spec();
    let pipeline = spec.name.clone();
    let files = Files::write(&bench.new_dir("dag-")?, &spec.encode_to_vec(), &dag.makefile())?;

    server.register(spec).await?;

    // Gofer starts every task that may start, so the same is asked of make.
    let jobs: &[&str] = if shape == Shape::Chain { &["-j1"] } else { &["-j40", "-j2"] };
    let mut makes: Vec<Samples> =
        jobs.iter().map(|jobs| Samples::new(format!("make {jobs}"))).collect();
    let mut local = Samples::new("gofer local");
    let mut remote = Samples::new("StartRun to complete");
    let mut parts = match shape {
        Shape::Chain => Some(Parts::new(bench, &dag, work).await?),
        _ => None,
    };

    for rep in 0..=bench.reps {
        let keep = |samples: &mut Samples, ms| {
            if rep > 0 {
                samples.values.push(ms);
            }
        };

        for (samples, jobs) in makes.iter_mut().zip(jobs) {
            keep(samples, time(Command::new("make").arg(jobs).arg("-f").arg(&files.makefile))?);
        }

        keep(
            &mut local,
            time(
                Command::new(&bench.gofer).arg("local").arg(&files.spec).env("TMPDIR", &bench.dir),
            )?,
        );

        let start = Instant::now();
        server.finish(server.start_run(&pipeline, None).await?).await?;
        keep(&mut remote, start.elapsed().as_secs_f64() * 1e3);

        // After it: these archive their logs a moment later, too.
        if let Some(parts) = &mut parts {
            parts.round(keep).await?;
        }

        // The server's later work must not cost the next sample, which is make's. Nor must the
        // pause: the sample runs warm, as the others.
        tokio::time::sleep(ARCHIVED).await;
        time(Command::new("make").arg("-f").arg(&files.makefile))?;
    }

    let (anchor, others) = makes.split_first().context("no make")?;
    let parts = parts.map_or_else(Vec::new, Parts::samples);
    let others = [others, &parts, &[local, remote]].concat();
    report.add(&measure, Unit::Milliseconds, Some(anchor), &others);

    Ok(())
}

/// The part of a server's work for a chain that cannot be left out.
struct Parts {
    floor: (Floor, Samples),
    engines: [(EngineAlone, Samples); 2],
}

impl Parts {
    async fn new(bench: &Bench, dag: &Dag, work: Work) -> Result<Self> {
        let floor = Samples::new("another process starts each, another thread commits each");
        let alone = async |scheduler| {
            EngineAlone::new(&bench.new_dir("engine-")?, dag, Arc::new(scheduler)).await
        };

        Ok(Self {
            floor: (Floor::new(&bench.dir, work)?, floor),
            engines: [
                (
                    alone(NullScheduler::default()).await?,
                    Samples::new("engine and database, nothing to start"),
                ),
                (
                    alone(NullScheduler::that_spawns()).await?,
                    Samples::new("engine and database, start each themselves"),
                ),
            ],
        })
    }

    async fn round(&mut self, keep: impl Fn(&mut Samples, f64)) -> Result<()> {
        let (floor, samples) = &mut self.floor;
        keep(samples, floor.chain(TASKS)?);
        for (engine, samples) in &mut self.engines {
            keep(samples, engine.run().await?);
        }
        Ok(())
    }

    fn samples(self) -> Vec<Samples> {
        let Self { floor: (_, floor), engines } = self;
        [floor].into_iter().chain(engines.map(|(_, samples)| samples)).collect()
    }
}

/// Milliseconds from starting a program until it has ended well.
pub(crate) fn time(command: &mut Command) -> Result<f64> {
    let start = Instant::now();
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status();
    let elapsed = start.elapsed();
    let status = status.with_context(|| format!("cannot start {command:?}"))?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(elapsed.as_secs_f64() * 1e3)
}

struct Files {
    spec: PathBuf,
    makefile: PathBuf,
}

impl Files {
    fn write(dir: &Path, spec: &[u8], makefile: &str) -> Result<Self> {
        let files = Self { spec: dir.join("pipeline.pb"), makefile: dir.join("Makefile") };
        fs::write(&files.spec, spec).context("cannot write the pipeline")?;
        fs::write(&files.makefile, makefile).context("cannot write the makefile")?;
        Ok(files)
    }
}
