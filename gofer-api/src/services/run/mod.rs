//! `RunService`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use gofer_core::journal::RunSnapshot;
use gofer_core::run::{AttemptRecord, CancelRequest, TaskRun};
use gofer_core::{RunKey, TaskId, Timestamp, Version};
use gofer_db::{EventFilter, RunFilter};
use gofer_engine::StartRun;
use gofer_proto::v1;
use gofer_proto::v1::run_update::Subject;
use tokio::sync::watch;

use self::view::{Attempts, NAMED_TASKS, snapshot, task_runs, task_runs_with};
use super::{Outlet, Stop, produce};
use crate::rpc::call::{Call, Replies, about, service};
use crate::convert;
use crate::error::ApiError;
use crate::rpc::page::Page;

/// Longest idempotency key.
const MAX_IDEMPOTENCY_KEY_BYTES: usize = 128;
/// Time between two signs of life of a stream; the contract promises 30 s.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(15);
/// Events read at a time while following.
const EVENT_PAGE: usize = 500;

mod pending_reason;
mod timeline;
pub(super) mod view;

service! {
    v1::run_service_server::RunService {
        unary start_run(v1::StartRunRequest) -> v1::StartRunResponse;
        unary get_run(v1::GetRunRequest) -> v1::GetRunResponse;
        unary list_runs(v1::ListRunsRequest) -> v1::ListRunsResponse;
        unary cancel_run(v1::CancelRunRequest) -> v1::CancelRunResponse;
        unary retry_run(v1::RetryRunRequest) -> v1::RetryRunResponse;
        unary get_run_timeline(v1::GetRunTimelineRequest) -> v1::GetRunTimelineResponse;
        streaming follow_run(v1::FollowRunRequest) -> FollowRunStream<v1::FollowRunResponse>;
    }
}

about!(namespace:
    StartRunRequest, GetRunRequest, ListRunsRequest, CancelRunRequest, RetryRunRequest, FollowRunRequest,
    GetRunTimelineRequest,
);

async fn start_run(
    call: Call,
    request: v1::StartRunRequest,
) -> Result<v1::StartRunResponse, ApiError> {
    let (namespace, pipeline) =
        convert::pipeline_key(&request.namespace, "pipeline", &request.pipeline)?;
    let key = request.idempotency_key;
    if key.len() > MAX_IDEMPOTENCY_KEY_BYTES
        || !key.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ')
    {
        return Err(ApiError::invalid(
            "idempotency_key",
            key,
            "at most 128 printable ASCII characters",
        ));
    }

    let start = StartRun {
        namespace,
        pipeline,
        version: (request.version > 0).then_some(Version(request.version)),
        variables: request.variables,
        initiator: call.identity.initiator(),
        idempotency_key: (!key.is_empty()).then_some(key),
    };

    let run = call.engine.start_run(start).await?;
    Ok(v1::StartRunResponse { run: Some(convert::run(&run)) })
}

async fn get_run(call: Call, request: v1::GetRunRequest) -> Result<v1::GetRunResponse, ApiError> {
    let key = convert::run_key(&request.namespace, &request.pipeline, request.run)?;
    let mut snapshot = snapshot(&call.db, &key).await?;
    pending_reason::explain(&call, std::slice::from_mut(&mut snapshot.run)).await?;
    let tasks: Vec<&TaskRun> = snapshot.tasks.values().collect();
    let task_runs = task_runs(&call.db, &snapshot, &tasks, Attempts::Newest).await?;
    Ok(v1::GetRunResponse { run: Some(convert::run(&snapshot.run)), task_runs })
}

async fn get_run_timeline(
    call: Call,
    request: v1::GetRunTimelineRequest,
) -> Result<v1::GetRunTimelineResponse, ApiError> {
    timeline::get(call, request).await
}

async fn list_runs(
    call: Call,
    request: v1::ListRunsRequest,
) -> Result<v1::ListRunsResponse, ApiError> {
    let page = Page::of(&request)?;
    let namespace = convert::namespace_id(&request.namespace)?;
    call.db.namespace_get(&namespace).await?;
    let pipeline = match request.pipeline.as_str() {
        "" => None,
        name => {
            let (_, pipeline) = convert::pipeline_key(&request.namespace, "pipeline", name)?;
            call.db.pipeline_get(&namespace, &pipeline).await?;
            Some(pipeline)
        }
    };

    let filter = RunFilter {
        pipeline,
        states: each_once(&request.states).map(convert::run_state).collect::<Result<_, _>>()?,
        statuses: each_once(&request.statuses)
            .map(convert::run_status)
            .collect::<Result<_, _>>()?,
    };

    let mut found = call.db.run_list(&namespace, &filter, &page.to_list()).await?;
    pending_reason::explain(&call, &mut found.items).await?;
    let next_page_token = page.next(found.next.as_deref());

    Ok(v1::ListRunsResponse {
        runs: found.items.iter().map(convert::run_summary).collect(),
        next_page_token,
    })
}

/// A request may repeat a value a million times, and a query has room for some.
fn each_once(values: &[i32]) -> impl Iterator<Item = i32> {
    values.iter().copied().collect::<BTreeSet<_>>().into_iter()
}

async fn cancel_run(
    call: Call,
    request: v1::CancelRunRequest,
) -> Result<v1::CancelRunResponse, ApiError> {
    let key = convert::run_key(&request.namespace, &request.pipeline, request.run)?;
    let cancel = cancel_request(&call, request.force, request.reason)?;
    call.engine.cancel_run(&key, cancel).await?;
    let run = call.db.run_get(&key).await?;
    Ok(v1::CancelRunResponse { run: Some(convert::run(&run)) })
}

/// A caller's wish to cancel something.
pub(super) fn cancel_request(
    call: &Call,
    force: bool,
    reason: String,
) -> Result<CancelRequest, ApiError> {
    convert::free_text("reason", &reason, convert::MAX_REASON_BYTES)?;
    Ok(CancelRequest { at: Timestamp::now(), by: call.identity.actor(), force, message: reason })
}

async fn retry_run(
    call: Call,
    request: v1::RetryRunRequest,
) -> Result<v1::RetryRunResponse, ApiError> {
    let key = convert::run_key(&request.namespace, &request.pipeline, request.run)?;
    let run = call.engine.retry_run(&key, request.from_failed, call.identity.initiator()).await?;
    Ok(v1::RetryRunResponse { run: Some(convert::run(&run)) })
}

async fn follow_run(
    call: Call,
    request: v1::FollowRunRequest,
) -> Result<Replies<v1::FollowRunResponse>, ApiError> {
    let key = convert::run_key(&request.namespace, &request.pipeline, request.run)?;
    call.db.run_get(&key).await?;
    Ok(produce(&call.clone(), move |outlet| Follower::new(call, key, outlet).follow()))
}

/// Finished attempts and whose they are.
type Records = Vec<(TaskId, AttemptRecord)>;

/// Tells one reader of one run's changes. It sleeps until an event is committed, and looks at what
/// the events name.
struct Follower {
    call: Call,
    key: RunKey,
    outlet: Outlet<v1::FollowRunResponse>,
    run: Option<v1::Run>,
    tasks: BTreeMap<TaskId, v1::TaskRun>,
}

impl Follower {
    fn new(call: Call, key: RunKey, outlet: Outlet<v1::FollowRunResponse>) -> Self {
        Self { call, key, outlet, run: None, tasks: BTreeMap::new() }
    }

    async fn follow(mut self) -> Result<(), Stop> {
        let mut events = self.call.db.event_watch();
        // Read before the state: whatever is committed from here on is looked at again.
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
    ) -> Result<BTreeSet<TaskId>, Stop> {
        let filter = EventFilter {
            namespaces: Some(vec![self.key.namespace.clone()]),
            pipeline: Some(self.key.pipeline.clone()),
            run: Some(self.key.run),
            types: Vec::new(),
        };
        loop {
            match tokio::time::timeout(HEARTBEAT, events.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(Stop::Failed(ApiError::ShuttingDown)),
                Err(_) => {
                    self.outlet.send(v1::FollowRunResponse { update: None }).await?;
                    continue;
                }
            }

            let newest = *events.borrow_and_update();
            let found = self.call.db.event_list_after(*cursor, &filter, EVENT_PAGE).await?;
            *cursor = match found.last() {
                Some(last) if found.len() == EVENT_PAGE => last.id,
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
    ) -> Result<Option<Records>, Stop> {
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
    ) -> Result<(), Stop> {
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
            // Where an ended attempt's log lies changes behind the scenes; it is no news of the
            // task.
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

    async fn show_run(&mut self, state: &RunSnapshot) -> Result<(), Stop> {
        let mut run = state.run.clone();
        pending_reason::explain(&self.call, std::slice::from_mut(&mut run)).await?;
        let view = convert::run(&run);
        if self.run.as_ref() == Some(&view) {
            return Ok(());
        }
        self.run = Some(view.clone());
        self.send(Subject::Run(view)).await
    }

    async fn send(&self, subject: Subject) -> Result<(), Stop> {
        let update = Some(v1::RunUpdate { subject: Some(subject) });
        self.outlet.send(v1::FollowRunResponse { update }).await
    }
}
