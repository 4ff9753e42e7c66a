//! What runs beside the server: one warden, and one supervisor per execution.
//!
//! The **warden** is a small single-threaded process connected to the server by a socket. For each request it forks a
//! **supervisor**, which costs a fraction of executing the server's binary again. The warden ends when the server does;
//! a supervisor ends when its execution did, and depends on neither: it holds the exit code, the log, the stop timer and
//! the whole process tree of the task.
//!
//! A **session** is a third kind: a command beside a task, for as long as somebody is connected to it.

mod execution;
mod output;
mod program;
mod session;
mod tree;

use std::fs::OpenOptions;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{RecvFlags, SendFlags, recv, send};
use rustix::process::{chdir, getpid, setsid};
use rustix::stdio;
use secrecy::zeroize::{Zeroize, Zeroizing};

use crate::sys::{self, Fork};
use crate::wire::{self, Outcome, PACKET_BYTES, Reply, Request};

/// The entry point of the warden: a process whose standard input is the socket to the server. Call it before anything
/// starts a thread. It returns when the server has gone.
#[must_use]
pub fn main() -> ExitCode {
    sys::close_inherited();
    let Ok(mut warden) = Warden::prepare() else { return ExitCode::FAILURE };
    match warden.serve() {
        Ok(None) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
        Ok(Some(job)) => {
            let Warden { socket, null, .. } = warden;
            if job.sequence == wire::SESSION {
                session::run(&socket, &job.body);
            } else if let Some(request) = Request::decode(&job.body) {
                execution::run(&request, Responder { socket, sequence: job.sequence }, &null);
            }
            sys::exit_now(0);
        }
    }
}

/// How long a supervisor tries to answer a server that does not listen, before it goes on without.
const REPLY_TIMEOUT: Duration = Duration::from_secs(5);

struct Warden {
    socket: OwnedFd,
    null: OwnedFd,
    packet: Vec<u8>,
}

/// What a supervisor has to do.
struct Job {
    sequence: u64,
    body: Zeroizing<Vec<u8>>,
}

impl Warden {
    fn prepare() -> rustix::io::Result<Self> {
        let socket = fcntl_dupfd_cloexec(stdio::stdin(), 3)?;
        set_socket_timeout(&socket, Timeout::Send, Some(REPLY_TIMEOUT))?;
        let null = OpenOptions::new().read(true).write(true).open("/dev/null");
        let null: OwnedFd = null.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?.into();
        stdio::dup2_stdin(&null)?;
        stdio::dup2_stdout(&null)?;
        stdio::dup2_stderr(&null)?;
        // Out of the terminal's reach: Ctrl-C is for the server, which knows what it means.
        let _ = setsid();
        // So that no file system stays busy on our account.
        chdir("/")?;
        sys::prepare_warden_signals();
        Ok(Self { socket, null, packet: Vec::with_capacity(PACKET_BYTES) })
    }

    /// Serves requests until the server has gone: `None`. In each new supervisor it returns too: with its job; and so it does
    /// in a process that is to be a session, which needs no fork: it was started for that.
    fn serve(&mut self) -> rustix::io::Result<Option<Job>> {
        while self.receive()? {
            let (sequence, length, first) = wire::parse_request_header(&self.packet).ok_or(Errno::PROTO)?;
            if length == 0 {
                reply(&self.socket, sequence, Outcome::Pong);
                continue;
            }
            let mut body = Zeroizing::new(Vec::with_capacity(length));
            body.extend_from_slice(first);
            while body.len() < length {
                if !self.receive()? {
                    return Ok(None);
                }
                body.extend_from_slice(&self.packet);
            }
            self.wipe();
            if sequence == wire::SESSION {
                return Ok(Some(Job { sequence, body }));
            }
            match sys::fork() {
                Ok(Fork::Parent) => {}
                Ok(Fork::Child) => return Ok(Some(Job { sequence, body })),
                Err(_) => reply(&self.socket, sequence, Outcome::Void),
            }
        }
        Ok(None)
    }

    /// Takes the next packet; `false` when the server has gone.
    fn receive(&mut self) -> rustix::io::Result<bool> {
        self.wipe();
        let take = || recv(&self.socket, spare_capacity(&mut self.packet), RecvFlags::empty());
        let (count, _) = rustix::io::retry_on_intr(take)?;
        Ok(count > 0)
    }

    /// Wipes the last packet, but no more than that: every page the warden writes to is copied once per supervisor.
    fn wipe(&mut self) {
        self.packet.as_mut_slice().zeroize();
        self.packet.clear();
    }
}

/// Answers one request, and then lets go of the socket: a supervisor must not look like a warden that lives.
struct Responder {
    socket: OwnedFd,
    sequence: u64,
}

impl Responder {
    fn reply(self, outcome: Outcome) {
        reply(&self.socket, self.sequence, outcome);
    }
}

/// Nobody may listen any more: then the server finds the same in the files.
fn reply(socket: &OwnedFd, sequence: u64, outcome: Outcome) {
    let pid = u32::try_from(getpid().as_raw_nonzero().get()).unwrap_or(0);
    let packet = Reply { sequence, outcome, pid }.encode();
    let _ = rustix::io::retry_on_intr(|| send(socket, &packet, SendFlags::NOSIGNAL));
}
