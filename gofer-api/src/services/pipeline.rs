//! `PipelineService`.

use std::sync::Arc;

use gofer_core::pipeline::{PipelineSpec, TaskKind};
use gofer_core::validate::{self, Violation};
use gofer_core::{Timestamp, Version};
use gofer_db::Registration;
use gofer_proto::v1;
use prost::Message;

use crate::convert;
use crate::convert::spec_diff::{changes, digest};
use crate::error::ApiError;
use crate::operations::pipelines::RegistrationOutcome;
use crate::rpc::call::{Call, service, target};
use crate::rpc::page::Page;

/// Longest encoded spec.
const SPEC_MAX_BYTES: usize = 3 * 1024 * 1024;

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
    // The largest spec takes some 100 ms: too long for a thread that serves other calls.
    let checked = tokio::task::spawn_blocking(move || acceptable(request.spec)).await;
    let spec = Arc::new(checked.unwrap_or(Err(ApiError::Broken))?);
    call.db.namespace_get(&namespace).await?;

    let registration = Registration {
        namespace,
        digest: digest(&spec),
        spec: spec.clone(),
        expected_version: request.expected_version.filter(|version| *version > 0).map(Version),
    };
    let outcome = match request.plan_only {
        true => call.pipelines().plan(&registration).await?,
        false => call.pipelines().register(&registration).await?,
    };

    let RegistrationOutcome { pipeline, version, changed, before } = outcome;
    let changes = if changed { changes(before.as_deref(), &spec) } else { Vec::new() };
    let pipeline = pipeline.map(|(pipeline, spec)| convert::pipeline(&pipeline, &spec));
    Ok(v1::RegisterPipelineResponse { pipeline, version, changed, changes })
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

    // This check comes last: where one field is too long, that field's rule says more.
    if found.is_empty() && encoded_bytes > SPEC_MAX_BYTES {
        let rule = format!("an encoded spec has at most {SPEC_MAX_BYTES} bytes");
        return Err(ApiError::invalid("spec", format!("{encoded_bytes} bytes"), rule));
    }

    if found.is_empty() { Ok(spec) } else { Err(in_spec(found)) }
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
    call.pipelines().delete(&namespace, &id).await?;
    Ok(v1::DeletePipelineResponse {})
}
