//! `TokenService`.

use std::time::Duration;

use gofer_core::entity::TokenKind;
use gofer_core::id::NamespaceId;
use gofer_db::BootstrapProof;
use gofer_engine::run_token_hash;
use gofer_proto::v1;
use secrecy::ExposeSecret;

use crate::auth::Identity;
use crate::convert;
use crate::error::ApiError;
use crate::operations::tokens::{BOOTSTRAP_CODE_MAX_BYTES, WantedToken};
use crate::rpc::call::{Call, service, target};
use crate::rpc::page::Page;

/// Longest description of a token.
const DESCRIPTION_MAX_BYTES: usize = 1024;
/// Most namespaces of a token.
const NAMESPACES_MAX: usize = 1000;
/// Shortest life of a token.
const LIFE_MIN: Duration = Duration::from_secs(60);
/// Ten years, leap days included.
const LIFE_MAX: Duration = Duration::from_secs(3653 * 24 * 3600);

service! {
    v1::token_service_server::TokenService {
        unary bootstrap_token(v1::BootstrapTokenRequest) -> v1::BootstrapTokenResponse;
        unary create_token(v1::CreateTokenRequest) -> v1::CreateTokenResponse;
        unary list_tokens(v1::ListTokensRequest) -> v1::ListTokensResponse;
        unary disable_token(v1::DisableTokenRequest) -> v1::DisableTokenResponse;
        unary enable_token(v1::EnableTokenRequest) -> v1::EnableTokenResponse;
        unary delete_token(v1::DeleteTokenRequest) -> v1::DeleteTokenResponse;
        unary who_am_i(v1::WhoAmIRequest) -> v1::WhoAmIResponse;
    }
}

target!(installation:
    BootstrapTokenRequest, CreateTokenRequest, ListTokensRequest, DisableTokenRequest, EnableTokenRequest,
    DeleteTokenRequest, WhoAmIRequest,
);

async fn bootstrap_token(
    call: Call,
    request: v1::BootstrapTokenRequest,
) -> Result<v1::BootstrapTokenResponse, ApiError> {
    let proof = match request.code.as_str() {
        "" if call.identity.manages() => BootstrapProof::Management,
        code if code.len() > BOOTSTRAP_CODE_MAX_BYTES => return Err(wrong_code()),
        code => BootstrapProof::Code(run_token_hash(code)),
    };
    let Some((token, secret)) = call.tokens().bootstrap(proof).await? else {
        return Err(wrong_code());
    };

    let secret = secret.expose_secret().to_owned();
    Ok(v1::BootstrapTokenResponse { token: Some(convert::token(&token)), secret })
}

fn wrong_code() -> ApiError {
    let message = "the first management token is for whoever has the code: the first line of \
                   `bootstrap` in the server's data directory, or of the file that \
                   `server.bootstrap_token_file` names; `gofer token bootstrap` finds it on the \
                   server's machine, elsewhere pass it with `--code-file`";
    ApiError::Forbidden { message: message.to_owned() }
}

async fn create_token(
    call: Call,
    request: v1::CreateTokenRequest,
) -> Result<v1::CreateTokenResponse, ApiError> {
    convert::free_text("description", &request.description, DESCRIPTION_MAX_BYTES)?;
    let kind = token_kind("kind", request.kind)?;
    let namespaces = token_namespaces(&call, kind, &request.namespaces).await?;
    let life = request.expires_after.as_ref().map(life).transpose()?;
    let description = request.description;
    let wanted = WantedToken { kind, namespaces, description, life };
    let (token, secret) = call.tokens().create(wanted).await?;

    let secret = secret.expose_secret().to_owned();
    Ok(v1::CreateTokenResponse {
        token: Some(convert::token(&token)),
        secret,
        warnings: call.boundary.warnings(kind),
    })
}

fn token_kind(field: &str, value: i32) -> Result<TokenKind, ApiError> {
    match v1::TokenKind::try_from(value) {
        Ok(v1::TokenKind::Management) => Ok(TokenKind::Management),
        Ok(v1::TokenKind::Client) => Ok(TokenKind::Client),
        Ok(v1::TokenKind::Unspecified | v1::TokenKind::Run | v1::TokenKind::Trigger) | Err(_) => {
            Err(ApiError::invalid(field, value.to_string(), "MANAGEMENT (1) or CLIENT (2)"))
        }
    }
}

async fn token_namespaces(
    call: &Call,
    kind: TokenKind,
    names: &[String],
) -> Result<Vec<NamespaceId>, ApiError> {
    let rule = match kind {
        TokenKind::Management if !names.is_empty() => {
            "empty for a management token, which may work in every namespace"
        }
        TokenKind::Client if names.is_empty() => {
            "a client token names the namespaces it may work in"
        }
        TokenKind::Client if names.len() > NAMESPACES_MAX => "at most 1000",
        TokenKind::Management | TokenKind::Client => "",
    };

    if !rule.is_empty() {
        return Err(ApiError::invalid("namespaces", names.len().to_string(), rule));
    }

    let mut namespaces = Vec::with_capacity(names.len());
    for (at, name) in names.iter().enumerate() {
        let id = convert::id(&format!("namespaces[{at}]"), name, |name| NamespaceId::new(name))?;
        call.db.namespace_get(&id).await?;
        if !namespaces.contains(&id) {
            namespaces.push(id);
        }
    }

    Ok(namespaces)
}

fn life(duration: &prost_types::Duration) -> Result<Duration, ApiError> {
    let life = convert::duration_from_wire("expires_after", duration)
        .map_err(|violation| ApiError::Invalid(vec![violation]))?;
    if (LIFE_MIN..=LIFE_MAX).contains(&life) {
        return Ok(life);
    }
    Err(ApiError::invalid(
        "expires_after",
        format!("{}s", life.as_secs()),
        "1 minute to 10 years, or left out",
    ))
}

async fn list_tokens(
    call: Call,
    request: v1::ListTokensRequest,
) -> Result<v1::ListTokensResponse, ApiError> {
    let page = Page::of(&request)?;
    let kinds: Vec<_> =
        request.kinds.iter().map(|kind| token_kind("kinds", *kind)).collect::<Result<_, _>>()?;
    let found = call.db.token_list(&kinds, &page.to_list()).await?;
    let next_page_token = page.next(found.next.as_deref());
    Ok(v1::ListTokensResponse {
        tokens: found.items.iter().map(convert::token).collect(),
        next_page_token,
    })
}

async fn disable_token(
    call: Call,
    request: v1::DisableTokenRequest,
) -> Result<v1::DisableTokenResponse, ApiError> {
    let token = call.tokens().disable(&request.id).await?;
    Ok(v1::DisableTokenResponse { token: Some(convert::token(&token)) })
}

async fn enable_token(
    call: Call,
    request: v1::EnableTokenRequest,
) -> Result<v1::EnableTokenResponse, ApiError> {
    let token = call.tokens().enable(&request.id).await?;
    Ok(v1::EnableTokenResponse { token: Some(convert::token(&token)) })
}

async fn delete_token(
    call: Call,
    request: v1::DeleteTokenRequest,
) -> Result<v1::DeleteTokenResponse, ApiError> {
    call.tokens().delete(&request.id).await?;
    Ok(v1::DeleteTokenResponse {})
}

async fn who_am_i(call: Call, _: v1::WhoAmIRequest) -> Result<v1::WhoAmIResponse, ApiError> {
    let token = match &call.identity {
        Identity::Anonymous | Identity::Anybody | Identity::Execution(_) => None,
        Identity::Dev => Some(v1::Token {
            id: call.identity.actor(),
            kind: v1::TokenKind::Management.into(),
            description: "the server's own token, for its user on this machine".to_owned(),
            created_by: "gofer".to_owned(),
            created_at: Some(convert::timestamp(call.started_at)),
            ..v1::Token::default()
        }),
        Identity::Management(token) | Identity::Client { token, .. } => Some(convert::token(token)),
        Identity::Run(key) => Some(v1::Token {
            id: call.identity.actor(),
            kind: v1::TokenKind::Run.into(),
            namespaces: vec![key.namespace.to_string()],
            description: format!("the token of run {key}"),
            created_by: "gofer".to_owned(),
            ..v1::Token::default()
        }),
    };
    Ok(v1::WhoAmIResponse { token })
}
