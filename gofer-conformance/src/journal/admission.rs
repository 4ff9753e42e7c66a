//! The words and the order of [`gofer_core::admission`], which every journal takes from there.

use gofer_core::event::EventDetails;
use gofer_core::id::{NamespaceId, RunNumber, Version};
use gofer_core::journal::{Claim, ClaimLimit, JournalError, NewRun};
use gofer_core::pipeline::Overlap;
use gofer_core::run::{CancelRequest, Reason, ReasonKind, RunState, RunStatus, TaskState};

use super::JournalFixture;
use super::fixture::{
    OWNER, TTL, at, insert, keys, last_event, load, namespace, new_events, new_run, pipeline_id,
    register, simple, spec, task_id,
};

/// What a run names and does not exist is said in the same words everywhere.
pub async fn a_refusal_names_what_is_missing(fixture: &dyn JournalFixture) {
    let journal = fixture.backend();
    simple(fixture, "ci", None, Overlap::Queue).await;
    let later = NewRun { version: Some(Version(7)), ..new_run("ci", 0) };
    for (new, text) in [
        (new_run("unknown", 0), "pipeline `conformance/unknown` does not exist"),
        (later, "pipeline version `conformance/ci/7` does not exist"),
    ] {
        let refused = journal.insert_run(new).await.expect_err("there is none");
        assert_eq!(refused.to_string(), text);
    }
}

/// That a pipeline is disabled is said before its version is looked for.
pub async fn a_disabled_pipeline_is_refused_whatever_the_version(fixture: &dyn JournalFixture) {
    let journal = fixture.backend();
    simple(fixture, "ci", None, Overlap::Queue).await;
    fixture.set_pipeline_enabled(&namespace(), &pipeline_id("ci"), false).await;
    let later = NewRun { version: Some(Version(7)), ..new_run("ci", 0) };
    let refused = journal.insert_run(later).await.expect_err("it is disabled");
    assert!(matches!(refused, JournalError::Disabled { .. }), "{refused:?}");
    let text = "pipeline `conformance/ci` is disabled; enable it with `gofer pipeline enable`";
    assert_eq!(refused.to_string(), text);
}

/// The reason of a skipped run says how many runs were active, and how many may be; all of its
/// tasks have it.
pub async fn a_skipped_run_says_why(fixture: &dyn JournalFixture) {
    let journal = fixture.backend();
    register(fixture, spec("ci", &["build", "test"], Some(1), Overlap::Queue)).await;
    for seconds in 0..2 {
        insert(&*journal, "ci", seconds).await;
    }

    register(fixture, spec("ci", &["build", "test"], Some(1), Overlap::Skip)).await;
    let skipped = insert(&*journal, "ci", 2).await;
    let text = "2 runs of this pipeline were active, and its parallelism is 1";
    let reason = Some(Reason::new(ReasonKind::OverlapSkipped, text));
    assert_eq!((skipped.state, &skipped.reason), (cancelled(), &reason));

    for task in load(&*journal, &skipped.key).await.tasks.values() {
        assert_eq!((&task.reason, task.ended_at), (&reason, Some(at(2))));
    }
}

/// A reused task names the run in which it ended; a run that repeats none reuses nothing.
pub async fn a_reused_task_names_its_run(fixture: &dyn JournalFixture) {
    let journal = fixture.backend();
    register(fixture, spec("ci", &["build", "test"], None, Overlap::Queue)).await;
    let reusing =
        |retry_of| NewRun { retry_of, reused: vec![task_id("build")], ..new_run("ci", 1) };

    let retry = journal.insert_run(reusing(Some(RunNumber(3)))).await.expect("insert_run").run;
    let task = load(&*journal, &retry.key).await.tasks.remove(&task_id("build")).expect("it is");
    let reason = Reason::new(ReasonKind::Reused, "ended successfully in run 3");
    assert_eq!(task.reason, Some(reason));

    let other = journal.insert_run(reusing(None)).await.expect("insert_run").run;
    let task = load(&*journal, &other.key).await.tasks.remove(&task_id("build")).expect("it is");
    assert_eq!(task.state, TaskState::Pending);
}

/// Runs that make room are asked before the one is created that they make it for, by Gofer itself
/// and in words that name it.
pub async fn superseded_runs_are_asked_before_the_newer_is_created(fixture: &dyn JournalFixture) {
    let journal = fixture.backend();
    simple(fixture, "ci", Some(1), Overlap::CancelRunning).await;
    let old = insert(&*journal, "ci", 0).await;
    let before = last_event(fixture).await;
    let newer = insert(&*journal, "ci", 5).await;

    let message = "superseded by run 2".to_owned();
    let request = CancelRequest { at: at(5), by: "gofer".to_owned(), force: false, message };
    assert_eq!(load(&*journal, &old.key).await.run.cancel, Some(request.clone()));

    let events = new_events(fixture, before).await;
    let told: Vec<_> =
        events.iter().map(|event| (event.subject.run, event.actor.as_str())).collect();
    assert_eq!(told, [(Some(old.key.run), "gofer"), (Some(newer.key.run), "token-1")]);
    let CancelRequest { force, message, .. } = request;
    assert_eq!(events[0].details, EventDetails::RunCancelRequested { force, message });
}

/// `overlap` and `parallelism` are those of the pipeline's latest version, whatever version a run
/// is of: those that wait may be of many.
pub async fn the_latest_version_says_how_many_may_run(fixture: &dyn JournalFixture) {
    let journal = fixture.backend();
    simple(fixture, "narrowed", None, Overlap::Queue).await;
    simple(fixture, "widened", Some(1), Overlap::Skip).await;
    let of_first = |pipeline: &str, seconds| NewRun {
        version: Some(Version(1)),
        ..new_run(pipeline, seconds)
    };

    let first = insert(&*journal, "narrowed", 0).await;
    simple(fixture, "narrowed", Some(1), Overlap::Skip).await;
    let skipped = journal.insert_run(of_first("narrowed", 1)).await.expect("insert_run").run;
    assert_eq!(skipped.state, cancelled(), "one is active, and no more may be");
    simple(fixture, "narrowed", Some(1), Overlap::Queue).await;
    journal.insert_run(of_first("narrowed", 2)).await.expect("insert_run");

    insert(&*journal, "widened", 3).await;
    simple(fixture, "widened", None, Overlap::Queue).await;
    let second = journal.insert_run(of_first("widened", 4)).await.expect("insert_run").run;
    assert_eq!(second.state, RunState::Pending, "any number may be active");

    let leases = journal.claim(OWNER, at(5), TTL, 10.into()).await.expect("claim");
    let of_narrowed: Vec<_> =
        keys(&leases).into_iter().filter(|key| key.pipeline == first.key.pipeline).collect();
    assert_eq!((of_narrowed, leases.len()), (vec![first.key], 3));
}

/// Behind a run that waits none is claimed as it is inserted, also when the one is to be cancelled:
/// whoever claims it sees to both.
pub async fn a_run_behind_one_that_is_to_be_cancelled_waits(fixture: &dyn JournalFixture) {
    let journal = fixture.backend();
    simple(fixture, "ci", Some(1), Overlap::CancelRunning).await;
    let old = insert(&*journal, "ci", 0).await;
    let claim = Claim { owner: OWNER.to_owned(), ttl: TTL, most: usize::MAX, first: None };
    let new = NewRun { claim: Some(claim), ..new_run("ci", 1) };
    let inserted = journal.insert_run(new).await.expect("insert_run");
    assert_eq!(inserted.superseded, [old.key]);
    assert!(inserted.claimed.is_none() && inserted.run.state == RunState::Pending, "{inserted:?}");
}

/// Of two runs the one that was inserted first is the older, whatever their servers' clocks said.
pub async fn the_older_run_is_the_one_inserted_first(fixture: &dyn JournalFixture) {
    let journal = fixture.backend();
    simple(fixture, "ci", Some(2), Overlap::CancelRunning).await;
    let first = insert(&*journal, "ci", 9).await.key;
    let second = insert(&*journal, "ci", 3).await.key;
    let leases = journal.claim(OWNER, at(10), TTL, 10.into()).await.expect("claim");
    assert_eq!(keys(&leases), [first.clone(), second]);
    let third = journal.insert_run(new_run("ci", 1)).await.expect("insert_run");
    assert_eq!(third.superseded, [first]);
}

/// A run that is claimed to be cancelled counts as a running one of its namespace when it is
/// decided who goes next.
pub async fn runs_to_be_cancelled_count_for_their_namespace(fixture: &dyn JournalFixture) {
    let journal = fixture.backend();
    let other = NamespaceId::new("other").expect("a valid namespace");
    fixture.add_namespace(&other).await;
    fixture.add_pipeline(&other, spec("ci", &["build"], None, Overlap::Queue)).await;
    for name in ["cancelled", "waits"] {
        simple(fixture, name, None, Overlap::Queue).await;
    }

    let dropped = insert(&*journal, "cancelled", 0).await.key;
    insert(&*journal, "waits", 1).await;
    let elsewhere = NewRun { namespace: other, ..new_run("ci", 2) };
    let elsewhere = journal.insert_run(elsewhere).await.expect("insert_run").run.key;
    let request =
        CancelRequest { at: at(3), by: "ada".to_owned(), force: false, message: String::new() };
    assert!(journal.request_cancel(&dropped, None, request).await.expect("request_cancel"));

    let limit = ClaimLimit { runs: 2, held: usize::MAX };
    let leases = journal.claim(OWNER, at(4), TTL, limit).await.expect("claim");
    assert_eq!(keys(&leases), [dropped, elsewhere], "the other namespace has fewer");
}

fn cancelled() -> RunState {
    RunState::Complete(RunStatus::Cancelled)
}
