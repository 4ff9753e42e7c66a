//! `TaskRunService`.
//!
//! ```text
//! GetTaskRun, ListTaskRuns ─▶ run::view
//! CancelTaskRun, StreamLogs ▶ engine
//! Exec ─▶ exec ─(event, quota)─▶ Db ─▶ engine ─▶ a session: bytes both ways
//! ```

use futures::StreamExt;
use gofer_core::run::TaskRun;
use gofer_core::{Attempt, ExecutionId, Resource};
use gofer_proto::v1;

use self::exec::exec;
use super::run::view::{Attempts, snapshot, task_runs};
use crate::convert;
use crate::error::ApiError;
use crate::rpc::call::{Call, ReplyStream, service, target};
use crate::rpc::page::Page;

mod exec;

service! {
    v1::task_run_service_server::TaskRunService {
        unary get_task_run(v1::GetTaskRunRequest) -> v1::GetTaskRunResponse;
        unary list_task_runs(v1::ListTaskRunsRequest) -> v1::ListTaskRunsResponse;
        unary cancel_task_run(v1::CancelTaskRunRequest) -> v1::CancelTaskRunResponse;
        server_streaming stream_logs(v1::StreamLogsRequest) -> StreamLogsStream<v1::StreamLogsResponse>;
        bidi exec(v1::ExecRequest) -> ExecStream<v1::ExecResponse>;
    }
}

target!(namespace: GetTaskRunRequest, ListTaskRunsRequest, CancelTaskRunRequest, StreamLogsRequest, ExecHeader);

async fn get_task_run(
    call: Call,
    request: v1::GetTaskRunRequest,
) -> Result<v1::GetTaskRunResponse, ApiError> {
    let id = execution(&request.namespace, &request.pipeline, request.run, &request.task)?;
    Ok(v1::GetTaskRunResponse { task_run: Some(view(&call, &id).await?) })
}

/// The first execution of a task, as a name for the task itself.
fn execution(
    namespace: &str,
    pipeline: &str,
    run: u64,
    task: &str,
) -> Result<ExecutionId, ApiError> {
    let run = convert::run_key(namespace, pipeline, run)?;
    Ok(ExecutionId { run, task: convert::task_id(task)?, attempt: Attempt::FIRST })
}

async fn view(call: &Call, id: &ExecutionId) -> Result<v1::TaskRun, ApiError> {
    let snapshot = snapshot(&call.db, &id.run).await?;
    let missing = || ApiError::not_found(Resource::TaskRun, format!("{}/{}", id.run, id.task));
    let task = snapshot.tasks.get(&id.task).ok_or_else(missing)?;
    let views = task_runs(&call.db, &snapshot, &[task], Attempts::All).await?;
    views.into_iter().next().ok_or_else(missing)
}

async fn list_task_runs(
    call: Call,
    request: v1::ListTaskRunsRequest,
) -> Result<v1::ListTaskRunsResponse, ApiError> {
    let page = Page::of(&request)?;
    let key = convert::run_key(&request.namespace, &request.pipeline, request.run)?;
    let snapshot = snapshot(&call.db, &key).await?;
    let after = page.after.as_deref().unwrap_or_default();
    let mut tasks: Vec<&TaskRun> = snapshot
        .tasks
        .values()
        .filter(|task| task.task.as_str() > after)
        .take(page.limit + 1)
        .collect();
    let more = tasks.len() > page.limit;

    tasks.truncate(page.limit);
    let end = if more { tasks.last().map(|task| task.task.as_str()) } else { None };
    let next_page_token = page.next(end);
    let task_runs = task_runs(&call.db, &snapshot, &tasks, Attempts::Newest).await?;

    Ok(v1::ListTaskRunsResponse { task_runs, next_page_token })
}

async fn cancel_task_run(
    call: Call,
    request: v1::CancelTaskRunRequest,
) -> Result<v1::CancelTaskRunResponse, ApiError> {
    let id = execution(&request.namespace, &request.pipeline, request.run, &request.task)?;
    let cancel = convert::cancel_request(call.identity.actor(), request.force, request.reason)?;
    call.engine.cancel_task(&id.run, &id.task, cancel).await?;
    Ok(v1::CancelTaskRunResponse { task_run: Some(view(&call, &id).await?) })
}

async fn stream_logs(
    call: Call,
    request: v1::StreamLogsRequest,
) -> Result<ReplyStream<v1::StreamLogsResponse>, ApiError> {
    let mut id = execution(&request.namespace, &request.pipeline, request.run, &request.task)?;
    id.attempt = match request.attempt {
        0 => call.db.task_run_get(&id.run, &id.task).await?.attempt,
        attempt => Attempt(attempt),
    };
    let attempt = id.attempt.0;
    let chunks = call.engine.logs(&id, convert::log_cursor(request.cursor), request.follow).await?;
    let replies = chunks.map(move |chunk| {
        let chunk = Some(convert::log_chunk(chunk?));
        Ok(v1::StreamLogsResponse { chunk, attempt })
    });
    Ok(replies.boxed())
}
