//! Multipart uploads: parts go out while the next is gathered, and whatever ends early is aborted.

use std::sync::Arc;

use bytes::Bytes;
use gofer_core::time::Timestamp;
use gofer_core::{BackendError, ErrorKind};
use http::header::ETAG;
use s3::serde_types::{InitiateMultipartUploadResponse, Part};
use tokio::task::JoinSet;

use crate::answer::header;
use crate::client::Client;
use crate::error::Failure;
use crate::operation::{Call, Operation, upload_in_url};
use crate::parts::Parts;
use crate::put::Put;
use crate::read;

/// S3's limit.
const MAX_PARTS: u32 = 10_000;
/// What the parts of one transfer may hold in memory: those on their way, and the one being
/// gathered. Some of the contract's 32 MiB are left for the sockets.
const MEMORY_BYTES: usize = 30 * 1024 * 1024;

/// Uploads the stream in parts. Gives the object's length and time.
pub(crate) async fn run(
    put: &Put,
    first: Bytes,
    mut parts: Parts,
) -> Result<(u64, Timestamp), BackendError> {
    // Only to spare the caller a long upload; what decides is the completion.
    if put.if_absent && is_taken(put).await? {
        return Err(put.taken());
    }

    let in_flight = (MEMORY_BYTES / first.len()).saturating_sub(1).max(1);
    let part_bytes = first.len();
    let upload = Upload::begin(put).await?;
    let mut sending = JoinSet::new();
    let mut sent = Vec::new();
    let (mut part, mut number, mut size_bytes) = (first, 1, 0_u64);

    while !part.is_empty() {
        if number > MAX_PARTS {
            return Err(too_large(put, part_bytes));
        }

        while sending.len() >= in_flight {
            sent.extend(settled(put, sending.join_next().await)?);
        }

        size_bytes += part.len() as u64;
        sending.spawn(upload.clone_for_part().send(number, part));
        number += 1;
        part = loop {
            tokio::select! {
                part = parts.next() => break part?,
                Some(done) = sending.join_next() => sent.extend(settled(put, Some(done))?),
            }
        };
    }

    while let Some(done) = sending.join_next().await {
        sent.extend(settled(put, Some(done))?);
    }

    sent.sort_unstable_by_key(|part| part.part_number);
    Ok((size_bytes, upload.complete(put, sent).await?))
}

async fn is_taken(put: &Put) -> Result<bool, BackendError> {
    match read::head(&put.client, &put.full_key, &put.key).await {
        Ok(_) => Ok(true),
        Err(error) if error.kind == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn too_large(put: &Put, part_bytes: usize) -> BackendError {
    let key = &put.key;
    let next_step = "raise part_size, or store it in several objects";
    BackendError::new(
        ErrorKind::Invalid,
        format!("`{key}` is longer than {MAX_PARTS} parts of {part_bytes} bytes; {next_step}"),
    )
}

type Done = Result<Result<Part, Failure>, tokio::task::JoinError>;

fn settled(put: &Put, done: Option<Done>) -> Result<Option<Part>, BackendError> {
    match done {
        None => Ok(None),
        Some(Ok(Ok(part))) => Ok(Some(part)),
        Some(Ok(Err(failure))) => Err(put.error(failure)),
        Some(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Some(Err(error)) => {
            Err(BackendError::new(ErrorKind::Unavailable, "gofer is shutting down")
                .with_source(error))
        }
    }
}

/// An upload that has begun. Unless it is completed, it is aborted when this is dropped.
struct Upload {
    target: Target,
    open: bool,
}

/// Where the parts of an upload go.
#[derive(Clone)]
struct Target {
    client: Arc<Client>,
    full_key: String,
    /// The upload's id, as it goes into a URL.
    id: String,
}

impl Upload {
    async fn begin(put: &Put) -> Result<Self, BackendError> {
        let mut call = put.call(Operation::Begin);
        call.headers = put.mark();
        let client = Arc::clone(&put.client);

        // In a task of its own, which goes on when the put is dropped: an upload that begins then
        // is aborted too.
        let beginning = tokio::spawn(async move {
            let answer = client.send(&call).await;
            answer.map(|answer| {
                let begun = answer.xml::<InitiateMultipartUploadResponse>();
                begun.map(|begun| {
                    let target =
                        Target { client, full_key: call.key, id: upload_in_url(&begun.upload_id) };
                    Self { target, open: true }
                })
            })
        });

        match beginning.await {
            Ok(Ok(begun)) => begun,
            Ok(Err(failure)) => Err(put.error(failure)),
            Err(error) => Err(BackendError::new(ErrorKind::Unavailable, "gofer is shutting down")
                .with_source(error)),
        }
    }

    fn clone_for_part(&self) -> Target {
        self.target.clone()
    }

    async fn complete(mut self, put: &Put, parts: Vec<Part>) -> Result<Timestamp, BackendError> {
        let operation =
            Operation::Complete { upload: self.target.id.clone(), parts: Arc::new(parts) };
        let mut call = put.call(operation);
        call.headers = put.condition();
        let modified_at = put.settle(put.client.send(&call).await).await?;
        self.open = false;
        Ok(modified_at)
    }
}

impl Target {
    async fn send(self, number: u32, body: Bytes) -> Result<Part, Failure> {
        let operation = Operation::Part { number, upload: self.id, body };
        let answer = self.client.send(&Call::new(self.full_key, operation)).await?;
        match header(&answer.headers, &ETAG) {
            Some(etag) => Ok(Part { part_number: number, etag: etag.to_owned() }),
            None => {
                let cause = crate::error::Cause::Nonsense("a part was stored without an ETag");
                Err(Failure { cause, attempts: answer.attempts })
            }
        }
    }

    async fn abort(self) {
        let call = Call::new(self.full_key, Operation::Abort { upload: self.id });
        match self.client.send(&call).await {
            Ok(_) => {}
            // It is gone already, perhaps because a completion whose answer got lost took effect.
            Err(failure) if failure.status() == 404 => {}
            Err(failure) => {
                let error =
                    failure.into_error("abort the upload of", &call.key, &self.client.bucket);
                tracing::warn!(
                    error = error.chain(),
                    "an unfinished upload stays in the bucket until its lifecycle rule removes it"
                );
            }
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if !std::mem::take(&mut self.open) {
            return;
        }
        // Without a runtime the process is ending; the bucket's lifecycle rule removes the upload.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(self.target.clone().abort());
        }
    }
}
