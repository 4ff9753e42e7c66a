//! Drives one run: feeds its machine, commits what follows, then acts. Holds the run's lease while
//! it lives.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use gofer_core::journal::{Commit, Committed, Lease};
use gofer_core::scheduler::{ExecutionState, ExecutionTimes, Observation};
use gofer_core::{ExecutionId, Timestamp};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::first_step::{FirstStep, facts};
use crate::commit::split::split_commit;
use crate::commit::writer::{NotCommitted, Writer};
use crate::inbox::{Inbox, Message, StartFinished};
use crate::lease::deadline::LeaseDeadline;
use crate::logs::archive_queue::ArchiveQueue;
use crate::metrics::EngineMetrics;
use crate::ports::Ports;
use crate::retry_loop::{Backoff, retry_until};
use crate::rules::{Decision, Effect, Input, Machine};
use crate::slots::Slots;

/// Messages taken into one commit.
const MAX_BATCH: usize = 64;
/// How long a `Running` report is held, so that a short task's start and end share one commit: too
/// short for people, long enough for the shortest tasks.
const RUNNING_DELAY: Duration = Duration::from_millis(5);

/// Why a driver stops looking at its machine.
enum Stopped {
    /// The run is complete.
    Complete,
    /// The stored run is not what the machine thought: load it again.
    Reload,
    /// Another server holds the lease, or this one is going down.
    LeaseLost,
}

/// Drives the run until it is complete, the lease is lost, or it is cancelled. When this returns,
/// nothing of it is under way any more: no call that starts an execution can still arrive at the
/// scheduler. Returns `false` for a run that is held and cannot be loaded.
pub(super) async fn drive(
    mut driving: Driving,
    known: Option<FirstStep>,
    mut inbox: mpsc::Receiver<Box<Message>>,
) -> bool {
    let mut backoff = Backoff::new(&driving.lease.run);
    let mut found = match known {
        Some(known) => Some(known),
        None => driving.load().await,
    };

    while let Some(FirstStep { mut machine, effects }) = found {
        match driving.work(&mut machine, effects, &mut inbox).await {
            Stopped::Complete => break,
            Stopped::LeaseLost => {
                // Attempts may have ended by a last commit whose answer was an error.
                driving.parts.archive.want_sweep();
                break;
            }
            Stopped::Reload => {
                driving.parts.archive.want_sweep();
                backoff.wait().await;
            }
        }
        found = driving.load().await;
    }

    drop(inbox);
    driving.cancelled.cancel();
    for start in driving.starts.values() {
        start.done.cancelled().await;
    }

    !driving.unreadable
}

/// The start of a current attempt.
pub(super) struct Starting {
    pub(super) serial: u64,
    /// The driver knows what came of it.
    pub(super) known: bool,
    /// Ends it between calls.
    pub(super) cancel: CancellationToken,
    /// Cancelled once it is done.
    pub(super) done: CancellationToken,
}

/// What every driver works with.
#[derive(Debug)]
pub(super) struct DriverParts {
    pub(super) ports: Arc<Ports>,
    pub(super) slots: Arc<Slots>,
    pub(super) writer: Writer,
    pub(super) archive: Arc<ArchiveQueue>,
}

/// What the driver of a run knows beside its machine.
pub(super) struct Driving {
    pub(super) parts: Arc<DriverParts>,
    pub(super) lease: Lease,
    pub(super) deadline: LeaseDeadline,
    /// Makes the driver end.
    pub(super) cancelled: CancellationToken,
    pub(super) driver: Inbox,
    /// Starts of current attempts, so that a stop can wait for them: a start that lands after its
    /// stop would run for ever.
    pub(super) starts: HashMap<ExecutionId, Starting>,
    /// How many starts there were.
    pub(super) serial: u64,
    /// Ends that were seen while the start was under way. They count once it is done, see
    /// [`Self::timely`].
    held: HashMap<ExecutionId, Observation>,
    /// Executions that were seen running, and when.
    seen_running: Vec<(ExecutionId, Timestamp, ExecutionTimes)>,
    /// The run cannot be loaded, and the lease is held.
    unreadable: bool,
}

impl Driving {
    pub(super) fn new(
        parts: Arc<DriverParts>,
        lease: Lease,
        deadline: LeaseDeadline,
        cancelled: CancellationToken,
        driver: Inbox,
    ) -> Self {
        Self {
            parts,
            lease,
            deadline,
            cancelled,
            driver,
            starts: HashMap::new(),
            serial: 0,
            held: HashMap::new(),
            seen_running: Vec::new(),
            unreadable: false,
        }
    }

    async fn load(&mut self) -> Option<FirstStep> {
        if self.cancelled.is_cancelled() {
            return None;
        }

        let (key, Ports { journal, scheduler, .. }) = (&self.lease.run, &*self.parts.ports);
        let loaded = retry_until(("load", key), self.cancelled.cancelled(), || async {
            match journal.load(key).await {
                Ok(snapshot) => ControlFlow::Break(Ok(snapshot)),
                Err(error) if error.is_retryable() => {
                    tracing::warn!(
                        run = %key, error = %crate::chain(&error),
                        "cannot load the run yet, will retry"
                    );
                    ControlFlow::Continue(())
                }
                Err(error) => ControlFlow::Break(Err(error)),
            }
        });

        match loaded.await? {
            Ok(snapshot) => {
                let found = FirstStep::from_snapshot(snapshot, facts(&**scheduler));
                self.forget_ended(&found.machine);
                Some(found)
            }
            Err(error) => {
                tracing::error!(run = %key, error = %crate::chain(&error), "cannot load the run");
                self.unreadable = true;
                None
            }
        }
    }

    /// Attempts may have ended by a commit whose answer was an error: their slots are free.
    fn forget_ended(&mut self, machine: &Machine) {
        self.parts.slots.release_run(&self.lease.run, |id| is_current(machine, id));
        self.held.retain(|id, _| is_current(machine, id));
        self.starts.retain(|id, start| is_current(machine, id) || !start.done.is_cancelled());
    }

    /// Begins with the effects of a first decision that is committed, or makes that decision.
    async fn work(
        &mut self,
        machine: &mut Machine,
        committed: Option<Vec<Effect>>,
        inbox: &mut mpsc::Receiver<Box<Message>>,
    ) -> Stopped {
        let first = match committed {
            Some(effects) => Decision { effects, ..Decision::default() },
            None => machine.step(self.parts.ports.clock.now(), Input::Claimed),
        };

        if let Err(stopped) = self.carry_out(machine, first).await {
            return stopped;
        }

        let mut batch = Vec::new();
        while !machine.run().state.is_complete() {
            let clock = &self.parts.ports.clock;
            let due = at(machine.next_deadline().map(|at| clock.instant(at)));
            let held_since = self.seen_running.first().map(|(_, seen, _)| *seen);
            let held_long = at(held_since.map(|seen| clock.instant(seen.after(RUNNING_DELAY))));

            tokio::select! {
                biased;
                () = self.cancelled.cancelled() => return Stopped::LeaseLost,
                count = inbox.recv_many(&mut batch, MAX_BATCH) => if count == 0 {
                    return Stopped::LeaseLost;
                },
                () = due => batch.push(Box::new(Message::Input(Input::Tick))),
                () = held_long => {}
            }

            if !batch.is_empty() && self.hold_running(machine, &mut batch) {
                continue;
            }

            let mut decision = Decision::default();
            self.handle_running(machine, &mut decision);
            if let Err(stopped) = self.confirm_lease(machine, &batch).await {
                return stopped;
            }

            let reload = batch.iter().any(|message| matches!(**message, Message::Reload));
            for message in batch.drain(..) {
                self.handle(machine, *message, &mut decision);
            }

            if let Err(stopped) = self.carry_out(machine, decision).await {
                return stopped;
            }

            if reload && !machine.run().state.is_complete() {
                return Stopped::Reload;
            }
        }

        Stopped::Complete
    }

    /// Holds `Running` reports back. Returns whether the messages said nothing else, but that starts
    /// are done: if the execution ends within a moment, or anything else happens, one commit holds
    /// both.
    #[expect(clippy::vec_box, reason = "it holds what the queue does")]
    fn hold_running(&mut self, machine: &mut Machine, batch: &mut Vec<Box<Message>>) -> bool {
        let now = self.parts.ports.clock.now();
        batch.retain(|message| match message.as_ref() {
            Message::Observed(id, Observation { state: ExecutionState::Running, times }) => {
                self.seen_running.push((id.clone(), now, *times));
                false
            }
            _ => true,
        });

        let changes_nothing = |message: &Message| match message {
            Message::StartFinished(StartFinished { id, refused, .. }) => {
                refused.is_none() && !self.held.contains_key(id)
            }
            _ => false,
        };
        if !batch.iter().all(|message| changes_nothing(message)) {
            return false;
        }

        for message in batch.drain(..) {
            self.handle(machine, *message, &mut Decision::default());
        }

        true
    }

    fn handle_running(&mut self, machine: &mut Machine, decision: &mut Decision) {
        for (id, seen, times) in std::mem::take(&mut self.seen_running) {
            let input = Input::Observed(
                id.task,
                id.attempt,
                Observation { state: ExecutionState::Running, times },
            );
            decision.append(machine.step(seen, input));
        }
    }

    fn handle(&mut self, machine: &mut Machine, message: Message, decision: &mut Decision) {
        match message {
            Message::Input(input) => {
                self.step(machine, input, decision);
            }
            Message::Observed(id, found) => {
                if let Some(found) = self.timely(&id, found, 0) {
                    self.step(machine, Input::Observed(id.task, id.attempt, found), decision);
                }
            }
            Message::Answered(id, found, asked) => {
                if let Some(found) = self.timely(&id, found, asked.starts) {
                    self.step(
                        machine,
                        Input::Answered(id.task, id.attempt, found, asked.at),
                        decision,
                    );
                }
            }
            Message::StartFinished(start) => self.on_start_finished(machine, start, decision),
            Message::LeaseExtended(_) | Message::Reload => {}
            Message::Reconcile => {
                let active = machine.tasks().iter().filter(|task| task.state.is_active());
                let missed = active.map(|task| Effect::Observe(task.task.clone(), task.attempt));
                decision.effects.extend(missed.collect::<Vec<_>>());
            }
        }
    }

    /// Where a renewal did not say for certain that this lease was still held, a commit does: it is
    /// fenced if another server has taken the lease.
    async fn confirm_lease(
        &self,
        machine: &Machine,
        batch: &[Box<Message>],
    ) -> Result<(), Stopped> {
        let extended = batch.iter().filter_map(|message| match message.as_ref() {
            Message::LeaseExtended(until) => Some(*until),
            _ => None,
        });
        let Some(until) = extended.max() else { return Ok(()) };
        self.commit(machine, Decision::default()).await?;
        self.deadline.extend(until);
        Ok(())
    }

    /// A start is done: an end that was held back for it counts now.
    fn on_start_finished(
        &mut self,
        machine: &mut Machine,
        StartFinished { id, serial, refused }: StartFinished,
        decision: &mut Decision,
    ) {
        // If it was repeated since, the later one sends its own.
        let Some(start) = self.starts.get_mut(&id).filter(|start| start.serial == serial) else {
            return;
        };

        start.known = true;
        let end = match (self.held.remove(&id), refused) {
            (Some(found), _) => Some(Input::Observed(id.task.clone(), id.attempt, found)),
            (None, Some(reason)) => Some(Input::Refused(id.task.clone(), id.attempt, reason)),
            (None, None) => None,
        };

        if let Some(end) = end {
            self.step(machine, end, decision);
        }

        if !is_current(machine, &id) {
            self.parts.slots.release(&id);
        }
    }

    fn step(&self, machine: &mut Machine, input: Input, decision: &mut Decision) {
        decision.append(machine.step(self.parts.ports.clock.now(), input));
    }

    /// What was found of an execution, unless it has to wait for the end of its start, or says
    /// nothing.
    fn timely(&mut self, id: &ExecutionId, found: Observation, starts: u64) -> Option<Observation> {
        let Some(start) = self.starts.get(id) else { return Some(found) };

        // Without this, a question that overtakes its start would be answered "not found", and the
        // execution would count as lost while it is being started.
        if found.state == ExecutionState::NotFound {
            return (start.known && start.serial <= starts).then_some(found);
        }

        // Without this, a start whose call is still under way could land after its execution was
        // archived and removed, and run it a second time. A start that has reported is done, though
        // its task may not have come to its last line yet.
        if found.state.is_final() && !start.known && !start.done.is_cancelled() {
            start.cancel.cancel();
            self.held.insert(id.clone(), found);
            return None;
        }
        Some(found)
    }

    async fn carry_out(
        &mut self,
        machine: &Machine,
        mut decision: Decision,
    ) -> Result<(), Stopped> {
        let effects = std::mem::take(&mut decision.effects);
        if !decision.commits_nothing() {
            self.commit(machine, decision).await?;
        }
        for effect in effects {
            self.act(machine, effect);
        }
        Ok(())
    }

    async fn commit(&self, machine: &Machine, decision: Decision) -> Result<(), Stopped> {
        let (commit, _) = decision.into_commit(self.lease.clone());
        for piece in split_commit(commit, self.parts.ports.config.max_changes) {
            let counts = EngineMetrics::counts(&piece);
            self.commit_piece(piece).await?;
            self.parts.ports.config.metrics.committed(machine.run(), counts);
        }
        Ok(())
    }

    async fn commit_piece(&self, piece: Commit) -> Result<(), Stopped> {
        match self.parts.writer.commit(piece).await {
            Ok(Committed::Done) => Ok(()),
            Ok(Committed::Conflict) => Err(Stopped::Reload),
            Ok(Committed::Fenced) => {
                self.parts.ports.config.metrics.lease_lost();
                Err(Stopped::LeaseLost)
            }
            Err(NotCommitted::Stopped) => Err(Stopped::LeaseLost),
            Err(NotCommitted::Refused(error)) => {
                tracing::error!(
                    run = %self.lease.run, error = %error.chain(),
                    "the journal refused a commit"
                );
                Err(Stopped::Reload)
            }
        }
    }
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Whether the execution is its task's current attempt and has not ended.
pub(super) fn is_current(machine: &Machine, id: &ExecutionId) -> bool {
    machine
        .task(&id.task)
        .is_some_and(|(task, _)| task.attempt == id.attempt && task.state.is_active())
}
