//! Fills a database with complete runs, quickly: the database itself makes the rows, in large
//! transactions.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use diesel::connection::SimpleConnection as _;
use diesel::{Connection as _, SqliteConnection};
use gofer_core::Version;
use gofer_core::event::EventDetails;
use gofer_core::run::{Initiator, RunStatus, TaskStatus};

use crate::history::PIPELINES;
use crate::pipelines::{Dag, Shape, Work};
use crate::scratch::{Product, Scratch, connect};

/// Time between two runs, and how long ago the newest was, in microseconds.
const APART_US: u64 = 1_000;
const AGO_US: u64 = 3_600 * 1_000_000;

#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    pub(super) runs: u64,
    pub(super) events_per_run: u64,
    /// Runs per transaction.
    pub(super) chunk: u64,
}

/// The schema of the first Gofer there was. The server that opens the database migrates the rest.
const SQLITE_SCHEMA: &str =
    include_str!("../../../gofer-db/migrations/sqlite/00000000000001_initial/up.sql");
const POSTGRES_SCHEMA: &str =
    include_str!("../../../gofer-db/migrations/postgres/00000000000001_initial/up.sql");
/// How diesel remembers that this schema is there.
const APPLIED: &str = "CREATE TABLE __diesel_schema_migrations (version VARCHAR(50) PRIMARY KEY \
                       NOT NULL, run_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP); INSERT INTO \
                       __diesel_schema_migrations (version) VALUES ('00000000000001')";

/// Fills an empty database; returns the rows per second, the indexes' upkeep included.
pub(super) async fn fill(scratch: &Scratch, size: Size) -> Result<f64> {
    let start = Instant::now();
    let statements = Statements::new(scratch.product, size)?;
    match scratch.product {
        Product::Sqlite => fill_sqlite(&scratch.url, &statements)?,
        Product::Postgres => fill_postgres(&scratch.url, &statements).await?,
    }
    let rows = size.runs * (3 + size.events_per_run);
    Ok(rows as f64 / start.elapsed().as_secs_f64())
}

fn fill_sqlite(path: &str, statements: &Statements) -> Result<()> {
    let mut db = SqliteConnection::establish(path)?;
    // Nobody needs the file if this is cut off; the server sets its own when it opens it.
    db.batch_execute(
        "PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = OFF; PRAGMA \
                      synchronous = OFF; PRAGMA cache_size = -262144",
    )?;
    db.batch_execute(&format!("{SQLITE_SCHEMA};{APPLIED};{}", statements.pipelines()?))?;
    for chunk in statements.chunks() {
        db.batch_execute(&format!("BEGIN;{chunk};COMMIT"))?;
    }
    db.batch_execute(&statements.last())?;
    db.batch_execute("PRAGMA synchronous = FULL; PRAGMA journal_mode = WAL")?;
    Ok(())
}

async fn fill_postgres(url: &str, statements: &Statements) -> Result<()> {
    let client = connect(url).await?;
    client.batch_execute("SET synchronous_commit = off").await?;
    client
        .batch_execute(&format!("{POSTGRES_SCHEMA};{APPLIED};{}", statements.pipelines()?))
        .await?;

    for chunk in statements.chunks() {
        client.batch_execute(&format!("BEGIN;{chunk};COMMIT")).await?;
    }

    client.batch_execute(&statements.last()).await?;
    client
        .batch_execute(
            "SELECT setval(pg_get_serial_sequence('runs', 'id'), (SELECT max(id) FROM runs)), \
             setval(pg_get_serial_sequence('pipelines', 'id'), (SELECT max(id) FROM pipelines))",
        )
        .await?;

    // As autovacuum would do soon after.
    client.batch_execute("VACUUM ANALYZE").await?;
    Ok(())
}

/// The SQL, the same for both products but for how bytes are written.
struct Statements {
    size: Size,
    /// When the first run was created.
    since_us: u64,
    /// An expression for so many bytes.
    bytes: fn(u8) -> String,
    initiator: String,
    /// Type and details of a run's events, by their place in the run; those beyond repeat the last.
    events: Vec<(&'static str, String)>,
}

impl Statements {
    fn new(product: Product, size: Size) -> Result<Self> {
        let initiator = Initiator::Token("bench".to_owned());
        let events = [
            EventDetails::RunCreated {
                version: Version(1),
                initiator: initiator.clone(),
                retry_of: None,
            },
            EventDetails::RunStarted {},
            EventDetails::TaskRunStarting {},
            EventDetails::TaskRunSlotAcquired {},
            EventDetails::TaskRunRunning {},
            EventDetails::TaskRunCompleted {
                status: TaskStatus::Successful,
                reason: None,
                exit_code: Some(0),
            },
            EventDetails::RunCompleted { status: RunStatus::Successful, reason: None },
            EventDetails::LogArchived { size_bytes: 100 },
        ];
        let now_us = SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros() as u64;

        Ok(Self {
            size,
            since_us: now_us.saturating_sub(AGO_US + size.runs * APART_US),
            bytes: match product {
                Product::Sqlite => |count| format!("zeroblob({count})"),
                Product::Postgres => |count| format!("decode(repeat('00', {count}), 'hex')"),
            },
            initiator: serde_json::to_string(&initiator)?,
            events: events
                .iter()
                .map(|event| Ok((event.type_name(), serde_json::to_string(event)?)))
                .collect::<Result<_>>()?,
        })
    }

    fn chunks(&self) -> impl Iterator<Item = String> {
        (0..self.size.runs).step_by(self.size.chunk as usize).map(|first| {
            let last = (first + self.size.chunk).min(self.size.runs);
            [self.runs(first, last), self.tasks(first, last), self.events(first, last)].join(";")
        })
    }

    /// One task each, enabled.
    fn pipelines(&self) -> Result<String> {
        let since_us = self.since_us;
        let dag = Dag::new(Shape::Wide, Work::Direct, 1);
        let mut statements = Vec::new();

        for index in 0..PIPELINES {
            let (id, name) = (index + 1, format!("h{index}"));
            let spec = serde_json::to_string(&dag.stored_spec(&name)?)?;
            statements.push(format!(
                "INSERT INTO pipelines (id, namespace, name, enabled, latest_version, last_run, \
                 overlap, created_at, updated_at) VALUES ({id}, 'default', '{name}', (1 = 1), 1, \
                 0, 'queue', {since_us}, {since_us}); INSERT INTO pipeline_versions (pipeline_id, \
                 version, spec, digest, registered_by, created_at) VALUES ({id}, 1, '{spec}', \
                 'bench', 'bench', {since_us})"
            ));
        }

        Ok(statements.join(";"))
    }

    /// The numbers from `first` (included) to `last` (not), as `n.i`.
    fn numbers(first: u64, last: u64) -> String {
        format!(
            "WITH RECURSIVE n(i) AS (SELECT CAST({first} AS BIGINT) UNION ALL SELECT i + 1 FROM n \
             WHERE i + 1 < {last})"
        )
    }

    fn runs(&self, first: u64, last: u64) -> String {
        let Self { since_us, initiator, .. } = self;
        format!(
            "INSERT INTO runs (id, pipeline_id, namespace, pipeline, number, version, state, \
             status, initiator, variables, token_nonce, token_hash, created_at, started_at, \
             ended_at, lease_until, lease_epoch) {numbers} SELECT i + 1, i % {PIPELINES} + 1, \
             'default', 'h' || (i % {PIPELINES}), i / {PIPELINES} + 1, 1, 'complete', \
             'successful', '{initiator}', '{{}}', {nonce}, {hash}, {since_us} + i * {APART_US}, \
             {since_us} + i * {APART_US} + 100, {since_us} + i * {APART_US} + 900, 0, 1 FROM n",
            numbers = Self::numbers(first, last),
            nonce = (self.bytes)(16),
            hash = (self.bytes)(32),
        )
    }

    fn tasks(&self, first: u64, last: u64) -> String {
        let numbers = Self::numbers(first, last);
        let at = |offset_us: u64| format!("{} + i * {APART_US} + {offset_us}", self.since_us);
        let times = [at(200), at(300), at(800)].join(", ");
        format!(
            "INSERT INTO task_runs (run_id, task, state, status, attempt, losses, exit_code, \
             intended_at, started_at, ended_at) {numbers} SELECT i + 1, 't0', 'complete', \
             'successful', 1, 0, 0, {times} FROM n; INSERT INTO attempts (run_id, task, attempt, \
             status, exit_code, intended_at, started_at, ended_at, log) {numbers} SELECT i + 1, \
             't0', 1, 'successful', 0, {times}, 'archived' FROM n"
        )
    }

    fn events(&self, first: u64, last: u64) -> String {
        let Self { size: Size { events_per_run, .. }, since_us, .. } = self;
        let place = format!("(i % {events_per_run})");
        let by_place = |value: fn(&(&'static str, String)) -> String| {
            let arms: String = self
                .events
                .iter()
                .enumerate()
                .map(|(k, event)| format!(" WHEN {k} THEN {}", value(event)))
                .collect();
            let other = self.events.last().map_or_else(String::new, value);
            format!("CASE {place}{arms} ELSE {other} END")
        };

        let of_task =
            |value: &str| format!("CASE WHEN {place} IN (0, 1, 6) THEN NULL ELSE {value} END");
        format!(
            "INSERT INTO events (id, at, actor, namespace, pipeline, run, task, attempt, type, \
             details) {numbers} SELECT i + 1, {since_us} + i * {APART_US} / {events_per_run}, \
             'gofer', 'default', 'h' || (i / {events_per_run} % {PIPELINES}), i / {events_per_run} \
             / {PIPELINES} + 1, {task}, {attempt}, {kind}, {details} FROM n",
            numbers = Self::numbers(first * events_per_run, last * events_per_run),
            task = of_task("'t0'"),
            attempt = of_task("1"),
            kind = by_place(|(kind, _)| format!("'{kind}'")),
            details = by_place(|(_, details)| format!("'{details}'")),
        )
    }

    /// The counters that go on from there.
    fn last(&self) -> String {
        let Self { size: Size { runs, events_per_run, .. }, .. } = self;
        format!(
            "UPDATE event_counter SET last = {runs} * {events_per_run}; UPDATE pipelines SET \
             last_run = (SELECT coalesce(max(number), 0) FROM runs WHERE runs.namespace = \
             pipelines.namespace AND runs.pipeline = pipelines.name)"
        )
    }
}

#[cfg(test)]
mod tests {
    use gofer_core::{NamespaceId, PipelineId, RunKey, RunNumber};
    use gofer_db::{Db, DbConfig, EventFilter};

    use super::*;

    #[tokio::test]
    async fn what_is_made_is_what_gofer_reads() {
        let dir = tempfile::tempdir().unwrap();
        let scratch = Scratch::create(Product::Sqlite, dir.path(), "fill").await.unwrap();

        // Neither a whole chunk nor the same number for each pipeline.
        let size = Size { runs: 350, events_per_run: 10, chunk: 300 };
        fill(&scratch, size).await.unwrap();

        let db = Db::connect(DbConfig::sqlite(&scratch.url)).await.unwrap();
        let counts = db.run_counts().await.unwrap();
        assert_eq!((counts.pending_runs, counts.running_runs), (0, 0));
        assert_eq!(counts.last_event_id, size.runs * 10);

        let newest = db.event_list_before(None, &EventFilter::default(), 1_000).await.unwrap();
        assert!(
            newest.iter().map(|event| event.id).eq((0..1_000).map(|back| size.runs * 10 - back))
        );

        let (namespace, pipeline) =
            (NamespaceId::new("default").unwrap(), PipelineId::new("h49").unwrap());
        let latest = db.run_latest(&namespace, &pipeline).await.unwrap();
        let run = RunNumber(size.runs.div_ceil(PIPELINES));
        assert_eq!(latest.key, RunKey { namespace: namespace.clone(), pipeline, run });
        assert!(latest.state.is_complete());

        let of_run = EventFilter {
            namespaces: Some(vec![namespace]),
            pipeline: Some(latest.key.pipeline.clone()),
            run: Some(run),
            types: Vec::new(),
        };

        let events = db.event_list_before(None, &of_run, 100).await.unwrap();
        let types: Vec<&str> =
            events.iter().rev().map(|event| event.body.details.type_name()).collect();
        assert_eq!(types[..2], ["run_created", "run_started"]);
        assert_eq!(types.len(), 10);
        db.close().await;
    }
}
