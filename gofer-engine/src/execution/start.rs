//! Starts one execution: waits for a slot, resolves its secrets and objects, and calls the
//! scheduler until it answers or the start is cancelled.

use std::convert::Infallible;
use std::ops::ControlFlow;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use gofer_core::object_store::PutOptions;
use gofer_core::pipeline::PipelineSpec;
use gofer_core::run::{Reason, ReasonKind, Run};
use gofer_core::scheduler::{ExecutionSpec, ExecutionState};
use gofer_core::{BackendError, ErrorKind, ExecutionId};
use secrecy::{ExposeSecret, SecretString};
use tokio_util::sync::CancellationToken;

use super::observe::{answer, state};
use super::resolve::{self, Unresolved};
use crate::inbox::{Asked, Inbox, Message, StartFinished};
use crate::layout;
use crate::lease::deadline::LeaseDeadline;
use crate::ports::Ports;
use crate::retry_loop::retry_until;
use crate::rules::Input;
use crate::slots::{Slot, Slots};

/// Waiting for a slot is not worth a word, nor a commit, before it has taken this long.
const SLOT_WAIT_SILENCE: Duration = Duration::from_secs(1);

/// All a start needs.
pub(crate) struct Start {
    /// Which of the driver's starts.
    pub(crate) serial: u64,
    pub(crate) ports: Arc<Ports>,
    pub(crate) slots: Arc<Slots>,
    pub(crate) id: ExecutionId,
    pub(crate) spec: Arc<PipelineSpec>,
    pub(crate) run: Run,
    pub(crate) driver: Inbox,
    /// Of the run's lease.
    pub(crate) deadline: LeaseDeadline,
    /// Ends the start between calls.
    pub(crate) cancel: CancellationToken,
    /// The scheduler may have forgotten since the intent that it was started.
    pub(crate) forgotten: bool,
}

impl Start {
    /// Starts the execution; what becomes of it comes over the watch. With `again`, finds out first
    /// whether a server that is gone had started it. If so, nothing is resolved again: a secret may
    /// be gone by now, and the execution runs without it.
    pub(crate) async fn run(self, again: bool) {
        let asked = Asked { at: self.ports.clock.now(), starts: self.serial };
        let found = if again {
            state(&self.ports, &self.id, &self.driver).await
        } else {
            Some(ExecutionState::NotFound.into())
        };

        let Some(found) = found else { return };
        let refused = match found.state {
            ExecutionState::NotFound if again && self.forgotten => {
                answer(&self.id, ExecutionState::Lost.into(), asked, &self.driver).await;
                None
            }
            ExecutionState::NotFound => {
                // It is not in flight after all.
                self.slots.release(&self.id);
                self.start(again).await.err()
            }
            _ => {
                answer(&self.id, found, asked, &self.driver).await;
                None
            }
        };

        // A driver that has ended needs no message: the next one asks the scheduler.
        let finished = StartFinished { id: self.id.clone(), serial: self.serial, refused };
        self.driver.send(Message::StartFinished(finished)).await;
    }

    /// Starts it, unless it is cancelled before; the error says why it will never be started.
    async fn start(&self, again: bool) -> Result<(), Reason> {
        let Some(slot) = self.slot(again).await else { return Ok(()) };
        let Some(spec) = self.prepare().await? else { return Ok(()) };

        let called = retry_until(("start", &self.id), self.cancel.cancelled(), || async {
            if self.cancel.is_cancelled() {
                return ControlFlow::Break(Ok(()));
            }
            match self.call(&spec).await {
                Ok(()) => ControlFlow::Break(Ok(())),
                Err(error) if error.is_retryable() => self.will_retry(&error),
                Err(error) => {
                    let reason = Reason::new(ReasonKind::SchedulerRefused, error.chain());
                    ControlFlow::Break(Err(reason))
                }
            }
        });
        called.await.unwrap_or(Ok(()))?;

        // Cancelled or not, it may exist.
        self.slots.assign(&self.id, slot);
        Ok(())
    }

    /// One call, under way no longer than the lease is certainly held.
    ///
    /// Without this, a call that hangs could arrive when another server has the run, has started
    /// the execution and is done with it: it would run a second time.
    async fn call(&self, spec: &ExecutionSpec) -> Result<(), BackendError> {
        tokio::select! {
            biased;
            () = self.deadline.passed(&self.ports.clock) => {
                Err(BackendError::new(ErrorKind::Unavailable, "it is not certain that the run's \
                                                               lease is still held"))
            }
            result = self.ports.scheduler.start(&self.id, spec) => result,
        }
    }

    /// Waits for a slot, and tells the driver when that takes a while. `None`: cancelled.
    async fn slot(&self, again: bool) -> Option<Slot> {
        let mut wait = pin!(self.slots.acquire(&self.id.run));
        let soon = tokio::select! {
            biased;
            () = self.cancel.cancelled() => return None,
            slot = &mut wait => Some(slot),
            () = tokio::time::sleep(SLOT_WAIT_SILENCE) => None,
        };

        let was_told = soon.is_none() || again;
        let slot = match soon {
            Some(slot) => slot,
            None => tokio::select! {
                biased;
                () = self.cancel.cancelled() => return None,
                slot = &mut wait => slot,
                never = self.tell_of_wait() => match never {},
            },
        };

        if was_told {
            let acquired = Input::SlotAcquired(self.id.task.clone(), self.id.attempt);
            self.driver.send(Message::Input(acquired)).await;
        }

        Some(slot)
    }

    /// Tells the driver that the execution waits for a slot. A queue of thousands must not keep its
    /// driver from what else happens, so nothing is sent while the driver's inbox is half full.
    async fn tell_of_wait(&self) -> Infallible {
        while self.driver.is_half_full() {
            tokio::time::sleep(SLOT_WAIT_SILENCE).await;
        }
        let why = self.slots.why(&self.id.run);
        let waiting = Input::Waiting(self.id.task.clone(), self.id.attempt, why);
        self.driver.send(Message::Input(waiting)).await;
        std::future::pending().await
    }

    /// Reads secrets and objects, and leaves the values to mask where a restarted server finds
    /// them. `None`: cancelled.
    async fn prepare(&self) -> Result<Option<ExecutionSpec>, Reason> {
        let prepared = retry_until(("resolve", &self.id), self.cancel.cancelled(), || async {
            match self.resolve().await {
                Ok(spec) => ControlFlow::Break(Ok(spec)),
                Err(Unresolved::Later(error)) => self.will_retry(&error),
                Err(Unresolved::Refused(reason)) => ControlFlow::Break(Err(reason)),
            }
        });
        prepared.await.transpose()
    }

    async fn resolve(&self) -> Result<ExecutionSpec, Unresolved> {
        let task = self.spec.task(&self.id.task).expect("every task of a run is in its spec");
        let attempt = self.id.attempt;
        let resolved =
            resolve::execution(&self.ports, &self.spec, task, &self.run, attempt).await?;
        self.keep_masks(&resolved.secrets).await.map_err(Unresolved::Later)?;
        Ok(resolved.spec)
    }

    async fn keep_masks(&self, secrets: &[SecretString]) -> Result<(), BackendError> {
        if secrets.is_empty() {
            return Ok(());
        }
        let values: Vec<&str> = secrets.iter().map(ExposeSecret::expose_secret).collect();
        let text = SecretString::from(serde_json::to_string(&values).expect("strings become JSON"));
        self.ports.secrets.put(&layout::mask_path(&self.id), &text, PutOptions::default()).await
    }

    fn will_retry<T>(&self, error: &BackendError) -> ControlFlow<T> {
        tracing::warn!(execution = %self.id, error = %error.chain(), "cannot start the execution \
                                                                      yet, will retry");
        ControlFlow::Continue(())
    }
}
