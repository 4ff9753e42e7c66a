//! The gRPC services, one file per resource. A handler is a function from a call and a request to
//! an answer; `service!` wires it up, authorized, in a task of its own and with a time limit.

use std::sync::Arc;

use futures::StreamExt;
use gofer_proto::v1;
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;

use crate::rpc::call::{Call, Replies};
use crate::rpc::context::Context;
use crate::error::ApiError;
use crate::intake::MAX_MESSAGE_BYTES;
use crate::transport::{Account, Charge};

mod common_task;
mod event;
mod execution;
mod namespace;
mod object;
mod pipeline;
mod run;
mod secret;
mod system;
mod task_run;
mod token;
mod trigger;

pub(crate) use token::new_token;

/// Replies that may wait for a slow reader of a stream.
const STREAM_QUEUE: usize = 16;

/// Every service of the contract.
pub(crate) fn routes(context: &Arc<Context>) -> Routes {
    macro_rules! routes {
        ($($module:ident: $server_module:ident :: $server:ident;)+) => {
            Routes::default()$(.add_service(
                v1::$server_module::$server::new($module::Service(context.clone())).max_decoding_message_size(MAX_MESSAGE_BYTES),
            ))+
        };
    }
    routes! {
        common_task: common_task_service_server::CommonTaskServiceServer;
        event: event_service_server::EventServiceServer;
        execution: execution_service_server::ExecutionServiceServer;
        namespace: namespace_service_server::NamespaceServiceServer;
        object: object_service_server::ObjectServiceServer;
        pipeline: pipeline_service_server::PipelineServiceServer;
        run: run_service_server::RunServiceServer;
        secret: secret_service_server::SecretServiceServer;
        system: system_service_server::SystemServiceServer;
        task_run: task_run_service_server::TaskRunServiceServer;
        token: token_service_server::TokenServiceServer;
        trigger: trigger_service_server::TriggerServiceServer;
    }
}

/// A stream of replies that a task of its own produces; the task ends when nobody reads any more,
/// with the server, or when the caller may no longer have them: also while a caller that reads
/// nothing keeps the stream open.
fn produce<R, F>(call: &Call, work: impl FnOnce(Outlet<R>) -> F) -> Replies<R>
where
    R: Message + 'static,
    F: Future<Output = Result<(), Stop>> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(STREAM_QUEUE);
    let (stop, standing) = (call.stop.clone(), call.standing.clone());
    let work = work(Outlet { sender: sender.clone(), answers: call.answers.clone() });
    call.tasks.spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = standing.lost() => {}
            () = sender.closed() => {}
            ended = work => {
                if let Err(Stop::Failed(error)) = ended {
                    let _ = sender.send(Err(error)).await;
                }
            }
        }
    });

    // A reply that is taken from the queue is encoded at once: its memory is the connection's from
    // then on.
    ReceiverStream::new(receiver).map(|reply: Queued<R>| reply.map(|(reply, _)| reply)).boxed()
}

/// A reply in the queue, with its memory.
type Queued<R> = Result<(R, Arc<Charge>), ApiError>;

/// Where a producer puts its replies; waits for a slow reader, and for memory.
struct Outlet<R> {
    sender: mpsc::Sender<Queued<R>>,
    answers: Account,
}

impl<R: Message> Outlet<R> {
    /// Queues a reply.
    async fn send(&self, reply: R) -> Result<(), Stop> {
        let memory = self.reserve(reply.encoded_len()).await;
        self.send_reserved(reply, memory).await
    }

    /// Memory for replies, before they are made.
    async fn reserve(&self, bytes: usize) -> Arc<Charge> {
        Arc::new(self.answers.take(bytes).await)
    }

    /// Queues a reply that has its memory.
    async fn send_reserved(&self, reply: R, memory: Arc<Charge>) -> Result<(), Stop> {
        self.sender.send(Ok((reply, memory))).await.map_err(|_| Stop::NobodyReads)
    }
}

/// Why a producer ends before its time.
enum Stop {
    NobodyReads,
    Failed(ApiError),
}

impl<E: Into<ApiError>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}
