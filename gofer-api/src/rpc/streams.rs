//! Streams of replies.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::call::{Call, ReplyStream};
use crate::error::ApiError;
use crate::transport::{Account, Charge};

/// Replies that may wait for a slow reader of a stream.
const STREAM_QUEUE: usize = 16;
/// Time between two signs of life of a stream; the contract promises 30 s.
pub(crate) const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(15);

/// A stream of replies that a task of its own produces; the task ends when nobody reads any more,
/// with the server, or when the caller may no longer have them: also while a caller that reads
/// nothing keeps the stream open.
pub(crate) fn produce<R, F>(call: &Call, work: impl FnOnce(ReplySender<R>) -> F) -> ReplyStream<R>
where
    R: Message + 'static,
    F: Future<Output = Result<(), StreamEnd>> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(STREAM_QUEUE);
    let (stop, standing) = (call.stop.clone(), call.standing.clone());
    let work = work(ReplySender { sender: sender.clone(), answers: call.answers.clone() });
    call.tasks.spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = standing.lost() => {}
            () = sender.closed() => {}
            ended = work => {
                if let Err(StreamEnd::Failed(error)) = ended {
                    let _ = sender.send(Err(error)).await;
                }
            }
        }
    });

    // A reply that leaves the queue is encoded at once. From then on the connection accounts for
    // its memory.
    ReceiverStream::new(receiver).map(|reply: Queued<R>| reply.map(|(reply, _)| reply)).boxed()
}

/// A reply in the queue, with its memory.
type Queued<R> = Result<(R, Arc<Charge>), ApiError>;

/// Where a producer puts its replies; waits for a slow reader, and for memory.
pub(crate) struct ReplySender<R> {
    sender: mpsc::Sender<Queued<R>>,
    answers: Account,
}

impl<R: Message> ReplySender<R> {
    /// Queues a reply.
    pub(crate) async fn send(&self, reply: R) -> Result<(), StreamEnd> {
        let memory = self.reserve(reply.encoded_len()).await;
        self.send_reserved(reply, memory).await
    }

    /// Memory for replies, before they are made.
    pub(crate) async fn reserve(&self, bytes: usize) -> Arc<Charge> {
        Arc::new(self.answers.take(bytes).await)
    }

    /// Queues a reply that has its memory.
    pub(crate) async fn send_reserved(
        &self,
        reply: R,
        memory: Arc<Charge>,
    ) -> Result<(), StreamEnd> {
        self.sender.send(Ok((reply, memory))).await.map_err(|_| StreamEnd::NobodyReads)
    }
}

/// Why a producer ends before its time.
pub(crate) enum StreamEnd {
    NobodyReads,
    Failed(ApiError),
}

impl<E: Into<ApiError>> From<E> for StreamEnd {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}
