//! A command beside a task, for as long as the server's end of the socket is open.
//!
//! Its process was started for it alone, so that whatever ends that process's peer (a session that
//! is dropped, a server that is killed) is seen as the end of the socket, and everything the
//! command has started is a descendant to be killed.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use gofer_core::exec::{ExecInput, ExecOutput, MAX_EXEC_CHUNK_BYTES, TerminalSize};
use gofer_core::scheduler::ExecutionState;
use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    Pid, Signal, WaitOptions, chdir, getpid, kill_process_group, set_child_subreaper, waitpid,
};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use super::sandbox::Sandbox;
use super::{program, tree};
use crate::cgroup;
use crate::confinement::User;
use crate::process;
use crate::session::{Begin, PACKET_BYTES, Said, decode_input};
use crate::sys::{self, Bounds, Spawn, Spawner, Streams};

/// What Ctrl-D types.
const END_OF_TRANSMISSION: u8 = 4;
/// What a command with a terminal is told that it is, unless the task's environment says.
const TERM: &CStr = c"TERM=xterm";

/// Runs the command until it has ended or the server has gone; then no process of it is left.
pub(super) fn run(socket: &OwnedFd, body: &[u8]) {
    let Some((begin, command)) = Begin::decode(body) else { return };
    match Session::begin(socket, &begin, &command) {
        Ok(mut session) => {
            session.say(&Said::Began);
            session.serve();
        }
        Err(why) => {
            // The first packet of an empty socket always fits.
            let _ = send(socket, &Said::Refused(why).encode(), SendFlags::NOSIGNAL);
        }
    }
}

struct Session<'a> {
    socket: &'a OwnedFd,
    signals: OwnedFd,
    main: Pid,
    /// Where input goes; `None` once it has ended.
    stdin: Option<OwnedFd>,
    /// Stdout, or the terminal, and stderr; `None` once nobody can write to it.
    outputs: [Option<OwnedFd>; 2],
    terminal: bool,
    /// Input that the command has not read yet.
    typed: Vec<u8>,
    /// A packet that the server has not taken yet.
    unsent: Option<Vec<u8>>,
}

/// Whether to go on.
#[derive(PartialEq, Eq)]
enum Peer {
    There,
    Gone,
}

impl<'a> Session<'a> {
    fn begin(socket: &'a OwnedFd, begin: &Begin, command: &[&CStr]) -> Result<Self, String> {
        let failed = |error: io::Error| format!("the session could not be set up: {error}");
        rustix::io::ioctl_fionbio(socket, true).map_err(|error| failed(error.into()))?;
        let signals = sys::blocked_signals().map_err(|error| failed(error.into()))?;
        set_child_subreaper(Some(getpid())).map_err(|error| failed(error.into()))?;

        let environment = environment(begin)?;
        let mut env: Vec<&CStr> = environment.iter().map(CString::as_c_str).collect();
        if begin.terminal.is_some()
            && !env.iter().any(|entry| entry.to_bytes().starts_with(b"TERM="))
        {
            env.push(TERM);
        }

        let found = program::find(command[0], &env).map_err(message)?;
        let mut spawner = Spawner::new().map_err(|error| failed(error.into()))?;
        let entrance = begin.cgroup.as_deref().map(cgroup::entrance).transpose();
        let entrance =
            entrance.map_err(|error| format!("the task's cgroup cannot be entered: {error}"))?;
        let ruleset = match &begin.confinement.landlock {
            Some(landlock) => Sandbox::default().ruleset(landlock, &[&begin.work])?,
            None => None,
        };

        let spawn = |stdio: Streams<'_>| {
            let bounds = Bounds::of(&begin.confinement, entrance.as_ref(), ruleset.as_ref());
            let what = Spawn { program: &found, argv: command, env: &env, stdio, bounds };
            spawner.spawn(&what).map_err(|error| message(program::failure(&found, error)))
        };

        let spawned = match begin.terminal {
            Some(size) => with_terminal(size, begin.confinement.user.as_ref(), spawn),
            None => with_pipes(begin.confinement.user.as_ref(), spawn),
        };

        // So that the directory can be removed.
        let _ = chdir("/");
        let Ends { main, stdin, outputs } = spawned?;
        let terminal = begin.terminal.is_some();

        Ok(Self {
            socket,
            signals,
            main,
            stdin: Some(stdin),
            outputs,
            terminal,
            typed: Vec::new(),
            unsent: None,
        })
    }

    /// Moves bytes until the command has ended or the server has gone.
    fn serve(&mut self) {
        let code = loop {
            let (signalled, peer) = self.poll();
            if peer == Peer::Gone || self.receive() == Peer::Gone {
                break None;
            }

            self.write();
            self.read();
            if signalled && tree::has_exited(self.main) {
                break Some(self.end());
            }
        };
        match code {
            None => {
                self.end();
            }
            Some(code) => self.deliver(code),
        }
    }

    /// Waits for something to do; says whether there was a signal, and whether the server is there.
    fn poll(&self) -> (bool, Peer) {
        let mut socket = PollFlags::empty();
        if self.typed.is_empty() {
            socket |= PollFlags::IN;
        }

        if self.unsent.is_some() {
            socket |= PollFlags::OUT;
        }

        // An end of which nothing is wanted is left out: that its other side has gone would wake
        // for ever.
        let mut fds =
            vec![PollFd::new(&self.signals, PollFlags::IN), PollFd::new(self.socket, socket)];
        if let Some(stdin) = self.stdin.as_ref().filter(|_| !self.typed.is_empty()) {
            fds.push(PollFd::new(stdin, PollFlags::OUT));
        }

        if self.unsent.is_none() {
            fds.extend(self.outputs.iter().flatten().map(|end| PollFd::new(end, PollFlags::IN)));
        }

        let _ = poll(&mut fds, None);
        let signalled = !fds[0].revents().is_empty();
        let gone = fds[1].revents().intersects(PollFlags::HUP | PollFlags::ERR);
        if signalled {
            sys::drain_signals(self.signals.as_fd());
        }

        (signalled, if gone { Peer::Gone } else { Peer::There })
    }

    /// Takes the next piece of input, once the last one was read.
    fn receive(&mut self) -> Peer {
        if !self.typed.is_empty() {
            return Peer::There;
        }

        let mut packet = Vec::with_capacity(PACKET_BYTES);
        match recv(self.socket, spare_capacity(&mut packet), RecvFlags::DONTWAIT) {
            Ok((0, _)) => return Peer::Gone,
            Ok(_) => {}
            Err(Errno::AGAIN | Errno::INTR) => return Peer::There,
            Err(_) => return Peer::Gone,
        }

        match decode_input(&packet) {
            // What comes after the end of the input, or after the command has closed it, is for
            // nobody.
            Some(ExecInput::Stdin(data)) if self.stdin.is_some() => self.typed = data.to_vec(),
            Some(ExecInput::StdinEnd) if self.terminal => self.typed = vec![END_OF_TRANSMISSION],
            Some(ExecInput::StdinEnd) => self.stdin = None,
            Some(ExecInput::Resize(size)) => {
                if let Some(terminal) = self.outputs[0].as_ref().filter(|_| self.terminal) {
                    let _ = tcsetwinsize(terminal, window(size));
                }
            }
            Some(ExecInput::Stdin(_)) | None => {}
        }

        Peer::There
    }

    /// Gives the command what it takes of the input.
    fn write(&mut self) {
        let Some(stdin) = self.stdin.as_ref().filter(|_| !self.typed.is_empty()) else { return };
        match rustix::io::write(stdin, &self.typed) {
            Ok(count) => {
                self.typed.drain(..count);
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => {
                self.stdin = None;
                self.typed.clear();
            }
        }
    }

    /// Sends what the command has written, as long as the server takes it; says whether something
    /// was sent.
    fn read(&mut self) -> bool {
        let mut moved = false;
        if let Some(packet) = self.unsent.take() {
            self.send(packet);
        }

        for (at, wrap) in [ExecOutput::Stdout, ExecOutput::Stderr].into_iter().enumerate() {
            let Some(end) = self.outputs[at].as_ref().filter(|_| self.unsent.is_none()) else {
                continue;
            };

            let mut data = Vec::with_capacity(MAX_EXEC_CHUNK_BYTES);
            match rustix::io::read(end, spare_capacity(&mut data)) {
                Ok(1..) => {
                    moved = true;
                    self.say(&Said::Output(wrap(data.into())));
                }
                Err(Errno::AGAIN | Errno::INTR) => {}
                // A terminal that nobody has open gives an error.
                Ok(0) | Err(_) => self.outputs[at] = None,
            }
        }

        moved
    }

    fn say(&mut self, said: &Said) {
        self.send(said.encode());
    }

    /// Sends the packet, or keeps it. If the server has gone, that is seen elsewhere.
    fn send(&mut self, packet: Vec<u8>) {
        let sent = send(self.socket, &packet, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
        if matches!(sent, Err(Errno::AGAIN | Errno::INTR | Errno::NOBUFS)) {
            self.unsent = Some(packet);
        }
    }

    /// Kills what is left, and says how the command ended.
    fn end(&mut self) -> i32 {
        // Before it is reaped, while its number still names its group.
        let _ = kill_process_group(self.main, Signal::KILL);
        let status =
            waitpid(Some(self.main), WaitOptions::empty()).ok().flatten().map(|(_, status)| status);
        tree::kill_descendants(&self.signals);
        let signal = status.and_then(|status| status.terminating_signal());
        status
            .and_then(|status| status.exit_status())
            .or(signal.map(|signal| 128 + signal))
            .unwrap_or(-1)
    }

    /// Nobody writes any more: sends what there is, and last the exit code.
    fn deliver(&mut self, code: i32) {
        self.stdin = None;
        self.typed.clear();
        let mut last = Some(Said::Output(ExecOutput::Exited(code)));

        loop {
            while self.read() {}
            if self.unsent.is_none() {
                match last.take() {
                    Some(said) => self.say(&said),
                    None => return,
                }
            } else {
                let mut fds = [PollFd::new(self.socket, PollFlags::OUT)];
                let _ = poll(&mut fds, None);
                if fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR) {
                    return;
                }
            }
        }
    }
}

/// The command, and this process's ends of its streams.
struct Ends {
    main: Pid,
    stdin: OwnedFd,
    outputs: [Option<OwnedFd>; 2],
}

fn with_pipes(
    user: Option<&User>,
    spawn: impl FnOnce(Streams<'_>) -> Result<Pid, String>,
) -> Result<Ends, String> {
    let open = || -> io::Result<_> {
        let (input, output, error) = (
            pipe_with(PipeFlags::CLOEXEC)?,
            pipe_with(PipeFlags::CLOEXEC)?,
            pipe_with(PipeFlags::CLOEXEC)?,
        );

        for end in [&input.1, &output.0, &error.0] {
            rustix::io::ioctl_fionbio(end, true)?;
        }

        if let Some(user) = user {
            for end in [&input.0, &output.1, &error.1] {
                std::os::unix::fs::fchown(end, Some(user.uid), Some(user.gid))?;
            }
        }

        Ok((input, output, error))
    };

    let (input, output, error) =
        open().map_err(|error| format!("no pipe could be made: {error}"))?;
    let main = spawn(Streams::Files([input.0.as_fd(), output.1.as_fd(), error.1.as_fd()]))?;
    Ok(Ends { main, stdin: input.1, outputs: [Some(output.0), Some(error.0)] })
}

fn with_terminal(
    size: TerminalSize,
    user: Option<&User>,
    spawn: impl FnOnce(Streams<'_>) -> Result<Pid, String>,
) -> Result<Ends, String> {
    let open = || -> io::Result<_> {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&ours)?;
        unlockpt(&ours)?;
        tcsetwinsize(&ours, window(size))?;
        rustix::io::ioctl_fionbio(&ours, true)?;

        let theirs = ptsname(&ours, Vec::new())?;
        if let Some(user) = user {
            // Its programs open it by name, such as `/dev/tty` and what asks for a password.
            std::os::unix::fs::chown(
                std::ffi::OsStr::from_bytes(theirs.as_bytes()),
                Some(user.uid),
                None,
            )?;
        }

        Ok((ours.try_clone()?, ours, theirs))
    };

    let (stdin, ours, theirs) =
        open().map_err(|error| format!("no terminal could be made: {error}"))?;
    let main = spawn(Streams::Terminal(&theirs))?;
    Ok(Ends { main, stdin, outputs: [Some(ours), None] })
}

fn window(size: TerminalSize) -> Winsize {
    Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 }
}

/// The environment the task's process was started with. Also goes to its directory.
fn environment(begin: &Begin) -> Result<Vec<CString>, String> {
    let pid = begin.task.pid.as_raw_nonzero().get();
    let is_it = || {
        process::stat(pid)
            .is_some_and(|stat| (begin.task.earliest..=begin.task.latest).contains(&stat.started))
    };

    let gone = || "the task's process has just ended".to_owned();
    if !is_it() {
        return Err(gone());
    }

    // Another user's process shows itself to that user.
    let text = sys::as_user(begin.confinement.user.as_ref(), || {
        let text = std::fs::read(format!("/proc/{pid}/environ")).map_err(|error| {
            format!("the environment of the task's process {pid} cannot be read: {error}")
        })?;
        chdir(format!("/proc/{pid}/cwd")).map_err(|error| {
            format!("the directory of the task's process {pid} cannot be entered: {error}")
        })?;
        Ok::<_, String>(text)
    })?;

    if !is_it() {
        return Err(gone());
    }

    let entries = text.split(|&byte| byte == 0).filter(|entry| !entry.is_empty());
    Ok(entries.filter_map(|entry| CString::new(entry).ok()).collect())
}

fn message(failure: ExecutionState) -> String {
    match failure {
        ExecutionState::Failed { message, .. } => message,
        other => format!("{other:?}"),
    }
}
