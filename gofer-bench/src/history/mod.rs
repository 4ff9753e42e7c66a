//! A database with a long history beside an empty one: the calls that people and programs wait for,
//! and retention behind them.

mod fill;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use gofer_proto::v1::event_service_client::EventServiceClient;
use gofer_proto::v1::system_service_client::SystemServiceClient;
use gofer_proto::v1::{GetRunRequest, GetSystemInfoRequest, ListEventsRequest, ListRunsRequest};

use crate::history::fill::Size;
use crate::pipelines::{Work, single};
use crate::report::{Report, Samples, Unit};
use crate::scratch::{Product, Scratch};
use crate::server::{Events, NAMESPACE, Server, next_event};
use crate::{Bench, progress};

/// Runs per transaction of the generator.
const CHUNK: u64 = 20_000;
/// Pipelines that the runs are of, in turn.
const PIPELINES: u64 = 100;
/// The one whose runs are looked at, and started.
const PIPELINE: &str = "h0";
/// More than a page of a list, so that both databases answer with whole pages.
const WARM_UP: usize = 60;
const SAMPLES: usize = 300;
/// How long a start on the large database, and an event, may take; far more than any that works.
const PATIENCE: Duration = Duration::from_secs(300);

pub(crate) async fn measure(
    bench: &Bench,
    runs: u64,
    events: u64,
    report: &mut Report,
) -> Result<()> {
    ensure!(
        events >= runs,
        "`--events` must be at least `--runs`: every run has one (got `{events}` for `{runs}` \
         runs)"
    );

    let size = Size { runs, events_per_run: events / runs, chunk: CHUNK };
    for product in Product::here() {
        let dir = bench.new_dir("history-")?;
        let empty = Scratch::create(product, &dir, "empty").await?;
        let full = Scratch::create(product, &dir, "full").await?;
        let result = compare(bench, &dir, &empty, &full, size, report).await;
        empty.remove().await?;
        full.remove().await?;
        result?;
    }

    Ok(())
}

/// Two servers, on two databases, asked in turn.
async fn compare(
    bench: &Bench,
    dir: &Path,
    empty: &Scratch,
    full: &Scratch,
    size: Size,
    report: &mut Report,
) -> Result<()> {
    let name = format!(
        "{}, {} runs, {} events",
        full.product.name(),
        size.runs,
        size.runs * size.events_per_run
    );

    progress(&name);
    let sides = [Side::new(bench, dir, empty, "empty")?, Side::new(bench, dir, full, "full")?];
    sides[0].register().await?;
    let filled = fill::fill(full, size).await?;
    report.add(&format!("{name}: made"), Unit::PerSecond, None, &[Samples::of("rows", [filled])]);

    let server = sides[1].start(&[]).await?;
    let migrated = Samples::of("long history", [server.started_in.as_secs_f64() * 1e3]);
    server.stop().await?;
    report.add(
        &format!("{name}: server start with all migrations but the first"),
        Unit::Milliseconds,
        None,
        &[migrated],
    );

    let mut started = Pair::new("server start to first answer");
    for _ in 0..bench.reps {
        for (index, side) in sides.iter().enumerate() {
            let server = side.start(&[]).await?;
            started.add(index, server.started_in);
            server.stop().await?;
        }
    }

    started.report(&name, report);
    calls(&sides, size, &name, report).await?;
    retention(&sides, Duration::from_secs(bench.seconds.into()), &name, report).await
}

async fn calls(sides: &[Side; 2], size: Size, name: &str, report: &mut Report) -> Result<()> {
    let servers = [sides[0].start(&[]).await?, sides[1].start(&[]).await?];
    let mut created = [
        servers[0].events(PIPELINE, "run_created").await?,
        servers[1].events(PIPELINE, "run_created").await?,
    ];
    let mut list = Pair::new("ListRuns of a pipeline");
    let mut list_all = Pair::new("ListRuns of a namespace");
    let mut get = Pair::new("GetRun");
    let mut start = Pair::new("StartRun answered");
    let mut follow = Pair::new("StartRun to its event, following");

    for sample in 0..WARM_UP + SAMPLES {
        for (index, server) in servers.iter().enumerate() {
            let (started, followed) = start_one(server, &mut created[index]).await?;
            let existing = if index == 0 { WARM_UP as u64 } else { size.runs / PIPELINES };
            let of_run = 1 + (sample as u64 * 7_919) % existing.max(1);
            let times = [
                (&mut start, started),
                (&mut follow, followed),
                (&mut list, list_runs(server, PIPELINE).await?),
                (&mut list_all, list_runs(server, "").await?),
            ];

            // The empty database has its runs only after the warm-up.
            if sample >= WARM_UP {
                times.into_iter().for_each(|(pair, time)| pair.add(index, time));
                get.add(index, get_run(server, of_run).await?);
            }
        }
    }

    for pair in [list, list_all, get, start, follow] {
        pair.report(name, report);
    }

    let [empty, full] = servers;
    empty.stop().await?;
    full.stop().await
}

/// Every log of the large database has expired by now; the other has nothing to delete.
async fn retention(
    sides: &[Side; 2],
    window: Duration,
    name: &str,
    report: &mut Report,
) -> Result<()> {
    let settings = [("GOFER_RETENTION__LOGS", "1s")];
    let servers = [sides[0].start(&settings).await?, sides[1].start(&settings).await?];
    let mut created = [
        servers[0].events(PIPELINE, "run_created").await?,
        servers[1].events(PIPELINE, "run_created").await?,
    ];
    let mut start = Pair::new("StartRun answered while retention deletes");
    let (before, begin) = (last_event(&servers[1]).await?, Instant::now());

    while begin.elapsed() < window {
        for (index, server) in servers.iter().enumerate() {
            start.add(index, start_one(server, &mut created[index]).await?.0);
        }
    }

    let (after, seconds) = (last_event(&servers[1]).await?, begin.elapsed().as_secs_f64());
    start.report(name, report);
    let expired = expired(&servers[1], before, after).await?;
    ensure!(expired > 0, "retention deleted nothing within {seconds:.0} s");

    let deleted = Samples::of("logs deleted", [expired as f64 / seconds]);
    report.add(&format!("{name}: retention"), Unit::PerSecond, None, &[deleted]);
    let [empty, full] = servers;
    empty.stop().await?;

    full.stop().await
}

/// Starts a run and waits for its event, then for its end: until it was answered, and until the
/// event was there.
async fn start_one(server: &Server, created: &mut Events) -> Result<(Duration, Duration)> {
    let start = Instant::now();
    let run = server.start_run(PIPELINE, None).await?;
    let answered = start.elapsed();
    next_event(created, PATIENCE).await?;
    let followed = start.elapsed();
    server.finish(run).await?;
    Ok((answered, followed))
}

async fn list_runs(server: &Server, pipeline: &str) -> Result<Duration> {
    let request = ListRunsRequest {
        namespace: NAMESPACE.to_owned(),
        pipeline: pipeline.to_owned(),
        ..ListRunsRequest::default()
    };
    let start = Instant::now();
    let runs = server.runs().list_runs(request).await?.into_inner().runs;
    ensure!(!runs.is_empty(), "a list of runs is empty");
    Ok(start.elapsed())
}

async fn get_run(server: &Server, run: u64) -> Result<Duration> {
    let request =
        GetRunRequest { namespace: NAMESPACE.to_owned(), pipeline: PIPELINE.to_owned(), run };
    let start = Instant::now();
    let answer = server.runs().get_run(request).await?.into_inner();
    ensure!(answer.task_runs.len() == 1, "a run has {} tasks", answer.task_runs.len());
    Ok(start.elapsed())
}

/// The newest event's id.
async fn last_event(server: &Server) -> Result<u64> {
    let mut client = SystemServiceClient::new(server.channel());
    Ok(client.get_system_info(GetSystemInfoRequest::default()).await?.into_inner().last_event_id)
}

/// How many logs have expired after one event and up to another.
async fn expired(server: &Server, after_id: u64, up_to: u64) -> Result<usize> {
    let mut client = EventServiceClient::new(server.channel());
    let mut request = ListEventsRequest {
        after_id,
        namespace: NAMESPACE.to_owned(),
        types: vec!["log_expired".to_owned()],
        page_size: 500,
        ..ListEventsRequest::default()
    };

    let mut count = 0;
    loop {
        let page = client.list_events(request.clone()).await?.into_inner();
        let found = page.events.iter().filter(|event| event.id <= up_to).count();
        count += found;
        // More logs expire while this reads: the list may never end.
        if page.next_page_token.is_empty() || found < page.events.len() {
            return Ok(count);
        }
        request.page_token = page.next_page_token;
    }
}

/// One of the two databases, and where its server lives.
struct Side {
    gofer: PathBuf,
    data_dir: PathBuf,
    url: String,
}

impl Side {
    /// With a binary of its own: a server that is dropped ends everything that executes its binary.
    fn new(bench: &Bench, dir: &Path, scratch: &Scratch, name: &str) -> Result<Self> {
        let gofer = dir.join(format!("gofer-{name}"));
        std::fs::copy(&bench.gofer, &gofer).context("cannot copy the binary")?;
        Ok(Self {
            gofer: gofer.canonicalize()?,
            data_dir: dir.join(name),
            url: scratch.url.clone(),
        })
    }

    async fn start(&self, more: &[(&str, &str)]) -> Result<Server> {
        let settings = [&[("GOFER_DATABASE__URL", self.url.as_str())], more].concat();
        Server::start_with(&self.gofer, &self.data_dir, &settings, PATIENCE).await
    }

    /// The pipelines that the generator makes in the other.
    async fn register(&self) -> Result<()> {
        let server = self.start(&[]).await?;
        for index in 0..PIPELINES {
            server.register(single(&format!("h{index}"), Work::Direct.command())).await?;
        }
        server.stop().await.context("the server that registers the pipelines")
    }
}

/// The same on both databases.
struct Pair {
    what: &'static str,
    empty: Samples,
    full: Samples,
}

impl Pair {
    fn new(what: &'static str) -> Self {
        Self { what, empty: Samples::new("empty database"), full: Samples::new("long history") }
    }

    fn add(&mut self, index: usize, time: Duration) {
        let side = if index == 0 { &mut self.empty } else { &mut self.full };
        side.values.push(time.as_secs_f64() * 1e3);
    }

    fn report(self, name: &str, report: &mut Report) {
        report.add(
            &format!("{name}: {}", self.what),
            Unit::Milliseconds,
            Some(&self.empty),
            &[self.full],
        );
    }
}
