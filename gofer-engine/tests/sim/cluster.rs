//! Where executions run: it lives outside of every server, in the world's time, and changes
//! whenever somebody looks.

use std::collections::BTreeMap;
use std::time::Duration;

use gofer_core::scheduler::{
    ExecutionState, ExecutionTimes, LogStream, Observation, ReportedEnd, TIMEOUT_GRACE, WatchEvent,
};
use gofer_core::{ExecutionId, Timestamp};

use crate::behaviour::{Behaviour, End, Reports};
use crate::world::MS;

/// What is known of an execution, also after it was removed.
#[derive(Debug, Clone)]
pub(crate) struct Execution {
    pub(crate) behaviour: Behaviour,
    pub(crate) state: ExecutionState,
    /// Who started it, as [`crate::link::Link::name`].
    pub(crate) by: String,
    pub(crate) ran_at: Option<i64>,
    /// The end of its process, of which the scheduler may learn later.
    pub(crate) ended_at: Option<i64>,
    /// By how much its node's clock is wrong.
    pub(crate) skew: i64,
    /// The scheduler stops it itself after it ran for this long.
    deadline_ms: Option<u64>,
    /// When a stop was first asked for, and when it is to be killed.
    stop: Option<(i64, i64)>,
    pub(crate) removed: bool,
    pub(crate) output: Vec<(LogStream, Vec<u8>)>,
}

impl Execution {
    /// What the scheduler says.
    pub(crate) fn observed(&self) -> Observation {
        let known = if self.state.is_final() {
            self.times()
        } else {
            ExecutionTimes { ended_at: None, ran: None, ..self.times() }
        };
        Observation {
            state: self.state.clone(),
            times: if self.state == ExecutionState::Lost { ExecutionTimes::UNKNOWN } else { known },
        }
    }

    /// What its node knows.
    fn times(&self) -> ExecutionTimes {
        let by_its_clock = |at: Option<i64>| at.map(|at| Timestamp(at + self.skew));
        ExecutionTimes {
            started_at: by_its_clock(self.ran_at),
            ended_at: by_its_clock(self.ended_at),
            ran: self.ran(),
        }
    }

    /// How long its process ran.
    pub(crate) fn ran(&self) -> Option<Duration> {
        Some(Timestamp(self.ended_at?).since(Timestamp(self.ran_at?)))
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stop.is_some()
    }
}

/// Where an execution runs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Node {
    pub(crate) skew: i64,
    pub(crate) deadline_ms: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Timer {
    Run,
    End,
    /// The scheduler learns that it ended.
    Known,
    /// It ended because it was asked to, or was killed.
    Stopped,
    /// It has run for as long as it may.
    Due,
}

#[derive(Debug, Default)]
pub(crate) struct Cluster {
    pub(crate) executions: BTreeMap<ExecutionId, Execution>,
    timers: BTreeMap<(i64, u64), (ExecutionId, Timer)>,
    serial: u64,
    /// Every change there ever was, in order.
    pub(crate) changes: Vec<WatchEvent>,
    /// Ends that executions are about to tell, by when.
    reports: BTreeMap<(i64, u64), (ExecutionId, ReportedEnd)>,
    now: i64,
}

impl Cluster {
    /// Lets happen what is due.
    pub(crate) fn advance(&mut self, now: i64) {
        self.now = self.now.max(now);
        while let Some(entry) = self.timers.first_entry().filter(|entry| entry.key().0 <= self.now)
        {
            let ((at, _), (id, timer)) = entry.remove_entry();
            self.fire(at, &id, timer);
        }
    }

    /// When something happens next.
    pub(crate) fn next_due(&self) -> Option<i64> {
        self.timers.first_key_value().map(|((at, _), _)| *at)
    }

    /// When an execution tells its end next.
    pub(crate) fn next_report(&self) -> Option<i64> {
        self.reports.first_key_value().map(|((at, _), _)| *at)
    }

    /// What executions tell by now.
    pub(crate) fn take_reports(&mut self, now: i64) -> Vec<(ExecutionId, ReportedEnd)> {
        let later = self.reports.split_off(&(now + 1, 0));
        std::mem::replace(&mut self.reports, later).into_values().collect()
    }

    /// Starts it; returns whether the name was used for the first time.
    pub(crate) fn start(
        &mut self,
        id: &ExecutionId,
        behaviour: Behaviour,
        node: Node,
        by: &str,
    ) -> bool {
        let first = !self.executions.contains_key(id);
        let state = ExecutionState::Queued { reason: queue_reason(&behaviour) };
        self.after(behaviour.queue_ms, id, Timer::Run);
        let execution = Execution {
            behaviour,
            state,
            by: by.to_owned(),
            ran_at: None,
            ended_at: None,
            skew: node.skew,
            deadline_ms: node.deadline_ms,
            stop: None,
            removed: false,
            output: Vec::new(),
        };

        self.executions.insert(id.clone(), execution);
        self.tell(id);
        self.advance(self.now);

        first
    }

    pub(crate) fn known(&self, id: &ExecutionId) -> Option<&Execution> {
        self.executions.get(id).filter(|execution| !execution.removed)
    }

    pub(crate) fn stop(&mut self, id: &ExecutionId, grace: Duration) {
        let now = self.now;
        self.stop_at(now, id, grace);
        self.advance(now);
    }

    fn stop_at(&mut self, now: i64, id: &ExecutionId, grace: Duration) {
        let Some(execution) = self.executions.get_mut(id).filter(|execution| !execution.removed)
        else {
            return;
        };

        // What has ended cannot be asked to any more, though the scheduler may not know of it yet.
        if execution.state.is_final() || execution.ended_at.is_some() {
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
    }

    /// Forgets it, if it has ended; returns whether it may be forgotten.
    pub(crate) fn remove(&mut self, id: &ExecutionId) -> bool {
        let Some(execution) = self.executions.get_mut(id) else { return true };
        execution.removed |= execution.state.is_final();
        execution.removed
    }

    /// Executions that have not ended.
    pub(crate) fn alive(&self) -> impl Iterator<Item = (&ExecutionId, &Execution)> {
        self.executions
            .iter()
            .filter(|(_, execution)| !execution.removed && execution.ended_at.is_none())
    }

    fn tell(&mut self, id: &ExecutionId) {
        self.changes.push(WatchEvent::new(id.clone(), self.executions[id].observed()));
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

        let behaviour = &execution.behaviour;
        let (run_ms, reports) = (behaviour.run_ms, behaviour.reports);
        let state = match (timer, reports) {
            (Timer::Run, _) if behaviour.runs() => {
                execution.ran_at = Some(at);
                execution.output = behaviour.output.clone();
                if reports.is_some() {
                    execution.output.pop();
                }

                if let Some(deadline_ms) = execution.deadline_ms {
                    self.at(at + micros(deadline_ms), id, Timer::Due);
                }

                self.at(at + micros(run_ms), id, Timer::End);
                ExecutionState::Running
            }
            (Timer::Run, _) => behaviour.last_state(),
            (Timer::Due, _) => return self.stop_at(at, id, TIMEOUT_GRACE),
            (Timer::End, Some(reports)) if execution.stop.is_none() => {
                execution.ended_at = Some(at);
                return self.exits(at, id, reports);
            }
            // What was asked to stop has stopped, whatever its exit code; a lost node answers
            // nothing.
            (Timer::End | Timer::Known, _)
                if execution.stop.is_some() && behaviour.end != (End::Lost { running: true }) =>
            {
                ExecutionState::Stopped
            }
            (Timer::End | Timer::Known, _) => behaviour.last_state(),
            (Timer::Stopped, _) => ExecutionState::Stopped,
        };

        let execution = self.executions.get_mut(id).expect("it is there");
        if state.is_final() {
            execution.ended_at.get_or_insert(at);
            if execution.ran_at.is_some() {
                execution.output = execution.behaviour.output.clone();
            }
        }

        execution.state = state;
        self.tell(id);
    }

    /// Its process is over, and only itself can tell.
    fn exits(&mut self, at: i64, id: &ExecutionId, reports: Reports) {
        self.at(at + micros(reports.lag_ms), id, Timer::Known);
        let ExecutionState::Exited { code, signal, .. } =
            self.executions[id].behaviour.last_state()
        else {
            return;
        };
        if let Some(after_ms) = reports.after_ms {
            self.serial += 1;
            let end = ReportedEnd { code, signal, times: self.executions[id].times() };
            self.reports.insert((at + micros(after_ms), self.serial), (id.clone(), end));
        }
    }
}

fn micros(ms: u64) -> i64 {
    i64::try_from(ms).expect("short") * MS
}

fn queue_reason(behaviour: &Behaviour) -> String {
    if behaviour.queue_ms > 1_000 { "no node has room".to_owned() } else { String::new() }
}
