//! One execution's conversation with the scheduler: start it, find out what became of it, stop it. Each repeats while the
//! backend is unavailable, and tells the run's driver what it learned.

use std::sync::Arc;
use std::time::Duration;

use gofer_core::object_store::PutOptions;
use gofer_core::pipeline::PipelineSpec;
use gofer_core::run::{Reason, ReasonKind, Run};
use gofer_core::scheduler::{ExecutionSpec, ExecutionState};
use gofer_core::{BackendError, ExecutionId};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::engine::Shared;
use crate::layout;
use crate::machine::Input;
use crate::resolve::{self, Unresolved};

/// What a run's driver is told.
#[derive(Debug)]
pub(crate) enum Message {
    /// Something for the machine.
    Input(Input),
    /// The execution has this place among those in flight; it is given back when the attempt ends.
    Admitted(ExecutionId, OwnedSemaphorePermit),
    /// The scheduler's events may have been missed: ask about every execution.
    Reconcile,
}

/// All a start needs.
pub(crate) struct Start {
    pub(crate) shared: Arc<Shared>,
    pub(crate) id: ExecutionId,
    pub(crate) spec: Arc<PipelineSpec>,
    pub(crate) run: Run,
    pub(crate) driver: mpsc::Sender<Message>,
    /// Gives up, between calls.
    pub(crate) give_up: CancellationToken,
}

impl Start {
    /// Finds out whether a server that is gone had started the execution. If so, nothing is resolved again: a secret may
    /// be gone by now, and the execution runs all the same.
    pub(crate) async fn run_unless_started(self) {
        match state(&self.shared, &self.id, &self.driver).await {
            Some(ExecutionState::NotFound) => self.run().await,
            Some(state) => tell(&self.id, state, &self.driver).await,
            None => {}
        }
    }

    /// Starts the execution. What becomes of it comes over the watch.
    pub(crate) async fn run(self) {
        let Some(spec) = self.prepare().await else { return };
        let mut backoff = Backoff::new(("start", &self.id));
        while !self.give_up.is_cancelled() {
            match self.shared.scheduler.start(&self.id, &spec).await {
                Ok(()) => return,
                Err(error) if error.is_retryable() => self.pause(&error, &mut backoff).await,
                Err(error) => return self.refuse(Reason::new(ReasonKind::SchedulerRefused, error.chain())).await,
            }
        }
    }

    /// Waits for a place in flight, reads secrets and objects, and leaves the values to mask where a restarted server
    /// finds them. `None`: given up, or refused and said so.
    async fn prepare(&self) -> Option<ExecutionSpec> {
        let permit = tokio::select! {
            biased;
            () = self.give_up.cancelled() => return None,
            permit = self.shared.in_flight.clone().acquire_owned() => permit.ok()?,
        };
        self.driver.send(Message::Admitted(self.id.clone(), permit)).await.ok()?;
        let task = self.spec.task(&self.id.task)?;
        let mut backoff = Backoff::new(("start", &self.id));
        loop {
            let error = match resolve::execution(&self.shared, &self.spec, task, &self.run, self.id.attempt).await {
                Ok(resolved) => match self.keep_masks(&resolved.secrets).await {
                    Ok(()) => return Some(resolved.spec),
                    Err(error) => error,
                },
                Err(Unresolved::Later(error)) => error,
                Err(Unresolved::Refused(reason)) => {
                    self.refuse(reason).await;
                    return None;
                }
            };
            self.pause(&error, &mut backoff).await;
            if self.give_up.is_cancelled() {
                return None;
            }
        }
    }

    async fn keep_masks(&self, secrets: &[SecretString]) -> Result<(), BackendError> {
        if secrets.is_empty() {
            return Ok(());
        }
        let values: Vec<&str> = secrets.iter().map(ExposeSecret::expose_secret).collect();
        let text = SecretString::from(serde_json::to_string(&values).expect("strings become JSON"));
        self.shared.secrets.put(&layout::mask_path(&self.id), &text, PutOptions::default()).await
    }

    async fn refuse(&self, reason: Reason) {
        let input = Input::Refused(self.id.task.clone(), self.id.attempt, reason);
        // A driver that is gone will load the run again and start over.
        let _ = self.driver.send(Message::Input(input)).await;
    }

    async fn pause(&self, error: &BackendError, backoff: &mut Backoff) {
        tracing::warn!(execution = %self.id, error = %error.chain(), "cannot start the execution yet, will retry");
        tokio::select! {
            biased;
            () = self.give_up.cancelled() => {}
            () = backoff.wait() => {}
        }
    }
}

/// Asks for the state until there is an answer, and tells the driver.
pub(crate) async fn observe(shared: &Shared, id: &ExecutionId, driver: &mpsc::Sender<Message>) {
    if let Some(state) = state(shared, id, driver).await {
        tell(id, state, driver).await;
    }
}

/// The state, asked for until there is an answer or nobody wants it any more.
async fn state(shared: &Shared, id: &ExecutionId, driver: &mpsc::Sender<Message>) -> Option<ExecutionState> {
    let mut backoff = Backoff::new(("state", id));
    while !driver.is_closed() {
        match shared.scheduler.state(id).await {
            Ok(state) => return Some(state),
            Err(error) => {
                tracing::warn!(execution = %id, error = %error.chain(), "cannot learn the execution's state yet, will retry");
                backoff.wait().await;
            }
        }
    }
    None
}

/// Stops the execution. Its end comes over the watch, or at once when it was over or never begun.
pub(crate) async fn stop(shared: &Shared, id: &ExecutionId, grace: Duration, driver: &mpsc::Sender<Message>) {
    let mut backoff = Backoff::new(("stop", id));
    while let Err(error) = shared.scheduler.stop(id, grace).await {
        tracing::warn!(execution = %id, error = %error.chain(), "cannot stop the execution yet, will retry");
        backoff.wait().await;
        if driver.is_closed() {
            return;
        }
    }
    observe(shared, id, driver).await;
}

async fn tell(id: &ExecutionId, state: ExecutionState, driver: &mpsc::Sender<Message>) {
    let input = Input::Observed(id.task.clone(), id.attempt, state);
    // A driver that is gone will load the run again and ask itself.
    let _ = driver.send(Message::Input(input)).await;
}
