//! What happened to a task, by the events that Nomad keeps of it: the last ten, oldest first.

use std::time::Duration;

use gofer_core::Timestamp;
use gofer_core::scheduler::{ExecutionState, ExecutionTimes};

use crate::http::types::{Alloc, TaskEvent, TaskState};
use crate::job::guard;
use crate::job::names::MAIN;
use crate::state::marks::Marks;

const STARTED: &str = "Started";
const TERMINATED: &str = "Terminated";
/// After these the client starts the program again, in the same allocation: its agent did not find
/// the process again, or somebody asked for it.
const AGAIN: [&str; 2] = ["Failed Restoring Task", "Restart Signaled"];

/// The events of an allocation's main task.
#[derive(Debug, Clone, Copy)]
pub(crate) struct History<'a> {
    task: Option<&'a TaskState>,
    events: &'a [TaskEvent],
}

impl<'a> History<'a> {
    pub(crate) fn of(alloc: &'a Alloc) -> Self {
        let task = alloc.task_states.get(MAIN);
        Self { task, events: task.map_or(&[], |task| task.events.as_slice()) }
    }

    pub(crate) fn events(self) -> &'a [TaskEvent] {
        self.events
    }

    /// Whether the program ran at all.
    pub(crate) fn has_started(self) -> bool {
        self.events.iter().any(|event| event.kind == STARTED)
    }

    /// Whether the program was started a second time, or is about to be.
    pub(crate) fn begins_again(self) -> bool {
        self.second_start().is_some()
    }

    /// Where the second start begins to show.
    fn second_start(self) -> Option<usize> {
        let announced = self.events.iter().position(|event| AGAIN.contains(&event.kind.as_str()));
        let mut starts = self.events.iter().enumerate().filter(|(_, event)| event.kind == STARTED);
        let second = starts.nth(1).map(|(at, _)| at);
        announced.into_iter().chain(second).min()
    }

    /// What the first start came to, alone. `None`: that is not known, or the program ran twice.
    pub(crate) fn once(self, marks: Marks) -> Option<Self> {
        let Some(at) = self.second_start() else { return Some(self) };
        let (first, second) = self.events.split_at(at);
        let was_kept_out = marks.guarded
            && second.iter().any(|event| exit_code(event) == Some(guard::BEGUN_BEFORE));
        let ran_twice = second.iter().any(|event| event.kind == STARTED) && !was_kept_out;
        let has_ended = first.iter().any(|event| event.kind == TERMINATED);
        (has_ended && !ran_twice).then_some(Self { events: first, ..self })
    }

    /// Where the end of the process is told.
    pub(crate) fn exit(self) -> Option<usize> {
        self.events.iter().rposition(|event| event.kind == TERMINATED)
    }

    /// The first of these events that came before the process ended.
    pub(crate) fn before_exit(self, kinds: &[&str]) -> Option<&'a TaskEvent> {
        let before = &self.events[..self.exit().unwrap_or(self.events.len())];
        before.iter().find(|event| kinds.contains(&event.kind.as_str()))
    }

    /// When an execution in this state ran.
    pub(crate) fn times_of(self, state: &ExecutionState, marks: Marks) -> ExecutionTimes {
        match state {
            ExecutionState::Running => {
                ExecutionTimes { ended_at: None, ran: None, ..self.times(marks) }
            }
            ExecutionState::Exited { .. } | ExecutionState::Stopped => self.times(marks),
            _ => ExecutionTimes::UNKNOWN,
        }
    }

    /// When the process ran. Of one that was started twice, the first time.
    pub(crate) fn times(self, marks: Marks) -> ExecutionTimes {
        let at = |kind: &str| {
            self.events
                .iter()
                .find(|event| event.kind == kind)
                .map(|event| event.time)
                .filter(|time| *time > 0)
        };

        let told = |text: Option<&str>| text.and_then(nanos_of);
        let started =
            at(STARTED).or_else(|| told(self.task.and_then(|task| task.started_at.as_deref())));
        let ended = match self.once(marks) {
            Some(once) => {
                let exit = once.exit().map(|at| once.events[at].time).filter(|time| *time > 0);
                exit.or_else(|| {
                    told(self.task.and_then(|task| task.finished_at.as_deref()))
                        .filter(|_| started.is_some())
                })
            }
            None => None,
        };

        let ran = started.zip(ended).map(|(started, ended)| {
            // Clocks are set back.
            Duration::from_nanos(u64::try_from(ended.saturating_sub(started)).unwrap_or(0))
        });

        let timestamp = |nanos: i64| Timestamp(nanos / 1_000);
        ExecutionTimes { started_at: started.map(timestamp), ended_at: ended.map(timestamp), ran }
    }
}

/// The exit code that an event tells.
fn exit_code(event: &TaskEvent) -> Option<i32> {
    event.details.get("exit_code").filter(|_| event.kind == TERMINATED)?.parse().ok()
}

/// Nanoseconds since 1970 of a time as Nomad writes it, which is always UTC.
fn nanos_of(text: &str) -> Option<i64> {
    let time = humantime::parse_rfc3339(text).ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
    i64::try_from(time.as_nanos()).ok()
}

#[cfg(test)]
mod tests;
