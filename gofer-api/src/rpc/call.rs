//! One call, from the moment a service gets it: permission, a task of its own, a time limit, and
//! how errors go back.

use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use prost::Message;
use tonic::{Extensions, Request, Response, Status};
use tracing::Instrument as _;

use crate::auth::Standing;
use crate::auth::permissions::{self, Target};
use crate::auth::{Caller, Identity};
use crate::error::{ApiError, TokenProblem};
use crate::intake::Held;
use crate::operations::objects::Objects;
use crate::operations::pipelines::Pipelines;
use crate::operations::tokens::Tokens;
use crate::rpc::context::Context;
use crate::transport::{Account, Charge};

/// What a stream of answers looks like to tonic.
pub(crate) type GrpcStream<R> = Pin<Box<dyn Stream<Item = Result<R, Status>> + Send + 'static>>;
/// What a stream of answers looks like to a handler.
pub(crate) type ReplyStream<R> = BoxStream<'static, Result<R, ApiError>>;

/// A call whose caller may make it.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    context: Arc<Context>,
    /// Who makes it.
    pub(crate) identity: Identity,
    /// What its answers may hold in memory before they are read.
    pub(crate) answers: Account,
    /// Whether they still may, for calls that go on for long.
    pub(crate) standing: Standing,
}

impl Call {
    /// The same call as seen by what goes on after its handler has answered.
    pub(crate) fn context(&self) -> Arc<Context> {
        self.context.clone()
    }

    /// The operations on objects, for this caller.
    pub(crate) fn objects(&self) -> Objects<'_> {
        self.context.objects(self.identity.actor())
    }

    /// The operations on pipelines, for this caller.
    pub(crate) fn pipelines(&self) -> Pipelines<'_> {
        self.context.pipelines(self.identity.actor())
    }

    /// The operations on tokens, for this caller.
    pub(crate) fn tokens(&self) -> Tokens<'_> {
        self.context.tokens(self.identity.actor())
    }
}

impl Deref for Call {
    type Target = Context;

    fn deref(&self) -> &Context {
        &self.context
    }
}

/// A request that says what permission it needs.
pub(crate) trait HasTarget {
    /// What permission is needed for.
    fn target(&self) -> Target<'_>;
}

/// Answers a call that is no stream. The handler runs in a task of its own: a caller that goes
/// away, or the time limit, ends the wait and not the work, so that nothing is left half done.
pub(crate) async fn unary<Q, R, F>(
    context: &Arc<Context>,
    request: Request<Q>,
    handler: impl FnOnce(Call, Q) -> F,
) -> Result<Response<R>, Status>
where
    Q: HasTarget,
    F: Future<Output = Result<R, ApiError>> + Send + 'static,
    R: Message + 'static,
{
    let (_, extensions, message) = request.into_parts();
    let call = authorize(context, &extensions, message.target())?;
    let answers = call.answers.clone();
    let (work, held) = (handler(call, message), extensions.get::<Held>().cloned());
    let work = async move {
        // The request's memory is in use for as long as its handler is at work, also when nobody
        // waits any more.
        let _held = held;
        work.await
    };
    let work = context.tasks.spawn(work.in_current_span());

    let limit = context.limits.call_timeout;
    let answer = finish(work, limit).await?;

    // The answer is in memory twice: as itself, and encoded.
    let mut charge = Charge::default();
    answers.raise(&mut charge, 2 * answer.encoded_len()).await?;
    let mut response = Response::new(answer);
    response.extensions_mut().insert(Arc::new(charge));

    Ok(response)
}

/// Answers a call with a stream, which ends with the server or the caller's standing at the latest.
pub(crate) async fn server_streaming<Q, R, F>(
    context: &Arc<Context>,
    request: Request<Q>,
    handler: impl FnOnce(Call, Q) -> F,
) -> Result<Response<GrpcStream<R>>, Status>
where
    Q: HasTarget,
    F: Future<Output = Result<ReplyStream<R>, ApiError>> + Send,
    R: Send + 'static,
{
    let (_, mut extensions, message) = request.into_parts();
    let standing = stand(context, &mut extensions);
    let call = authorize(context, &extensions, message.target())?;
    let replies = standing.hold(handler(call, message)).await??;
    Ok(Response::new(grpc_stream(context, standing, replies)))
}

/// From here on the standing of the stream's caller is looked after.
pub(crate) fn stand(context: &Context, extensions: &mut Extensions) -> Standing {
    let caller = extensions.get::<Caller>();
    let standing =
        caller.map(|caller| context.standings.open(&caller.identity)).unwrap_or_default();
    extensions.insert(standing.clone());
    standing
}

/// Replies as tonic wants them; when the server or the caller's standing ends first, the last
/// one says so.
pub(crate) fn grpc_stream<R: Send + 'static>(
    context: &Arc<Context>,
    standing: Standing,
    replies: ReplyStream<R>,
) -> GrpcStream<R> {
    let (stop, watched) = (context.stop.clone(), standing.clone());
    let ended = async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = watched.lost() => {}
        }
    };
    let stop = context.stop.clone();
    let last = futures::stream::once(async move {
        let ending = || stop.is_cancelled().then_some(ApiError::ShuttingDown);
        standing.loss().or_else(ending).map(Err)
    });
    let replies = replies.take_until(Box::pin(ended)).chain(last.filter_map(std::future::ready));
    replies.map(|reply| reply.map_err(Status::from)).boxed()
}

/// The call, if its caller may do this.
///
/// # Errors
/// `Forbidden`; `Unauthenticated` for a request that came past authentication, which is a fault of
/// the server.
pub(crate) fn authorize(
    context: &Arc<Context>,
    extensions: &Extensions,
    target: Target<'_>,
) -> Result<Call, ApiError> {
    let Some(Caller { identity, rule }) = extensions.get::<Caller>() else {
        return Err(ApiError::Unauthenticated(TokenProblem::Missing));
    };
    let span = tracing::Span::current();
    if !span.is_disabled() {
        span.record("actor", identity.actor());
    }
    permissions::check(*rule, identity, target)?;
    let Some(answers) = extensions.get::<Account>().cloned() else { return Err(ApiError::Broken) };
    let standing = extensions.get::<Standing>().cloned().unwrap_or_default();
    // The header of a stream may come long after the call was admitted. Without this, a token that
    // was lost in between would still begin its work.
    if let Some(loss) = standing.loss() {
        return Err(loss);
    }
    Ok(Call { context: context.clone(), identity: identity.clone(), answers, standing })
}

/// Waits for a handler's task.
pub(crate) async fn finish<R>(
    work: tokio::task::JoinHandle<Result<R, ApiError>>,
    limit: Duration,
) -> Result<R, ApiError> {
    match tokio::time::timeout(limit, work).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => Err(ApiError::Broken),
        Err(_) => Err(ApiError::TooSlow { seconds: limit.as_secs() }),
    }
}

/// Makes a service of handlers: `unary name(Request) -> Response` calls the function `name(Call,
/// Request)`, `server_streaming` the same for streams of answers; each call is authorized before
/// its handler sees it. For requests that are streams (`client_streaming`, `bidi`) the handler
/// authorizes, because only it knows what the stream is about.
macro_rules! service {
    (
        $trait:path {
            $(unary $unary:ident($unary_request:ty) -> $unary_response:ty;)*
            $(server_streaming $streaming:ident($streaming_request:ty) -> $assoc:ident<$streaming_response:ty>;)*
            $(client_streaming $uploading:ident($uploading_request:ty) -> $uploading_response:ty;)*
            $(bidi $both:ident($both_request:ty) -> $both_assoc:ident<$both_response:ty>;)*
        }
    ) => {
        /// The service, around the handlers of this file.
        #[derive(Debug, Clone)]
        pub(crate) struct Service(pub(crate) std::sync::Arc<crate::rpc::context::Context>);

        #[tonic::async_trait]
        impl $trait for Service {
            $(
                async fn $unary(
                    &self,
                    request: tonic::Request<$unary_request>,
                ) -> Result<tonic::Response<$unary_response>, tonic::Status> {
                    crate::rpc::call::unary(&self.0, request, $unary).await
                }
            )*
            $(
                type $assoc = crate::rpc::call::GrpcStream<$streaming_response>;

                async fn $streaming(
                    &self,
                    request: tonic::Request<$streaming_request>,
                ) -> Result<tonic::Response<Self::$assoc>, tonic::Status> {
                    crate::rpc::call::server_streaming(&self.0, request, $streaming).await
                }
            )*
            $(
                async fn $uploading(
                    &self,
                    request: tonic::Request<tonic::Streaming<$uploading_request>>,
                ) -> Result<tonic::Response<$uploading_response>, tonic::Status> {
                    let (_, mut extensions, parts) = request.into_parts();
                    let _standing = crate::rpc::call::stand(&self.0, &mut extensions);
                    let answer = $uploading(&self.0, extensions, parts).await;
                    Ok(tonic::Response::new(answer?))
                }
            )*
            $(
                type $both_assoc = crate::rpc::call::GrpcStream<$both_response>;

                async fn $both(
                    &self,
                    request: tonic::Request<tonic::Streaming<$both_request>>,
                ) -> Result<tonic::Response<Self::$both_assoc>, tonic::Status> {
                    let (_, mut extensions, parts) = request.into_parts();
                    let standing = crate::rpc::call::stand(&self.0, &mut extensions);
                    let replies = $both(&self.0, extensions, parts).await?;
                    Ok(tonic::Response::new(crate::rpc::call::grpc_stream(&self.0, standing, replies)))
                }
            )*
        }
    };
}

/// Says what requests are about; `installation` has no namespace.
macro_rules! target {
    (namespace: $($request:ident),* $(,)?) => {
        $(impl crate::rpc::call::HasTarget for gofer_proto::v1::$request {
            fn target(&self) -> crate::auth::permissions::Target<'_> {
                crate::auth::permissions::Target::Namespace(&self.namespace)
            }
        })*
    };
    (object: $($request:ident),* $(,)?) => {
        $(impl crate::rpc::call::HasTarget for gofer_proto::v1::$request {
            fn target(&self) -> crate::auth::permissions::Target<'_> {
                let (namespace, pipeline) = (self.namespace.as_str(), self.pipeline.as_str());
                crate::auth::permissions::Target::Object { namespace, pipeline, run: self.run }
            }
        })*
    };
    (installation: $($request:ident),* $(,)?) => {
        $(impl crate::rpc::call::HasTarget for gofer_proto::v1::$request {
            fn target(&self) -> crate::auth::permissions::Target<'_> {
                crate::auth::permissions::Target::Installation
            }
        })*
    };
}

pub(crate) use {service, target};
