//! One event stream per Nomad namespace, for everybody who watches.
//!
//! Nomad's stream drops, repeats, and says nothing of a gap. So after every connect the lists of
//! jobs and allocations are read, and whatever differs from what was told last is told. A loss is
//! healed here and no watcher hears of it; a watcher that is too slow, and a refused token, end the
//! watchers' streams.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use gofer_core::scheduler::WatchEvent;
use gofer_core::{BackendError, ErrorKind};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::calls::{Inspected, JobCalls, JobKey};
use crate::http::client::{Query, jittered};
use crate::http::error::Failure;
use crate::http::types::{Alloc, Event, EventBatch, Job};
use crate::stream::changes::{Change, Changes, Connection};
use crate::stream::lines::Lines;
use crate::stream::sweep::sweep;
use crate::stream::tracker::{Action, Tracker};

/// How often everything is listed, for what no event tells: jobs that Nomad's garbage collection
/// took.
const LIST_INTERVAL: Duration = Duration::from_secs(300);
/// The first pause before the stream is opened again; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause.
const LAST_PAUSE: Duration = Duration::from_secs(5);
/// The pause before something is asked for again that could not be learned.
const INSPECT_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Listens to one namespace for ever.
pub(crate) async fn run(
    calls: Arc<JobCalls>,
    changes: Arc<Changes>,
    namespace: String,
    reports: mpsc::Receiver<Inspected>,
) {
    let mut listener = Listener::new(calls, changes, namespace, reports);
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

/// The listener of one namespace.
struct Listener {
    calls: Arc<JobCalls>,
    changes: Arc<Changes>,
    namespace: String,
    tracker: Tracker,
    /// The index of the newest event.
    index: u64,
    /// Whether everything was listed once.
    begun: bool,
    /// Executions that reported their own end, as they are accepted.
    reports: mpsc::Receiver<Inspected>,
    inspecting: JoinSet<(String, Result<Option<Inspected>, BackendError>)>,
    /// Jobs that are being inspected; `true`: they have changed since.
    under_way: HashMap<String, bool>,
    /// When to inspect a job that no event will tell of.
    due: HashMap<String, Instant>,
}

impl Listener {
    fn new(
        calls: Arc<JobCalls>,
        changes: Arc<Changes>,
        namespace: String,
        reports: mpsc::Receiver<Inspected>,
    ) -> Self {
        Self {
            calls,
            changes,
            namespace,
            reports,
            tracker: Tracker::default(),
            index: 0,
            begun: false,
            inspecting: JoinSet::new(),
            under_way: HashMap::new(),
            due: HashMap::new(),
        }
    }

    fn closed(&self, error: &BackendError) {
        tracing::warn!(namespace = %self.namespace, error = %error.chain(), "will listen to nomad again");
        let connection = Connection::Closed(error.kind, error.chain());
        self.changes.set_connection(&self.namespace, connection);
        if error.kind == ErrorKind::Denied {
            self.changes.publish(Change::Broken(error.kind, error.chain()));
        }
    }

    /// Opens the stream, lists what is there, and listens until the stream ends.
    async fn session(&mut self) -> Result<(), Failure> {
        let query = Query::namespace(&self.namespace).with("per_page", "1");
        let now = self.calls.client.get::<Option<Vec<Job>>>("/v1/jobs", &query).await?.index;
        if now < self.index {
            tracing::warn!(
                was = self.index,
                now,
                "nomad's state went back: everything is told again"
            );
            self.tracker.clear();
            self.calls.min_indexes.keep(&self.namespace, &HashSet::new());
        }

        self.index = now;
        let mut query = Query::namespace(&self.namespace).with("index", &now.to_string());
        for topic in ["Job", "Allocation", "Evaluation"] {
            query = query.with("topic", topic);
        }

        let mut lines = Lines::new(self.calls.client.open("/v1/event/stream", &query).await?);

        // The first line says that the subscription is there; what changes from then on is on the
        // stream.
        let first = lines.next().await?;
        self.list().await?;
        self.begun = true;
        self.changes.set_connection(&self.namespace, Connection::Open);
        self.handle_batch(first);

        let mut next_list = Instant::now() + LIST_INTERVAL;
        loop {
            let wake = self.due.values().min().copied().unwrap_or(next_list).min(next_list);
            tokio::select! {
                batch = lines.next() => match batch? {
                    Some(batch) => self.handle_batch(Some(batch)),
                    None => return Ok(()),
                },
                Some(inspected) = self.reports.recv() => {
                    let action = self.tracker.inspected(&inspected.job.id, Some(&inspected));
                    self.run_action(action);
                }
                Some(done) = self.inspecting.join_next() => {
                    if let Ok((job_id, result)) = done {
                        self.handle_answer(&job_id, result);
                    }
                }
                () = tokio::time::sleep_until(wake) => {
                    if Instant::now() >= next_list {
                        self.list().await?;
                        next_list = Instant::now() + LIST_INTERVAL;
                    }
                    self.inspect_what_is_due();
                }
            }
        }
    }

    fn handle_batch(&mut self, batch: Option<EventBatch>) {
        let Some(batch) = batch else { return };
        self.index = self.index.max(batch.index);
        for event in batch.events {
            let action = self.action_of(&event);
            self.run_action(action);
        }
    }

    fn action_of(&mut self, event: &Event) -> Action {
        let payload = &event.payload;
        if let Some(alloc) = &payload.allocation {
            self.calls.reported.confirm(&self.namespace, alloc);
            if !self.is_ours(&alloc.job_id) {
                return Action::Nothing;
            }
            self.calls.min_indexes.raise_alloc(&self.namespace, alloc);
            return self.tracker.alloc(alloc);
        }

        if let Some(evaluation) = &payload.evaluation {
            return self.tracker.evaluation(evaluation);
        }

        let Some(job) = &payload.job else { return Action::Nothing };
        if self.is_ours(&job.id) {
            // Stopped, too, it is read as it is now; deleted, it is not there to be read, and the
            // next list forgets it.
            self.calls.min_indexes.raise_job(&self.namespace, job);
        }

        if event.kind == "JobDeregistered" && self.tracker.is_alive(&job.id) {
            return Action::Inspect(job.id.clone());
        }

        match self.calls.execution_of(job) {
            Some(id) if event.kind != "JobDeregistered" => self.tracker.job(id, job),
            _ => Action::Nothing,
        }
    }

    /// Whether a job's id is one that this Gofer gives. Another Gofer's may begin the same way; its
    /// metadata tells.
    fn is_ours(&self, job_id: &str) -> bool {
        job_id.strip_prefix(&self.calls.config.job_prefix).is_some_and(|rest| rest.starts_with('-'))
    }

    fn run_action(&mut self, action: Action) {
        match action {
            Action::Nothing => {}
            Action::Emit(id, now) => self.emit(WatchEvent::new(id, now)),
            Action::Inspect(job_id) => self.inspect(job_id),
        }
    }

    fn emit(&self, event: WatchEvent) {
        if event.state.is_final() {
            let key = self.calls.key(&event.id);
            let secrets = self.tracker.secrets_of(&key.job_id);
            if secrets > 0 {
                let calls = self.calls.clone();
                tokio::spawn(async move { calls.delete_variables(&key, secrets).await });
            }
        }
        self.changes.publish(Change::Event(event));
    }

    fn inspect(&mut self, job_id: String) {
        self.due.remove(&job_id);
        if let Some(changed) = self.under_way.get_mut(&job_id) {
            *changed = true;
            return;
        }
        self.under_way.insert(job_id.clone(), false);
        let calls = self.calls.clone();
        let key = JobKey { namespace: self.namespace.clone(), job_id };
        self.inspecting.spawn(async move {
            let inspected = calls.inspect_job(&key).await;
            (key.job_id, inspected)
        });
    }

    fn handle_answer(&mut self, job_id: &str, result: Result<Option<Inspected>, BackendError>) {
        let changed = self.under_way.remove(job_id).unwrap_or(false);
        match result {
            Ok(inspected) => {
                if let Some(left) = inspected.as_ref().and_then(|inspected| inspected.view.lost_in)
                {
                    self.due.insert(job_id.to_owned(), Instant::now() + left);
                }
                let action = self.tracker.inspected(job_id, inspected.as_ref());
                self.run_action(action);
            }
            Err(error) => {
                tracing::warn!(job = %job_id, error = %error.chain(), "cannot learn what became of a job yet");
                self.due.insert(job_id.to_owned(), Instant::now() + INSPECT_AGAIN_AFTER);
            }
        }

        if changed {
            self.inspect(job_id.to_owned());
        }
    }

    fn inspect_what_is_due(&mut self) {
        let now = Instant::now();
        let due: Vec<String> = self
            .due
            .iter()
            .filter(|(_, at)| **at <= now)
            .map(|(job_id, _)| job_id.clone())
            .collect();
        for job_id in due {
            self.inspect(job_id);
        }
    }

    /// Reads everything there is of this Gofer's, and tells what differs from what was told.
    async fn list(&mut self) -> Result<(), Failure> {
        let prefix = format!("{}-", self.calls.config.job_prefix);
        let query = Query::namespace(&self.namespace).with("prefix", &prefix).with("meta", "true");
        let jobs: Vec<Job> = self.calls.client.pages("/v1/jobs", &query).await?;
        let filter = format!("JobID matches \"^{prefix}\"");
        let query = Query::namespace(&self.namespace)
            .with("filter", &filter)
            .with("resources", "false")
            .with("task_states", "true");
        let allocs: Vec<Alloc> = self.calls.client.pages("/v1/allocations", &query).await?;
        let mut listed = HashSet::new();

        for job in &jobs {
            let Some(id) = self.calls.execution_of(job) else { continue };
            listed.insert(job.id.clone());
            if !self.begun && job.status == "dead" {
                self.tracker.ended_before(id, job);
            } else {
                let action = self.tracker.job(id, job);
                self.run_action(action);
            }
        }

        for alloc in allocs.iter().filter(|alloc| listed.contains(&alloc.job_id)) {
            let action = self.tracker.alloc(alloc);
            self.run_action(action);
        }

        self.calls.reported.keep(&self.namespace, &listed);
        self.calls.min_indexes.keep(&self.namespace, &listed);
        for action in self.tracker.absent_from(&listed) {
            self.run_action(action);
        }

        let alive: HashSet<String> = self.tracker.alive().map(str::to_owned).collect();
        tokio::spawn(sweep(self.calls.clone(), self.namespace.clone(), prefix, alive));
        Ok(())
    }
}
