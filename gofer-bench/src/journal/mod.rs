//! Changes of state per second: the engine with a scheduler that ends everything at once, on a
//! durable database.

mod alone;
mod anchor;
mod counted;
mod null;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use gofer_conformance::{MemoryObjectStore, MemorySecretStore};
use gofer_core::run::Initiator;
use gofer_core::scheduler::Scheduler;
use gofer_core::{NamespaceId, PipelineId, Timestamp};
use gofer_db::{DatabaseUrl, Db, DbConfig, Registration};
use gofer_engine::{Backends, Engine, EngineConfig, StartRun};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

pub(crate) use crate::journal::alone::EngineAlone;
use crate::journal::counted::Counted;
pub(crate) use crate::journal::null::NullScheduler;
use crate::pipelines::{Dag, Shape, Work};
use crate::report::{Report, Samples, Unit};
use crate::scratch::{Product, Scratch};
use crate::{Bench, progress};

const ROUNDS: usize = 3;
/// Runs that are under way at once.
const RUNS: usize = 16;
/// Executions at once; no scheduler is there to be overwhelmed.
const MAX_EXECUTIONS: usize = 4_096;
/// How long the last runs of a round may take.
const DRAIN: Duration = Duration::from_secs(60);

pub(crate) async fn measure(bench: &Bench, width: u32, report: &mut Report) -> Result<()> {
    let dir = bench.new_dir("journal-")?;
    let (window, reps) = (Duration::from_secs(bench.seconds.into()), ROUNDS);
    for product in Product::here() {
        let scratch = Scratch::create(product, &dir, "journal").await?;
        let config =
            DbConfig { url: Some(DatabaseUrl::new(scratch.url.as_str())), ..DbConfig::default() };
        progress(&format!("changes of state per second, {}", product.name()));

        let counts = on_its_own_threads(config, width, window, reps, dir.clone()).await;
        scratch.remove().await?;
        let counts = counts?;
        let of = |subject: &str, value: fn(&Round) -> f64| {
            Samples::of(subject, counts.iter().map(value))
        };

        let anchor = of("fdatasync", |round| round.syncs);
        let subjects = [
            of("SQLite, one update per transaction", |round| round.single_updates),
            of("SQLite, updates, 50 per transaction", |round| round.batched_updates),
            of("transactions of the engine's writer", |round| round.transactions),
            of("changes of state", |round| round.changes),
            of("tasks", |round| round.tasks),
        ];
        let measure = format!("{}, {RUNS} runs of {width} at once, no scheduler", product.name());
        report.add(&measure, Unit::PerSecond, Some(&anchor), &subjects);
    }

    Ok(())
}

/// The counts of one round, each per second.
struct Round {
    syncs: f64,
    single_updates: f64,
    batched_updates: f64,
    transactions: f64,
    changes: f64,
    tasks: f64,
}

/// The engine gets as many threads as the server would have.
async fn on_its_own_threads(
    config: DbConfig,
    width: u32,
    window: Duration,
    rounds: usize,
    dir: std::path::PathBuf,
) -> Result<Vec<Round>> {
    let measured = move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(all_rounds(config, width, window, rounds, &dir))
    };
    tokio::task::spawn_blocking(measured).await?
}

async fn all_rounds(
    config: DbConfig,
    width: u32,
    window: Duration,
    rounds: usize,
    dir: &Path,
) -> Result<Vec<Round>> {
    let db = Db::connect(config).await?;
    let places = Arc::new(Semaphore::new(RUNS));
    let journal = Arc::new(Counted::new(Arc::new(db.clone()), places.clone()));
    let engine = start_engine(journal.clone(), Arc::new(NullScheduler::default())).await?;
    let pipeline = register(&db, &Dag::new(Shape::Wide, Work::Direct, width as usize)).await?;
    let mut measured = Vec::new();

    for _ in 0..rounds {
        let (single_updates, batched_updates) = anchor::updates(dir)?;
        let before = journal.counts();
        let start = Instant::now();
        sustain(&engine, &pipeline, &places, start + window).await?;

        let seconds = start.elapsed().as_secs_f64();
        let count = journal.counts() - before;
        measured.push(Round {
            syncs: anchor::syncs(dir)?,
            single_updates,
            batched_updates,
            transactions: count.transactions as f64 / seconds,
            changes: count.changes as f64 / seconds,
            tasks: count.tasks as f64 / seconds,
        });
    }

    ensure!(journal.unsuccessful() == 0, "{} runs failed", journal.unsuccessful());
    engine.shutdown().await;
    db.close().await;

    Ok(measured)
}

/// Keeps [`RUNS`] runs going until the deadline, then waits for the last: each has one of the
/// places until it ends.
async fn sustain(
    engine: &Engine,
    pipeline: &PipelineId,
    places: &Semaphore,
    deadline: Instant,
) -> Result<()> {
    let mut calls = JoinSet::new();
    while Instant::now() < deadline {
        timeout(DRAIN, places.acquire()).await.context("no run ends")??.forget();
        let (engine, request) = (engine.clone(), start_request(pipeline)?);
        calls.spawn(async move { engine.start_run(request).await });
        while let Some(answer) = calls.try_join_next() {
            answer??;
        }
    }

    for answer in calls.join_all().await {
        answer?;
    }

    // Given back at once, for the next round.
    drop(
        timeout(DRAIN, places.acquire_many(RUNS as u32))
            .await
            .context("the last runs do not end")??,
    );

    Ok(())
}

/// An engine on this journal and scheduler; the other backends are in memory, where nothing is
/// kept.
async fn start_engine(journal: Arc<Counted>, scheduler: Arc<dyn Scheduler>) -> Result<Engine> {
    let objects = Arc::new(MemoryObjectStore::new());
    let secrets = Arc::new(MemorySecretStore::new());
    let settings = EngineConfig { max_executions: MAX_EXECUTIONS, ..EngineConfig::default() };
    Ok(Engine::start(journal, Backends { scheduler, objects, secrets }, settings).await?)
}

fn start_request(pipeline: &PipelineId) -> Result<StartRun> {
    Ok(StartRun {
        namespace: namespace()?,
        pipeline: pipeline.clone(),
        version: None,
        variables: BTreeMap::new(),
        initiator: Initiator::Token("bench".to_owned()),
        idempotency_key: None,
    })
}

/// One pipeline for all runs.
async fn register(db: &Db, dag: &Dag) -> Result<PipelineId> {
    let spec = dag.stored_spec("bench")?;
    let (name, digest) = (spec.name.clone(), "bench".to_owned());
    let registration = Registration {
        namespace: namespace()?,
        spec: Arc::new(spec),
        digest,
        expected_version: None,
    };
    db.pipeline_register(registration, "bench", Timestamp::now()).await?;
    Ok(name)
}

fn namespace() -> Result<NamespaceId> {
    Ok(NamespaceId::new("default")?)
}
