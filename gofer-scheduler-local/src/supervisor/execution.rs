//! One execution from its launch to the record of its end.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use gofer_core::Timestamp;
use gofer_core::scheduler::{ExecutionState, ExecutionTimes, Observation, TIMEOUT_GRACE};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, chdir, kill_process_group, waitpid};
use rustix::time::{ClockId, clock_gettime};

use super::output::{Log, Pipes};
use super::owner::{self, Owner};
use super::program;
use super::responder::Responder;
use super::sandbox::Sandbox;
use super::tree::{self, Left};
use crate::cgroup::TaskCgroup;
use crate::disk;
use crate::layout::ExecutionDir;
use crate::live::{Claim, StartedTask, ticks_since_boot};
use crate::sys::{self, Bounds, Spawn, Spawner, Streams};
use crate::wire::{Outcome, Request};

/// A service that ran at least this long is started again after the shortest wait.
const SERVICE_PROVEN: Duration = Duration::from_secs(60);
/// Wait before a service's first restart; doubles up to the longest.
const SERVICE_BACKOFF: Duration = Duration::from_secs(1);
const SERVICE_BACKOFF_MAX: Duration = Duration::from_secs(60);

/// A process that hangs in the kernel does not end when it is killed; try again this often.
const KILL_AGAIN: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// How often, at intervals of a second, to try to record the end. It goes where there is room
/// already, so only a broken disk can refuse it.
const RECORD_TRIES: u32 = 60;

/// What a supervisor starts processes with.
pub(super) struct Tools {
    pub(super) spawner: Spawner,
    pub(super) sandbox: Sandbox,
}

/// What a supervisor has for one execution after another.
#[derive(Clone, Copy)]
pub(super) struct Post<'a> {
    /// Where SIGCHLD and SIGUSR1 arrive.
    pub(super) signals: &'a OwnedFd,
    /// `/dev/null`.
    pub(super) null: &'a OwnedFd,
    /// Who must not be outlived, if anybody.
    pub(super) owner: Option<&'a Owner>,
}

/// An execution that is over.
pub(super) struct Over {
    /// Whether this process is as it was before.
    pub(super) fit: bool,
    /// The kernel tells the server when this is dropped. A power failure leaves the execution lost,
    /// unless a server has recorded its end by then.
    #[expect(dead_code, reason = "held for its lock")]
    pub(super) claim: Option<Claim>,
    /// Removed after the server was told, which need not wait for it.
    #[expect(dead_code, reason = "held until it is dropped")]
    pub(super) cgroup: Option<TaskCgroup>,
}

/// Runs the execution. When this returns, its process tree is gone and its end is recorded, or
/// nothing was done because this launch is void.
pub(super) fn run(
    request: &Request<'_>,
    responder: Responder<'_>,
    post: Post<'_>,
    tools: &mut Tools,
) -> Over {
    let Ok(Some(claim)) = Claim::take(&request.launch.live) else {
        responder.reply(Outcome::Void);
        return Over { fit: true, claim: None, cgroup: None };
    };

    let dir = ExecutionDir::at(request.launch.dir.clone());
    let mut answer = Some(responder);
    let mut supervision = Supervision::new(request, &dir, claim, post, tools);
    let state = supervision.until_end(&mut answer).unwrap_or_else(|failure| failure);
    let end = Observation { state, times: supervision.times };
    let Supervision { mut claim, cgroup, .. } = supervision;
    let left = tree::reap();

    if left == Left::Some {
        // Best effort: on a full disk the directory is not as it was either.
        let _ = disk::write_private(&dir.left(), "");
    }

    record_end(&mut claim, &end);
    if let Some(responder) = answer.take() {
        responder.reply(Outcome::Ended);
    }

    // What could not be killed must not become a part of what comes next.
    Over { fit: left == Left::None, claim: Some(claim), cgroup }
}

fn record_end(claim: &mut Claim, end: &Observation) {
    for _ in 0..RECORD_TRIES {
        match claim.record(end) {
            Ok(()) => return,
            Err(_) => std::thread::sleep(Duration::from_secs(1)),
        }
    }
}

/// Everything that lives as long as the execution.
struct Supervision<'a> {
    request: &'a Request<'a>,
    dir: &'a ExecutionDir,
    post: Post<'a>,
    tools: &'a mut Tools,
    claim: Claim,
    log: Log,
    cgroup: Option<TaskCgroup>,
    stop: Stop,
    /// Of the process, or of a service's last one.
    times: ExecutionTimes,
}

/// A request to stop.
#[derive(Default)]
struct Stop {
    /// When the whole tree is to be killed; `None` as long as nobody asked.
    deadline: Option<Instant>,
    /// What the current process was last sent on this account.
    sent: Option<Signal>,
    /// The current process was sent something while it ran: its end is not its own.
    delivered: bool,
    /// The owner is gone, and the deadline says so.
    owner_gone: bool,
}

impl Stop {
    /// The whole tree is to be gone after this grace. A later wish can only hasten.
    fn within(&mut self, grace: Duration) {
        let deadline = Instant::now() + grace;
        if self.deadline.is_none_or(|current| deadline < current) {
            self.deadline = Some(deadline);
        }
    }
}

/// The moment in which a process began, by three clocks.
struct Began {
    /// The one on the wall, which may be set.
    at: Timestamp,
    /// The one that runs while the machine is suspended.
    boot: Timespec,
    /// The one that does not.
    running: Instant,
}

impl Began {
    fn now() -> Self {
        Self {
            at: Timestamp::now(),
            boot: clock_gettime(ClockId::Boottime),
            running: Instant::now(),
        }
    }

    /// The times of a process that ends now. One that ended by itself did so within its timeout,
    /// however late this process came to notice.
    fn until_now(&self, timeout: Option<Duration>) -> ExecutionTimes {
        let passed = clock_gettime(ClockId::Boottime) - self.boot;
        let passed = Duration::try_from(passed).unwrap_or_default();
        let ran = self.running.elapsed();
        let ran = timeout.map_or(ran, |timeout| ran.min(timeout));
        ExecutionTimes {
            started_at: Some(self.at),
            ended_at: Some(self.at.after(passed)),
            ran: Some(ran),
        }
    }
}

impl<'a> Supervision<'a> {
    fn new(
        request: &'a Request<'a>,
        dir: &'a ExecutionDir,
        claim: Claim,
        post: Post<'a>,
        tools: &'a mut Tools,
    ) -> Self {
        let log = Log::new(dir.log(), request.launch.max_log_bytes, request.launch.free_disk_min);
        let cgroup = request.launch.cgroup.clone().map(TaskCgroup::new);
        let (stop, times) = (Stop::default(), ExecutionTimes::default());
        Self { request, dir, post, tools, claim, log, cgroup, stop, times }
    }

    /// Runs the process, a service's again and again, and says how it ended.
    fn until_end(
        &mut self,
        answer: &mut Option<Responder<'_>>,
    ) -> Result<ExecutionState, ExecutionState> {
        let mut backoff = SERVICE_BACKOFF;
        loop {
            self.look_for_stop();
            if self.stop.deadline.is_some() {
                return Ok(ExecutionState::Stopped);
            }

            let (pid, began, mut pipes) = self.spawn()?;
            if let Some(responder) = answer.take() {
                responder.running(began.at);
            }

            let status = self.until_exit(pid, &began, &mut pipes);
            if !self.request.launch.service {
                if self.stop.delivered {
                    return Ok(ExecutionState::Stopped);
                }
                let oom = self.cgroup.as_ref().is_some_and(TaskCgroup::ran_out_of_memory);
                return Ok(exited(status, oom));
            }

            self.look_for_stop();
            if self.stop.deadline.is_some() {
                return Ok(ExecutionState::Stopped);
            }

            if began.running.elapsed() >= SERVICE_PROVEN {
                backoff = SERVICE_BACKOFF;
            }

            self.log.note(&format!(
                "the service {}; starting it again in {} s",
                describe(status),
                backoff.as_secs()
            ));
            self.wait(backoff);
            backoff = (backoff * 2).min(SERVICE_BACKOFF_MAX);
        }
    }

    fn spawn(&mut self) -> Result<(Pid, Began, Pipes), ExecutionState> {
        let no_pipe = |error| program::setup(format!("no pipe could be made: {error}"));
        let (pipes, ends) = Pipes::open(self.request.launch.separate_output).map_err(no_pipe)?;
        if let Some(user) = &self.request.launch.confinement.user {
            let given = Pipes::give(&ends, user);
            given.map_err(|error| {
                program::setup(format!("its output could not be made its user's: {error}"))
            })?;
        }

        let [out, err] = ends;
        let work = self.dir.work();
        let directory = self.request.launch.working_dir.as_deref().unwrap_or(&work);
        chdir(directory).map_err(|error| {
            program::setup(format!(
                "the working directory `{}` cannot be entered: {error}",
                directory.display()
            ))
        })?;

        let spawned = self.spawn_here([self.post.null, &out, &err], &work);
        let _ = chdir("/");
        let (pid, began, ticks) = spawned?;
        let task = StartedTask { pid, earliest: ticks.0, latest: ticks.1, at: Some(began.at) };

        // Only who cleans up after a killed supervisor misses it.
        let _ = self.claim.note_task(task);
        self.times = ExecutionTimes::since(began.at);
        Ok((pid, began, pipes))
    }

    /// The process, when it began, and between which ticks since boot that was.
    fn spawn_here(
        &mut self,
        stdio: [&OwnedFd; 3],
        work: &Path,
    ) -> Result<(Pid, Began, (u64, u64)), ExecutionState> {
        let program = program::find(self.request.argv[0], &self.request.env)?;
        let entrance = self.cgroup.as_ref().map(TaskCgroup::entrance).transpose();
        let entrance = entrance
            .map_err(|error| program::setup(format!("its cgroup could not be opened: {error}")))?;
        let confinement = &self.request.launch.confinement;
        let ruleset = match &confinement.landlock {
            Some(landlock) => {
                self.tools.sandbox.ruleset(landlock, &[work]).map_err(program::setup)?
            }
            None => None,
        };

        let what = Spawn {
            program: &program,
            argv: &self.request.argv,
            env: &self.request.env,
            stdio: Streams::Files(stdio.map(OwnedFd::as_fd)),
            bounds: Bounds::of(confinement, entrance.as_ref(), ruleset.as_ref()),
        };

        let (began, earliest) = (Began::now(), ticks_since_boot());
        let pid =
            self.tools.spawner.spawn(&what).map_err(|error| program::failure(&program, error))?;

        Ok((pid, began, (earliest, ticks_since_boot())))
    }

    /// Serves the process until it has exited and everything it left behind is gone.
    fn until_exit(&mut self, main: Pid, began: &Began, pipes: &mut Pipes) -> Option<WaitStatus> {
        (self.stop.sent, self.stop.delivered) = (None, false);
        // One too far away for the clock is none.
        let due =
            self.request.launch.timeout.and_then(|timeout| began.running.checked_add(timeout));

        loop {
            if due.is_some_and(|due| due <= Instant::now()) {
                self.stop.within(TIMEOUT_GRACE);
            }

            self.pursue_stop(main);
            let signalled = self.poll(pipes, due);
            pipes.pump(&mut self.log);

            if signalled {
                self.look_for_stop();
                if tree::has_exited(main) {
                    break;
                }
            }
        }

        self.times = began.until_now(self.request.launch.timeout.filter(|_| !self.stop.delivered));
        if self.stop.deadline.is_none() {
            // Before it is reaped, while its number still names its group.
            let _ = kill_process_group(main, Signal::KILL);
        }

        let status =
            waitpid(Some(main), WaitOptions::empty()).ok().flatten().map(|(_, status)| status);
        if self.stop.deadline.is_some() {
            self.let_the_rest_end(pipes);
        }

        self.kill_the_rest();
        pipes.drain(&mut self.log);
        status
    }

    /// Waits for output, for a signal, or for the moment to ask or to kill; says whether there was
    /// a signal, or the end of the owner.
    fn poll(&self, pipes: &Pipes, due: Option<Instant>) -> bool {
        let until = |moment: Instant| timespec(moment.saturating_duration_since(Instant::now()));
        let timeout = match (self.stop.deadline, self.stop.sent) {
            (None, _) => due.map(until),
            (Some(_), Some(Signal::KILL)) => Some(KILL_AGAIN),
            (Some(deadline), _) => Some(until(deadline)),
        };

        let mut fds = Vec::with_capacity(4);
        fds.push(PollFd::new(self.post.signals, PollFlags::IN));
        fds.extend(pipes.ends().map(|end| PollFd::new(end, PollFlags::IN)));
        let others = fds.len();
        fds.extend(self.owner_to_watch().map(Owner::life));

        let _ = poll(&mut fds, timeout.as_ref());
        let signalled = !fds[0].revents().is_empty();
        if signalled {
            sys::drain_signals(self.post.signals.as_fd());
        }

        signalled || fds[others..].iter().any(|owner| !owner.revents().is_empty())
    }

    /// Asks or kills, whichever is due.
    fn pursue_stop(&mut self, main: Pid) {
        let Some(deadline) = self.stop.deadline else { return };
        // What has ended before it was asked to has ended by itself; the signal that says so is on
        // its way.
        if !self.stop.delivered && tree::has_exited(main) {
            return;
        }

        self.stop.delivered = true;
        if Instant::now() >= deadline {
            self.stop.sent = Some(Signal::KILL);
            let _ = kill_process_group(main, Signal::KILL);
            if let Some(cgroup) = &self.cgroup {
                cgroup.kill();
            }
        } else if self.stop.sent.is_none() {
            self.stop.sent = Some(Signal::TERM);
            let _ = kill_process_group(main, Signal::TERM);
        }
    }

    /// The main process of a stopped execution has ended; its children (those a shell started, say)
    /// have the rest of the grace to do so too.
    fn let_the_rest_end(&mut self, pipes: &mut Pipes) {
        self.stop.sent = None;
        while tree::reap() == Left::Some
            && self.stop.deadline.is_some_and(|deadline| Instant::now() < deadline)
        {
            if self.stop.sent.is_none() {
                self.stop.sent = Some(Signal::TERM);
                tree::signal_descendants(Signal::TERM);
            }
            self.poll(pipes, None);
            pipes.pump(&mut self.log);
            self.look_for_stop();
        }
    }

    fn kill_the_rest(&self) {
        if let Some(cgroup) = &self.cgroup {
            cgroup.kill();
        }
        tree::kill_descendants(self.post.signals);
    }

    /// The owner, as long as its end is no news.
    fn owner_to_watch(&self) -> Option<&'a Owner> {
        self.post.owner.filter(|_| !self.stop.owner_gone)
    }

    /// Reads the stop request, if there is one. A second one can only hasten. The end of the owner
    /// is one, too.
    fn look_for_stop(&mut self) {
        if self.owner_to_watch().is_some_and(Owner::is_gone) {
            self.stop.owner_gone = true;
            self.stop.within(owner::OWNER_GONE_GRACE);
        }
        let Ok(text) = fs::read_to_string(self.dir.stop()) else { return };
        self.stop.within(Duration::from_millis(text.trim().parse().unwrap_or(0)));
    }

    /// Waits between two lives of a service; a stop request ends the wait.
    fn wait(&mut self, duration: Duration) {
        let end = Instant::now() + duration;
        while self.stop.deadline.is_none() && Instant::now() < end {
            let left = timespec(end.saturating_duration_since(Instant::now()));
            let mut fds = vec![PollFd::new(self.post.signals, PollFlags::IN)];
            fds.extend(self.owner_to_watch().map(Owner::life));
            let _ = poll(&mut fds, Some(&left));
            sys::drain_signals(self.post.signals.as_fd());
            self.look_for_stop();
        }
    }
}

fn exited(status: Option<WaitStatus>, oom: bool) -> ExecutionState {
    let signal = status.and_then(WaitStatus::terminating_signal);
    match (status.and_then(WaitStatus::exit_status), signal) {
        (Some(code), _) => ExecutionState::Exited { code, oom, signal: None },
        (None, Some(number)) => ExecutionState::Exited { code: 128 + number, oom, signal },
        (None, None) => ExecutionState::Lost,
    }
}

fn describe(status: Option<WaitStatus>) -> String {
    match (
        status.and_then(WaitStatus::exit_status),
        status.and_then(WaitStatus::terminating_signal),
    ) {
        (Some(code), _) => format!("exited with code {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

fn timespec(duration: Duration) -> Timespec {
    // Rounded up to a millisecond, so that a poll never returns just before the moment and spins.
    Timespec::try_from(duration + Duration::from_millis(1))
        .unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 })
}
