//! All that Nomad knows of an execution, and what it means.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use gofer_core::scheduler::{ExecutionState, ExecutionTimes, FailureKind, Observation};
use gofer_core::{BackendError, ErrorKind, ExecutionId};
use serde_json::{Value, json};

use crate::calls::exit_file::{self, Left};
use crate::calls::job_calls::JobCalls;
use crate::calls::key::JobKey;
use crate::http::error::Failure;
use crate::http::types::{Alloc, Job};
use crate::job::guard;
use crate::job::names::META_LOST;
use crate::state::history::History;
use crate::state::marks::{Marks, kind};
use crate::state::{self, Fence, View};

/// How often something older than its event is read again. Should Nomad have deleted meanwhile what
/// the event told of, no reading shows it.
const READ_TRIES: u32 = 20;
/// The pause between two of these: what is awaited is the rest of a commit in memory.
const READ_PAUSE: Duration = Duration::from_millis(5);
/// How often a lost job's mark is tried against others who change the job.
const FENCE_TRIES: u32 = 5;

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
        state::own_alloc(kind(&self.job), &self.allocs)
    }
}

impl JobCalls {
    /// What is known of an execution; `None` is `NotFound`.
    pub(crate) async fn inspect(
        &self,
        id: &ExecutionId,
    ) -> Result<Option<Inspected>, BackendError> {
        let inspected = self.inspect_job(&self.key(id)).await?;
        Ok(inspected.filter(|inspected| inspected.id == *id))
    }

    /// What is known of the execution that a job is. When it is lost, the answer comes after the
    /// job was stopped: nothing of it can go on then, and another attempt may be made.
    pub(crate) async fn inspect_job(
        &self,
        key: &JobKey,
    ) -> Result<Option<Inspected>, BackendError> {
        let Some((job, allocs)) = self.read(key).await? else { return Ok(None) };
        let Some(id) = self.execution_of(&job) else { return Ok(None) };
        let evaluations = if allocs.is_empty() { self.evaluations(key).await? } else { Vec::new() };

        // An allocation that came between the two answers: its evaluation is complete, and it is
        // not in the list.
        let allocs = if allocs.is_empty() && !evaluations.is_empty() {
            self.allocs(key).await?
        } else {
            allocs
        };

        let now_ns = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_nanos());
        let now_ns = i64::try_from(now_ns).unwrap_or(i64::MAX);
        let mut view =
            state::view(&job, &allocs, &evaluations, self.config.node_lost_after, now_ns);
        let own = state::own_alloc(kind(&job), &allocs);
        let reported = self.reported.view(key, own, &view);
        let is_reported = reported.is_some();

        if let Some(reported) = reported {
            view = reported;
        } else if let Some(own) = own.filter(|_| Marks::of(&job).leave_word(&view.state)) {
            view = clarified(view, exit_file::read(self, key, own).await?);
        }

        match view.fence {
            Some(Fence::Stop) => self.stop_job(key).await?,
            Some(Fence::Lost(why)) => self.stop_as_lost(key, why).await?,
            None => {}
        }

        Ok(Some(Inspected { id, job, allocs, view, reported: is_reported }))
    }

    /// A job and its allocations, not older than what the event stream told before.
    async fn read(&self, key: &JobKey) -> Result<Option<(Job, Vec<Alloc>)>, BackendError> {
        let min_index = self.min_indexes.of(key);
        let mut tries = 0;
        loop {
            let (job, allocs) = futures::try_join!(self.job(key), self.allocs(key))?;
            tries += 1;
            match job {
                Some(job) if tries < READ_TRIES && !min_index.is_reached_by(&job, &allocs) => {
                    tokio::time::sleep(READ_PAUSE).await;
                }
                job => return Ok(job.map(|job| (job, allocs))),
            }
        }
    }

    /// Stops a job and marks it as lost, at once: the mark is in the job's own metadata. A job that
    /// somebody else changes meanwhile is read again.
    async fn stop_as_lost(&self, key: &JobKey, why: &str) -> Result<(), BackendError> {
        let failed = |failure: Failure| {
            failure.backend(format!("the lost job `{}` could not be stopped", key.job_id))
        };

        for _ in 0..FENCE_TRIES {
            let mut job = match self.client.get::<Value>(&key.path(""), &key.query()).await {
                Ok(answer) => answer.value,
                Err(failure) if failure.is_not_found() => return Ok(()),
                Err(failure) => return Err(failed(failure)),
            };

            job["Stop"] = json!(true);
            job["Meta"][META_LOST] = json!(why);
            let body =
                json!({"EnforceIndex": true, "JobModifyIndex": job["JobModifyIndex"], "Job": job});

            match self.client.put::<Value>("/v1/jobs", &key.query(), &body).await {
                Ok(_) => {
                    tracing::warn!(job = %key.job_id, why, "an execution is given up as lost");
                    return Ok(());
                }
                Err(failure) if failure.is_conflict() => {}
                Err(failure) => return Err(failed(failure)),
            }
        }

        let message =
            format!("the lost job `{}` could not be stopped: it changes all the time", key.job_id);
        Err(BackendError::new(ErrorKind::Unavailable, message))
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
