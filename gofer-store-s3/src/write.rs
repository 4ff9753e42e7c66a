//! Writing: one request for what fits into a part, a multipart upload for the rest.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use gofer_core::object_store::{ByteStream, ObjectMeta, PutOptions};
use gofer_core::time::Timestamp;
use gofer_core::{BackendError, ErrorKind, ObjectKey};
use http::header::IF_NONE_MATCH;
use http::{HeaderMap, HeaderName, HeaderValue};
use rand::RngExt;

use crate::answer::{Answer, header};
use crate::client::Client;
use crate::error::Failure;
use crate::operation::{Call, Operation};
use crate::upload;

/// The object's metadata that says which put it comes from.
const MARK: HeaderName = HeaderName::from_static("x-amz-meta-gofer-put");
/// A buffer that has grown to this is given its full size at once, instead of being copied at each
/// doubling.
const SMALL_BYTES: usize = 256 * 1024;

/// One put.
pub(crate) struct Put {
    pub(crate) client: Arc<Client>,
    /// The whole key, prefix included.
    pub(crate) full_key: String,
    pub(crate) key: ObjectKey,
    pub(crate) if_absent: bool,
    /// A random text that is stored with the object. When a request was sent again because its
    /// answer got lost, the object's own mark tells "this put took effect" from "the key is taken".
    mark: String,
}

impl Put {
    pub(crate) fn new(
        client: Arc<Client>,
        full_key: String,
        key: &ObjectKey,
        options: PutOptions,
    ) -> Self {
        let mark = format!("{:032x}", rand::rng().random::<u128>());
        Self { client, full_key, key: key.clone(), if_absent: options.if_absent, mark }
    }

    pub(crate) async fn run(
        self,
        body: ByteStream,
        part_bytes: usize,
    ) -> Result<ObjectMeta, BackendError> {
        let mut parts = Parts::new(body, part_bytes);
        let first = parts.next().await?;
        let (size_bytes, modified_at) = if first.len() < part_bytes || parts.at_end().await? {
            (first.len() as u64, self.whole(first).await?)
        } else {
            upload::run(&self, first, parts).await?
        };
        Ok(ObjectMeta { key: self.key, size_bytes, modified_at, sha256: None })
    }

    async fn whole(&self, body: Bytes) -> Result<Timestamp, BackendError> {
        let mut call = self.call(Operation::Put { body });
        call.headers = self.mark();
        call.headers.extend(self.condition());
        self.settle(self.client.send(&call).await).await
    }

    pub(crate) fn call(&self, operation: Operation) -> Call {
        Call::new(self.full_key.as_str(), operation)
    }

    /// The mark as a header.
    pub(crate) fn mark(&self) -> HeaderMap {
        let value = HeaderValue::from_str(&self.mark);
        value.map(|value| HeaderMap::from_iter([(MARK, value)])).unwrap_or_default()
    }

    /// The condition as a header: with it, of two puts one wins, and the store decides which.
    pub(crate) fn condition(&self) -> HeaderMap {
        let condition = self.if_absent.then(|| (IF_NONE_MATCH, HeaderValue::from_static("*")));
        condition.into_iter().collect()
    }

    /// What the request that was to make the object visible came to, and when that was.
    pub(crate) async fn settle(
        &self,
        outcome: Result<Answer, Failure>,
    ) -> Result<Timestamp, BackendError> {
        let failure = match outcome {
            Ok(answer) => return Ok(answer.date()),
            Err(failure) => failure,
        };
        let taken = self.if_absent && failure.status() == 412;
        let gone = failure.code() == "NoSuchUpload";
        // An answer that got lost may have been a yes.
        if (taken || gone)
            && failure.attempts > 1
            && let Some(modified_at) = self.took_effect().await?
        {
            return Ok(modified_at);
        }
        Err(if taken { self.taken() } else { self.error(failure) })
    }

    pub(crate) fn taken(&self) -> BackendError {
        BackendError::new(ErrorKind::AlreadyExists, format!("object `{}` exists already", self.key))
    }

    pub(crate) fn error(&self, failure: Failure) -> BackendError {
        failure.into_error("write", self.key.as_str(), &self.client.place)
    }

    /// When this put made its object, if it did.
    async fn took_effect(&self) -> Result<Option<Timestamp>, BackendError> {
        match self.client.send(&self.call(Operation::Head)).await {
            Ok(answer) if header(&answer.headers, &MARK) == Some(self.mark.as_str()) => {
                Ok(Some(answer.object_meta(&self.key)?.modified_at))
            }
            Ok(_) => Ok(None),
            Err(failure) if failure.status() == 404 => Ok(None),
            Err(failure) => Err(self.error(failure)),
        }
    }
}

/// The stream, cut into parts.
pub(crate) struct Parts {
    body: ByteStream,
    part_bytes: usize,
    gathered: BytesMut,
    /// What came with the last piece and belongs to the next part.
    rest: Bytes,
}

impl Parts {
    fn new(body: ByteStream, part_bytes: usize) -> Self {
        Self { body, part_bytes, gathered: BytesMut::new(), rest: Bytes::new() }
    }

    /// The next part: of full size, or shorter when the stream has ended. Dropping the future loses
    /// nothing.
    pub(crate) async fn next(&mut self) -> Result<Bytes, BackendError> {
        loop {
            let space = self.part_bytes - self.gathered.len();
            let piece = self.rest.split_to(space.min(self.rest.len()));
            if self.gathered.len() + piece.len() > SMALL_BYTES {
                self.gathered.reserve(space);
            }

            self.gathered.extend_from_slice(&piece);
            if self.gathered.len() == self.part_bytes {
                break;
            }

            match self.body.next().await {
                Some(piece) => self.rest = piece?,
                None => break,
            }
        }
        Ok(std::mem::take(&mut self.gathered).freeze())
    }

    /// Whether the stream has nothing more.
    async fn at_end(&mut self) -> Result<bool, BackendError> {
        while self.rest.is_empty() {
            match self.body.next().await {
                Some(piece) => self.rest = piece?,
                None => return Ok(true),
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;

    #[tokio::test]
    async fn a_stream_is_cut_into_parts_of_full_size_and_a_rest() {
        for pieces in [vec![25], vec![10, 10, 5], vec![3, 0, 9, 13], vec![1; 25]] {
            let body = stream::iter(pieces.clone())
                .map(|length| Ok(Bytes::from(vec![b'x'; length])))
                .boxed();
            let mut parts = Parts::new(body, 10);
            let mut lengths = Vec::new();
            loop {
                lengths.push(parts.next().await.unwrap().len());
                if lengths.last() != Some(&10) || parts.at_end().await.unwrap() {
                    break;
                }
            }
            assert_eq!(lengths, [10, 10, 5], "pieces of {pieces:?}");
        }
    }
}
