use serde_json::json;

use super::*;
use crate::job::guard;
use crate::job::names::{META_CONTAINER, META_GUARDED, META_KIND};

const LOST_AFTER: Duration = Duration::from_secs(120);
const NOW: i64 = 1_700_000_000_000_000_000;

fn job(stop: bool) -> Job {
    Job { id: "gofer-a".into(), stop, ..Job::default() }
}

fn event(kind: &str, details: serde_json::Value) -> serde_json::Value {
    json!({"Type": kind, "DisplayMessage": "display", "Details": details})
}

fn terminated(code: i32, signal: i32, oom: bool) -> serde_json::Value {
    let oom = if oom { "true" } else { "false" };
    event(
        "Terminated",
        json!({"exit_code": code.to_string(), "signal": signal.to_string(), "oom_killed": oom}),
    )
}

fn alloc(status: &str, events: &[serde_json::Value]) -> Alloc {
    serde_json::from_value(json!({
        "ID": "1", "JobID": "gofer-a", "NodeName": "n1", "DesiredStatus": "run", "ClientStatus": status,
        "ClientDescription": "Failed tasks", "CreateIndex": 10, "ModifyTime": NOW, "TaskStates": {"main": {"Events": events}},
    }))
    .unwrap()
}

fn state_of(stop: bool, alloc: Alloc) -> ExecutionState {
    view(&job(stop), &[alloc], &[], LOST_AFTER, NOW).state
}

fn exited(code: i32) -> ExecutionState {
    ExecutionState::Exited { code, oom: false, signal: None }
}

#[test]
fn success_needs_an_exit_code() {
    let started = event("Started", json!({}));
    assert_eq!(
        state_of(false, alloc("complete", &[started.clone(), terminated(0, 0, false)])),
        exited(0)
    );
    assert_eq!(
        state_of(false, alloc("failed", &[started.clone(), terminated(3, 0, false)])),
        exited(3)
    );
    assert_eq!(state_of(false, alloc("complete", &[started])), ExecutionState::Lost);
    assert_eq!(state_of(false, alloc("complete", &[])), ExecutionState::Lost);
}

#[test]
fn signals_and_memory_are_told() {
    let killed = state_of(false, alloc("failed", &[terminated(137, 9, false)]));
    assert_eq!(killed, ExecutionState::Exited { code: 137, oom: false, signal: Some(9) });
    let oom = state_of(false, alloc("failed", &[terminated(137, 0, true)]));
    assert_eq!(oom, ExecutionState::Exited { code: 137, oom: true, signal: None });
}

/// Docker tells an exit code, and nothing else.
#[test]
fn of_a_container_an_exit_code_above_128_is_a_signal() {
    let mut container = job(false);
    container.meta.insert(META_CONTAINER.to_owned(), "1".to_owned());
    let of = |code: i32, oom: bool| {
        view(&container, &[alloc("failed", &[terminated(code, 0, oom)])], &[], LOST_AFTER, NOW)
            .state
    };

    assert_eq!(of(143, false), ExecutionState::Exited { code: 143, oom: false, signal: Some(15) });
    assert_eq!(of(137, true), ExecutionState::Exited { code: 137, oom: true, signal: None });
    for code in [0, 3, 128, 193, 255] {
        assert_eq!(of(code, false), exited(code));
    }

    assert_eq!(
        state_of(false, alloc("failed", &[terminated(143, 0, false)])),
        exited(143),
        "on the host"
    );
}

#[test]
fn a_stop_is_told_from_a_drain() {
    let killed = [
        event("Started", json!({})),
        event("Killing", json!({})),
        terminated(7, 0, false),
        event("Killed", json!({})),
    ];

    assert_eq!(state_of(true, alloc("complete", &killed)), ExecutionState::Stopped);
    let drain = |alloc: &mut Alloc| alloc.desired_transition.migrate = true;
    let evict = |alloc: &mut Alloc| alloc.desired_status = "evict".to_owned();
    let preempt = |alloc: &mut Alloc| alloc.preempted_by_allocation = "2".to_owned();
    let changes: [&dyn Fn(&mut Alloc); 3] = [&drain, &evict, &preempt];

    for change in changes {
        let mut given_up = alloc("complete", &killed);
        change(&mut given_up);
        // The fence stops the job, and that must not make a stop of it.
        for stop in [false, true] {
            let seen = view(&job(stop), &[given_up.clone()], &[], LOST_AFTER, NOW);
            assert_eq!(seen, View::lost("nomad gave its allocation up"));
        }
    }

    let by_hand = view(&job(false), &[alloc("complete", &killed)], &[], LOST_AFTER, NOW);
    assert_eq!(by_hand, View::lost("nomad gave its allocation up"));
}

#[test]
fn what_ended_before_the_stop_reached_it_keeps_its_exit_code() {
    let late = [terminated(0, 0, false), event("Killing", json!({})), event("Killed", json!({}))];
    assert_eq!(state_of(true, alloc("complete", &late)), exited(0));
    assert_eq!(state_of(true, alloc("failed", &[terminated(3, 0, false)])), exited(3));
}

#[test]
fn a_kill_signal_that_overtakes_the_stop_is_a_stop() {
    let events =
        [event("Started", json!({})), event("Signaling", json!({})), terminated(137, 9, false)];
    assert_eq!(state_of(true, alloc("failed", &events)), ExecutionState::Stopped);
    let by_hand = state_of(false, alloc("failed", &events));
    assert_eq!(by_hand, ExecutionState::Exited { code: 137, oom: false, signal: Some(9) });
}

#[test]
fn failures_are_classified() {
    let cases = [
        (
            "Driver Failure",
            "driver_error",
            "Failed to pull `x`: manifest unknown",
            FailureKind::ImageUnavailable,
        ),
        (
            "Driver Failure",
            "driver_error",
            "rpc error: code = Unknown desc = failed to start task, unable to pull image \
             localhost/no-such : cannot pull",
            FailureKind::ImageUnavailable,
        ),
        (
            "Driver Failure",
            "driver_error",
            "failed to launch command with executor: rpc error: binary \"x\" could not be found",
            FailureKind::CommandNotFound,
        ),
        (
            "Driver Failure",
            "driver_error",
            "exec: \"x\": executable file not found in $PATH",
            FailureKind::CommandNotFound,
        ),
        (
            "Driver Failure",
            "driver_error",
            "cannot connect to the docker daemon",
            FailureKind::Setup,
        ),
        ("Failed Validation", "validation_error", "unknown key", FailureKind::Refused),
        ("Failed Artifact Download", "download_error", "404", FailureKind::Setup),
        ("Setup Failure", "setup_error", "no disk", FailureKind::Setup),
    ];
    for (kind, key, text, expected) in cases {
        let events = [event(kind, json!({key: text})), event("Not Restarting", json!({}))];
        match state_of(false, alloc("failed", &events)) {
            ExecutionState::Failed { kind, message } => {
                assert_eq!(kind, expected, "{text}");
                assert!(message.contains(text), "{message}");
            }
            other => panic!("{text}: {other:?}"),
        }
    }
}

#[test]
fn a_silent_node_is_lost_after_a_while_and_the_job_is_fenced() {
    let unknown = |age: Duration| {
        let mut alloc = alloc("unknown", &[event("Started", json!({}))]);
        alloc.modify_time = NOW - i64::try_from(age.as_nanos()).unwrap();
        view(&job(false), &[alloc], &[], LOST_AFTER, NOW)
    };

    let early = unknown(Duration::from_secs(100));
    assert_eq!(
        (early.state, early.lost_in),
        (ExecutionState::Running, Some(Duration::from_secs(20)))
    );
    assert_eq!(
        unknown(Duration::from_secs(121)),
        View::lost("its node was out of reach for too long")
    );

    let lost = view(&job(false), &[alloc("lost", &[])], &[], LOST_AFTER, NOW);
    assert_eq!(lost, View::lost("nomad gave its allocation up"));
}

#[test]
fn a_replacement_is_never_taken_for_the_execution() {
    let second = |status: &str| Alloc {
        id: "2".into(),
        create_index: 20,
        ..alloc(status, &[terminated(0, 0, false)])
    };

    let lost = View::lost("nomad placed a replacement");
    let ended = View { fence: Some(Fence::Stop), ..View::of(exited(3)) };
    for (first, expected) in [
        (alloc("lost", &[]), lost.clone()),
        (alloc("unknown", &[]), lost.clone()),
        (alloc("running", &[]), lost),
        (alloc("failed", &[terminated(3, 0, false)]), ended),
    ] {
        for replacement in ["running", "complete"] {
            // The order of the list does not say which was first.
            let seen =
                view(&job(false), &[second(replacement), first.clone()], &[], LOST_AFTER, NOW);
            assert_eq!(seen, expected, "{first:?}");
        }
    }
}

#[test]
fn what_is_not_placed_is_queued_until_its_stop_is_decided() {
    let pending = Evaluation { status: "pending".into(), ..Evaluation::default() };
    let complete = Evaluation { status: "complete".into(), ..Evaluation::default() };
    let seen = |stop, evaluation| view(&job(stop), &[], &[evaluation], LOST_AFTER, NOW).state;
    assert_eq!(seen(false, complete.clone()), ExecutionState::Queued { reason: String::new() });
    assert_eq!(seen(true, pending), ExecutionState::Queued { reason: String::new() });
    assert_eq!(seen(true, complete), ExecutionState::Stopped);
}

#[test]
fn a_service_ends_only_by_a_stop() {
    let service =
        |stop| Job { meta: [(META_KIND.to_owned(), "service".to_owned())].into(), ..job(stop) };
    let dead = alloc("failed", &[terminated(1, 0, false)]);
    let live = Alloc { create_index: 20, ..alloc("running", &[]) };
    let seen = |stop, allocs: &[Alloc]| view(&service(stop), allocs, &[], LOST_AFTER, NOW).state;
    assert!(matches!(seen(false, std::slice::from_ref(&dead)), ExecutionState::Queued { .. }));
    assert_eq!(seen(false, &[dead.clone(), live.clone()]), ExecutionState::Running);
    assert_eq!(seen(true, &[dead.clone(), live]), ExecutionState::Running);
    assert_eq!(seen(true, &[dead]), ExecutionState::Stopped);
}

#[test]
fn a_refused_spec_is_an_execution_that_failed() {
    let refused = Job {
        meta: [(META_REFUSED.to_owned(), "there is no command".to_owned())].into(),
        ..job(true)
    };
    let state = view(&refused, &[], &[], LOST_AFTER, NOW).state;
    assert_eq!(
        state,
        ExecutionState::Failed {
            kind: FailureKind::Refused,
            message: "there is no command".to_owned()
        }
    );
}

#[test]
fn what_was_given_up_stays_lost_whatever_its_node_says() {
    let marked = Job { meta: [(META_LOST.to_owned(), "why".to_owned())].into(), ..job(true) };
    let killed =
        [event("Killing", json!({})), terminated(143, 15, false), event("Killed", json!({}))];
    for alloc in [alloc("unknown", &[]), alloc("running", &[]), alloc("complete", &killed)] {
        let seen = view(&marked, &[alloc], &[], LOST_AFTER, NOW);
        assert_eq!(seen, View::of(ExecutionState::Lost), "nothing is left to be done");
    }
    let ended = alloc("complete", &[terminated(0, 0, false)]);
    assert_eq!(view(&marked, &[ended], &[], LOST_AFTER, NOW).state, ExecutionState::Lost);
}

fn guarded(alloc: Alloc) -> View {
    let job = Job { meta: [(META_GUARDED.to_owned(), "1".to_owned())].into(), ..job(false) };
    view(&job, &[alloc], &[], LOST_AFTER, NOW)
}

#[test]
fn a_second_start_is_a_loss_once_it_is_over() {
    let (started, again) = (event("Started", json!({})), event("Failed Restoring Task", json!({})));
    let signaled = event("Restart Signaled", json!({}));
    let end = terminated(0, 0, false);
    let kept_out = terminated(guard::BEGUN_BEFORE, 0, false);

    for events in [
        vec![started.clone(), again.clone(), started.clone(), end.clone()],
        vec![started.clone(), again.clone(), started.clone(), kept_out.clone()],
        vec![started.clone(), started.clone(), end.clone()],
        vec![
            started.clone(),
            signaled.clone(),
            terminated(143, 15, false),
            started.clone(),
            end.clone(),
        ],
        vec![
            started.clone(),
            signaled,
            terminated(143, 15, false),
            started.clone(),
            kept_out.clone(),
        ],
        vec![
            started.clone(),
            again.clone(),
            event("Killing", json!({})),
            event("Killed", json!({})),
        ],
    ] {
        assert_eq!(guarded(alloc("complete", &events)), View::lost(BEGUN_TWICE), "{events:?}");
    }

    for status in ["pending", "running"] {
        let now = alloc(status, &[started.clone(), again.clone()]);
        let stopped = View { fence: Some(Fence::Stop), ..View::of(ExecutionState::Running) };
        assert_eq!(
            view(&job(false), std::slice::from_ref(&now), &[], LOST_AFTER, NOW),
            stopped,
            "{status}"
        );

        let waits = View { lost_in: Some(KEEP_OUT_TIMEOUT), ..View::of(ExecutionState::Running) };
        assert_eq!(guarded(now.clone()), waits, "its shell keeps it out");
        let modify_time = NOW - i64::try_from(KEEP_OUT_TIMEOUT.as_nanos()).unwrap();
        assert_eq!(guarded(Alloc { modify_time, ..now }), stopped, "the mark did not survive");
    }

    let stopped =
        view(&job(true), &[alloc("running", &[started.clone(), again])], &[], LOST_AFTER, NOW);
    assert_eq!(stopped, View::of(ExecutionState::Running), "it is being stopped");
}

/// Seen in the field: the agent was killed in the second in which the task ended.
#[test]
fn an_end_before_a_second_start_that_was_kept_out_is_the_end() {
    let (started, again) = (event("Started", json!({})), event("Failed Restoring Task", json!({})));
    let kept_out = [started.clone(), terminated(guard::BEGUN_BEFORE, 0, false)];
    let stopped = [event("Killing", json!({})), event("Killed", json!({}))];
    for second in [&kept_out[..], &stopped] {
        let events =
            [&[started.clone(), terminated(3, 0, false), again.clone()][..], second].concat();
        assert_eq!(guarded(alloc("failed", &events)), View::of(exited(3)), "{events:?}");
    }
    let twice = [started.clone(), terminated(0, 0, false), again, started, terminated(0, 0, false)];
    assert_eq!(guarded(alloc("complete", &twice)), View::lost(BEGUN_TWICE), "both ran");
}

#[test]
fn only_a_guarded_end_may_have_left_word() {
    let guarded = Marks { guarded: true, ..Marks::default() };
    let container = Marks { in_container: true, ..guarded };
    let supervised = Marks { supervised: true, ..guarded };

    for (marks, code, expected) in [
        (guarded, 118, true),
        (guarded, 126, true),
        (guarded, 127, true),
        (guarded, 1, false),
        (container, 118, true),
        (container, 127, false),
        (Marks::default(), 118, false),
        (Marks::default(), 127, false),
        (supervised, 0, true),
    ] {
        assert_eq!(marks.leave_word(&exited(code)), expected, "{marks:?} {code}");
    }
}
