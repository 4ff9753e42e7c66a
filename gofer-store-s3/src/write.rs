//! Writing: one request for what fits into a part, a multipart upload for the rest.

use bytes::Bytes;
use gofer_core::BackendError;
use gofer_core::object_store::{ByteStream, ObjectMeta};
use gofer_core::time::Timestamp;

use crate::operation::Operation;
use crate::parts::Parts;
use crate::put::Put;
use crate::upload;

/// Writes the stream as the object that was put.
pub(crate) async fn write(
    put: Put,
    body: ByteStream,
    part_bytes: usize,
) -> Result<ObjectMeta, BackendError> {
    let mut parts = Parts::new(body, part_bytes);
    let first = parts.next().await?;
    let (size_bytes, modified_at) = if first.len() < part_bytes || parts.at_end().await? {
        (first.len() as u64, whole(&put, first).await?)
    } else {
        upload::run(&put, first, parts).await?
    };
    Ok(ObjectMeta { key: put.key, size_bytes, modified_at, sha256: None })
}

async fn whole(put: &Put, body: Bytes) -> Result<Timestamp, BackendError> {
    let mut call = put.call(Operation::Put { body });
    call.headers = put.mark();
    call.headers.extend(put.condition());
    put.settle(put.client.send(&call).await).await
}
