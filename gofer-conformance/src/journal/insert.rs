//! New runs.

use std::collections::BTreeMap;

use futures::future::join_all;
use gofer_core::event::EventDetails;
use gofer_core::id::{NamespaceId, RunKey, RunNumber, Version};
use gofer_core::journal::{Claim, ClaimLimit, Committed, FirstCommit, JournalError, NewRun};
use gofer_core::pipeline::{Overlap, RunVariable};
use gofer_core::run::{
    Initiator, LogState, ReasonKind, Run, RunState, RunStatus, TaskRun, TaskState, TaskStatus,
};

use super::JournalFixture;
use super::fixture::{
    OWNER, TTL, abandon, at, claim_one, commit, event, finish, insert, keys, last_event, load,
    namespace, new_events, new_run, nothing, pipeline_id, register, simple, spec, starting,
    stepping, task_id,
};
use crate::eventually;

/// Numbers count up from 1 in each pipeline.
pub async fn run_numbers_count_up_per_pipeline(fixture: &dyn JournalFixture) {
    let journal = fixture.backend();
    for name in ["one", "other"] {
        simple(fixture, name, None, Overlap::Queue).await;
        for number in 1..=3 {
            let run = insert(&*journal, name, 0).await;
            assert_eq!(run.key, key(name, number));
        }
    }
}

/// A run is inserted pending, with all that was asked for and one pending task run per task.
pub async fn an_inserted_run_is_pending_with_a_pending_task_run_per_task(
    fixture: &dyn JournalFixture,
) {
    let journal = fixture.backend();
    let spec = spec("ci", &["build", "test", "report"], Some(2), Overlap::Queue);
    register(fixture, spec.clone()).await;
    let mut new = new_run("ci", 5);
    new.retry_of = Some(RunNumber(7));
    new.variables.insert("ODD".to_owned(), "two\nlines, 🔑, \"quotes\" and {{x}}".to_owned());

    let inserted = journal.insert_run(new.clone()).await.expect("insert_run");
    let expected = Run {
        key: key("ci", 1),
        version: Version(1),
        state: RunState::Pending,
        reason: None,
        initiator: new.initiator,
        variables: new.variables,
        retry_of: new.retry_of,
        cancel: None,
        token_nonce: new.token_nonce,
        created_at: at(5),
        started_at: None,
        ended_at: None,
    };

    assert_eq!(inserted.run, expected);
    assert!(inserted.new && inserted.superseded.is_empty(), "{inserted:?}");
    let snapshot = load(&*journal, &expected.key).await;
    assert_eq!(snapshot.run, expected);
    assert_eq!(*snapshot.spec, spec);

    let pending = |name| (task_id(name), TaskRun::pending(task_id(name)));
    assert_eq!(snapshot.tasks, BTreeMap::from(["build", "test", "report"].map(pending)));
}

/// The `run_created` event's actor is the initiator.
pub async fn run_created_is_recorded_by_the_initiator(fixture: &dyn JournalFixture) {
    let journal = fixture.backend();
    simple(fixture, "ci", None, Overlap::Queue).await;
    let before = last_event(fixture).await;
    let mut new = new_run("ci", 5);
    new.initiator = Initiator::Token("ada".to_owned());
    new.retry_of = Some(RunNumber(3));
    let run = journal.insert_run(new).await.expect("insert_run").run;
    let details = EventDetails::RunCreated {
        version: Version(1),
        initiator: Initiator::Token("ada".to_owned()),
        retry_of: Some(RunNumber(3)),
    };
    assert_eq!(new_events(fixture, before).await, [event(&run.key, None, 5, "ada", details)]);
}

/// No version is the latest; an older one may be asked for. A run keeps its version's spec.
pub async fn the_latest_version_is_taken_unless_one_is_given(fixture: &dyn JournalFixture) {
    let journal = fixture.backend();
    let first = spec("ci", &["old"], None, Overlap::Queue);
    assert_eq!(register(fixture, first.clone()).await, Version(1));
    let before = insert(&*journal, "ci", 0).await;
    let second = spec("ci", &["new", "newer"], None, Overlap::Queue);
    assert_eq!(register(fixture, second.clone()).await, Version(2));

    let latest = insert(&*journal, "ci", 1).await;
    let mut new = new_run("ci", 2);
    new.version = Some(Version(1));
    let older = journal.insert_run(new).await.expect("insert_run").run;

    for (run, version, spec) in [(before, 1, &first), (latest, 2, &second), (older, 1, &first)] {
        let snapshot = load(&*journal, &run.key).await;
        assert_eq!((snapshot.run.version, &*snapshot.spec), (Version(version), spec));
        assert!(
            snapshot.tasks.keys().eq(spec.tasks.iter().map(|task| &task.id)),
            "{:?}",
            snapshot.tasks
        );
    }
}

/// A pipeline, namespace or version that does not exist is `NotFound` and changes nothing.
pub async fn an_unknown_pipeline_or_version_is_not_found(fixture: &dyn JournalFixture) {
    let journal = fixture.backend();
    simple(fixture, "ci", None, Overlap::Queue).await;
    let before = last_event(fixture).await;
    let mut elsewhere = new_run("ci", 0);
    elsewhere.namespace = NamespaceId::new("elsewhere").expect("a valid namespace");
    let mut later = new_run("ci", 0);
    later.version = Some(Version(2));
    for new in [new_run("unknown", 0), elsewhere, later] {
        let error = journal.insert_run(new).await.expect_err("there is none");
        assert!(matches!(error, JournalError::NotFound { .. }), "{error:?}");
    }
    assert_eq!(last_event(fixture).await, before);
    assert_eq!(insert(&*journal, "ci", 1).await.key, key("ci", 1));
}

/// A disabled pipeline is `Disabled` and takes no run, until it is enabled again.
pub async fn a_disabled_pipeline_takes_no_runs(fixture: &dyn JournalFixture) {
    let journal = fixture.backend();
    simple(fixture, "ci", None, Overlap::Queue).await;
    fixture.set_pipeline_enabled(&namespace(), &pipeline_id("ci"), false).await;
    let before = last_event(fixture).await;
    let error = journal.insert_run(new_run("ci", 0)).await.expect_err("it is disabled");
    assert!(
        matches!(&error, JournalError::Disabled { key } if key == "conformance/ci"),
        "{error:?}"
    );
    assert_eq!(last_event(fixture).await, before);
    fixture.set_pipeline_enabled(&namespace(), &pipeline_id("ci"), true).await;
    assert_eq!(insert(&*journal, "ci", 1).await.key, key("ci", 1));
}

/// Variables are judged by the version that the run gets; where that lists none, guarded names
/// alone are refused. A refused run takes no number.
pub async fn a_run_sets_what_its_version_lists(fixture: &dyn JournalFixture) {
    let journal = fixture.backend();
    simple(fixture, "ci", None, Overlap::Queue).await;
    let mut listing = spec("ci", &["build"], None, Overlap::Queue);
    listing.run_variables = vec![
        RunVariable { name: "LD_PRELOAD".to_owned(), template: false },
        RunVariable { name: "REF".to_owned(), template: true },
    ];

    let second = register(fixture, listing).await;

    let start = async |version: u64, name: &str, value: &str| {
        let mut new = new_run("ci", 0);
        new.version = Some(Version(version));
        new.variables = [(name.to_owned(), value.to_owned())].into();
        journal.insert_run(new).await.map(|inserted| inserted.run.key.run)
    };

    for (version, name, value) in [
        (1, "LD_PRELOAD", "/tmp/x.so"),
        (second.0, "BRANCH", "main"),
        (second.0, "REF", "secret{{not a key}}"),
    ] {
        let refused = start(version, name, value).await.expect_err("not listed, or no template");
        assert!(
            matches!(&refused, JournalError::Variables(found) if found.len() == 1),
            "{refused:?}"
        );
        assert!(!refused.is_retryable(), "{refused:?}");
    }

    assert_eq!(start(1, "BRANCH", "secret{{not a key}}").await.expect("plain text"), RunNumber(1));
    assert_eq!(start(second.0, "LD_PRELOAD", "/opt/lib.so").await.expect("listed"), RunNumber(2));
}

/// A repeated idempotency key changes nothing and returns the first call's run, even if the
/// pipeline was disabled since.
pub async fn a_repeated_idempotency_key_returns_the_first_run(fixture: &dyn JournalFixture) {
    let journal = fixture.backend();
    simple(fixture, "ci", Some(1), Overlap::CancelRunning).await;
    simple(fixture, "other", None, Overlap::Queue).await;
    let keyed = |pipeline, seconds| {
        let mut new = new_run(pipeline, seconds);
        new.idempotency_key = Some("fire-1".to_owned());
        new
    };

    let first = journal.insert_run(keyed("ci", 0)).await.expect("insert_run").run;
    for enabled in [true, false] {
        fixture.set_pipeline_enabled(&namespace(), &pipeline_id("ci"), enabled).await;
        let toggled = last_event(fixture).await;
        let again = journal.insert_run(keyed("ci", 9)).await.expect("insert_run again");
        assert_eq!((again.new, &again.run), (false, &first));
        assert!(again.superseded.is_empty(), "{:?}", again.superseded);
        assert_eq!(last_event(fixture).await, toggled);
    }

    fixture.set_pipeline_enabled(&namespace(), &pipeline_id("ci"), true).await;
    assert_eq!(load(&*journal, &first.key).await.run, first);
    assert!(
        journal.insert_run(keyed("other", 1)).await.expect("insert_run").new,
        "the key is the pipeline's own"
    );
    assert_eq!(insert(&*journal, "ci", 10).await.key, key("ci", 2));
}

/// Of concurrent inserts of one idempotency key, one makes a run and all return it.
pub async fn concurrent_inserts_of_one_key_make_one_run(fixture: &dyn JournalFixture) {
    simple(fixture, "ci", None, Overlap::Queue).await;
    let before = last_event(fixture).await;
    let inserts = (0..8).map(|_| {
        let journal = fixture.backend();
        let mut new = new_run("ci", 0);
        new.idempotency_key = Some("fire-1".to_owned());
        tokio::spawn(async move { journal.insert_run(new).await.expect("insert_run") })
    });
    let inserted: Vec<_> =
        join_all(inserts).await.into_iter().map(|joined| joined.expect("no panic")).collect();
    assert!(inserted.iter().all(|one| one.run == inserted[0].run), "different runs");
    assert_eq!(inserted.iter().filter(|one| one.new).count(), 1, "how many are new");
    assert_eq!(new_events(fixture, before).await.len(), 1);
    assert_eq!(insert(&*fixture.backend(), "ci", 1).await.key, key("ci", 2));
}

/// Concurrent inserts number their runs without gap or repeat.
pub async fn concurrent_inserts_number_runs_without_gap_or_repeat(fixture: &dyn JournalFixture) {
    simple(fixture, "ci", None, Overlap::Queue).await;
    let before = last_event(fixture).await;
    let inserts = (0..16).map(|_| {
        let journal = fixture.backend();
        tokio::spawn(async move { insert(&*journal, "ci", 0).await.key.run.0 })
    });
    let mut numbers: Vec<u64> =
        join_all(inserts).await.into_iter().map(|joined| joined.expect("no panic")).collect();
    numbers.sort_unstable();
    assert!(numbers.iter().copied().eq(1..=16), "{numbers:?}");
    assert_eq!(new_events(fixture, before).await.len(), 16);
}

/// An insert whose caller goes away takes effect whole or not at all; repeating it makes one run of
/// it.
pub async fn an_abandoned_insert_takes_effect_whole_or_not_at_all(fixture: &dyn JournalFixture) {
    let journal = fixture.backend();
    register(fixture, spec("ci", &["a", "b", "c"], None, Overlap::Queue)).await;
    let before = last_event(fixture).await;

    for round in 0..10 {
        let mut new = new_run("ci", round);
        new.idempotency_key = Some(format!("fire-{round}"));
        abandon(journal.insert_run(new.clone())).await;
        let run = journal.insert_run(new).await.expect("insert_run again").run;
        assert_eq!(load(&*journal, &run.key).await.tasks.len(), 3);
    }

    let created = eventually("one event per run", async || {
        let events = new_events(fixture, before).await;
        if events.len() == 10 { Ok(events) } else { Err(format!("{} events", events.len())) }
    })
    .await;
    let numbers = created.iter().filter_map(|event| event.subject.run).map(|run| run.0);
    assert!(numbers.eq(1..=10), "{created:?}");
}

/// Tasks that are reused are inserted complete and successful, with their reason; the others are
/// pending.
pub async fn reused_tasks_are_inserted_successful(fixture: &dyn JournalFixture) {
    let journal = fixture.backend();
    register(fixture, spec("ci", &["a", "b", "c"], None, Overlap::Queue)).await;
    let first = insert(&*journal, "ci", 0).await;
    let mut new = new_run("ci", 5);
    new.retry_of = Some(first.key.run);
    new.reused = vec![task_id("a"), task_id("c")];

    let retry = journal.insert_run(new).await.expect("insert_run").run;
    assert_eq!(retry.state, RunState::Pending);
    let tasks = load(&*journal, &retry.key).await.tasks;

    for name in ["a", "c"] {
        let task = &tasks[&task_id(name)];
        assert_eq!(task.state, TaskState::Complete(TaskStatus::Successful));
        assert_eq!(task.reason.as_ref().map(|reason| reason.kind), Some(ReasonKind::Reused));
        assert_eq!(task.ended_at, Some(at(5)));
    }

    assert_eq!(tasks[&task_id("b")], TaskRun::pending(task_id("b")));
}

/// With `overlap: queue` every run is inserted pending, however many are active.
pub async fn overlap_queue_lets_every_run_wait(fixture: &dyn JournalFixture) {
    let journal = fixture.backend();
    simple(fixture, "ci", Some(1), Overlap::Queue).await;
    for seconds in 0..3 {
        assert_eq!(insert(&*journal, "ci", seconds).await.state, RunState::Pending);
    }
}

/// With `overlap: skip` and no room the run is inserted complete with both events, and tasks that
/// are over.
pub async fn overlap_skip_completes_a_run_when_there_is_no_room(fixture: &dyn JournalFixture) {
    let journal = fixture.backend();
    simple(fixture, "ci", Some(2), Overlap::Skip).await;
    for seconds in 0..2 {
        assert_eq!(insert(&*journal, "ci", seconds).await.state, RunState::Pending);
    }

    let before = last_event(fixture).await;
    let skipped = insert(&*journal, "ci", 2).await;
    assert_eq!(skipped.state, RunState::Complete(RunStatus::Cancelled));
    assert_eq!(skipped.reason.as_ref().map(|reason| reason.kind), Some(ReasonKind::OverlapSkipped));
    assert_eq!(
        (skipped.created_at, skipped.started_at, skipped.ended_at),
        (at(2), None, Some(at(2)))
    );

    let snapshot = load(&*journal, &skipped.key).await;
    assert_eq!(snapshot.run, skipped);
    assert!(snapshot.tasks.values().all(|task| task.state.is_complete()), "{:?}", snapshot.tasks);
    let events = new_events(fixture, before).await;
    let details: Vec<&EventDetails> = events.iter().map(|event| &event.details).collect();
    let completed =
        EventDetails::RunCompleted { status: RunStatus::Cancelled, reason: skipped.reason.clone() };

    assert!(
        matches!(details[..], [EventDetails::RunCreated { .. }, second] if *second == completed),
        "{details:?}"
    );
    assert!(events.iter().all(|event| event.subject.run == Some(skipped.key.run)), "{events:?}");

    let (lease, _) = claim_one(&*journal, 3).await;
    finish(&*journal, &lease, LogState::Live, 4).await;
    assert_eq!(insert(&*journal, "ci", 5).await.state, RunState::Pending, "there is room again");
    assert_eq!(insert(&*journal, "ci", 6).await.state, skipped.state, "and again there is none");
}

/// Of concurrent inserts with `overlap: skip` as many have room as there is.
pub async fn of_concurrent_inserts_with_overlap_skip_one_has_room(fixture: &dyn JournalFixture) {
    simple(fixture, "ci", Some(1), Overlap::Skip).await;
    let inserts = (0..8).map(|_| {
        let journal = fixture.backend();
        tokio::spawn(async move { insert(&*journal, "ci", 0).await.state })
    });
    let states: Vec<RunState> =
        join_all(inserts).await.into_iter().map(|joined| joined.expect("no panic")).collect();
    assert_eq!(states.iter().filter(|state| **state == RunState::Pending).count(), 1, "{states:?}");
}

/// With `overlap: cancel_running` the oldest active runs get a cancel request until there is room,
/// and are returned; those that had one before make room as well, and are not asked again.
pub async fn overlap_cancel_running_cancels_the_oldest(fixture: &dyn JournalFixture) {
    let journal = fixture.backend();
    simple(fixture, "ci", Some(2), Overlap::CancelRunning).await;
    let first = insert(&*journal, "ci", 0).await.key;
    let (lease, _) = claim_one(&*journal, 1).await;
    assert_eq!(lease.run, first);

    let second = insert(&*journal, "ci", 2).await.key;
    let before = last_event(fixture).await;
    let third = journal.insert_run(new_run("ci", 3)).await.expect("insert_run");
    assert_eq!((third.run.state, &third.superseded), (RunState::Pending, &vec![first.clone()]));

    let requested = load(&*journal, &first).await.run.cancel.expect("a cancel request");
    assert_eq!((requested.at, requested.force), (at(3), false));
    assert!(load(&*journal, &second).await.run.cancel.is_none(), "there was room for the second");
    let events = new_events(fixture, before).await;
    let of_first: Vec<_> =
        events.iter().filter(|event| event.subject.run == Some(first.run)).collect();
    let asked = |event: &gofer_core::event::NewEvent| {
        matches!(event.details, EventDetails::RunCancelRequested { .. })
    };

    assert!(events.len() == 2 && of_first.len() == 1 && asked(of_first[0]), "{events:?}");

    let fourth = journal.insert_run(new_run("ci", 4)).await.expect("insert_run");
    assert_eq!(fourth.superseded, [second]);
    let fifth = journal.insert_run(new_run("ci", 5)).await.expect("insert_run");
    assert_eq!(fifth.superseded, [third.run.key]);
    assert_eq!(load(&*journal, &first).await.run.cancel, Some(requested), "the first wish stays");
}

/// Without `parallelism` there is always room.
pub async fn overlap_without_parallelism_never_acts(fixture: &dyn JournalFixture) {
    let journal = fixture.backend();
    for (name, overlap) in [("skips", Overlap::Skip), ("cancels", Overlap::CancelRunning)] {
        simple(fixture, name, None, overlap).await;
        for seconds in 0..4 {
            let inserted = journal.insert_run(new_run(name, seconds)).await.expect("insert_run");
            assert_eq!((inserted.run.state, inserted.superseded.len()), (RunState::Pending, 0));
        }
    }
    let leases = journal.claim(OWNER, at(9), TTL, 100.into()).await.expect("claim");
    assert_eq!(keys(&leases).len(), 8);
}

/// When `insert_run` returns `Ok`, the run is durable, and so is its idempotency key.
pub async fn a_run_is_durable(fixture: &mut dyn JournalFixture) {
    simple(&*fixture, "ci", None, Overlap::Queue).await;
    let mut new = new_run("ci", 0);
    new.idempotency_key = Some("fire-1".to_owned());
    let journal = fixture.backend();
    let run = journal.insert_run(new.clone()).await.expect("insert_run").run;
    let before = load(&*journal, &run.key).await;
    let events = fixture.events(0).await;
    drop(journal);
    fixture.restart().await;
    let journal = fixture.backend();
    assert_eq!(load(&*journal, &run.key).await, before);
    assert_eq!(fixture.events(0).await[..events.len()], events);
    let again = journal.insert_run(new).await.expect("insert_run again");
    assert_eq!((again.new, again.run), (false, run));
}

/// `load` of what does not exist is `NotFound`.
pub async fn loading_an_unknown_run_is_not_found(fixture: &dyn JournalFixture) {
    let journal = fixture.backend();
    simple(fixture, "ci", None, Overlap::Queue).await;
    insert(&*journal, "ci", 0).await;
    for unknown in [key("ci", 2), key("unknown", 1)] {
        let error = journal.load(&unknown).await.expect_err("there is none");
        assert!(matches!(error, JournalError::NotFound { .. }), "{error:?}");
    }
}

fn key(pipeline: &str, run: u64) -> RunKey {
    RunKey { namespace: namespace(), pipeline: pipeline_id(pipeline), run: RunNumber(run) }
}

/// A run whose turn has come is claimed as it is inserted, if its starter wants to drive it: it is
/// running, with both events.
pub async fn a_run_may_be_claimed_as_it_is_inserted(fixture: &dyn JournalFixture) {
    let journal = fixture.backend();
    simple(fixture, "ci", Some(1), Overlap::Queue).await;
    let before = last_event(fixture).await;
    let inserted = journal.insert_run(claiming("ci", 5)).await.expect("insert_run");
    let (lease, snapshot) = inserted.claimed.expect("its turn has come");
    assert_eq!(
        (lease.run.clone(), inserted.run.clone()),
        (inserted.run.key.clone(), snapshot.run.clone())
    );
    assert_eq!((snapshot.run.state, snapshot.run.started_at), (RunState::Running, Some(at(5))));
    assert_eq!(load(&*journal, &lease.run).await, snapshot);

    let types: Vec<_> = new_events(fixture, before)
        .await
        .iter()
        .map(|event| event.details.type_name().to_owned())
        .collect();
    assert_eq!(types, ["run_created", "run_started"]);
    assert!(
        journal.claim("server-2", at(6), TTL, 10.into()).await.expect("claim").is_empty(),
        "it is held"
    );
    assert_eq!(commit(&*journal, nothing(&lease)).await, Committed::Done);

    let taken = journal.claim("server-2", at(100), TTL, 10.into()).await.expect("claim");
    assert!(taken[0].epoch > lease.epoch, "the lease ran out, and the next has a higher epoch");
}

/// Its first commit is part of the insert, and is not asked for when the run has to wait.
pub async fn a_claimed_run_may_begin_as_it_is_inserted(fixture: &dyn JournalFixture) {
    let journal = fixture.backend();
    simple(fixture, "ci", Some(1), Overlap::Queue).await;
    let before = last_event(fixture).await;
    let first = FirstCommit::new(|lease, inserted| {
        assert_eq!((inserted.run.state, lease.epoch > 0), (RunState::Running, true));
        Some(stepping(lease, 5, starting(&inserted.tasks[&task_id("build")], 5)))
    });

    let beginning = |seconds| NewRun {
        claim: Some(Claim { first: Some(first.clone()), ..claim(OWNER, usize::MAX) }),
        ..new_run("ci", seconds)
    };

    let (lease, _) = journal
        .insert_run(beginning(5))
        .await
        .expect("insert_run")
        .claimed
        .expect("its turn has come");
    let stored = load(&*journal, &lease.run).await;

    assert_eq!(stored.tasks[&task_id("build")].state, TaskState::Starting);
    let events = new_events(fixture, before).await;
    let types: Vec<_> = events.iter().map(|event| event.details.type_name().to_owned()).collect();
    assert_eq!(types, ["run_created", "run_started", "task_run_starting"]);
    assert_eq!(
        commit(&*journal, stepping(&lease, 6, starting(&TaskRun::pending(task_id("build")), 6)))
            .await,
        Committed::Conflict
    );

    let waiting = journal.insert_run(beginning(7)).await.expect("insert_run");
    assert!(waiting.claimed.is_none(), "there is no room");
    assert_eq!(
        load(&*journal, &waiting.run.key).await.tasks[&task_id("build")].state,
        TaskState::Pending
    );
}

/// Without room it waits like any other, and so it does behind others that wait.
pub async fn a_run_that_has_to_wait_is_not_claimed(fixture: &dyn JournalFixture) {
    let journal = fixture.backend();
    simple(fixture, "ci", Some(1), Overlap::Queue).await;
    let first = journal.insert_run(claiming("ci", 1)).await.expect("insert_run");
    let (lease, _) = first.claimed.expect("it has room");
    let second = journal.insert_run(claiming("ci", 2)).await.expect("insert_run");
    assert!(second.claimed.is_none() && second.run.state == RunState::Pending, "{second:?}");
    finish(&*journal, &lease, LogState::Live, 3).await;
    let third = journal.insert_run(claiming("ci", 4)).await.expect("insert_run");
    assert!(third.claimed.is_none(), "the second waits before it");
    assert_eq!(
        keys(&journal.claim(OWNER, at(5), TTL, 10.into()).await.expect("claim")),
        [second.run.key]
    );
}

/// A repeated idempotency key claims nothing, nor does a run that repeats another.
pub async fn a_repetition_is_not_claimed_as_it_is_inserted(fixture: &dyn JournalFixture) {
    let journal = fixture.backend();
    simple(fixture, "ci", None, Overlap::Queue).await;
    let new = NewRun { idempotency_key: Some("once".to_owned()), ..claiming("ci", 1) };
    let first = journal.insert_run(new.clone()).await.expect("insert_run");
    let (lease, _) = first.claimed.expect("its turn has come");
    assert!(journal.insert_run(new).await.expect("insert_run").claimed.is_none());
    assert_eq!(
        commit(&*journal, nothing(&lease)).await,
        Committed::Done,
        "the first one's lease stands"
    );
    let again = NewRun { retry_of: Some(lease.run.run), ..claiming("ci", 2) };
    assert!(journal.insert_run(again).await.expect("insert_run").claimed.is_none());
}

/// However many are inserted at once, of whatever pipelines, a server holds no more runs than it
/// wants; the others wait.
pub async fn of_concurrent_inserts_no_more_are_claimed_than_may_be_held(
    fixture: &dyn JournalFixture,
) {
    const MOST: usize = 5;

    let pipelines: Vec<String> = (0..6).map(|number| format!("ci-{number}")).collect();
    for name in &pipelines {
        simple(fixture, name, None, Overlap::Queue).await;
    }

    let insert_all = async |owner: &'static str| {
        let inserts = (0..24).map(|number| {
            let (journal, pipeline) =
                (fixture.backend(), pipelines[number % pipelines.len()].clone());
            let new = NewRun { claim: Some(claim(owner, MOST)), ..new_run(&pipeline, 1) };
            tokio::spawn(async move { journal.insert_run(new).await.expect("insert_run").claimed })
        });

        let joined = join_all(inserts).await.into_iter();
        joined
            .filter_map(|joined| joined.expect("no panic"))
            .map(|(lease, _)| lease)
            .collect::<Vec<_>>()
    };

    let held = insert_all(OWNER).await;
    // Behind one that waits none is claimed, so that there may be fewer; of six pipelines at least
    // the first has room.
    assert!((1..=MOST).contains(&held.len()), "{held:?}");
    let journal = fixture.backend();
    let more = |held| ClaimLimit { runs: 100, held };
    let claimed = journal.claim(OWNER, at(2), TTL, more(MOST)).await.expect("claim");
    assert_eq!(held.len() + claimed.len(), MOST, "{held:?} {claimed:?}");
    assert!(insert_all(OWNER).await.is_empty(), "it holds as many as it may");
    finish(&*journal, &held[0], LogState::Live, 3).await;
    assert_eq!(
        journal.claim(OWNER, at(4), TTL, more(MOST)).await.expect("claim").len(),
        1,
        "one has ended"
    );
}

fn claim(owner: &str, most: usize) -> Claim {
    Claim { owner: owner.to_owned(), ttl: TTL, most, first: None }
}

fn claiming(pipeline: &str, seconds: i64) -> NewRun {
    NewRun { claim: Some(claim(OWNER, usize::MAX)), ..new_run(pipeline, seconds) }
}
