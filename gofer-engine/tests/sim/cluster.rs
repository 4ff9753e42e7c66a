//! Where executions run: it lives outside of every server, in the world's time, and changes whenever somebody looks.

use std::collections::BTreeMap;
use std::time::Duration;

use gofer_core::ExecutionId;
use gofer_core::scheduler::{ExecutionState, LogStream, WatchEvent};

use crate::behaviour::{Behaviour, End};
use crate::world::MS;

/// What is known of an execution, also after it was removed.
#[derive(Debug, Clone)]
pub(crate) struct Execution {
    pub(crate) behaviour: Behaviour,
    pub(crate) state: ExecutionState,
    /// Who started it, as [`crate::link::Link::name`].
    pub(crate) by: String,
    pub(crate) ran_at: Option<i64>,
    pub(crate) ended_at: Option<i64>,
    /// When a stop was first asked for, and when it is to be killed.
    stop: Option<(i64, i64)>,
    pub(crate) removed: bool,
    pub(crate) output: Vec<(LogStream, Vec<u8>)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Timer {
    Run,
    End,
    /// It ended because it was asked to, or was killed.
    Stopped,
}

#[derive(Debug, Default)]
pub(crate) struct Cluster {
    pub(crate) executions: BTreeMap<ExecutionId, Execution>,
    timers: BTreeMap<(i64, u64), (ExecutionId, Timer)>,
    serial: u64,
    /// Every change there ever was, in order.
    pub(crate) changes: Vec<WatchEvent>,
    now: i64,
}

impl Cluster {
    /// Lets happen what is due.
    pub(crate) fn advance(&mut self, now: i64) {
        self.now = self.now.max(now);
        while let Some(entry) = self.timers.first_entry().filter(|entry| entry.key().0 <= self.now) {
            let ((at, _), (id, timer)) = entry.remove_entry();
            self.fire(at, &id, timer);
        }
    }

    /// When something happens next.
    pub(crate) fn next_due(&self) -> Option<i64> {
        self.timers.first_key_value().map(|((at, _), _)| *at)
    }

    /// Starts it; returns whether the name was used for the first time.
    pub(crate) fn start(&mut self, id: &ExecutionId, behaviour: Behaviour, by: &str) -> bool {
        let first = !self.executions.contains_key(id);
        let state = ExecutionState::Queued { reason: queue_reason(&behaviour) };
        self.after(behaviour.queue_ms, id, Timer::Run);
        let execution = Execution {
            behaviour,
            state: state.clone(),
            by: by.to_owned(),
            ran_at: None,
            ended_at: None,
            stop: None,
            removed: false,
            output: Vec::new(),
        };
        self.executions.insert(id.clone(), execution);
        self.changes.push(WatchEvent { id: id.clone(), state });
        self.advance(self.now);
        first
    }

    pub(crate) fn known(&self, id: &ExecutionId) -> Option<&Execution> {
        self.executions.get(id).filter(|execution| !execution.removed)
    }

    pub(crate) fn stop(&mut self, id: &ExecutionId, grace: Duration) {
        let now = self.now;
        let Some(execution) = self.executions.get_mut(id).filter(|execution| !execution.removed) else { return };
        if execution.state.is_final() {
            return;
        }
        let grace_ms = u64::try_from(grace.as_millis()).expect("short");
        let behaviour = &execution.behaviour;
        let asked = execution.stop.map_or(now, |(asked, _)| asked);
        let mut gone = now + micros(grace_ms + behaviour.kill_ms);
        if let Some(term_ms) = behaviour.term_ms {
            gone = gone.min(asked + micros(term_ms)).max(now);
        }
        if execution.stop.is_some_and(|(_, earlier)| earlier <= gone) {
            return;
        }
        execution.stop = Some((asked, gone));
        self.at(gone, id, Timer::Stopped);
        self.advance(now);
    }

    /// Forgets it, if it has ended; returns whether it may be forgotten.
    pub(crate) fn remove(&mut self, id: &ExecutionId) -> bool {
        let Some(execution) = self.executions.get_mut(id) else { return true };
        execution.removed |= execution.state.is_final();
        execution.removed
    }

    /// Executions that have not ended.
    pub(crate) fn alive(&self) -> impl Iterator<Item = (&ExecutionId, &Execution)> {
        self.executions.iter().filter(|(_, execution)| !execution.removed && !execution.state.is_final())
    }

    fn after(&mut self, ms: u64, id: &ExecutionId, timer: Timer) {
        self.at(self.now + micros(ms), id, timer);
    }

    fn at(&mut self, at: i64, id: &ExecutionId, timer: Timer) {
        self.serial += 1;
        self.timers.insert((at, self.serial), (id.clone(), timer));
    }

    fn fire(&mut self, at: i64, id: &ExecutionId, timer: Timer) {
        let Some(execution) = self.executions.get_mut(id) else { return };
        if execution.state.is_final() {
            return;
        }
        let state = match timer {
            Timer::Run if execution.behaviour.runs() => {
                execution.ran_at = Some(at);
                execution.output = execution.behaviour.output.clone();
                let run_ms = execution.behaviour.run_ms;
                self.at(at + micros(run_ms), id, Timer::End);
                ExecutionState::Running
            }
            Timer::Run => execution.behaviour.last_state(),
            // What was asked to stop has stopped, whatever its exit code; a lost node answers nothing.
            Timer::End if execution.stop.is_some() && execution.behaviour.end != (End::Lost { running: true }) => {
                ExecutionState::Stopped
            }
            Timer::End => execution.behaviour.last_state(),
            Timer::Stopped => ExecutionState::Stopped,
        };
        let execution = self.executions.get_mut(id).expect("it is there");
        execution.ended_at = state.is_final().then_some(at);
        execution.state = state.clone();
        self.changes.push(WatchEvent { id: id.clone(), state });
    }
}

fn micros(ms: u64) -> i64 {
    i64::try_from(ms).expect("short") * MS
}

fn queue_reason(behaviour: &Behaviour) -> String {
    if behaviour.queue_ms > 1_000 { "no node has room".to_owned() } else { String::new() }
}
