//! What an engine counts and measures, for operators. The list with its meaning is in
//! `docs/src/logging.md`; a test holds the two together.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use gofer_core::journal::Commit;
use gofer_core::run::{AttemptRecord, ReasonKind, Run, RunStatus, TaskRun, TaskState, TaskStatus};
use gofer_core::{BackendError, ErrorKind, Timestamp};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// Pipelines that have time series of their own. A scraper's memory follows their number, and every
/// further pipeline counts as [`OTHER`].
const PIPELINES_MAX: usize = 1_000;
/// What pipelines without series of their own are called.
const OTHER: &str = "other";
/// Upper bounds in seconds of what a machine does: commits and calls.
const FAST: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0];
/// Upper bounds in seconds of what people wait for: runs, tasks and queues.
const SLOW: [f64; 14] = [
    0.01, 0.05, 0.25, 1.0, 5.0, 15.0, 60.0, 180.0, 600.0, 1_800.0, 3_600.0, 10_800.0, 43_200.0,
    86_400.0,
];
/// Upper bounds of how many changes share a transaction.
const SIZES: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 256.0, 1_024.0];

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

fn slow<L: Clone + Hash + Eq>() -> Histograms<L> {
    Histograms::new_with_constructor(|| Histogram::new(SLOW))
}

/// The metrics of one engine. Clones are the same metrics.
#[derive(Debug, Clone)]
pub struct EngineMetrics {
    names: Arc<PipelineNames>,
    runs_created: Family<PipelineLabels, Counter>,
    runs_completed: Family<StatusLabels, Counter>,
    run_duration: Histograms<PipelineLabels>,
    run_queue: Histograms<PipelineLabels>,
    attempts_completed: Family<StatusLabels, Counter>,
    attempt_phase: Histograms<PhaseLabels>,
    retries: Family<PipelineLabels, Counter>,
    executions_lost: Counter,
    commit_duration: Histogram,
    commit_changes: Histogram,
    leases_lost: Counter,
    lease_renewed: Gauge<f64, std::sync::atomic::AtomicU64>,
    slot_wait: Histogram,
    slots: Gauge,
    slots_in_use: Gauge,
    slots_waiting: Gauge,
    runs_driven: Gauge,
    runs_driven_limit: Gauge,
    archive_backlog: Gauge,
    backend_calls: Family<CallLabels, Counter>,
    backend_call_duration: Histograms<CallNameLabels>,
}

/// What an engine is busy with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineStats {
    /// Runs this server drives.
    pub active_runs: usize,
    /// How many that may be.
    pub max_active_runs: usize,
    /// Executions in flight.
    pub executions: usize,
    /// How many that may be.
    pub max_executions: usize,
    /// Attempts whose logs wait to be archived, as far as this server saw them end.
    pub archive_backlog: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PipelineLabels {
    namespace: Arc<str>,
    pipeline: Arc<str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StatusLabels {
    namespace: Arc<str>,
    pipeline: Arc<str>,
    status: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PhaseLabels {
    phase: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    backend: &'static str,
    call: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallNameLabels {
    backend: &'static str,
    call: &'static str,
}

/// What a commit makes true, so far as it is counted. The commit itself is given away before it is
/// true.
#[derive(Debug)]
pub(crate) struct CommitCounts {
    attempts: Vec<EndedAttempt>,
    completed: Option<(RunStatus, Timestamp)>,
}

#[derive(Debug)]
struct EndedAttempt {
    status: TaskStatus,
    lost: bool,
    retried: bool,
    intended_at: Timestamp,
    started_at: Option<Timestamp>,
    ended_at: Timestamp,
}

impl Default for EngineMetrics {
    fn default() -> Self {
        Self::new(false)
    }
}

impl EngineMetrics {
    /// Metrics that nobody sees until they are registered. With `per_pipeline` the first thousand
    /// pipelines have time series of their own; without it, namespaces have.
    #[must_use]
    pub fn new(per_pipeline: bool) -> Self {
        Self {
            names: Arc::new(PipelineNames { per_pipeline, known: Mutex::default() }),
            runs_created: Family::default(),
            runs_completed: Family::default(),
            run_duration: slow(),
            run_queue: slow(),
            attempts_completed: Family::default(),
            attempt_phase: slow(),
            retries: Family::default(),
            executions_lost: Counter::default(),
            commit_duration: Histogram::new(FAST),
            commit_changes: Histogram::new(SIZES),
            leases_lost: Counter::default(),
            lease_renewed: Gauge::default(),
            slot_wait: Histogram::new(SLOW),
            slots: Gauge::default(),
            slots_in_use: Gauge::default(),
            slots_waiting: Gauge::default(),
            runs_driven: Gauge::default(),
            runs_driven_limit: Gauge::default(),
            archive_backlog: Gauge::default(),
            backend_calls: Family::default(),
            backend_call_duration: Histograms::new_with_constructor(|| Histogram::new(FAST)),
        }
    }

    /// Shows them in a registry, which has the prefix `gofer`.
    pub fn register(&self, registry: &mut Registry) {
        self.register_runs(registry);
        self.register_engine(registry);

        let help = "Time until a backend answered";
        registry.register_with_unit(
            "backend_call_duration",
            help,
            Unit::Seconds,
            self.backend_call_duration.clone(),
        );
        let help = "Calls of backends by outcome: ok, or the kind of the error";
        registry.register("backend_calls", help, self.backend_calls.clone());
    }

    fn register_runs(&self, registry: &mut Registry) {
        registry.register("runs_created", "Runs created", self.runs_created.clone());
        let help = "Runs that ended, by status";
        registry.register("runs_completed", help, self.runs_completed.clone());
        let help = "From the start of a run to its end";
        registry.register_with_unit("run_duration", help, Unit::Seconds, self.run_duration.clone());
        let help = "From the creation of a run to its start, of runs that ended";
        registry.register_with_unit("run_queue", help, Unit::Seconds, self.run_queue.clone());

        let help = "Attempts of tasks that ended, by status";
        registry.register("attempts_completed", help, self.attempts_completed.clone());
        let help = "Time of an attempt in a phase: starting at the scheduler, running";
        registry.register_with_unit(
            "attempt_phase",
            help,
            Unit::Seconds,
            self.attempt_phase.clone(),
        );
        registry.register("retries", "Attempts after a first one", self.retries.clone());
        let help = "Executions that the infrastructure lost";
        registry.register("executions_lost", help, self.executions_lost.clone());
    }

    fn register_engine(&self, registry: &mut Registry) {
        let help = "Time of a transaction of the writer, retries included";
        registry.register_with_unit("commit", help, Unit::Seconds, self.commit_duration.clone());
        let help = "Changes of runs that shared a transaction";
        registry.register("commit_changes", help, self.commit_changes.clone());
        let help = "Runs whose lease another server took or that ran out";
        registry.register("leases_lost", help, self.leases_lost.clone());
        let help = "When the leases were last renewed, in Unix time";
        registry.register_with_unit(
            "leases_renewed_timestamp",
            help,
            Unit::Seconds,
            self.lease_renewed.clone(),
        );

        let help = "Time that an execution waited for a slot";
        registry.register_with_unit("slot_wait", help, Unit::Seconds, self.slot_wait.clone());
        registry.register("slots", "Executions that may be in flight", self.slots.clone());
        registry.register("slots_in_use", "Executions in flight", self.slots_in_use.clone());
        let help = "Executions that wait for a slot";
        registry.register("slots_waiting", help, self.slots_waiting.clone());
        registry.register("runs_driven", "Runs this server drives", self.runs_driven.clone());
        let help = "Runs this server may drive";
        registry.register("runs_driven_limit", help, self.runs_driven_limit.clone());
        let help = "Attempts that ended here and whose logs are not archived yet";
        registry.register("log_archive_backlog", help, self.archive_backlog.clone());
    }

    /// Takes what the engine is busy with, just before a scrape.
    pub fn set(&self, stats: EngineStats) {
        let set = |gauge: &Gauge, value: usize| {
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        };
        set(&self.runs_driven, stats.active_runs);
        set(&self.runs_driven_limit, stats.max_active_runs);
        set(&self.slots_in_use, stats.executions);
        set(&self.slots, stats.max_executions);
        set(&self.archive_backlog, stats.archive_backlog);
    }

    pub(crate) fn run_created(&self, run: &Run) {
        let labels = self.labels(run);
        self.runs_created.get_or_create(&labels).inc();
        // It was skipped.
        if let Some(status) = run.state.status() {
            self.runs_completed.get_or_create(&labels.with_status(status.as_str())).inc();
        }
    }

    /// What a commit is going to make true of its run.
    pub(crate) fn counts(commit: &Commit) -> CommitCounts {
        let ended = commit.tasks.iter().filter_map(|task| Some((task.ended.as_ref()?, &task.to)));
        let attempt = |(ended, to): (&AttemptRecord, &TaskRun)| EndedAttempt {
            status: ended.status,
            lost: ended.reason.as_ref().is_some_and(|reason| reason.kind == ReasonKind::Lost),
            retried: to.state == TaskState::Pending,
            intended_at: ended.intended_at,
            started_at: ended.started_at,
            ended_at: ended.ended_at,
        };
        let completed = commit.run.as_ref().and_then(|run| Some((run.to.status()?, run.at)));
        CommitCounts { attempts: ended.map(attempt).collect(), completed }
    }

    /// The commit is true.
    pub(crate) fn committed(&self, run: &Run, counts: CommitCounts) {
        if counts.attempts.is_empty() && counts.completed.is_none() {
            return;
        }

        let labels = self.labels(run);
        for attempt in &counts.attempts {
            self.attempt_ended(&labels, attempt);
        }

        let Some((status, at)) = counts.completed else { return };
        self.runs_completed.get_or_create(&labels.with_status(status.as_str())).inc();
        if let Some(started) = run.started_at {
            self.run_duration.get_or_create(&labels).observe(seconds(started, at));
            self.run_queue.get_or_create(&labels).observe(seconds(run.created_at, started));
        }
    }

    fn attempt_ended(&self, labels: &PipelineLabels, ended: &EndedAttempt) {
        let of_status = labels.with_status(ended.status.as_str());
        self.attempts_completed.get_or_create(&of_status).inc();
        if ended.retried {
            self.retries.get_or_create(labels).inc();
        }
        if ended.lost {
            self.executions_lost.inc();
        }

        let phase = |phase, from, to| {
            self.attempt_phase.get_or_create(&PhaseLabels { phase }).observe(seconds(from, to));
        };
        phase("starting", ended.intended_at, ended.started_at.unwrap_or(ended.ended_at));
        if let Some(started) = ended.started_at {
            phase("running", started, ended.ended_at);
        }
    }

    pub(crate) fn transaction(&self, changes: usize, took: Duration) {
        self.commit_duration.observe(took.as_secs_f64());
        #[expect(clippy::cast_precision_loss, reason = "a transaction has a thousand changes")]
        self.commit_changes.observe(changes as f64);
    }

    pub(crate) fn lease_lost(&self) {
        self.leases_lost.inc();
    }

    pub(crate) fn leases_renewed(&self, at: Timestamp) {
        self.lease_renewed.set(at.0 as f64 / 1_000.0);
    }

    /// A wait for a slot, for as long as the answer lives.
    pub(crate) fn slot_wanted(&self) -> SlotWait {
        self.slots_waiting.inc();
        SlotWait { metrics: self.clone(), since: Instant::now() }
    }

    pub(crate) fn backend_answered<T>(
        &self,
        (backend, call): (&'static str, &'static str),
        answer: &Result<T, BackendError>,
        took: Duration,
    ) {
        let outcome = answer.as_ref().map_or_else(|error| kind(error.kind), |_| "ok");
        self.backend_calls.get_or_create(&CallLabels { backend, call, outcome }).inc();
        let labels = CallNameLabels { backend, call };
        self.backend_call_duration.get_or_create(&labels).observe(took.as_secs_f64());
    }

    fn labels(&self, run: &Run) -> PipelineLabels {
        self.names.labels(run.key.namespace.as_str(), run.key.pipeline.as_str())
    }
}

/// See [`EngineMetrics::slot_wanted`].
#[derive(Debug)]
pub(crate) struct SlotWait {
    metrics: EngineMetrics,
    since: Instant,
}

impl Drop for SlotWait {
    fn drop(&mut self) {
        self.metrics.slots_waiting.dec();
        self.metrics.slot_wait.observe(self.since.elapsed().as_secs_f64());
    }
}

impl PipelineLabels {
    fn with_status(&self, status: &'static str) -> StatusLabels {
        let Self { namespace, pipeline } = self.clone();
        StatusLabels { namespace, pipeline, status }
    }
}

/// Which pipelines have time series of their own.
#[derive(Debug)]
struct PipelineNames {
    per_pipeline: bool,
    known: Mutex<HashSet<(Arc<str>, Arc<str>)>>,
}

impl PipelineNames {
    fn labels(&self, namespace: &str, pipeline: &str) -> PipelineLabels {
        // An empty label is no label.
        let pipeline = if self.per_pipeline { pipeline } else { "" };
        let wanted = (Arc::from(namespace), Arc::from(pipeline));
        let mut known = crate::lock(&self.known);
        if let Some((namespace, pipeline)) = known.get(&wanted).cloned() {
            return PipelineLabels { namespace, pipeline };
        }

        let (namespace, pipeline) = match known.len() < PIPELINES_MAX {
            true => wanted,
            false => (Arc::from(OTHER), Arc::from(OTHER)),
        };
        if known.len() < PIPELINES_MAX {
            known.insert((namespace.clone(), pipeline.clone()));
        }
        PipelineLabels { namespace, pipeline }
    }
}

fn seconds(from: Timestamp, to: Timestamp) -> f64 {
    to.since(from).as_secs_f64()
}

fn kind(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::NotFound => "not_found",
        ErrorKind::AlreadyExists => "already_exists",
        ErrorKind::Invalid => "invalid",
        ErrorKind::Denied => "denied",
        ErrorKind::Unavailable => "unavailable",
        ErrorKind::Timeout => "timeout",
        ErrorKind::RateLimited => "rate_limited",
        ErrorKind::Exhausted => "exhausted",
        ErrorKind::Unsupported => "unsupported",
        ErrorKind::Corrupt => "corrupt",
        _ => "internal",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pipelines_beyond_the_bound_share_a_series() {
        let names = PipelineNames { per_pipeline: true, known: Mutex::default() };
        for n in 0..PIPELINES_MAX {
            assert_eq!(&*names.labels("default", &format!("p{n}")).pipeline, format!("p{n}"));
        }
        assert_eq!(&*names.labels("default", "one-more").pipeline, OTHER);
        assert_eq!(&*names.labels("default", "p7").pipeline, "p7");
    }

    #[test]
    fn without_pipelines_a_namespace_is_one_series() {
        let names = PipelineNames { per_pipeline: false, known: Mutex::default() };
        assert_eq!(names.labels("default", "a"), names.labels("default", "b"));
        assert_eq!(crate::lock(&names.known).len(), 1);
    }
}
