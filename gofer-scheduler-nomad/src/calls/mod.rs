//! What every part of the scheduler works with: the calls about one execution.

pub(crate) mod exit_file;
pub(crate) mod kill;
pub(crate) mod min_index;

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use gofer_core::scheduler::{
    ExecutionSpec, ExecutionState, ExecutionTimes, FailureKind, Observation, WatchEvent,
};
use gofer_core::{BackendError, ErrorKind, ExecutionId};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tokio::sync::{Mutex, broadcast, watch};

use crate::calls::exit_file::Left;
use crate::calls::min_index::Heard;
use crate::config::NomadConfig;
use crate::http::client::{Client, Query, encoded};
use crate::http::error::Failure;
use crate::http::types::{Alloc, Evaluation, Job, VariableMeta};
use crate::identity::Keys;
use crate::identity::reports::Reports;
use crate::job::guard;
use crate::job::names::{self, META_EXECUTION, META_INSTANCE, META_LOST, META_SECRETS};
use crate::job::secrets::{self, Packed};
use crate::job::spec;
use crate::state::history::History;
use crate::state::{self, Fence, Marks, View};

/// Changes that a slow watcher may be behind before its stream ends.
const CHANGES: usize = 4_096;
/// Locks that starts share by their id's hash: far more than calls in flight, so that few wait for
/// another's.
const STARTING: usize = 1_024;

/// How often something older than its event is read again. Should Nomad have deleted meanwhile what
/// the event told of, no reading shows it.
const READ_TRIES: u32 = 20;
/// The pause between two of these: what is awaited is the rest of a commit in memory.
const READ_PAUSE: Duration = Duration::from_millis(5);
/// How often a lost job's mark is tried against others who change the job.
const FENCE_TRIES: u32 = 5;

/// The settings, the client, and the queue of changes.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: NomadConfig,
    pub(crate) client: Client,
    /// Job templates by Gofer namespace; the empty name is all others'.
    pub(crate) templates: BTreeMap<String, Value>,
    pub(crate) changes: broadcast::Sender<Change>,
    /// Whether the event stream of each Nomad namespace is open and what came before is known.
    pub(crate) connected: watch::Sender<HashMap<String, Connection>>,
    /// What tokens of executions are verified with.
    pub(crate) keys: Keys,
    pub(crate) reports: Reports,
    pub(crate) heard: Heard,
    starting: Vec<Mutex<()>>,
}

/// Something for every watcher.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    Event(WatchEvent),
    /// Nomad refuses to tell what happens.
    Broken(ErrorKind, String),
}

/// How it stands with an event stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Connection {
    Open,
    Closed(ErrorKind, String),
}

/// Where an execution is in Nomad.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    pub(crate) namespace: String,
    pub(crate) job_id: String,
}

/// All that Nomad knows of an execution.
#[derive(Debug)]
pub(crate) struct Inspected {
    pub(crate) id: ExecutionId,
    pub(crate) job: Job,
    pub(crate) allocs: Vec<Alloc>,
    pub(crate) view: View,
    /// The view is the execution's own word, which Nomad may not know yet.
    pub(crate) reported: bool,
}

impl Inspected {
    /// What is known of the execution. The times of one that told them are its own, since Nomad may
    /// not know them yet, and would tell others by a few milliseconds when it does.
    pub(crate) fn observed(&self) -> Observation {
        let state = self.view.state.clone();
        let marks = Marks::of(&self.job);
        let nomads = self
            .own_alloc()
            .map(|own| History::of(own).times_of(&state, marks))
            .unwrap_or_default();
        let times = match self.view.reported {
            // An older supervisor tells no times.
            Some(own) => ExecutionTimes {
                started_at: own.started_at.or(nomads.started_at),
                ended_at: own.ended_at.or(nomads.ended_at),
                ran: own.ran.or(nomads.ran),
            },
            None => nomads,
        };

        Observation { state, times }
    }

    /// The allocation that is the execution.
    pub(crate) fn own_alloc(&self) -> Option<&Alloc> {
        state::own_alloc(state::kind(&self.job), &self.allocs)
    }
}

impl Place {
    fn path(&self, rest: &str) -> String {
        format!("/v1/job/{}{rest}", encoded(&self.job_id))
    }

    fn query(&self) -> Query {
        Query::namespace(&self.namespace)
    }
}

impl Shared {
    pub(crate) fn new(
        config: NomadConfig,
        client: Client,
        templates: BTreeMap<String, Value>,
    ) -> Arc<Self> {
        Arc::new(Self {
            config,
            client,
            templates,
            changes: broadcast::Sender::new(CHANGES),
            connected: watch::Sender::new(HashMap::new()),
            keys: Keys::default(),
            reports: Reports::default(),
            heard: Heard::default(),
            starting: (0..STARTING).map(|_| Mutex::new(())).collect(),
        })
    }

    pub(crate) fn place(&self, id: &ExecutionId) -> Place {
        Place {
            namespace: self.config.namespace_of(&id.run.namespace).to_owned(),
            job_id: names::job_id(&self.config.job_prefix, id),
        }
    }

    /// The execution that a job is, if it is one of this Gofer's.
    pub(crate) fn execution_of(&self, job: &Job) -> Option<ExecutionId> {
        if job.meta.get(META_INSTANCE)? != &self.config.job_prefix {
            return None;
        }
        job.meta.get(META_EXECUTION)?.parse().ok()
    }

    /// Registers the job of an execution, once.
    pub(crate) async fn start(
        &self,
        id: &ExecutionId,
        spec: &ExecutionSpec,
    ) -> Result<(), BackendError> {
        let place = self.place(id);
        let doing = format!("`{id}` could not be started");
        let template =
            self.templates.get(id.run.namespace.as_str()).or_else(|| self.templates.get(""));
        let prepared =
            spec::prepare(&self.config, template.unwrap_or(&Value::Null), &place.job_id, id, spec);

        // Nomad before 2.0.1 can take two concurrent registrations of one id for a job and its
        // update.
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(&place.job_id);
        let at = usize::try_from(hash % STARTING as u64).unwrap_or(0);
        let _alone = self.starting[at].lock().await;
        if let Some(packed) = &prepared.secrets {
            if let Some(job) = self.job(&place).await? {
                return self.known(id, &job);
            }
            self.write_variables(&place, packed)
                .await
                .map_err(|failure| failure.backend(doing.as_str()))?;
        }

        let failure = match self.register(&prepared.job).await {
            Ok(()) => return Ok(()),
            Err(failure) => failure,
        };

        if failure.is_conflict() {
            let job = self.job(&place).await?;
            return job.map_or(Ok(()), |job| self.known(id, &job));
        }

        if let Some(reason) = failure.validation() {
            if let Some(packed) = &prepared.secrets {
                self.delete_variables(&place, packed.variables.len()).await;
            }
            let refused = spec::refused(&self.config, &place.job_id, id, &reason);
            return match self.register(&refused).await {
                Err(failure) if !failure.is_conflict() => Err(failure.backend(doing)),
                _ => Ok(()),
            };
        }

        Err(failure.backend(doing))
    }

    async fn register(&self, job: &Value) -> Result<(), Failure> {
        let body = json!({"EnforceIndex": true, "JobModifyIndex": 0, "Job": job});
        let namespace = job["Namespace"].as_str().unwrap_or_default();
        self.client.put::<Value>("/v1/jobs", &Query::namespace(namespace), &body).await.map(|_| ())
    }

    /// Whether a job of the id that is wanted is the execution that is wanted.
    fn known(&self, id: &ExecutionId, job: &Job) -> Result<(), BackendError> {
        if self.execution_of(job).as_ref() == Some(id) {
            return Ok(());
        }
        let message = format!(
            "nomad has a job `{}` that is not the execution `{id}` of this gofer: give this gofer \
             another `scheduler.nomad.job_prefix`",
            job.id
        );
        Err(BackendError::new(ErrorKind::Invalid, message))
    }

    pub(crate) async fn job(&self, place: &Place) -> Result<Option<Job>, BackendError> {
        match self.client.get::<Job>(&place.path(""), &place.query()).await {
            Ok(answer) => Ok(Some(answer.value)),
            Err(failure) if failure.is_not_found() => Ok(None),
            Err(failure) => {
                Err(failure.backend(format!("the job `{}` cannot be read", place.job_id)))
            }
        }
    }

    pub(crate) async fn allocs(&self, place: &Place) -> Result<Vec<Alloc>, BackendError> {
        let answer = self
            .client
            .get::<Option<Vec<Alloc>>>(&place.path("/allocations"), &place.query())
            .await;
        let failed = |failure: Failure| {
            failure.backend(format!("the job `{}` cannot be read", place.job_id))
        };
        Ok(answer.map_err(failed)?.value.unwrap_or_default())
    }

    async fn evaluations(&self, place: &Place) -> Result<Vec<Evaluation>, BackendError> {
        let answer = self
            .client
            .get::<Option<Vec<Evaluation>>>(&place.path("/evaluations"), &place.query())
            .await;
        let failed = |failure: Failure| {
            failure.backend(format!("the job `{}` cannot be read", place.job_id))
        };
        Ok(answer.map_err(failed)?.value.unwrap_or_default())
    }

    /// What is known of an execution; `None` is `NotFound`.
    pub(crate) async fn inspect(
        &self,
        id: &ExecutionId,
    ) -> Result<Option<Inspected>, BackendError> {
        let inspected = self.inspect_job(&self.place(id)).await?;
        Ok(inspected.filter(|inspected| inspected.id == *id))
    }

    /// What is known of the execution that a job is. When it is lost, the answer comes after the
    /// job was stopped: nothing of it can go on then, and another attempt may be made.
    pub(crate) async fn inspect_job(
        &self,
        place: &Place,
    ) -> Result<Option<Inspected>, BackendError> {
        let Some((job, allocs)) = self.read(place).await? else { return Ok(None) };
        let Some(id) = self.execution_of(&job) else { return Ok(None) };
        let evaluations =
            if allocs.is_empty() { self.evaluations(place).await? } else { Vec::new() };

        // An allocation that came between the two answers: its evaluation is complete, and it is
        // not in the list.
        let allocs = if allocs.is_empty() && !evaluations.is_empty() {
            self.allocs(place).await?
        } else {
            allocs
        };

        let now_ns = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_nanos());
        let now_ns = i64::try_from(now_ns).unwrap_or(i64::MAX);
        let mut view =
            state::view(&job, &allocs, &evaluations, self.config.node_lost_after, now_ns);
        let own = state::own_alloc(state::kind(&job), &allocs);
        let reported = self.reports.view(place, own, &view);
        let is_reported = reported.is_some();

        if let Some(reported) = reported {
            view = reported;
        } else if let Some(own) = own.filter(|_| Marks::of(&job).leave_word(&view.state)) {
            view = clarified(view, exit_file::read(self, place, own).await?);
        }

        match view.fence {
            Some(Fence::Stop) => self.stop_job(place).await?,
            Some(Fence::Lost(why)) => self.give_up(place, why).await?,
            None => {}
        }

        Ok(Some(Inspected { id, job, allocs, view, reported: is_reported }))
    }

    /// A job and its allocations, not older than what the event stream told before.
    async fn read(&self, place: &Place) -> Result<Option<(Job, Vec<Alloc>)>, BackendError> {
        let heard = self.heard.of(place);
        let mut tries = 0;
        loop {
            let (job, allocs) = futures::try_join!(self.job(place), self.allocs(place))?;
            tries += 1;
            match job {
                Some(job) if tries < READ_TRIES && !heard.are_seen_in(&job, &allocs) => {
                    tokio::time::sleep(READ_PAUSE).await;
                }
                job => return Ok(job.map(|job| (job, allocs))),
            }
        }
    }

    /// Stops a job and marks it as lost, at once: the mark is in the job's own metadata. A job that
    /// somebody else changes meanwhile is read again.
    async fn give_up(&self, place: &Place, why: &str) -> Result<(), BackendError> {
        let failed = |failure: Failure| {
            failure.backend(format!("the lost job `{}` could not be stopped", place.job_id))
        };

        for _ in 0..FENCE_TRIES {
            let mut job = match self.client.get::<Value>(&place.path(""), &place.query()).await {
                Ok(answer) => answer.value,
                Err(failure) if failure.is_not_found() => return Ok(()),
                Err(failure) => return Err(failed(failure)),
            };

            job["Stop"] = json!(true);
            job["Meta"][META_LOST] = json!(why);
            let body =
                json!({"EnforceIndex": true, "JobModifyIndex": job["JobModifyIndex"], "Job": job});

            match self.client.put::<Value>("/v1/jobs", &place.query(), &body).await {
                Ok(_) => {
                    tracing::warn!(job = %place.job_id, why, "an execution is given up as lost");
                    return Ok(());
                }
                Err(failure) if failure.is_conflict() => {}
                Err(failure) => return Err(failed(failure)),
            }
        }

        let message = format!(
            "the lost job `{}` could not be stopped: it changes all the time",
            place.job_id
        );
        Err(BackendError::new(ErrorKind::Unavailable, message))
    }

    /// Stops a job: durably, for every allocation it has or will get.
    pub(crate) async fn stop_job(&self, place: &Place) -> Result<(), BackendError> {
        let query = place.query().with("purge", "false").with("no_shutdown_delay", "true");
        let stopped = self.client.delete(&place.path(""), &query).await;
        stopped.or_else(|failure| {
            let failed = format!("the job `{}` could not be stopped", place.job_id);
            if failure.is_not_found() { Ok(()) } else { Err(failure.backend(failed)) }
        })
    }

    /// Deletes a job, its secrets first: while the job is there, somebody will come back for them.
    pub(crate) async fn purge(
        &self,
        place: &Place,
        inspected: &Inspected,
    ) -> Result<(), BackendError> {
        let failed = |failure: Failure| {
            failure.backend(format!("the job `{}` could not be removed", place.job_id))
        };
        for path in secrets::paths(&place.job_id).iter().take(secret_count(&inspected.job)) {
            self.delete_variable(place, path).await.map_err(failed)?;
        }
        self.client
            .delete(&place.path(""), &place.query().with("purge", "true"))
            .await
            .map_err(failed)?;
        self.reports.forget(place);
        Ok(())
    }

    async fn write_variables(&self, place: &Place, packed: &Packed) -> Result<(), Failure> {
        for (path, items) in &packed.variables {
            let items: BTreeMap<&str, &str> =
                items.iter().map(|(key, value)| (key.as_str(), value.expose_secret())).collect();
            let body = json!({"Namespace": place.namespace, "Path": path, "Items": items});
            self.client.put::<Value>(&format!("/v1/var/{path}"), &place.query(), &body).await?;
        }
        Ok(())
    }

    /// Deletes the variables of an execution that needs them no more. What fails here is done by
    /// `remove`, or by the sweep.
    pub(crate) async fn delete_variables(&self, place: &Place, count: usize) {
        for path in secrets::paths(&place.job_id).iter().take(count) {
            if let Err(failure) = self.delete_variable(place, path).await {
                let error = failure
                    .backend(format!("the nomad variable `{path}` could not be deleted yet"));
                tracing::warn!(error = %error.chain(), "a secret stays in nomad until its \
                                                        execution is removed");
            }
        }
    }

    pub(crate) async fn delete_variable(&self, place: &Place, path: &str) -> Result<(), Failure> {
        match self.client.delete(&format!("/v1/var/{path}"), &place.query()).await {
            Err(failure) if failure.is_not_found() => Ok(()),
            other => other,
        }
    }

    /// Deletes what an execution without a job left: its secrets are written before the job is
    /// registered.
    pub(crate) async fn delete_stray_variables(&self, place: &Place) -> Result<(), BackendError> {
        let failed = |failure: Failure| {
            failure.backend(format!("the secrets of `{}` cannot be removed", place.job_id))
        };
        for variable in self.variables(place, &place.job_id).await.map_err(failed)? {
            if secrets::job_of(&variable.path) == Some(&place.job_id) {
                self.delete_variable(place, &variable.path).await.map_err(failed)?;
            }
        }
        Ok(())
    }

    /// Variables of jobs whose id begins so.
    pub(crate) async fn variables(
        &self,
        place: &Place,
        job_prefix: &str,
    ) -> Result<Vec<VariableMeta>, Failure> {
        let query = place.query().with("prefix", &format!("nomad/jobs/{job_prefix}"));
        self.client.pages("/v1/vars", &query).await
    }
}

/// What an end means together with what was left beside the log.
fn clarified(view: View, left: Left) -> View {
    let begun_before =
        matches!(view.state, ExecutionState::Exited { code: guard::BEGUN_BEFORE, .. });
    match left {
        Left::BegunBefore => View::lost(state::BEGUN_TWICE),
        // Which of the two it is cannot be known.
        Left::OutOfReach if begun_before => View::lost(state::BEGUN_TWICE),
        Left::NotStarted(message) => View {
            state: ExecutionState::Failed { kind: FailureKind::CommandNotFound, message },
            ..view
        },
        Left::Ended(times) if times != ExecutionTimes::UNKNOWN => {
            View { reported: Some(times), ..view }
        }
        Left::Ended(_) | Left::OutOfReach => view,
    }
}

/// How many variables an execution's secrets take.
pub(crate) fn secret_count(job: &Job) -> usize {
    job.meta.get(META_SECRETS).and_then(|count| count.parse().ok()).unwrap_or(0)
}
