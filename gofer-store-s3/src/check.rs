//! Whether the bucket can be used: everything that Gofer does with it is done once.

use std::sync::Arc;

use bytes::Bytes;
use gofer_core::{BackendError, ErrorKind};
use http::header::IF_NONE_MATCH;
use http::{HeaderMap, HeaderValue};
use rand::RngExt;
use s3::serde_types::{InitiateMultipartUploadResponse, Part};

use crate::answer::{Answer, header};
use crate::client::Client;
use crate::error::Failure;
use crate::operation::{Call, Operation, upload_in_url};
use crate::page;

const PROBE_TEXT: Bytes = Bytes::from_static(b"gofer was here");

/// Lists, writes, reads and deletes, in a place that no list shows.
pub(crate) async fn probe(
    client: &Client,
    root: &str,
    conditional: bool,
) -> Result<String, BackendError> {
    page::page(client, root, None, None, 1).await?;
    let probe =
        Probe { client, key: format!("{root}~gofer-check/{:016x}", rand::rng().random::<u64>()) };
    let outcome = probe.write_and_read(conditional).await;
    // Also after a failure, of which nothing should be left; the first error is the one to tell.
    let deleted = probe.ask(Operation::Delete, HeaderMap::new()).await;
    outcome?;
    deleted.map_err(|failure| probe.error("delete", failure))?;
    let bucket = &client.bucket;
    let under = if root.is_empty() { String::new() } else { format!(" under `{root}`") };
    Ok(format!("bucket `{}` at `{}` is writable{under}", bucket.name, bucket.endpoint))
}

struct Probe<'a> {
    client: &'a Client,
    key: String,
}

impl Probe<'_> {
    async fn write_and_read(&self, conditional: bool) -> Result<(), BackendError> {
        self.ask(Operation::Put { body: PROBE_TEXT }, HeaderMap::new())
            .await
            .map_err(|failure| self.error("write", failure))?;
        let answer = self.ask(Operation::Get, HeaderMap::new()).await;
        let mut answer = answer.map_err(|failure| self.error("read", failure))?;
        let response = answer.stream.take().ok_or_else(|| self.corrupt())?;
        let bytes =
            self.client.text(response).await.map_err(|cause| {
                self.error("read", Failure { cause, attempts: answer.attempts })
            })?;

        if bytes != PROBE_TEXT {
            return Err(self.corrupt());
        }

        if !conditional {
            return Ok(());
        }

        let refused = self.ask(Operation::Put { body: PROBE_TEXT }, absent()).await;
        self.expect_refusal(refused, "a put")?;
        self.multipart().await
    }

    /// A multipart upload to the key that is taken now.
    async fn multipart(&self) -> Result<(), BackendError> {
        let failed = |failure| self.error("upload", failure);
        let begun = self.ask(Operation::Begin, HeaderMap::new()).await.map_err(failed)?;
        let upload = upload_in_url(&begun.xml::<InitiateMultipartUploadResponse>()?.upload_id);
        let part = Operation::Part { number: 1, upload: upload.clone(), body: PROBE_TEXT };
        let sent = self.ask(part, HeaderMap::new()).await;
        let refused = match sent {
            Ok(answer) => {
                let etag =
                    header(&answer.headers, &http::header::ETAG).unwrap_or_default().to_owned();
                let parts = Arc::new(vec![Part { part_number: 1, etag }]);
                Ok(self.ask(Operation::Complete { upload: upload.clone(), parts }, absent()).await)
            }
            Err(failure) => Err(failure),
        };

        let aborted = self.ask(Operation::Abort { upload }, HeaderMap::new()).await;
        self.expect_refusal(refused.map_err(failed)?, "the completion of an upload")?;
        aborted.map_err(failed)?;

        Ok(())
    }

    async fn ask(&self, operation: Operation, headers: HeaderMap) -> Result<Answer, Failure> {
        self.client.send(&Call { key: self.key.clone(), operation, headers }).await
    }

    /// Without this a put with `if_absent` would replace what is there, and say that it did not.
    fn expect_refusal(
        &self,
        outcome: Result<Answer, Failure>,
        what: &str,
    ) -> Result<(), BackendError> {
        match outcome {
            Err(failure) if failure.status() == 412 => Ok(()),
            Err(failure) => Err(self.error("write", failure)),
            Ok(_) => {
                let bucket = &self.client.bucket;
                let next_step = "update it, or set conditional_writes to `false` and do without \
                                 puts of absent objects";
                let message = format!(
                    "the store at `{}` ignores `If-None-Match` on {what}; {next_step}",
                    bucket.endpoint
                );
                Err(BackendError::new(ErrorKind::Unsupported, message))
            }
        }
    }

    fn error(&self, verb: &str, failure: Failure) -> BackendError {
        failure.into_error(verb, &self.key, &self.client.bucket)
    }

    fn corrupt(&self) -> BackendError {
        let bucket = &self.client.bucket;
        let message = format!(
            "bucket `{}` at `{}` gives back other bytes than were written",
            bucket.name, bucket.endpoint
        );
        BackendError::new(ErrorKind::Corrupt, message)
    }
}

fn absent() -> HeaderMap {
    HeaderMap::from_iter([(IF_NONE_MATCH, HeaderValue::from_static("*"))])
}
