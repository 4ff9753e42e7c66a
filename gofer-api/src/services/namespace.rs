//! `NamespaceService`.

use gofer_core::quota::{MAX_LIMIT, QuotaKind};
use gofer_core::{NamespaceId, Timestamp};
use gofer_proto::v1;

use crate::auth::permissions::Target;
use crate::convert;
use crate::error::ApiError;
use crate::rpc::call::{Call, HasTarget, service, target};
use crate::rpc::page::Page;

service! {
    v1::namespace_service_server::NamespaceService {
        unary create_namespace(v1::CreateNamespaceRequest) -> v1::CreateNamespaceResponse;
        unary get_namespace(v1::GetNamespaceRequest) -> v1::GetNamespaceResponse;
        unary list_namespaces(v1::ListNamespacesRequest) -> v1::ListNamespacesResponse;
        unary update_namespace(v1::UpdateNamespaceRequest) -> v1::UpdateNamespaceResponse;
        unary update_namespace_quotas(v1::UpdateNamespaceQuotasRequest) -> v1::UpdateNamespaceQuotasResponse;
        unary delete_namespace(v1::DeleteNamespaceRequest) -> v1::DeleteNamespaceResponse;
    }
}

target!(
    installation: CreateNamespaceRequest,
    UpdateNamespaceRequest,
    UpdateNamespaceQuotasRequest,
    DeleteNamespaceRequest
);

impl HasTarget for v1::GetNamespaceRequest {
    fn target(&self) -> Target<'_> {
        Target::Namespace(&self.id)
    }
}

impl HasTarget for v1::ListNamespacesRequest {
    fn target(&self) -> Target<'_> {
        Target::Namespace("")
    }
}

fn id(value: &str) -> Result<NamespaceId, ApiError> {
    convert::id("id", value, |value| NamespaceId::new(value))
}

async fn create_namespace(
    call: Call,
    request: v1::CreateNamespaceRequest,
) -> Result<v1::CreateNamespaceResponse, ApiError> {
    let id = id(&request.id)?;
    convert::free_text("description", &request.description, convert::DESCRIPTION_MAX_BYTES)?;
    let actor = call.identity.actor();
    let made =
        call.db.namespace_create(&id, &request.description, &actor, Timestamp::now()).await?;
    Ok(v1::CreateNamespaceResponse { namespace: Some(convert::namespace(made)) })
}

async fn get_namespace(
    call: Call,
    request: v1::GetNamespaceRequest,
) -> Result<v1::GetNamespaceResponse, ApiError> {
    let found = call.db.namespace_get(&id(&request.id)?).await?;
    let quotas = quotas(&call, &found.id).await?;
    Ok(v1::GetNamespaceResponse { namespace: Some(convert::namespace(found)), quotas })
}

async fn quotas(call: &Call, namespace: &NamespaceId) -> Result<Vec<v1::Quota>, ApiError> {
    let found = call.db.quota_list(namespace, Timestamp::now()).await?;
    Ok(found.into_iter().map(convert::quota).collect())
}

async fn list_namespaces(
    call: Call,
    request: v1::ListNamespacesRequest,
) -> Result<v1::ListNamespacesResponse, ApiError> {
    let page = Page::of(&request)?;
    let visible = call.identity.visible_namespaces();
    let found = call.db.namespace_list(visible.as_deref(), &page.to_list()).await?;
    let next_page_token = page.next(found.next.as_deref());
    let namespaces = found.items.into_iter().map(convert::namespace).collect();
    Ok(v1::ListNamespacesResponse { namespaces, next_page_token })
}

async fn update_namespace(
    call: Call,
    request: v1::UpdateNamespaceRequest,
) -> Result<v1::UpdateNamespaceResponse, ApiError> {
    let id = id(&request.id)?;
    convert::free_text("description", &request.description, convert::DESCRIPTION_MAX_BYTES)?;
    let actor = call.identity.actor();
    let changed =
        call.db.namespace_update(&id, &request.description, &actor, Timestamp::now()).await?;
    Ok(v1::UpdateNamespaceResponse { namespace: Some(convert::namespace(changed)) })
}

async fn update_namespace_quotas(
    call: Call,
    request: v1::UpdateNamespaceQuotasRequest,
) -> Result<v1::UpdateNamespaceQuotasResponse, ApiError> {
    let id = id(&request.id)?;
    let mut changes = Vec::new();
    for (name, limit) in &request.limits {
        let quota = quota("limits", name)?;
        if *limit > MAX_LIMIT {
            return Err(ApiError::invalid(
                format!("limits[{name}]"),
                limit.to_string(),
                format!("at most {MAX_LIMIT}"),
            ));
        }

        changes.push((quota, Some(*limit)));
    }

    for name in &request.defaults {
        let quota = quota("defaults", name)?;
        if changes.iter().any(|(changed, _)| *changed == quota) {
            return Err(ApiError::invalid(
                "defaults",
                name,
                "each quota is named once, in `limits` or in `defaults`",
            ));
        }

        changes.push((quota, None));
    }

    call.db.quota_set(&id, &changes, &call.identity.actor(), Timestamp::now()).await?;
    call.engine.quotas_changed();
    Ok(v1::UpdateNamespaceQuotasResponse { quotas: quotas(&call, &id).await? })
}

fn quota(field: &str, name: &str) -> Result<QuotaKind, ApiError> {
    let names =
        || QuotaKind::ALL.iter().map(|kind| format!("`{kind}`")).collect::<Vec<_>>().join(", ");
    QuotaKind::parse(name)
        .ok_or_else(|| ApiError::invalid(field, name, format!("a quota: one of {}", names())))
}

async fn delete_namespace(
    call: Call,
    request: v1::DeleteNamespaceRequest,
) -> Result<v1::DeleteNamespaceResponse, ApiError> {
    call.db.namespace_delete(&id(&request.id)?, &call.identity.actor(), Timestamp::now()).await?;
    Ok(v1::DeleteNamespaceResponse {})
}
