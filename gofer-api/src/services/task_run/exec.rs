//! `TaskRunService.Exec`: a command in a running task, for as long as its caller is there.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::channel::mpsc;
use futures::{SinkExt, StreamExt};
use gofer_core::event::{EventDetails, NewEvent, Subject};
use gofer_core::exec::{
    ExecInput, ExecOutput, ExecRequest, ExecSession, MAX_EXEC_CHUNK_BYTES, TerminalSize,
};
use gofer_core::{BackendError, ErrorKind, ExecutionId, Timestamp};
use gofer_engine::EngineError;
use gofer_proto::v1;
use gofer_proto::v1::exec_request::Input;
use gofer_proto::v1::exec_response::Output;
use tokio::sync::OwnedSemaphorePermit;
use tonic::{Extensions, Streaming};

use crate::auth::Standing;
use crate::convert;
use crate::error::ApiError;
use crate::rpc::call::{Call, HasTarget, ReplyStream, authorize};
use crate::rpc::context::Context;
use crate::rpc::streams::{ReplySender, StreamEnd, produce};
use crate::transport::Disconnect;

/// Most words of a command.
const COMMAND_WORDS_MAX: usize = 1_000;
/// Most bytes of all of them.
const COMMAND_MAX_BYTES: usize = 64 * 1024;

/// Runs a command. An event names its caller and its task before the scheduler hears of it.
pub(super) async fn exec(
    context: &Arc<Context>,
    extensions: Extensions,
    messages: Streaming<v1::ExecRequest>,
) -> Result<ReplyStream<v1::ExecResponse>, ApiError> {
    let disconnect = extensions.get::<Disconnect>().cloned().unwrap_or_default();
    let standing = extensions.get::<Standing>().cloned().unwrap_or_default();
    let mut inputs = Inputs { messages, disconnect, standing };
    let header = match inputs.first(context.limits.idle_timeout).await? {
        Some(Input::Header(header)) => header,
        _ => {
            return Err(ApiError::invalid(
                "header",
                "",
                "the first message of the stream is the header",
            ));
        }
    };

    let call = authorize(context, &extensions, header.target())?;
    let key = convert::run_key(&header.namespace, &header.pipeline, header.run)?;
    let task = convert::task_id(&header.task)?;
    let request = request(header.command, header.terminal)?;
    let (id, shown) = call.engine.exec_target(&key, &task, &request.command).await?;
    let limit = call.limits.exec_sessions;
    let permit = Arc::clone(&call.exec_sessions).try_acquire_owned();
    let permit = permit.map_err(|_| ApiError::ExecSessionsFull { limit })?;
    let counted = begin(&call, &id, shown, request.terminal.is_some(), permit).await?;
    let session =
        call.standing.hold(call.engine.exec(&id, request)).await?.map_err(|error| match error {
            // The request was checked above, so that an invalid one is about the execution it
            // meets.
            EngineError::Backend(error) => refusal("EXEC_REFUSED", error),
            other => other.into(),
        })?;

    let attempt = id.attempt.0;
    Ok(produce(&call, async move |replies| {
        let ended = serve(session, inputs, replies, attempt).await;
        drop(counted);
        ended
    }))
}

fn request(
    command: Vec<String>,
    terminal: Option<v1::TerminalSize>,
) -> Result<ExecRequest, ApiError> {
    let bad = |value: &str, rule: &str| Err(ApiError::invalid("header.command", value, rule));
    if command.first().is_none_or(String::is_empty) {
        return bad("", "a program, such as `/bin/sh`, and its arguments");
    }

    if command.len() > COMMAND_WORDS_MAX {
        return bad(
            &format!("{} words", command.len()),
            &format!("at most {COMMAND_WORDS_MAX} words"),
        );
    }

    let length: usize = command.iter().map(String::len).sum();
    if length > COMMAND_MAX_BYTES {
        return bad(
            &format!("{length} bytes"),
            &format!("at most {COMMAND_MAX_BYTES} bytes together"),
        );
    }

    if command.iter().any(|word| word.contains('\0')) {
        return bad("", "no word holds a NUL byte");
    }

    let terminal = terminal.map(|wanted| size("header.terminal", wanted)).transpose()?;
    Ok(ExecRequest { command, terminal })
}

fn size(field: &str, wanted: v1::TerminalSize) -> Result<TerminalSize, ApiError> {
    let side = |name: &str, value: u32| {
        let side = u16::try_from(value).ok().filter(|side| *side > 0);
        side.ok_or_else(|| {
            ApiError::invalid(format!("{field}.{name}"), value.to_string(), "from 1 to 65535")
        })
    };
    Ok(TerminalSize { rows: side("rows", wanted.rows)?, columns: side("columns", wanted.columns)? })
}

/// A session that counts against quotas and the server's own limit, until it is dropped.
struct Counted {
    context: Arc<Context>,
    session: String,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Counted {
    fn drop(&mut self) {
        let (db, session) = (self.context.db.clone(), std::mem::take(&mut self.session));
        self.context.tasks.spawn(async move {
            if let Err(error) = db.exec_end(&session).await {
                tracing::warn!(error = %gofer_core::error::chain(&error),
                    "a command that has ended counts against its namespace's quota until this \
                     server ends");
            }
        });
    }
}

/// Counts the session and records its caller, both or neither.
async fn begin(
    call: &Call,
    id: &ExecutionId,
    command: String,
    terminal: bool,
    permit: OwnedSemaphorePermit,
) -> Result<Counted, ApiError> {
    let actor = call.identity.actor();
    tracing::info!(execution = %id, %actor, terminal, "a command is run in a task");
    let subject = Subject::of_execution(id);
    let details = EventDetails::TaskRunExecRequested { command, terminal };
    let event = NewEvent { at: Timestamp::now(), actor, subject, details };
    let session = format!("{:032x}", rand::random::<u128>());
    call.db.exec_begin(&session, call.engine.server_id(), id, event).await?;
    Ok(Counted { context: call.context(), session, _permit: permit })
}

/// What a session's `Invalid` is: the request was well, and something is in its way.
fn refusal(reason: &'static str, error: BackendError) -> ApiError {
    match error.kind {
        ErrorKind::Invalid => ApiError::Precondition { reason, message: error.message },
        _ => error.into(),
    }
}

/// Moves bytes both ways until the command has ended or the caller has gone. Whatever ends this
/// drops the session, and so the command.
async fn serve(
    session: ExecSession,
    inputs: Inputs,
    replies: ReplySender<v1::ExecResponse>,
    attempt: u32,
) -> Result<(), StreamEnd> {
    let ExecSession { input, mut output } = session;
    let reply = |output| v1::ExecResponse { output: Some(output) };
    replies.send(reply(Output::Started(v1::ExecStarted { attempt }))).await?;
    let delivering = async {
        while let Some(piece) = output.next().await {
            let piece = match piece.map_err(|error| refusal("EXECUTION_ENDED", error))? {
                ExecOutput::Stdout(data) => Output::Stdout(data),
                ExecOutput::Stderr(data) => Output::Stderr(data),
                ExecOutput::Exited(exit_code) => Output::Exited(v1::ExecExited { exit_code }),
            };
            replies.send(reply(piece)).await?;
        }
        Ok(())
    };

    tokio::select! {
        ended = delivering => ended,
        failed = inputs.feed(input) => Err(StreamEnd::Failed(failed)),
    }
}

/// The caller's side of a session.
struct Inputs {
    messages: Streaming<v1::ExecRequest>,
    disconnect: Disconnect,
    standing: Standing,
}

impl Inputs {
    async fn first(&mut self, idle: Duration) -> Result<Option<Input>, ApiError> {
        match tokio::time::timeout(idle, self.next()).await {
            Ok(first) => first,
            Err(_) => Err(ApiError::Idle { seconds: idle.as_secs() }),
        }
    }

    /// The next piece; `None` when the caller has closed its side in order.
    async fn next(&mut self) -> Result<Option<Input>, ApiError> {
        match self.standing.hold(self.messages.message()).await? {
            Err(status) => Err(ApiError::CutOff { message: status.message().to_owned() }),
            Ok(None) if self.disconnect.happened() => {
                Err(ApiError::CutOff { message: "the caller left".to_owned() })
            }
            Ok(None) => Ok(None),
            Ok(Some(message)) => match message.input {
                Some(input) => Ok(Some(input)),
                None => Err(ApiError::invalid(
                    "input",
                    "",
                    "one of `stdin`, `stdin_end` and `resize` is set",
                )),
            },
        }
    }

    /// Passes on what comes from the caller. Ends only with an error: after the last input the
    /// command goes on.
    async fn feed(mut self, mut input: mpsc::Sender<ExecInput>) -> ApiError {
        loop {
            let next = match self.next().await {
                Ok(next) => next,
                Err(error) => return error,
            };

            let pieces = match next {
                Some(Input::Stdin(data)) => pieces(data),
                Some(Input::StdinEnd(_)) => vec![ExecInput::StdinEnd],
                Some(Input::Resize(wanted)) => match size("resize", wanted) {
                    Ok(size) => vec![ExecInput::Resize(size)],
                    Err(error) => return error,
                },
                Some(Input::Header(_)) => {
                    return ApiError::invalid("header", "", "only the first message is a header");
                }
                None => {
                    drop(input);
                    return std::future::pending().await;
                }
            };

            for piece in pieces {
                // The reader of its output sees that a command is gone.
                let _ = input.send(piece).await;
            }
        }
    }
}

fn pieces(mut data: Bytes) -> Vec<ExecInput> {
    let mut pieces = Vec::new();
    while !data.is_empty() {
        pieces.push(ExecInput::Stdin(data.split_to(data.len().min(MAX_EXEC_CHUNK_BYTES))));
    }
    pieces
}
