//! One event stream per Nomad namespace, for everybody who watches.
//!
//! Nomad's stream drops, repeats, and says nothing of a gap. So after every connect the lists of
//! jobs and allocations are read, and whatever differs from what was told last is told. A loss is
//! healed here and no watcher hears of it; a watcher that is too slow, and a refused token, end the
//! watchers' streams.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::StreamExt;
use futures::stream::BoxStream;
use gofer_core::scheduler::WatchEvent;
use gofer_core::{BackendError, ErrorKind};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::calls::{Change, Connection, Inspected, Place, Shared};
use crate::http::client::{Query, jittered};
use crate::http::error::Failure;
use crate::http::types::{Alloc, Event, EventBatch, Job};
use crate::job::secrets;
use crate::stream::tracker::{Act, Table};

/// Nomad sends an empty object every 30 seconds; after two of them are missing, the stream counts
/// as dead.
const SILENCE: Duration = Duration::from_secs(75);
/// How often everything is listed, for what no event tells: jobs that Nomad's garbage collection
/// took.
const LIST_EVERY: Duration = Duration::from_secs(300);
/// The first pause before the stream is opened again; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause.
const LAST_PAUSE: Duration = Duration::from_secs(5);
/// The pause before something is asked for again that could not be learned.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// A line longer than this is not Nomad's: a job is at most a few MiB.
const MAX_LINE_BYTES: usize = 64 * 1024 * 1024;
/// How old a variable without a living job must be before it counts as left behind by a start that
/// was never completed.
const STRAY_AFTER: Duration = Duration::from_secs(3_600);

/// The changes from now on.
pub(crate) async fn subscribe(
    shared: &Arc<Shared>,
) -> Result<BoxStream<'static, Result<WatchEvent, BackendError>>, BackendError> {
    let changes = shared.changes.subscribe();
    wait_until_connected(shared).await?;
    let stream = futures::stream::unfold(Some(changes), async |changes| {
        let mut changes = changes?;
        match changes.recv().await {
            Ok(Change::Event(event)) => Some((Ok(event), Some(changes))),
            Ok(Change::Broken(kind, message)) => {
                Some((Err(BackendError::new(kind, message)), None))
            }
            Err(RecvError::Lagged(missed)) => {
                let message =
                    format!("{missed} changes were dropped because they were not taken in time");
                Some((Err(BackendError::new(ErrorKind::Unavailable, message)), None))
            }
            Err(RecvError::Closed) => None,
        }
    });

    Ok(stream.boxed())
}

async fn wait_until_connected(shared: &Shared) -> Result<(), BackendError> {
    let namespaces = shared.config.nomad_namespaces();
    let mut connected = shared.connected.subscribe();
    let open = |all: &HashMap<String, Connection>| {
        namespaces.iter().all(|namespace| all.get(namespace) == Some(&Connection::Open))
    };

    // Waiting does not help against a refusal.
    let denied = |all: &HashMap<String, Connection>| {
        all.values()
            .any(|connection| matches!(connection, Connection::Closed(ErrorKind::Denied, _)))
    };

    let decided = connected.wait_for(|all| open(all) || denied(all));
    let decided = tokio::time::timeout(shared.config.request_timeout, decided).await;
    if matches!(decided, Ok(Ok(all)) if open(&all)) {
        return Ok(());
    }

    let closed = shared.connected.borrow().values().find_map(|connection| match connection {
        Connection::Closed(kind, message) => Some(BackendError::new(*kind, message.clone())),
        Connection::Open => None,
    });

    Err(closed.unwrap_or_else(|| {
        BackendError::new(ErrorKind::Timeout, "nomad's event stream is not open yet")
    }))
}

/// Listens to one namespace for ever.
pub(crate) async fn run(shared: Arc<Shared>, namespace: String) {
    let mut listener = Listener::new(shared, namespace);
    let mut pause = FIRST_PAUSE;
    loop {
        let begun = Instant::now();
        let error = match listener.session().await {
            Ok(()) => BackendError::new(ErrorKind::Unavailable, "nomad's event stream ended"),
            Err(failure) => failure.backend("nomad's event stream broke off"),
        };

        listener.closed(&error);
        if begun.elapsed() > LAST_PAUSE {
            pause = FIRST_PAUSE;
        }

        tokio::time::sleep(jittered(pause)).await;
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

struct Listener {
    shared: Arc<Shared>,
    namespace: String,
    table: Table,
    /// The index of the last that was heard.
    index: u64,
    /// Whether what was there at the beginning is known.
    begun: bool,
    /// Executions that reported their own end.
    reports: mpsc::Receiver<Inspected>,
    asking: JoinSet<(String, Result<Option<Inspected>, BackendError>)>,
    /// Jobs that are being asked for; with `true`, they changed meanwhile.
    asked: HashMap<String, bool>,
    /// When to ask for a job that no event will tell of.
    due: HashMap<String, Instant>,
}

impl Listener {
    fn new(shared: Arc<Shared>, namespace: String) -> Self {
        let reports = shared.reports.listen(&namespace);
        Self {
            reports,
            shared,
            namespace,
            table: Table::default(),
            index: 0,
            begun: false,
            asking: JoinSet::new(),
            asked: HashMap::new(),
            due: HashMap::new(),
        }
    }

    fn closed(&self, error: &BackendError) {
        tracing::warn!(namespace = %self.namespace, error = %error.chain(), "will listen to nomad again");
        let connection = Connection::Closed(error.kind, error.chain());
        self.shared
            .connected
            .send_modify(|all| drop(all.insert(self.namespace.clone(), connection)));
        if error.kind == ErrorKind::Denied {
            // Nobody listening is no error.
            let _ = self.shared.changes.send(Change::Broken(error.kind, error.chain()));
        }
    }

    /// Opens the stream, lists what is there, and listens until the stream ends.
    async fn session(&mut self) -> Result<(), Failure> {
        let query = Query::namespace(&self.namespace).with("per_page", "1");
        let now = self.shared.client.get::<Option<Vec<Job>>>("/v1/jobs", &query).await?.index;
        if now < self.index {
            tracing::warn!(
                was = self.index,
                now,
                "nomad's state went back: everything is told again"
            );
            self.table.clear();
            self.shared.heard.keep(&self.namespace, &HashSet::new());
        }

        self.index = now;
        let mut query = Query::namespace(&self.namespace).with("index", &now.to_string());
        for topic in ["Job", "Allocation", "Evaluation"] {
            query = query.with("topic", topic);
        }

        let mut lines = Lines {
            response: self.shared.client.open("/v1/event/stream", &query).await?,
            buffer: Vec::new(),
        };

        // The first line says that the subscription is there; what changes from then on is on the
        // stream.
        let first = lines.next().await?;
        self.list().await?;
        self.begun = true;
        self.shared
            .connected
            .send_modify(|all| drop(all.insert(self.namespace.clone(), Connection::Open)));
        self.hear(first);

        let mut next_list = Instant::now() + LIST_EVERY;
        loop {
            let wake = self.due.values().min().copied().unwrap_or(next_list).min(next_list);
            tokio::select! {
                batch = lines.next() => match batch? {
                    Some(batch) => self.hear(Some(batch)),
                    None => return Ok(()),
                },
                Some(inspected) = self.reports.recv() => {
                    let act = self.table.inspected(&inspected.job.id, Some(&inspected));
                    self.act(act);
                }
                Some(done) = self.asking.join_next() => {
                    if let Ok((job_id, result)) = done {
                        self.answered(&job_id, result);
                    }
                }
                () = tokio::time::sleep_until(wake) => {
                    if Instant::now() >= next_list {
                        self.list().await?;
                        next_list = Instant::now() + LIST_EVERY;
                    }
                    self.ask_what_is_due();
                }
            }
        }
    }

    fn hear(&mut self, batch: Option<EventBatch>) {
        let Some(batch) = batch else { return };
        self.index = self.index.max(batch.index);
        for event in batch.events {
            let act = self.event(&event);
            self.act(act);
        }
    }

    fn event(&mut self, event: &Event) -> Act {
        let payload = &event.payload;
        if let Some(alloc) = &payload.allocation {
            self.shared.reports.compare(&self.namespace, alloc);
            if !self.is_ours(&alloc.job_id) {
                return Act::Nothing;
            }
            self.shared.heard.alloc(&self.namespace, alloc);
            return self.table.alloc(alloc);
        }

        if let Some(evaluation) = &payload.evaluation {
            return self.table.evaluation(evaluation);
        }

        let Some(job) = &payload.job else { return Act::Nothing };
        if self.is_ours(&job.id) {
            // Stopped, too, it is read as it is now; deleted, it is not there to be read, and the
            // next list forgets it.
            self.shared.heard.job(&self.namespace, job);
        }

        if event.kind == "JobDeregistered" && self.table.is_alive(&job.id) {
            return Act::Inspect(job.id.clone());
        }

        match self.shared.execution_of(job) {
            Some(id) if event.kind != "JobDeregistered" => self.table.job(id, job),
            _ => Act::Nothing,
        }
    }

    /// Whether a job's id is one that this Gofer gives. Another Gofer's may begin the same way; its
    /// metadata tells.
    fn is_ours(&self, job_id: &str) -> bool {
        job_id
            .strip_prefix(&self.shared.config.job_prefix)
            .is_some_and(|rest| rest.starts_with('-'))
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Nothing => {}
            Act::Emit(id, now) => self.emit(WatchEvent::new(id, now)),
            Act::Inspect(job_id) => self.ask(job_id),
        }
    }

    fn emit(&self, event: WatchEvent) {
        if event.state.is_final() {
            let place = self.shared.place(&event.id);
            let secrets = self.table.secrets_of(&place.job_id);
            if secrets > 0 {
                let shared = self.shared.clone();
                tokio::spawn(async move { shared.delete_variables(&place, secrets).await });
            }
        }
        // Nobody watching is no error.
        let _ = self.shared.changes.send(Change::Event(event));
    }

    fn ask(&mut self, job_id: String) {
        self.due.remove(&job_id);
        if let Some(changed) = self.asked.get_mut(&job_id) {
            *changed = true;
            return;
        }
        self.asked.insert(job_id.clone(), false);
        let shared = self.shared.clone();
        let place = Place { namespace: self.namespace.clone(), job_id };
        self.asking.spawn(async move {
            let inspected = shared.inspect_job(&place).await;
            (place.job_id, inspected)
        });
    }

    fn answered(&mut self, job_id: &str, result: Result<Option<Inspected>, BackendError>) {
        let changed = self.asked.remove(job_id).unwrap_or(false);
        match result {
            Ok(inspected) => {
                if let Some(left) = inspected.as_ref().and_then(|inspected| inspected.view.lost_in)
                {
                    self.due.insert(job_id.to_owned(), Instant::now() + left);
                }
                let act = self.table.inspected(job_id, inspected.as_ref());
                self.act(act);
            }
            Err(error) => {
                tracing::warn!(job = %job_id, error = %error.chain(), "cannot learn what became of a job yet");
                self.due.insert(job_id.to_owned(), Instant::now() + ASK_AGAIN);
            }
        }

        if changed {
            self.ask(job_id.to_owned());
        }
    }

    fn ask_what_is_due(&mut self) {
        let now = Instant::now();
        let due: Vec<String> = self
            .due
            .iter()
            .filter(|(_, at)| **at <= now)
            .map(|(job_id, _)| job_id.clone())
            .collect();
        for job_id in due {
            self.ask(job_id);
        }
    }

    /// Reads everything there is of this Gofer's, and tells what differs from what was told.
    async fn list(&mut self) -> Result<(), Failure> {
        let prefix = format!("{}-", self.shared.config.job_prefix);
        let query = Query::namespace(&self.namespace).with("prefix", &prefix).with("meta", "true");
        let jobs: Vec<Job> = self.shared.client.pages("/v1/jobs", &query).await?;
        let filter = format!("JobID matches \"^{prefix}\"");
        let query = Query::namespace(&self.namespace)
            .with("filter", &filter)
            .with("resources", "false")
            .with("task_states", "true");
        let allocs: Vec<Alloc> = self.shared.client.pages("/v1/allocations", &query).await?;
        let mut listed = HashSet::new();

        for job in &jobs {
            let Some(id) = self.shared.execution_of(job) else { continue };
            listed.insert(job.id.clone());
            if !self.begun && job.status == "dead" {
                self.table.ended_before(id, job);
            } else {
                let act = self.table.job(id, job);
                self.act(act);
            }
        }

        for alloc in allocs.iter().filter(|alloc| listed.contains(&alloc.job_id)) {
            let act = self.table.alloc(alloc);
            self.act(act);
        }

        self.shared.reports.keep(&self.namespace, &listed);
        self.shared.heard.keep(&self.namespace, &listed);
        for act in self.table.absent_from(&listed) {
            self.act(act);
        }

        self.sweep(&prefix);
        Ok(())
    }

    /// Deletes, in the background, secrets that no start will ever use: their job was never
    /// registered, or ended while nobody listened.
    fn sweep(&self, prefix: &str) {
        let place = Place { namespace: self.namespace.clone(), job_id: String::new() };
        let alive: HashSet<String> = self.table.alive().map(str::to_owned).collect();
        let (shared, prefix) = (self.shared.clone(), prefix.to_owned());
        tokio::spawn(async move {
            let variables = match shared.variables(&place, &prefix).await {
                Ok(variables) => variables,
                Err(failure) => {
                    let error =
                        failure.backend("the nomad variables of ended executions cannot be listed");
                    tracing::warn!(error = %error.chain(), "secrets of executions that were never \
                                                            started may stay");
                    return;
                }
            };

            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            for variable in variables {
                let age = now.saturating_sub(Duration::from_nanos(
                    u64::try_from(variable.modify_time).unwrap_or(u64::MAX),
                ));
                if let Some(job_id) = secrets::job_of(&variable.path)
                    && !alive.contains(job_id)
                    && age > STRAY_AFTER
                {
                    let place = Place { job_id: job_id.to_owned(), ..place.clone() };
                    let job = shared.job(&place).await;
                    // Another Gofer's prefix may begin like this one's.
                    let others = !matches!(&job, Ok(job) if job.as_ref().is_none_or(|job| shared.execution_of(job).is_some()));
                    if !others && shared.delete_stray_variables(&place).await.is_ok() {
                        tracing::info!(job = %job_id, "secrets that were left behind are deleted");
                    }
                }
            }
        });
    }
}

/// The lines of the event stream.
struct Lines {
    response: reqwest::Response,
    buffer: Vec<u8>,
}

impl Lines {
    /// The next line; `None` at the end of the stream. May be dropped while it waits.
    async fn next(&mut self) -> Result<Option<EventBatch>, Failure> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                // An error after the start is text in the stream.
                let shown = || Failure::Refused {
                    status: 500,
                    body: String::from_utf8_lossy(&line).into_owned(),
                };
                return serde_json::from_slice(&line).map(Some).map_err(|_| shown());
            }

            if self.buffer.len() > MAX_LINE_BYTES {
                return Err(Failure::Unreadable(format!(
                    "an event is larger than {MAX_LINE_BYTES} bytes"
                )));
            }

            match tokio::time::timeout(SILENCE, self.response.chunk()).await {
                Ok(Ok(Some(chunk))) => self.buffer.extend_from_slice(&chunk),
                Ok(Ok(None)) if self.buffer.is_empty() => return Ok(None),
                Ok(Ok(None)) => {
                    let body = String::from_utf8_lossy(&self.buffer).into_owned();
                    return Err(Failure::Refused { status: 500, body });
                }
                Ok(Err(error)) => return Err(Failure::Transport(error)),
                Err(_) => return Err(Failure::Timeout),
            }
        }
    }
}
