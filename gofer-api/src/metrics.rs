//! What a server counts and measures for operators. The list with its meaning is in
//! `docs/src/logging.md`; a test holds the two together.
//!
//! ```text
//! engine ──counts──▶ EngineMetrics ─┐
//! calls  ──counts──▶ ServerMetrics ─┼─▶ Registry ──text──▶ server/metrics ──▶ scraper
//! database, engine ──at a scrape────┘
//! ```

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use gofer_core::Timestamp;
use gofer_db::{Counts, Db, DbError};
use gofer_engine::Engine;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

/// How long a scrape waits for the database. Without an answer it shows the last one.
const DATABASE_TIMEOUT: Duration = Duration::from_secs(2);
/// Upper bounds in seconds of calls.
const CALLS: [f64; 12] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];
/// Upper bounds in seconds of how late events reach those who follow them.
const LAG: [f64; 8] = [0.001, 0.005, 0.025, 0.1, 0.5, 2.0, 10.0, 60.0];

/// The metrics of one server, its engine's aside. Clones are the same metrics.
#[derive(Debug, Clone)]
pub(crate) struct ServerMetrics {
    calls: Family<CallLabels, Counter>,
    call_duration: Family<MethodLabels, Histogram, fn() -> Histogram>,
    calls_in_flight: Family<MethodLabels, Gauge>,
    connections: Gauge,
    event_lag: Histogram,
    runs: Family<StateLabels, Gauge>,
    oldest_pending: Gauge<f64, AtomicU64>,
    last_event: Gauge,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    method: &'static str,
    code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MethodLabels {
    method: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    state: &'static str,
}

impl Default for ServerMetrics {
    fn default() -> Self {
        Self {
            calls: Family::default(),
            call_duration: Family::new_with_constructor(|| Histogram::new(CALLS)),
            calls_in_flight: Family::default(),
            connections: Gauge::default(),
            event_lag: Histogram::new(LAG),
            runs: Family::default(),
            oldest_pending: Gauge::default(),
            last_event: Gauge::default(),
        }
    }
}

impl ServerMetrics {
    fn register(&self, registry: &mut Registry) {
        registry.register("calls", "Calls that ended, by gRPC code", self.calls.clone());
        let help = "From the headers of a call to its last byte";
        registry.register_with_unit(
            "call_duration",
            help,
            Unit::Seconds,
            self.call_duration.clone(),
        );
        let help = "Calls at work, streams included";
        registry.register("calls_in_flight", help, self.calls_in_flight.clone());
        registry.register("connections", "Connections open", self.connections.clone());
        let help = "From when an event happened until it was on its way to a follower";
        registry.register_with_unit("event_lag", help, Unit::Seconds, self.event_lag.clone());

        let help = "Runs in the database by state: pending, running";
        registry.register("runs", help, self.runs.clone());
        let help = "Age of the oldest run that has not started; 0 without one";
        registry.register_with_unit(
            "oldest_pending_run_age",
            help,
            Unit::Seconds,
            self.oldest_pending.clone(),
        );
        registry.register("last_event", "The newest event's number", self.last_event.clone());
        let build = Info::new(vec![("version", crate::VERSION)]);
        registry.register("build", "The version of this server", build);
    }

    /// A connection, for as long as the answer lives.
    pub(crate) fn connection(&self) -> OpenConnection {
        self.connections.inc();
        OpenConnection(self.connections.clone())
    }

    pub(crate) fn call_began(&self, method: &'static str) {
        self.calls_in_flight.get_or_create(&MethodLabels { method }).inc();
    }

    pub(crate) fn call_ended(&self, method: &'static str, code: &'static str, took: Duration) {
        let labels = MethodLabels { method };
        self.calls_in_flight.get_or_create(&labels).dec();
        self.call_duration.get_or_create(&labels).observe(took.as_secs_f64());
        self.calls.get_or_create(&CallLabels { method, code }).inc();
    }

    /// An event is on its way to somebody who follows them.
    pub(crate) fn event_sent(&self, happened: Timestamp) {
        self.event_lag.observe(Timestamp::now().since(happened).as_secs_f64());
    }

    fn set(&self, counts: Counts, oldest_pending: Option<Timestamp>) {
        let gauge = |state| self.runs.get_or_create(&StateLabels { state }).clone();
        gauge("pending").set(signed(counts.pending_runs));
        gauge("running").set(signed(counts.running_runs));
        self.last_event.set(signed(counts.last_event_id));
        let age = oldest_pending.map_or(0.0, |since| Timestamp::now().since(since).as_secs_f64());
        self.oldest_pending.set(age);
    }
}

/// See [`ServerMetrics::connection`].
#[derive(Debug)]
pub(crate) struct OpenConnection(Gauge);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// All that a scraper sees.
#[derive(Debug)]
pub(crate) struct Exposition {
    registry: Registry,
    server: ServerMetrics,
    engine: Engine,
    db: Db,
}

impl Exposition {
    pub(crate) fn new(server: &ServerMetrics, engine: &Engine, db: &Db) -> Arc<Self> {
        let mut registry = Registry::with_prefix("gofer");
        server.register(&mut registry);
        engine.metrics().register(&mut registry);
        Arc::new(Self { registry, server: server.clone(), engine: engine.clone(), db: db.clone() })
    }

    /// The metrics as they are now, in the text form of OpenMetrics.
    pub(crate) async fn text(&self) -> String {
        self.engine.metrics().set(self.engine.stats());
        let asked =
            async { Ok((self.db.run_counts().await?, self.db.run_oldest_pending().await?)) };
        match tokio::time::timeout(DATABASE_TIMEOUT, asked).await {
            Ok(Ok((counts, oldest_pending))) => self.server.set(counts, oldest_pending),
            Ok(Err::<_, DbError>(error)) => {
                tracing::debug!(%error, "the database did not say how many runs it has")
            }
            Err(_) => tracing::debug!("the database did not say in time how many runs it has"),
        }

        let mut out = String::new();
        // A string takes everything.
        let _ = text::encode(&mut out, &self.registry);
        out
    }
}
