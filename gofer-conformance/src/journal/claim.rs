//! Leases.

use std::time::Duration;

use futures::future::join_all;
use gofer_core::event::EventDetails;
use gofer_core::id::{NamespaceId, RunKey};
use gofer_core::journal::{ClaimLimit, Committed, Journal, Lease, NewRun};
use gofer_core::pipeline::Overlap;
use gofer_core::run::{CancelRequest, LogState, RunState};

use super::JournalFixture;
use super::fixture::{
    OWNER, TTL, at, claim_one, commit, event, finish, insert, keys, last_event, load, new_events,
    new_run, nothing, simple, spec,
};

const OTHER: &str = "server-2";

/// Taking a pending run makes it running, with `run_started`.
pub async fn claiming_a_pending_run_starts_it(fixture: &dyn JournalFixture) {
    let journal = fixture.backend();
    simple(fixture, "ci", None, Overlap::Queue).await;
    let run = insert(&*journal, "ci", 0).await;
    let before = last_event(fixture).await;
    let leases = claim(&*journal, OWNER, 5, 10).await;
    assert_eq!(keys(&leases), std::slice::from_ref(&run.key));
    let started = load(&*journal, &run.key).await.run;
    assert_eq!((started.state, started.started_at), (RunState::Running, Some(at(5))));
    let expected = event(&run.key, None, 5, "gofer", EventDetails::RunStarted {});
    assert_eq!(new_events(fixture, before).await, [expected]);
    assert!(claim(&*journal, OWNER, 6, 10).await.is_empty(), "it is held, also by oneself");
    assert_eq!(last_event(fixture).await, before + 1);
}

/// Runs are claimed oldest first, whatever their pipeline, and at most as many as asked for.
pub async fn the_oldest_runs_are_claimed_first_up_to_the_limit(fixture: &dyn JournalFixture) {
    let journal = fixture.backend();
    let mut expected = Vec::new();
    for name in ["one", "other"] {
        simple(fixture, name, None, Overlap::Queue).await;
    }
    for (name, seconds) in [("other", 1), ("one", 2), ("one", 3), ("other", 4), ("other", 5)] {
        expected.push(insert(&*journal, name, seconds).await.key);
    }
    assert!(claim(&*journal, OWNER, 10, 0).await.is_empty(), "a limit of 0");
    let mut claimed = keys(&claim(&*journal, OWNER, 10, 2).await);
    assert_eq!(claimed, expected[..2]);
    claimed.extend(keys(&claim(&*journal, OWNER, 10, 2).await));
    claimed.extend(keys(&claim(&*journal, OWNER, 10, 2).await));
    assert_eq!(claimed, expected);
}

/// Only as many runs of a pipeline run at once as its `parallelism`; the oldest that waits goes
/// next.
pub async fn parallelism_admits_the_oldest(fixture: &dyn JournalFixture) {
    let journal = fixture.backend();
    simple(fixture, "ci", Some(2), Overlap::Queue).await;
    let runs = insert_many(&*journal, "ci", 5).await;
    let mut running = claim(&*journal, OWNER, 10, 10).await;
    assert_eq!(keys(&running), runs[..2]);
    assert!(claim(&*journal, OTHER, 11, 10).await.is_empty(), "there is no room");
    for run in &runs[2..] {
        assert_eq!(load(&*journal, run).await.run.state, RunState::Pending);
        finish(&*journal, &running.remove(0), LogState::Live, 12).await;
        let next = claim(&*journal, OWNER, 13, 10).await;
        assert_eq!(keys(&next), std::slice::from_ref(run));
        running.extend(next);
    }
}

/// One pipeline's runs take no room from another's.
pub async fn pipelines_do_not_share_their_parallelism(fixture: &dyn JournalFixture) {
    let journal = fixture.backend();
    for name in ["narrow", "wide"] {
        simple(fixture, name, Some(if name == "narrow" { 1 } else { 3 }), Overlap::Queue).await;
    }
    let narrow = insert_many(&*journal, "narrow", 2).await;
    let wide = insert_many(&*journal, "wide", 2).await;
    let mut claimed = keys(&claim(&*journal, OWNER, 10, 10).await);
    claimed.sort();
    assert_eq!(claimed, [narrow[0].clone(), wide[0].clone(), wide[1].clone()]);
}

/// A pending run whose cancellation was requested is taken though there is no room.
pub async fn a_run_to_be_cancelled_is_admitted_regardless(fixture: &dyn JournalFixture) {
    let journal = fixture.backend();
    simple(fixture, "ci", Some(1), Overlap::Queue).await;
    let runs = insert_many(&*journal, "ci", 3).await;
    assert_eq!(keys(&claim(&*journal, OWNER, 10, 10).await), runs[..1]);
    let request =
        CancelRequest { at: at(11), by: "ada".to_owned(), force: false, message: String::new() };
    assert!(journal.request_cancel(&runs[2], None, request).await.expect("request_cancel"));
    assert_eq!(keys(&claim(&*journal, OWNER, 12, 10).await), runs[2..]);
    assert!(claim(&*journal, OWNER, 13, 10).await.is_empty(), "no room for the other");
}

/// A run that somebody holds is not claimed before the lease has run out, and then by anybody.
pub async fn a_held_run_is_not_claimed_until_its_lease_runs_out(fixture: &dyn JournalFixture) {
    let journal = fixture.backend();
    simple(fixture, "ci", None, Overlap::Queue).await;
    let run = insert(&*journal, "ci", 0).await.key;
    assert_eq!(claim(&*journal, OWNER, 10, 10).await.len(), 1);
    assert!(claim(&*journal, OTHER, 39, 10).await.is_empty(), "held until 40");
    let before = last_event(fixture).await;
    assert_eq!(keys(&claim(&*journal, OTHER, 41, 10).await), std::slice::from_ref(&run));
    assert_eq!(load(&*journal, &run).await.run.started_at, Some(at(10)), "it has started once");
    assert_eq!(last_event(fixture).await, before);
}

/// Each lease of a run has a higher epoch than any before it, whoever takes it.
pub async fn epochs_grow(fixture: &dyn JournalFixture) {
    let journal = fixture.backend();
    simple(fixture, "ci", None, Overlap::Queue).await;
    insert(&*journal, "ci", 0).await;
    let mut last = 0;
    for round in 0..4 {
        let owner = if round % 2 == 0 { OWNER } else { OTHER };
        let lease = claim(&*journal, owner, 100 * (round + 1), 1).await.remove(0);
        assert!(lease.epoch > last, "epoch {} after {last}", lease.epoch);
        last = lease.epoch;
        if round == 1 {
            journal.release(owner).await.expect("release");
        }
    }
}

/// A run that runs already takes no room when its lease is taken over.
pub async fn running_runs_are_taken_over_regardless_of_parallelism(fixture: &dyn JournalFixture) {
    let journal = fixture.backend();
    simple(fixture, "ci", Some(2), Overlap::Queue).await;
    let runs = insert_many(&*journal, "ci", 3).await;
    assert_eq!(claim(&*journal, OWNER, 10, 10).await.len(), 2);
    assert_eq!(keys(&claim(&*journal, OTHER, 100, 10).await), runs[..2]);
}

/// A run that is over is not claimed.
pub async fn complete_runs_are_not_claimed(fixture: &dyn JournalFixture) {
    let journal = fixture.backend();
    simple(fixture, "ci", None, Overlap::Queue).await;
    insert(&*journal, "ci", 0).await;
    let (lease, _) = claim_one(&*journal, 1).await;
    finish(&*journal, &lease, LogState::Live, 2).await;
    assert!(claim(&*journal, OTHER, 1_000, 10).await.is_empty(), "it is complete");
}

/// A queue of one pipeline, however long, keeps no other pipeline waiting: those with the fewest
/// running runs go first.
pub async fn pipelines_are_claimed_fairly(fixture: &dyn JournalFixture) {
    let journal = fixture.backend();
    for name in ["flood", "late", "later"] {
        simple(fixture, name, None, Overlap::Queue).await;
    }

    let flood = insert_many(&*journal, "flood", 20).await;
    assert_eq!(keys(&claim(&*journal, OWNER, 10, 3).await), flood[..3], "there is nobody else");
    let late = insert_many(&*journal, "late", 5).await;
    let later = insert_many(&*journal, "later", 2).await;
    let mut claimed = keys(&claim(&*journal, OWNER, 11, 4).await);
    claimed.sort();
    assert_eq!(claimed, [&late[..2], &later[..2]].concat(), "by turns, the oldest of each");

    let mut claimed = keys(&claim(&*journal, OWNER, 12, 3).await);
    claimed.sort();
    assert_eq!(
        claimed,
        [&flood[3..4], &late[2..4]].concat(),
        "three, then the oldest, then three again"
    );
}

/// Namespaces go before pipelines: one of many pipelines gets no more than one of few.
pub async fn namespaces_are_claimed_fairly(fixture: &dyn JournalFixture) {
    let journal = fixture.backend();
    let mut of_many = Vec::new();
    for name in ["a", "b", "c"] {
        simple(fixture, name, None, Overlap::Queue).await;
        of_many.extend(insert_many(&*journal, name, 2).await);
    }

    let other = NamespaceId::new("other").expect("a valid namespace");
    fixture.add_namespace(&other).await;
    fixture.add_pipeline(&other, spec("a", &["build"], None, Overlap::Queue)).await;
    let mut of_few = Vec::new();

    for seconds in 5..9 {
        let new = NewRun { namespace: other.clone(), ..new_run("a", seconds) };
        of_few.push(journal.insert_run(new).await.expect("insert_run").run.key);
    }

    let mut claimed = keys(&claim(&*journal, OWNER, 10, 4).await);
    claimed.sort();
    let oldest_of_two = [of_many[0].clone(), of_many[2].clone()];
    assert_eq!(claimed, [&oldest_of_two, &of_few[..2]].concat(), "two each");
    assert_eq!(claim(&*journal, OWNER, 11, 10).await.len(), 6, "all others");
}

/// Who holds as many runs as it may takes none that wait, but still running ones, and those that
/// are to be cancelled.
pub async fn a_limit_of_held_runs_is_for_those_that_wait(fixture: &dyn JournalFixture) {
    let journal = fixture.backend();
    simple(fixture, "ci", None, Overlap::Queue).await;
    let runs = insert_many(&*journal, "ci", 5).await;
    assert_eq!(keys(&claim(&*journal, OTHER, 10, 1).await), runs[..1]);

    let request =
        CancelRequest { at: at(11), by: "ada".to_owned(), force: false, message: String::new() };
    assert!(journal.request_cancel(&runs[4], None, request).await.expect("request_cancel"));
    let limit = |held| ClaimLimit { runs: 10, held };
    let claimed = journal.claim(OWNER, at(100), TTL, limit(1)).await.expect("claim");
    assert_eq!(keys(&claimed), [runs[0].clone(), runs[4].clone()]);

    let claimed = journal.claim(OWNER, at(101), TTL, limit(3)).await.expect("claim");
    assert_eq!(keys(&claimed), runs[1..2], "two are held already");

    // What has run out and is taken again counts once.
    let claimed = journal.claim(OWNER, at(200), TTL, limit(4)).await.expect("claim");
    assert_eq!(
        keys(&claimed),
        [runs[0].clone(), runs[1].clone(), runs[2].clone(), runs[4].clone()]
    );
}

/// Two who claim at once never get the same run, and together not more than there is room for.
pub async fn concurrent_claims_share_no_run(fixture: &dyn JournalFixture) {
    simple(fixture, "free", None, Overlap::Queue).await;
    simple(fixture, "bound", Some(3), Overlap::Queue).await;
    let free = insert_many(&*fixture.backend(), "free", 12).await;
    let bound = insert_many(&*fixture.backend(), "bound", 12).await;
    let claims = (0..6).map(|server| {
        let journal = fixture.backend();
        tokio::spawn(async move {
            let mut mine = Vec::new();
            for _ in 0..5 {
                mine.extend(keys(&claim(&*journal, &format!("server-{server}"), 100, 2).await));
            }
            mine
        })
    });

    let mut claimed: Vec<RunKey> = Vec::new();
    for joined in join_all(claims).await {
        claimed.extend(joined.expect("no panic"));
    }

    claimed.sort();
    let mut expected = [&bound[..3], &free[..]].concat();
    expected.sort();
    assert_eq!(claimed, expected);
}

/// Renewing prolongs every lease of the owner to `now + ttl`, and says how many those are; nobody
/// else's.
pub async fn renewing_prolongs_what_the_owner_holds(fixture: &dyn JournalFixture) {
    let journal = fixture.backend();
    simple(fixture, "ci", None, Overlap::Queue).await;
    let runs = insert_many(&*journal, "ci", 3).await;
    assert_eq!(keys(&claim(&*journal, OWNER, 10, 2).await), runs[..2]);
    assert_eq!(keys(&claim(&*journal, OTHER, 10, 2).await), runs[2..]);
    assert_eq!(journal.renew(OWNER, at(30), TTL).await.expect("renew"), 2);
    assert_eq!(journal.renew("server-3", at(30), TTL).await.expect("renew"), 0);
    assert_eq!(
        keys(&claim(&*journal, "server-3", 50, 10).await),
        runs[2..],
        "only the other's ran out at 40"
    );
    assert_eq!(
        keys(&claim(&*journal, "server-3", 61, 10).await),
        runs[..2],
        "the owner's ran out at 60"
    );
}

/// A renewal that was overtaken by a later one shortens nothing.
pub async fn renewing_never_shortens(fixture: &dyn JournalFixture) {
    let journal = fixture.backend();
    simple(fixture, "ci", None, Overlap::Queue).await;
    let run = insert(&*journal, "ci", 0).await.key;
    assert_eq!(claim(&*journal, OWNER, 10, 1).await.len(), 1);
    for seconds in [50, 20] {
        assert_eq!(journal.renew(OWNER, at(seconds), TTL).await.expect("renew"), 1);
    }
    assert!(claim(&*journal, OTHER, 79, 1).await.is_empty(), "it is held until 80");
    assert_eq!(keys(&claim(&*journal, OTHER, 81, 1).await), [run]);
}

/// A lease that ran out, but that nobody took, is still held and can be renewed.
pub async fn a_lease_that_ran_out_untaken_is_renewed(fixture: &dyn JournalFixture) {
    let journal = fixture.backend();
    simple(fixture, "ci", None, Overlap::Queue).await;
    insert(&*journal, "ci", 0).await;
    let lease = claim(&*journal, OWNER, 10, 1).await.remove(0);
    assert_eq!(journal.renew(OWNER, at(1_000), TTL).await.expect("renew"), 1);
    assert!(claim(&*journal, OTHER, 1_020, 1).await.is_empty(), "it is held until 1030");
    assert_eq!(commit(&*journal, nothing(&lease)).await, Committed::Done);
}

/// A lease that somebody else has taken is not renewed.
pub async fn a_lease_that_was_taken_is_not_renewed(fixture: &dyn JournalFixture) {
    let journal = fixture.backend();
    simple(fixture, "ci", None, Overlap::Queue).await;
    insert(&*journal, "ci", 0).await;
    assert_eq!(claim(&*journal, OWNER, 10, 1).await.len(), 1);
    assert_eq!(claim(&*journal, OTHER, 100, 1).await.len(), 1);
    assert_eq!(journal.renew(OWNER, at(101), TTL).await.expect("renew"), 0);
    assert_eq!(journal.renew(OTHER, at(101), TTL).await.expect("renew"), 1);
}

/// What an owner releases can be claimed at once; nobody else's leases are touched.
pub async fn released_runs_are_claimed_at_once(fixture: &dyn JournalFixture) {
    let journal = fixture.backend();
    simple(fixture, "ci", None, Overlap::Queue).await;
    let runs = insert_many(&*journal, "ci", 3).await;
    assert_eq!(claim(&*journal, OWNER, 10, 2).await.len(), 2);
    assert_eq!(claim(&*journal, OTHER, 10, 2).await.len(), 1);
    for _ in 0..2 {
        journal.release(OWNER).await.expect("release");
    }
    assert_eq!(journal.renew(OWNER, at(11), TTL).await.expect("renew"), 0);
    assert_eq!(keys(&claim(&*journal, "server-3", 11, 10).await), runs[..2]);
}

async fn claim(journal: &dyn Journal, owner: &str, seconds: i64, limit: usize) -> Vec<Lease> {
    journal.claim(owner, at(seconds), Duration::from_secs(30), limit.into()).await.expect("claim")
}

/// Inserts runs one second after another.
async fn insert_many(journal: &dyn Journal, pipeline: &str, count: i64) -> Vec<RunKey> {
    let mut runs = Vec::new();
    for seconds in 0..count {
        runs.push(insert(journal, pipeline, seconds).await.key);
    }
    runs
}
