//! How a run ended, once all its tasks have.

use gofer_core::pipeline::Condition;
use gofer_core::run::{Reason, RunStatus, TaskRun, TaskState, TaskStatus};

use super::machine::Machine;
use super::reasons;
use super::task_index::TaskIndex;

impl Machine {
    pub(super) fn verdict(&self) -> (RunStatus, Option<Reason>) {
        if let Some(request) = &self.run.cancel {
            return (RunStatus::Cancelled, Some(reasons::cancelled(Some(request))));
        }

        let failing = self.tasks.indices().filter(|&task| self.fails_run(task));
        let unhandled: Vec<&TaskRun> = failing.map(|task| &self.tasks[task]).collect();
        if unhandled.is_empty() {
            (RunStatus::Successful, None)
        } else {
            (RunStatus::Failed, Some(reasons::tasks_failed(&unhandled)))
        }
    }

    /// Whether this task failed, was not allowed to, and nothing handled it.
    fn fails_run(&self, task: TaskIndex) -> bool {
        let failed = self.tasks[task].state.status().is_some_and(TaskStatus::is_failure);
        failed
            && !self.spec_of(task).continue_on_failure
            && !self.children[task].iter().any(|&child| self.handles(child, task))
    }

    /// Whether a `failure` edge leads from `parent` to `child`, and `child` succeeded.
    fn handles(&self, child: TaskIndex, parent: TaskIndex) -> bool {
        let parent_id = &self.tasks[parent].task;
        self.tasks[child].state == TaskState::Complete(TaskStatus::Successful)
            && self
                .spec_of(child)
                .depends_on
                .iter()
                .any(|edge| edge.task == *parent_id && edge.condition == Condition::Failure)
    }
}
