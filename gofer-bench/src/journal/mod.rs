//! Changes of state per second: the engine with a scheduler that ends everything at once, on a durable database.

mod anchor;
mod counted;
mod null;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use gofer_core::run::Initiator;
use gofer_core::testing::{MemoryObjectStore, MemorySecretStore};
use gofer_core::{NamespaceId, PipelineId, Timestamp};
use gofer_db::{DatabaseUrl, Db, DbConfig, Registration};
use gofer_engine::{Backends, Engine, EngineConfig, StartRun};

use crate::journal::counted::Counted;
use crate::journal::null::NullScheduler;
use crate::pipelines::stored_spec;
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
        let config = DbConfig { url: Some(DatabaseUrl::new(scratch.url.as_str())), ..DbConfig::default() };
        progress(&format!("changes of state per second, {}", product.name()));
        let counts = on_its_own_threads(config, width, window, reps, dir.clone()).await;
        scratch.remove().await?;
        let counts = counts?;
        let of = |subject: &str, value: fn(&Round) -> f64| Samples::of(subject, counts.iter().map(value));
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

/// What was counted in one round, each per second.
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

async fn all_rounds(config: DbConfig, width: u32, window: Duration, rounds: usize, dir: &Path) -> Result<Vec<Round>> {
    let db = Db::connect(config).await?;
    let journal = Arc::new(Counted::new(Arc::new(db.clone())));
    let backends = Backends {
        scheduler: Arc::new(NullScheduler::default()),
        objects: Arc::new(MemoryObjectStore::new()),
        secrets: Arc::new(MemorySecretStore::new()),
    };
    let settings = EngineConfig { max_executions: MAX_EXECUTIONS, ..EngineConfig::default() };
    let engine = Engine::start(journal.clone(), backends, settings).await?;
    let pipeline = register(&db, width).await?;
    let mut measured = Vec::new();
    for _ in 0..rounds {
        let (single_updates, batched_updates) = anchor::updates(dir)?;
        let before = journal.counts();
        let start = Instant::now();
        sustain(&engine, &db, &pipeline, start + window).await?;
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
    engine.shutdown().await;
    db.close().await;
    Ok(measured)
}

/// Keeps [`RUNS`] runs going until the deadline, then waits for the last.
async fn sustain(engine: &Engine, db: &Db, pipeline: &PipelineId, deadline: Instant) -> Result<()> {
    let mut starters = tokio::task::JoinSet::new();
    for _ in 0..RUNS {
        let (engine, db, pipeline) = (engine.clone(), db.clone(), pipeline.clone());
        starters.spawn(async move {
            while Instant::now() < deadline {
                one_run(&engine, &db, &pipeline).await?;
            }
            Ok::<_, anyhow::Error>(())
        });
    }
    let all = async {
        while let Some(starter) = starters.join_next().await {
            starter??;
        }
        Ok(())
    };
    let left = deadline.saturating_duration_since(Instant::now()) + DRAIN;
    tokio::time::timeout(left, all).await.context("runs do not end")?
}

async fn one_run(engine: &Engine, db: &Db, pipeline: &PipelineId) -> Result<()> {
    // Before the run is asked for, so that its end is not missed.
    let mut events = db.event_watch();
    let request = StartRun {
        namespace: namespace()?,
        pipeline: pipeline.clone(),
        version: None,
        variables: BTreeMap::new(),
        initiator: Initiator::Token("bench".to_owned()),
        idempotency_key: None,
    };
    let key = engine.start_run(request).await?.key;
    loop {
        events.changed().await.context("the database was closed")?;
        let run = db.run_get(&key).await?;
        if run.state.is_complete() {
            ensure!(run.reason.is_none(), "a run failed: {run:?}");
            return Ok(());
        }
    }
}

/// One pipeline for all runs, as wide as asked for.
async fn register(db: &Db, width: u32) -> Result<PipelineId> {
    let name = PipelineId::new(format!("bench-{width}"))?;
    let spec = stored_spec(name.as_str(), width)?;
    let digest = format!("bench-{width}");
    let registration = Registration { namespace: namespace()?, spec: Arc::new(spec), digest, expected_version: None };
    db.pipeline_register(registration, "bench", Timestamp::now()).await?;
    Ok(name)
}

fn namespace() -> Result<NamespaceId> {
    Ok(NamespaceId::new("default")?)
}
