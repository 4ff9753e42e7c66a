//! A DAG run by the engine and its database in this process: no API, no supervisors, no
//! directories, no logs.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use gofer_core::PipelineId;
use gofer_core::scheduler::Scheduler;
use gofer_db::{DatabaseUrl, Db, DbConfig};
use gofer_engine::Engine;
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::journal::counted::Counted;
use crate::journal::{DRAIN, register, start_engine, start_request};
use crate::pipelines::Dag;
use crate::scratch::{Product, Scratch};

/// With as many threads as the server would have.
#[derive(Debug)]
pub(crate) struct EngineAlone {
    running: Arc<Running>,
    /// There until it is dropped.
    runtime: Option<Runtime>,
}

#[derive(Debug)]
struct Running {
    engine: Engine,
    journal: Arc<Counted>,
    ended: Arc<Semaphore>,
    pipeline: PipelineId,
}

impl EngineAlone {
    /// With a durable SQLite database in this directory.
    pub(crate) async fn new(dir: &Path, dag: &Dag, scheduler: Arc<dyn Scheduler>) -> Result<Self> {
        let url = Scratch::create(Product::Sqlite, dir, "alone").await?.url;
        let config = DbConfig { url: Some(DatabaseUrl::new(url.as_str())), ..DbConfig::default() };
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let started = {
            let dag = dag.clone();
            runtime.spawn(async move {
                let db = Db::connect(config).await?;
                let pipeline = register(&db, &dag).await?;
                let ended = Arc::new(Semaphore::new(0));
                let journal = Arc::new(Counted::new(Arc::new(db), ended.clone()));
                let engine = start_engine(journal.clone(), scheduler).await?;
                anyhow::Ok(Running { engine, journal, ended, pipeline })
            })
        };

        Ok(Self { running: Arc::new(started.await??), runtime: Some(runtime) })
    }

    /// Milliseconds from the request of a run until its completion is committed.
    pub(crate) async fn run(&self) -> Result<f64> {
        let running = self.running.clone();
        let runtime = self.runtime.as_ref().context("no threads")?;
        runtime.spawn(async move { running.run().await }).await?
    }
}

impl Running {
    async fn run(&self) -> Result<f64> {
        let start = Instant::now();
        self.engine.start_run(start_request(&self.pipeline)?).await?;
        timeout(DRAIN, self.ended.acquire()).await.context("the run does not end")??.forget();
        let elapsed = start.elapsed();
        ensure!(self.journal.unsuccessful() == 0, "the run failed");
        Ok(elapsed.as_secs_f64() * 1e3)
    }
}

impl Drop for EngineAlone {
    fn drop(&mut self) {
        // Its files are in a directory that is removed as well.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::NullScheduler;
    use crate::pipelines::{Shape, TASKS, Work};

    #[tokio::test]
    async fn a_task_that_is_soon_over_costs_one_commit() {
        let dir = tempfile::tempdir().unwrap();
        let dag = Dag::new(Shape::Chain, Work::Direct, TASKS);
        let engine =
            EngineAlone::new(dir.path(), &dag, Arc::new(NullScheduler::default())).await.unwrap();
        engine.run().await.unwrap();
        let counts = engine.running.journal.counts();
        assert_eq!(counts.tasks, TASKS as u64);
        // `Running` is a commit of its own only where the end comes 5 ms later, as it may on a busy
        // machine.
        assert!(counts.transactions < TASKS as u64 * 3 / 2, "{counts:?}");
    }
}
