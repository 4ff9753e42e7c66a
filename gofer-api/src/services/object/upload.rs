//! `PutObject`: the header, then the bytes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use gofer_proto::v1;
use gofer_proto::v1::put_object_request::Part;
use tonic::{Extensions, Streaming};

use crate::auth::Standing;
use crate::convert;
use crate::error::ApiError;
use crate::operations::objects::NewObject;
use crate::rpc::call::{Call, HasTarget, authorize};
use crate::rpc::context::Context;
use crate::transport::Disconnect;

/// Receives an object. The work goes on in a task of its own: a caller that leaves ends its stream,
/// and what that means is decided there.
pub(super) async fn put_object(
    context: &Arc<Context>,
    extensions: Extensions,
    parts: Streaming<v1::PutObjectRequest>,
) -> Result<v1::PutObjectResponse, ApiError> {
    let disconnect = extensions.get::<Disconnect>().cloned().unwrap_or_default();
    let standing = extensions.get::<Standing>().cloned().unwrap_or_default();
    let idle = context.limits.idle_timeout;
    let mut parts = Parts { parts, disconnect, standing: standing.clone(), idle };
    let header = match parts.next().await? {
        Some(Part::Header(header)) => header,
        Some(Part::Chunk(_)) | None => {
            return Err(ApiError::invalid(
                "header",
                "",
                "the first message of the stream is the header",
            ));
        }
    };

    let call = authorize(context, &extensions, header.target())?;
    let work = context.tasks.spawn(receive(call, header, parts));

    // The task looks at the standing once more before it makes the bytes an object.
    standing.hold(work).await?.unwrap_or(Err(ApiError::Broken))
}

async fn receive(
    call: Call,
    header: v1::PutObjectHeader,
    parts: Parts,
) -> Result<v1::PutObjectResponse, ApiError> {
    let new = NewObject {
        scope: convert::object_scope(&header.namespace, &header.pipeline, header.run)?,
        key: convert::object_key(&header.key)?,
        size_bytes: header.size_bytes,
        if_absent: header.if_absent,
    };
    let (room, standing) = (&call.upload_room, &call.standing);
    let stored = call.objects().put(new, parts.pieces(), room, standing).await?;
    Ok(v1::PutObjectResponse {
        object: Some(convert::object(&stored.record)),
        evicted_keys: stored.evicted_keys,
    })
}

/// The caller's side of an upload.
struct Parts {
    parts: Streaming<v1::PutObjectRequest>,
    disconnect: Disconnect,
    standing: Standing,
    idle: Duration,
}

impl Parts {
    /// The next part; `None` when the caller has closed its side in order.
    async fn next(&mut self) -> Result<Option<Part>, ApiError> {
        match self.standing.hold(tokio::time::timeout(self.idle, self.parts.message())).await? {
            Err(_) => Err(ApiError::Idle { seconds: self.idle.as_secs() }),
            Ok(Err(status)) => Err(ApiError::CutOff { message: status.message().to_owned() }),
            Ok(Ok(None)) if self.disconnect.happened() => {
                Err(ApiError::CutOff { message: "the caller left".to_owned() })
            }
            Ok(Ok(None)) => Ok(None),
            Ok(Ok(Some(message))) => match message.part {
                Some(part) => Ok(Some(part)),
                None => Err(ApiError::invalid("part", "", "one of `header` and `chunk` is set")),
            },
        }
    }

    /// The bytes that follow the header.
    fn pieces(self) -> BoxStream<'static, Result<Bytes, ApiError>> {
        let next = |mut parts: Self| async move {
            match parts.next().await? {
                Some(Part::Chunk(chunk)) => Ok(Some((chunk, parts))),
                Some(Part::Header(_)) => {
                    Err(ApiError::invalid("header", "", "only the first message is a header"))
                }
                None => Ok(None),
            }
        };
        stream::try_unfold(self, next).boxed()
    }
}
