//! Guarded transitions and wishes to cancel.

use gofer_core::Resource;
use gofer_core::event::EventDetails;
use gofer_core::id::{RunKey, TaskId};
use gofer_core::journal::{Commit, Committed, JournalError, RunTransition, TaskTransition};
use gofer_core::run::{CancelRequest, RunState, TaskState};

use super::state::{RunEntry, State};

impl State {
    pub(super) fn commit(&mut self, commit: Commit) -> Committed {
        let Some(entry) = self.runs.get_mut(&commit.lease.run) else { return Committed::Fenced };
        if entry.lease.is_none() || entry.epoch != commit.lease.epoch {
            return Committed::Fenced;
        }

        let mut next = entry.clone();
        let tasks_step =
            commit.tasks.into_iter().all(|transition| step_task(&mut next, transition));
        let run_steps = commit.run.is_none_or(|transition| step_run(&mut next, transition));
        if !(tasks_step && run_steps) {
            return Committed::Conflict;
        }

        *entry = next;
        for event in commit.events {
            self.record(event);
        }

        Committed::Done
    }

    pub(super) fn request_cancel(
        &mut self,
        key: &RunKey,
        task: Option<&TaskId>,
        request: CancelRequest,
    ) -> Result<bool, JournalError> {
        let entry = self.run_mut(key)?;
        let (complete, wish) = match task {
            None => (entry.run.state.is_complete(), &mut entry.run.cancel),
            Some(task) => {
                let missing = || JournalError::NotFound {
                    what: Resource::TaskRun,
                    key: format!("{key}/{task}"),
                };
                let task = entry.tasks.get_mut(task).ok_or_else(missing)?;
                (task.state.is_complete(), &mut task.cancel)
            }
        };

        if complete || !add_wish(wish, &request) {
            return Ok(false);
        }

        let CancelRequest { at, by, force, message } = request;
        let details = match task {
            None => EventDetails::RunCancelRequested { force, message },
            Some(_) => EventDetails::TaskRunCancelRequested { force, message },
        };

        self.record_of_run(key, task, at, &by, details);
        Ok(true)
    }
}

/// The first wish stays, but `force` is added to it; whether that changed anything.
fn add_wish(wish: &mut Option<CancelRequest>, request: &CancelRequest) -> bool {
    match wish {
        None => {
            *wish = Some(request.clone());
            true
        }
        Some(first) => {
            let hastens = request.force && !first.force;
            first.force |= request.force;
            hastens
        }
    }
}

fn step_task(entry: &mut RunEntry, transition: TaskTransition) -> bool {
    let TaskTransition { from, from_attempt, mut to, ended } = transition;
    let Some(task) = entry.tasks.get_mut(&to.task) else { return false };
    let attempt_after =
        if to.state == TaskState::Pending { from_attempt.next() } else { from_attempt };
    let stored = task.state == from && task.attempt == from_attempt;
    if !stored || !from.may_become(to.state) || to.attempt != attempt_after {
        return false;
    }
    to.cancel = task.cancel.take();
    if let Some(record) = ended {
        entry.attempts.insert((to.task.clone(), record.attempt), record);
    }
    *task = to;
    true
}

fn step_run(entry: &mut RunEntry, transition: RunTransition) -> bool {
    let RunTransition { from, to, reason, at } = transition;
    if entry.run.state != from || !from.may_become(to) {
        return false;
    }
    entry.run.state = to;
    entry.run.reason = reason;
    match to {
        RunState::Complete(_) => {
            entry.run.ended_at = Some(at);
            entry.lease = None;
        }
        RunState::Pending | RunState::Running => entry.run.started_at = Some(at),
    }
    true
}
