//! Programs of others, run to their own end.
//!
//! What such a program leaves running in the background (a build daemon that starts on first use)
//! has inherited its standard output, so the end of that says nothing: what counts is that the
//! program itself has exited. A program that is given up is killed with everything that it has
//! started.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{ExitStatus, Stdio};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, ChildStdout, Command};

use crate::errors::Failure;

/// A pipe's size on Linux: what the program may have left in it.
const PIECE_BYTES: usize = 64 << 10;

/// A running program; dropped before its end, it is killed.
pub(super) struct Foreign {
    child: Child,
    stdout: ChildStdout,
    /// The same pipe, to be read without waiting.
    rest: OwnedFd,
    /// Its process group, until it has ended.
    group: Option<Pid>,
}

impl Foreign {
    /// Starts it without input; its stderr is the user's.
    pub(super) fn start(command: &mut Command) -> io::Result<Self> {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .kill_on_drop(true);

        // At a terminal it stays where it is: in a group of its own it could ask for no passphrase.
        let own_group = !rustix::termios::isatty(rustix::stdio::stdin());
        if own_group {
            command.process_group(0);
        }

        let mut child = command.spawn()?;
        let stdout = child.stdout.take().expect("stdout is piped");
        let rest = stdout.as_fd().try_clone_to_owned()?;
        let leader = child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?));

        Ok(Self { child, stdout, rest, group: leader.filter(|_| own_group) })
    }

    /// Hands out what it writes to stdout until it exits; its error gives the program up.
    pub(super) async fn until_exit(
        mut self,
        mut take: impl FnMut(&[u8]) -> Result<(), Failure>,
    ) -> Result<ExitStatus, Failure> {
        let mut piece = Vec::with_capacity(PIECE_BYTES);
        let mut is_open = true;
        let status = loop {
            piece.clear();
            tokio::select! {
                read = self.stdout.read_buf(&mut piece), if is_open => match read {
                    Ok(0) => is_open = false,
                    Ok(_) => take(&piece)?,
                    Err(error) => return Err(Failure::usage(format!("cannot read what the program \
                                                                     prints: {error}"))),
                },
                status = self.child.wait() => {
                    break status.map_err(|error| Failure::usage(format!("cannot wait for the program: {error}")))?;
                }
            }
        };

        // Its number may be somebody else's from now on.
        self.group = None;
        self.take_rest(take)?;
        Ok(status)
    }

    /// What it had written when it exited. Others may go on writing, so this is no more than a full
    /// pipe.
    fn take_rest(&self, mut take: impl FnMut(&[u8]) -> Result<(), Failure>) -> Result<(), Failure> {
        let mut left = rustix::io::ioctl_fionread(&self.rest).unwrap_or(0);
        let mut piece = vec![0; PIECE_BYTES];
        while left > 0 {
            let most = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            match rustix::io::read(&self.rest, &mut piece[..most]) {
                Ok(0) => break,
                Ok(count) => {
                    take(&piece[..count])?;
                    left = left.saturating_sub(count as u64);
                }
                Err(Errno::INTR) => {}
                // Somebody else has read it: impossible, and nothing to wait for.
                Err(_) => break,
            }
        }

        Ok(())
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        if let Some(group) = self.group {
            // It has not been waited for, so its number is still its own.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}
