//! Objects that go between caller and object store without passing through the server: URLs to
//! read, and uploads in two steps. An upload's row is committed before its URL is handed out, and
//! its bytes become an object in the transaction that completes it; what dies in between is found
//! by retention. URLs are credentials: they go into the answer and nowhere else, and an event says
//! for whom they were made before they are.

use std::time::Duration;

use gofer_core::entity::{ObjectRecord, ObjectScope};
use gofer_core::event::{EventDetails, NewEvent, Subject};
use gofer_core::id::ObjectKey;
use gofer_core::object_store::{Access, ObjectMeta, Presigned, UploadTerms};
use gofer_core::{ErrorKind, Resource, Timestamp};
use gofer_db::{DbError, ObjectUpload, UploadState, UploadedObject};
use gofer_engine::layout;
use gofer_proto::v1;
use secrecy::ExposeSecret;

use super::{forget, key};
use crate::auth::Identity;
use crate::convert;
use crate::convert::spec_diff::hex;
use crate::error::ApiError;
use crate::rpc::call::{Call, target};

/// How long a URL is good when the caller does not say.
const DEFAULT_TTL: Duration = Duration::from_secs(15 * 60);
/// Longest life of a URL for a run's token, which ends with its run. The URL does not, and nobody
/// can take it back.
const MAX_RUN_TTL: Duration = Duration::from_secs(60 * 60);
/// Digits of an upload's id.
const UPLOAD_ID_DIGITS: usize = 32;

target!(object: GetObjectUrlRequest, BeginObjectUploadRequest, CompleteObjectUploadRequest);

pub(super) async fn get_object_url(
    call: Call,
    request: v1::GetObjectUrlRequest,
) -> Result<v1::GetObjectUrlResponse, ApiError> {
    let scope = convert::object_scope(&request.namespace, &request.pipeline, request.run)?;
    let key = key(&request.key)?;
    let ttl = ttl(&call, request.ttl.as_ref())?;
    let record = call.db.object_get(&scope, &key).await?;
    let file_name = key.as_str().rsplit('/').next().map(str::to_owned);
    let presigned =
        presign(&call, &record.location, Access::Get { file_name }, ttl, "GetObject").await?;
    let expires_at = Timestamp::now().after(presigned.good_for);
    issued(&call, &scope, &key, false, expires_at).await?;
    Ok(v1::GetObjectUrlResponse {
        object: Some(convert::object(&record)),
        url: presigned.url.expose_secret().to_owned(),
        expires_at: Some(convert::timestamp(expires_at)),
    })
}

pub(super) async fn begin_object_upload(
    call: Call,
    request: v1::BeginObjectUploadRequest,
) -> Result<v1::BeginObjectUploadResponse, ApiError> {
    let scope = convert::object_scope(&request.namespace, &request.pipeline, request.run)?;
    let key = key(&request.key)?;
    let ttl = ttl(&call, request.ttl.as_ref())?;
    let sha256 = sha256(&request.sha256)?;
    let Some(size_bytes) = request.size_bytes else {
        let rule =
            "the length of the bytes, which is signed; for bytes of no known length use PutObject";
        return Err(ApiError::invalid("size_bytes", "", rule));
    };

    let limit_bytes = call.limits.object_max_bytes;
    if size_bytes > limit_bytes {
        return Err(ApiError::ObjectTooLarge { limit_bytes, at_least_bytes: size_bytes });
    }

    let location = layout::object_location(&scope, &key);
    // Once only: after the completion the URL may still be good, and must not change what is
    // recorded.
    let access = Access::Put(UploadTerms { if_absent: true, sha256, size_bytes: Some(size_bytes) });
    let Presigned { url, headers, good_for } =
        presign(&call, &location, access, ttl, "PutObject").await?;
    let upload = ObjectUpload {
        id: format!("{:032x}", u128::from_be_bytes(rand::random())),
        scope,
        key,
        location,
        size_bytes: Some(size_bytes),
        sha256: sha256.as_ref().map(|sum| hex(sum)),
        if_absent: request.if_absent,
        expires_at: Timestamp::now().after(good_for),
        state: UploadState::Open,
    };

    call.db.upload_begin(&upload, size_bytes, Timestamp::now()).await?;
    issued(&call, &upload.scope, &upload.key, true, upload.expires_at).await?;
    Ok(v1::BeginObjectUploadResponse {
        upload_id: upload.id,
        url: url.expose_secret().to_owned(),
        headers: headers
            .into_iter()
            .map(|(name, value)| v1::UploadHeader { name, value })
            .collect(),
        expires_at: Some(convert::timestamp(upload.expires_at)),
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

    let upload = call.db.upload_get(&scope, &id).await?;
    match upload.state {
        UploadState::Open => {}
        UploadState::Complete(record, evicted_keys) => return Ok(completed(&record, evicted_keys)),
        UploadState::GivenUp => return Err(ApiError::not_found(Resource::Upload, id)),
    }

    let found = match call.objects.head(&upload.location).await {
        Err(error) if error.kind == ErrorKind::NotFound => return Err(not_there(&id)),
        found => found?,
    };

    if let Err(problem) = fits(&found, &upload, call.limits.object_max_bytes) {
        give_up(&call, &scope, &upload).await?;
        return Err(problem);
    }

    let found = UploadedObject {
        size_bytes: found.size_bytes,
        sha256: found.sha256.as_ref().map(|sum| hex(sum)),
        keep: scope.run.is_none().then_some(call.limits.pipeline_objects),
        at: Timestamp::now(),
    };

    match call.db.upload_complete(&scope, &id, &found, &call.identity.actor()).await {
        Ok(done) => {
            for old in &done.no_longer_named {
                forget(&call, &old.location).await;
            }
            Ok(completed(&done.record, done.evicted_keys))
        }
        Err(refused @ (DbError::AlreadyExists { .. } | DbError::Quota(_))) => {
            give_up(&call, &scope, &upload).await?;
            Err(refused.into())
        }
        Err(error) => Err(error.into()),
    }
}

fn completed(record: &ObjectRecord, evicted_keys: Vec<String>) -> v1::CompleteObjectUploadResponse {
    v1::CompleteObjectUploadResponse { object: Some(convert::object(record)), evicted_keys }
}

fn not_there(id: &str) -> ApiError {
    let next_step =
        "send them in one PUT to the URL, with the headers, and complete it after the answer 200";
    let message = format!("the object store has no bytes of upload `{id}`; {next_step}");
    ApiError::Precondition { reason: "UPLOAD_NOT_THERE", message }
}

/// Whether what was uploaded may be the object.
fn fits(found: &ObjectMeta, upload: &ObjectUpload, limit_bytes: u64) -> Result<(), ApiError> {
    if found.size_bytes > limit_bytes {
        return Err(ApiError::ObjectTooLarge { limit_bytes, at_least_bytes: found.size_bytes });
    }

    if let Some(declared) = upload.size_bytes.filter(|declared| *declared != found.size_bytes) {
        let rule = format!("{} bytes were uploaded; begin again", found.size_bytes);
        return Err(ApiError::invalid("size_bytes", declared.to_string(), rule));
    }

    let told = found.sha256.as_ref().map(|sum| hex(sum));
    match (&upload.sha256, told) {
        (Some(declared), Some(told)) if *declared != told => Err(ApiError::invalid(
            "sha256",
            declared,
            format!("bytes with `{told}` were uploaded; begin again"),
        )),
        _ => Ok(()),
    }
}

/// Deletes what was uploaded, unless another call has completed it: what a record names is never
/// touched.
async fn give_up(call: &Call, scope: &ObjectScope, upload: &ObjectUpload) -> Result<(), ApiError> {
    if call.db.upload_give_up(scope, &upload.id).await? {
        forget(call, &upload.location).await;
    }
    Ok(())
}

/// Asks the store for a URL; where there is none, the error names the call that works everywhere.
async fn presign(
    call: &Call,
    location: &ObjectKey,
    access: Access,
    ttl: Duration,
    instead: &str,
) -> Result<Presigned, ApiError> {
    let unsupported = |why: &str| ApiError::Precondition {
        reason: "UNSUPPORTED",
        message: format!("{why}; use {instead}"),
    };
    match call.objects.presign(location, access, ttl).await {
        Ok(Some(presigned)) => Ok(presigned),
        Ok(None) => Err(unsupported("the object store of this server has no URLs")),
        Err(error) if error.kind == ErrorKind::Unsupported => Err(unsupported(&error.message)),
        Err(error) => Err(error.into()),
    }
}

/// Records that a URL is about to be handed out. Without the record there is no URL.
async fn issued(
    call: &Call,
    scope: &ObjectScope,
    key: &ObjectKey,
    upload: bool,
    expires_at: Timestamp,
) -> Result<(), ApiError> {
    let subject = Subject {
        namespace: Some(scope.namespace.clone()),
        pipeline: Some(scope.pipeline.clone()),
        run: scope.run,
        ..Subject::default()
    };
    let details = EventDetails::ObjectUrlIssued { key: key.to_string(), upload, expires_at };
    let event = NewEvent { at: Timestamp::now(), actor: call.identity.actor(), subject, details };
    Ok(call.db.event_record(event).await?)
}

fn ttl(call: &Call, wanted: Option<&prost_types::Duration>) -> Result<Duration, ApiError> {
    let configured = call.limits.url_ttl;
    let (longest, rule) = match call.identity {
        Identity::Run(_) => (
            configured.min(MAX_RUN_TTL),
            "for a run's token 1 hour, or `limits.url_ttl` where that is less",
        ),
        _ => (configured, "what `limits.url_ttl` allows"),
    };

    let Some(wanted) = wanted else { return Ok(DEFAULT_TTL.min(longest)) };
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
    let digit = |byte: u8| char::from(byte).to_digit(16).filter(|_| !byte.is_ascii_uppercase());
    let byte = |pair: &[u8]| match pair {
        [high, low] => u8::try_from(digit(*high)? * 16 + digit(*low)?).ok(),
        _ => None,
    };
    let bytes: Option<Vec<u8>> = text.as_bytes().chunks(2).map(byte).collect();
    let sum = bytes.and_then(|bytes| bytes.try_into().ok());
    sum.map(Some).ok_or_else(|| {
        ApiError::invalid("sha256", text, "64 lower-case hexadecimal digits, or empty")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_is_64_lower_case_digits() {
        assert_eq!(sha256("").unwrap(), None);
        let sum: [u8; 32] = std::array::from_fn(|at| u8::try_from(at * 8).unwrap());
        assert_eq!(sha256(&hex(&sum)).unwrap(), Some(sum));
        for bad in [
            "0",
            "zz",
            &hex(&sum).to_uppercase(),
            &hex(&sum)[2..],
            &format!("{}00", hex(&sum)),
            &"é".repeat(32),
        ] {
            assert!(sha256(bad).is_err(), "{bad}");
        }
    }
}
