//! A command in a running task.
//!
//! Nomad says neither that a command has begun nor whether it exists, and when a connection ends it
//! kills the command's own process at most, with no driver what that has started. So a script of
//! ours is the command: it answers for the beginning with a word nobody else knows, marks the real
//! command and all that comes of it with a variable, and at the end kills what is marked. If it
//! cannot, because the connection or the task ended first, the same is done by a process that
//! watches it, and, where a driver leaves both alone, by a second command. It answers for the end,
//! too: without a terminal, Nomad waits for the end of the input before it tells of a command's.
//!
//! ```text
//! open ──> script (waits for its first word) <──websocket──> the node ──> /bin/sh ──> the command
//!            │                                                              └── a watcher that sweeps
//!  Session::serve ┬─ deliver: output up to the last word (`end_mark`), then the exit code
//!                 ├─ feed: input, and signs of life
//!                 └─ ends with the execution (`changes`), or with its reader; then sweeps
//! ```

mod end_mark;
mod script;
mod websocket;

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::channel::mpsc as futures_mpsc;
use gofer_core::exec::{
    EXEC_QUEUE, ExecInput, ExecOutput, ExecRequest, ExecSession, MAX_EXEC_CHUNK_BYTES,
};
use gofer_core::scheduler::ExecutionState;
use gofer_core::{BackendError, ErrorKind, ExecutionId};
use tokio::sync::{Notify, broadcast, mpsc};

use crate::calls::{JobCalls, JobKey};
use crate::exec::end_mark::EndMark;
use crate::exec::script::{SWEEP, script};
use crate::exec::websocket::{Receiver, Said, Sender};
use crate::state::marks::Marks;
use crate::stream::Change;

/// How long a command may take to begin.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(20);
/// What a node says of a task that it is about to start: `task "main" not started yet.`
const NOT_STARTED: &str = "not started";
/// How often a command is tried in a task that Nomad says runs, and whose node says that it has not
/// started.
const STARTING_TRIES: u32 = 20;
/// The pause between two of these.
const STARTING_PAUSE: Duration = Duration::from_millis(100);
/// How long the cleaning up after a session may take.
const SWEEP_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest text of what came instead of the beginning.
const MAX_SHOWN: usize = 600;
/// Output that is held until the word comes that the command runs: the word is the first that it
/// says to stdout.
const MAX_EARLY_BYTES: usize = 1024 * 1024;

/// Runs a command in an execution.
pub(crate) async fn open(
    calls: &Arc<JobCalls>,
    changes: broadcast::Receiver<Change>,
    id: &ExecutionId,
    request: &ExecRequest,
) -> Result<ExecSession, BackendError> {
    request.validate()?;
    let invalid = |message: String| BackendError::new(ErrorKind::Invalid, message);
    let not_found =
        || BackendError::new(ErrorKind::NotFound, format!("there is no execution `{id}`"));
    let inspected = calls.inspect(id).await?.ok_or_else(not_found)?;
    let alloc = match (&inspected.view.state, inspected.own_alloc()) {
        (ExecutionState::Running, Some(alloc)) => alloc.id.clone(),
        (ExecutionState::Queued { .. } | ExecutionState::Running, _) => {
            return Err(invalid(format!("`{id}` does not run yet; try again once it does")));
        }
        _ => return Err(invalid(format!("`{id}` has ended"))),
    };

    let session = Session {
        calls: calls.clone(),
        key: calls.key(id),
        alloc,
        id: id.clone(),
        mark: mark(),
        in_container: Marks::of(&inspected.job).in_container,
        terminal: request.terminal.is_some(),
    };

    let (sender, receiver, first) = session.begin(request).await?;
    let (input, typed) = futures_mpsc::channel(EXEC_QUEUE);
    let (written, output) = mpsc::channel(EXEC_QUEUE);
    tokio::spawn(session.serve(Ends { sender, receiver, typed, written, changes, first }));

    let output =
        futures::stream::unfold(output, async |mut output| Some((output.recv().await?, output)));
    Ok(ExecSession { input, output: output.boxed() })
}

/// A word that nobody else knows.
fn mark() -> String {
    // The standard library seeds each `RandomState` differently.
    format!("{:016x}{:016x}", RandomState::new().hash_one(0_u8), RandomState::new().hash_one(1_u8))
}

/// One command.
struct Session {
    calls: Arc<JobCalls>,
    key: JobKey,
    alloc: String,
    id: ExecutionId,
    mark: String,
    in_container: bool,
    terminal: bool,
}

type Written = mpsc::Sender<Result<ExecOutput, BackendError>>;

/// Everything that a session moves bytes between.
struct Ends {
    sender: Sender,
    receiver: Receiver,
    typed: futures_mpsc::Receiver<ExecInput>,
    written: Written,
    changes: broadcast::Receiver<Change>,
    /// What came with, or before, the word that it began.
    first: [Said; 2],
}

impl Session {
    /// Connects, and waits for the word that the command runs.
    async fn begin(
        &self,
        request: &ExecRequest,
    ) -> Result<(Sender, Receiver, [Said; 2]), BackendError> {
        for _ in 0..STARTING_TRIES {
            if let Some(begun) = self.try_begin(request).await? {
                return Ok(begun);
            }
            tokio::time::sleep(STARTING_PAUSE).await;
        }
        let message = format!(
            "no command can be run in `{}` yet: its node says that it has not started",
            self.id
        );
        Err(BackendError::new(ErrorKind::Unavailable, message))
    }

    /// `None`: the task has not started yet.
    async fn try_begin(
        &self,
        request: &ExecRequest,
    ) -> Result<Option<(Sender, Receiver, [Said; 2])>, BackendError> {
        let command = script(&self.mark, request, self.in_container);
        let doing = format!("no command can be run in `{}`", self.id);
        let terminal = request.terminal.is_some();
        let connected =
            websocket::connect(&self.calls, &self.key, &self.alloc, &command, terminal).await;
        let (mut sender, mut receiver) =
            connected.map_err(|failure| failure.backend(doing.as_str()))?;

        if let Some(size) = request.terminal {
            // Should this fail, so does the reading.
            let _ = sender.send(&ExecInput::Resize(size)).await;
        }

        let late = || {
            BackendError::new(
                ErrorKind::Timeout,
                format!("{doing}: nomad did not begin it in time"),
            )
        };

        let began =
            tokio::time::timeout(BEGIN_TIMEOUT, self.began(&mut receiver, &request.command[0]));
        let first = began.await.unwrap_or_else(|_| Err(late()))?;

        Ok(first.map(|first| (sender, receiver, first)))
    }

    async fn began(
        &self,
        receiver: &mut Receiver,
        program: &str,
    ) -> Result<Option<[Said; 2]>, BackendError> {
        let error = |kind, text: String| Err(BackendError::new(kind, text));
        // The two come by different ways: what a quick command wrote to one may be here before its
        // beginning.
        let (mut seen, mut stderr) = (BytesMut::new(), BytesMut::new());
        loop {
            let said = receiver.next().await?;
            match said {
                Said::Stdout(data) => seen.extend_from_slice(&data),
                Said::Stderr(data) => stderr.extend_from_slice(&data),
                Said::Closed(reason) if reason.contains(NOT_STARTED) => return Ok(None),
                Said::Closed(reason) => return Err(refusal(&self.id, &reason)),
                // Our script says its word before anything else, and does not end well without it.
                Said::Exited(0) if seen.is_empty() && stderr.is_empty() => {
                    let message = format!(
                        "no answer came of the command in `{}`: its node lost it before it began, \
                         or what it said; look whether it ran, and try again",
                        self.id
                    );
                    return error(ErrorKind::Unavailable, message);
                }
                Said::Exited(code) => {
                    seen.extend_from_slice(&stderr);
                    let mut text = String::from_utf8_lossy(&seen).trim().to_owned();
                    text.truncate(text.floor_char_boundary(MAX_SHOWN));
                    let message = format!(
                        "no command can be run in `{}`: `/bin/sh`, which gofer needs for it, ended \
                         with {code} `{text}`",
                        self.id
                    );
                    return error(ErrorKind::Invalid, message);
                }
            }

            if seen.len() + stderr.len() > MAX_EARLY_BYTES {
                let message = format!(
                    "no command can be run in `{}`: its node sent more than {MAX_EARLY_BYTES} \
                     bytes and no word that it began",
                    self.id
                );
                return error(ErrorKind::Unavailable, message);
            }

            let mark = self.mark.as_bytes();
            let Some(at) = seen.windows(mark.len()).position(|part| part == mark) else { continue };
            match seen.get(at + mark.len()) {
                None => {}
                Some(b'+') => {
                    let stdout = seen.split_off(at + mark.len() + 1).freeze();
                    return Ok(Some([Said::Stderr(stderr.freeze()), Said::Stdout(stdout)]));
                }
                Some(_) => {
                    let message = format!("command `{program}` was not found in `{}`", self.id);
                    return error(ErrorKind::Invalid, message);
                }
            }
        }
    }

    /// Serves the session to its end, whatever ends it, and leaves nothing behind.
    async fn serve(self, ends: Ends) {
        let Ends { mut sender, mut receiver, mut typed, written, mut changes, first } = ends;
        let has_ended = Notify::new();
        let outcome = tokio::select! {
            outcome = deliver(&self, &mut receiver, &written, first, &has_ended) => outcome,
            never = feed(&mut sender, &mut typed, &has_ended) => never,
            () = written.closed() => Ok(End::Left),
            () = ended(&self.id, &mut changes) => Err(over(&self.id)),
        };

        let left = !matches!(outcome, Ok(End::Exited));
        if let Err(error) = outcome {
            // A reader that has stopped reading must not keep the command alive.
            let telling = tokio::time::timeout(SWEEP_TIMEOUT, written.send(Err(error)));
            let (_, ()) = tokio::join!(telling, async { drop((sender, receiver)) });
        } else {
            drop((sender, receiver));
        }

        drop(written);
        // After a command that ended, the script has cleaned up.
        if left && tokio::time::timeout(SWEEP_TIMEOUT, self.sweep()).await.is_err() {
            tracing::warn!(execution = %self.id, "a command in a task may still run; it ends with \
                                                  the task");
        }
    }

    async fn sweep(&self) {
        let command = ["/bin/sh", "-c", &format!("id=$0\n{SWEEP}"), &self.mark].map(str::to_owned);
        let connected =
            websocket::connect(&self.calls, &self.key, &self.alloc, &command, false).await;
        let Ok((_sender, mut receiver)) = connected else { return };
        while let Ok(Said::Stdout(_) | Said::Stderr(_)) = receiver.next().await {}
    }
}

/// How a session ended.
enum End {
    /// The command did, and its exit code was delivered.
    Exited,
    /// The other side was left alone with a command that may still run.
    Left,
}

/// Hands out what the command writes, until its end.
async fn deliver(
    session: &Session,
    receiver: &mut Receiver,
    written: &Written,
    first: [Said; 2],
    has_ended: &Notify,
) -> Result<End, BackendError> {
    let mut first = first.into_iter();
    let (mut stdout, mut stderr) = (EndMark::new(&session.mark), EndMark::new(&session.mark));
    let mut all_came = false;

    loop {
        let said = match first.next() {
            Some(said) => said,
            None => receiver.next().await?,
        };

        match said {
            Said::Stdout(data) => {
                if !hand_out(written, &stdout.push(&data), ExecOutput::Stdout).await {
                    return Ok(End::Left);
                }
                if stdout.seen {
                    has_ended.notify_one();
                }
            }
            Said::Stderr(data) => {
                if !hand_out(written, &stderr.push(&data), ExecOutput::Stderr).await {
                    return Ok(End::Left);
                }
            }
            Said::Exited(code) => {
                let told = hand_out(written, &stdout.finish(), ExecOutput::Stdout).await
                    && hand_out(written, &stderr.finish(), ExecOutput::Stderr).await
                    && written.send(Ok(ExecOutput::Exited(code))).await.is_ok();
                return Ok(if told { End::Exited } else { End::Left });
            }
            Said::Closed(reason) if reason.is_empty() => return Err(over(&session.id)),
            Said::Closed(reason) => return Err(refusal(&session.id, &reason)),
        }

        if session.in_container && !all_came && stdout.seen && (stderr.seen || session.terminal) {
            all_came = true;
            // Should it fail, the script ends later, when its wait is over.
            let _ = tokio::time::timeout(SWEEP_TIMEOUT, session.sweep()).await;
        }
    }
}

/// Hands out a piece of output; whether somebody still wants it.
async fn hand_out(written: &Written, data: &Bytes, wrap: fn(Bytes) -> ExecOutput) -> bool {
    for piece in data.chunks(MAX_EXEC_CHUNK_BYTES) {
        if written.send(Ok(wrap(data.slice_ref(piece)))).await.is_err() {
            return false;
        }
    }
    true
}

/// Passes the input on. Never ends: a connection that is gone is seen by who reads from it.
async fn feed(
    sender: &mut Sender,
    typed: &mut futures_mpsc::Receiver<ExecInput>,
    has_ended: &Notify,
) -> Result<End, BackendError> {
    let mut ended = false;
    loop {
        let input = tokio::select! {
            input = typed.next() => input,
            () = has_ended.notified() => None,
            _ = sender.keep_alive() => None,
        };
        let Some(input) = input else { break };
        ended |= input == ExecInput::StdinEnd;
        let _ = sender.send(&input).await;
    }

    if !ended {
        let _ = sender.send(&ExecInput::StdinEnd).await;
    }

    let _ = sender.keep_alive().await;
    std::future::pending().await
}

/// Waits until the execution is said to have ended.
async fn ended(id: &ExecutionId, changes: &mut broadcast::Receiver<Change>) {
    loop {
        match changes.recv().await {
            Ok(Change::Event(event)) if event.id == *id && event.state.is_final() => return,
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}

fn over(id: &ExecutionId) -> BackendError {
    BackendError::new(ErrorKind::Invalid, format!("`{id}` has ended, and this session with it"))
}

/// What the close of a connection means.
fn refusal(id: &ExecutionId, reason: &str) -> BackendError {
    let says = |text: &str| reason.contains(text);
    if says("Permission denied") {
        let message = format!(
            "nomad does not let gofer run a command in `{id}`: give gofer's token the right \
             `alloc-exec`, and for tasks without an image `alloc-node-exec`, as \
             `config/nomad/gofer-policy.hcl` shows; or the node has `disable_remote_exec`"
        );
        return BackendError::new(ErrorKind::Denied, message);
    }

    let kind = match () {
        () if says("not running") || says("nknown task") => ErrorKind::Invalid,
        () if says("executable file not found") || says("no such file") => ErrorKind::Invalid,
        () if says("nknown allocation") || says("not found") => ErrorKind::NotFound,
        () => ErrorKind::Unavailable,
    };

    BackendError::new(kind, format!("no command can be run in `{id}`: nomad says `{reason}`"))
}
