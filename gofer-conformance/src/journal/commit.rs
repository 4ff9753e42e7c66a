//! Guarded transitions.

use futures::future::join_all;
use gofer_core::event::EventDetails;
use gofer_core::id::{Attempt, RunNumber};
use gofer_core::journal::{Commit, Committed, Journal, Lease, RunSnapshot, RunTransition};
use gofer_core::pipeline::Overlap;
use gofer_core::run::{
    CancelRequest, LogState, Reason, ReasonKind, RunState, RunStatus, StopCause, StopRequest,
    TaskRun, TaskState, TaskStatus,
};

use super::JournalFixture;
use super::fixture::{
    TTL, abandon, at, claim_one, commit, ending, event, finish, insert, last_event, load,
    new_events, nothing, register, run_ending, spec, starting, step, stepping, task_id,
};
use crate::eventually;

/// What a commit says becomes true, every field of it, and its events are recorded in order.
pub async fn a_commit_becomes_true_with_its_events(fixture: &dyn JournalFixture) {
    let (journal, lease, snapshot) = claimed(fixture, &["a", "b"]).await;
    let before = last_event(fixture).await;
    let full = step(task(&snapshot, "a"), |task| {
        task.state = TaskState::Starting;
        task.losses = 2;
        task.reason = Some(Reason::new(ReasonKind::Queued, "no node has 4096 MB free"));
        task.exit_code = Some(-1);
        task.not_before = Some(at(3));
        task.intended_at = Some(at(4));
        task.started_at = Some(at(5));
        task.stop = Some(StopRequest { cause: StopCause::Timeout, at: at(6), grace_ms: 1_500 });
    });

    let starting_b = starting(task(&snapshot, "b"), 7);
    let happened = ["a", "b"].map(|name| {
        event(&lease.run, Some(&task_id(name)), 7, "gofer", EventDetails::TaskRunStarting {})
    });

    let both = Commit {
        tasks: vec![full.clone(), starting_b.clone()],
        events: happened.to_vec(),
        ..nothing(&lease)
    };

    assert_eq!(commit(&*journal, both).await, Committed::Done);
    let after = load(&*journal, &lease.run).await;
    assert_eq!((task(&after, "a"), task(&after, "b")), (&full.to, &starting_b.to));
    assert_eq!((&after.run, &after.spec), (&snapshot.run, &snapshot.spec));
    assert_eq!(new_events(fixture, before).await, happened);
}

/// A run's end is stored with its reason and time.
pub async fn completing_a_run_says_why_and_when(fixture: &dyn JournalFixture) {
    let (journal, lease, _) = claimed(fixture, &["a"]).await;
    let reason = Some(Reason::new(ReasonKind::TasksFailed, "task `a` failed"));
    let before = last_event(fixture).await;
    let completed =
        EventDetails::RunCompleted { status: RunStatus::Failed, reason: reason.clone() };
    let happened = event(&lease.run, None, 9, "gofer", completed);
    let end = Commit {
        run: Some(run_ending(RunStatus::Failed, reason.clone(), 9)),
        events: vec![happened.clone()],
        ..nothing(&lease)
    };

    assert_eq!(commit(&*journal, end).await, Committed::Done);
    let run = load(&*journal, &lease.run).await.run;
    assert_eq!(
        (run.state, run.reason, run.ended_at),
        (RunState::Complete(RunStatus::Failed), reason, Some(at(9)))
    );
    assert_eq!(new_events(fixture, before).await, [happened]);
}

/// After somebody else has taken the lease, commits with the old epoch are `Fenced` and change
/// nothing.
pub async fn a_commit_after_a_takeover_is_fenced(fixture: &dyn JournalFixture) {
    let (journal, lease, snapshot) = claimed(fixture, &["a"]).await;
    let taken = journal.claim("server-2", at(1_000), TTL, 1.into()).await.expect("claim").remove(0);
    let transition = starting(task(&snapshot, "a"), 7);
    assert_unchanged(fixture, &lease, async {
        for _ in 0..2 {
            let late = stepping(&lease, 7, transition.clone());
            assert_eq!(commit(&*journal, late).await, Committed::Fenced);
            let end =
                Commit { run: Some(run_ending(RunStatus::Failed, None, 9)), ..nothing(&lease) };
            assert_eq!(commit(&*journal, end).await, Committed::Fenced);
        }
    })
    .await;
    assert_eq!(commit(&*journal, stepping(&taken, 8, transition)).await, Committed::Done);
}

/// After its owner released a lease, commits with it are `Fenced`.
pub async fn a_commit_after_a_release_is_fenced(fixture: &dyn JournalFixture) {
    let (journal, lease, snapshot) = claimed(fixture, &["a"]).await;
    journal.release(super::fixture::OWNER).await.expect("release");
    assert_unchanged(fixture, &lease, async {
        let late = stepping(&lease, 7, starting(task(&snapshot, "a"), 7));
        assert_eq!(commit(&*journal, late).await, Committed::Fenced);
    })
    .await;
}

/// A lease that ran out, but that nobody took, is held: its commits become true. The journal has no
/// clock of its own.
pub async fn a_lease_that_ran_out_untaken_still_commits(fixture: &dyn JournalFixture) {
    let (journal, lease, snapshot) = claimed(fixture, &["a"]).await;
    assert!(
        journal.claim("server-2", at(20), TTL, 1.into()).await.expect("claim").is_empty(),
        "it is held until 31"
    );
    let late = stepping(&lease, 1_000, starting(task(&snapshot, "a"), 1_000));
    assert_eq!(commit(&*journal, late).await, Committed::Done);
}

/// Nobody has a lease of a run that does not exist, nor of one that was never claimed.
pub async fn a_commit_of_an_unknown_run_is_fenced(fixture: &dyn JournalFixture) {
    let (journal, lease, snapshot) = claimed(fixture, &["a"]).await;
    let pending = insert(&*journal, "ci", 5).await.key;
    let mut unknown = lease.run.clone();
    unknown.run = RunNumber(99);
    assert_unchanged(fixture, &lease, async {
        for run in [unknown, pending] {
            for epoch in [0, lease.epoch, lease.epoch + 1] {
                let guess = Lease { run: run.clone(), epoch };
                let change = stepping(&guess, 7, starting(task(&snapshot, "a"), 7));
                assert_eq!(commit(&*journal, change).await, Committed::Fenced, "{guess:?}");
            }
        }
    })
    .await;
}

/// If the stored state is not `from`, the commit is a `Conflict` and changes nothing.
pub async fn another_task_state_than_expected_is_a_conflict(fixture: &dyn JournalFixture) {
    let (journal, lease, snapshot) = claimed(fixture, &["a"]).await;
    let pending = task(&snapshot, "a");
    let mut unknown = starting(pending, 7);
    unknown.to.task = task_id("unknown");

    let mut running = starting(pending, 7).to;
    running.state = TaskState::Running;
    let done = ending(&running, TaskStatus::Successful, LogState::Live, 8);
    assert_unchanged(fixture, &lease, async {
        for transition in [unknown, done] {
            assert_eq!(
                commit(&*journal, stepping(&lease, 7, transition)).await,
                Committed::Conflict
            );
        }

        let not_pending = RunTransition {
            from: RunState::Pending,
            to: RunState::Complete(RunStatus::Cancelled),
            reason: None,
            at: at(9),
        };

        let end = Commit { run: Some(not_pending), ..nothing(&lease) };
        assert_eq!(commit(&*journal, end).await, Committed::Conflict, "the run is running");
    })
    .await;
}

/// If the stored attempt is not `from_attempt`, the commit is a `Conflict` and changes nothing.
pub async fn another_attempt_than_expected_is_a_conflict(fixture: &dyn JournalFixture) {
    let (journal, lease, snapshot) = claimed(fixture, &["a"]).await;
    let mut later = task(&snapshot, "a").clone();
    later.attempt = Attempt(2);
    assert_unchanged(fixture, &lease, async {
        assert_eq!(
            commit(&*journal, stepping(&lease, 7, starting(&later, 7))).await,
            Committed::Conflict
        );
    })
    .await;
}

/// A step of a task run that the state machine does not have is a `Conflict` and changes nothing.
pub async fn a_step_of_a_task_that_is_not_in_the_table_is_a_conflict(fixture: &dyn JournalFixture) {
    let (journal, lease, snapshot) = claimed(fixture, &["a"]).await;
    let pending = task(&snapshot, "a").clone();
    let refused = |from: TaskRun, states: Vec<TaskState>| {
        let (journal, lease) = (journal.clone(), lease.clone());
        async move {
            for state in states {
                let transition = step(&from, |task| task.state = state);
                let answer = commit(&*journal, stepping(&lease, 7, transition)).await;
                assert_eq!(answer, Committed::Conflict, "{:?} to {state:?}", from.state);
            }
        }
    };

    use TaskStatus::{Failed, Skipped, Successful, TimedOut};

    let complete = TaskState::Complete;
    let from_pending =
        vec![TaskState::Running, complete(Successful), complete(Failed), complete(TimedOut)];
    assert_unchanged(fixture, &lease, refused(pending.clone(), from_pending)).await;

    let start = starting(&pending, 7);
    assert_eq!(commit(&*journal, stepping(&lease, 7, start.clone())).await, Committed::Done);
    assert_unchanged(fixture, &lease, refused(start.to.clone(), vec![complete(Skipped)])).await;
    let end = ending(&start.to, Successful, LogState::Live, 8);
    assert_eq!(commit(&*journal, stepping(&lease, 8, end.clone())).await, Committed::Done);

    let from_complete =
        vec![TaskState::Starting, TaskState::Running, complete(Successful), complete(Failed)];
    assert_unchanged(fixture, &lease, refused(end.to, from_complete)).await;
}

/// A step of a run that the state machine does not have is a `Conflict` and changes nothing.
pub async fn a_step_of_a_run_that_is_not_in_the_table_is_a_conflict(fixture: &dyn JournalFixture) {
    let (journal, lease, _) = claimed(fixture, &["a"]).await;
    assert_unchanged(fixture, &lease, async {
        for to in [RunState::Pending, RunState::Running] {
            let wrong = RunTransition { from: RunState::Running, to, reason: None, at: at(9) };
            let answer = commit(&*journal, Commit { run: Some(wrong), ..nothing(&lease) }).await;
            assert_eq!(answer, Committed::Conflict, "running to {to:?}");
        }
    })
    .await;
}

/// A task run becomes pending again only with the next attempt, and every other step keeps its
/// attempt. The attempt that ended is on record.
pub async fn a_retry_needs_the_next_attempt(fixture: &dyn JournalFixture) {
    let (journal, lease, snapshot) = claimed(fixture, &["a"]).await;
    let start = starting(task(&snapshot, "a"), 7);
    assert_eq!(commit(&*journal, stepping(&lease, 7, start.clone())).await, Committed::Done);
    let to_attempt = |attempt, state| {
        step(&start.to, |task| {
            task.state = state;
            task.attempt = Attempt(attempt);
        })
    };

    assert_unchanged(fixture, &lease, async {
        for (attempt, state) in
            [(1, TaskState::Pending), (3, TaskState::Pending), (2, TaskState::Running)]
        {
            let answer = commit(&*journal, stepping(&lease, 8, to_attempt(attempt, state))).await;
            assert_eq!(answer, Committed::Conflict, "to attempt {attempt}, {state:?}");
        }
    })
    .await;

    let mut retry = to_attempt(2, TaskState::Pending);
    retry.to.not_before = Some(at(20));
    retry.ended = ending(&start.to, TaskStatus::Failed, LogState::Live, 8).ended;
    assert_eq!(commit(&*journal, stepping(&lease, 8, retry.clone())).await, Committed::Done);
    assert_eq!(task(&load(&*journal, &lease.run).await, "a"), &retry.to);

    let id = |attempt| gofer_core::ExecutionId {
        run: lease.run.clone(),
        task: task_id("a"),
        attempt: Attempt(attempt),
    };

    assert_eq!(journal.log_state(&id(1)).await.expect("log_state"), Some(LogState::Live));
    assert_eq!(journal.log_state(&id(2)).await.expect("log_state"), None);
    assert_eq!(
        commit(&*journal, stepping(&lease, 21, starting(&retry.to, 21))).await,
        Committed::Done
    );
}

/// One wrong step and none of a commit becomes true, nor its events.
pub async fn a_commit_is_applied_whole_or_not_at_all(fixture: &dyn JournalFixture) {
    let (journal, lease, snapshot) = claimed(fixture, &["a", "b"]).await;
    let good = starting(task(&snapshot, "a"), 7);
    let wrong = step(task(&snapshot, "b"), |task| task.state = TaskState::Running);
    let happened = event(&lease.run, None, 7, "gofer", EventDetails::TaskRunStarting {});
    assert_unchanged(fixture, &lease, async {
        for tasks in [vec![good.clone(), wrong.clone()], vec![wrong, good.clone()]] {
            let mixed = Commit { tasks, events: vec![happened.clone()], ..nothing(&lease) };
            assert_eq!(commit(&*journal, mixed).await, Committed::Conflict);
        }

        let run = RunTransition {
            from: RunState::Running,
            to: RunState::Pending,
            reason: None,
            at: at(7),
        };

        let mixed =
            Commit { tasks: vec![good], run: Some(run), events: vec![happened], ..nothing(&lease) };
        assert_eq!(commit(&*journal, mixed).await, Committed::Conflict);
    })
    .await;
}

/// Each commit of one call is judged by itself, in order, and sees those before it; answers are in
/// the same order.
pub async fn commits_of_one_call_are_judged_one_by_one(fixture: &dyn JournalFixture) {
    let (journal, lease, snapshot) = claimed(fixture, &["a", "b"]).await;
    let stale = Lease { epoch: lease.epoch + 1, ..lease.clone() };
    let start = starting(task(&snapshot, "a"), 1);
    let run = step(&start.to, |task| task.state = TaskState::Running);
    let before = last_event(fixture).await;
    let commits = vec![
        stepping(&lease, 1, start.clone()),
        stepping(&lease, 2, start),
        stepping(&stale, 3, starting(task(&snapshot, "b"), 3)),
        stepping(&lease, 4, run.clone()),
        stepping(&lease, 5, starting(task(&snapshot, "b"), 5)),
    ];
    let answers = journal.commit(commits).await.expect("commit");

    use Committed::{Conflict, Done, Fenced};

    assert_eq!(answers, [Done, Conflict, Fenced, Done, Done]);
    let after = load(&*journal, &lease.run).await;
    assert_eq!((task(&after, "a"), task(&after, "b").state), (&run.to, TaskState::Starting));
    let times: Vec<_> =
        new_events(fixture, before).await.into_iter().map(|event| event.at).collect();
    assert_eq!(times, [at(1), at(4), at(5)]);
    assert_eq!(journal.commit(Vec::new()).await.expect("commit of nothing"), []);
}

/// After an answer that was lost, the same commit again changes nothing and is a `Conflict`.
pub async fn a_repeated_commit_changes_nothing(fixture: &dyn JournalFixture) {
    let (journal, lease, snapshot) = claimed(fixture, &["a"]).await;
    let once = stepping(&lease, 7, starting(task(&snapshot, "a"), 7));
    assert_eq!(commit(&*journal, once.clone()).await, Committed::Done);
    assert_unchanged(fixture, &lease, async {
        assert_eq!(commit(&*journal, once).await, Committed::Conflict);
    })
    .await;
    finish_rest(&*journal, &lease, "a").await;
    assert_unchanged(fixture, &lease, async {
        let end =
            Commit { run: Some(run_ending(RunStatus::Successful, None, 9)), ..nothing(&lease) };
        assert_ne!(commit(&*journal, end).await, Committed::Done, "the run is over");
    })
    .await;
}

/// The stored `cancel` of a task run is what was requested, whatever a commit says of it.
pub async fn a_commit_never_changes_a_tasks_cancel(fixture: &dyn JournalFixture) {
    let (journal, lease, snapshot) = claimed(fixture, &["a", "b"]).await;
    let request = CancelRequest {
        at: at(3),
        by: "ada".to_owned(),
        force: true,
        message: "enough".to_owned(),
    };

    let requested = journal.request_cancel(&lease.run, Some(&task_id("a")), request.clone()).await;
    assert!(requested.expect("request_cancel"));
    let mut made_up = starting(task(&snapshot, "b"), 7);
    made_up.to.cancel = Some(request.clone());

    for transition in [starting(task(&snapshot, "a"), 7), made_up] {
        assert_eq!(commit(&*journal, stepping(&lease, 7, transition)).await, Committed::Done);
    }

    let after = load(&*journal, &lease.run).await;
    let (a, b) = (task(&after, "a"), task(&after, "b"));
    assert_eq!((a.state, &a.cancel), (TaskState::Starting, &Some(request)));
    assert_eq!((b.state, &b.cancel), (TaskState::Starting, &None));
}

/// Of concurrent commits of one step, one becomes true and the others are conflicts.
pub async fn concurrent_commits_of_one_step_become_true_once(fixture: &dyn JournalFixture) {
    let (_, lease, snapshot) = claimed(fixture, &["a"]).await;
    let before = last_event(fixture).await;
    let commits = (0..8).map(|_| {
        let (journal, change) =
            (fixture.backend(), stepping(&lease, 7, starting(task(&snapshot, "a"), 7)));
        tokio::spawn(async move { commit(&*journal, change).await })
    });

    let answers: Vec<Committed> =
        join_all(commits).await.into_iter().map(|joined| joined.expect("no panic")).collect();
    assert_eq!(
        answers.iter().filter(|answer| **answer == Committed::Done).count(),
        1,
        "{answers:?}"
    );
    assert_eq!(
        answers.iter().filter(|answer| **answer == Committed::Conflict).count(),
        7,
        "{answers:?}"
    );
    assert_eq!(new_events(fixture, before).await.len(), 1);
}

/// Event ids have no gaps, and those of one run are in the order of its commits, while many write
/// at once.
pub async fn event_ids_are_gapless_and_in_commit_order(fixture: &dyn JournalFixture) {
    const TASKS: [&str; 8] = ["t0", "t1", "t2", "t3", "t4", "t5", "t6", "t7"];
    const RUNS: usize = 6;

    let journal = fixture.backend();
    register(fixture, spec("ci", &TASKS, None, Overlap::Queue)).await;
    for _ in 0..RUNS {
        insert(&*journal, "ci", 0).await;
    }

    let leases = journal.claim("server-1", at(1), TTL, RUNS.into()).await.expect("claim");
    let before = last_event(fixture).await;
    let writers = leases.iter().cloned().map(|lease| {
        let journal = fixture.backend();
        tokio::spawn(async move {
            let snapshot = load(&*journal, &lease.run).await;
            for (seconds, name) in (0..).zip(TASKS) {
                let change = stepping(&lease, seconds, starting(task(&snapshot, name), seconds));
                assert_eq!(commit(&*journal, change).await, Committed::Done);
            }
        })
    });

    for joined in join_all(writers).await {
        joined.expect("no panic");
    }

    let events = new_events(fixture, before).await;
    assert_eq!(events.len(), RUNS * TASKS.len());
    for lease in leases {
        let of_run = events.iter().filter(|event| event.subject.run == Some(lease.run.run));
        let tasks: Vec<_> = of_run.filter_map(|event| event.subject.task.clone()).collect();
        assert_eq!(tasks, TASKS.map(task_id), "events of {}", lease.run);
    }
}

/// A commit whose caller goes away takes effect whole or not at all.
pub async fn an_abandoned_commit_takes_effect_whole_or_not_at_all(fixture: &dyn JournalFixture) {
    let (journal, lease, snapshot) = claimed(fixture, &["a", "b"]).await;
    let before = last_event(fixture).await;
    let both = Commit {
        tasks: vec![starting(task(&snapshot, "a"), 7), starting(task(&snapshot, "b"), 7)],
        events: vec![event(&lease.run, None, 7, "gofer", EventDetails::TaskRunStarting {})],
        ..nothing(&lease)
    };

    abandon(journal.commit(vec![both.clone()])).await;
    // Whether it took effect or not, the same commit again leaves it having taken effect once.
    commit(&*journal, both).await;
    eventually("both tasks are starting, with one event", async || {
        let after = load(&*journal, &lease.run).await;
        let states = (task(&after, "a").state, task(&after, "b").state);
        let events = new_events(fixture, before).await.len();
        let whole = states == (TaskState::Starting, TaskState::Starting) && events == 1;
        if whole { Ok(()) } else { Err(format!("{states:?}, {events} events")) }
    })
    .await;
}

/// When `commit` returns `Ok`, what it did is durable, and so are leases.
pub async fn a_commit_is_durable(fixture: &mut dyn JournalFixture) {
    let (journal, lease, snapshot) = claimed(&*fixture, &["a", "b"]).await;
    let start = starting(task(&snapshot, "a"), 7);
    assert_eq!(commit(&*journal, stepping(&lease, 7, start)).await, Committed::Done);
    let before = load(&*journal, &lease.run).await;
    let events = fixture.events(0).await;
    drop(journal);
    fixture.restart().await;

    let journal = fixture.backend();
    assert_eq!(load(&*journal, &lease.run).await, before);
    assert_eq!(fixture.events(0).await[..events.len()], events);
    assert!(
        journal.claim("server-2", at(10), TTL, 1.into()).await.expect("claim").is_empty(),
        "the lease is kept"
    );

    let next = stepping(&lease, 8, starting(task(&before, "b"), 8));
    assert_eq!(commit(&*journal, next).await, Committed::Done);
}

/// A claimed run with these tasks.
async fn claimed(
    fixture: &dyn JournalFixture,
    tasks: &[&str],
) -> (std::sync::Arc<dyn Journal>, Lease, RunSnapshot) {
    let journal = fixture.backend();
    register(fixture, spec("ci", tasks, None, Overlap::Queue)).await;
    insert(&*journal, "ci", 0).await;
    let (lease, snapshot) = claim_one(&*journal, 1).await;
    (journal, lease, snapshot)
}

fn task<'a>(snapshot: &'a RunSnapshot, name: &str) -> &'a TaskRun {
    &snapshot.tasks[&task_id(name)]
}

/// Asserts that the run and the events are after `calls` as they were before.
async fn assert_unchanged(
    fixture: &dyn JournalFixture,
    lease: &Lease,
    calls: impl Future<Output = ()>,
) {
    let journal = fixture.backend();
    let before = (load(&*journal, &lease.run).await, last_event(fixture).await);
    calls.await;
    assert_eq!(
        (load(&*journal, &lease.run).await, last_event(fixture).await),
        before,
        "something changed"
    );
}

/// Ends a task that is starting, and its run.
async fn finish_rest(journal: &dyn Journal, lease: &Lease, name: &str) {
    let snapshot = load(journal, &lease.run).await;
    let end = ending(task(&snapshot, name), TaskStatus::Successful, LogState::Live, 8);
    assert_eq!(commit(journal, stepping(lease, 8, end)).await, Committed::Done);
    finish(journal, lease, LogState::Live, 9).await;
}
