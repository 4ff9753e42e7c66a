//! One execution of the memory scheduler: what is kept of it, and the task that plays its script.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use gofer_core::id::ExecutionId;
use gofer_core::scheduler::{
    EnvValue, ExecutionKind, ExecutionSpec, ExecutionState, ExecutionTimes, LogStream, Observation,
    TIMEOUT_GRACE,
};
use gofer_core::time::Timestamp;
use secrecy::ExposeSecret;
use tokio::sync::watch;
use tokio::time::Instant;

use super::Shared;
use super::script::Step;

/// How long a service that ended waits before it is started again.
const SERVICE_PAUSE: Duration = Duration::from_millis(100);

/// What is kept of an execution.
pub(super) struct Execution {
    pub(super) spec: ExecutionSpec,
    pub(super) state: ExecutionState,
    times: ExecutionTimes,
    /// When it came to run, by tokio's clock, which a test may have paused.
    pub(super) running_since: Option<Instant>,
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: Vec<u8>,
    /// Told of every change of the fields above.
    pub(super) changed: watch::Sender<()>,
    /// When it is to be killed, once somebody asked that it stop.
    pub(super) kill_at: watch::Sender<Option<Instant>>,
}

impl Execution {
    pub(super) fn new(spec: ExecutionSpec) -> Self {
        Self {
            spec,
            state: ExecutionState::Queued { reason: String::new() },
            times: ExecutionTimes::default(),
            running_since: None,
            stdout: Vec::new(),
            stderr: Vec::new(),
            changed: watch::Sender::new(()),
            kill_at: watch::Sender::new(None),
        }
    }

    pub(super) fn observed(&self) -> Observation {
        Observation { state: self.state.clone(), times: self.times }
    }

    /// It becomes this now.
    pub(super) fn enter(&mut self, state: ExecutionState, now: Timestamp) {
        match state {
            ExecutionState::Queued { .. } => {
                (self.times.started_at, self.running_since) = (None, None)
            }
            ExecutionState::Running => {
                self.times.started_at.get_or_insert(now);
                self.running_since.get_or_insert_with(Instant::now);
            }
            _ => {}
        }

        if state.is_final() {
            self.times.ran = self.running_since.map(|since| since.elapsed());
            let ended_at =
                self.times.started_at.zip(self.times.ran).map(|(began, ran)| began.after(ran));
            self.times.ended_at = ended_at.or(Some(now));
        }

        self.state = state;
    }

    pub(super) fn output(&self, stream: LogStream) -> &[u8] {
        match stream {
            LogStream::Stdout => &self.stdout,
            LogStream::Stderr => &self.stderr,
        }
    }

    /// Asks that it stop; an earlier deadline stays.
    pub(super) fn stop(&self, kill_at: Instant) {
        self.kill_at.send_if_modified(|current| {
            let hastens = current.is_none_or(|earlier| kill_at < earlier);
            if hastens {
                *current = Some(kill_at);
            }
            hastens
        });
    }
}

/// Plays an execution to its end.
pub(super) struct Player {
    pub(super) shared: Arc<Shared>,
    pub(super) id: ExecutionId,
    pub(super) spec: ExecutionSpec,
    pub(super) steps: Vec<Step>,
    pub(super) kill_at: watch::Receiver<Option<Instant>>,
}

impl Player {
    pub(super) async fn play(mut self) {
        loop {
            let mut killed = self.kill_at.clone();
            let ended = tokio::select! {
                biased;
                () = kill_time(&mut killed) => ExecutionState::Stopped,
                never = self.deadline() => match never {},
                state = self.script() => state,
            };

            let stopped = self.kill_at.borrow().is_some();
            let again = self.spec.kind == ExecutionKind::Service
                && matches!(ended, ExecutionState::Exited { .. });
            if stopped || !again {
                self.shared.settle(&self.id, if stopped { ExecutionState::Stopped } else { ended });
                return;
            }

            // Whichever comes first, the next round sees whether somebody asked that it stop.
            let _ = tokio::time::timeout(SERVICE_PAUSE, self.kill_at.changed()).await;
        }
    }

    /// Asks the execution to stop when it has run for longer than it may.
    async fn deadline(&self) -> Infallible {
        if let Some(timeout) = self.spec.timeout.filter(|_| self.spec.kind == ExecutionKind::Task) {
            self.shared.run_out(&self.id, timeout).await;
            self.shared.stop(&self.id, TIMEOUT_GRACE);
        }
        std::future::pending().await
    }

    /// Plays the steps once.
    async fn script(&self) -> ExecutionState {
        let mut heed_stop = true;
        let mut last_words = None;
        self.shared.set_state(&self.id, ExecutionState::Running);

        for step in &self.steps {
            let heard = match step {
                Step::Print(stream, bytes) => self.print(*stream, bytes),
                Step::PrintLine(length) => self.print(LogStream::Stdout, &line(*length)),
                Step::PrintEnv(name) => self.print(LogStream::Stdout, self.env(name).as_bytes()),
                Step::PrintWorkingDir => {
                    self.print(LogStream::Stdout, self.working_dir().as_bytes())
                }
                Step::Mark(name) => self.shared.mark(name),
                Step::Wait(gate) => self.unless_stopped(heed_stop, self.shared.gate(gate)).await,
                Step::SleepMs(ms) => {
                    self.unless_stopped(heed_stop, tokio::time::sleep(Duration::from_millis(*ms)))
                        .await
                }
                Step::Forever => self.unless_stopped(heed_stop, std::future::pending()).await,
                Step::Queue(reason) => {
                    self.unless_stopped(heed_stop, self.shared.queue(&self.id, reason)).await
                }
                Step::IgnoreStop => {
                    heed_stop = false;
                    Heard::Nothing
                }
                Step::OnStop(words) => {
                    last_words = Some(format!("{words}\n"));
                    Heard::Nothing
                }
                Step::Exit(code) => return exited(*code, None, false),
                Step::Die(signal) => return exited(128 + signal, Some(*signal), false),
                Step::OutOfMemory => return exited(137, Some(9), true),
                Step::Fail(kind, message) => {
                    return ExecutionState::Failed { kind: *kind, message: message.clone() };
                }
            };
            if heard == Heard::Stop {
                self.print(LogStream::Stdout, last_words.unwrap_or_default().as_bytes());
                return ExecutionState::Stopped;
            }
        }

        exited(0, None, false)
    }

    /// Waits for the future, or until somebody asks that the execution stop.
    async fn unless_stopped(&self, heed_stop: bool, future: impl Future<Output = ()>) -> Heard {
        let mut kill_at = self.kill_at.clone();
        tokio::select! {
            biased;
            _ = kill_at.wait_for(Option::is_some), if heed_stop => Heard::Stop,
            () = future => Heard::Nothing,
        }
    }

    fn print(&self, stream: LogStream, bytes: &[u8]) -> Heard {
        self.shared.print(&self.id, stream, bytes);
        Heard::Nothing
    }

    fn env(&self, name: &str) -> &str {
        match self.spec.env.get(name) {
            Some(EnvValue::Plain(value)) => value,
            Some(EnvValue::Secret(value)) => value.expose_secret(),
            None => "",
        }
    }

    fn working_dir(&self) -> String {
        let fresh = || format!("/memory/{}", self.id);
        format!("{}\n", self.spec.working_dir.clone().unwrap_or_else(fresh))
    }
}

/// What happened during a step.
#[derive(PartialEq, Eq)]
pub(super) enum Heard {
    Nothing,
    Stop,
}

/// Resolves when it is time to kill the execution.
async fn kill_time(kill_at: &mut watch::Receiver<Option<Instant>>) {
    loop {
        let next = *kill_at.borrow_and_update();
        let changed = match next {
            Some(at) => match tokio::time::timeout_at(at, kill_at.changed()).await {
                Ok(changed) => changed,
                Err(_) => return,
            },
            None => kill_at.changed().await,
        };
        if changed.is_err() {
            return;
        }
    }
}

fn exited(code: i32, signal: Option<i32>, oom: bool) -> ExecutionState {
    ExecutionState::Exited { code, oom, signal }
}

fn line(length: usize) -> Vec<u8> {
    let mut line = vec![b'x'; length];
    line.push(b'\n');
    line
}
