//! The lines of the event stream.

use std::time::Duration;

use reqwest::Response;

use crate::http::error::Failure;
use crate::http::types::EventBatch;

/// Nomad sends an empty object every 30 seconds; after two of them are missing, the stream counts
/// as dead.
const SILENCE_MAX: Duration = Duration::from_secs(75);
/// A line longer than this is not Nomad's: a job is at most a few MiB.
const MAX_LINE_BYTES: usize = 64 * 1024 * 1024;
/// A stream that is read line by line.
pub(crate) struct Lines {
    response: Response,
    buffer: Vec<u8>,
}

impl Lines {
    pub(crate) fn new(response: Response) -> Self {
        Self { response, buffer: Vec::new() }
    }

    /// The next line; `None` at the end of the stream. May be dropped while it waits.
    pub(crate) async fn next(&mut self) -> Result<Option<EventBatch>, Failure> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                // An error after the start is text in the stream.
                let shown = || Failure::Refused {
                    status: 500,
                    body: String::from_utf8_lossy(&line).into_owned(),
                };
                return serde_json::from_slice(&line).map(Some).map_err(|_| shown());
            }

            if self.buffer.len() > MAX_LINE_BYTES {
                return Err(Failure::Unreadable(format!(
                    "an event is larger than {MAX_LINE_BYTES} bytes"
                )));
            }

            match tokio::time::timeout(SILENCE_MAX, self.response.chunk()).await {
                Ok(Ok(Some(chunk))) => self.buffer.extend_from_slice(&chunk),
                Ok(Ok(None)) if self.buffer.is_empty() => return Ok(None),
                Ok(Ok(None)) => {
                    let body = String::from_utf8_lossy(&self.buffer).into_owned();
                    return Err(Failure::Refused { status: 500, body });
                }
                Ok(Err(error)) => return Err(Failure::Transport(error)),
                Err(_) => return Err(Failure::Timeout),
            }
        }
    }
}
