//! Which tasks a run takes over from the run that it repeats.

use std::collections::{HashMap, VecDeque};

use crate::id::TaskId;
use crate::pipeline::PipelineSpec;
use crate::run::TaskStatus;

/// The tasks that need not run again when a run is repeated from what failed, in the spec's order.
///
/// A task is taken over when it was successful and everything above it *stands*: it was taken over
/// too, or skipped for the sake of parents that stand, so that it is skipped again. Everything
/// below a task that runs again is therefore decided anew. Without this, a deploy could fail a
/// second time and its rollback, successful the first time, not run.
///
/// `status` tells how a task of the repeated run ended. Linear in tasks and edges.
#[must_use]
pub fn reused_tasks(
    spec: &PipelineSpec,
    status: impl Fn(&TaskId) -> Option<TaskStatus>,
) -> Vec<TaskId> {
    let index: HashMap<&TaskId, usize> =
        spec.tasks.iter().enumerate().map(|(at, task)| (&task.id, at)).collect();
    let mut children = vec![Vec::new(); spec.tasks.len()];
    let mut parents_left: Vec<usize> =
        spec.tasks.iter().map(|task| task.depends_on.len()).collect();

    for (child, task) in spec.tasks.iter().enumerate() {
        for edge in &task.depends_on {
            children[index[&edge.task]].push(child);
        }
    }

    // A task comes into the queue once all its parents stand.
    let mut queue: VecDeque<usize> =
        (0..spec.tasks.len()).filter(|at| parents_left[*at] == 0).collect();
    let mut reused = vec![false; spec.tasks.len()];

    while let Some(at) = queue.pop_front() {
        match status(&spec.tasks[at].id) {
            Some(TaskStatus::Successful) => reused[at] = true,
            Some(TaskStatus::Skipped) => {}
            _ => continue,
        }
        for &child in &children[at] {
            parents_left[child] -= 1;
            if parents_left[child] == 0 {
                queue.push_back(child);
            }
        }
    }

    spec.tasks
        .iter()
        .zip(reused)
        .filter(|(_, reused)| *reused)
        .map(|(task, _)| task.id.clone())
        .collect()
}
