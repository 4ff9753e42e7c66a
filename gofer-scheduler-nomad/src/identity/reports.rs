//! Ends that executions told of themselves, before Nomad does: a successful task shorter than a
//! second is reported by Nomad after a second. The allocation stays the truth; what it contradicts
//! is refused, and nothing here outlives this process.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use gofer_core::scheduler::{ExecutionState, Observation, ReportedEnd};
use gofer_core::{BackendError, ErrorKind, ExecutionId};
use tokio::sync::mpsc;

use crate::calls::{Inspected, JobCalls, JobKey, contradicted};
use crate::http::types::Alloc;
use crate::state::marks::Marks;
use crate::state::{self, View};

/// Reports that may wait for the listener.
const LISTENER_QUEUE_MAX: usize = 1_024;
/// How long after its report an allocation may go on. What does not end then is stopped: it told
/// what is not true.
const OVERDUE_AFTER: Duration = Duration::from_secs(30);
/// The pause between two looks at an allocation that is about to end.
const SETTLE_POLL_INTERVAL: Duration = Duration::from_millis(100);
/// How long `remove` waits for the end of an allocation whose execution reported its own.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(5);

/// Takes executions' word for their ends, and passes it to the listeners of the event streams.
#[derive(Debug)]
pub(crate) struct EndReports {
    calls: Arc<JobCalls>,
    /// The listener of each Nomad namespace.
    listeners: HashMap<String, mpsc::Sender<Inspected>>,
}

impl EndReports {
    /// The reports to the listeners of these namespaces, and what each of them listens to.
    pub(crate) fn new(
        calls: Arc<JobCalls>,
        namespaces: impl IntoIterator<Item = String>,
    ) -> (Self, Vec<(String, mpsc::Receiver<Inspected>)>) {
        let (mut listeners, mut receivers) = (HashMap::new(), Vec::new());
        for namespace in namespaces {
            let (sender, receiver) = mpsc::channel(LISTENER_QUEUE_MAX);
            listeners.insert(namespace.clone(), sender);
            receivers.push((namespace, receiver));
        }
        (Self { calls, listeners }, receivers)
    }

    /// Takes an execution's word for its end, which its token proved.
    pub(crate) fn accept(
        &self,
        mut inspected: Inspected,
        end: ReportedEnd,
    ) -> Result<ExecutionId, BackendError> {
        let id = inspected.id.clone();
        let key = self.calls.key(&id);
        let exited = ExecutionState::Exited { code: end.code, oom: false, signal: end.signal };
        if inspected.view.state == exited {
            return Ok(id);
        }

        let own = inspected
            .own_alloc()
            .filter(|own| may_have_ended(&inspected, own))
            .map(|own| own.id.clone());
        let observed = Observation { state: exited.clone(), times: end.times };
        let held = match own {
            Some(own) => self.calls.reported.hold(&key, &own, &observed),
            None => Err(contradicted(&key, &inspected.view.state)),
        };

        if let Err(error) = held {
            tracing::warn!(job = %key.job_id, ?end, error = %error.chain(), "a reported end is refused");
            return Err(error);
        }

        tracing::debug!(job = %key.job_id, ?end, "an execution reported its end");
        inspected.view =
            View { state: exited, fence: None, reported: Some(end.times), lost_in: None };
        inspected.reported = true;
        self.send(&key.namespace, inspected);

        let calls = self.calls.clone();
        tokio::spawn(async move { stop_if_overdue(&calls, &key).await });
        Ok(id)
    }

    /// Takes another server's word for an execution's.
    pub(crate) async fn accept_forwarded(
        &self,
        id: &ExecutionId,
        end: ReportedEnd,
    ) -> Result<(), BackendError> {
        let unknown =
            || BackendError::new(ErrorKind::NotFound, format!("execution `{id}` does not exist"));
        let inspected = self.calls.inspect(id).await?.ok_or_else(unknown)?;
        self.accept(inspected, end).map(|_| ())
    }

    fn send(&self, namespace: &str, inspected: Inspected) {
        let listener = self.listeners.get(namespace);
        if listener.is_none_or(|listener| listener.try_send(inspected).is_err()) {
            tracing::warn!(namespace, "a reported end is told to nobody; nomad's own word comes");
        }
    }
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

/// Stops an allocation that goes on after its report: nobody else would, since its execution is
/// over.
async fn stop_if_overdue(calls: &JobCalls, key: &JobKey) {
    tokio::time::sleep(OVERDUE_AFTER).await;
    match calls.allocs(key).await {
        Ok(allocs) if allocs.iter().all(state::is_terminal) => return,
        Ok(_) => {
            tracing::warn!(job = %key.job_id, "an execution reported its end and goes on: it is \
                                                 stopped")
        }
        Err(error) => {
            tracing::warn!(job = %key.job_id, error = %error.chain(), "cannot see whether it has ended")
        }
    }

    if let Err(error) = calls.stop_job(key).await {
        tracing::warn!(job = %key.job_id, error = %error.chain(), "what goes on after its report \
                                                                     cannot be stopped");
    }
}

/// Waits for the end of an allocation whose execution reported its own.
pub(crate) async fn settle(calls: &JobCalls, key: &JobKey) -> Result<(), BackendError> {
    let ended = async {
        loop {
            if calls.allocs(key).await?.iter().all(state::is_terminal) {
                return Ok(());
            }
            tokio::time::sleep(SETTLE_POLL_INTERVAL).await;
        }
    };
    tokio::time::timeout(SETTLE_TIMEOUT, ended).await.unwrap_or_else(|_| {
        let message = format!(
            "nomad has not seen the end of `{}` yet, which it reported: call again",
            key.job_id
        );
        Err(BackendError::new(ErrorKind::Unavailable, message))
    })
}
