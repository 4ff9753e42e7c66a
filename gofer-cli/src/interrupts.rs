//! Signals that ask a command to end.

use std::task::Poll;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::errors::{Exit, Failure};

/// Which of them came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interrupt {
    /// SIGHUP: the terminal was closed, or the connection to it.
    HangUp,
    /// SIGINT: Ctrl-C.
    CtrlC,
    /// SIGQUIT.
    Quit,
    /// SIGTERM.
    Terminate,
}

impl Interrupt {
    /// What a command ends with that ends because of it: 128 and the signal's number.
    pub(crate) fn exit(self) -> Exit {
        match self {
            Self::HangUp => Exit::HungUp,
            Self::CtrlC => Exit::Interrupted,
            Self::Quit => Exit::Quit,
            Self::Terminate => Exit::Terminated,
        }
    }

    /// Why something was ended, for its record.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::HangUp => "the terminal was closed (SIGHUP)",
            Self::CtrlC => "interrupted with Ctrl-C",
            Self::Quit => "ended by SIGQUIT",
            Self::Terminate => "ended by SIGTERM",
        }
    }

    fn kind(self) -> SignalKind {
        match self {
            Self::HangUp => SignalKind::hangup(),
            Self::CtrlC => SignalKind::interrupt(),
            Self::Quit => SignalKind::quit(),
            Self::Terminate => SignalKind::terminate(),
        }
    }

    /// Whether the process was started to ignore it, as `nohup` does.
    fn is_ignored(self) -> bool {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let mask = status
            .lines()
            .find_map(|line| u64::from_str_radix(line.strip_prefix("SigIgn:")?.trim(), 16).ok());
        mask.is_some_and(|mask| mask >> (self.kind().as_raw_value() - 1) & 1 == 1)
    }
}

impl Failure {
    /// A signal ended the command.
    pub(crate) fn interrupted(by: Interrupt) -> Self {
        Self::new(by.exit(), by.reason())
    }
}

/// SIGHUP as a server takes it: a request to read its files again, or the end of the terminal that
/// it was started from.
pub(crate) struct HangUps {
    signal: Signal,
    /// Whether there was a terminal, whose end is meant for this process.
    has_terminal: bool,
}

impl HangUps {
    pub(crate) fn catch() -> Result<Self, Failure> {
        let has_terminal = has_terminal() && !Interrupt::HangUp.is_ignored();
        let signal = signal(SignalKind::hangup());
        let signal =
            signal.map_err(|error| Failure::refused(format!("cannot catch signals: {error}")))?;
        Ok(Self { signal, has_terminal })
    }

    /// Asks for the files to be read again whenever it comes, until the terminal is gone.
    pub(crate) async fn reload_until_closed(&mut self, reload: impl Fn()) -> Interrupt {
        loop {
            // The stream of a signal has no end.
            let _ = self.signal.recv().await;
            if self.has_terminal && !has_terminal() {
                return Interrupt::HangUp;
            }
            reload();
        }
    }
}

/// Whether the process has a terminal that controls it.
fn has_terminal() -> bool {
    std::fs::File::open("/dev/tty").is_ok()
}

/// Waits for them.
pub(crate) struct Interrupts {
    caught: Vec<(Interrupt, Signal)>,
}

impl Interrupts {
    /// From now on neither Ctrl-C nor SIGTERM ends the process.
    pub(crate) fn catch() -> Result<Self, Failure> {
        Self::catch_these([Interrupt::CtrlC, Interrupt::Terminate])
    }

    /// Nor does SIGQUIT or the end of the terminal, for a command with something to clean up.
    pub(crate) fn catch_all() -> Result<Self, Failure> {
        let more =
            [Interrupt::HangUp, Interrupt::Quit].into_iter().filter(|more| !more.is_ignored());
        Self::catch_these([Interrupt::CtrlC, Interrupt::Terminate].into_iter().chain(more))
    }

    fn catch_these(wanted: impl IntoIterator<Item = Interrupt>) -> Result<Self, Failure> {
        let caught = wanted.into_iter().map(|wanted| Ok((wanted, signal(wanted.kind())?)));
        let caught = caught.collect::<std::io::Result<_>>();
        caught
            .map(|caught| Self { caught })
            .map_err(|error| Failure::refused(format!("cannot catch signals: {error}")))
    }

    /// The next signal.
    pub(crate) async fn next(&mut self) -> Interrupt {
        std::future::poll_fn(|context| {
            let mut caught = self.caught.iter_mut();
            let came = caught
                .find_map(|(which, signal)| signal.poll_recv(context).is_ready().then_some(*which));
            came.map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    /// Does the work, unless a signal comes first; then the work is dropped.
    ///
    /// # Errors
    /// Those of the work, and the signal.
    pub(crate) async fn unless_interrupted<T>(
        &mut self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        tokio::select! {
            done = work => done,
            interrupt = self.next() => Err(Failure::interrupted(interrupt)),
        }
    }
}
