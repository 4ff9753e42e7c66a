//! `PipelineService`.

use std::sync::Arc;

use futures::StreamExt;
use futures::stream;
use gofer_core::entity::PipelineVersion;
use gofer_core::pipeline::{PipelineSpec, TaskKind};
use gofer_core::validate::{self, Violation};
use gofer_core::{
    BackendError, ExecutionId, NamespaceId, ObjectKey, SecretPath, Timestamp, Version,
};
use gofer_db::{DbError, DeletedPipeline, Registered, Registration};
use gofer_engine::layout;
use gofer_proto::v1;
use prost::Message;

use crate::convert;
use crate::convert::spec_diff::{changes, digest};
use crate::error::ApiError;
use crate::operations::secrets;
use crate::rpc::call::{Call, service, target};
use crate::rpc::context::Context;
use crate::rpc::page::Page;

/// Longest encoded spec.
const MAX_SPEC_BYTES: usize = 3 * 1024 * 1024;
/// Deletions in the stores at once, when a pipeline goes.
const DELETIONS_AT_ONCE: usize = 16;

service! {
    v1::pipeline_service_server::PipelineService {
        unary register_pipeline(v1::RegisterPipelineRequest) -> v1::RegisterPipelineResponse;
        unary get_pipeline(v1::GetPipelineRequest) -> v1::GetPipelineResponse;
        unary list_pipelines(v1::ListPipelinesRequest) -> v1::ListPipelinesResponse;
        unary get_pipeline_version(v1::GetPipelineVersionRequest) -> v1::GetPipelineVersionResponse;
        unary list_pipeline_versions(v1::ListPipelineVersionsRequest) -> v1::ListPipelineVersionsResponse;
        unary enable_pipeline(v1::EnablePipelineRequest) -> v1::EnablePipelineResponse;
        unary disable_pipeline(v1::DisablePipelineRequest) -> v1::DisablePipelineResponse;
        unary delete_pipeline(v1::DeletePipelineRequest) -> v1::DeletePipelineResponse;
    }
}

target!(namespace:
    RegisterPipelineRequest, GetPipelineRequest, ListPipelinesRequest, GetPipelineVersionRequest,
    ListPipelineVersionsRequest, EnablePipelineRequest, DisablePipelineRequest, DeletePipelineRequest,
);

async fn register_pipeline(
    call: Call,
    request: v1::RegisterPipelineRequest,
) -> Result<v1::RegisterPipelineResponse, ApiError> {
    let namespace = convert::namespace_id(&request.namespace)?;
    // Some 100 ms for the largest: nothing for a thread that others' calls wait for.
    let checked = tokio::task::spawn_blocking(move || acceptable(request.spec)).await;
    let spec = Arc::new(checked.unwrap_or(Err(ApiError::Broken))?);
    call.db.namespace_get(&namespace).await?;

    let expected = request.expected_version.filter(|version| *version > 0).map(Version);
    let latest = latest_version(&call, &namespace, &spec).await?;
    check_expected(expected, latest.as_ref())?;
    if request.plan_only {
        return plan(&call, &namespace, &spec, latest).await;
    }

    let registration = Registration {
        namespace,
        digest: digest(&spec),
        spec: spec.clone(),
        expected_version: expected,
    };

    let actor = call.identity.actor();
    let Registered { pipeline, version, changed } =
        match call.db.pipeline_register(registration.clone(), &actor, Timestamp::now()).await {
            Err(DbError::Conflict { message }) => {
                // Somebody registered since the check above.
                let latest = latest_version(&call, &registration.namespace, &spec).await?;
                check_expected(expected, latest.as_ref())?;
                return Err(DbError::Conflict { message }.into());
            }
            outcome => outcome?,
        };

    let changes = if changed { changes_since(&call, &version).await? } else { Vec::new() };
    let number = version.version.0;
    let pipeline = Some(convert::pipeline(&pipeline, &version.spec));

    Ok(v1::RegisterPipelineResponse { pipeline, version: number, changed, changes })
}

/// The spec, if it may be registered; otherwise everything that is wrong with it.
fn acceptable(spec: Option<v1::PipelineSpec>) -> Result<PipelineSpec, ApiError> {
    let spec = spec.ok_or_else(|| ApiError::invalid("spec", "", "is required"))?;
    let encoded_bytes = spec.encoded_len();
    let in_spec = |violations: Vec<Violation>| {
        let prefix = |violation: Violation| Violation {
            field: format!("spec.{}", violation.field),
            ..violation
        };
        ApiError::Invalid(violations.into_iter().map(prefix).collect())
    };

    let spec = convert::pipeline_spec_from_wire(spec).map_err(in_spec)?;
    let mut found = validate::pipeline(&spec);
    for task in &spec.tasks {
        if validate::is_enough(&found) {
            break;
        }
        if let TaskKind::Common(common) = &task.kind {
            let rule = "common tasks are not available in this version of gofer; use a custom task";
            found.push(Violation::new(format!("tasks[{}].common", task.id), &common.name, rule));
        }
    }

    for (at, subscription) in spec.subscriptions.iter().enumerate() {
        if validate::is_enough(&found) {
            break;
        }

        let rule =
            "triggers are not available in this version of gofer; leave the subscription out";
        found.push(Violation::new(
            format!("subscriptions[{at}].trigger"),
            &subscription.trigger,
            rule,
        ));
    }

    // Last: where a single field is too long, its own rule says more.
    if found.is_empty() && encoded_bytes > MAX_SPEC_BYTES {
        let rule = format!("an encoded spec has at most {MAX_SPEC_BYTES} bytes");
        return Err(ApiError::invalid("spec", format!("{encoded_bytes} bytes"), rule));
    }

    if found.is_empty() { Ok(spec) } else { Err(in_spec(found)) }
}

async fn latest_version(
    call: &Call,
    namespace: &NamespaceId,
    spec: &PipelineSpec,
) -> Result<Option<PipelineVersion>, ApiError> {
    existing(call.db.pipeline_version_get(namespace, &spec.name, None).await)
}

fn existing<T>(found: Result<T, DbError>) -> Result<Option<T>, ApiError> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(DbError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn check_expected(
    expected: Option<Version>,
    latest: Option<&PipelineVersion>,
) -> Result<(), ApiError> {
    let latest = latest.map_or(0, |latest| latest.version.0);
    match expected {
        Some(Version(expected)) if expected != latest => {
            Err(ApiError::VersionConflict { expected, latest })
        }
        _ => Ok(()),
    }
}

async fn plan(
    call: &Call,
    namespace: &NamespaceId,
    spec: &PipelineSpec,
    latest: Option<PipelineVersion>,
) -> Result<v1::RegisterPipelineResponse, ApiError> {
    let changed = latest.as_ref().is_none_or(|latest| latest.digest != digest(spec));
    let before = latest.as_ref().map(|latest| &*latest.spec);
    let changes = if changed { changes(before, spec) } else { Vec::new() };
    let latest_number = latest.as_ref().map_or(0, |latest| latest.version.0);
    let pipeline = match &latest {
        Some(latest) => {
            let pipeline = call.db.pipeline_get(namespace, &spec.name).await?;
            Some(convert::pipeline(&pipeline, &latest.spec))
        }
        None => None,
    };
    let version = if changed { latest_number + 1 } else { latest_number };
    Ok(v1::RegisterPipelineResponse { pipeline, version, changed, changes })
}

/// Against the version before, whichever that was when this one was committed.
async fn changes_since(
    call: &Call,
    version: &PipelineVersion,
) -> Result<Vec<v1::PipelineChange>, ApiError> {
    let before = match version.version.0 {
        0 | 1 => None,
        number => {
            let before = Some(Version(number - 1));
            existing(
                call.db.pipeline_version_get(&version.namespace, &version.pipeline, before).await,
            )?
        }
    };
    Ok(changes(before.as_ref().map(|before| &*before.spec), &version.spec))
}

async fn get_pipeline(
    call: Call,
    request: v1::GetPipelineRequest,
) -> Result<v1::GetPipelineResponse, ApiError> {
    let (namespace, id) = convert::pipeline_key(&request.namespace, "name", &request.name)?;
    let pipeline = call.db.pipeline_get(&namespace, &id).await?;
    Ok(v1::GetPipelineResponse { pipeline: Some(described(&call, pipeline).await?) })
}

/// A pipeline with its latest version's description.
async fn described(
    call: &Call,
    pipeline: gofer_core::entity::Pipeline,
) -> Result<v1::Pipeline, ApiError> {
    let version = Some(pipeline.latest_version);
    let latest = call.db.pipeline_version_get(&pipeline.namespace, &pipeline.id, version).await?;
    Ok(convert::pipeline(&pipeline, &latest.spec))
}

async fn list_pipelines(
    call: Call,
    request: v1::ListPipelinesRequest,
) -> Result<v1::ListPipelinesResponse, ApiError> {
    let page = Page::of(&request)?;
    let namespace = convert::namespace_id(&request.namespace)?;
    let found = call.db.pipeline_list(&namespace, &page.to_list()).await?;
    let next_page_token = page.next(found.next.as_deref());
    let mut pipelines = Vec::with_capacity(found.items.len());
    for pipeline in found.items {
        pipelines.push(described(&call, pipeline).await?);
    }
    Ok(v1::ListPipelinesResponse { pipelines, next_page_token })
}

async fn get_pipeline_version(
    call: Call,
    request: v1::GetPipelineVersionRequest,
) -> Result<v1::GetPipelineVersionResponse, ApiError> {
    let (namespace, id) = convert::pipeline_key(&request.namespace, "pipeline", &request.pipeline)?;
    let version = (request.version > 0).then_some(Version(request.version));
    let found = call.db.pipeline_version_get(&namespace, &id, version).await?;
    Ok(v1::GetPipelineVersionResponse { version: Some(convert::version(&found)) })
}

async fn list_pipeline_versions(
    call: Call,
    request: v1::ListPipelineVersionsRequest,
) -> Result<v1::ListPipelineVersionsResponse, ApiError> {
    let page = Page::of(&request)?;
    let (namespace, id) = convert::pipeline_key(&request.namespace, "pipeline", &request.pipeline)?;
    let found = call.db.pipeline_version_list(&namespace, &id, &page.to_list()).await?;
    let next_page_token = page.next(found.next.as_deref());
    let versions = found.items.into_iter().map(convert::version_summary).collect();
    Ok(v1::ListPipelineVersionsResponse { versions, next_page_token })
}

async fn enable_pipeline(
    call: Call,
    request: v1::EnablePipelineRequest,
) -> Result<v1::EnablePipelineResponse, ApiError> {
    let pipeline = set_enabled(&call, &request.namespace, &request.name, true).await?;
    Ok(v1::EnablePipelineResponse { pipeline: Some(pipeline) })
}

async fn disable_pipeline(
    call: Call,
    request: v1::DisablePipelineRequest,
) -> Result<v1::DisablePipelineResponse, ApiError> {
    let pipeline = set_enabled(&call, &request.namespace, &request.name, false).await?;
    Ok(v1::DisablePipelineResponse { pipeline: Some(pipeline) })
}

async fn set_enabled(
    call: &Call,
    namespace: &str,
    name: &str,
    enabled: bool,
) -> Result<v1::Pipeline, ApiError> {
    let (namespace, id) = convert::pipeline_key(namespace, "name", name)?;
    let actor = call.identity.actor();
    let pipeline =
        call.db.pipeline_set_enabled(&namespace, &id, enabled, &actor, Timestamp::now()).await?;
    described(call, pipeline).await
}

async fn delete_pipeline(
    call: Call,
    request: v1::DeletePipelineRequest,
) -> Result<v1::DeletePipelineResponse, ApiError> {
    let (namespace, id) = convert::pipeline_key(&request.namespace, "name", &request.name)?;
    let left =
        call.db.pipeline_delete(&namespace, &id, &call.identity.actor(), Timestamp::now()).await?;
    // The pipeline is gone, whatever the stores say; what they keep costs room and is never seen
    // again.
    let failures = clear_stores(&call.context(), left).await;
    if failures > 0 {
        tracing::warn!(%namespace, pipeline = %id, failures, "parts of a deleted pipeline are \
                                                              still stored");
    }
    Ok(v1::DeletePipelineResponse {})
}

/// Deletes what the stores hold of a deleted pipeline, and counts what could not be deleted.
async fn clear_stores(context: &Arc<Context>, left: DeletedPipeline) -> usize {
    let DeletedPipeline { objects, secrets, archived_logs, live_logs } = left;
    let objects = objects.into_iter().map(|object| Leftover::Bytes(object.location));
    let logs = archived_logs.iter().map(|id| Leftover::Bytes(layout::log_location(id)));
    let executions = live_logs.into_iter().map(Leftover::Execution);
    let values = secrets.into_iter().map(|secret| secret.location);
    let all: Vec<_> =
        objects.chain(logs).chain(executions).chain(values.map(Leftover::Value)).collect();
    let deletions = all.into_iter().map(|what| {
        let context = context.clone();
        async move { what.delete(&context).await }
    });
    let outcomes = stream::iter(deletions).buffer_unordered(DELETIONS_AT_ONCE);
    outcomes.filter(|outcome| std::future::ready(outcome.is_err())).count().await
}

/// Something a store still holds of a deleted pipeline.
enum Leftover {
    Bytes(ObjectKey),
    Value(SecretPath),
    Execution(ExecutionId),
}

impl Leftover {
    async fn delete(&self, context: &Context) -> Result<(), BackendError> {
        match self {
            Self::Bytes(location) => context.objects.delete(location).await,
            Self::Value(location) => {
                secrets::delete_value(&context.db, &*context.secrets, location).await
            }
            Self::Execution(id) => context.scheduler.remove(id).await,
        }
    }
}
