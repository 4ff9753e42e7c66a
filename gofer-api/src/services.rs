//! The gRPC services, one file per resource. A handler is a function from a call and a request to an answer; `service!`
//! wires it up, authorized, in a task of its own and with a time limit.

use std::sync::Arc;

use futures::StreamExt;
use gofer_proto::v1;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;

use crate::call::{Call, Replies};
use crate::context::Context;
use crate::error::ApiError;

mod common_task;
mod direct;
mod event;
mod exec;
mod execution;
mod namespace;
mod object;
mod pipeline;
mod run;
mod run_view;
mod secret;
mod system;
mod task_run;
mod timeline;
mod token;
mod trigger;
mod upload;
mod waiting;

pub(crate) use token::new_token;

/// Longest request with maps in it. The limits of `gofer_core::validate` are far below; the room above lets a caller
/// who exceeds them hear which field it was.
const MAX_SPEC_MESSAGE_BYTES: usize = 16 * 1024 * 1024;
/// Longest of all other requests.
const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;
/// Replies that may wait for a slow reader of a stream.
const STREAM_QUEUE: usize = 16;

/// Every service of the contract.
pub(crate) fn routes(context: &Arc<Context>) -> Routes {
    macro_rules! routes {
        ($($module:ident: $server_module:ident :: $server:ident, $limit:ident;)+) => {
            Routes::default()$(.add_service(
                v1::$server_module::$server::new($module::Service(context.clone())).max_decoding_message_size($limit),
            ))+
        };
    }
    routes! {
        common_task: common_task_service_server::CommonTaskServiceServer, MAX_MESSAGE_BYTES;
        event: event_service_server::EventServiceServer, MAX_MESSAGE_BYTES;
        execution: execution_service_server::ExecutionServiceServer, MAX_MESSAGE_BYTES;
        namespace: namespace_service_server::NamespaceServiceServer, MAX_MESSAGE_BYTES;
        object: object_service_server::ObjectServiceServer, MAX_MESSAGE_BYTES;
        pipeline: pipeline_service_server::PipelineServiceServer, MAX_SPEC_MESSAGE_BYTES;
        run: run_service_server::RunServiceServer, MAX_SPEC_MESSAGE_BYTES;
        secret: secret_service_server::SecretServiceServer, MAX_MESSAGE_BYTES;
        system: system_service_server::SystemServiceServer, MAX_MESSAGE_BYTES;
        task_run: task_run_service_server::TaskRunServiceServer, MAX_MESSAGE_BYTES;
        token: token_service_server::TokenServiceServer, MAX_MESSAGE_BYTES;
        trigger: trigger_service_server::TriggerServiceServer, MAX_MESSAGE_BYTES;
    }
}

/// A stream of replies that a task of its own produces; the task ends when nobody reads any more, with the server, or when the
/// caller may no longer have them: also while a caller that reads nothing keeps the stream open.
fn produce<R, F>(call: &Call, work: impl FnOnce(Outlet<R>) -> F) -> Replies<R>
where
    R: Send + 'static,
    F: Future<Output = Result<(), Stop>> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(STREAM_QUEUE);
    let (stop, standing) = (call.stop.clone(), call.standing.clone());
    let work = work(Outlet(sender.clone()));
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
    ReceiverStream::new(receiver).boxed()
}

/// Where a producer puts its replies; waits for a slow reader.
struct Outlet<R>(mpsc::Sender<Result<R, ApiError>>);

impl<R> Outlet<R> {
    async fn send(&self, reply: R) -> Result<(), Stop> {
        self.0.send(Ok(reply)).await.map_err(|_| Stop::NobodyReads)
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
