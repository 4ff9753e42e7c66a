//! The ends that executions reported, until Nomad tells of them or their job is removed.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use gofer_core::scheduler::{ExecutionState, ExecutionTimes, Observation};
use gofer_core::{BackendError, ErrorKind};

use crate::calls::key::JobKey;
use crate::http::types::Alloc;
use crate::state::marks::Marks;
use crate::state::{self, Fence, View};

/// Reports that are held; each is forgotten when its execution is removed.
const REPORTS_MAX: usize = 65_536;

/// What was reported, by job.
#[derive(Debug, Default)]
pub(crate) struct ReportedEnds {
    held: Mutex<HashMap<JobKey, Reported>>,
}

#[derive(Debug, Clone)]
struct Reported {
    alloc: String,
    state: ExecutionState,
    times: ExecutionTimes,
    /// Nomad has told of the end, too.
    confirmed: bool,
}

impl ReportedEnds {
    fn held(&self) -> MutexGuard<'_, HashMap<JobKey, Reported>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is to be thought of an execution whose own allocation this is, if it reported its end.
    pub(crate) fn view(&self, key: &JobKey, own: Option<&Alloc>, nomads: &View) -> Option<View> {
        let held = self.held();
        let reported =
            held.get(key).filter(|reported| own.is_some_and(|own| own.id == reported.alloc))?;
        // Whatever Nomad placed in its stead is stopped; the execution itself is not lost.
        let fence = nomads.fence.map(|_| Fence::Stop);
        Some(View {
            state: reported.state.clone(),
            fence,
            reported: Some(reported.times),
            lost_in: None,
        })
    }

    /// Holds a report.
    pub(crate) fn hold(
        &self,
        key: &JobKey,
        alloc: &str,
        end: &Observation,
    ) -> Result<(), BackendError> {
        let Observation { state, times } = end;
        let mut held = self.held();
        if let Some(known) =
            held.get(key).filter(|known| known.alloc == alloc && known.state != *state)
        {
            return Err(contradicted(key, &known.state));
        }

        if held.len() >= REPORTS_MAX {
            let message = format!(
                "{REPORTS_MAX} executions reported their end and were not removed yet: nomad's word is \
                 waited for"
            );
            return Err(BackendError::new(ErrorKind::Exhausted, message));
        }

        let reported = Reported {
            alloc: alloc.to_owned(),
            state: state.clone(),
            times: *times,
            confirmed: false,
        };

        held.insert(key.clone(), reported);
        Ok(())
    }

    /// Compares what Nomad tells of an allocation with what was reported.
    pub(crate) fn confirm(&self, namespace: &str, alloc: &Alloc) {
        if !state::is_terminal(alloc) {
            return;
        }

        let key = JobKey { namespace: namespace.to_owned(), job_id: alloc.job_id.clone() };
        let mut held = self.held();
        let Some(reported) =
            held.get_mut(&key).filter(|held| held.alloc == alloc.id && !held.confirmed)
        else {
            return;
        };

        reported.confirmed = true;
        // Only tasks on the host are supervised.
        let marks = Marks { guarded: true, supervised: true, in_container: false };
        let nomads = state::of_alloc(alloc, false, marks);

        if nomads != reported.state {
            tracing::warn!(job = %key.job_id, reported = ?reported.state, ?nomads, "an execution ended otherwise than it reported");
        }
    }

    /// Forgets the reports of a namespace whose jobs are gone.
    pub(crate) fn keep(&self, namespace: &str, jobs: &HashSet<String>) {
        self.held().retain(|key, reported| {
            key.namespace != namespace || jobs.contains(&key.job_id) || !reported.confirmed
        });
    }

    pub(crate) fn forget(&self, key: &JobKey) {
        self.held().remove(key);
    }
}

/// The refusal of a report that something else speaks against.
pub(crate) fn contradicted(key: &JobKey, known: &ExecutionState) -> BackendError {
    let message = format!(
        "the end of `{}` is not as it was reported: {known:?}, or it is being stopped",
        key.job_id
    );
    BackendError::new(ErrorKind::Invalid, message)
}
