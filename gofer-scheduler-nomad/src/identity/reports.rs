//! Ends that executions told of themselves, before Nomad does: a successful task shorter than a
//! second is reported by Nomad after a second. The allocation stays the truth; what it contradicts
//! is refused, and nothing here outlives this process.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gofer_core::scheduler::{ExecutionState, ExecutionTimes, Observation, ReportedEnd};
use gofer_core::{BackendError, ErrorKind, ExecutionId};
use secrecy::SecretString;
use tokio::sync::mpsc;

use crate::calls::{Inspected, Place, Shared};
use crate::http::types::Alloc;
use crate::identity;
use crate::state::{self, Fence, Marks, View};

/// Reports that are held; each is forgotten when its execution is removed.
const HELD: usize = 65_536;
/// Reports that may wait for the listener.
const QUEUE: usize = 1_024;
/// How long after its report an allocation may go on. What does not end then is stopped: it told
/// what is not true.
const OVERDUE: Duration = Duration::from_secs(30);
/// The pause between two looks at an allocation that is about to end.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// How long `remove` waits for the end of an allocation whose execution reported its own.
const PATIENCE: Duration = Duration::from_secs(5);

/// What was reported, by job.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    held: Mutex<HashMap<Place, Reported>>,
    /// The listeners of the Nomad namespaces.
    listeners: Mutex<HashMap<String, mpsc::Sender<Inspected>>>,
}

#[derive(Debug, Clone)]
struct Reported {
    alloc: String,
    state: ExecutionState,
    times: ExecutionTimes,
    /// Nomad has told of the end, too.
    confirmed: bool,
}

impl Reports {
    fn held(&self) -> MutexGuard<'_, HashMap<Place, Reported>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the listener of a namespace hears of reports.
    pub(crate) fn listen(&self, namespace: &str) -> mpsc::Receiver<Inspected> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        self.listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(namespace.to_owned(), sender);
        receiver
    }

    /// What is to be thought of an execution whose own allocation this is, if it reported its end.
    pub(crate) fn view(&self, place: &Place, own: Option<&Alloc>, nomads: &View) -> Option<View> {
        let held = self.held();
        let reported =
            held.get(place).filter(|reported| own.is_some_and(|own| own.id == reported.alloc))?;
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
    fn hold(&self, place: &Place, alloc: &str, end: &Observation) -> Result<(), BackendError> {
        let Observation { state, times } = end;
        let mut held = self.held();
        if let Some(known) =
            held.get(place).filter(|known| known.alloc == alloc && known.state != *state)
        {
            return Err(contradicted(place, &known.state));
        }

        if held.len() >= HELD {
            let message = format!(
                "{HELD} executions reported their end and were not removed yet: nomad's word is \
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

        held.insert(place.clone(), reported);
        Ok(())
    }

    /// Compares what Nomad tells of an allocation with what was reported.
    pub(crate) fn compare(&self, namespace: &str, alloc: &Alloc) {
        if !state::is_terminal(alloc) {
            return;
        }

        let place = Place { namespace: namespace.to_owned(), job_id: alloc.job_id.clone() };
        let mut held = self.held();
        let Some(reported) =
            held.get_mut(&place).filter(|held| held.alloc == alloc.id && !held.confirmed)
        else {
            return;
        };

        reported.confirmed = true;
        // Only tasks on the host are supervised.
        let marks = Marks { guarded: true, supervised: true, in_container: false };
        let nomads = state::of_alloc(alloc, false, marks);

        if nomads != reported.state {
            tracing::warn!(job = %place.job_id, reported = ?reported.state, ?nomads, "an execution ended otherwise than it reported");
        }
    }

    /// Forgets the reports of a namespace whose jobs are gone.
    pub(crate) fn keep(&self, namespace: &str, jobs: &HashSet<String>) {
        self.held().retain(|place, reported| {
            place.namespace != namespace || jobs.contains(&place.job_id) || !reported.confirmed
        });
    }

    pub(crate) fn forget(&self, place: &Place) {
        self.held().remove(place);
    }

    fn tell(&self, namespace: &str, inspected: Inspected) {
        let listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        let told =
            listeners.get(namespace).is_some_and(|listener| listener.try_send(inspected).is_ok());
        if !told {
            tracing::warn!(namespace, "a reported end is told to nobody; nomad's own word comes");
        }
    }
}

/// Takes an execution's word for its end.
pub(crate) async fn report(
    shared: &Arc<Shared>,
    token: &SecretString,
    end: ReportedEnd,
) -> Result<ExecutionId, BackendError> {
    let inspected = identity::owner(shared, token).await?;
    let id = inspected.id.clone();
    take(shared, inspected, end)?;
    Ok(id)
}

/// Takes another server's word for an execution's.
pub(crate) async fn passed_on(
    shared: &Arc<Shared>,
    id: &ExecutionId,
    end: ReportedEnd,
) -> Result<(), BackendError> {
    let unknown =
        || BackendError::new(ErrorKind::NotFound, format!("execution `{id}` does not exist"));
    let inspected = shared.inspect(id).await?.ok_or_else(unknown)?;
    take(shared, inspected, end)
}

fn take(
    shared: &Arc<Shared>,
    mut inspected: Inspected,
    end: ReportedEnd,
) -> Result<(), BackendError> {
    let place = shared.place(&inspected.id);
    let exited = ExecutionState::Exited { code: end.code, oom: false, signal: end.signal };
    if inspected.view.state == exited {
        return Ok(());
    }

    let own = inspected
        .own_alloc()
        .filter(|own| may_have_ended(&inspected, own))
        .map(|own| own.id.clone());
    let held = match own {
        Some(own) => shared.reports.hold(
            &place,
            &own,
            &Observation { state: exited.clone(), times: end.times },
        ),
        None => Err(contradicted(&place, &inspected.view.state)),
    };

    if let Err(error) = held {
        tracing::warn!(job = %place.job_id, ?end, error = %error.chain(), "a reported end is refused");
        return Err(error);
    }

    tracing::debug!(job = %place.job_id, ?end, "an execution reported its end");
    inspected.view = View { state: exited, fence: None, reported: Some(end.times), lost_in: None };
    inspected.reported = true;
    shared.reports.tell(&place.namespace, inspected);

    let shared = shared.clone();
    tokio::spawn(async move { see_to_the_end(&shared, &place).await });
    Ok(())
}

/// Whether nothing speaks against the end: the allocation is the node's business alone, and is
/// supervised.
fn may_have_ended(inspected: &Inspected, own: &Alloc) -> bool {
    let job = &inspected.job;
    let undecided = inspected.view.fence.is_none() && !inspected.view.state.is_final() && !job.stop;
    undecided
        && Marks::of(job).supervised
        && own.desired_status == "run"
        && matches!(own.client_status.as_str(), "pending" | "running")
}

fn contradicted(place: &Place, known: &ExecutionState) -> BackendError {
    let message = format!(
        "the end of `{}` is not as it was reported: {known:?}, or it is being stopped",
        place.job_id
    );
    BackendError::new(ErrorKind::Invalid, message)
}

/// Stops an allocation that goes on after its report: nobody else would, since its execution is
/// over.
async fn see_to_the_end(shared: &Shared, place: &Place) {
    tokio::time::sleep(OVERDUE).await;
    match shared.allocs(place).await {
        Ok(allocs) if allocs.iter().all(state::is_terminal) => return,
        Ok(_) => {
            tracing::warn!(job = %place.job_id, "an execution reported its end and goes on: it is \
                                                 stopped")
        }
        Err(error) => {
            tracing::warn!(job = %place.job_id, error = %error.chain(), "cannot see whether it has ended")
        }
    }

    if let Err(error) = shared.stop_job(place).await {
        tracing::warn!(job = %place.job_id, error = %error.chain(), "what goes on after its report \
                                                                     cannot be stopped");
    }
}

/// Waits for the end of an allocation whose execution reported its own.
pub(crate) async fn settle(shared: &Shared, place: &Place) -> Result<(), BackendError> {
    let ended = async {
        loop {
            if shared.allocs(place).await?.iter().all(state::is_terminal) {
                return Ok(());
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    tokio::time::timeout(PATIENCE, ended).await.unwrap_or_else(|_| {
        let message = format!(
            "nomad has not seen the end of `{}` yet, which it reported: call again",
            place.job_id
        );
        Err(BackendError::new(ErrorKind::Unavailable, message))
    })
}
