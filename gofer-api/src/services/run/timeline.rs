//! `RunService.GetRunTimeline`.

use std::collections::{BTreeMap, HashMap};

use gofer_core::event::NewEvent;
use gofer_core::journal::RunSnapshot;
use gofer_core::run::{AttemptRecord, RunState};
use gofer_core::{RunKey, TaskId};
use gofer_engine::timeline::{self, RunFacts, Span};
use gofer_proto::v1;

use super::pending_reason;
use super::view::snapshot;
use crate::convert;
use crate::error::ApiError;
use crate::rpc::call::Call;
use crate::rpc::page::Page;

pub(super) async fn get(
    call: Call,
    request: v1::GetRunTimelineRequest,
) -> Result<v1::GetRunTimelineResponse, ApiError> {
    let page = Page::of(&request)?;
    let key = convert::run_key(&request.namespace, &request.pipeline, request.run)?;
    let snapshot = snapshot(&call.db, &key).await?;
    let mut spans = match page.after {
        None => timeline::of_run(&snapshot.run, &facts(&call, &snapshot).await?),
        Some(_) => Vec::new(),
    };

    let later = |task: &&TaskId| page.after.as_deref().is_none_or(|after| task.as_str() > after);
    let mut rest = snapshot.tasks.keys().filter(later);
    let tasks: Vec<TaskId> = rest.by_ref().take(page.limit).cloned().collect();
    let next_page_token = page.next(rest.next().and(tasks.last()).map(TaskId::as_str));
    spans.extend(of_tasks(&call, &key, &snapshot, &tasks).await?);

    Ok(v1::GetRunTimelineResponse {
        spans: spans.iter().map(convert::timeline_span).collect(),
        next_page_token,
    })
}

async fn facts(call: &Call, snapshot: &RunSnapshot) -> Result<RunFacts, ApiError> {
    let records = call.db.run_records(&snapshot.run.key).await?;
    let mut run = snapshot.run.clone();
    pending_reason::explain(call, std::slice::from_mut(&mut run)).await?;
    Ok(RunFacts {
        waits: run.reason.filter(|_| run.state == RunState::Pending),
        made_room: records.ended_before.filter(|_| snapshot.spec.parallelism.is_some()),
        live_logs: records.live_logs,
        last_archived: records.last_archived,
    })
}

async fn of_tasks(
    call: &Call,
    key: &RunKey,
    snapshot: &RunSnapshot,
    tasks: &[TaskId],
) -> Result<Vec<Span>, ApiError> {
    let mut attempts: BTreeMap<TaskId, Vec<AttemptRecord>> = BTreeMap::new();
    for (task, record) in call.db.attempt_list(key, Some(tasks)).await? {
        attempts.entry(task).or_default().push(record);
    }

    let mut events: HashMap<TaskId, Vec<NewEvent>> = HashMap::new();
    for event in call.db.task_event_list(key, tasks, &timeline::EVENT_TYPES).await? {
        if let Some(task) = event.body.subject.task.clone() {
            events.entry(task).or_default().push(event.body);
        }
    }

    let none = (Vec::new(), Vec::new());
    let of_task = |task| {
        let attempts = attempts.get(task).unwrap_or(&none.0);
        timeline::of_task(snapshot, task, attempts, events.get(task).unwrap_or(&none.1))
    };

    Ok(tasks.iter().flat_map(of_task).collect())
}
