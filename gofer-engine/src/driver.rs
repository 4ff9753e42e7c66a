//! Drives one run: feeds its machine, commits what follows, then acts. Holds the run's lease while it lives.

use std::collections::HashMap;
use std::sync::Arc;

use gofer_core::journal::{Commit, Committed, Lease};
use gofer_core::{Attempt, ExecutionId, TaskId};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::engine::Shared;
use crate::execution::{self, Message, Start};
use crate::machine::{Decision, Effect, Input, Machine};
use crate::writer::NotCommitted;

/// Messages taken into one commit.
const MAX_BATCH: usize = 64;

/// Why a driver stops looking at its machine.
enum Stopped {
    /// The run is complete.
    Complete,
    /// The stored run is not what the machine thought: load it again.
    Reload,
    /// Somebody else holds the lease, or the server is going down.
    Gone,
}

/// Drives the run until it is complete or the lease is lost.
pub(crate) async fn drive(
    shared: Arc<Shared>,
    lease: Lease,
    driver: mpsc::Sender<Message>,
    mut inbox: mpsc::Receiver<Message>,
) {
    let mut backoff = Backoff::new(&lease.run);
    let mut driving = Driving { shared, lease, driver, starts: HashMap::new(), places: HashMap::new() };
    while let Some(mut machine) = driving.load().await {
        match driving.work(&mut machine, &mut inbox).await {
            Stopped::Complete | Stopped::Gone => return,
            Stopped::Reload => backoff.wait().await,
        }
    }
}

struct Driving {
    shared: Arc<Shared>,
    lease: Lease,
    driver: mpsc::Sender<Message>,
    /// Starts under way, so that a stop can wait for them: a start that lands after its stop would run for ever.
    starts: HashMap<ExecutionId, (CancellationToken, JoinHandle<()>)>,
    places: HashMap<ExecutionId, OwnedSemaphorePermit>,
}

impl Driving {
    async fn load(&self) -> Option<Machine> {
        let mut backoff = Backoff::new(("load", &self.lease.run));
        while !self.shared.stop.is_cancelled() {
            match self.shared.journal.load(&self.lease.run).await {
                Ok(snapshot) => return Some(Machine::new(snapshot)),
                Err(error) if error.is_retryable() => {
                    tracing::warn!(run = %self.lease.run, error = %crate::chain(&error), "cannot load the run yet, will retry");
                    backoff.wait().await;
                }
                Err(error) => {
                    tracing::error!(run = %self.lease.run, error = %crate::chain(&error), "cannot load the run");
                    return None;
                }
            }
        }
        None
    }

    async fn work(&mut self, machine: &mut Machine, inbox: &mut mpsc::Receiver<Message>) -> Stopped {
        let first = machine.step(self.shared.clock.now(), Input::Claimed);
        if let Err(stopped) = self.carry_out(machine, first).await {
            return stopped;
        }
        let mut batch = Vec::with_capacity(MAX_BATCH);
        while !machine.run().state.is_complete() {
            let deadline = machine.next_deadline().map(|at| self.shared.clock.instant(at));
            let due = async move {
                match deadline {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.shared.stop.cancelled() => return Stopped::Gone,
                count = inbox.recv_many(&mut batch, MAX_BATCH) => if count == 0 { return Stopped::Gone },
                () = due => batch.push(Message::Input(Input::Tick)),
            }
            let mut decision = Decision::default();
            for message in batch.drain(..) {
                self.take(machine, message, &mut decision);
            }
            if let Err(stopped) = self.carry_out(machine, decision).await {
                return stopped;
            }
        }
        Stopped::Complete
    }

    fn take(&mut self, machine: &mut Machine, message: Message, decision: &mut Decision) {
        match message {
            Message::Input(input) => {
                if self.is_premature(&input) {
                    return;
                }
                let next = machine.step(self.shared.clock.now(), input);
                decision.tasks.extend(next.tasks);
                decision.run = next.run.or(decision.run.take());
                decision.events.extend(next.events);
                decision.effects.extend(next.effects);
            }
            Message::Admitted(id, place) => {
                let current = machine
                    .task(&id.task)
                    .is_some_and(|(task, _)| task.attempt == id.attempt && task.state.is_active());
                if current {
                    self.places.insert(id, place);
                }
            }
            Message::Reconcile => {
                let active = machine.tasks().iter().filter(|task| task.state.is_active());
                let missed = active.map(|task| Effect::Observe(task.task.clone(), task.attempt));
                decision.effects.extend(missed.collect::<Vec<_>>());
            }
        }
    }

    /// "Not found" means nothing while the start is still under way.
    fn is_premature(&self, input: &Input) -> bool {
        let Input::Observed(task, attempt, gofer_core::scheduler::ExecutionState::NotFound) = input else {
            return false;
        };
        self.starts.get(&self.id(task, *attempt)).is_some_and(|(_, start)| !start.is_finished())
    }

    async fn carry_out(&mut self, machine: &Machine, decision: Decision) -> Result<(), Stopped> {
        let Decision { tasks, run, events, effects } = decision;
        if !(tasks.is_empty() && run.is_none() && events.is_empty()) {
            let commit = Commit { lease: self.lease.clone(), tasks, run, events };
            match self.shared.writer.commit(commit).await {
                Ok(Committed::Done) => {}
                Ok(Committed::Conflict) => return Err(Stopped::Reload),
                Ok(Committed::Fenced) | Err(NotCommitted::Stopped) => return Err(Stopped::Gone),
                Err(NotCommitted::Refused(error)) => {
                    tracing::error!(run = %self.lease.run, error = %error.chain(), "the journal refused a commit");
                    return Err(Stopped::Reload);
                }
            }
        }
        for effect in effects {
            self.act(machine, effect);
        }
        Ok(())
    }

    fn act(&mut self, machine: &Machine, effect: Effect) {
        match effect {
            Effect::Start(task, attempt) => self.start(machine, &task, attempt, false),
            Effect::Restart(task, attempt) => self.start(machine, &task, attempt, true),
            Effect::Observe(task, attempt) => {
                let (shared, id, driver) = (self.shared.clone(), self.id(&task, attempt), self.driver.clone());
                tokio::spawn(async move { execution::observe(&shared, &id, &driver).await });
            }
            Effect::Stop(task, attempt, grace) => {
                let (shared, id, driver) = (self.shared.clone(), self.id(&task, attempt), self.driver.clone());
                let start = self.starts.remove(&id);
                tokio::spawn(async move {
                    if let Some((give_up, start)) = start {
                        give_up.cancel();
                        // Its own failure was told to the driver; what counts is that it is over.
                        let _ = start.await;
                    }
                    execution::stop(&shared, &id, grace, &driver).await;
                });
            }
            Effect::Archive(task, attempt) => {
                let id = self.id(&task, attempt);
                self.starts.remove(&id);
                self.places.remove(&id);
                self.shared.archive_wanted.notify_one();
            }
        }
    }

    fn start(&mut self, machine: &Machine, task: &TaskId, attempt: Attempt, again: bool) {
        let id = self.id(task, attempt);
        if self.starts.get(&id).is_some_and(|(_, start)| !start.is_finished()) {
            return;
        }
        let give_up = self.shared.stop.child_token();
        let start = Start {
            shared: self.shared.clone(),
            id: id.clone(),
            spec: machine.spec().clone(),
            run: machine.run().clone(),
            driver: self.driver.clone(),
            give_up: give_up.clone(),
        };
        let start = if again { tokio::spawn(start.run_unless_started()) } else { tokio::spawn(start.run()) };
        self.starts.insert(id, (give_up, start));
    }

    fn id(&self, task: &TaskId, attempt: Attempt) -> ExecutionId {
        ExecutionId { run: self.lease.run.clone(), task: task.clone(), attempt }
    }
}
