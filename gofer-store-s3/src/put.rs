//! One put: its conditions, its mark, and what came of it.

use std::sync::Arc;

use gofer_core::object_store::PutOptions;
use gofer_core::time::Timestamp;
use gofer_core::{BackendError, ErrorKind, ObjectKey};
use http::header::IF_NONE_MATCH;
use http::{HeaderMap, HeaderName, HeaderValue};
use rand::RngExt;

use crate::answer::{Answer, header};
use crate::client::Client;
use crate::error::Failure;
use crate::operation::{Call, Operation};

/// The object's metadata that says which put it comes from.
const MARK: HeaderName = HeaderName::from_static("x-amz-meta-gofer-put");
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
        failure.into_error("write", self.key.as_str(), &self.client.bucket)
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
