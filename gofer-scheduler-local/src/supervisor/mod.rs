//! What runs beside the server: one zygote, and one supervisor per execution.
//!
//! The **zygote** is a small single-threaded process connected to the server by a socket. For each
//! request it forks a **supervisor**, which costs a fraction of executing the server's binary
//! again. A supervisor whose execution is over waits a moment for the next request, which it then
//! takes from the socket itself; a task that follows another costs no fork. The zygote ends when
//! the server and the last of its supervisors have; a supervisor ends when its execution did, and
//! depends on neither: it holds the exit code, the log, the stop timer and the whole process tree
//! of the task.
//!
//! A **session** is a third kind: a command beside a task, for as long as somebody is connected to
//! it.
//!
//! ```text
//! server ══ one socket ══> zygote (Helper::guard) ──fork──> supervisor (Helper::supervise)
//!            ║              ├── idle: who listens to the socket now     ├── execution: one task's life
//!            ╚═ requests ═══╪═> an idle supervisor takes the next       │    ├── program, sandbox: the start
//!                           ├── orphans: what killed supervisors left   │    ├── output: pipes into the log
//!                           └── owner: ends with `gofer local`          │    └── tree: all that came of it
//!            <── Reply ── responder <───────────────────────────────────┘
//! server ── a socket of its own ──> session (a command beside a task)
//! ```

mod execution;
mod idle;
mod orphans;
mod output;
mod owner;
mod program;
mod receive;
mod responder;
mod sandbox;
mod session;
mod tree;

use std::fs::OpenOptions;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::process::{chdir, getpid, getppid, set_child_subreaper, setsid};
use rustix::stdio;
use secrecy::zeroize::Zeroizing;

use self::execution::{Over, Post};
use self::idle::{Idle, Turn};
use self::orphans::Children;
use self::owner::Owner;
use self::receive::{Packets, Received};
use self::responder::Responder;
use self::sandbox::Sandbox;
use crate::hardening::close_process;
use crate::sys::{self, Fork, Spawner};
use crate::wire::{self, Outcome, Request};

/// The entry point of the zygote: a process whose standard input is the socket to the server. Call
/// it before anything starts a thread. It returns when the server has gone.
#[must_use]
pub fn main() -> ExitCode {
    sys::close_inherited();
    close_process();
    let Ok(mut helper) = Helper::prepare() else { return ExitCode::FAILURE };
    let guarded = helper.guard();
    let Ok(Some(job)) = guarded else {
        // What it has forked may end first, and may leave something.
        helper.outlive();
        return if guarded.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    };

    if job.sequence == wire::SESSION {
        session::run(&helper.socket, &job.body);
    } else {
        helper.supervise(job);
        helper.leave();
    }

    sys::exit_now(0);
}

/// How long a supervisor tries to answer a server that does not listen, before it goes on without.
const REPLY_TIMEOUT: Duration = Duration::from_secs(5);

/// What all of these processes have from the first of them.
struct Helper {
    socket: OwnedFd,
    null: OwnedFd,
    owner: Option<Owner>,
    zygote: u32,
    idle: Idle,
    packets: Packets,
    children: Children,
    sandbox: Sandbox,
}

/// A request with something to do.
struct Job {
    sequence: u64,
    body: Zeroizing<Vec<u8>>,
}

impl Helper {
    fn prepare() -> rustix::io::Result<Self> {
        let socket = fcntl_dupfd_cloexec(stdio::stdin(), 3)?;
        set_socket_timeout(&socket, Timeout::Send, Some(REPLY_TIMEOUT))?;

        // The zygote waits by other means.
        set_socket_timeout(&socket, Timeout::Recv, Some(idle::LINGER_TIMEOUT))?;
        let null = OpenOptions::new().read(true).write(true).open("/dev/null");
        let null: OwnedFd =
            null.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?.into();
        let owner = Owner::inherited()?;
        stdio::dup2_stdin(&null)?;
        stdio::dup2_stdout(&null)?;
        stdio::dup2_stderr(&null)?;

        // Out of the terminal's reach: Ctrl-C is for the server, which knows what it means.
        let _ = setsid();
        // So that no file system stays busy on our account.
        chdir("/")?;
        sys::prepare_zygote_signals();

        // What falls to it comes of supervisors that were killed.
        set_child_subreaper(Some(getpid()))?;
        Ok(Self {
            socket,
            null,
            owner,
            zygote: responder::own_pid(),
            idle: Idle::new()?,
            packets: Packets::new(),
            children: Children::new()?,
            sandbox: Sandbox::default(),
        })
    }

    /// The zygote's life: serves requests that no idle supervisor takes until the server has gone:
    /// `None`. In each new supervisor it returns too: with its job; and so it does in a process
    /// that is to be a session, which needs no fork: it was started for that.
    fn guard(&mut self) -> rustix::io::Result<Option<Job>> {
        loop {
            let turn = self.idle.wait_for_turn(&self.socket, self.children.signals());
            if turn == Turn::Child {
                self.children.look();
                continue;
            }

            let job = match self.packets.receive_now(&self.socket)? {
                Received::Gone => return Ok(None),
                Received::Nothing => continue,
                Received::Job(sequence, body) => Job { sequence, body },
            };

            if turn == Turn::Overdue {
                self.idle.nobody_took();
            }

            if job.sequence == wire::SESSION {
                return Ok(Some(job));
            }

            if job.body.is_empty() {
                self.responder(job.sequence).reply(Outcome::Pong);
                continue;
            }

            // Once for all that are forked from here on.
            if let Some(landlock) =
                Request::decode(&job.body).and_then(|request| request.launch.confinement.landlock)
            {
                self.sandbox.refresh(&landlock);
            }

            match sys::fork() {
                Ok(Fork::Parent(pid)) => self.children.add(pid),
                Ok(Fork::Child) => return Ok(Some(job)),
                Err(_) => self.responder(job.sequence).reply(Outcome::Void),
            }
        }
    }

    /// A supervisor's life: its job, and the next as long as one comes soon.
    fn supervise(&mut self, first: Job) {
        let spawner = set_child_subreaper(Some(getpid())).and_then(|()| Spawner::new());
        let Ok(spawner) = spawner else {
            return self.responder(first.sequence).reply(Outcome::Void);
        };
        let mut tools = execution::Tools { spawner, sandbox: std::mem::take(&mut self.sandbox) };
        let mut next = Some(first);

        while let Some(Job { sequence, body }) = next.take() {
            let mut over = Over { fit: true, claim: None, cgroup: None };
            if body.is_empty() {
                // Once the zygote is gone, so is the connection: the answer is not ours to give.
                if getppid().map(responder::number) == Some(self.zygote) {
                    self.responder(sequence).reply(Outcome::Pong);
                }
            } else if let Some(request) = Request::decode(&body) {
                // The zygote's own descriptor tells each process of its own signals.
                let post = Post {
                    signals: self.children.signals(),
                    null: &self.null,
                    owner: self.owner.as_ref(),
                };
                over = execution::run(&request, self.responder(sequence), post, &mut tools);
            }

            // Before the server learns of the end, so that the zygote leaves what follows to this
            // process.
            let waits = over.fit && self.idle.enter();
            drop((over, body));
            if waits {
                if let Ok(Received::Job(sequence, body)) = self.packets.receive(&self.socket) {
                    next = Some(Job { sequence, body });
                }
                self.idle.leave();
            }
        }
    }

    /// The zygote's end comes after the owner's, if there is one, and its children's.
    fn outlive(&mut self) {
        loop {
            self.children.look();
            let owner = self.owner.as_ref().filter(|owner| !owner.is_gone());
            if owner.is_none() && !self.children.any() {
                break;
            }
            let mut fds = vec![PollFd::new(self.children.signals(), PollFlags::IN)];
            fds.extend(owner.map(Owner::life));
            let _ = poll(&mut fds, None);
        }
        self.leave();
    }

    fn leave(&mut self) {
        if let Some(owner) = self.owner.take() {
            owner.leave();
        }
    }

    /// What answers a request.
    fn responder(&self, sequence: u64) -> Responder<'_> {
        Responder::new(&self.socket, self.zygote, sequence)
    }
}
