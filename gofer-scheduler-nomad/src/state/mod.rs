//! From what Nomad knows of a job to the state of an execution. Pure: no clock, no calls.
//!
//! ```text
//! job + allocations + evaluations ──> view ──> View: the state, a fence, and when to look again
//!                                       ├── marks    how the job says that its task is run
//!                                       ├── history  the events of the first allocation
//!                                       └── reason   why it waits, in words
//! ```

pub(crate) mod history;
pub(crate) mod marks;
mod reason;

use std::time::Duration;

use gofer_core::scheduler::{ExecutionKind, ExecutionState, ExecutionTimes, FailureKind};

use crate::http::types::{Alloc, Evaluation, Job, TaskEvent};
use crate::job::names::{META_LOST, META_REFUSED};
use crate::state::history::History;
use crate::state::marks::{Marks, kind};

/// The signal that ends what has used up its grace; Nomad's own word for it in events.
const SIGNALING: &str = "Signaling";
/// How long the shell before a program that was started a second time may take to end.
const KEEP_OUT_TIMEOUT: Duration = Duration::from_secs(5);
/// Where exit codes begin that stand for a signal, by the shells' convention.
const SIGNAL_BASE: i32 = 128;
/// The last signal there is.
const LAST_SIGNAL: i32 = 64;

/// Why an execution is lost that was started a second time.
pub(crate) const BEGUN_TWICE: &str = "its node started it a second time: the client agent did not \
                                      find its process again, or somebody asked for a restart";

/// What is to be thought of an execution.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) state: ExecutionState,
    /// What must be done to the job before the state may be told: the execution is over in Gofer's
    /// eyes.
    pub(crate) fence: Option<Fence>,
    /// What the execution itself told of its times, if it reported its end.
    pub(crate) reported: Option<ExecutionTimes>,
    /// When the view changes without an event: a node out of reach counts as lost then, or what
    /// began again is stopped.
    pub(crate) lost_in: Option<Duration>,
}

/// What keeps a job from going on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fence {
    /// It is stopped.
    Stop,
    /// It is stopped and marked as lost, for this reason, in one step: whatever its node says when
    /// it is back, it stays lost.
    Lost(&'static str),
}

impl View {
    fn of(state: ExecutionState) -> Self {
        Self { state, fence: None, reported: None, lost_in: None }
    }

    pub(crate) fn lost(why: &'static str) -> Self {
        Self {
            state: ExecutionState::Lost,
            fence: Some(Fence::Lost(why)),
            reported: None,
            lost_in: None,
        }
    }
}

/// The state of an execution from its job, its allocations, and, while it has none, its
/// evaluations.
pub(crate) fn view(
    job: &Job,
    allocs: &[Alloc],
    evaluations: &[Evaluation],
    node_lost_after: Duration,
    now_ns: i64,
) -> View {
    if let Some(message) = job.meta.get(META_REFUSED) {
        return View::of(ExecutionState::Failed {
            kind: FailureKind::Refused,
            message: message.clone(),
        });
    }

    if job.meta.contains_key(META_LOST) {
        return View::of(ExecutionState::Lost);
    }

    if allocs.is_empty() {
        return View::of(unplaced(job, evaluations));
    }

    match kind(job) {
        ExecutionKind::Service => View::of(service(job, allocs)),
        ExecutionKind::Task => task(job, allocs, node_lost_after, now_ns),
    }
}

/// The allocation that is the execution: the first one, whatever Nomad placed later. Of a service,
/// the newest.
pub(crate) fn own_alloc(kind: ExecutionKind, allocs: &[Alloc]) -> Option<&Alloc> {
    match kind {
        ExecutionKind::Task => allocs.iter().min_by_key(|alloc| alloc.create_index),
        ExecutionKind::Service => allocs.iter().max_by_key(|alloc| alloc.create_index),
    }
}

/// Whether nothing more will happen to an allocation.
pub(crate) fn is_terminal(alloc: &Alloc) -> bool {
    matches!(alloc.client_status.as_str(), "complete" | "failed" | "lost")
}

fn unplaced(job: &Job, evaluations: &[Evaluation]) -> ExecutionState {
    let undecided = evaluations.iter().any(|one| one.status == "pending");
    if job.stop && !undecided {
        return ExecutionState::Stopped;
    }
    ExecutionState::Queued { reason: reason::of_placement(job, evaluations) }
}

fn service(job: &Job, allocs: &[Alloc]) -> ExecutionState {
    let living = allocs.iter().filter(|alloc| !is_terminal(alloc));
    let newest = living.max_by_key(|alloc| alloc.create_index);
    match newest {
        Some(alloc) if alloc.client_status == "pending" => {
            ExecutionState::Queued { reason: reason::of_pending(alloc) }
        }
        Some(_) => ExecutionState::Running,
        None if job.stop => ExecutionState::Stopped,
        None => ExecutionState::Queued { reason: "it ended, and nomad starts it again".to_owned() },
    }
}

fn task(job: &Job, allocs: &[Alloc], node_lost_after: Duration, now_ns: i64) -> View {
    let Some(own) = own_alloc(ExecutionKind::Task, allocs) else {
        return View::of(unplaced(job, &[]));
    };

    let state = of_alloc(own, job.stop, Marks::of(job));
    let by_itself = matches!(state, ExecutionState::Exited { .. } | ExecutionState::Failed { .. });
    if allocs.len() > 1 {
        if !by_itself {
            return View::lost("nomad placed a replacement");
        }
        return View { fence: (!job.stop).then_some(Fence::Stop), ..View::of(state) };
    }

    let silent = Duration::from_nanos(u64::try_from(now_ns - own.modify_time).unwrap_or(0));
    if own.client_status == "unknown" {
        let left = node_lost_after.checked_sub(silent).filter(|left| !left.is_zero());
        return match left {
            Some(_) => View { lost_in: left, ..View::of(state) },
            None => View::lost("its node was out of reach for too long"),
        };
    }

    let begins_again = History::of(own).begins_again();
    if begins_again && !state.is_final() {
        // Stopped at once, a shell that is about to keep the program out could not say so.
        let patience = if Marks::of(job).guarded { KEEP_OUT_TIMEOUT } else { Duration::ZERO };
        let left = patience.checked_sub(silent).filter(|left| !left.is_zero() && !job.stop);
        // What runs then must not: it is lost when it is over, and not before, since until then it
        // runs.
        let fence = (!job.stop && left.is_none()).then_some(Fence::Stop);
        return View { fence, lost_in: left, ..View::of(ExecutionState::Running) };
    }

    match state {
        ExecutionState::Lost if begins_again => View::lost(BEGUN_TWICE),
        ExecutionState::Lost => View::lost("nomad gave its allocation up"),
        state => View::of(state),
    }
}

/// Whether Nomad took the allocation's place from it, for a drain or for another job, before
/// anybody stopped the job.
fn given_up(alloc: &Alloc) -> bool {
    alloc.desired_transition.migrate
        || alloc.desired_status == "evict"
        || !alloc.preempted_by_allocation.is_empty()
}

/// The state of a task that is this allocation. Of a container only the exit code is known, and by
/// docker's own convention one above 128 is a signal.
pub(crate) fn of_alloc(alloc: &Alloc, stopped: bool, marks: Marks) -> ExecutionState {
    match of_any_alloc(alloc, stopped, marks) {
        ExecutionState::Exited { code, oom: false, signal: None } if marks.in_container => {
            let signal =
                Some(code - SIGNAL_BASE).filter(|signal| (1..=LAST_SIGNAL).contains(signal));
            ExecutionState::Exited { code, oom: false, signal }
        }
        other => other,
    }
}

fn of_any_alloc(alloc: &Alloc, stopped: bool, marks: Marks) -> ExecutionState {
    match alloc.client_status.as_str() {
        "pending" => ExecutionState::Queued { reason: reason::of_pending(alloc) },
        "lost" => ExecutionState::Lost,
        "complete" | "failed" => match History::of(alloc).once(marks) {
            Some(history) => ended(alloc, history, stopped),
            None => ExecutionState::Lost,
        },
        _ => ExecutionState::Running,
    }
}

/// What the end of an allocation means. "complete" alone means nothing: what was drained,
/// preempted or stopped is complete, too.
fn ended(alloc: &Alloc, history: History<'_>, stopped: bool) -> ExecutionState {
    if let Some(event) =
        history.before_exit(&["Sibling Task Failed", "Leader Task Dead", "Disk Resources Exceeded"])
    {
        return failed(FailureKind::Setup, event);
    }

    let exit = history.exit().map(|at| exited(&history.events()[at]));
    // A stop that came when the process had ended changes nothing of its end.
    let killed = history.before_exit(&["Killing", "Killed"]).is_some();
    let by_gofer = stopped
        && exit.as_ref().is_some_and(is_kill)
        && history.before_exit(&[SIGNALING]).is_some();

    if killed || by_gofer {
        // Who had it killed: the stopped job says that it was asked for; if not, the node was
        // drained, or another job took its place.
        let asked_for = stopped && !given_up(alloc);
        return if asked_for { ExecutionState::Stopped } else { ExecutionState::Lost };
    }

    if let Some(exit) = exit {
        return exit;
    }

    for event in history.events().iter().rev() {
        match event.kind.as_str() {
            "Driver Failure" => return failed(driver_failure(event), event),
            "Failed Validation" => return failed(FailureKind::Refused, event),
            "Setup Failure" | "Task hook failed" | "Failed Artifact Download" => {
                return failed(FailureKind::Setup, event);
            }
            _ => {}
        }
    }

    if stopped {
        return ExecutionState::Stopped;
    }

    if alloc.client_status == "failed" {
        let message = match alloc.client_description.as_str() {
            "" => "nomad says `failed`, and nothing else".to_owned(),
            text => text.to_owned(),
        };
        return ExecutionState::Failed { kind: FailureKind::Setup, message };
    }

    ExecutionState::Lost
}

/// Whether SIGKILL ended it.
fn is_kill(state: &ExecutionState) -> bool {
    matches!(
        state,
        ExecutionState::Exited { code: 137, .. } | ExecutionState::Exited { signal: Some(9), .. }
    )
}

fn exited(event: &TaskEvent) -> ExecutionState {
    let number = |key: &str| event.details.get(key).and_then(|text| text.parse::<i32>().ok());
    let Some(code) = number("exit_code") else { return ExecutionState::Lost };
    let oom = event.details.get("oom_killed").is_some_and(|text| text == "true");
    match number("signal").filter(|signal| *signal > 0) {
        Some(signal) => {
            ExecutionState::Exited { code: SIGNAL_BASE + signal, oom, signal: Some(signal) }
        }
        None => ExecutionState::Exited { code, oom, signal: None },
    }
}

fn driver_failure(event: &TaskEvent) -> FailureKind {
    let text = detail(event).to_lowercase();
    let says = |texts: &[&str]| texts.iter().any(|part| text.contains(part));
    if says(&[
        "failed to pull",
        "unable to pull image",
        "pull access denied",
        "manifest unknown",
        "image not found",
        "no such image",
        "pulling image",
    ]) {
        FailureKind::ImageUnavailable
    } else if says(&[
        "executable file not found",
        "not found under path",
        "no such file or directory",
        "permission denied",
        "is a directory",
        "exec format error",
        "could not be found",
    ]) {
        FailureKind::CommandNotFound
    } else {
        FailureKind::Setup
    }
}

fn failed(kind: FailureKind, event: &TaskEvent) -> ExecutionState {
    ExecutionState::Failed {
        kind,
        message: format!("{}: {}", event.kind.to_lowercase(), detail(event)),
    }
}

/// The most that an event says of a failure.
fn detail(event: &TaskEvent) -> &str {
    let keys = [
        "driver_error",
        "validation_error",
        "setup_error",
        "download_error",
        "failed_sibling",
        "disk_limit",
    ];
    let known = keys.iter().filter_map(|key| event.details.get(*key)).find(|text| !text.is_empty());
    known.map_or(event.display_message.as_str(), String::as_str)
}

#[cfg(test)]
mod tests;
