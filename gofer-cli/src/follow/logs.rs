//! The logs of a run that is being followed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use gofer_proto::v1::{
    LogChunk, LogCursor, LogStream, StreamLogsRequest, StreamLogsResponse, TaskRun, TaskRunState,
    TaskRunStatus,
};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tonic::{Status, Streaming};

use super::reconnect::Patience;
use super::run_key::RunKey;
use crate::client::Client;
use crate::errors::Failure;

/// How much of the end of a failed attempt's log is shown.
const TAIL_BYTES: usize = 256 << 10;
/// How many failed attempts' logs are read at once: of a run of thousands of tasks, all may fail.
const TAILS_MAX: usize = 16;
/// Pieces on their way to the view; at most 64 KiB each.
const QUEUE: usize = 16;

/// Which logs are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogMode {
    /// The end of the logs of attempts that fail.
    Failed,
    /// All, as they are written.
    All,
    /// Those of one attempt of each task, as they are written.
    Attempt(u32),
}

/// Something about the log of an attempt.
#[derive(Debug)]
pub(crate) struct LogNews {
    pub(crate) task: String,
    pub(crate) attempt: u32,
    pub(crate) what: News,
}

/// What is new.
#[derive(Debug)]
pub(crate) enum News {
    /// More bytes.
    Chunk(LogChunk),
    /// So many bytes at the beginning are not shown.
    LeftOut(u64),
    /// That was all; why, when it was not.
    End(Option<Failure>),
}

/// Reads logs in the background, a bounded number of pieces ahead of the view.
pub(crate) struct Logs {
    client: Client,
    key: RunKey,
    mode: LogMode,
    /// The last attempt of each task whose log has been asked for.
    asked: BTreeMap<String, u32>,
    sender: Option<mpsc::Sender<LogNews>>,
    receiver: mpsc::Receiver<LogNews>,
    readers: JoinSet<()>,
    /// Places for tails that are held in memory.
    tails: Arc<Semaphore>,
}

impl Logs {
    pub(crate) fn new(client: Client, key: RunKey, mode: LogMode) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let sender = Some(sender);
        let tails = Arc::new(Semaphore::new(TAILS_MAX));
        Self {
            client,
            key,
            mode,
            asked: BTreeMap::new(),
            sender,
            receiver,
            readers: JoinSet::new(),
            tails,
        }
    }

    /// Asks for the logs that the task run's new state makes interesting.
    pub(crate) fn consider(&mut self, task: &TaskRun) {
        let asked = self.asked.get(&task.task).copied().unwrap_or(0);
        let last = match self.mode {
            LogMode::Failed => last_failed(task),
            LogMode::All | LogMode::Attempt(_) => last_begun(task),
        };
        for attempt in asked + 1..=last {
            if !matches!(self.mode, LogMode::Attempt(wanted) if wanted != attempt) {
                self.read(&task.task, attempt);
            }
        }
        if last > asked {
            self.asked.insert(task.task.clone(), last);
        }
    }

    /// Nothing more will be asked for: [`Logs::next`] ends after what has been.
    pub(crate) fn close(&mut self) {
        self.sender = None;
    }

    /// The next piece; `None` after [`Logs::close`] and the last one.
    pub(crate) async fn next(&mut self) -> Option<LogNews> {
        self.receiver.recv().await
    }

    fn read(&mut self, task: &str, attempt: u32) {
        let Some(sender) = self.sender.clone() else { return };
        let reader = LogReader::new(self.client.clone(), self.key.log_request(task, attempt, true));
        let teller = Teller { sender, task: task.to_owned(), attempt };
        match self.mode {
            LogMode::Failed => self.readers.spawn(tell_tail(reader, teller, self.tails.clone())),
            LogMode::All | LogMode::Attempt(_) => self.readers.spawn(tell_all(reader, teller)),
        };
    }
}

/// Tells the view about one attempt's log.
struct Teller {
    sender: mpsc::Sender<LogNews>,
    task: String,
    attempt: u32,
}

impl Teller {
    /// False when the view has gone, and with it the interest.
    async fn tell(&self, what: News) -> bool {
        self.sender
            .send(LogNews { task: self.task.clone(), attempt: self.attempt, what })
            .await
            .is_ok()
    }
}

async fn tell_all(mut reader: LogReader, teller: Teller) {
    loop {
        let (news, last) = match reader.next().await {
            Ok(Some(StreamLogsResponse { chunk: Some(chunk), .. })) => (News::Chunk(chunk), false),
            Ok(Some(StreamLogsResponse { chunk: None, .. })) => continue,
            Ok(None) => (News::End(None), true),
            Err(failure) => (News::End(Some(failure)), true),
        };
        if !teller.tell(news).await || last {
            return;
        }
    }
}

/// Reads to the end and tells the last part, in one go, so that the logs of several failed tasks
/// mix as little as may be.
async fn tell_tail(mut reader: LogReader, teller: Teller, tails: Arc<Semaphore>) {
    // Nobody closes it.
    let _place = tails.acquire().await;
    let mut tail = VecDeque::new();
    let (mut kept, mut left_out) = (0, 0);
    let end = loop {
        match reader.next().await {
            Err(failure) => break Some(failure),
            Ok(None) => break None,
            Ok(Some(piece)) => {
                kept += piece.chunk.as_ref().map_or(0, |chunk| chunk.data.len());
                tail.extend(piece.chunk);
            }
        }
        while kept > TAIL_BYTES
            && let Some(first) = tail.pop_front()
        {
            kept -= first.data.len();
            left_out += first.data.len() as u64;
        }
    };

    if left_out > 0 {
        teller.tell(News::LeftOut(left_out)).await;
    }

    for chunk in tail {
        teller.tell(News::Chunk(chunk)).await;
    }

    teller.tell(News::End(end)).await;
}

/// The last attempt that ended badly. An attempt before the current one did, even when its end was
/// not seen.
fn last_failed(task: &TaskRun) -> u32 {
    let newest = task.attempts.last();
    let failed = newest.filter(|attempt| {
        matches!(attempt.status(), TaskRunStatus::Failed | TaskRunStatus::TimedOut)
    });
    failed.map_or(0, |attempt| attempt.attempt).max(task.attempt.saturating_sub(1))
}

/// The last attempt that has run or runs.
fn last_begun(task: &TaskRun) -> u32 {
    let begun = task
        .attempts
        .last()
        .filter(|attempt| attempt.started_at.is_some() || attempt.ended_at.is_some());
    match task.state() {
        TaskRunState::Running => task.attempt,
        _ => begun.map_or(0, |attempt| attempt.attempt),
    }
}

/// Reads one log, going on where it was cut.
pub(crate) struct LogReader {
    client: Client,
    request: StreamLogsRequest,
    stream: Option<Streaming<StreamLogsResponse>>,
    patience: Patience,
}

impl LogReader {
    pub(crate) fn new(client: Client, request: StreamLogsRequest) -> Self {
        let patience = Patience::new(client.contact());
        Self { client, request, stream: None, patience }
    }

    /// The next piece; `None` after the last one.
    ///
    /// # Errors
    /// When the server refuses, or is gone for long.
    pub(crate) async fn next(&mut self) -> Result<Option<StreamLogsResponse>, Failure> {
        loop {
            match self.try_next().await {
                Ok(piece) => {
                    self.patience.progress();
                    if let Some(piece) = &piece {
                        advance(&mut self.request, piece);
                    }
                    return Ok(piece);
                }
                Err(status) => {
                    self.stream = None;
                    let pause = self.patience.after(Failure::from(status))?;
                    tokio::time::sleep(pause.delay).await;
                }
            }
        }
    }

    async fn try_next(&mut self) -> Result<Option<StreamLogsResponse>, Status> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => {
                let stream =
                    self.client.task_runs().stream_logs(self.request.clone()).await?.into_inner();
                self.patience.opened();
                none.insert(stream)
            }
        };
        stream.message().await
    }
}

/// Moves the cursor of the request past the piece, and gives "the latest attempt" its number.
fn advance(request: &mut StreamLogsRequest, piece: &StreamLogsResponse) {
    request.attempt = piece.attempt;
    let cursor = request.cursor.get_or_insert_with(LogCursor::default);
    if let Some(chunk) = &piece.chunk {
        let end = chunk.offset + chunk.data.len() as u64;
        match chunk.stream() {
            LogStream::Stderr => cursor.stderr_offset = end,
            LogStream::Stdout | LogStream::Unspecified => cursor.stdout_offset = end,
        }
    }
}

#[cfg(test)]
mod tests {
    use gofer_proto::v1::Attempt;

    use super::*;

    fn task(state: TaskRunState, attempt: u32, newest: Option<(u32, TaskRunStatus)>) -> TaskRun {
        let attempts = newest.map(|(attempt, status)| Attempt {
            attempt,
            status: status.into(),
            ..Attempt::default()
        });
        TaskRun {
            state: state.into(),
            attempt,
            attempts: attempts.into_iter().collect(),
            ..TaskRun::default()
        }
    }

    #[test]
    fn failed_attempts_are_those_that_ended_badly_seen_or_not() {
        use TaskRunStatus::{Failed, Successful, TimedOut, Unspecified};
        assert_eq!(last_failed(&task(TaskRunState::Pending, 1, None)), 0);
        assert_eq!(last_failed(&task(TaskRunState::Running, 1, Some((1, Unspecified)))), 0);
        assert_eq!(last_failed(&task(TaskRunState::Pending, 2, Some((1, Failed)))), 1);
        assert_eq!(last_failed(&task(TaskRunState::Running, 3, Some((3, Unspecified)))), 2);
        assert_eq!(last_failed(&task(TaskRunState::Complete, 3, Some((3, TimedOut)))), 3);
        assert_eq!(last_failed(&task(TaskRunState::Complete, 1, Some((1, Successful)))), 0);
    }

    #[test]
    fn the_cursor_moves_past_what_has_arrived() {
        let mut request = StreamLogsRequest::default();
        let chunk =
            LogChunk { stream: LogStream::Stderr.into(), offset: 5, data: "abc".into(), at: None };
        advance(&mut request, &StreamLogsResponse { chunk: Some(chunk), attempt: 2 });
        assert_eq!(request.cursor, Some(LogCursor { stdout_offset: 0, stderr_offset: 8 }));
        assert_eq!(request.attempt, 2);
    }
}
