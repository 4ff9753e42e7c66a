//! A large decision becomes true in several transactions: one of ten thousand task runs takes a
//! database longer than it may take to answer, and would never get through.
//!
//! That is right for three reasons. The changes of a decision follow one from another in the order
//! it has them. Each task's change is a compare-and-set with an event of its own. The run's own
//! end, which only the whole makes true, is in the last piece.
//!
//! A server may crash between two pieces. The next driver then finds a run in which less has
//! happened yet. It makes what is left of the decision once more, from what is stored, cancel
//! requests and times included, and asks the scheduler about intents that were not carried out.

use gofer_core::journal::Commit;

/// The commit in pieces of at most `most` task runs, in order.
pub(crate) fn split_commit(commit: Commit, most: usize) -> Vec<Commit> {
    let Commit { lease, mut tasks, run, mut events } = commit;
    // The machine records one event with each change of a task run; the run's own is the last.
    let paired = events.len() == tasks.len() + usize::from(run.is_some());
    debug_assert!(
        paired || tasks.len() <= 1,
        "{} changes have {} events",
        tasks.len(),
        events.len()
    );

    let mut pieces = Vec::new();
    while paired && tasks.len() > most {
        let (later_tasks, later_events) = (tasks.split_off(most), events.split_off(most));
        pieces.push(Commit { lease: lease.clone(), tasks, run: None, events });
        (tasks, events) = (later_tasks, later_events);
    }

    pieces.push(Commit { lease, tasks, run, events });
    pieces
}

#[cfg(test)]
mod tests {
    use gofer_core::event::{EventDetails, NewEvent, Subject};
    use gofer_core::journal::{Lease, RunTransition, TaskTransition};
    use gofer_core::run::{RunState, RunStatus, TaskRun, TaskState, TaskStatus};
    use gofer_core::{Attempt, RunKey, RunNumber, TaskId, Timestamp};

    use super::*;

    fn ending(tasks: usize) -> Commit {
        let key = RunKey {
            namespace: "n".parse().unwrap(),
            pipeline: "p".parse().unwrap(),
            run: RunNumber(1),
        };

        let id = |at: usize| TaskId::new(format!("t{at}")).unwrap();
        let change = |at| {
            let state = TaskState::Complete(TaskStatus::Skipped);
            let to = TaskRun { state, ..TaskRun::pending(id(at)) };
            TaskTransition {
                from: TaskState::Pending,
                from_attempt: Attempt::FIRST,
                to,
                ended: None,
            }
        };

        let event = |task: Option<TaskId>| NewEvent {
            at: Timestamp(0),
            actor: "gofer".to_owned(),
            subject: Subject { task, ..Subject::default() },
            details: EventDetails::TaskRunStarting {},
        };

        let state = RunState::Complete(RunStatus::Failed);
        Commit {
            lease: Lease { run: key, epoch: 3 },
            tasks: (0..tasks).map(change).collect(),
            run: Some(RunTransition {
                from: RunState::Running,
                to: state,
                reason: None,
                at: Timestamp(0),
            }),
            events: (0..tasks).map(|at| event(Some(id(at)))).chain([event(None)]).collect(),
        }
    }

    #[test]
    fn pieces_are_bounded_in_order_and_end_with_the_run() {
        for (tasks, sizes) in
            [(0, vec![0]), (1, vec![1]), (4, vec![4]), (5, vec![4, 1]), (12, vec![4, 4, 4])]
        {
            let pieces = split_commit(ending(tasks), 4);
            assert_eq!(pieces.iter().map(|piece| piece.tasks.len()).collect::<Vec<_>>(), sizes);
            let (last, before) = pieces.split_last().unwrap();
            assert!(last.run.is_some() && before.iter().all(|piece| piece.run.is_none()));

            let mut told = Vec::new();
            for piece in &pieces {
                assert_eq!(piece.lease.epoch, 3);
                let changed = piece.tasks.iter().map(|change| Some(change.to.task.clone()));
                let events: Vec<_> =
                    piece.events.iter().map(|event| event.subject.task.clone()).collect();
                assert!(
                    changed.eq(events.iter().take(piece.tasks.len()).cloned()),
                    "each change has its own event"
                );
                told.extend(events);
            }

            let whole: Vec<_> =
                ending(tasks).events.into_iter().map(|event| event.subject.task).collect();
            assert_eq!(told, whole);
        }
    }
}
