//! Commands in a running execution: what goes in and what comes out.

use std::fmt;

use bytes::Bytes;
use futures::channel::mpsc;
use futures::stream::BoxStream;

use crate::error::{BackendError, ErrorKind};

/// Most bytes in one [`ExecInput::Stdin`], [`ExecOutput::Stdout`] or [`ExecOutput::Stderr`].
pub const MAX_EXEC_CHUNK_BYTES: usize = 32 * 1024;
/// Pieces of input or output that may wait in one direction of a session; beyond them the writer
/// waits.
pub const EXEC_QUEUE: usize = 8;

/// A command to run in a running execution.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecRequest {
    /// Program and arguments; not empty. The program is looked for in the execution's own `PATH`.
    pub command: Vec<String>,
    /// Gives the command a terminal of this size; `None` gives it pipes.
    pub terminal: Option<TerminalSize>,
}

impl ExecRequest {
    /// Checks what every backend asks for.
    ///
    /// # Errors
    /// `Invalid` when there is no program, an argument holds a NUL byte, or a terminal has no rows
    /// or no columns.
    pub fn validate(&self) -> Result<(), BackendError> {
        let invalid = |message: &str| Err(BackendError::new(ErrorKind::Invalid, message));
        if self.command.first().is_none_or(String::is_empty) {
            return invalid("there is no command: name a program, such as `/bin/sh`");
        }
        if self.command.iter().any(|word| word.contains('\0')) {
            return invalid("the command holds a NUL byte, which no program can be given");
        }
        match self.terminal {
            Some(TerminalSize { rows: 0, .. } | TerminalSize { columns: 0, .. }) => {
                invalid("a terminal has at least one row and one column")
            }
            _ => Ok(()),
        }
    }
}

/// The size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Characters per line.
    pub columns: u16,
}

/// A command that runs in an execution. Dropping it ends the command and every process it has
/// started.
pub struct ExecSession {
    /// Where input goes; waits while the command does not read. Dropping it, too, is the end of the
    /// command's input.
    pub input: mpsc::Sender<ExecInput>,
    /// What the command writes, and last how it ended; the stream ends after that, or after an
    /// error. It ends with an error when the execution ends first.
    pub output: BoxStream<'static, Result<ExecOutput, BackendError>>,
}

impl fmt::Debug for ExecSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExecSession").finish_non_exhaustive()
    }
}

/// Something for the command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecInput {
    /// Bytes for its standard input, or typed at its terminal; at most [`MAX_EXEC_CHUNK_BYTES`].
    Stdin(Bytes),
    /// There will be no more input. At a terminal this is Ctrl-D.
    StdinEnd,
    /// Its terminal has another size now; nothing happens without one.
    Resize(TerminalSize),
}

/// Something from the command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecOutput {
    /// Bytes from its standard output, or from its terminal; never empty, at most
    /// [`MAX_EXEC_CHUNK_BYTES`].
    Stdout(Bytes),
    /// Bytes from its standard error; never with a terminal.
    Stderr(Bytes),
    /// It has ended: the exit code, or 128 and the number of the signal that ended it. The last of
    /// all.
    Exited(i32),
}
