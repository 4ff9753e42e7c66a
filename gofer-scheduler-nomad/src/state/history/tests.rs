use gofer_core::scheduler::ExecutionState;

use super::*;
use crate::state;

/// What agent 2.0.5 told of four tasks on `raw_exec`, without the fields that matter to nobody
/// here.
const EXITED: &str = include_str!("events/exited.json");
const STOPPED: &str = include_str!("events/stopped.json");
/// Its job was stopped a second after its end.
const STOPPED_TOO_LATE: &str = include_str!("events/stopped-too-late.json");
/// Agent, executor and task were killed, and the agent started again.
const POWER_CUT: &str = include_str!("events/power-cut.json");

fn told(state: &str) -> Alloc {
    let text =
        format!(r#"{{"ID": "1", "ClientStatus": "complete", "TaskStates": {{"main": {state}}}}}"#);
    serde_json::from_str(&text).unwrap()
}

#[test]
fn what_a_real_agent_told_is_understood() {
    let guarded = Marks { guarded: true, ..Marks::default() };
    let exited = |code| ExecutionState::Exited { code, oom: false, signal: None };
    for (told_of, stopped, expected) in [
        (EXITED, false, exited(3)),
        (EXITED, true, exited(3)),
        (STOPPED, true, ExecutionState::Stopped),
        (STOPPED, false, ExecutionState::Lost),
        (STOPPED_TOO_LATE, true, exited(0)),
        (POWER_CUT, false, ExecutionState::Lost),
    ] {
        assert_eq!(
            state::of_alloc(&told(told_of), stopped, guarded),
            expected,
            "{stopped} {told_of}"
        );
    }
}

#[test]
fn a_real_agents_times_are_its_processs() {
    let seen = |text| {
        let ExecutionTimes { started_at, ended_at, ran } = times(&told(text));
        (started_at.map(|at| at.0), ended_at.map(|at| at.0), ran.map(|ran| ran.as_micros()))
    };
    assert_eq!(
        seen(EXITED),
        (Some(1_796_031_067_881_663), Some(1_796_031_068_873_743), Some(992_080))
    );
    assert_eq!(
        seen(STOPPED),
        (Some(1_796_031_068_845_315), Some(1_796_031_070_697_256), Some(1_851_941))
    );
    assert_eq!(seen(POWER_CUT), (Some(1_796_029_345_817_703), None, None));
}

fn alloc(events: &str, started_at: &str, finished_at: &str) -> Alloc {
    serde_json::from_str(&format!(
        r#"{{"ID": "1", "ClientStatus": "complete", "TaskStates": {{"main": {{"State": "dead", "Failed": false,
            "Restarts": 0, "LastRestart": null, "StartedAt": {started_at}, "FinishedAt": {finished_at},
            "Events": [{events}]}}}}}}"#
    ))
    .unwrap()
}

fn event(kind: &str, time: i64) -> String {
    format!(
        r#"{{"Type": "{kind}", "Time": {time}, "DisplayMessage": "", "Details": {{"exit_code": "0"}}}}"#
    )
}

fn times(alloc: &Alloc) -> ExecutionTimes {
    History::of(alloc).times(Marks { guarded: true, ..Marks::default() })
}

const SECOND: i64 = 1_000_000_000;

#[test]
fn times_are_the_processs() {
    let events = [
        event("Received", 1),
        event("Started", 10 * SECOND),
        event("Terminated", 13 * SECOND + 500),
    ];
    let seen =
        times(&alloc(&events.join(","), r#""1970-01-01T00:00:11Z""#, r#""1970-01-01T00:00:20Z""#));
    assert_eq!(seen.started_at, Some(Timestamp(10_000_000)));
    assert_eq!(seen.ended_at, Some(Timestamp(13_000_000)));
    assert_eq!(seen.ran, Some(Duration::from_nanos(3_000_000_500)));
}

#[test]
fn what_is_not_among_the_last_events_is_told_by_the_state() {
    let seen =
        times(&alloc("", r#""1970-01-01T00:00:11.5Z""#, r#""1970-01-01T00:00:20.000000001Z""#));
    assert_eq!(
        (seen.started_at, seen.ended_at),
        (Some(Timestamp(11_500_000)), Some(Timestamp(20_000_000)))
    );
    assert_eq!(
        times(&alloc("", "null", r#""1970-01-01T00:00:20Z""#)),
        ExecutionTimes::UNKNOWN,
        "it never ran"
    );

    let running = times(&alloc(&event("Started", 10 * SECOND), "null", "null"));
    assert_eq!(
        (running.started_at, running.ended_at, running.ran),
        (Some(Timestamp(10_000_000)), None, None)
    );
}

#[test]
fn of_two_starts_the_first_counts() {
    let again = [
        event("Started", 10 * SECOND),
        event("Failed Restoring Task", 20 * SECOND),
        event("Started", 21 * SECOND),
    ];
    let ended = [&again[..], &[event("Terminated", 30 * SECOND)]].concat();
    let seen = times(&alloc(&ended.join(","), "null", "null"));
    assert_eq!(
        (seen.started_at, seen.ended_at, seen.ran),
        (Some(Timestamp(10_000_000)), None, None),
        "it is not known"
    );
}
