//! The rules of design.md section 4, one by one.

use std::time::Duration;

use gofer_core::pipeline::{Condition, PipelineSpec, RetryOn};
use gofer_core::run::{
    CancelRequest, Reason, ReasonKind, RunState, RunStatus, TaskState, TaskStatus,
};
use gofer_core::scheduler::{ExecutionState, ExecutionTimes, Observation};
use gofer_core::{Attempt, Timestamp};
use gofer_engine::rules::{Decision, Effect, Input, Machine, SchedulerFacts};

use crate::support::{id, pipeline, retried, snapshot, task};

const SECOND: i64 = 1_000_000;

/// A machine with a clock and the effects nobody has looked at yet.
struct Scene {
    machine: Machine,
    now: Timestamp,
    effects: Vec<Effect>,
}

impl Scene {
    fn begin(spec: PipelineSpec) -> Self {
        let mut scene = Self {
            machine: Machine::new(snapshot(spec), SchedulerFacts::default()),
            now: Timestamp(0),
            effects: Vec::new(),
        };
        scene.input(Input::Claimed);
        scene
    }

    fn input(&mut self, input: Input) -> Decision {
        let mut decision = self.machine.step(self.now, input);
        self.effects.append(&mut decision.effects);
        decision
    }

    fn observe(&mut self, task: &str, state: ExecutionState) {
        let attempt = self.attempt(task);
        self.input(Input::Observed(id(task), Attempt(attempt), state.into()));
    }

    /// What the scheduler says when it is asked at that second.
    fn answer(&mut self, task: &str, asked_at: i64, state: ExecutionState) {
        let attempt = Attempt(self.attempt(task));
        self.input(Input::Answered(id(task), attempt, state.into(), Timestamp(asked_at * SECOND)));
    }

    /// It ended then, by its own clock, after it had run for so long.
    fn ended_at(&mut self, task: &str, state: ExecutionState, seconds: i64, ran: Duration) {
        let attempt = Attempt(self.attempt(task));
        let ended_at = Timestamp(seconds * SECOND);
        let times = ExecutionTimes {
            started_at: Some(ended_at.before(ran)),
            ended_at: Some(ended_at),
            ran: Some(ran),
        };
        self.input(Input::Observed(id(task), attempt, Observation { state, times }));
    }

    fn exit(&mut self, task: &str, code: i32) {
        self.observe(task, ExecutionState::Exited { code, oom: false, signal: None });
    }

    fn at(&mut self, seconds: i64) {
        self.now = Timestamp(seconds * SECOND);
        self.input(Input::Tick);
    }

    fn attempt(&self, task: &str) -> u32 {
        self.machine.task(&id(task)).unwrap().0.attempt.0
    }

    fn state(&self, task: &str) -> TaskState {
        self.machine.task(&id(task)).unwrap().0.state
    }

    fn reason(&self, task: &str) -> Reason {
        self.machine.task(&id(task)).unwrap().0.reason.clone().unwrap()
    }

    /// The names of the tasks started since the last call.
    fn started(&mut self) -> Vec<String> {
        let starts = self.effects.drain(..).filter_map(|effect| match effect {
            Effect::Start(task, _) => Some(task.to_string()),
            _ => None,
        });
        starts.collect()
    }

    fn ended(&self, status: RunStatus) {
        assert_eq!(
            self.machine.run().state,
            RunState::Complete(status),
            "{:?}",
            self.machine.run().reason
        );
    }
}

fn cancel(force: bool) -> CancelRequest {
    CancelRequest {
        at: Timestamp(0),
        by: "ann".to_owned(),
        force,
        message: "wrong branch".to_owned(),
    }
}

const DONE: TaskState = TaskState::Complete(TaskStatus::Successful);
const FAILED: TaskState = TaskState::Complete(TaskStatus::Failed);
const SKIPPED: TaskState = TaskState::Complete(TaskStatus::Skipped);
const CANCELLED: TaskState = TaskState::Complete(TaskStatus::Cancelled);
const TIMED_OUT: TaskState = TaskState::Complete(TaskStatus::TimedOut);

#[test]
fn roots_start_at_once_and_children_after_all_parents() {
    let both = [("a", Condition::Success), ("b", Condition::Success)];
    let mut scene = Scene::begin(pipeline(vec![task("a", &[]), task("b", &[]), task("c", &both)]));
    assert_eq!(scene.started(), ["a", "b"]);
    scene.exit("a", 0);
    assert_eq!(scene.started(), [""; 0]);
    scene.exit("b", 0);
    assert_eq!(scene.started(), ["c"]);
    scene.exit("c", 0);
    scene.ended(RunStatus::Successful);
}

#[test]
fn a_failure_skips_success_children_and_their_children() {
    let mut scene = Scene::begin(pipeline(vec![
        task("a", &[]),
        task("b", &[("a", Condition::Success)]),
        task("c", &[("b", Condition::Success)]),
        task("always", &[("c", Condition::Any)]),
    ]));
    scene.exit("a", 3);
    assert_eq!((scene.state("b"), scene.state("c")), (SKIPPED, SKIPPED));
    assert!(scene.reason("b").message.contains("task `a` to succeed"), "{}", scene.reason("b"));
    assert_eq!(scene.started(), ["a", "always"]);
    scene.exit("always", 0);
    scene.ended(RunStatus::Failed);
    let reason = scene.machine.run().reason.clone().unwrap();
    assert_eq!(reason.message, "task `a` ended with exit code 3");
}

#[test]
fn skipped_satisfies_any_but_neither_success_nor_failure() {
    let mut scene = Scene::begin(pipeline(vec![
        task("a", &[]),
        task("s", &[("a", Condition::Failure)]),
        task("on-any", &[("s", Condition::Any)]),
        task("on-success", &[("s", Condition::Success)]),
        task("on-failure", &[("s", Condition::Failure)]),
    ]));
    scene.exit("a", 0);
    assert_eq!(
        [scene.state("s"), scene.state("on-success"), scene.state("on-failure")],
        [SKIPPED; 3]
    );
    scene.exit("on-any", 0);
    scene.ended(RunStatus::Successful);
}

#[test]
fn a_failure_is_handled_by_a_failure_child_that_succeeds() {
    let tasks = || pipeline(vec![task("a", &[]), task("fix", &[("a", Condition::Failure)])]);
    let mut scene = Scene::begin(tasks());
    scene.exit("a", 1);
    scene.exit("fix", 0);
    scene.ended(RunStatus::Successful);

    let mut scene = Scene::begin(tasks());
    scene.exit("a", 1);
    scene.exit("fix", 1);
    scene.ended(RunStatus::Failed);
}

#[test]
fn an_any_child_handles_nothing() {
    let mut scene =
        Scene::begin(pipeline(vec![task("a", &[]), task("b", &[("a", Condition::Any)])]));
    scene.exit("a", 1);
    scene.exit("b", 0);
    scene.ended(RunStatus::Failed);
}

#[test]
fn continue_on_failure_spares_the_run_and_satisfies_success_edges() {
    let mut flaky = task("lint", &[]);
    flaky.continue_on_failure = true;
    let mut scene =
        Scene::begin(pipeline(vec![flaky, task("build", &[("lint", Condition::Success)])]));
    scene.exit("lint", 1);
    assert_eq!(scene.state("lint"), FAILED);
    scene.exit("build", 0);
    scene.ended(RunStatus::Successful);
}

#[test]
fn retries_wait_longer_each_time_and_are_bounded() {
    let mut spec = retried(task("a", &[]), 3);
    spec.retries.max_backoff = Some(Duration::from_secs(3));
    let mut scene = Scene::begin(pipeline(vec![spec]));
    scene.started();
    scene.exit("a", 1);
    assert_eq!((scene.state("a"), scene.attempt("a")), (TaskState::Pending, 2));
    assert_eq!(scene.machine.next_deadline(), Some(Timestamp(SECOND)));
    scene.at(1);
    assert_eq!(scene.started(), ["a"]);
    scene.exit("a", 1);
    assert_eq!(scene.machine.next_deadline(), Some(Timestamp(3 * SECOND)));
    scene.at(3);
    scene.exit("a", 1);
    assert_eq!(scene.machine.next_deadline(), Some(Timestamp(6 * SECOND)), "capped at max_backoff");
    scene.at(6);
    scene.exit("a", 1);
    assert_eq!((scene.state("a"), scene.attempt("a")), (FAILED, 4));
    scene.ended(RunStatus::Failed);
}

#[test]
fn a_retry_policy_names_the_ends_it_is_for() {
    let mut spec = retried(task("a", &[]), 3);
    spec.retries.on = vec![RetryOn::TimedOut];
    let mut scene = Scene::begin(pipeline(vec![spec]));
    scene.exit("a", 1);
    assert_eq!(scene.state("a"), FAILED);
}

#[test]
fn losses_are_made_good_without_the_users_retries_but_not_for_ever() {
    let mut scene = Scene::begin(pipeline(vec![task("a", &[])]));
    for loss in 1..=3 {
        scene.observe("a", ExecutionState::Lost);
        assert_eq!((scene.state("a"), scene.attempt("a")), (TaskState::Pending, loss + 1));
        scene.at(i64::from(loss) * 100);
    }
    scene.observe("a", ExecutionState::Lost);
    assert_eq!(scene.state("a"), FAILED);
    assert_eq!(scene.reason("a").kind, ReasonKind::Lost);
}

#[test]
fn a_missing_value_is_not_retried() {
    let mut scene = Scene::begin(pipeline(vec![retried(task("a", &[]), 5)]));
    let reason = Reason::new(ReasonKind::MissingValue, "secret `k` does not exist");
    scene.input(Input::Refused(id("a"), Attempt(1), reason.clone()));
    assert_eq!((scene.state("a"), scene.reason("a")), (FAILED, reason));
}

#[test]
fn a_timeout_stops_the_attempt_and_may_be_retried() {
    let mut spec = retried(task("a", &[]), 1);
    spec.timeout = Some(Duration::from_secs(5));
    let mut scene = Scene::begin(pipeline(vec![spec]));
    scene.now = Timestamp(SECOND);
    scene.observe("a", ExecutionState::Running);
    scene.at(5);
    assert!(
        !scene.effects.iter().any(|effect| matches!(effect, Effect::Stop(..))),
        "counted from running, not from intent"
    );
    scene.at(6);
    assert!(
        matches!(scene.effects.last(), Some(Effect::Confirm(_, Attempt(1)))),
        "{:?}",
        scene.effects
    );
    scene.answer("a", 6, ExecutionState::Running);
    assert!(
        matches!(scene.effects.last(), Some(Effect::Stop(_, Attempt(1), _))),
        "{:?}",
        scene.effects
    );
    scene.observe("a", ExecutionState::Stopped);
    assert_eq!(scene.attempt("a"), 2);
    scene.at(7);
    scene.observe("a", ExecutionState::Running);
    scene.at(12);
    scene.answer("a", 12, ExecutionState::Running);
    scene.observe("a", ExecutionState::Stopped);
    assert_eq!(scene.state("a"), TIMED_OUT);
    assert_eq!(scene.reason("a").message, "ran longer than its timeout of 5s");
    scene.ended(RunStatus::Failed);
}

#[test]
fn a_start_timeout_counts_while_the_scheduler_queues() {
    let mut spec = task("a", &[]);
    spec.start_timeout = Some(Duration::from_secs(5));
    let mut scene = Scene::begin(pipeline(vec![spec]));
    scene.observe("a", ExecutionState::Queued { reason: "no node fits".to_owned() });
    assert_eq!(scene.reason("a").message, "no node fits");
    scene.at(5);
    scene.answer("a", 5, ExecutionState::Queued { reason: "no node fits".to_owned() });
    scene.observe("a", ExecutionState::NotFound);
    assert_eq!((scene.state("a"), scene.reason("a").kind), (TIMED_OUT, ReasonKind::StartTimeout));
}

#[test]
fn cancelling_a_run_ends_the_pending_and_stops_the_running() {
    let mut scene = Scene::begin(pipeline(vec![
        task("a", &[]),
        task("b", &[("a", Condition::Any)]),
        task("c", &[("b", Condition::Failure)]),
    ]));
    scene.input(Input::CancelRun(cancel(false)));
    assert_eq!([scene.state("b"), scene.state("c")], [CANCELLED; 2]);
    assert!(matches!(scene.effects.last(), Some(Effect::Stop(_, _, grace)) if !grace.is_zero()));
    scene.input(Input::CancelRun(cancel(true)));
    assert!(
        matches!(scene.effects.last(), Some(Effect::Stop(_, _, grace)) if grace.is_zero()),
        "force hastens"
    );

    let stops = scene.effects.len();
    scene.input(Input::CancelRun(cancel(false)));
    assert_eq!(scene.effects.len(), stops, "a gentler wish changes nothing");
    scene.observe("a", ExecutionState::Stopped);
    assert_eq!(scene.state("a"), CANCELLED);
    scene.ended(RunStatus::Cancelled);
    assert_eq!(
        scene.machine.run().reason.clone().unwrap().message,
        "cancelled by ann: wrong branch"
    );
}

#[test]
fn a_cancelled_task_counts_as_failed() {
    let mut scene = Scene::begin(pipeline(vec![
        retried(task("a", &[]), 3),
        task("notify", &[("a", Condition::Failure)]),
        task("next", &[("a", Condition::Success)]),
    ]));
    scene.input(Input::CancelTask(id("a"), cancel(false)));
    scene.observe("a", ExecutionState::Stopped);
    assert_eq!([scene.state("a"), scene.state("next")], [CANCELLED, SKIPPED]);
    scene.exit("notify", 1);
    scene.ended(RunStatus::Failed);
}

#[test]
fn what_is_stopped_outside_of_gofer_failed() {
    let mut scene = Scene::begin(pipeline(vec![task("a", &[])]));
    scene.observe("a", ExecutionState::Stopped);
    assert_eq!((scene.state("a"), scene.reason("a").kind), (FAILED, ReasonKind::StoppedOutside));
}

#[test]
fn late_and_repeated_news_change_nothing() {
    let mut scene = Scene::begin(pipeline(vec![retried(task("a", &[]), 1), task("b", &[])]));
    scene.exit("a", 1);
    let late = ExecutionState::Exited { code: 0, oom: false, signal: None };
    let decision = scene.input(Input::Observed(id("a"), Attempt(1), late.clone().into()));
    assert!(decision.commits_nothing());
    let decision = scene.input(Input::Observed(id("nobody"), Attempt(1), late.into()));
    assert!(decision.commits_nothing());
    scene.observe("b", ExecutionState::Running);
    assert!(
        scene
            .input(Input::Observed(id("b"), Attempt(1), ExecutionState::Running.into()))
            .commits_nothing()
    );
    assert_eq!(scene.state("a"), TaskState::Pending);
}

#[test]
fn a_reused_task_counts_as_successful() {
    let mut before =
        snapshot(pipeline(vec![task("a", &[]), task("b", &[("a", Condition::Success)])]));
    before.tasks.get_mut(&id("a")).unwrap().state = DONE;
    let mut machine = Machine::new(before, SchedulerFacts::default());
    let decision = machine.step(Timestamp(0), Input::Claimed);
    assert_eq!(decision.effects, [Effect::Start(id("b"), Attempt(1))]);
}

#[test]
fn a_chain_of_ten_thousand_is_skipped_without_recursion() {
    let mut tasks = vec![task("t0", &[])];
    for at in 1..10_000 {
        let parent = format!("t{}", at - 1);
        tasks.push(task(&format!("t{at}"), &[(&parent, Condition::Success)]));
    }
    let mut scene = Scene::begin(pipeline(tasks));
    scene.exit("t0", 1);
    assert_eq!(scene.state("t9999"), SKIPPED);
    scene.ended(RunStatus::Failed);
}

const EXITED: ExecutionState = ExecutionState::Exited { code: 0, oom: false, signal: None };
const FIVE: Duration = Duration::from_secs(5);

/// A task with a timeout of five seconds that runs since second 1.
fn with_timeout() -> Scene {
    let mut spec = task("a", &[]);
    spec.timeout = Some(FIVE);
    let mut scene = Scene::begin(pipeline(vec![spec]));
    scene.now = Timestamp(SECOND);
    scene.observe("a", ExecutionState::Running);
    scene
}

#[test]
fn an_end_in_time_counts_however_late_it_is_seen() {
    let mut scene = with_timeout();
    scene.at(60);
    assert!(matches!(scene.effects.last(), Some(Effect::Confirm(..))), "{:?}", scene.effects);
    scene.ended_at("a", EXITED, 5, Duration::from_secs(4));
    assert_eq!(scene.state("a"), DONE);
    let task = scene.machine.task(&id("a")).unwrap().0;
    assert_eq!(
        (task.started_at, task.ended_at),
        (Some(Timestamp(SECOND)), Some(Timestamp(5 * SECOND)))
    );
}

#[test]
fn an_end_in_time_counts_although_a_stop_was_asked_for() {
    for cancelled in [false, true] {
        let mut scene = with_timeout();
        if cancelled {
            scene.input(Input::CancelTask(id("a"), cancel(false)));
        } else {
            scene.at(6);
            scene.answer("a", 6, ExecutionState::Running);
        }
        scene.ended_at("a", EXITED, 5, Duration::from_secs(4));
        assert_eq!(scene.state("a"), DONE, "cancelled: {cancelled}");
    }
}

#[test]
fn an_end_that_was_not_in_time_timed_out_although_nobody_watched() {
    for state in [EXITED, ExecutionState::Stopped] {
        let mut scene = with_timeout();
        scene.ended_at("a", state, 30, Duration::from_secs(29));
        assert_eq!((scene.state("a"), scene.reason("a").kind), (TIMED_OUT, ReasonKind::Timeout));
    }
}

#[test]
fn a_lost_execution_is_not_one_that_ran_too_long() {
    let mut scene = with_timeout();
    scene.at(60);
    scene.answer("a", 60, ExecutionState::Lost);
    assert_eq!((scene.state("a"), scene.reason("a").kind), (TaskState::Pending, ReasonKind::Lost));
}

#[test]
fn an_answer_from_before_the_deadline_confirms_nothing() {
    let mut scene = with_timeout();
    scene.at(6);
    scene.effects.clear();
    scene.observe("a", ExecutionState::Running);
    scene.answer("a", 3, ExecutionState::Running);
    assert_eq!(scene.effects, []);
    scene.at(7);
    assert!(
        matches!(scene.effects.last(), Some(Effect::Confirm(..))),
        "it is asked again: {:?}",
        scene.effects
    );
}

#[test]
fn a_start_timeout_does_not_count_while_nobody_watches() {
    let mut spec = task("a", &[]);
    spec.start_timeout = Some(FIVE);
    let mut scene = Scene::begin(pipeline(vec![spec]));
    scene.at(60);
    assert!(
        !scene.effects.iter().any(|effect| matches!(effect, Effect::Confirm(..))),
        "the server stood still"
    );
    scene.at(65);
    scene.answer("a", 65, ExecutionState::Queued { reason: String::new() });
    scene.observe("a", ExecutionState::NotFound);
    assert_eq!((scene.state("a"), scene.reason("a").kind), (TIMED_OUT, ReasonKind::StartTimeout));
}

#[test]
fn times_that_cannot_be_are_the_nearest_that_can() {
    let mut scene = with_timeout();
    scene.now = Timestamp(3 * SECOND);
    scene.ended_at("a", EXITED, 1_000, Duration::from_secs(2));
    let task = scene.machine.task(&id("a")).unwrap().0;
    assert_eq!(
        (task.started_at, task.ended_at),
        (Some(Timestamp(SECOND)), Some(Timestamp(3 * SECOND)))
    );
}
