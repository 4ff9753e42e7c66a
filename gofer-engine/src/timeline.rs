//! Where the time of a run went, and why: computed from what is recorded of it, without clock or
//! I/O.
//!
//! The spans of a run, and those of each of its task runs, follow each other without gap or
//! overlap. An attempt's log is archived while the next attempt is under way; such time is the next
//! attempt's.

use gofer_core::event::{EventDetails, NewEvent};
use gofer_core::journal::RunSnapshot;
use gofer_core::pipeline::TaskSpec;
use gofer_core::run::{AttemptRecord, Reason, ReasonKind, Run, TaskRun, TaskState, TaskStatus};
use gofer_core::{Attempt, RunNumber, TaskId, Timestamp};

use crate::rules::reasons;

/// Types of the events that [`of_task`] wants to see; others it passes over.
pub const EVENT_TYPES: [&str; 4] =
    ["task_run_waiting", "task_run_slot_acquired", "task_run_stop_requested", "log_archived"];

/// Where spans end that go on.
const FOREVER: Timestamp = Timestamp(i64::MAX);
/// How many parents a sentence names.
const NAMED_PARENTS: usize = 5;

/// A stretch of time that a run or task run spent on one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Whose; `None` is the run itself.
    pub task: Option<TaskId>,
    /// Which attempt's; `None` before any, and of the run itself.
    pub attempt: Option<Attempt>,
    /// What it was spent on.
    pub phase: Phase,
    /// When it began.
    pub from: Timestamp,
    /// When it ended; `None` while it goes on.
    pub to: Option<Timestamp>,
    /// For people; may be empty.
    pub why: String,
}

/// What time is spent on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// A run waits in its pipeline's queue; a task run waits for a server to look at it.
    Queued,
    /// A task run waits for its parents to end.
    WaitingForParents,
    /// An attempt waits because as many executions are in flight as the server allows.
    WaitingForSlot,
    /// An attempt is with the scheduler, and does not run yet.
    Starting,
    /// It is being executed.
    Running,
    /// An attempt has ended, and the next one is not due yet.
    RetryBackoff,
    /// It was asked to end, and has not ended yet.
    Stopping,
    /// It has ended, and its logs are on their way into the object store.
    Archiving,
}

/// What is known of a run beside itself.
#[derive(Debug, Clone, Default)]
pub struct RunFacts {
    /// Why it is pending, if it is.
    pub waits: Option<Reason>,
    /// The run whose end made room for it in its pipeline's `parallelism`, as far as known.
    pub made_room: Option<RunNumber>,
    /// How many of its logs are still with the scheduler.
    pub live_logs: u64,
    /// When the last of its logs was archived.
    pub last_archived: Option<Timestamp>,
}

/// The run's own spans, from its creation to its last archived log.
#[must_use]
pub fn of_run(run: &Run, facts: &RunFacts) -> Vec<Span> {
    let mut line = Line { task: None, at: run.created_at, spans: Vec::new() };
    let waits = match (&facts.waits, facts.made_room) {
        (Some(reason), _) => reason.message.clone(),
        (None, Some(other)) => {
            format!("waited for a place of its pipeline's parallelism, until run {other} ended")
        }
        (None, None) => String::new(),
    };

    line.go(run.started_at.or(run.ended_at), Phase::Queued, None, waits);
    if run.started_at.is_some() {
        let stop = run.cancel.as_ref().map(|cancel| cancel.at);
        let outcome = match (run.ended_at, &run.reason) {
            (Some(_), None) => "ended successfully".to_owned(),
            (_, reason) => reason.as_ref().map(ToString::to_string).unwrap_or_default(),
        };

        line.go(
            earliest([stop, run.ended_at]),
            Phase::Running,
            None,
            if stop.is_none() { outcome } else { String::new() },
        );

        if stop.is_some() {
            line.go(
                run.ended_at,
                Phase::Stopping,
                None,
                reasons::cancelled(run.cancel.as_ref()).message,
            );
        }
    }

    if run.ended_at.is_some() {
        line.archive(None, facts.live_logs, facts.last_archived);
    }

    line.spans
}

/// A task run's spans, from the start of the run to the archived log. `attempts` are its finished
/// ones and `events` its own, each oldest first.
///
/// # Panics
/// When the snapshot has no such task.
#[must_use]
pub fn of_task(
    snapshot: &RunSnapshot,
    task: &TaskId,
    attempts: &[AttemptRecord],
    events: &[NewEvent],
) -> Vec<Span> {
    let (run, task) = (&snapshot.run, &snapshot.tasks[task]);
    let spec = snapshot.spec.task(&task.task).expect("every task of a run is in its spec");
    let Some(begin) = run.started_at.filter(|begin| task.ended_at.is_none_or(|end| end > *begin))
    else {
        return Vec::new();
    };

    let mut line = Line { task: Some(task.task.clone()), at: begin, spans: Vec::new() };
    // Read after the task run, the records may already know of its end.
    let known = |record: &&AttemptRecord| record.attempt < task.attempt || task.state.is_complete();
    let ended: Vec<&AttemptRecord> = attempts.iter().filter(known).collect();
    let mut before: Option<&AttemptRecord> = None;

    for record in &ended {
        line.wait_for_turn(snapshot, spec, before, Some(record.intended_at), None);
        line.attempt(&Tried::from(*record), events);
        before = Some(record);
    }

    match task.state {
        TaskState::Pending => line.wait_for_turn(snapshot, spec, before, None, None),
        TaskState::Starting | TaskState::Running => {
            line.wait_for_turn(snapshot, spec, before, task.intended_at, None);
            line.attempt(&Tried::from(task), events);
        }
        TaskState::Complete(_) if before.is_some_and(|record| record.attempt == task.attempt) => {
            let live = ended.iter().filter(|record| record.log.is_unsettled()).count();
            let archived = events
                .iter()
                .filter(|event| matches!(event.details, EventDetails::LogArchived { .. }));
            line.archive(Some(task.attempt), live as u64, archived.map(|event| event.at).max());
        }
        // It ended before its first attempt, or between two.
        TaskState::Complete(status) => {
            line.wait_for_turn(
                snapshot,
                spec,
                before,
                task.ended_at,
                Some(outcome(status, task.reason.as_ref())),
            );
        }
    }

    line.spans
}

/// One attempt, ended or not.
struct Tried<'a> {
    attempt: Attempt,
    started_at: Option<Timestamp>,
    ended_at: Option<Timestamp>,
    outcome: String,
    /// Of an attempt whose events may have been forgotten.
    stopped_at: Option<Timestamp>,
    reason: Option<&'a Reason>,
}

impl<'a> From<&'a AttemptRecord> for Tried<'a> {
    fn from(record: &'a AttemptRecord) -> Self {
        Self {
            attempt: record.attempt,
            started_at: record.started_at,
            ended_at: Some(record.ended_at),
            outcome: outcome(record.status, record.reason.as_ref()),
            stopped_at: None,
            reason: None,
        }
    }
}

impl<'a> From<&'a TaskRun> for Tried<'a> {
    fn from(task: &'a TaskRun) -> Self {
        Self {
            attempt: task.attempt,
            started_at: task.started_at,
            ended_at: None,
            outcome: String::new(),
            stopped_at: task.stop.as_ref().map(|stop| stop.at),
            reason: task.reason.as_ref(),
        }
    }
}

/// Spans that follow each other.
struct Line {
    task: Option<TaskId>,
    /// Up to where they go.
    at: Timestamp,
    spans: Vec<Span>,
}

impl Line {
    /// Goes on to an instant, or for ever. What takes no time, or is overtaken by what comes
    /// before, leaves no span.
    fn go(
        &mut self,
        to: Option<Timestamp>,
        phase: Phase,
        attempt: Option<Attempt>,
        why: impl Into<String>,
    ) {
        if self.at == FOREVER || to.is_some_and(|to| to <= self.at) {
            return;
        }
        let (task, why) = (self.task.clone(), why.into());
        self.spans.push(Span { task, attempt, phase, from: self.at, to, why });
        self.at = to.unwrap_or(FOREVER);
    }

    /// The time before an attempt, up to its intent or, with `outcome`, to the end of the task.
    fn wait_for_turn(
        &mut self,
        snapshot: &RunSnapshot,
        spec: &TaskSpec,
        before: Option<&AttemptRecord>,
        to: Option<Timestamp>,
        outcome_of_task: Option<String>,
    ) {
        if let Some(before) = before {
            let after = || {
                format!(
                    "after attempt {}: {}",
                    before.attempt,
                    outcome(before.status, before.reason.as_ref())
                )
            };

            self.go(
                to,
                Phase::RetryBackoff,
                Some(before.attempt),
                outcome_of_task.unwrap_or_else(after),
            );
            return;
        }

        let open: Vec<&TaskRun> =
            parents(snapshot, spec).filter(|parent| !parent.state.is_complete()).collect();
        let last = parents(snapshot, spec).max_by_key(|parent| parent.ended_at);

        if let Some(outcome) = outcome_of_task {
            let phase = if last.is_some() { Phase::WaitingForParents } else { Phase::Queued };
            self.go(to, phase, None, outcome);
        } else if !open.is_empty() {
            self.go(to, Phase::WaitingForParents, None, format!("waits for {}", named(&open)));
        } else {
            if let Some(last) = last {
                let status = last.state.status().map(reasons::word).unwrap_or_default();
                let why = format!("task `{}` was the last parent to end, {status}", last.task);
                self.go(earliest([last.ended_at, to]), Phase::WaitingForParents, None, why);
            }
            self.go(to, Phase::Queued, None, "waits for a server to look at it");
        }
    }

    fn attempt(&mut self, tried: &Tried<'_>, events: &[NewEvent]) {
        let attempt = Some(tried.attempt);
        let events: Vec<&NewEvent> =
            events.iter().filter(|event| event.subject.attempt == attempt).collect();
        let stop = events.iter().find_map(|event| match &event.details {
            EventDetails::TaskRunStopRequested { reason } => {
                Some((event.at, reason.message.clone()))
            }
            _ => None,
        });

        let stop = stop.or_else(|| tried.stopped_at.map(|at| (at, String::new())));
        let stop_at = stop.as_ref().map(|(at, _)| *at);
        self.start(tried, earliest([tried.started_at, stop_at, tried.ended_at]), &events);
        if tried.started_at.is_some() {
            let outcome = if stop.is_none() { tried.outcome.as_str() } else { "" };
            self.go(earliest([stop_at, tried.ended_at]), Phase::Running, attempt, outcome);
        }

        if let Some((_, why)) = stop {
            self.go(tried.ended_at, Phase::Stopping, attempt, why);
        }
    }

    /// From the intent until it ran, or ended without having run.
    fn start(&mut self, tried: &Tried<'_>, to: Option<Timestamp>, events: &[&NewEvent]) {
        let attempt = Some(tried.attempt);
        let (mut phase, mut why) = (Phase::Starting, String::new());
        for event in events.iter().filter(|event| to.is_none_or(|to| event.at <= to)) {
            match &event.details {
                EventDetails::TaskRunWaiting { reason } => {
                    // The first to say why speaks for the time since the intent as well.
                    if !why.is_empty() {
                        self.go(Some(event.at), phase, attempt, why);
                    }
                    (phase, why) = waits(reason);
                }
                EventDetails::TaskRunSlotAcquired {} => {
                    self.go(Some(event.at), phase, attempt, why);
                    (phase, why) = (Phase::Starting, String::new());
                }
                _ => {}
            }
        }

        if why.is_empty()
            && let Some(reason) = tried.reason.filter(|_| to.is_none())
        {
            (phase, why) = waits(reason);
        }

        if why.is_empty() && tried.started_at.is_none() {
            why.clone_from(&tried.outcome);
        }

        self.go(to, phase, attempt, why);
    }

    fn archive(&mut self, attempt: Option<Attempt>, live: u64, last: Option<Timestamp>) {
        match (live, last) {
            (0, None) => {}
            (0, last) => {
                self.go(last, Phase::Archiving, attempt, "logs went into the object store")
            }
            (1, _) => self.go(None, Phase::Archiving, attempt, "1 log is still with the scheduler"),
            (live, _) => self.go(
                None,
                Phase::Archiving,
                attempt,
                format!("{live} logs are still with the scheduler"),
            ),
        }
    }
}

fn waits(reason: &Reason) -> (Phase, String) {
    let phase =
        if reason.kind == ReasonKind::Waiting { Phase::WaitingForSlot } else { Phase::Starting };
    (phase, reason.message.clone())
}

fn parents<'a>(snapshot: &'a RunSnapshot, spec: &'a TaskSpec) -> impl Iterator<Item = &'a TaskRun> {
    spec.depends_on.iter().filter_map(|edge| snapshot.tasks.get(&edge.task))
}

fn named(tasks: &[&TaskRun]) -> String {
    let names: Vec<String> =
        tasks.iter().take(NAMED_PARENTS).map(|task| format!("`{}`", task.task)).collect();
    let more = match tasks.len().saturating_sub(NAMED_PARENTS) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("{} {}{more}", if tasks.len() == 1 { "task" } else { "tasks" }, names.join(", "))
}

fn outcome(status: TaskStatus, reason: Option<&Reason>) -> String {
    reason.map_or_else(|| format!("ended {}", reasons::word(status)), ToString::to_string)
}

fn earliest<const N: usize>(instants: [Option<Timestamp>; N]) -> Option<Timestamp> {
    instants.into_iter().flatten().min()
}
