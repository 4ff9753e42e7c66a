//! Namespaces, tokens, objects and secrets.

use gofer_core::entity::{
    Namespace, ObjectRecord, ObjectScope, SecretRecord, SecretScope, Token, TokenKind,
};
use gofer_core::id::RunNumber;
use gofer_core::quota::QuotaUse;
use gofer_proto::v1;
use gofer_proto::v1::secret_scope::Scope;

use super::{optional_timestamp, pipeline_key, timestamp};
use crate::error::ApiError;
use crate::operations::health::{BackendHealth, BackendKind};

/// How a backend is.
pub(crate) fn backend(health: &BackendHealth) -> v1::Backend {
    let kind = match health.kind {
        BackendKind::Database => v1::BackendKind::Database,
        BackendKind::Scheduler => v1::BackendKind::Scheduler,
        BackendKind::ObjectStore => v1::BackendKind::ObjectStore,
        BackendKind::SecretStore => v1::BackendKind::SecretStore,
    };
    v1::Backend {
        kind: kind.into(),
        product: health.product.to_owned(),
        ok: health.ok,
        message: health.message.clone(),
        checked_at: Some(timestamp(health.checked_at)),
    }
}

/// A namespace.
pub(crate) fn namespace(namespace: Namespace) -> v1::Namespace {
    v1::Namespace {
        id: namespace.id.to_string(),
        description: namespace.description,
        created_at: Some(timestamp(namespace.created_at)),
        updated_at: Some(timestamp(namespace.updated_at)),
    }
}

/// A quota with its use.
pub(crate) fn quota(found: QuotaUse) -> v1::Quota {
    v1::Quota {
        name: found.quota.name().to_owned(),
        unit: found.quota.unit().as_str().to_owned(),
        limit: found.limit,
        overridden: found.overridden,
        used: found.used,
        description: found.quota.doc().to_owned(),
    }
}

/// A token, never its secret.
pub(crate) fn token(token: &Token) -> v1::Token {
    v1::Token {
        id: token.id.clone(),
        kind: token_kind(token.kind).into(),
        namespaces: token.namespaces.iter().map(ToString::to_string).collect(),
        description: token.description.clone(),
        created_at: Some(timestamp(token.created_at)),
        expires_at: optional_timestamp(token.expires_at),
        disabled: token.disabled,
        created_by: token.created_by.clone(),
    }
}

/// What a token may do.
pub(crate) fn token_kind(kind: TokenKind) -> v1::TokenKind {
    match kind {
        TokenKind::Management => v1::TokenKind::Management,
        TokenKind::Client => v1::TokenKind::Client,
    }
}

/// Whose object it is; run 0 is the pipeline level.
pub(crate) fn object_scope(
    namespace: &str,
    pipeline: &str,
    run: u64,
) -> Result<ObjectScope, ApiError> {
    let (namespace, pipeline) = pipeline_key(namespace, "pipeline", pipeline)?;
    Ok(ObjectScope { namespace, pipeline, run: (run > 0).then_some(RunNumber(run)) })
}

/// What is known of an object.
pub(crate) fn object(record: &ObjectRecord) -> v1::Object {
    v1::Object {
        namespace: record.scope.namespace.to_string(),
        pipeline: record.scope.pipeline.to_string(),
        run: record.scope.run.map_or(0, |run| run.0),
        key: record.key.to_string(),
        size_bytes: record.size_bytes,
        sha256: record.sha256.clone(),
        created_at: Some(timestamp(record.created_at)),
    }
}

/// Whose secret it is.
pub(crate) fn secret_scope(scope: Option<&v1::SecretScope>) -> Result<SecretScope, ApiError> {
    match scope.and_then(|scope| scope.scope.as_ref()) {
        Some(Scope::GlobalScope(v1::GlobalScope {})) => Ok(SecretScope::Global),
        Some(Scope::PipelineScope(scope)) => {
            let (namespace, pipeline) =
                pipeline_key(&scope.namespace, "scope.pipeline_scope.pipeline", &scope.pipeline)
                    .map_err(|error| {
                        rename(error, "namespace", "scope.pipeline_scope.namespace")
                    })?;
            Ok(SecretScope::Pipeline(namespace, pipeline))
        }
        None => {
            Err(ApiError::invalid("scope", "", "one of `pipeline_scope` and `global_scope` is set"))
        }
    }
}

fn rename(error: ApiError, from: &str, to: &str) -> ApiError {
    match error {
        ApiError::Invalid(mut violations) => {
            for violation in violations.iter_mut().filter(|violation| violation.field == from) {
                violation.field = to.to_owned();
            }
            ApiError::Invalid(violations)
        }
        other => other,
    }
}

/// What is known of a secret, never its value.
pub(crate) fn secret(record: &SecretRecord) -> v1::Secret {
    let scope = match &record.scope {
        SecretScope::Pipeline(namespace, pipeline) => Scope::PipelineScope(v1::PipelineScope {
            namespace: namespace.to_string(),
            pipeline: pipeline.to_string(),
        }),
        SecretScope::Global => Scope::GlobalScope(v1::GlobalScope {}),
    };
    v1::Secret {
        scope: Some(v1::SecretScope { scope: Some(scope) }),
        key: record.key.clone(),
        allowed_namespaces: record.allowed_namespaces.iter().map(ToString::to_string).collect(),
        created_at: Some(timestamp(record.created_at)),
        updated_at: Some(timestamp(record.updated_at)),
        updated_by: record.updated_by.clone(),
    }
}
