//! The server's end of the zygote: starts it, talks to it, starts it again when it dies.

use std::collections::HashMap;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gofer_core::{BackendError, ErrorKind};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags,
    SocketType, recv, send, sendmsg, socketpair,
};
use tokio::io::unix::AsyncFd;
use tokio::process::{Child, Command};
use tokio::sync::{Notify, oneshot};

use crate::config::Launcher;
use crate::error::io_error;
use crate::owner::{FOLDER_VARIABLE, Owner};
use crate::wire::{self, PACKET_BYTES, REPLY_BYTES, Reply};

/// How long a launch may take. Far beyond any real one: a zygote this late is stuck, and is
/// replaced.
const LAUNCH_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the zygote may take to say that it is there.
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// A zygote, or the means to start one.
#[derive(Debug)]
pub(crate) struct Zygote {
    launcher: Launcher,
    owner: Option<Owner>,
    current: tokio::sync::Mutex<Option<Arc<Connection>>>,
    next_sequence: AtomicU64,
}

/// What is known of a launch that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Launched {
    /// The supervisor's own answer.
    Answer(Reply),
    /// No answer, and none will come; the files know more.
    Unknown,
}

impl Zygote {
    pub(crate) fn new(launcher: Launcher, owner: Option<Owner>) -> Self {
        Self {
            launcher,
            owner,
            current: tokio::sync::Mutex::default(),
            next_sequence: AtomicU64::new(1),
        }
    }

    /// Starts a process that is to be a session.
    ///
    /// # Errors
    /// When the launcher's program cannot be executed.
    pub(crate) fn start_session(&self) -> Result<(AsyncFd<OwnedFd>, Child), BackendError> {
        // It ends with its socket, so it needs no owner.
        start(&self.launcher, None)
    }

    /// Starts the process if there is none.
    ///
    /// # Errors
    /// When the launcher's program cannot be executed.
    pub(crate) async fn ensure(&self) -> Result<Arc<Connection>, BackendError> {
        let mut current = self.current.lock().await;
        if let Some(connection) = current.as_ref().filter(|connection| connection.is_open()) {
            return Ok(connection.clone());
        }
        let connection = Connection::open(&self.launcher, self.owner.as_ref())?;
        *current = Some(connection.clone());
        Ok(connection)
    }

    /// Asks for a launch, and waits until it is decided or `died` says that the supervisor is no
    /// more.
    ///
    /// # Errors
    /// When no zygote can be started. Then nothing was launched.
    pub(crate) async fn launch(
        &self,
        body: &[u8],
        died: &Notify,
    ) -> Result<Launched, BackendError> {
        let connection = self.ensure().await?;
        let answer = tokio::select! {
            answer = self.call(&connection, body, LAUNCH_TIMEOUT) => answer,
            () = died.notified() => return Ok(Launched::Unknown),
        };
        Ok(answer.map_or(Launched::Unknown, Launched::Answer))
    }

    /// The process id of the zygote, from itself.
    ///
    /// # Errors
    /// When it cannot be started or does not answer.
    pub(crate) async fn ping(&self) -> Result<u32, BackendError> {
        let mut result = self.ping_once().await?;
        if result == Err(NoReply::Broken) {
            // It died some time ago and nobody had noticed, or just now.
            result = self.ping_once().await?;
        }
        result.map(|reply| reply.pid).map_err(|_| {
            let program = self.launcher.program.display();
            let message = format!(
                "the supervisor process `{program}` does not answer; is it the right program?"
            );
            BackendError::new(ErrorKind::Unavailable, message)
        })
    }

    async fn ping_once(&self) -> Result<Result<Reply, NoReply>, BackendError> {
        let connection = self.ensure().await?;
        Ok(self.call(&connection, &[], PING_TIMEOUT).await)
    }

    /// One request and its reply. Without one the connection is closed, and the next request starts
    /// another zygote.
    async fn call(
        &self,
        connection: &Connection,
        body: &[u8],
        timeout: Duration,
    ) -> Result<Reply, NoReply> {
        let sequence = self.next_sequence.fetch_add(1, Ordering::Relaxed);
        let answer = connection.expect(sequence).ok_or(NoReply::Broken)?;
        let result = tokio::time::timeout(timeout, async {
            connection.send(sequence, body).await.map_err(|_| NoReply::Broken)?;
            answer.await.map_err(|_| NoReply::Broken)
        })
        .await;
        let result = result.unwrap_or(Err(NoReply::Late));

        if result == Err(NoReply::Late) {
            connection.stuck.store(true, Ordering::Relaxed);
        }

        if result.is_err() {
            connection.close();
        }

        result
    }
}

/// Why there is no reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NoReply {
    /// The zygote is gone.
    Broken,
    /// It did not answer in time.
    Late,
}

impl Drop for Zygote {
    fn drop(&mut self) {
        if let Some(connection) = self.current.get_mut() {
            connection.close();
        }
    }
}

/// A running zygote.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: AsyncFd<OwnedFd>,
    /// Requests without an answer yet; `None` once the connection is closed.
    waiting: Mutex<Option<HashMap<u64, oneshot::Sender<Reply>>>>,
    /// It does not do what it should.
    stuck: AtomicBool,
}

impl Connection {
    fn open(launcher: &Launcher, owner: Option<&Owner>) -> Result<Arc<Self>, BackendError> {
        let (socket, child) = start(launcher, owner)?;
        let connection = Arc::new(Self {
            socket,
            waiting: Mutex::new(Some(HashMap::new())),
            stuck: AtomicBool::new(false),
        });
        tokio::spawn(read_replies(connection.clone(), child));
        Ok(connection)
    }

    fn is_open(&self) -> bool {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn expect(&self, sequence: u64) -> Option<oneshot::Receiver<Reply>> {
        let (sender, receiver) = oneshot::channel();
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_mut()?
            .insert(sequence, sender);
        Some(receiver)
    }

    fn answer(&self, reply: Reply) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = waiting.as_mut().and_then(|waiting| waiting.remove(&reply.sequence)) {
            let _ = sender.send(reply);
        }
    }

    /// Ends it: everybody who waits is told, the zygote sees the end of its input, and so does the
    /// reader, who reaps it.
    fn close(&self) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
        let _ = rustix::net::shutdown(self.socket.get_ref(), rustix::net::Shutdown::Both);
    }

    async fn send(&self, sequence: u64, body: &[u8]) -> std::io::Result<()> {
        send_request(&self.socket, sequence, body).await
    }
}

/// Starts a process of the supervisor's program, connected to this one.
///
/// # Errors
/// When the program cannot be executed.
fn start(
    launcher: &Launcher,
    owner: Option<&Owner>,
) -> Result<(AsyncFd<OwnedFd>, Child), BackendError> {
    let failed = |error| {
        io_error(
            format!("the supervisor process `{}` cannot be started", launcher.program.display()),
            error,
        )
    };

    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(|error| failed(error.into()))?;
    rustix::io::ioctl_fionbio(&ours, true).map_err(|error| failed(error.into()))?;

    let stdout = owner.map_or_else(|| Ok(Stdio::null()), Owner::stdio).map_err(failed)?;
    let child = Command::new(&launcher.program)
        .args(&launcher.args)
        // It needs none, and the server's may hold secrets.
        .env_clear()
        .envs(owner.and_then(Owner::folder).map(|folder| (FOLDER_VARIABLE, folder)))
        .stdin(Stdio::from(theirs))
        .stdout(stdout)
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;

    Ok((crate::sys::async_fd(ours).map_err(failed)?, child))
}

/// Sends a request: one packet, and a file with the body when that is too long.
pub(crate) async fn send_request(
    socket: &AsyncFd<OwnedFd>,
    sequence: u64,
    body: &[u8],
) -> std::io::Result<()> {
    let header = wire::request_header(sequence, body.len());
    if header.len() + body.len() > PACKET_BYTES {
        return send_long(socket, &header, body).await;
    }
    let mut packet =
        secrecy::zeroize::Zeroizing::new(Vec::with_capacity(header.len() + body.len()));
    packet.extend_from_slice(&header);
    packet.extend_from_slice(body);
    send_packet(socket, &packet).await
}

async fn send_long(socket: &AsyncFd<OwnedFd>, header: &[u8], body: &[u8]) -> std::io::Result<()> {
    let file = std::fs::File::from(memfd_create("gofer-request", MemfdFlags::CLOEXEC)?);
    file.write_all_at(body, 0)?;
    let files = [file.as_fd()];

    when_writable(socket, |socket| {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        ancillary.push(SendAncillaryMessage::ScmRights(&files));

        sendmsg(
            socket,
            &[IoSlice::new(header)],
            &mut ancillary,
            SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
        )
    })
    .await
}

/// Sends one packet, when there is room for it.
pub(crate) async fn send_packet(socket: &AsyncFd<OwnedFd>, packet: &[u8]) -> std::io::Result<()> {
    when_writable(socket, |socket| send(socket, packet, SendFlags::NOSIGNAL | SendFlags::DONTWAIT))
        .await
}

async fn when_writable(
    socket: &AsyncFd<OwnedFd>,
    attempt: impl Fn(&OwnedFd) -> rustix::io::Result<usize>,
) -> std::io::Result<()> {
    loop {
        let mut ready = socket.writable().await?;
        if let Ok(sent) = ready.try_io(|socket| Ok(attempt(socket.get_ref())?)) {
            return sent.map(|_| ());
        }
    }
}

/// Hands out the replies until the zygote is gone, then reaps it.
async fn read_replies(connection: Arc<Connection>, mut child: Child) {
    tokio::select! {
        () = hand_out(&connection) => {}
        // Supervisors have the same socket, so its end alone would not tell.
        _ = child.wait() => {}
    }
    connection.close();
    if connection.stuck.load(Ordering::Relaxed) {
        let _ = child.start_kill();
    }
    // It stays for as long as its supervisors do: what one of them leaves falls to it.
    let _ = child.wait().await;
}

async fn hand_out(connection: &Connection) {
    let mut packet = [0; REPLY_BYTES];
    loop {
        let Ok(mut ready) = connection.socket.readable().await else { return };
        let received =
            ready.try_io(|socket| Ok(recv(socket.as_fd(), &mut packet, RecvFlags::DONTWAIT)?));

        match received {
            Ok(Ok((count, _))) => match Reply::decode(&packet[..count]) {
                Some(reply) => connection.answer(reply),
                // The end, or what no zygote says.
                None => return connection.stuck.store(count > 0, Ordering::Relaxed),
            },
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Ok(Err(_)) => return,
            Err(_would_block) => {}
        }
    }
}
