//! `GetObjectUrl`, `BeginObjectUpload` and `CompleteObjectUpload`.

use std::time::Duration;

use gofer_proto::v1;
use secrecy::ExposeSecret;

use crate::auth::Identity;
use crate::error::ApiError;
use crate::operations::objects::{IssuedUpload, NewUpload};
use crate::rpc::call::{Call, target};
use crate::{convert, hex};

/// How long a URL is good when the caller does not say.
const URL_TTL_DEFAULT: Duration = Duration::from_secs(15 * 60);
/// Longest life of a URL for a run's token, which ends with its run. The URL does not, and nobody
/// can take it back.
const RUN_URL_TTL_MAX: Duration = Duration::from_secs(60 * 60);
/// Digits of an upload's id.
const UPLOAD_ID_DIGITS: usize = 32;

target!(object: GetObjectUrlRequest, BeginObjectUploadRequest, CompleteObjectUploadRequest);

pub(super) async fn get_object_url(
    call: Call,
    request: v1::GetObjectUrlRequest,
) -> Result<v1::GetObjectUrlResponse, ApiError> {
    let scope = convert::object_scope(&request.namespace, &request.pipeline, request.run)?;
    let key = convert::object_key(&request.key)?;
    let ttl = ttl(&call, request.ttl.as_ref())?;
    let (record, url, expires_at) = call.objects().url(&scope, &key, ttl).await?;
    Ok(v1::GetObjectUrlResponse {
        object: Some(convert::object(&record)),
        url: url.expose_secret().to_owned(),
        expires_at: Some(convert::timestamp(expires_at)),
    })
}

pub(super) async fn begin_object_upload(
    call: Call,
    request: v1::BeginObjectUploadRequest,
) -> Result<v1::BeginObjectUploadResponse, ApiError> {
    let scope = convert::object_scope(&request.namespace, &request.pipeline, request.run)?;
    let key = convert::object_key(&request.key)?;
    let ttl = ttl(&call, request.ttl.as_ref())?;
    let sha256 = sha256(&request.sha256)?;
    let Some(size_bytes) = request.size_bytes else {
        let rule =
            "the length of the bytes, which is signed; for bytes of no known length use PutObject";
        return Err(ApiError::invalid("size_bytes", "", rule));
    };

    let new = NewUpload { scope, key, size_bytes, sha256, if_absent: request.if_absent };
    let IssuedUpload { id, url, headers, expires_at } =
        call.objects().begin_upload(new, ttl).await?;

    let header = |(name, value)| v1::UploadHeader { name, value };
    Ok(v1::BeginObjectUploadResponse {
        upload_id: id,
        url: url.expose_secret().to_owned(),
        headers: headers.into_iter().map(header).collect(),
        expires_at: Some(convert::timestamp(expires_at)),
    })
}

pub(super) async fn complete_object_upload(
    call: Call,
    request: v1::CompleteObjectUploadRequest,
) -> Result<v1::CompleteObjectUploadResponse, ApiError> {
    let scope = convert::object_scope(&request.namespace, &request.pipeline, request.run)?;
    let id = request.upload_id;
    if id.len() != UPLOAD_ID_DIGITS {
        return Err(ApiError::invalid(
            "upload_id",
            "",
            "the id that BeginObjectUpload has given, of 32 digits",
        ));
    }

    let done = call.objects().complete_upload(&scope, &id).await?;
    Ok(v1::CompleteObjectUploadResponse {
        object: Some(convert::object(&done.record)),
        evicted_keys: done.evicted_keys,
    })
}

fn ttl(call: &Call, wanted: Option<&prost_types::Duration>) -> Result<Duration, ApiError> {
    let configured = call.limits.url_ttl;
    let (longest, rule) = match call.identity {
        Identity::Run(_) => (
            configured.min(RUN_URL_TTL_MAX),
            "for a run's token 1 hour, or `limits.url_ttl` where that is less",
        ),
        _ => (configured, "what `limits.url_ttl` allows"),
    };

    let Some(wanted) = wanted else { return Ok(URL_TTL_DEFAULT.min(longest)) };
    let ttl = convert::duration_from_wire("ttl", wanted)
        .map_err(|violation| ApiError::Invalid(vec![violation]))?;
    if (Duration::from_secs(1)..=longest).contains(&ttl) {
        return Ok(ttl);
    }

    let rule = format!("a URL is good for 1 second to {} seconds: {rule}", longest.as_secs());
    Err(ApiError::invalid("ttl", format!("{ttl:?}"), rule))
}

/// The field `sha256`; empty is none.
fn sha256(text: &str) -> Result<Option<[u8; 32]>, ApiError> {
    if text.is_empty() {
        return Ok(None);
    }
    hex::decode_32(text).map(Some).ok_or_else(|| {
        ApiError::invalid("sha256", text, "64 lower-case hexadecimal digits, or empty")
    })
}
