//! The state machine of one run: who may start, what an end means, when the run is over. The only
//! code that knows the rules of design.md section 4. No clock, no I/O, no randomness: time comes in
//! with each input.
//!
//! A step changes the machine in place and says what to commit and, after that, what to do. It
//! costs the number of tasks it touches, not the size of the DAG.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use gofer_core::event::{EventDetails, NewEvent, Subject};
use gofer_core::journal::{Commit, Lease, RunSnapshot, RunTransition, TaskTransition};
use gofer_core::pipeline::{Condition, PipelineSpec, TaskSpec};
use gofer_core::run::{
    CancelRequest, Reason, ReasonKind, Run, RunState, StopCause, TaskRun, TaskState, TaskStatus,
};
use gofer_core::scheduler::{ExecutionState, ExecutionTimes, Observation};
use gofer_core::{Attempt, TaskId, Timestamp};

use super::judgement::within;
use crate::rules::outcome::End;

/// Who the engine is in events.
pub const ACTOR: &str = "gofer";

/// Time between asking an execution to end and killing it, when nobody forces it.
pub const DEFAULT_GRACE: Duration = Duration::from_secs(10);

/// What the machine knows of the scheduler that its executions run on.
#[derive(Debug, Clone, Copy, Default)]
pub struct SchedulerFacts {
    /// In which incarnation what is intended now is started.
    pub incarnation: u64,
    /// It stops by itself what runs longer than its timeout.
    pub deadlines: bool,
}

/// Something that happened to a run.
#[derive(Debug, Clone)]
pub enum Input {
    /// It was claimed: for the first time, or after a server was lost. What the scheduler knows is
    /// not known.
    Claimed,
    /// The scheduler says what an execution is. `NotFound` only after its start is known to have
    /// succeeded, or its stop.
    Observed(TaskId, Attempt, Observation),
    /// The same in answer to a question of that instant: what it says is at least as new, so it may
    /// confirm a deadline.
    Answered(TaskId, Attempt, Observation, Timestamp),
    /// An execution that is to be started has waited a while for a place in flight; why.
    Waiting(TaskId, Attempt, String),
    /// An execution that may have waited has its place in flight, and goes to the scheduler.
    Placed(TaskId, Attempt),
    /// An execution was not started, for good.
    Refused(TaskId, Attempt, Reason),
    /// Somebody wants the run cancelled.
    CancelRun(CancelRequest),
    /// Somebody wants one task cancelled.
    CancelTask(TaskId, CancelRequest),
    /// A deadline of [`Machine::next_deadline`] has come.
    Tick,
}

/// What a step leads to: `tasks`, `run` and `events` become true together; only then the `effects`
/// are carried out.
#[derive(Debug, Default)]
pub struct Decision {
    /// Task runs that change, in order.
    pub tasks: Vec<TaskTransition>,
    /// The run's own change.
    pub run: Option<RunTransition>,
    /// What to record.
    pub events: Vec<NewEvent>,
    /// What to do once all that is committed.
    pub effects: Vec<Effect>,
}

impl Decision {
    /// Whether there is nothing to commit.
    #[must_use]
    pub fn commits_nothing(&self) -> bool {
        self.tasks.is_empty() && self.run.is_none() && self.events.is_empty()
    }

    /// What is to become true, and what to do then.
    #[must_use]
    pub fn into_commit(self, lease: Lease) -> (Commit, Vec<Effect>) {
        let Self { tasks, run, events, effects } = self;
        (Commit { lease, tasks, run, events }, effects)
    }
}

/// Something to do at the scheduler. Each may be repeated after a crash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Start the execution, whose intent is committed.
    Start(TaskId, Attempt),
    /// The intent was committed by a server that is gone: find out whether it started the
    /// execution, and start it if not.
    Restart(TaskId, Attempt),
    /// Find out what became of an execution that was started.
    Observe(TaskId, Attempt),
    /// A deadline of the execution has come: find out whether it still runs, or waits. The answer
    /// decides.
    Confirm(TaskId, Attempt),
    /// Stop the execution.
    Stop(TaskId, Attempt, Duration),
    /// The attempt is over: its log can be archived.
    Archive(TaskId, Attempt),
}

/// One run, indexed by the position of its tasks in the spec.
#[derive(Debug)]
pub struct Machine {
    pub(super) run: Run,
    pub(super) spec: Arc<PipelineSpec>,
    pub(super) tasks: Vec<TaskRun>,
    pub(super) index: HashMap<TaskId, usize>,
    pub(super) children: Vec<Vec<usize>>,
    /// Per task, how many of its parents are not complete.
    pub(super) waiting: Vec<usize>,
    pub(super) incomplete: usize,
    /// Deadlines, checked against the task's state when they come: a stale one does nothing.
    pub(super) timers: BTreeSet<(Timestamp, usize)>,
    /// Pending tasks whose last parent completed during the current step.
    pub(super) ready: VecDeque<usize>,
    pub(super) scheduler: SchedulerFacts,
    /// When this machine saw each task's current attempt running for the first time. The deadline
    /// of an attempt is counted from then: not by the clock of its node, which may be wrong.
    pub(super) seen_running: Vec<Option<Timestamp>>,
    /// Since when a server has watched the run without standing still.
    pub(super) watched_since: Timestamp,
}

impl Machine {
    /// Indexes a snapshot, to be driven with this scheduler. Linear in tasks and edges.
    ///
    /// # Panics
    /// When the snapshot lacks a task of its spec, which the journal's contract excludes.
    #[must_use]
    pub fn new(snapshot: RunSnapshot, scheduler: SchedulerFacts) -> Self {
        let RunSnapshot { run, spec, mut tasks } = snapshot;
        let index: HashMap<TaskId, usize> =
            spec.tasks.iter().enumerate().map(|(at, task)| (task.id.clone(), at)).collect();
        let tasks: Vec<TaskRun> = spec
            .tasks
            .iter()
            .map(|task| tasks.remove(&task.id).expect("a snapshot has every task of its spec"))
            .collect();
        let mut children = vec![Vec::new(); tasks.len()];
        let mut waiting = vec![0; tasks.len()];

        for (child, task) in spec.tasks.iter().enumerate() {
            for edge in &task.depends_on {
                let parent = index[&edge.task];
                children[parent].push(child);
                if !tasks[parent].state.is_complete() {
                    waiting[child] += 1;
                }
            }
        }

        let seen_running = vec![None; tasks.len()];
        let incomplete = tasks.iter().filter(|task| !task.state.is_complete()).count();
        Self {
            run,
            spec,
            tasks,
            index,
            children,
            waiting,
            incomplete,
            timers: BTreeSet::new(),
            ready: VecDeque::new(),
            scheduler,
            seen_running,
            watched_since: Timestamp(i64::MIN),
        }
    }

    /// The run as of the last step.
    #[must_use]
    pub fn run(&self) -> &Run {
        &self.run
    }

    /// The spec it executes.
    #[must_use]
    pub fn spec(&self) -> &Arc<PipelineSpec> {
        &self.spec
    }

    /// A task run and its spec.
    #[must_use]
    pub fn task(&self, id: &TaskId) -> Option<(&TaskRun, &TaskSpec)> {
        let at = *self.index.get(id)?;
        Some((&self.tasks[at], &self.spec.tasks[at]))
    }

    /// Whether the scheduler may have forgotten what was intended of this task: that was in another
    /// incarnation of it.
    #[must_use]
    pub fn may_be_forgotten(&self, id: &TaskId) -> bool {
        self.task(id).is_some_and(|(task, _)| task.incarnation != self.scheduler.incarnation)
    }

    /// Every task run, in the spec's order.
    #[must_use]
    pub fn tasks(&self) -> &[TaskRun] {
        &self.tasks
    }

    /// When the machine wants an [`Input::Tick`], at the latest.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Timestamp> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Takes one input.
    pub fn step(&mut self, now: Timestamp, input: Input) -> Decision {
        let mut out = Decision::default();
        if self.run.state.is_complete() {
            return out;
        }

        match input {
            Input::Claimed => self.claimed(now, &mut out),
            Input::Observed(task, attempt, found) => {
                if let Some(at) = self.active(&task, attempt) {
                    self.observed(now, at, found, &mut out);
                }
            }
            Input::Answered(task, attempt, found, asked_at) => {
                if let Some(at) = self.active(&task, attempt) {
                    self.observed(now, at, found, &mut out);
                    self.confirm(now, at, asked_at, &mut out);
                }
            }
            Input::Waiting(task, attempt, why) => {
                if let Some(at) = self.active(&task, attempt) {
                    self.waits(now, at, Reason::new(ReasonKind::Waiting, why), &mut out);
                }
            }
            Input::Placed(task, attempt) => {
                if let Some(at) = self.active(&task, attempt) {
                    self.placed(now, at, &mut out);
                }
            }
            Input::Refused(task, attempt, reason) => {
                if let Some(at) = self.active(&task, attempt) {
                    self.ended(now, at, End::failed(reason), ExecutionTimes::default(), &mut out);
                }
            }
            Input::CancelRun(request) => self.cancel_run(now, request, &mut out),
            Input::CancelTask(task, request) => {
                if let Some(&at) = self.index.get(&task) {
                    self.tasks[at].cancel = Some(request.clone());
                    self.cancel_task(now, at, &request, &mut out);
                }
            }
            Input::Tick => self.tick(now, &mut out),
        }

        self.settle(now, &mut out);
        out
    }

    /// The position of a task whose current attempt may have an execution, if that attempt is
    /// `attempt`.
    fn active(&self, task: &TaskId, attempt: Attempt) -> Option<usize> {
        let at = *self.index.get(task)?;
        (self.tasks[at].attempt == attempt && self.tasks[at].state.is_active()).then_some(at)
    }

    fn claimed(&mut self, now: Timestamp, out: &mut Decision) {
        self.watched_since = now;
        for at in 0..self.tasks.len() {
            let task = &self.tasks[at];
            let (id, attempt) = (task.task.clone(), task.attempt);
            match (task.state, &task.stop) {
                (TaskState::Starting | TaskState::Running, Some(stop)) => {
                    out.effects.push(Effect::Stop(id, attempt, stop.grace()));
                }
                (TaskState::Starting, None) => out.effects.push(Effect::Restart(id, attempt)),
                (TaskState::Running, None) => out.effects.push(Effect::Observe(id, attempt)),
                (TaskState::Pending, _) if self.waiting[at] == 0 => self.ready.push_back(at),
                _ => {}
            }

            self.set_timer(at);
            if let Some(request) = self.tasks[at].cancel.clone() {
                self.cancel_task(now, at, &request, out);
            }
        }

        if let Some(request) = self.run.cancel.clone() {
            self.cancel_run(now, request, out);
        }
    }

    fn observed(&mut self, now: Timestamp, at: usize, found: Observation, out: &mut Decision) {
        let times = found.times;
        match found.state {
            ExecutionState::Queued { reason } => {
                self.waits(now, at, Reason::new(ReasonKind::Queued, reason), out);
            }
            ExecutionState::Running => self.running(now, at, times, out),
            ExecutionState::Exited { code: 0, .. } => {
                self.ended(now, at, End::successful(), times, out)
            }
            ExecutionState::Exited { code, oom, signal } => {
                self.ended(now, at, End::exited(code, oom, signal), times, out);
            }
            ExecutionState::Failed { kind, message } => {
                let reason = Reason::new(crate::rules::reasons::of_failure(kind), message);
                self.ended(now, at, End::failed(reason), times, out);
            }
            ExecutionState::Stopped => self.ended(now, at, End::stopped_outside(), times, out),
            ExecutionState::Lost => {
                self.ended(now, at, End::lost("the scheduler lost the execution"), times, out)
            }
            ExecutionState::NotFound => {
                self.ended(
                    now,
                    at,
                    End::lost("the scheduler no longer knows the execution"),
                    times,
                    out,
                );
            }
        }
    }

    /// Says why an attempt does not run yet, unless that is said already.
    fn waits(&mut self, now: Timestamp, at: usize, reason: Reason, out: &mut Decision) {
        let task = &self.tasks[at];
        if task.state == TaskState::Starting
            && !reason.message.is_empty()
            && task.reason.as_ref() != Some(&reason)
        {
            let mut next = task.clone();
            next.reason = Some(reason.clone());
            self.change(at, next, out);
            self.record(now, Some(at), EventDetails::TaskRunWaiting { reason }, out);
        }
    }

    /// An attempt waits for a place no longer, if it is known that it did.
    fn placed(&mut self, now: Timestamp, at: usize, out: &mut Decision) {
        let task = &self.tasks[at];
        let waited = task.reason.as_ref().is_some_and(|reason| reason.kind == ReasonKind::Waiting);
        if task.state == TaskState::Starting && waited {
            let mut next = task.clone();
            next.reason = None;
            self.change(at, next, out);
            self.record(now, Some(at), EventDetails::TaskRunPlaced {}, out);
        }
    }

    fn running(&mut self, now: Timestamp, at: usize, times: ExecutionTimes, out: &mut Decision) {
        if self.tasks[at].state != TaskState::Starting {
            return;
        }
        let mut next = self.tasks[at].clone();
        next.state = TaskState::Running;
        next.started_at = Some(self.began(now, at, times).unwrap_or(now));
        self.seen_running[at] = Some(now);
        next.reason = None;
        self.change(at, next, out);
        self.record(now, Some(at), EventDetails::TaskRunRunning {}, out);
        self.set_timer(at);
    }

    /// The current attempt is over: schedules another, or completes the task.
    fn ended(
        &mut self,
        now: Timestamp,
        at: usize,
        end: End,
        times: ExecutionTimes,
        out: &mut Decision,
    ) {
        let end = self.judged(at, end, times);
        let mut next = self.tasks[at].clone();

        // An end that overtakes the news of the start: the intent is the nearest known instant.
        let started_at = next.started_at.or_else(|| self.began(now, at, times));
        let started_at = started_at.or(if end.ran { next.intended_at } else { None });
        let earliest = started_at.or(next.intended_at).unwrap_or(now);
        let ended_at = times.ended_at.map_or(now, |ended_at| within(ended_at, earliest, now));
        let record = gofer_core::run::AttemptRecord {
            attempt: next.attempt,
            status: end.status,
            reason: end.reason.clone(),
            exit_code: end.exit_code,
            intended_at: next.intended_at.unwrap_or(now),
            started_at,
            ended_at,
            log: gofer_core::run::LogState::Live,
        };

        out.effects.push(Effect::Archive(next.task.clone(), next.attempt));
        if let Some((delay, losses)) = self.retry_after(at, &end) {
            let not_before = now.after(delay);
            let details = EventDetails::TaskRunRetryScheduled {
                status: end.status,
                reason: end.reason.clone(),
                exit_code: end.exit_code,
                next_attempt: next.attempt.next(),
                not_before,
            };

            self.record(now, Some(at), details, out);
            next = TaskRun { attempt: next.attempt.next(), losses, ..TaskRun::pending(next.task) };
            next.cancel = self.tasks[at].cancel.clone();
            next.reason = end.reason;
            next.not_before = Some(not_before);
            self.change_with(at, next, Some(record), out);
            self.ready.push_back(at);
        } else {
            next.started_at = started_at;
            next.exit_code = end.exit_code;
            self.complete(now, at, next, end.status, end.reason, Some(record), out);
        }
    }

    pub(super) fn cancel_reason(&self, at: usize) -> Reason {
        let request = self.run.cancel.as_ref().or(self.tasks[at].cancel.as_ref());
        crate::rules::reasons::cancelled(request)
    }

    /// How long to wait before the next attempt, and the task's losses then; `None` when there is
    /// to be none.
    fn retry_after(&self, at: usize, end: &End) -> Option<(Duration, u32)> {
        if self.run.cancel.is_some() || self.tasks[at].cancel.is_some() {
            return None;
        }
        crate::rules::retry::after(
            &self.spec.tasks[at].retries,
            &self.tasks[at],
            end.status,
            end.reason.as_ref(),
            end.lost,
        )
    }

    fn cancel_run(&mut self, now: Timestamp, request: CancelRequest, out: &mut Decision) {
        self.run.cancel = Some(request.clone());
        for at in 0..self.tasks.len() {
            self.cancel_task(now, at, &request, out);
        }
    }

    fn cancel_task(
        &mut self,
        now: Timestamp,
        at: usize,
        request: &CancelRequest,
        out: &mut Decision,
    ) {
        match self.tasks[at].state {
            TaskState::Pending => {
                let next = self.tasks[at].clone();
                let reason = crate::rules::reasons::cancelled(Some(request));
                self.complete(now, at, next, TaskStatus::Cancelled, Some(reason), None, out);
            }
            TaskState::Starting | TaskState::Running => {
                let grace = if request.force { Duration::ZERO } else { DEFAULT_GRACE };
                self.stop(now, at, StopCause::Cancel, grace, out);
            }
            TaskState::Complete(_) => {}
        }
    }

    /// Starts or skips what became ready, until nothing more follows from it; then completes the
    /// run if all is done.
    fn settle(&mut self, now: Timestamp, out: &mut Decision) {
        while let Some(at) = self.ready.pop_front() {
            let task = &self.tasks[at];
            if task.state != TaskState::Pending || self.waiting[at] != 0 {
                continue;
            }

            if task.not_before.is_some_and(|not_before| not_before > now) {
                self.set_timer(at);
            } else if let Some(reason) = self.unsatisfied(at) {
                let next = self.tasks[at].clone();
                self.complete(now, at, next, TaskStatus::Skipped, Some(reason), None, out);
            } else {
                self.start(now, at, out);
            }
        }
        if self.incomplete == 0 {
            let (status, reason) = self.verdict();
            let state = RunState::Complete(status);
            out.run = Some(RunTransition {
                from: self.run.state,
                to: state,
                reason: reason.clone(),
                at: now,
            });

            self.record(
                now,
                None,
                EventDetails::RunCompleted { status, reason: reason.clone() },
                out,
            );
            (self.run.state, self.run.reason, self.run.ended_at) = (state, reason, Some(now));
        }
    }

    fn start(&mut self, now: Timestamp, at: usize, out: &mut Decision) {
        let mut next = self.tasks[at].clone();
        next.state = TaskState::Starting;
        next.intended_at = Some(now);
        self.seen_running[at] = None;
        next.incarnation = self.scheduler.incarnation;
        next.not_before = None;
        next.reason = None;
        out.effects.push(Effect::Start(next.task.clone(), next.attempt));
        self.change(at, next, out);
        self.record(now, Some(at), EventDetails::TaskRunStarting {}, out);
        self.set_timer(at);
    }

    /// The first edge that is not satisfied, as a reason; all parents are complete.
    fn unsatisfied(&self, at: usize) -> Option<Reason> {
        self.spec.tasks[at].depends_on.iter().find_map(|edge| {
            let parent = self.index[&edge.task];
            let status = self.tasks[parent].state.status()?;
            let tolerated =
                self.spec.tasks[parent].continue_on_failure && status != TaskStatus::Cancelled;
            let satisfied = match edge.condition {
                Condition::Any => true,
                Condition::Success => {
                    status == TaskStatus::Successful || (status.is_failure() && tolerated)
                }
                Condition::Failure => status.is_failure(),
            };

            let wanted = if edge.condition == Condition::Success { "succeed" } else { "fail" };
            (!satisfied).then(|| {
                let message = format!(
                    "waits for task `{}` to {wanted}, and that ended {}",
                    edge.task,
                    crate::rules::reasons::word(status)
                );
                Reason::new(ReasonKind::ParentUnsatisfied, message)
            })
        })
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "the pieces of one transition; a struct would be made and taken apart once"
    )]
    fn complete(
        &mut self,
        now: Timestamp,
        at: usize,
        mut next: TaskRun,
        status: TaskStatus,
        reason: Option<Reason>,
        ended: Option<gofer_core::run::AttemptRecord>,
        out: &mut Decision,
    ) {
        next.state = TaskState::Complete(status);
        next.reason.clone_from(&reason);
        next.ended_at = Some(ended.as_ref().map_or(now, |record| record.ended_at));
        next.not_before = None;

        let exit_code = next.exit_code;
        self.change_with(at, next, ended, out);
        self.record(
            now,
            Some(at),
            EventDetails::TaskRunCompleted { status, reason, exit_code },
            out,
        );
        self.incomplete -= 1;

        for child in 0..self.children[at].len() {
            let child = self.children[at][child];
            self.waiting[child] -= 1;
            if self.waiting[child] == 0 {
                self.ready.push_back(child);
            }
        }
    }

    pub(super) fn change(&mut self, at: usize, next: TaskRun, out: &mut Decision) {
        self.change_with(at, next, None, out);
    }

    fn change_with(
        &mut self,
        at: usize,
        next: TaskRun,
        ended: Option<gofer_core::run::AttemptRecord>,
        out: &mut Decision,
    ) {
        let task = &mut self.tasks[at];
        debug_assert!(
            task.state.may_become(next.state),
            "{:?} may not become {:?}",
            task.state,
            next.state
        );
        out.tasks.push(TaskTransition {
            from: task.state,
            from_attempt: task.attempt,
            to: next.clone(),
            ended,
        });
        *task = next;
    }

    pub(super) fn record(
        &self,
        at: Timestamp,
        task: Option<usize>,
        details: EventDetails,
        out: &mut Decision,
    ) {
        let task = task.map(|task| &self.tasks[task]);
        let subject = Subject {
            attempt: task.map(|task| task.attempt),
            ..Subject::of_task(&self.run.key, task.map(|task| &task.task))
        };
        out.events.push(NewEvent { at, actor: ACTOR.to_owned(), subject, details });
    }
}
