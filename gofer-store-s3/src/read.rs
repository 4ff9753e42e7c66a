//! Reading: one request as long as it goes well, and another from where it broke.

use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, stream};
use gofer_core::object_store::{ByteStream, ObjectBody, ObjectMeta};
use gofer_core::{BackendError, ErrorKind, ObjectKey};
use http::header::{CONTENT_RANGE, IF_MATCH};
use http::{HeaderName, HeaderValue};
use reqwest::Response;
use tokio::time::timeout;

use crate::answer::{Answer, header};
use crate::client::Client;
use crate::error::{Cause, Failure};
use crate::operation::{Call, Operation};

/// Asks for the checksum that the store has computed, if it has.
const CHECKSUM_MODE: HeaderName = HeaderName::from_static("x-amz-checksum-mode");

pub(crate) async fn head(
    client: &Client,
    full_key: &str,
    key: &ObjectKey,
) -> Result<ObjectMeta, BackendError> {
    let mut call = Call::new(full_key, Operation::Head);
    call.headers.insert(CHECKSUM_MODE, HeaderValue::from_static("ENABLED"));
    let answer = client.send(&call).await;
    answer
        .map_err(|failure| failure.into_error("look up", key.as_str(), &client.bucket))?
        .object_meta(key)
}

pub(crate) async fn get(
    client: Arc<Client>,
    full_key: String,
    key: &ObjectKey,
) -> Result<ObjectBody, BackendError> {
    let answer = client.send(&Call::new(full_key.as_str(), Operation::Get)).await;
    let answer =
        answer.map_err(|failure| failure.into_error("read", key.as_str(), &client.bucket))?;
    let meta = answer.object_meta(key)?;
    let transfer = Transfer {
        client,
        full_key,
        key: key.clone(),
        etag: answer.etag(),
        size_bytes: meta.size_bytes,
        offset_bytes: 0,
        fruitless: 0,
        response: answer.stream,
    };

    Ok(ObjectBody { meta, stream: transfer.stream() })
}

/// An object on its way.
struct Transfer {
    client: Arc<Client>,
    full_key: String,
    key: ObjectKey,
    /// Which version of the object this is; without it there is no going on after a break.
    etag: Option<String>,
    size_bytes: u64,
    offset_bytes: u64,
    /// Breaks since the last byte that came.
    fruitless: u32,
    response: Option<Response>,
}

impl Transfer {
    fn stream(self) -> ByteStream {
        stream::try_unfold(self, |mut transfer| async move {
            Ok(transfer.next().await?.map(|piece| (piece, transfer)))
        })
        .boxed()
    }

    async fn next(&mut self) -> Result<Option<Bytes>, BackendError> {
        while self.offset_bytes < self.size_bytes {
            let cause = match self.piece().await {
                Ok(piece) => {
                    self.fruitless = 0;
                    self.offset_bytes += piece.len() as u64;
                    return Ok(Some(piece));
                }
                Err(cause) => cause,
            };

            self.fruitless += 1;
            if self.fruitless >= self.client.attempts() || self.etag.is_none() {
                let failure = Failure { cause, attempts: self.fruitless };
                return Err(failure.into_error("read", self.key.as_str(), &self.client.bucket));
            }

            tracing::debug!(
                ?cause,
                key = self.full_key,
                offset = self.offset_bytes,
                "reading goes on after a break"
            );
            self.response = Some(self.resume().await?);
        }
        Ok(None)
    }

    /// The next bytes of the answer at hand.
    async fn piece(&mut self) -> Result<Bytes, Cause> {
        let patience = self.client.patience();
        let Some(response) = &mut self.response else {
            return Err(Cause::Nonsense("the answer has no body"));
        };
        let left = self.size_bytes - self.offset_bytes;
        match timeout(patience, response.chunk()).await {
            Err(_) => Err(Cause::Silent(patience)),
            Ok(Err(error)) => Err(Cause::Broken(error)),
            Ok(Ok(None)) => Err(Cause::Nonsense("the object ends early")),
            Ok(Ok(Some(piece))) if piece.len() as u64 > left => {
                Err(Cause::Nonsense("the object does not end"))
            }
            Ok(Ok(Some(piece))) => Ok(piece),
        }
    }

    /// The rest of the same version of the object.
    async fn resume(&self) -> Result<Response, BackendError> {
        let mut call = Call::new(
            self.full_key.as_str(),
            Operation::GetFrom { offset_bytes: self.offset_bytes },
        );
        if let Some(etag) = self.etag.as_deref().and_then(|etag| HeaderValue::from_str(etag).ok()) {
            call.headers.insert(IF_MATCH, etag);
        }

        match self.client.send(&call).await {
            Ok(mut answer) if self.starts_here(&answer) => {
                answer.stream.take().ok_or_else(|| self.no_range())
            }
            Ok(_) => Err(self.no_range()),
            Err(failure) if matches!(failure.status(), 404 | 412) => {
                let key = &self.key;
                let message = format!(
                    "`{key}` was replaced or deleted when the connection that read it broke; read \
                     it again"
                );
                Err(BackendError::new(ErrorKind::Unavailable, message))
            }
            Err(failure) => Err(failure.into_error("read", self.key.as_str(), &self.client.bucket)),
        }
    }

    fn starts_here(&self, answer: &Answer) -> bool {
        let range = header(&answer.headers, &CONTENT_RANGE);
        range.is_some_and(|range| range.starts_with(&format!("bytes {}-", self.offset_bytes)))
    }

    fn no_range(&self) -> BackendError {
        let message = format!(
            "the connection that read `{}` broke, and the store cannot give a part of it",
            self.key
        );
        BackendError::new(ErrorKind::Unavailable, message)
    }
}
