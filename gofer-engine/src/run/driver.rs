//! Drives one run: feeds its machine, commits what follows, then acts. Holds the run's lease while
//! it lives.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use gofer_core::journal::{Commit, Committed, Lease};
use gofer_core::run::TaskState;
use gofer_core::scheduler::{ExecutionState, ExecutionTimes, Observation};
use gofer_core::{Attempt, ExecutionId, TaskId, Timestamp};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::commit::split as pieces;
use crate::commit::writer::NotCommitted;
use crate::engine::Shared;
use crate::execution::start::{self as execution, Start};
use crate::inbox::{Inbox, Message, StartOver};
use crate::lease::deadline::Freshness;
use crate::logs::archiver::Finished;
use crate::logs::read::Origin;
use crate::retry_loop::Backoff;
use crate::rules::machine::{Decision, Effect, Input, Machine};
use crate::run::first_step::{self, Begun};

/// Messages taken into one commit.
const MAX_BATCH: usize = 64;
/// How long the news that something runs may wait for company: too short for people, long enough
/// for the shortest tasks.
const SETTLE: Duration = Duration::from_millis(5);

/// Why a driver stops looking at its machine.
enum Stopped {
    /// The run is complete.
    Complete,
    /// The stored run is not what the machine thought: load it again.
    Reload,
    /// Somebody else holds the lease, or the server is going down.
    Gone,
}

/// Drives the run until it is complete, the lease is lost, or `gone` says so. When this returns,
/// nothing of it is under way any more: no call that starts an execution can still arrive at the
/// scheduler. Returns `false` for a run that is held and cannot be loaded.
pub(crate) async fn drive(
    mut driving: Driving,
    known: Option<Begun>,
    mut inbox: mpsc::Receiver<Box<Message>>,
) -> bool {
    let mut backoff = Backoff::new(&driving.lease.run);
    let mut found = match known {
        Some(known) => Some(known),
        None => driving.load().await,
    };

    while let Some(Begun { mut machine, effects }) = found {
        match driving.work(&mut machine, effects, &mut inbox).await {
            Stopped::Complete => break,
            Stopped::Gone => {
                // Attempts may have ended by a last commit whose answer was an error.
                driving.shared.archive.look();
                break;
            }
            Stopped::Reload => {
                driving.shared.archive.look();
                backoff.wait().await;
            }
        }
        found = driving.load().await;
    }

    drop(inbox);
    driving.gone.cancel();
    for start in driving.starts.values() {
        start.over.cancelled().await;
    }

    !driving.unreadable
}

/// The start of a current attempt.
struct Starting {
    serial: u64,
    /// The driver knows what came of it.
    known: bool,
    /// Makes it give up, between calls.
    give_up: CancellationToken,
    /// Cancelled once it is over.
    over: CancellationToken,
}

/// All that the driver of a run works with.
pub(crate) struct Driving {
    shared: Arc<Shared>,
    lease: Lease,
    freshness: Freshness,
    gone: CancellationToken,
    driver: Inbox,
    /// Starts of current attempts, so that a stop can wait for them: one that lands after its stop
    /// would run for ever.
    starts: HashMap<ExecutionId, Starting>,
    /// How many starts there were.
    serial: u64,
    /// Ends that were seen while the start was under way. They count once it is over: a start that
    /// lands after its execution was archived and removed would start it a second time.
    held: HashMap<ExecutionId, Observation>,
    /// Executions that were seen running, and when.
    seen_running: Vec<(ExecutionId, Timestamp, ExecutionTimes)>,
    /// The run cannot be loaded, and the lease is held.
    unreadable: bool,
}

impl Driving {
    pub(crate) fn new(
        shared: Arc<Shared>,
        lease: Lease,
        freshness: Freshness,
        gone: CancellationToken,
        driver: Inbox,
    ) -> Self {
        Self {
            shared,
            lease,
            freshness,
            gone,
            driver,
            starts: HashMap::new(),
            serial: 0,
            held: HashMap::new(),
            seen_running: Vec::new(),
            unreadable: false,
        }
    }

    async fn load(&mut self) -> Option<Begun> {
        let mut backoff = Backoff::new(("load", &self.lease.run));
        while !self.gone.is_cancelled() {
            match self.shared.journal.load(&self.lease.run).await {
                Ok(snapshot) => {
                    let found = Begun::not(snapshot, first_step::facts(&*self.shared.scheduler));
                    self.forget_ended(&found.machine);
                    return Some(found);
                }
                Err(error) if error.is_retryable() => {
                    tracing::warn!(run = %self.lease.run, error = %crate::chain(&error), "cannot load the run yet, will retry");
                    backoff.wait().await;
                }
                Err(error) => {
                    tracing::error!(run = %self.lease.run, error = %crate::chain(&error), "cannot load the run");
                    self.unreadable = true;
                    return None;
                }
            }
        }

        None
    }

    /// Attempts may have ended by a commit whose answer was an error: their places are free.
    fn forget_ended(&mut self, machine: &Machine) {
        self.shared.places.release_run(&self.lease.run, |id| is_current(machine, id));
        self.held.retain(|id, _| is_current(machine, id));
        self.starts.retain(|id, start| is_current(machine, id) || !start.over.is_cancelled());
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
            None => machine.step(self.shared.clock.now(), Input::Claimed),
        };

        if let Err(stopped) = self.carry_out(machine, first).await {
            return stopped;
        }

        let mut batch = Vec::new();
        while !machine.run().state.is_complete() {
            let clock = &self.shared.clock;
            let due = at(machine.next_deadline().map(|at| clock.instant(at)));
            let settled =
                at(self.seen_running.first().map(|(_, seen, _)| clock.instant(seen.after(SETTLE))));
            tokio::select! {
                biased;
                () = self.gone.cancelled() => return Stopped::Gone,
                count = inbox.recv_many(&mut batch, MAX_BATCH) => if count == 0 { return Stopped::Gone },
                () = due => batch.push(Box::new(Message::Input(Input::Tick))),
                () = settled => {}
            }

            if !batch.is_empty() && self.only_running(machine, &mut batch) {
                continue;
            }

            let mut decision = Decision::default();
            self.take_running(machine, &mut decision);
            if let Err(stopped) = self.make_sure(&batch).await {
                return stopped;
            }

            let reload = batch.iter().any(|message| matches!(**message, Message::Reload));
            for message in batch.drain(..) {
                self.take(machine, *message, &mut decision);
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

    /// Whether the messages only say that something runs, or that a start is over. That waits a
    /// moment: if it ends meanwhile, or something else happens, it is committed together with it.
    #[expect(clippy::vec_box, reason = "it holds what the queue does")]
    fn only_running(&mut self, machine: &mut Machine, batch: &mut Vec<Box<Message>>) -> bool {
        let now = self.shared.clock.now();
        batch.retain(|message| match message.as_ref() {
            Message::Observed(id, Observation { state: ExecutionState::Running, times }) => {
                self.seen_running.push((id.clone(), now, *times));
                false
            }
            _ => true,
        });

        let says_nothing =
            |over: &StartOver| over.refused.is_none() && !self.held.contains_key(&over.id);
        if !batch.iter().all(
            |message| matches!(message.as_ref(), Message::StartOver(over) if says_nothing(over)),
        ) {
            return false;
        }

        for message in batch.drain(..) {
            self.take(machine, *message, &mut Decision::default());
        }

        true
    }

    fn take_running(&mut self, machine: &mut Machine, decision: &mut Decision) {
        for (id, seen, times) in std::mem::take(&mut self.seen_running) {
            let input = Input::Observed(
                id.task,
                id.attempt,
                Observation { state: ExecutionState::Running, times },
            );
            add(decision, machine.step(seen, input));
        }
    }

    fn take(&mut self, machine: &mut Machine, message: Message, decision: &mut Decision) {
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
            Message::StartOver(over) => self.start_over(machine, over, decision),
            Message::Prolonged(_) | Message::Reload => {}
            Message::Reconcile => {
                let active = machine.tasks().iter().filter(|task| task.state.is_active());
                let missed = active.map(|task| Effect::Observe(task.task.clone(), task.attempt));
                decision.effects.extend(missed.collect::<Vec<_>>());
            }
        }
    }

    /// A lease that may have run out was prolonged, or somebody else has taken it: a commit tells.
    async fn make_sure(&self, batch: &[Box<Message>]) -> Result<(), Stopped> {
        let prolonged = batch.iter().filter_map(|message| match message.as_ref() {
            Message::Prolonged(until) => Some(*until),
            _ => None,
        });
        let Some(until) = prolonged.max() else { return Ok(()) };
        self.commit(Decision::default()).await?;
        self.freshness.prolong(until);
        Ok(())
    }

    fn start_over(&mut self, machine: &mut Machine, over: StartOver, decision: &mut Decision) {
        let StartOver { id, serial, refused } = over;
        // If it was repeated since, the later one finds out by itself.
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
            self.shared.places.release(&id);
        }
    }

    fn step(&self, machine: &mut Machine, input: Input, decision: &mut Decision) {
        add(decision, machine.step(self.shared.clock.now(), input));
    }

    /// What was found, unless it has to wait or says nothing.
    fn timely(&mut self, id: &ExecutionId, found: Observation, starts: u64) -> Option<Observation> {
        let Some(start) = self.starts.get(id) else { return Some(found) };
        if found.state == ExecutionState::NotFound {
            // Asked for before the start was over, it means nothing.
            return (start.known && start.serial <= starts).then_some(found);
        }
        // A start that has reported is over, though its task may not have come to its last line
        // yet.
        if found.state.is_final() && !start.known && !start.over.is_cancelled() {
            start.give_up.cancel();
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
            self.commit(decision).await?;
        }
        for effect in effects {
            self.act(machine, effect);
        }
        Ok(())
    }

    async fn commit(&self, decision: Decision) -> Result<(), Stopped> {
        let (commit, _) = decision.into_commit(self.lease.clone());
        for piece in pieces::of(commit, self.shared.config.max_changes) {
            self.commit_piece(piece).await?;
        }
        Ok(())
    }

    async fn commit_piece(&self, piece: Commit) -> Result<(), Stopped> {
        match self.shared.writer.commit(piece).await {
            Ok(Committed::Done) => Ok(()),
            Ok(Committed::Conflict) => Err(Stopped::Reload),
            Ok(Committed::Fenced) | Err(NotCommitted::Stopped) => Err(Stopped::Gone),
            Err(NotCommitted::Refused(error)) => {
                tracing::error!(run = %self.lease.run, error = %error.chain(), "the journal refused a commit");
                Err(Stopped::Reload)
            }
        }
    }

    fn act(&mut self, machine: &Machine, effect: Effect) {
        match effect {
            Effect::Start(task, attempt) => self.start(machine, &task, attempt, false),
            Effect::Restart(task, attempt) => self.start(machine, &task, attempt, true),
            Effect::Observe(task, attempt) => {
                let id = self.id(&task, attempt);
                if machine.task(&task).is_some_and(|(task, _)| task.state == TaskState::Running) {
                    self.shared.places.take(&id);
                }

                let (shared, driver) = (self.shared.clone(), self.driver.clone());
                let (starts, start_over) =
                    (self.serial, self.starts.get(&id).map(|start| start.over.clone()));
                tokio::spawn(async move {
                    // Asked before the start took effect and answered after it, "not found" would
                    // mean "lost".
                    if let Some(over) = start_over {
                        over.cancelled().await;
                    }
                    execution::observe(&shared, &id, starts, &driver).await;
                });
            }
            Effect::Confirm(task, attempt) => {
                let id = self.id(&task, attempt);
                let (shared, driver, starts) =
                    (self.shared.clone(), self.driver.clone(), self.serial);
                let waits_here =
                    self.starts.get(&id).is_some_and(|start| !start.over.is_cancelled());
                tokio::spawn(async move {
                    if waits_here {
                        execution::still_starting(&shared, &id, starts, &driver).await;
                    } else {
                        execution::observe(&shared, &id, starts, &driver).await;
                    }
                });
            }
            Effect::Stop(task, attempt, grace) => {
                let (shared, id, driver) =
                    (self.shared.clone(), self.id(&task, attempt), self.driver.clone());
                let starts = self.serial;
                let start_over = self.starts.get(&id).map(|start| {
                    start.give_up.cancel();
                    start.over.clone()
                });

                if start_over.is_none() {
                    self.shared.places.take(&id);
                }

                tokio::spawn(async move {
                    if let Some(over) = start_over {
                        over.cancelled().await;
                    }
                    execution::stop(&shared, &id, grace, starts, &driver).await;
                });
            }
            Effect::Archive(task, attempt) => {
                let id = self.id(&task, attempt);
                self.starts.remove(&id);
                self.shared.places.release(&id);
                let origin = Origin { spec: machine.spec().clone(), run: machine.run().clone() };
                self.shared.archive.add(Finished { id, origin, left_behind: false });
            }
        }
    }

    fn start(&mut self, machine: &Machine, task: &TaskId, attempt: Attempt, again: bool) {
        let id = self.id(task, attempt);
        if self.starts.get(&id).is_some_and(|start| !start.over.is_cancelled()) {
            return;
        }

        let give_up = self.gone.child_token();
        if again {
            // It may be in flight; if not, the place is given back.
            self.shared.places.take(&id);
        }

        self.serial += 1;
        let start = Start {
            serial: self.serial,
            shared: self.shared.clone(),
            id: id.clone(),
            spec: machine.spec().clone(),
            run: machine.run().clone(),
            driver: self.driver.clone(),
            freshness: self.freshness.clone(),
            give_up: give_up.clone(),
            forgotten: machine.may_be_forgotten(task),
        };

        let over = CancellationToken::new();
        let guard = over.clone().drop_guard();
        tokio::spawn(async move {
            let _over = guard;
            start.run(again).await;
        });

        self.starts.insert(id, Starting { serial: self.serial, known: false, give_up, over });
    }

    fn id(&self, task: &TaskId, attempt: Attempt) -> ExecutionId {
        ExecutionId { run: self.lease.run.clone(), task: task.clone(), attempt }
    }
}

/// One decision after another, committed together.
fn add(decision: &mut Decision, next: Decision) {
    decision.tasks.extend(next.tasks);
    decision.run = next.run.or(decision.run.take());
    decision.events.extend(next.events);
    decision.effects.extend(next.effects);
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Whether the execution is its task's current attempt and has not ended.
fn is_current(machine: &Machine, id: &ExecutionId) -> bool {
    machine
        .task(&id.task)
        .is_some_and(|(task, _)| task.attempt == id.attempt && task.state.is_active())
}
