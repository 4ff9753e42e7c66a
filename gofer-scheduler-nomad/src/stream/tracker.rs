//! What is known of each execution of one Nomad namespace, and what an event means for it. Pure.

use std::collections::{HashMap, HashSet};

use gofer_core::ExecutionId;
use gofer_core::scheduler::{ExecutionKind, ExecutionState, Observation};

use crate::calls::Inspected;
use crate::http::types::{Alloc, Evaluation, Job};
use crate::job::names::META_REFUSED;
use crate::state;
use crate::state::history::History;
use crate::state::marks::{self, Marks, secret_count};

/// What to do about an event.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Nothing that matters.
    Nothing,
    /// Tell the watchers.
    Emit(ExecutionId, Observation),
    /// Ask Nomad for everything about this job: what was heard does not suffice to say what it
    /// means.
    Inspect(String),
}

/// The executions by job id.
#[derive(Debug, Default)]
pub(crate) struct Tracker {
    entries: HashMap<String, Entry>,
}

#[derive(Debug)]
struct Entry {
    id: ExecutionId,
    kind: ExecutionKind,
    stopped: bool,
    marks: Marks,
    secrets: usize,
    /// The allocation that is the execution.
    own: Option<Own>,
    /// The last state that the watchers were told.
    emitted: Option<ExecutionState>,
}

#[derive(Debug)]
struct Own {
    id: String,
    create_index: u64,
    modify_index: u64,
}

impl Entry {
    fn is_over(&self) -> bool {
        self.emitted.as_ref().is_some_and(ExecutionState::is_final)
    }
}

impl Tracker {
    /// Forgets everything, so that everything is told again.
    pub(crate) fn clear(&mut self) {
        self.entries.clear();
    }

    /// Whether a job belongs to an execution that is known and not over.
    pub(crate) fn is_alive(&self, job_id: &str) -> bool {
        self.entries.get(job_id).is_some_and(|entry| !entry.is_over())
    }

    /// The jobs of executions that are not over.
    pub(crate) fn alive(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().filter(|(_, entry)| !entry.is_over()).map(|(job_id, _)| job_id.as_str())
    }

    /// A job of this Gofer's.
    pub(crate) fn job(&mut self, id: ExecutionId, job: &Job) -> Action {
        let entry = self.entries.entry(job.id.clone()).or_insert_with(|| Entry {
            id,
            kind: marks::kind(job),
            stopped: false,
            marks: Marks::of(job),
            secrets: secret_count(job),
            own: None,
            emitted: None,
        });

        let newly_stopped = job.stop && !entry.stopped;
        entry.stopped |= job.stop;
        if !entry.is_over() && (newly_stopped || job.meta.contains_key(META_REFUSED)) {
            return Action::Inspect(job.id.clone());
        }

        Action::Nothing
    }

    /// A job that had ended before anybody listened: there is nothing to tell of it.
    pub(crate) fn ended_before(&mut self, id: ExecutionId, job: &Job) {
        self.job(id, job);
        if let Some(entry) = self.entries.get_mut(&job.id) {
            // Any final state will do; it is told to nobody.
            entry.emitted = Some(ExecutionState::NotFound);
        }
    }

    /// An allocation of some job.
    pub(crate) fn alloc(&mut self, alloc: &Alloc) -> Action {
        let inspect = || Action::Inspect(alloc.job_id.clone());
        let Some(entry) = self.entries.get_mut(&alloc.job_id) else { return inspect() };
        if entry.is_over() {
            return Action::Nothing;
        }

        if entry.kind == ExecutionKind::Service {
            return inspect();
        }

        match &mut entry.own {
            Some(own) if own.id == alloc.id => {
                if alloc.modify_index <= own.modify_index {
                    return Action::Nothing;
                }
                own.modify_index = alloc.modify_index;
            }
            Some(_) => return inspect(),
            None => {
                entry.own = Some(Own {
                    id: alloc.id.clone(),
                    create_index: alloc.create_index,
                    modify_index: alloc.modify_index,
                });
            }
        }

        let now = state::of_alloc(alloc, entry.stopped, entry.marks);
        let by_itself =
            matches!(now, ExecutionState::Exited { .. } | ExecutionState::Failed { .. })
                && !entry.marks.leave_word(&now);
        let certain = (by_itself && !entry.stopped)
            || (!now.is_final() && !History::of(alloc).begins_again());

        if !certain || alloc.client_status == "unknown" {
            return inspect();
        }

        let times = History::of(alloc).times_of(&now, entry.marks);
        self.emit(&alloc.job_id, Observation { state: now, times })
    }

    /// An evaluation of some job.
    pub(crate) fn evaluation(&self, evaluation: &Evaluation) -> Action {
        let waits = !evaluation.failed.is_empty() || evaluation.status == "failed";
        let stopping = |entry: &Entry| entry.stopped && evaluation.status == "complete";
        match self.entries.get(&evaluation.job_id) {
            Some(entry)
                if !entry.is_over() && entry.own.is_none() && (waits || stopping(entry)) =>
            {
                Action::Inspect(evaluation.job_id.clone())
            }
            _ => Action::Nothing,
        }
    }

    /// All that Nomad knows of a job; `None` when there is no such job.
    pub(crate) fn inspected(&mut self, job_id: &str, inspected: Option<&Inspected>) -> Action {
        let Some(inspected) = inspected else {
            return match self.entries.remove(job_id) {
                Some(entry) if !entry.is_over() => {
                    Action::Emit(entry.id, ExecutionState::NotFound.into())
                }
                _ => Action::Nothing,
            };
        };

        self.job(inspected.id.clone(), &inspected.job);
        if let (Some(entry), Some(own)) = (self.entries.get_mut(job_id), inspected.own_alloc()) {
            let known = entry.own.as_ref().is_some_and(|known| {
                known.create_index < own.create_index
                    || (known.id == own.id && known.modify_index > own.modify_index)
            });
            if !known {
                entry.own = Some(Own {
                    id: own.id.clone(),
                    create_index: own.create_index,
                    modify_index: own.modify_index,
                });
            }
        }

        self.emit(job_id, inspected.observed())
    }

    /// What is to be asked about after a list of all jobs, and what may be forgotten.
    pub(crate) fn absent_from(&mut self, listed: &HashSet<String>) -> Vec<Action> {
        self.entries.retain(|job_id, entry| listed.contains(job_id) || !entry.is_over());
        let absent = self.entries.keys().filter(|job_id| !listed.contains(*job_id));
        absent.map(|job_id| Action::Inspect(job_id.clone())).collect()
    }

    /// How many variables are to be deleted after the execution ended.
    pub(crate) fn secrets_of(&self, job_id: &str) -> usize {
        self.entries.get(job_id).map_or(0, |entry| entry.secrets)
    }

    fn emit(&mut self, job_id: &str, now: Observation) -> Action {
        let Some(entry) = self.entries.get_mut(job_id) else { return Action::Nothing };
        if entry.is_over() || entry.emitted.as_ref() == Some(&now.state) {
            return Action::Nothing;
        }
        entry.emitted = Some(now.state.clone());
        Action::Emit(entry.id.clone(), now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::types::TaskEvent;
    use serde_json::json;

    fn id() -> ExecutionId {
        "default/ci/41/build/2".parse().unwrap()
    }

    fn job(stop: bool) -> Job {
        Job { id: "j".into(), stop, ..Job::default() }
    }

    fn alloc(id: &str, status: &str, index: u64) -> Alloc {
        let events = match status {
            "complete" => json!([{"Type": "Terminated", "Details": {"exit_code": "0"}}]),
            _ => json!([]),
        };
        let create_index = if id == "1" { 10 } else { 20 };
        serde_json::from_value(json!({
            "ID": id, "JobID": "j", "ClientStatus": status, "CreateIndex": create_index, "ModifyIndex": index,
            "TaskStates": {"main": {"Events": events}},
        }))
        .unwrap()
    }

    fn tracker() -> Tracker {
        let mut tracker = Tracker::default();
        assert_eq!(tracker.job(id(), &job(false)), Action::Nothing);
        tracker
    }

    fn emitted(state: ExecutionState) -> Action {
        Action::Emit(id(), state.into())
    }

    const EXITED: ExecutionState = ExecutionState::Exited { code: 0, oom: false, signal: None };

    #[test]
    fn each_change_is_told_once() {
        let mut tracker = tracker();
        assert_eq!(tracker.alloc(&alloc("1", "running", 11)), emitted(ExecutionState::Running));
        assert_eq!(tracker.alloc(&alloc("1", "running", 11)), Action::Nothing, "repeated");
        assert_eq!(tracker.alloc(&alloc("1", "running", 12)), Action::Nothing, "nothing new");
        assert_eq!(tracker.alloc(&alloc("1", "complete", 13)), emitted(EXITED));
        assert_eq!(tracker.alloc(&alloc("1", "running", 12)), Action::Nothing, "out of order");
        assert_eq!(
            tracker.alloc(&alloc("1", "complete", 14)),
            Action::Nothing,
            "the end is for good"
        );
    }

    #[test]
    fn what_is_doubtful_is_asked_for() {
        let inspect = || Action::Inspect("j".to_owned());
        let mut unknown = Tracker::default();
        assert_eq!(
            unknown.alloc(&alloc("1", "running", 11)),
            inspect(),
            "a job that nobody told of"
        );

        let mut replaced = tracker();
        replaced.alloc(&alloc("1", "running", 11));
        assert_eq!(replaced.alloc(&alloc("2", "running", 21)), inspect(), "a replacement");
        let mut stopped = tracker();
        assert_eq!(stopped.job(id(), &job(true)), inspect(), "a stop");
        assert_eq!(stopped.alloc(&alloc("1", "complete", 13)), inspect(), "an end after a stop");
        assert_eq!(tracker().alloc(&alloc("1", "unknown", 13)), inspect());
        assert_eq!(tracker().alloc(&alloc("1", "lost", 13)), inspect());

        let mut again = alloc("1", "running", 11);
        let failed: TaskEvent =
            serde_json::from_value(json!({"Type": "Failed Restoring Task"})).unwrap();
        again.task_states.get_mut("main").unwrap().events.push(failed);
        assert_eq!(tracker().alloc(&again), inspect(), "a second start");
    }

    #[test]
    fn only_blocked_evaluations_of_what_is_not_placed_matter() {
        let blocked: Evaluation = serde_json::from_value(
            json!({"JobID": "j", "Status": "blocked", "FailedTGAllocs": {"g": {}}}),
        )
        .unwrap();
        let complete =
            Evaluation { job_id: "j".into(), status: "complete".into(), ..Evaluation::default() };
        let mut tracker = tracker();
        assert_eq!(tracker.evaluation(&complete), Action::Nothing);
        assert_eq!(tracker.evaluation(&blocked), Action::Inspect("j".into()));
        tracker.alloc(&alloc("1", "running", 11));
        assert_eq!(tracker.evaluation(&blocked), Action::Nothing);
    }

    #[test]
    fn what_is_gone_is_asked_for_or_forgotten() {
        let mut tracker = tracker();
        assert_eq!(tracker.absent_from(&HashSet::new()), [Action::Inspect("j".into())]);
        assert_eq!(tracker.inspected("j", None), emitted(ExecutionState::NotFound));
        assert_eq!(tracker.absent_from(&HashSet::new()), []);
        let mut ended = Tracker::default();
        ended.ended_before(id(), &job(true));
        assert_eq!(
            ended.alloc(&alloc("1", "complete", 13)),
            Action::Nothing,
            "it ended before anybody listened"
        );
        assert_eq!(ended.absent_from(&HashSet::new()), []);
        assert!(!ended.is_alive("j"));
    }
}
