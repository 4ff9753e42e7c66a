//! `RunService.FollowRun`: the changes of one run, to one reader.

use std::collections::{BTreeMap, BTreeSet};

use gofer_core::journal::RunSnapshot;
use gofer_core::run::{AttemptRecord, TaskRun};
use gofer_core::{RunKey, TaskId};
use gofer_db::EventFilter;
use gofer_proto::v1;
use gofer_proto::v1::run_update::Subject;
use tokio::sync::watch;

use super::pending_reason;
use super::view::{Attempts, NAMED_TASKS, snapshot, task_runs, task_runs_with};
use crate::convert;
use crate::error::ApiError;
use crate::rpc::call::Call;
use crate::rpc::streams::{HEARTBEAT_INTERVAL, ReplySender, StreamEnd};

/// Events read at a time while following.
const EVENTS_PER_READ: usize = 500;

/// Finished attempts and whose they are.
type Records = Vec<(TaskId, AttemptRecord)>;

/// Tells one reader of one run's changes. It sleeps until an event is committed, and looks at what
/// the events name.
pub(super) struct Follower {
    call: Call,
    key: RunKey,
    replies: ReplySender<v1::FollowRunResponse>,
    run: Option<v1::Run>,
    tasks: BTreeMap<TaskId, v1::TaskRun>,
}

impl Follower {
    pub(super) fn new(
        call: Call,
        key: RunKey,
        replies: ReplySender<v1::FollowRunResponse>,
    ) -> Self {
        Self { call, key, replies, run: None, tasks: BTreeMap::new() }
    }

    pub(super) async fn follow(mut self) -> Result<(), StreamEnd> {
        let mut events = self.call.db.event_watch();
        // Read before the state. Without this, an event that is committed between the two reads
        // would be in neither: the state would be older, and the cursor past it.
        let mut cursor = *events.borrow_and_update();
        let mut state = snapshot(&self.call.db, &self.key).await?;
        let mut wanted: BTreeSet<TaskId> = state.tasks.keys().cloned().collect();
        let mut records = None;

        loop {
            self.show(&state, &wanted, records).await?;
            if state.run.state.is_complete() {
                return Ok(());
            }

            wanted = self.next_changes(&mut events, &mut cursor).await?;
            records = self.refresh(&mut state, &wanted).await?;
            if state.run.state.is_complete() {
                wanted = state.tasks.keys().cloned().collect();
            }
        }
    }

    /// Waits for events of this run, and says which tasks they name.
    async fn next_changes(
        &mut self,
        events: &mut watch::Receiver<u64>,
        cursor: &mut u64,
    ) -> Result<BTreeSet<TaskId>, StreamEnd> {
        let filter = EventFilter {
            namespaces: Some(vec![self.key.namespace.clone()]),
            pipeline: Some(self.key.pipeline.clone()),
            run: Some(self.key.run),
            types: Vec::new(),
        };
        loop {
            match tokio::time::timeout(HEARTBEAT_INTERVAL, events.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(StreamEnd::Failed(ApiError::ShuttingDown)),
                Err(_) => {
                    self.replies.send(v1::FollowRunResponse { update: None }).await?;
                    continue;
                }
            }

            let newest = *events.borrow_and_update();
            let found = self.call.db.event_list_after(*cursor, &filter, EVENTS_PER_READ).await?;
            *cursor = match found.last() {
                Some(last) if found.len() == EVENTS_PER_READ => last.id,
                Some(last) => newest.max(last.id),
                None => newest,
            };

            if !found.is_empty() {
                return Ok(found.into_iter().filter_map(|event| event.body.subject.task).collect());
            }
        }
    }

    /// Reads the run and these tasks again, with the records of their attempts; or, when they are
    /// many or the run is complete, all of them without. Reading all each time would make a
    /// follower of a long run cost its length squared.
    async fn refresh(
        &self,
        state: &mut RunSnapshot,
        wanted: &BTreeSet<TaskId>,
    ) -> Result<Option<Records>, StreamEnd> {
        if wanted.len() <= NAMED_TASKS {
            let named: Vec<TaskId> = wanted.iter().cloned().collect();
            let found = self.call.db.run_with_tasks(&self.key, &named).await?;
            if !found.run.state.is_complete() {
                state.run = found.run;
                state.tasks.extend(found.tasks.into_iter().map(|task| (task.task.clone(), task)));
                return Ok(Some(found.attempts));
            }
        }
        *state = snapshot(&self.call.db, &self.key).await?;
        Ok(None)
    }

    /// Sends what has changed of the run and of these tasks; the complete run comes last. Reads the
    /// records of the tasks' attempts unless they are here.
    async fn show(
        &mut self,
        state: &RunSnapshot,
        wanted: &BTreeSet<TaskId>,
        records: Option<Records>,
    ) -> Result<(), StreamEnd> {
        let complete = state.run.state.is_complete();
        if !complete {
            self.show_run(state).await?;
        }

        let tasks: Vec<&TaskRun> = wanted.iter().filter_map(|task| state.tasks.get(task)).collect();
        let views = match records {
            Some(records) => task_runs_with(state, &tasks, records, Attempts::Newest),
            None => task_runs(&self.call.db, state, &tasks, Attempts::Newest).await?,
        };

        for (task, view) in tasks.into_iter().zip(views) {
            // The archiver moves the log of an ended attempt. That is no news of the task.
            let mut news = view.clone();
            news.attempts.iter_mut().for_each(|attempt| attempt.log_state = 0);
            if self.tasks.get(&task.task) != Some(&news) {
                self.tasks.insert(task.task.clone(), news);
                self.send(Subject::TaskRun(view)).await?;
            }
        }

        if complete {
            self.show_run(state).await?;
        }

        Ok(())
    }

    async fn show_run(&mut self, state: &RunSnapshot) -> Result<(), StreamEnd> {
        let mut run = state.run.clone();
        pending_reason::explain(&self.call, std::slice::from_mut(&mut run)).await?;
        let view = convert::run(&run);
        if self.run.as_ref() == Some(&view) {
            return Ok(());
        }
        self.run = Some(view.clone());
        self.send(Subject::Run(view)).await
    }

    async fn send(&self, subject: Subject) -> Result<(), StreamEnd> {
        let update = Some(v1::RunUpdate { subject: Some(subject) });
        self.replies.send(v1::FollowRunResponse { update }).await
    }
}
