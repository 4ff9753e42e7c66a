//! One execution's conversation with the scheduler: start it, find out what became of it, stop it.
//! Each repeats while the backend is unavailable, and tells the run's driver what it learned.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use gofer_core::object_store::PutOptions;
use gofer_core::pipeline::PipelineSpec;
use gofer_core::run::{Reason, ReasonKind, Run};
use gofer_core::scheduler::{ExecutionSpec, ExecutionState, Observation};
use gofer_core::{BackendError, ErrorKind, ExecutionId};
use secrecy::{ExposeSecret, SecretString};
use tokio_util::sync::CancellationToken;

use crate::engine::Shared;
use crate::execution::resolve::{self, Unresolved};
use crate::inbox::{Asked, Inbox, Message, StartOver};
use crate::layout;
use crate::lease::deadline::Freshness;
use crate::retry_loop::Backoff;
use crate::rules::machine::Input;
use crate::slots::Place;

/// Waiting for a place is not worth a word, nor a commit, before it has taken this long.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long after its grace the end of a stopped execution is overdue.
const OVERDUE: Duration = Duration::from_secs(10);

/// All a start needs.
pub(crate) struct Start {
    /// Which of the driver's starts.
    pub(crate) serial: u64,
    pub(crate) shared: Arc<Shared>,
    pub(crate) id: ExecutionId,
    pub(crate) spec: Arc<PipelineSpec>,
    pub(crate) run: Run,
    pub(crate) driver: Inbox,
    /// Of the run's lease.
    pub(crate) freshness: Freshness,
    /// Gives up, between calls.
    pub(crate) give_up: CancellationToken,
    /// The scheduler may have forgotten since the intent that it was started.
    pub(crate) forgotten: bool,
}

impl Start {
    /// Starts the execution; what becomes of it comes over the watch. With `again`, finds out first
    /// whether a server that is gone had started it. If so, nothing is resolved again: a secret may
    /// be gone by now, and the execution runs all the same.
    pub(crate) async fn run(self, again: bool) {
        let asked = Asked { at: self.shared.clock.now(), starts: self.serial };
        let found = if again {
            state(&self.shared, &self.id, &self.driver).await
        } else {
            Some(ExecutionState::NotFound.into())
        };

        let Some(found) = found else { return };
        let refused = match found.state {
            ExecutionState::NotFound if again && self.forgotten => {
                tell(&self.id, ExecutionState::Lost.into(), asked, &self.driver).await;
                None
            }
            ExecutionState::NotFound => {
                // It is not in flight after all.
                self.shared.places.release(&self.id);
                self.start(again).await.err()
            }
            _ => {
                tell(&self.id, found, asked, &self.driver).await;
                None
            }
        };

        let over = StartOver { id: self.id.clone(), serial: self.serial, refused };
        // Who drives the run after a driver that is gone asks the scheduler itself.
        self.driver.tell(Message::StartOver(over)).await;
    }

    /// Starts it or gives up; the error says why it will never be started.
    async fn start(&self, again: bool) -> Result<(), Reason> {
        let Some(place) = self.place(again).await else { return Ok(()) };
        let Some(spec) = self.prepare().await? else { return Ok(()) };
        let mut backoff = Backoff::new(("start", &self.id));
        while !self.give_up.is_cancelled() {
            match self.call(&spec).await {
                Ok(()) => break,
                Err(error) if error.is_retryable() => self.pause(&error, &mut backoff).await,
                Err(error) => return Err(Reason::new(ReasonKind::SchedulerRefused, error.chain())),
            }
        }
        // Given up or not, it may exist.
        self.shared.places.keep(&self.id, place);
        Ok(())
    }

    /// One call, under way no longer than the lease is certainly held: beyond that another server
    /// may have started the execution and be done with it.
    async fn call(&self, spec: &ExecutionSpec) -> Result<(), BackendError> {
        tokio::select! {
            biased;
            () = self.freshness.run_out(&self.shared.clock) => {
                Err(BackendError::new(ErrorKind::Unavailable, "it is not certain that the run's \
                                                               lease is still held"))
            }
            result = self.shared.scheduler.start(&self.id, spec) => result,
        }
    }

    /// Waits for a place in flight, and tells the driver when that takes a while. `None`: given up.
    async fn place(&self, again: bool) -> Option<Place> {
        let mut wait = pin!(self.shared.places.wait(&self.id.run));
        let soon = tokio::select! {
            biased;
            () = self.give_up.cancelled() => return None,
            place = &mut wait => Some(place),
            () = tokio::time::sleep(PATIENCE) => None,
        };

        let told = soon.is_none() || again;
        let place = match soon {
            Some(place) => place,
            None => tokio::select! {
                biased;
                () = self.give_up.cancelled() => return None,
                place = &mut wait => place,
                never = self.tell_of_wait() => match never {},
            },
        };

        if told {
            let placed = Input::Placed(self.id.task.clone(), self.id.attempt);
            self.driver.tell(Message::Input(placed)).await;
        }

        Some(place)
    }

    /// Tells the driver that the execution waits for a place. A queue of thousands must not keep
    /// its driver from what else happens, so nobody tells while the driver's inbox is half full.
    async fn tell_of_wait(&self) -> Infallible {
        while self.driver.is_half_full() {
            tokio::time::sleep(PATIENCE).await;
        }
        let why = self.shared.places.why(&self.id.run);
        let waiting = Input::Waiting(self.id.task.clone(), self.id.attempt, why);
        self.driver.tell(Message::Input(waiting)).await;
        std::future::pending().await
    }

    /// Reads secrets and objects, and leaves the values to mask where a restarted server finds
    /// them. `None`: given up.
    async fn prepare(&self) -> Result<Option<ExecutionSpec>, Reason> {
        let task = self.spec.task(&self.id.task).expect("a run has no task its spec has not");
        let mut backoff = Backoff::new(("resolve", &self.id));
        loop {
            let error = match resolve::execution(
                &self.shared,
                &self.spec,
                task,
                &self.run,
                self.id.attempt,
            )
            .await
            {
                Ok(resolved) => match self.keep_masks(&resolved.secrets).await {
                    Ok(()) => return Ok(Some(resolved.spec)),
                    Err(error) => error,
                },
                Err(Unresolved::Later(error)) => error,
                Err(Unresolved::Refused(reason)) => return Err(reason),
            };

            self.pause(&error, &mut backoff).await;
            if self.give_up.is_cancelled() {
                return Ok(None);
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

    async fn pause(&self, error: &BackendError, backoff: &mut Backoff) {
        tracing::warn!(execution = %self.id, error = %error.chain(), "cannot start the execution \
                                                                      yet, will retry");
        tokio::select! {
            biased;
            () = self.give_up.cancelled() => {}
            () = backoff.wait() => {}
        }
    }
}

/// Asks for the state until there is an answer, and tells the driver. Returns whether it was a
/// final one, or nobody wants to know any more.
pub(crate) async fn observe(
    shared: &Shared,
    id: &ExecutionId,
    starts: u64,
    driver: &Inbox,
) -> bool {
    let asked = Asked { at: shared.clock.now(), starts };
    let Some(found) = state(shared, id, driver).await else { return true };
    let over = found.state.is_final();
    tell(id, found, asked, driver).await;
    over
}

/// Tells the driver that the execution waits in this server, for a place or for an answer of a
/// store: that counts as waiting to start, as the scheduler's own queue does.
pub(crate) async fn still_starting(shared: &Shared, id: &ExecutionId, starts: u64, driver: &Inbox) {
    let asked = Asked { at: shared.clock.now(), starts };
    tell(id, Observation::queued(""), asked, driver).await;
}

/// The state, asked for until there is an answer or nobody wants it any more.
async fn state(shared: &Shared, id: &ExecutionId, driver: &Inbox) -> Option<Observation> {
    let mut backoff = Backoff::new(("state", id));
    while !driver.is_closed() {
        match shared.scheduler.state(id).await {
            Ok(found) => return Some(found),
            Err(error) => {
                tracing::warn!(execution = %id, error = %error.chain(), "cannot learn the execution's state yet, will retry");
                backoff.wait().await;
            }
        }
    }
    None
}

/// Stops the execution. Its end comes over the watch, or at once when it was over or never begun.
pub(crate) async fn stop(
    shared: &Shared,
    id: &ExecutionId,
    grace: Duration,
    starts: u64,
    driver: &Inbox,
) {
    let mut backoff = Backoff::new(("stop", id));
    while let Err(error) = shared.scheduler.stop(id, grace).await {
        tracing::warn!(execution = %id, error = %error.chain(), "cannot stop the execution yet, \
                                                                 will retry");
        backoff.wait().await;
        if driver.is_closed() {
            return;
        }
    }

    // The end is on the watch. Where that is late, the scheduler is asked: a stopped attempt keeps
    // its run from ending.
    while !observe(shared, id, starts, driver).await {
        tokio::select! {
            () = tokio::time::sleep(grace + OVERDUE) => {}
            () = driver.closed() => return,
        }
    }
}

async fn tell(id: &ExecutionId, found: Observation, asked: Asked, driver: &Inbox) {
    // A driver that is gone will load the run again and ask itself.
    driver.tell(Message::Answered(id.clone(), found, asked)).await;
}
