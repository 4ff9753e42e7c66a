//! `SecretService`. Values lie in the secret store, everything else in the database.

use gofer_core::Timestamp;
use gofer_core::entity::{SecretRecord, SecretScope};
use gofer_core::id::{NamespaceId, SecretPath};
use gofer_core::secret_store::MAX_SECRET_BYTES;
use gofer_engine::{layout, mask};
use gofer_proto::v1;
use gofer_proto::v1::secret_scope::Scope;
use secrecy::{ExposeSecret, SecretString};

use crate::auth::Identity;
use crate::auth::permissions::Target;
use crate::convert;
use crate::error::ApiError;
use crate::operations::secrets;
use crate::rpc::call::{Call, HasTarget, service, target};
use crate::rpc::page::Page;

/// Longest key of a secret; with its scope it must fit into a path.
const KEY_MAX_BYTES: usize = 256;
/// Shortest value that a run may mask.
const MASKED_VALUE_MIN_BYTES: usize = 4;
/// Most namespaces of a global secret.
const NAMESPACES_MAX: usize = 1000;

service! {
    v1::secret_service_server::SecretService {
        unary put_secret(v1::PutSecretRequest) -> v1::PutSecretResponse;
        unary get_secret(v1::GetSecretRequest) -> v1::GetSecretResponse;
        unary list_secrets(v1::ListSecretsRequest) -> v1::ListSecretsResponse;
        unary delete_secret(v1::DeleteSecretRequest) -> v1::DeleteSecretResponse;
        unary mask_value(v1::MaskValueRequest) -> v1::MaskValueResponse;
    }
}

macro_rules! scope_target {
    ($($request:ident),+) => {
        $(impl HasTarget for v1::$request {
            fn target(&self) -> Target<'_> {
                match self.scope.as_ref().and_then(|scope| scope.scope.as_ref()) {
                    Some(Scope::PipelineScope(scope)) => Target::Namespace(&scope.namespace),
                    Some(Scope::GlobalScope(_)) | None => Target::Installation,
                }
            }
        })+
    };
}

target!(installation: MaskValueRequest);

scope_target!(PutSecretRequest, GetSecretRequest, ListSecretsRequest, DeleteSecretRequest);

/// The scope of a request, once its key is known to be one.
fn checked_scope(scope: Option<&v1::SecretScope>, key: &str) -> Result<SecretScope, ApiError> {
    let scope = convert::secret_scope(scope)?;
    fresh_location(&scope, key)?;
    Ok(scope)
}

/// Where a new value of the secret will lie.
fn fresh_location(scope: &SecretScope, key: &str) -> Result<SecretPath, ApiError> {
    convert::text("key", key, KEY_MAX_BYTES)?;
    layout::secret_location(scope, key).map_err(|error| ApiError::bad_id("key", &error))
}

async fn put_secret(
    call: Call,
    mut request: v1::PutSecretRequest,
) -> Result<v1::PutSecretResponse, ApiError> {
    let value = SecretString::from(std::mem::take(&mut request.value));
    let scope = convert::secret_scope(request.scope.as_ref())?;
    let location = fresh_location(&scope, &request.key)?;
    check_value(&value)?;

    let allowed_namespaces = allowed_namespaces(&scope, &request.allowed_namespaces)?;
    check_pipeline(&call, &scope).await?;

    let now = Timestamp::now();
    let record = SecretRecord {
        scope,
        key: request.key,
        location,
        allowed_namespaces,
        updated_by: call.identity.actor(),
        created_at: now,
        updated_at: now,
    };

    let record = secrets::put(&call.db, &*call.secrets, &record, &value, request.if_absent).await?;
    let warning = mask::warning(&value).unwrap_or_default().to_owned();
    Ok(v1::PutSecretResponse { secret: Some(convert::secret(&record)), warning })
}

/// The value itself is never repeated in an error.
fn check_value(value: &SecretString) -> Result<(), ApiError> {
    let size_bytes = value.expose_secret().len();
    if size_bytes == 0 {
        return Err(ApiError::invalid(
            "value",
            "",
            "1 byte to 64 KiB; to remove a secret, delete it",
        ));
    }

    if size_bytes > MAX_SECRET_BYTES {
        return Err(ApiError::invalid("value", format!("{size_bytes} bytes"), "1 byte to 64 KiB"));
    }

    if value.expose_secret().contains('\0') {
        return Err(ApiError::invalid(
            "value",
            "",
            "a value has no NUL character; no environment could hold it",
        ));
    }

    Ok(())
}

fn allowed_namespaces(scope: &SecretScope, names: &[String]) -> Result<Vec<NamespaceId>, ApiError> {
    let count = names.len();
    if *scope != SecretScope::Global && count > 0 {
        let rule = "for global secrets only; a pipeline's secret is for that pipeline";
        return Err(ApiError::invalid("allowed_namespaces", count.to_string(), rule));
    }
    if count > NAMESPACES_MAX {
        return Err(ApiError::invalid("allowed_namespaces", count.to_string(), "at most 1000"));
    }
    let id = |(at, name): (usize, &String)| {
        convert::id(&format!("allowed_namespaces[{at}]"), name, |name| NamespaceId::new(name))
    };
    names.iter().enumerate().map(id).collect()
}

async fn check_pipeline(call: &Call, scope: &SecretScope) -> Result<(), ApiError> {
    if let SecretScope::Pipeline(namespace, pipeline) = scope {
        call.db.pipeline_get(namespace, pipeline).await?;
    }
    Ok(())
}

async fn get_secret(
    call: Call,
    request: v1::GetSecretRequest,
) -> Result<v1::GetSecretResponse, ApiError> {
    let scope = checked_scope(request.scope.as_ref(), &request.key)?;
    let (record, value) = secrets::get(&call.db, &*call.secrets, &scope, &request.key).await?;
    let value = value.expose_secret().to_owned();
    Ok(v1::GetSecretResponse { secret: Some(convert::secret(&record)), value })
}

async fn list_secrets(
    call: Call,
    request: v1::ListSecretsRequest,
) -> Result<v1::ListSecretsResponse, ApiError> {
    let page = Page::of(&request)?;
    let scope = convert::secret_scope(request.scope.as_ref())?;
    convert::text("prefix", &request.prefix, KEY_MAX_BYTES)?;
    let found = call.db.secret_list(&scope, &request.prefix, &page.to_list()).await?;
    let next_page_token = page.next(found.next.as_deref());
    Ok(v1::ListSecretsResponse {
        secrets: found.items.iter().map(convert::secret).collect(),
        next_page_token,
    })
}

async fn delete_secret(
    call: Call,
    request: v1::DeleteSecretRequest,
) -> Result<v1::DeleteSecretResponse, ApiError> {
    let scope = checked_scope(request.scope.as_ref(), &request.key)?;
    let actor = call.identity.actor();
    let existed = secrets::delete(&call.db, &*call.secrets, &scope, &request.key, &actor).await?;
    Ok(v1::DeleteSecretResponse { existed })
}

/// For the run whose token calls.
async fn mask_value(
    call: Call,
    mut request: v1::MaskValueRequest,
) -> Result<v1::MaskValueResponse, ApiError> {
    let value = SecretString::from(std::mem::take(&mut request.value));
    let Identity::Run(run) = &call.identity else {
        return Err(ApiError::Forbidden {
            message: "this call is for the token of a run, about itself".to_owned(),
        });
    };
    check_value(&value)?;
    if value.expose_secret().trim().len() < MASKED_VALUE_MIN_BYTES {
        let rule =
            "at least 4 bytes besides white space: a shorter value is everywhere in ordinary text";
        return Err(ApiError::invalid("value", "", rule));
    }
    call.engine.mask_value(run, &value, call.identity.actor()).await?;
    Ok(v1::MaskValueResponse { warning: mask::warning(&value).unwrap_or_default().to_owned() })
}
