//! One page of a list, in the store's own order.

use gofer_core::BackendError;
use s3::serde_types::ListBucketResult;

use crate::client::Client;
use crate::operation::{Call, Operation};

/// S3's largest page.
pub(crate) const MAX_PAGE_KEYS: usize = 1_000;

/// One answer of the store: at most `limit` keys under `prefix`, after the key `after` or where
/// `token` says.
pub(crate) async fn page(
    client: &Client,
    prefix: &str,
    after: Option<String>,
    token: Option<String>,
    limit: usize,
) -> Result<ListBucketResult, BackendError> {
    let operation = Operation::List {
        prefix: prefix.to_owned(),
        after,
        token,
        limit: limit.clamp(1, MAX_PAGE_KEYS),
    };
    let answer = client.send(&Call::new("", operation)).await;
    answer.map_err(|failure| failure.into_error("list", "", &client.bucket))?.xml()
}
