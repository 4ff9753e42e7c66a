//! The requests this store makes, each built and signed by rust-s3.

use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use http::{HeaderMap, Method};
use s3::Bucket;
use s3::command::{Command, HttpMethod, Multipart};
use s3::error::S3Error;
use s3::request::Request;
use s3::request::tokio_backend::ReqwestRequest;
use s3::serde_types::{CompleteMultipartUploadData, Part};
use s3::signing::uri_encode;

/// What every object is stored as; Gofer's objects are bytes.
const CONTENT_TYPE: &str = "application/octet-stream";

/// Bodies from here on are hashed on a thread that may block: three hashes of 8 MiB take tens of
/// milliseconds.
const LARGE_BODY_BYTES: usize = 64 * 1024;

/// One request, which may be sent several times.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    /// The whole key, prefix included; empty for the bucket itself.
    pub(crate) key: String,
    pub(crate) operation: Operation,
    /// Headers beside those that the operation has, signed too.
    pub(crate) headers: HeaderMap,
}

/// What a request does.
#[derive(Debug, Clone)]
pub(crate) enum Operation {
    Head,
    Get,
    GetFrom { offset_bytes: u64 },
    Put { body: Bytes },
    Delete,
    List { prefix: String, after: Option<String>, token: Option<String>, limit: usize },
    Begin,
    Part { number: u32, upload: String, body: Bytes },
    Complete { upload: String, parts: Arc<Vec<Part>> },
    Abort { upload: String },
}

/// A request that is ready to be sent.
pub(crate) struct Signed {
    pub(crate) method: Method,
    pub(crate) url: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Call {
    pub(crate) fn new(key: impl Into<String>, operation: Operation) -> Self {
        Self { key: key.into(), operation, headers: HeaderMap::new() }
    }

    /// Signs the request as of now. Every attempt is signed anew, because a signature is good for
    /// some minutes only.
    pub(crate) async fn sign(&self, bucket: &Bucket) -> Result<Signed, S3Error> {
        if self.operation.body().len() < LARGE_BODY_BYTES {
            return sign(self, bucket).await;
        }
        let (call, signing_bucket) = (self.clone(), bucket.clone());
        // It is async for the sake of a lock that nobody holds, so it is done at once.
        let signing =
            tokio::task::spawn_blocking(move || sign(&call, &signing_bucket).now_or_never());
        match signing.await {
            Ok(Some(signed)) => signed,
            _ => sign(self, bucket).await,
        }
    }
}

/// Has rust-s3 build and sign the request. It is not sent by rust-s3, whose client has no way to
/// trust an authority of one's own, ends every transfer after one total timeout, and copies each
/// body.
async fn sign(call: &Call, bucket: &Bucket) -> Result<Signed, S3Error> {
    let bucket = bucket.with_extra_headers(call.headers.clone())?;
    let request = ReqwestRequest::new(&bucket, &call.key, call.operation.command()).await?;
    let body = match &call.operation {
        Operation::Put { .. } | Operation::Part { .. } => call.operation.body().clone(),
        _ => Bytes::from(request.request_body()?),
    };
    let method = match request.command().http_verb() {
        HttpMethod::Get => Method::GET,
        HttpMethod::Head => Method::HEAD,
        HttpMethod::Put => Method::PUT,
        HttpMethod::Post => Method::POST,
        HttpMethod::Delete => Method::DELETE,
    };
    Ok(Signed { method, url: request.url()?.into(), headers: request.headers().await?, body })
}

impl Operation {
    /// The object's bytes that the request carries.
    pub(crate) fn body(&self) -> &Bytes {
        static NOTHING: Bytes = Bytes::new();
        match self {
            Self::Put { body } | Self::Part { body, .. } => body,
            _ => &NOTHING,
        }
    }

    /// What the answer's body is: the object, to be read bit by bit, or a short text.
    pub(crate) fn streams(&self) -> bool {
        matches!(self, Self::Get | Self::GetFrom { .. })
    }

    /// What the request does, for messages.
    pub(crate) fn verb(&self) -> &'static str {
        match self {
            Self::Head => "look up",
            Self::Get | Self::GetFrom { .. } => "read",
            Self::Put { .. } | Self::Begin | Self::Part { .. } | Self::Complete { .. } => "write",
            Self::Delete => "delete",
            Self::List { .. } => "list",
            Self::Abort { .. } => "abort the upload of",
        }
    }

    fn command(&self) -> Command<'_> {
        match self {
            Self::Head => Command::HeadObject,
            Self::Get => Command::GetObject,
            Self::GetFrom { offset_bytes } => {
                Command::GetObjectRange { start: *offset_bytes, end: None }
            }
            Self::Put { body } => put_command(body, None),
            Self::Delete => Command::DeleteObject,
            Self::List { prefix, after, token, limit } => Command::ListObjectsV2 {
                prefix: prefix.clone(),
                delimiter: None,
                continuation_token: token.clone(),
                start_after: after.clone(),
                max_keys: Some(*limit),
            },
            Self::Begin => Command::InitiateMultipartUpload { content_type: CONTENT_TYPE },
            Self::Part { number, upload, body } => {
                put_command(body, Some(Multipart::new(*number, upload)))
            }
            Self::Complete { upload, parts } => Command::CompleteMultipartUpload {
                upload_id: upload,
                data: CompleteMultipartUploadData { parts: parts.to_vec() },
            },
            Self::Abort { upload } => Command::AbortMultipartUpload { upload_id: upload },
        }
    }
}

fn put_command<'a>(body: &'a Bytes, multipart: Option<Multipart<'a>>) -> Command<'a> {
    Command::PutObject {
        content: body,
        content_type: CONTENT_TYPE,
        custom_headers: None,
        multipart,
    }
}

/// An upload's id as it goes into a URL; rust-s3 puts it there as it is.
pub(crate) fn upload_in_url(id: &str) -> String {
    uri_encode(id, true)
}
