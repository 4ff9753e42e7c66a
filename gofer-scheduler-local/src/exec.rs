//! The server's end of a session: a command beside a task.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::channel::mpsc as futures_mpsc;
use gofer_core::exec::{
    EXEC_QUEUE, ExecInput, ExecOutput, ExecRequest, ExecSession, MAX_EXEC_CHUNK_BYTES,
};
use gofer_core::scheduler::ExecutionState;
use gofer_core::{BackendError, ErrorKind, ExecutionId};
use rustix::net::{RecvFlags, recv};
use tokio::io::unix::AsyncFd;
use tokio::process::Child;
use tokio::sync::{mpsc, watch};

use crate::error::{blocking, io_error};
use crate::executions::Executions;
use crate::live::{self, Probe, StartedTask};
use crate::session::{Begin, PACKET_BYTES, Said, encode_input};
use crate::table::{self, Found, Phase};
use crate::wire::SESSION;
use crate::zygote::{send_packet, send_request};

/// How long the session's process may take to begin. Far beyond any real time.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(20);
/// How long after a command was killed the end of its execution may come that explains it.
const END_TIMEOUT: Duration = Duration::from_secs(1);
/// The exit code of a command that SIGKILL ended.
const KILLED: i32 = 137;

type Output = mpsc::Sender<Result<ExecOutput, BackendError>>;

/// Runs a command in an execution.
pub(crate) async fn open(
    executions: &Arc<Executions>,
    id: &ExecutionId,
    request: &ExecRequest,
) -> Result<ExecSession, BackendError> {
    request.validate()?;
    let invalid = |message: String| BackendError::new(ErrorKind::Invalid, message);
    match executions.state(id).await?.state {
        ExecutionState::Running => {}
        ExecutionState::NotFound => {
            return Err(BackendError::new(
                ErrorKind::NotFound,
                format!("there is no execution `{id}`"),
            ));
        }
        ExecutionState::Queued { .. } => {
            return Err(invalid(format!("`{id}` does not run yet; try again once it does")));
        }
        _ => return Err(invalid(format!("`{id}` has ended"))),
    }

    let Some(found) = executions.table.find(id) else {
        return Err(invalid(format!("`{id}` has ended")));
    };

    let account = executions.account(id).await.map_err(invalid)?;
    let begin = Begin {
        task: task(executions, id, &found).await?,
        cgroup: executions.cgroup.as_ref().and_then(|base| base.of(&found.live)),
        work: executions.layout.execution(id).work(),
        confinement: executions.confinement(account.map(|account| account.user)),
        terminal: request.terminal,
    };

    let (socket, child) = executions.zygote.start_session()?;
    let body = begin.encode(&request.command);
    let began = tokio::time::timeout(BEGIN_TIMEOUT, async {
        send_request(&socket, SESSION, &body).await?;
        receive(&socket).await
    });

    let said = match began.await {
        Ok(Ok(Some(Said::Began))) => Ok(()),
        Ok(Ok(Some(Said::Refused(why)))) => Err(invalid(why)),
        Ok(Ok(_)) => {
            Err(BackendError::new(ErrorKind::Unavailable, "the session's process ended at once"))
        }
        Ok(Err(error)) => Err(io_error("the session's process ended at once", error)),
        Err(_) => Err(BackendError::new(
            ErrorKind::Timeout,
            "the session's process did not begin in time",
        )),
    };

    let (input, typed) = futures_mpsc::channel(EXEC_QUEUE);
    let (written, output) = mpsc::channel(EXEC_QUEUE);
    let relay = Relay { socket, child, typed, written, phase: found.phase, id: id.clone() };
    let running = said.is_ok();

    // Also when it has not begun: somebody has to end the process.
    tokio::spawn(relay.run(running));
    said?;
    let output =
        futures::stream::unfold(output, async |mut output| Some((output.recv().await?, output)));

    Ok(ExecSession { input, output: output.boxed() })
}

/// The task's process.
async fn task(
    executions: &Executions,
    id: &ExecutionId,
    found: &Found,
) -> Result<StartedTask, BackendError> {
    let path = executions.layout.live(&found.live);
    let failed = format!("the state of `{id}` could not be read");
    let probe =
        blocking(move || live::probe(&path).map_err(|error| io_error(failed, error))).await?;
    match probe {
        Probe::Held(Some(record)) => record.task.ok_or_else(|| {
            let message = format!("`{id}` has no process yet; try again");
            BackendError::new(ErrorKind::Unavailable, message)
        }),
        Probe::Held(None) | Probe::Free(..) | Probe::Gone => {
            Err(BackendError::new(ErrorKind::Invalid, format!("`{id}` has ended")))
        }
    }
}

/// Between a session and its process.
struct Relay {
    socket: AsyncFd<OwnedFd>,
    child: Child,
    typed: futures_mpsc::Receiver<ExecInput>,
    written: Output,
    phase: watch::Receiver<Phase>,
    id: ExecutionId,
}

impl Relay {
    /// Serves the session to its end, whatever ends it, and sees the process off.
    async fn run(mut self, running: bool) {
        if running {
            let ended = || {
                let message = format!("`{}` has ended, and this session with it", self.id);
                BackendError::new(ErrorKind::Invalid, message)
            };
            let mut end = tokio::select! {
                end = deliver(&self.socket, &self.written) => end,
                never = feed(&self.socket, &mut self.typed) => never,
                () = self.written.closed() => Ok(None),
                () = table::ended(&mut self.phase) => Err(ended()),
            };

            // A supervisor kills what is left of its task, this command included, before it writes
            // down the end. Without this, who asked for the command would be told that it was
            // killed, by nobody knows whom.
            if matches!(end, Ok(Some(KILLED))) {
                let end_is_near =
                    tokio::time::timeout(END_TIMEOUT, table::ended(&mut self.phase)).await;
                if end_is_near.is_ok() {
                    end = Err(ended());
                }
            }

            let end = match end {
                Ok(Some(code)) => {
                    let _ = self.written.send(Ok(ExecOutput::Exited(code))).await;
                    Ok(())
                }
                other => other.map(drop),
            };
            if let Err(error) = end {
                // The process first: whoever does not read must not keep it.
                let _ = rustix::net::shutdown(self.socket.get_ref(), rustix::net::Shutdown::Both);
                let _ = self.written.send(Err(error)).await;
            }
        }

        let _ = rustix::net::shutdown(self.socket.get_ref(), rustix::net::Shutdown::Both);
        drop(self.written);
        let _ = self.child.wait().await;
    }
}

/// Hands out what the command writes, until its end: the exit code, or `None` when nobody reads.
async fn deliver(socket: &AsyncFd<OwnedFd>, written: &Output) -> Result<Option<i32>, BackendError> {
    loop {
        let said = receive(socket)
            .await
            .map_err(|error| io_error("the session's process is gone", error))?;
        let Some(Said::Output(output)) = said else {
            return Err(BackendError::new(ErrorKind::Unavailable, "the session's process is gone"));
        };
        if let ExecOutput::Exited(code) = output {
            return Ok(Some(code));
        }
        if written.send(Ok(output)).await.is_err() {
            return Ok(None);
        }
    }
}

/// Passes the input on. Never ends: a process that is gone is seen by who reads from it.
async fn feed(
    socket: &AsyncFd<OwnedFd>,
    typed: &mut futures_mpsc::Receiver<ExecInput>,
) -> Result<Option<i32>, BackendError> {
    let mut ended = false;
    while let Some(input) = typed.next().await {
        ended |= input == ExecInput::StdinEnd;
        pass_on(socket, input).await;
    }
    if !ended {
        pass_on(socket, ExecInput::StdinEnd).await;
    }
    std::future::pending().await
}

/// In pieces that the process takes, whatever the caller makes of its input.
async fn pass_on(socket: &AsyncFd<OwnedFd>, input: ExecInput) {
    let pieces = match input {
        ExecInput::Stdin(data) => data
            .chunks(MAX_EXEC_CHUNK_BYTES)
            .map(|piece| ExecInput::Stdin(data.slice_ref(piece)))
            .collect(),
        other => vec![other],
    };
    for piece in pieces {
        // The task that reads from the process sees that it is gone.
        let _ = send_packet(socket, &encode_input(&piece)).await;
    }
}

/// The next packet; `None` when the process is gone, or says what it should not.
async fn receive(socket: &AsyncFd<OwnedFd>) -> std::io::Result<Option<Said>> {
    let mut packet = vec![0; PACKET_BYTES];
    loop {
        let mut ready = socket.readable().await?;
        let received =
            ready.try_io(|socket| Ok(recv(socket.as_fd(), &mut packet, RecvFlags::DONTWAIT)?));
        match received {
            Ok(Ok((count, _))) => return Ok(Said::decode(&packet[..count])),
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Ok(Err(error)) => return Err(error),
            Err(_would_block) => {}
        }
    }
}
