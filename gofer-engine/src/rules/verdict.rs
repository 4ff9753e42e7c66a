//! How a run ended, once all its tasks have.

use gofer_core::pipeline::Condition;
use gofer_core::run::{Reason, RunStatus, TaskRun, TaskState, TaskStatus};

use super::machine::Machine;

impl Machine {
    pub(super) fn verdict(&self) -> (RunStatus, Option<Reason>) {
        if let Some(request) = &self.run.cancel {
            return (RunStatus::Cancelled, Some(crate::rules::reasons::cancelled(Some(request))));
        }
        let unhandled: Vec<&TaskRun> = (0..self.tasks.len())
            .filter(|&at| self.fails_run(at))
            .map(|at| &self.tasks[at])
            .collect();
        if unhandled.is_empty() {
            (RunStatus::Successful, None)
        } else {
            (RunStatus::Failed, Some(crate::rules::reasons::tasks_failed(&unhandled)))
        }
    }

    /// Whether this task failed, was not allowed to, and nothing handled it.
    fn fails_run(&self, at: usize) -> bool {
        let failed = self.tasks[at].state.status().is_some_and(TaskStatus::is_failure);
        failed
            && !self.spec.tasks[at].continue_on_failure
            && !self.children[at].iter().any(|&child| self.handles(child, at))
    }

    /// Whether a `failure` edge leads from `parent` to `child`, and `child` succeeded.
    fn handles(&self, child: usize, parent: usize) -> bool {
        let parent_id = &self.tasks[parent].task;
        self.tasks[child].state == TaskState::Complete(TaskStatus::Successful)
            && self.spec.tasks[child]
                .depends_on
                .iter()
                .any(|edge| edge.task == *parent_id && edge.condition == Condition::Failure)
    }
}
