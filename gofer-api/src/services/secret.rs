//! `SecretService`. Values lie in the secret store, everything else in the database.

use gofer_core::entity::{SecretRecord, SecretScope};
use gofer_core::id::{NamespaceId, SecretPath};
use gofer_core::object_store::PutOptions;
use gofer_core::secret_store::MAX_SECRET_BYTES;
use gofer_core::{ErrorKind, Timestamp};
use gofer_db::DbError;
use gofer_engine::layout;
use gofer_proto::v1;
use gofer_proto::v1::secret_scope::Scope;
use secrecy::{ExposeSecret, SecretString};

use crate::call::{About, Call, service};
use crate::convert;
use crate::error::ApiError;
use crate::page::Page;
use crate::permissions::Target;

/// Longest key of a secret; with its scope it must fit into a path.
const MAX_KEY_BYTES: usize = 256;
/// Most namespaces of a global secret.
const MAX_NAMESPACES: usize = 1000;

service! {
    v1::secret_service_server::SecretService {
        unary put_secret(v1::PutSecretRequest) -> v1::PutSecretResponse;
        unary get_secret(v1::GetSecretRequest) -> v1::GetSecretResponse;
        unary list_secrets(v1::ListSecretsRequest) -> v1::ListSecretsResponse;
        unary delete_secret(v1::DeleteSecretRequest) -> v1::DeleteSecretResponse;
    }
}

macro_rules! about_scope {
    ($($request:ident),+) => {
        $(impl About for v1::$request {
            fn about(&self) -> Target<'_> {
                match self.scope.as_ref().and_then(|scope| scope.scope.as_ref()) {
                    Some(Scope::PipelineScope(scope)) => Target::Namespace(&scope.namespace),
                    Some(Scope::GlobalScope(_)) | None => Target::Installation,
                }
            }
        })+
    };
}

about_scope!(PutSecretRequest, GetSecretRequest, ListSecretsRequest, DeleteSecretRequest);

/// The scope and key of a request, and where the value lies.
fn place(scope: Option<&v1::SecretScope>, key: &str) -> Result<(SecretScope, SecretPath), ApiError> {
    let scope = convert::secret_scope(scope)?;
    convert::text("key", key, MAX_KEY_BYTES)?;
    let path = layout::secret_path(&scope, key).map_err(|error| ApiError::bad_id("key", &error))?;
    Ok((scope, path))
}

async fn put_secret(call: Call, mut request: v1::PutSecretRequest) -> Result<v1::PutSecretResponse, ApiError> {
    let value = SecretString::from(std::mem::take(&mut request.value));
    let (scope, path) = place(request.scope.as_ref(), &request.key)?;
    check_value(&value)?;
    let allowed_namespaces = allowed_namespaces(&scope, &request.allowed_namespaces)?;
    check_pipeline(&call, &scope).await?;
    let now = Timestamp::now();
    let record = SecretRecord {
        scope,
        key: request.key,
        allowed_namespaces,
        updated_by: call.identity.actor(),
        created_at: now,
        updated_at: now,
    };
    // Value and record lie in two stores: one change at a time keeps them the same, and `if_absent` true for both.
    let _one_at_a_time = call.admin.lock().await;
    if request.if_absent && exists(&call, &record).await? {
        return Err(ApiError::AlreadyExists { what: "secret", key: record.key });
    }
    call.secrets.put(&path, &value, PutOptions::default()).await?;
    let record = call.db.secret_put_record(&record, request.if_absent).await?;
    Ok(v1::PutSecretResponse { secret: Some(convert::secret(&record)) })
}

/// The value itself is never repeated in an error.
fn check_value(value: &SecretString) -> Result<(), ApiError> {
    let size_bytes = value.expose_secret().len();
    if size_bytes == 0 {
        return Err(ApiError::invalid("value", "", "1 byte to 64 KiB; to remove a secret, delete it"));
    }
    if size_bytes > MAX_SECRET_BYTES {
        return Err(ApiError::invalid("value", format!("{size_bytes} bytes"), "1 byte to 64 KiB"));
    }
    Ok(())
}

fn allowed_namespaces(scope: &SecretScope, names: &[String]) -> Result<Vec<NamespaceId>, ApiError> {
    let count = names.len();
    if *scope != SecretScope::Global && count > 0 {
        let rule = "for global secrets only; a pipeline's secret is for that pipeline";
        return Err(ApiError::invalid("allowed_namespaces", count.to_string(), rule));
    }
    if count > MAX_NAMESPACES {
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

async fn exists(call: &Call, record: &SecretRecord) -> Result<bool, ApiError> {
    match call.db.secret_get(&record.scope, &record.key).await {
        Ok(_) => Ok(true),
        Err(DbError::NotFound { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

async fn get_secret(call: Call, request: v1::GetSecretRequest) -> Result<v1::GetSecretResponse, ApiError> {
    let (scope, path) = place(request.scope.as_ref(), &request.key)?;
    let record = call.db.secret_get(&scope, &request.key).await?;
    let value = match call.secrets.get(&path).await {
        Err(error) if error.kind == ErrorKind::NotFound => {
            return Err(ApiError::not_found("value of secret", &request.key));
        }
        value => value?,
    };
    let value = value.expose_secret().to_owned();
    Ok(v1::GetSecretResponse { secret: Some(convert::secret(&record)), value })
}

async fn list_secrets(call: Call, request: v1::ListSecretsRequest) -> Result<v1::ListSecretsResponse, ApiError> {
    let page = Page::of(&request)?;
    let scope = convert::secret_scope(request.scope.as_ref())?;
    convert::text("prefix", &request.prefix, MAX_KEY_BYTES)?;
    let found = call.db.secret_list(&scope, &request.prefix, &page.to_list()).await?;
    let next_page_token = page.next(found.next.as_deref());
    Ok(v1::ListSecretsResponse { secrets: found.items.iter().map(convert::secret).collect(), next_page_token })
}

async fn delete_secret(call: Call, request: v1::DeleteSecretRequest) -> Result<v1::DeleteSecretResponse, ApiError> {
    let (scope, path) = place(request.scope.as_ref(), &request.key)?;
    let _one_at_a_time = call.admin.lock().await;
    let removed = call.db.secret_delete(&scope, &request.key, &call.identity.actor(), Timestamp::now()).await?;
    // Also without a record: an earlier call may have come only half of the way.
    call.secrets.delete(&path).await?;
    Ok(v1::DeleteSecretResponse { existed: removed.is_some() })
}
