//! `RunService`.
//!
//! ```text
//! StartRun, CancelRun, RetryRun ─▶ engine
//! GetRun, ListRuns ──────────────▶ view (task runs, attempts), pending_reason (why it waits)
//! FollowRun ─▶ follow ───────────▶ view, pending_reason, at each event of the run
//! GetRunTimeline ─▶ timeline ────▶ view, pending_reason, the engine's spans
//! ```

use std::collections::BTreeSet;

use gofer_core::Version;
use gofer_core::run::TaskRun;
use gofer_db::RunFilter;
use gofer_engine::StartRun;
use gofer_proto::v1;

use self::follow::Follower;
use self::view::{Attempts, snapshot, task_runs};
use crate::convert;
use crate::error::ApiError;
use crate::rpc::call::{Call, ReplyStream, service, target};
use crate::rpc::page::Page;
use crate::rpc::streams::produce;

/// Longest idempotency key.
const IDEMPOTENCY_KEY_MAX_BYTES: usize = 128;

mod follow;
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
        server_streaming follow_run(v1::FollowRunRequest) -> FollowRunStream<v1::FollowRunResponse>;
    }
}

target!(namespace:
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
    if key.len() > IDEMPOTENCY_KEY_MAX_BYTES
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
    let cancel = convert::cancel_request(call.identity.actor(), request.force, request.reason)?;
    call.engine.cancel_run(&key, cancel).await?;
    let run = call.db.run_get(&key).await?;
    Ok(v1::CancelRunResponse { run: Some(convert::run(&run)) })
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
) -> Result<ReplyStream<v1::FollowRunResponse>, ApiError> {
    let key = convert::run_key(&request.namespace, &request.pipeline, request.run)?;
    call.db.run_get(&key).await?;
    Ok(produce(&call.clone(), move |replies| Follower::new(call, key, replies).follow()))
}
