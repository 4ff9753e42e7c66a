//! What an engine is made with: its limits and periods, and its backends.

use std::sync::Arc;
use std::time::Duration;

use gofer_core::Timestamp;
use gofer_core::object_store::ObjectStore;
use gofer_core::scheduler::Scheduler;
use gofer_core::secret_store::SecretStore;

use crate::metrics::EngineMetrics;

/// Limits and periods of an engine.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Names this server among those that share a database.
    pub server_id: String,
    /// Where tasks reach the API, such as `http://127.0.0.1:8469`; `None` leaves `GOFER_API_ADDR`
    /// out.
    pub api_addr: Option<String>,
    /// How long a run stays this server's without being renewed; renewed three times as often.
    pub lease_ttl: Duration,
    /// Executions in flight at once; further ones wait for a slot, which pipelines get by turns.
    pub max_executions: usize,
    /// The same of one pipeline; `None` is limited only by `max_executions`.
    pub max_executions_per_pipeline: Option<usize>,
    /// Runs driven at once; further ones stay pending. Runs whose server is gone are taken over all
    /// the same.
    pub max_active_runs: usize,
    /// Task runs that change in one commit at most; a larger decision becomes true in several.
    pub max_changes: usize,
    /// Archived logs are kept this long after their attempt ended.
    pub log_retention: Duration,
    /// Run objects are kept for this many newest runs of each pipeline.
    pub run_objects_keep_runs: u64,
    /// Runs are kept this long after they ended.
    pub run_retention: Duration,
    /// Runs are kept for this many newest runs of each pipeline.
    pub keep_runs: u64,
    /// Events are kept this long.
    pub event_retention: Duration,
    /// Versions are kept for this many newest versions of each pipeline, and those that a kept run
    /// is of.
    pub keep_versions: u64,
    /// Uploads by URL are remembered this long after their URL ended, and then what was never
    /// completed is deleted. Longer than an upload may last that began while its URL was good.
    pub upload_retention: Duration,
    /// The time it is when the engine starts; `None` asks the system. A simulation has a time of
    /// its own.
    pub starts_at: Option<Timestamp>,
    /// What it counts and measures.
    pub metrics: EngineMetrics,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            server_id: "local".to_owned(),
            api_addr: None,
            lease_ttl: Duration::from_secs(15),
            max_executions: 64,
            max_executions_per_pipeline: None,
            max_active_runs: 10_000,
            // A database that does 1,000 statements a second does these in two.
            max_changes: 500,
            log_retention: Duration::from_secs(90 * 24 * 3600),
            run_objects_keep_runs: 20,
            run_retention: Duration::from_secs(365 * 24 * 3600),
            keep_runs: 100_000,
            event_retention: Duration::from_secs(365 * 24 * 3600),
            keep_versions: 100,
            upload_retention: Duration::from_secs(24 * 3600),
            starts_at: None,
            metrics: EngineMetrics::default(),
        }
    }
}

/// The backends an engine works with.
#[derive(Debug, Clone)]
pub struct Backends {
    /// Where executions run.
    pub scheduler: Arc<dyn Scheduler>,
    /// Where objects and archived logs lie.
    pub objects: Arc<dyn ObjectStore>,
    /// Where secrets lie.
    pub secrets: Arc<dyn SecretStore>,
}
