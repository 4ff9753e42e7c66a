//! `NamespaceService`.

use gofer_core::{NamespaceId, Timestamp};
use gofer_proto::v1;

use crate::call::{About, Call, about, service};
use crate::convert;
use crate::error::ApiError;
use crate::page::Page;
use crate::permissions::Target;

service! {
    v1::namespace_service_server::NamespaceService {
        unary create_namespace(v1::CreateNamespaceRequest) -> v1::CreateNamespaceResponse;
        unary get_namespace(v1::GetNamespaceRequest) -> v1::GetNamespaceResponse;
        unary list_namespaces(v1::ListNamespacesRequest) -> v1::ListNamespacesResponse;
        unary update_namespace(v1::UpdateNamespaceRequest) -> v1::UpdateNamespaceResponse;
        unary delete_namespace(v1::DeleteNamespaceRequest) -> v1::DeleteNamespaceResponse;
    }
}

about!(installation: CreateNamespaceRequest, UpdateNamespaceRequest, DeleteNamespaceRequest);

impl About for v1::GetNamespaceRequest {
    fn about(&self) -> Target<'_> {
        Target::Namespace(&self.id)
    }
}

impl About for v1::ListNamespacesRequest {
    fn about(&self) -> Target<'_> {
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
    convert::free_text("description", &request.description, convert::MAX_DESCRIPTION_BYTES)?;
    let actor = call.identity.actor();
    let made = call.db.namespace_create(&id, &request.description, &actor, Timestamp::now()).await?;
    Ok(v1::CreateNamespaceResponse { namespace: Some(convert::namespace(made)) })
}

async fn get_namespace(call: Call, request: v1::GetNamespaceRequest) -> Result<v1::GetNamespaceResponse, ApiError> {
    let found = call.db.namespace_get(&id(&request.id)?).await?;
    Ok(v1::GetNamespaceResponse { namespace: Some(convert::namespace(found)) })
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
    convert::free_text("description", &request.description, convert::MAX_DESCRIPTION_BYTES)?;
    let actor = call.identity.actor();
    let changed = call.db.namespace_update(&id, &request.description, &actor, Timestamp::now()).await?;
    Ok(v1::UpdateNamespaceResponse { namespace: Some(convert::namespace(changed)) })
}

async fn delete_namespace(
    call: Call,
    request: v1::DeleteNamespaceRequest,
) -> Result<v1::DeleteNamespaceResponse, ApiError> {
    call.db.namespace_delete(&id(&request.id)?, &call.identity.actor(), Timestamp::now()).await?;
    Ok(v1::DeleteNamespaceResponse {})
}
