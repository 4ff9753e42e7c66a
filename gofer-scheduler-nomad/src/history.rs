//! What happened to a task, by the events that Nomad keeps of it: the last ten, oldest first.

use std::time::Duration;

use gofer_core::Timestamp;

use crate::answers::{Alloc, TaskEvent, TaskState};
use crate::guard;
use crate::jobspec::MAIN;
use crate::state::Marks;

const STARTED: &str = "Started";
const TERMINATED: &str = "Terminated";
/// After these the client starts the program again, in the same allocation: its agent did not find the process again, or
/// somebody asked for it.
const AGAIN: [&str; 2] = ["Failed Restoring Task", "Restart Signaled"];

/// The events of an allocation's main task.
#[derive(Debug, Clone, Copy)]
pub(crate) struct History<'a> {
    task: Option<&'a TaskState>,
    events: &'a [TaskEvent],
}

/// When the execution's process ran, by its node's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Times {
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) ended_at: Option<Timestamp>,
    pub(crate) ran: Option<Duration>,
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
        let was_kept_out = marks.guarded && second.iter().any(|event| exit_code(event) == Some(guard::BEGUN_BEFORE));
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

    /// When the process ran. Of one that was started twice, the first time.
    #[cfg_attr(not(test), expect(dead_code, reason = "a state of the scheduler's contract does not carry times yet"))]
    pub(crate) fn times(self, marks: Marks) -> Times {
        let at = |kind: &str| self.events.iter().find(|event| event.kind == kind).map(|event| event.time);
        let told = |text: Option<&str>| text.and_then(nanos_of);
        let started = at(STARTED).or_else(|| told(self.task.and_then(|task| task.started_at.as_deref())));
        let ended = match self.once(marks) {
            Some(once) => {
                let exit = once.exit().map(|at| once.events[at].time);
                exit.or_else(|| {
                    told(self.task.and_then(|task| task.finished_at.as_deref())).filter(|_| started.is_some())
                })
            }
            None => None,
        };
        let ran = started.zip(ended).map(|(started, ended)| {
            // Clocks are set back.
            Duration::from_nanos(u64::try_from(ended.saturating_sub(started)).unwrap_or(0))
        });
        let timestamp = |nanos: i64| Timestamp(nanos / 1_000);
        Times { started_at: started.map(timestamp), ended_at: ended.map(timestamp), ran }
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
mod tests {
    use super::*;

    /// As agent 2.0.5 told of it.
    fn alloc(events: &str, started_at: &str, finished_at: &str) -> Alloc {
        serde_json::from_str(&format!(
            r#"{{"ID": "1", "ClientStatus": "complete", "TaskStates": {{"main": {{"State": "dead", "Failed": false,
                "Restarts": 0, "LastRestart": null, "StartedAt": {started_at}, "FinishedAt": {finished_at},
                "Events": [{events}]}}}}}}"#
        ))
        .unwrap()
    }

    fn event(kind: &str, time: i64) -> String {
        format!(r#"{{"Type": "{kind}", "Time": {time}, "DisplayMessage": "", "Details": {{"exit_code": "0"}}}}"#)
    }

    fn times(alloc: &Alloc) -> Times {
        History::of(alloc).times(Marks { guarded: true, ..Marks::default() })
    }

    const SECOND: i64 = 1_000_000_000;

    #[test]
    fn times_are_the_processs() {
        let events = [event("Received", 1), event("Started", 10 * SECOND), event("Terminated", 13 * SECOND + 500)];
        let seen = times(&alloc(&events.join(","), r#""1970-01-01T00:00:11Z""#, r#""1970-01-01T00:00:20Z""#));
        assert_eq!(seen.started_at, Some(Timestamp(10_000_000)));
        assert_eq!(seen.ended_at, Some(Timestamp(13_000_000)));
        assert_eq!(seen.ran, Some(Duration::from_nanos(3_000_000_500)));
    }

    #[test]
    fn what_is_not_among_the_last_events_is_told_by_the_state() {
        let seen = times(&alloc("", r#""1970-01-01T00:00:11.5Z""#, r#""1970-01-01T00:00:20.000000001Z""#));
        assert_eq!((seen.started_at, seen.ended_at), (Some(Timestamp(11_500_000)), Some(Timestamp(20_000_000))));
        assert_eq!(times(&alloc("", "null", r#""1970-01-01T00:00:20Z""#)), Times::default(), "it never ran");
        let running = times(&alloc(&event("Started", 10 * SECOND), "null", "null"));
        assert_eq!((running.started_at, running.ended_at, running.ran), (Some(Timestamp(10_000_000)), None, None));
    }

    #[test]
    fn of_two_starts_the_first_counts() {
        let again =
            [event("Started", 10 * SECOND), event("Failed Restoring Task", 20 * SECOND), event("Started", 21 * SECOND)];
        let ended = [&again[..], &[event("Terminated", 30 * SECOND)]].concat();
        let seen = times(&alloc(&ended.join(","), "null", "null"));
        assert_eq!(
            (seen.started_at, seen.ended_at, seen.ran),
            (Some(Timestamp(10_000_000)), None, None),
            "it is not known"
        );
    }
}
