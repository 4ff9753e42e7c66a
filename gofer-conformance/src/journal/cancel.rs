//! Wishes to cancel.

use gofer_core::event::EventDetails;
use gofer_core::id::{RunKey, RunNumber, TaskId};
use gofer_core::journal::{Journal, JournalError};
use gofer_core::pipeline::Overlap;
use gofer_core::run::{CancelRequest, LogState, RunState};

use super::JournalFixture;
use super::fixture::{
    at, claim_one, event, finish, insert, last_event, load, new_events, register, simple, spec,
    task_id,
};

/// A wish to cancel a run is recorded with its event, whoever holds the lease, and loaded with the
/// run.
pub async fn a_wish_to_cancel_a_run_is_recorded_and_loaded(fixture: &dyn JournalFixture) {
    let journal = fixture.backend();
    simple(fixture, "ci", None, Overlap::Queue).await;
    insert(&*journal, "ci", 0).await;
    let (lease, mut expected) = claim_one(&*journal, 1).await;
    let before = last_event(fixture).await;
    let request = wish(5, "ada", false, "wrong branch");
    assert!(ask(&*journal, &lease.run, None, &request).await);
    expected.run.cancel = Some(request);
    assert_eq!(load(&*journal, &lease.run).await, expected);
    let details =
        EventDetails::RunCancelRequested { force: false, message: "wrong branch".to_owned() };
    assert_eq!(new_events(fixture, before).await, [event(&lease.run, None, 5, "ada", details)]);
}

/// The same for one task of a run.
pub async fn a_wish_to_cancel_a_task_is_recorded_and_loaded(fixture: &dyn JournalFixture) {
    let journal = fixture.backend();
    register(fixture, spec("ci", &["a", "b"], None, Overlap::Queue)).await;
    insert(&*journal, "ci", 0).await;
    let (lease, mut expected) = claim_one(&*journal, 1).await;
    let before = last_event(fixture).await;
    let (task, request) = (task_id("a"), wish(5, "ada", true, ""));

    assert!(ask(&*journal, &lease.run, Some(&task), &request).await);
    expected.tasks.get_mut(&task).expect("task `a`").cancel = Some(request);
    assert_eq!(load(&*journal, &lease.run).await, expected);
    let details = EventDetails::TaskRunCancelRequested { force: true, message: String::new() };
    let mut happened = new_events(fixture, before).await;

    // Whether the event names the attempt is the journal's choice: the wish is for whatever attempt
    // the task is at.
    happened[0].subject.attempt = None;
    assert_eq!(happened, [event(&lease.run, Some(&task), 5, "ada", details)]);
}

/// The first wish stays, but `force` is added to it; what changes nothing records nothing.
pub async fn the_first_wish_stays_but_force_is_added(fixture: &dyn JournalFixture) {
    let journal = fixture.backend();
    simple(fixture, "ci", None, Overlap::Queue).await;
    insert(&*journal, "ci", 0).await;
    let (lease, _) = claim_one(&*journal, 1).await;
    let build = task_id("build");

    for task in [None, Some(&build)] {
        let before = last_event(fixture).await;
        let first = wish(5, "ada", false, "first");
        assert!(ask(&*journal, &lease.run, task, &first).await);
        assert!(!ask(&*journal, &lease.run, task, &first).await, "the same wish again");
        assert!(!ask(&*journal, &lease.run, task, &wish(6, "bob", false, "second")).await);
        assert_eq!(stored(&*journal, &lease.run, task).await, Some(first.clone()));
        assert_eq!(last_event(fixture).await, before + 1);
        assert!(
            ask(&*journal, &lease.run, task, &wish(7, "cyd", true, "at once")).await,
            "force is added"
        );

        let forced = Some(CancelRequest { force: true, ..first });
        assert_eq!(stored(&*journal, &lease.run, task).await, forced);
        for force in [false, true] {
            assert!(!ask(&*journal, &lease.run, task, &wish(8, "dan", force, "late")).await);
        }

        assert_eq!(stored(&*journal, &lease.run, task).await, forced);
        let events = new_events(fixture, before).await;
        assert_eq!(events.len(), 2, "{events:?}");
        assert_eq!((events[1].at, events[1].actor.as_str()), (at(7), "cyd"));
    }
}

/// A run or task run that is complete is left alone.
pub async fn what_is_complete_is_left_alone(fixture: &dyn JournalFixture) {
    let journal = fixture.backend();
    simple(fixture, "ci", None, Overlap::Queue).await;
    insert(&*journal, "ci", 0).await;
    let (lease, _) = claim_one(&*journal, 1).await;
    finish(&*journal, &lease, LogState::Live, 5).await;
    let before = (load(&*journal, &lease.run).await, last_event(fixture).await);
    let build = task_id("build");
    for task in [None, Some(&build)] {
        assert!(!ask(&*journal, &lease.run, task, &wish(6, "ada", true, "too late")).await);
    }
    assert_eq!((load(&*journal, &lease.run).await, last_event(fixture).await), before);
}

/// A wish for a run or task that does not exist is `NotFound`.
pub async fn cancelling_what_is_unknown_is_not_found(fixture: &dyn JournalFixture) {
    let journal = fixture.backend();
    simple(fixture, "ci", None, Overlap::Queue).await;
    let known = insert(&*journal, "ci", 0).await.key;
    let unknown = RunKey { run: RunNumber(2), ..known.clone() };
    let before = last_event(fixture).await;
    let (build, other) = (task_id("build"), task_id("other"));
    for (run, task) in [(&unknown, None), (&unknown, Some(&build)), (&known, Some(&other))] {
        let error = journal
            .request_cancel(run, task, wish(5, "ada", false, ""))
            .await
            .expect_err("there is none");
        assert!(matches!(error, JournalError::NotFound { .. }), "{error:?}");
    }
    assert_eq!(last_event(fixture).await, before);
}

/// A run that still waits takes a wish, and goes on waiting until it is claimed.
pub async fn a_pending_run_takes_a_wish(fixture: &dyn JournalFixture) {
    let journal = fixture.backend();
    simple(fixture, "ci", None, Overlap::Queue).await;
    let run = insert(&*journal, "ci", 0).await.key;
    let request = wish(5, "ada", false, "");
    assert!(ask(&*journal, &run, None, &request).await);
    let stored = load(&*journal, &run).await.run;
    assert_eq!((stored.state, stored.cancel), (RunState::Pending, Some(request.clone())));
    let (_, snapshot) = claim_one(&*journal, 6).await;
    assert_eq!((snapshot.run.state, snapshot.run.cancel), (RunState::Running, Some(request)));
}

fn wish(seconds: i64, by: &str, force: bool, message: &str) -> CancelRequest {
    CancelRequest { at: at(seconds), by: by.to_owned(), force, message: message.to_owned() }
}

async fn ask(
    journal: &dyn Journal,
    run: &RunKey,
    task: Option<&TaskId>,
    request: &CancelRequest,
) -> bool {
    journal.request_cancel(run, task, request.clone()).await.expect("request_cancel")
}

async fn stored(
    journal: &dyn Journal,
    run: &RunKey,
    task: Option<&TaskId>,
) -> Option<CancelRequest> {
    let snapshot = load(journal, run).await;
    match task {
        None => snapshot.run.cancel,
        Some(task) => snapshot.tasks[task].cancel.clone(),
    }
}
