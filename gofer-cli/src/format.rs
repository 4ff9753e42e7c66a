//! Values of the contract in words: times, lengths, sizes, states.

use std::fmt::Write as _;
use std::time::Duration;

use gofer_proto::v1::{
    InitiatorKind, Reason, Run, RunState, RunStatus, TaskRun, TaskRunState, TaskRunStatus,
};
use jiff::tz::TimeZone;
use prost_types::Timestamp;

use crate::output::printable;

/// Date and time in the local time zone; empty when absent.
pub(crate) fn time(timestamp: Option<&Timestamp>) -> String {
    strftime(timestamp, "%Y-%m-%d %H:%M:%S")
}

/// Time of day in the local time zone.
pub(crate) fn clock(timestamp: jiff::Timestamp) -> String {
    timestamp.to_zoned(TimeZone::system()).strftime("%H:%M:%S").to_string()
}

/// RFC 3339 in UTC, to the millisecond; empty when out of range.
pub(crate) fn stamp(timestamp: &Timestamp) -> String {
    instant(timestamp).map_or_else(String::new, |at| format!("{at:.3}"))
}

fn strftime(timestamp: Option<&Timestamp>, pattern: &str) -> String {
    timestamp.and_then(instant).map_or_else(String::new, |at| {
        at.to_zoned(TimeZone::system()).strftime(pattern).to_string()
    })
}

/// The point in time, unless it is out of range.
pub(crate) fn instant(timestamp: &Timestamp) -> Option<jiff::Timestamp> {
    jiff::Timestamp::new(timestamp.seconds, timestamp.nanos).ok()
}

/// The time between two points, the second one being now when absent; `None` when the first one is
/// absent.
pub(crate) fn elapsed(from: Option<&Timestamp>, to: Option<&Timestamp>) -> Option<Duration> {
    let from = from.and_then(instant)?;
    let to = to.map_or_else(|| Some(jiff::Timestamp::now()), instant)?;
    Some(Duration::try_from(to.duration_since(from)).unwrap_or_default())
}

/// A length of time as people say it: `0.3s`, `12.0s`, `3m05s`, `2h04m`.
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{:.1}s", duration.as_secs_f64()),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
    }
}

/// A number of bytes as people say it.
pub(crate) fn size(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

/// The value of an enum as a word: `TASK_RUN_STATUS_TIMED_OUT` without `TASK_RUN_STATUS_` is
/// `timed out`.
pub(crate) fn word(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_ascii_lowercase().replace('_', " ")
}

/// What a run came to, or how far it is.
pub(crate) fn run_state(state: RunState, status: RunStatus) -> String {
    match state {
        RunState::Complete => word(status.as_str_name(), "RUN_STATUS_"),
        state => word(state.as_str_name(), "RUN_STATE_"),
    }
}

/// What a task run came to, or how far it is.
pub(crate) fn task_state(task: &TaskRun) -> String {
    match task.state() {
        TaskRunState::Complete => task_status(task.status()),
        TaskRunState::Pending if task.not_before.is_some() => "retrying".to_owned(),
        state => word(state.as_str_name(), "TASK_RUN_STATE_"),
    }
}

/// What a task run or an attempt came to.
pub(crate) fn task_status(status: TaskRunStatus) -> String {
    word(status.as_str_name(), "TASK_RUN_STATUS_")
}

/// The reason's sentence; empty when absent.
pub(crate) fn reason(reason: Option<&Reason>) -> String {
    reason.map_or_else(String::new, |reason| match reason.message.as_str() {
        "" => reason.kind.replace('_', " "),
        message => message.to_owned(),
    })
}

/// `token alice`, `trigger cron/nightly`; empty when absent.
pub(crate) fn initiator(initiator: Option<&gofer_proto::v1::Initiator>) -> String {
    initiator.map_or_else(String::new, |initiator| {
        let kind = InitiatorKind::try_from(initiator.kind).unwrap_or_default();
        format!("{} {}", word(kind.as_str_name(), "INITIATOR_KIND_"), initiator.name)
            .trim_end()
            .to_owned()
    })
}

/// `default/ci #7`.
pub(crate) fn run_name(run: &Run) -> String {
    printable(&format!("{}/{} #{}", run.namespace, run.pipeline, run.run))
}

/// How long an attempt took; empty when it never ran.
pub(crate) fn took(from: Option<&Timestamp>, to: Option<&Timestamp>) -> String {
    elapsed(from, to).map_or_else(String::new, duration)
}

/// Bytes as the contract writes a hash.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_short() {
        let said = |ms| duration(Duration::from_millis(ms));
        assert_eq!(
            [said(0), said(340), said(59_940), said(65_000), said(7_440_000)],
            ["0.0s", "0.3s", "59.9s", "1m05s", "2h04m"]
        );
    }

    #[test]
    fn stamps_are_utc_to_the_millisecond() {
        let at = |nanos| Timestamp { seconds: 1_795_525_766, nanos };
        assert_eq!(stamp(&at(7_999_999)), "2026-11-24T13:09:26.007Z");
        assert_eq!(stamp(&at(0)), "2026-11-24T13:09:26.000Z");
    }

    #[test]
    fn states_are_words() {
        let task = TaskRun {
            state: TaskRunState::Complete.into(),
            status: TaskRunStatus::TimedOut.into(),
            ..TaskRun::default()
        };
        assert_eq!(task_state(&task), "timed out");
        assert_eq!(run_state(RunState::Running, RunStatus::Unspecified), "running");
    }

    #[test]
    fn a_time_that_is_out_of_range_is_no_panic() {
        let absurd = Timestamp { seconds: i64::MAX, nanos: 0 };
        assert_eq!(time(Some(&absurd)), "");
        assert_eq!(elapsed(Some(&absurd), None), None);
    }
}
