//! The order in which a store lists.
//!
//! S3 lists keys by their bytes: `a-b` before `a/b`. Stores that keep objects in directories
//! (SeaweedFS 4.48) go through each before they go on: `a/b` before `a-b`. Two small objects tell
//! which it is.

use bytes::Bytes;
use gofer_core::BackendError;

use crate::client::Client;
use crate::operation::{Call, Operation};
use crate::page::page;

/// `~` is in no object's key, so these are nobody's objects, and no list shows them.
const PROBE_PREFIX: &str = "~gofer-order/";
const IN_DIRECTORY: &str = "a/b";
const BESIDE: &str = "a-b";

/// How a store orders its lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// By the bytes of the keys.
    Bytes,
    /// Directory by directory.
    Tree,
}

/// Asks the store, and makes the two objects when they are not there yet.
pub(crate) async fn find(client: &Client, root: &str) -> Result<Order, BackendError> {
    if let Some(order) = look(client, root).await? {
        return Ok(order);
    }

    for name in [IN_DIRECTORY, BESIDE] {
        let call = Call::new(
            format!("{root}{PROBE_PREFIX}{name}"),
            Operation::Put { body: Bytes::from_static(b"gofer") },
        );
        client
            .send(&call)
            .await
            .map_err(|failure| failure.into_error("write", &call.key, &client.bucket))?;
    }

    // A store that does not list what was just written cannot be told; S3's own order is the likely
    // one.
    Ok(look(client, root).await?.unwrap_or(Order::Bytes))
}

async fn look(client: &Client, root: &str) -> Result<Option<Order>, BackendError> {
    let prefix = format!("{root}{PROBE_PREFIX}");
    let found = page(client, &prefix, None, None, 10).await?;
    let position = |name: &str| {
        found.contents.iter().position(|object| object.key == format!("{prefix}{name}"))
    };
    Ok(match (position(IN_DIRECTORY), position(BESIDE)) {
        (Some(in_directory), Some(beside)) if in_directory < beside => Some(Order::Tree),
        (Some(_), Some(_)) => Some(Order::Bytes),
        _ => None,
    })
}
