//! `ObjectService`. Bytes lie in the object store under a location of their own, everything else in
//! the database.

use bytes::Bytes;
use futures::StreamExt;
use gofer_core::entity::{ObjectRecord, ObjectScope};
use gofer_core::id::{MAX_OBJECT_KEY_BYTES, ObjectKey};
use gofer_core::object_store::{ByteStream, ObjectBody};
use gofer_core::{ErrorKind, Resource, Timestamp};
use gofer_proto::v1;
use gofer_proto::v1::get_object_response::Part;

use self::presigned::{begin_object_upload, complete_object_upload, get_object_url};
use self::upload::put_object;
use crate::convert;
use crate::error::ApiError;
use crate::rpc::call::{Call, ReplyStream, service, target};
use crate::rpc::context::Context;
use crate::rpc::page::Page;
use crate::rpc::streams::{ReplySender, StreamEnd, produce};

/// Most bytes of one message to the caller. As many as `STREAM_QUEUE` of them are read ahead, so
/// that store and caller need not wait for each other: 4 MiB of a transfer.
const CHUNK_BYTES: usize = 256 * 1024;
/// What a chunk takes while it waits: as it was read, and encoded.
const CHUNK_MEMORY_BYTES: usize = 2 * CHUNK_BYTES;
/// How often a read begins anew because the object was replaced between looking it up and opening
/// it.
const READ_ATTEMPTS: usize = 5;

mod presigned;
mod upload;

service! {
    v1::object_service_server::ObjectService {
        unary head_object(v1::HeadObjectRequest) -> v1::HeadObjectResponse;
        unary list_objects(v1::ListObjectsRequest) -> v1::ListObjectsResponse;
        unary delete_object(v1::DeleteObjectRequest) -> v1::DeleteObjectResponse;
        unary get_object_url(v1::GetObjectUrlRequest) -> v1::GetObjectUrlResponse;
        unary begin_object_upload(v1::BeginObjectUploadRequest) -> v1::BeginObjectUploadResponse;
        unary complete_object_upload(v1::CompleteObjectUploadRequest) -> v1::CompleteObjectUploadResponse;
        server_streaming get_object(v1::GetObjectRequest) -> GetObjectStream<v1::GetObjectResponse>;
        client_streaming put_object(v1::PutObjectRequest) -> v1::PutObjectResponse;
    }
}

target!(object: PutObjectHeader, GetObjectRequest, HeadObjectRequest, ListObjectsRequest, DeleteObjectRequest);

/// The field `key`.
pub(super) fn key(value: &str) -> Result<ObjectKey, ApiError> {
    convert::id("key", value, |value| ObjectKey::new(value))
}

/// Deletes bytes that no record names any more. They are never seen again; what cannot be deleted
/// now costs only room.
pub(super) async fn forget(context: &Context, location: &ObjectKey) {
    if let Err(error) = context.objects.delete(location).await {
        tracing::warn!(%location, error = %error.chain(), "an object's old bytes are still stored");
    }
}

async fn get_object(
    call: Call,
    request: v1::GetObjectRequest,
) -> Result<ReplyStream<v1::GetObjectResponse>, ApiError> {
    let scope = convert::object_scope(&request.namespace, &request.pipeline, request.run)?;
    let (record, body) = open(&call, &scope, &key(&request.key)?).await?;
    let head = v1::GetObjectResponse { part: Some(Part::Object(convert::object(&record))) };
    Ok(produce(&call, async move |replies| send(head, body.stream, replies).await))
}

async fn send(
    head: v1::GetObjectResponse,
    mut bytes: ByteStream,
    replies: ReplySender<v1::GetObjectResponse>,
) -> Result<(), StreamEnd> {
    replies.send(head).await?;
    loop {
        // Before the read: of many transfers that nobody takes in, most have not read anything.
        let memory = replies.reserve(CHUNK_MEMORY_BYTES).await;
        let Some(chunk) = bytes.next().await else { return Ok(()) };
        for piece in pieces(chunk?) {
            let reply = v1::GetObjectResponse { part: Some(Part::Chunk(piece)) };
            replies.send_reserved(reply, memory.clone()).await?;
        }
    }
}

async fn open(
    call: &Call,
    scope: &ObjectScope,
    key: &ObjectKey,
) -> Result<(ObjectRecord, ObjectBody), ApiError> {
    for _ in 0..READ_ATTEMPTS {
        let record = call.db.object_get(scope, key).await?;
        match call.objects.get(&record.location).await {
            Ok(body) => return Ok((record, body)),
            Err(error) if error.kind == ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(ApiError::ContentLost { what: Resource::Object, key: key.to_string() })
}

fn pieces(mut bytes: Bytes) -> impl Iterator<Item = Bytes> {
    std::iter::from_fn(move || {
        let piece = bytes.split_to(bytes.len().min(CHUNK_BYTES));
        (!piece.is_empty()).then_some(piece)
    })
}

async fn head_object(
    call: Call,
    request: v1::HeadObjectRequest,
) -> Result<v1::HeadObjectResponse, ApiError> {
    let scope = convert::object_scope(&request.namespace, &request.pipeline, request.run)?;
    let record = call.db.object_get(&scope, &key(&request.key)?).await?;
    Ok(v1::HeadObjectResponse { object: Some(convert::object(&record)) })
}

async fn list_objects(
    call: Call,
    request: v1::ListObjectsRequest,
) -> Result<v1::ListObjectsResponse, ApiError> {
    let page = Page::of(&request)?;
    let scope = convert::object_scope(&request.namespace, &request.pipeline, request.run)?;
    convert::text("prefix", &request.prefix, MAX_OBJECT_KEY_BYTES)?;
    let found = call.db.object_list(&scope, &request.prefix, &page.to_list()).await?;
    let next_page_token = page.next(found.next.as_deref());
    Ok(v1::ListObjectsResponse {
        objects: found.items.iter().map(convert::object).collect(),
        next_page_token,
    })
}

async fn delete_object(
    call: Call,
    request: v1::DeleteObjectRequest,
) -> Result<v1::DeleteObjectResponse, ApiError> {
    let scope = convert::object_scope(&request.namespace, &request.pipeline, request.run)?;
    let key = key(&request.key)?;
    let removed =
        call.db.object_delete(&scope, &key, &call.identity.actor(), Timestamp::now()).await?;
    if let Some(removed) = &removed {
        forget(&call, &removed.location).await;
    }
    Ok(v1::DeleteObjectResponse { existed: removed.is_some() })
}
