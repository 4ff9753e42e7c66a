//! `ObjectService`.
//!
//! ```text
//! PutObject ───────▶ upload ────▶ operations::objects ◀──── get, delete (this file)
//! …Url, …Upload ───▶ presigned ──────────▲
//! Head, List ──────▶ the database alone
//! ```

use bytes::Bytes;
use futures::StreamExt;
use gofer_core::id::MAX_OBJECT_KEY_BYTES;
use gofer_core::object_store::ByteStream;
use gofer_proto::v1;
use gofer_proto::v1::get_object_response::Part;

use self::presigned::{begin_object_upload, complete_object_upload, get_object_url};
use self::upload::put_object;
use crate::convert;
use crate::error::ApiError;
use crate::rpc::call::{Call, ReplyStream, service, target};
use crate::rpc::page::Page;
use crate::rpc::streams::{ReplySender, StreamEnd, produce};

/// Most bytes of one message to the caller. As many as `STREAM_QUEUE` of them are read ahead, so
/// that store and caller need not wait for each other: 4 MiB of a transfer.
const CHUNK_BYTES: usize = 256 * 1024;
/// What a chunk takes while it waits: as it was read, and encoded.
const CHUNK_MEMORY_BYTES: usize = 2 * CHUNK_BYTES;
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

async fn get_object(
    call: Call,
    request: v1::GetObjectRequest,
) -> Result<ReplyStream<v1::GetObjectResponse>, ApiError> {
    let scope = convert::object_scope(&request.namespace, &request.pipeline, request.run)?;
    let (record, body) = call.objects().open(&scope, &convert::object_key(&request.key)?).await?;
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
        // Memory comes before the read. Without this, many transfers to slow readers would each
        // hold a chunk while they wait for their turn.
        let memory = replies.reserve(CHUNK_MEMORY_BYTES).await;
        let Some(chunk) = bytes.next().await else { return Ok(()) };
        for piece in pieces(chunk?) {
            let reply = v1::GetObjectResponse { part: Some(Part::Chunk(piece)) };
            replies.send_reserved(reply, memory.clone()).await?;
        }
    }
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
    let record = call.db.object_get(&scope, &convert::object_key(&request.key)?).await?;
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
    let existed = call.objects().delete(&scope, &convert::object_key(&request.key)?).await?;
    Ok(v1::DeleteObjectResponse { existed })
}
