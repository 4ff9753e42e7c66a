//! Nomad's websocket for a command in a task: JSON messages both ways, and errors as the reason of
//! its close.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use gofer_core::exec::{ExecInput, MAX_EXEC_CHUNK_BYTES, TerminalSize};
use gofer_core::{BackendError, ErrorKind};
use reqwest::Upgraded;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::calls::{JobCalls, JobKey};
use crate::http::client::Query;
use crate::http::error::Failure;
use crate::job::names::MAIN;

/// Nomad's own client sends a message this often, so that nothing on the way takes the connection
/// for dead.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// Longest message of Nomad's: it reads some KiB of output at a time, and base64 makes a third more
/// of them.
const MAX_MESSAGE_BYTES: usize = 1024 * 1024;
/// What Ctrl-D types.
const END_OF_TRANSMISSION: &[u8] = &[4];

/// Connects a command in the execution's task.
pub(crate) async fn connect(
    calls: &JobCalls,
    key: &JobKey,
    alloc: &str,
    command: &[String],
    terminal: bool,
) -> Result<(Sender, Receiver), Failure> {
    let command = json!(command).to_string();
    let query = Query::namespace(&key.namespace).with("task", MAIN).with("command", &command);
    let query = query.with("tty", if terminal { "true" } else { "false" });
    let socket =
        calls.client.open_websocket(&format!("/v1/client/allocation/{alloc}/exec"), &query).await?;
    let (sink, stream) =
        WebSocketStream::from_raw_socket(socket, Role::Client, Some(limits())).await.split();
    Ok((Sender { sink, terminal }, Receiver { stream }))
}

/// What a session holds of what comes: the library would take messages of 64 MiB.
fn limits() -> WebSocketConfig {
    WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE_BYTES))
        .max_frame_size(Some(MAX_MESSAGE_BYTES))
}

/// Where input goes.
pub(crate) struct Sender {
    sink: SplitSink<WebSocketStream<Upgraded>, Message>,
    terminal: bool,
}

impl Sender {
    /// Sends a piece of input; waits while the command does not read.
    pub(crate) async fn send(&mut self, input: &ExecInput) -> Result<(), Error> {
        match input {
            ExecInput::Stdin(data) => {
                for piece in data.chunks(MAX_EXEC_CHUNK_BYTES) {
                    self.json(typed(piece)).await?;
                }
                Ok(())
            }
            ExecInput::StdinEnd if self.terminal => self.json(typed(END_OF_TRANSMISSION)).await,
            ExecInput::StdinEnd => self.json(json!({"stdin": {"close": true}})).await,
            ExecInput::Resize(_) if !self.terminal => Ok(()),
            ExecInput::Resize(TerminalSize { rows, columns }) => {
                self.json(json!({"tty_size": {"height": rows, "width": columns}})).await
            }
        }
    }

    /// Keeps the connection in use; never ends but with its error.
    pub(crate) async fn keep_alive(&mut self) -> Error {
        loop {
            tokio::time::sleep(KEEPALIVE).await;
            if let Err(error) = self.json(json!({})).await {
                return error;
            }
        }
    }

    async fn json(&mut self, message: Value) -> Result<(), Error> {
        self.sink.send(Message::text(message.to_string())).await
    }
}

fn typed(data: &[u8]) -> Value {
    json!({"stdin": {"data": BASE64.encode(data)}})
}

/// Where output comes from.
pub(crate) struct Receiver {
    stream: SplitStream<WebSocketStream<Upgraded>>,
}

/// What Nomad says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// Bytes of stdout, or of the terminal.
    Stdout(Bytes),
    /// Bytes of stderr.
    Stderr(Bytes),
    /// The command has ended.
    Exited(i32),
    /// The connection is over, and why.
    Closed(String),
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Frame {
    stdout: Option<Data>,
    stderr: Option<Data>,
    exited: bool,
    result: Option<ExitResult>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Data {
    data: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ExitResult {
    exit_code: i32,
}

impl Receiver {
    /// The next thing of interest.
    pub(crate) async fn next(&mut self) -> Result<Said, BackendError> {
        loop {
            let said = match self.stream.next().await {
                Some(Ok(Message::Text(text))) => read(text.as_bytes())?,
                Some(Ok(Message::Binary(bytes))) => read(&bytes)?,
                Some(Ok(Message::Close(frame))) => Some(Said::Closed(
                    frame.map_or_else(String::new, |frame| frame.reason.to_string()),
                )),
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => None,
                Some(Err(Error::ConnectionClosed | Error::AlreadyClosed)) | None => {
                    Some(Said::Closed(String::new()))
                }
                Some(Err(error)) => Some(Said::Closed(error.to_string())),
            };
            if let Some(said) = said {
                return Ok(said);
            }
        }
    }
}

/// `None` is a message that says nothing: the end of one of two streams, or a sign of life.
fn read(text: &[u8]) -> Result<Option<Said>, BackendError> {
    let unreadable = |error: String| {
        BackendError::new(
            ErrorKind::Internal,
            format!("nomad's message of a session cannot be read: {error}"),
        )
    };

    let frame: Frame =
        serde_json::from_slice(text).map_err(|error| unreadable(error.to_string()))?;
    let bytes = |data: Option<Data>| {
        let text = data.and_then(|data| data.data).unwrap_or_default();
        BASE64.decode(text).map(Bytes::from).map_err(|error| unreadable(error.to_string()))
    };

    let (stdout, stderr) = (bytes(frame.stdout)?, bytes(frame.stderr)?);
    Ok(match (stdout.is_empty(), stderr.is_empty(), frame.exited) {
        (false, _, _) => Some(Said::Stdout(stdout)),
        (_, false, _) => Some(Said::Stderr(stderr)),
        (_, _, true) => Some(Said::Exited(frame.result.unwrap_or_default().exit_code)),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_message_beyond_the_limit_is_not_gathered() {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let mut agent = WebSocketStream::from_raw_socket(theirs, Role::Server, None).await;
        let mut session =
            WebSocketStream::from_raw_socket(ours, Role::Client, Some(limits())).await;
        let sending = async {
            agent.send(Message::text("s".repeat(MAX_MESSAGE_BYTES))).await.unwrap();
            // Its end is never read.
            let _ = agent.send(Message::text("s".repeat(MAX_MESSAGE_BYTES + 1))).await;
        };

        let reading = async {
            assert_eq!(session.next().await.unwrap().unwrap().len(), MAX_MESSAGE_BYTES);
            let error = session.next().await.unwrap().unwrap_err();
            assert!(matches!(error, Error::Capacity(_)), "{error}");
        };

        tokio::select! {
            () = reading => {}
            () = async { sending.await; std::future::pending().await } => {}
        }
    }

    #[test]
    fn what_nomad_says_is_understood() {
        let said = |text: &str| read(text.as_bytes()).unwrap();
        assert_eq!(said(r#"{"stdout":{"data":"b3V0"}}"#), Some(Said::Stdout("out".into())));
        assert_eq!(said(r#"{"stderr":{"data":"ZXJy"}}"#), Some(Said::Stderr("err".into())));
        assert_eq!(said(r#"{"stdout":{"close":true}}"#), None);
        assert_eq!(said("{}"), None);
        assert_eq!(said(r#"{"exited":true,"result":{"exit_code":7}}"#), Some(Said::Exited(7)));
        assert_eq!(said(r#"{"exited":true,"result":{}}"#), Some(Said::Exited(0)));
        assert!(read(b"no").is_err() && read(br#"{"stdout":{"data":"%"}}"#).is_err());
    }
}
