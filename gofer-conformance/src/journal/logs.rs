//! Where the logs of finished attempts are.

use gofer_core::event::EventDetails;
use gofer_core::id::{Attempt, ExecutionId};
use gofer_core::journal::{Committed, Journal};
use gofer_core::pipeline::Overlap;
use gofer_core::run::LogState;

use super::JournalFixture;
use super::fixture::{
    at, claim_one, commit, event, finish, insert, last_event, new_events, register, simple, spec,
    starting, stepping, task_id,
};

/// The logs to archive are those of attempts that finished and are still live.
pub async fn live_logs_are_those_of_finished_attempts(fixture: &dyn JournalFixture) {
    let journal = fixture.backend();
    register(fixture, spec("ci", &["a", "b"], None, Overlap::Queue)).await;
    insert(&*journal, "ci", 0).await;
    let (lease, snapshot) = claim_one(&*journal, 1).await;
    assert_eq!(live(&*journal, None, 10).await, []);

    let start = stepping(&lease, 2, starting(&snapshot.tasks[&task_id("a")], 2));
    assert_eq!(commit(&*journal, start).await, Committed::Done);
    assert_eq!(live(&*journal, None, 10).await, [], "it has not finished");

    simple(fixture, "other", None, Overlap::Queue).await;
    insert(&*journal, "other", 3).await;
    let (other, _) = claim_one(&*journal, 4).await;
    let finished = finish(&*journal, &other, LogState::Live, 5).await;
    insert(&*journal, "other", 6).await;

    let (another, _) = claim_one(&*journal, 7).await;
    finish(&*journal, &another, LogState::Lost, 8).await;
    assert_eq!(live(&*journal, None, 10).await, finished);
    assert_eq!(
        journal.live_logs(at(5), None, 10).await.expect("live_logs"),
        [],
        "it ended at 5, not before"
    );
    assert_eq!(journal.live_logs(at(6), None, 10).await.expect("live_logs"), finished);
    assert!(
        journal
            .set_log_state(&finished[0], LogState::Live, LogState::Archived, None)
            .await
            .expect("set")
    );
    assert_eq!(live(&*journal, None, 10).await, []);
}

/// They come oldest first, in pages that go on after the last one seen, also when that one is no
/// longer live.
pub async fn live_logs_are_paged_oldest_first(fixture: &dyn JournalFixture) {
    let journal = fixture.backend();
    simple(fixture, "ci", None, Overlap::Queue).await;
    let mut finished = Vec::new();

    for round in 0..5 {
        insert(&*journal, "ci", 10 * round).await;
        let (lease, _) = claim_one(&*journal, 10 * round + 1).await;
        finished.extend(finish(&*journal, &lease, LogState::Live, 10 * round + 2).await);
    }

    assert_eq!(live(&*journal, None, 2).await, finished[..2]);
    assert_eq!(live(&*journal, Some(&finished[1]), 2).await, finished[2..4]);
    assert_eq!(live(&*journal, Some(&finished[3]), 2).await, finished[4..]);
    assert_eq!(live(&*journal, Some(&finished[4]), 2).await, []);
    assert!(
        journal
            .set_log_state(&finished[1], LogState::Live, LogState::Archived, None)
            .await
            .expect("set")
    );
    assert_eq!(live(&*journal, Some(&finished[1]), 2).await, finished[2..4]);
}

/// A log that is known to be empty is among them until it is recorded so: its execution may have to
/// be forgotten still.
pub async fn a_silent_log_is_live_until_it_is_empty(fixture: &dyn JournalFixture) {
    let journal = fixture.backend();
    simple(fixture, "ci", None, Overlap::Queue).await;
    insert(&*journal, "ci", 0).await;
    let (lease, _) = claim_one(&*journal, 1).await;
    let finished = finish(&*journal, &lease, LogState::Live, 2).await;
    let id = &finished[0];
    let set =
        async |from, to| journal.set_log_state(id, from, to, None).await.expect("set_log_state");

    assert!(!set(LogState::EmptyUnsettled, LogState::Empty).await, "nobody has looked at it");
    assert!(set(LogState::Live, LogState::EmptyUnsettled).await);
    assert!(!set(LogState::Live, LogState::Lost).await, "it is known to be empty");
    assert_eq!(journal.log_state(id).await.expect("log_state"), Some(LogState::EmptyUnsettled));
    assert_eq!(live(&*journal, None, 10).await, finished);
    assert!(set(LogState::EmptyUnsettled, LogState::Empty).await);
    assert_eq!(journal.log_state(id).await.expect("log_state"), Some(LogState::Empty));
    assert_eq!(live(&*journal, None, 10).await, []);
}

/// There is no log state before the attempt has finished, nor of what never existed.
pub async fn the_log_state_is_known_once_the_attempt_finished(fixture: &dyn JournalFixture) {
    let journal = fixture.backend();
    simple(fixture, "ci", None, Overlap::Queue).await;
    insert(&*journal, "ci", 0).await;
    let (lease, _) = claim_one(&*journal, 1).await;
    let id = |task, attempt| ExecutionId {
        run: lease.run.clone(),
        task: task_id(task),
        attempt: Attempt(attempt),
    };

    assert_eq!(journal.log_state(&id("build", 1)).await.expect("log_state"), None);
    finish(&*journal, &lease, LogState::Live, 2).await;
    assert_eq!(journal.log_state(&id("build", 1)).await.expect("log_state"), Some(LogState::Live));

    for unknown in [id("build", 2), id("other", 1)] {
        assert_eq!(journal.log_state(&unknown).await.expect("log_state"), None, "{unknown}");
    }
}

/// The log state is set only if it is `from`, and only then is the event recorded.
pub async fn the_log_state_is_compared_then_set_with_its_event(fixture: &dyn JournalFixture) {
    let journal = fixture.backend();
    simple(fixture, "ci", None, Overlap::Queue).await;
    insert(&*journal, "ci", 0).await;
    let (lease, _) = claim_one(&*journal, 1).await;
    let id =
        ExecutionId { run: lease.run.clone(), task: task_id("build"), attempt: Attempt::FIRST };
    let archived =
        event(&lease.run, Some(&id.task), 9, "gofer", EventDetails::LogArchived { size_bytes: 12 });
    let set = async |from, to| {
        journal.set_log_state(&id, from, to, Some(archived.clone())).await.expect("set_log_state")
    };

    let before = last_event(fixture).await;
    assert!(!set(LogState::Live, LogState::Archived).await, "it has not finished");
    assert_eq!(last_event(fixture).await, before);
    finish(&*journal, &lease, LogState::Live, 2).await;

    let before = last_event(fixture).await;
    assert!(!set(LogState::Archived, LogState::Expired).await, "it is live");
    assert_eq!(last_event(fixture).await, before);
    assert!(set(LogState::Live, LogState::Archived).await);
    assert!(!set(LogState::Live, LogState::Archived).await, "it is archived");
    assert_eq!(new_events(fixture, before).await, [archived]);
    assert_eq!(journal.log_state(&id).await.expect("log_state"), Some(LogState::Archived));

    let silently = journal.set_log_state(&id, LogState::Archived, LogState::Expired, None).await;
    assert!(silently.expect("set_log_state"));
    assert_eq!(last_event(fixture).await, before + 1);
}

async fn live(
    journal: &dyn Journal,
    after: Option<&ExecutionId>,
    limit: usize,
) -> Vec<ExecutionId> {
    journal.live_logs(at(1_000), after.cloned(), limit).await.expect("live_logs")
}
