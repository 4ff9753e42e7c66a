//! Timelines.

use gofer_engine::timeline::{Phase, Span};
use gofer_proto::v1;

use super::{optional_timestamp, timestamp};

/// A stretch of time.
pub(crate) fn timeline_span(span: &Span) -> v1::TimelineSpan {
    let phase = match span.phase {
        Phase::Queued => v1::TimelinePhase::Queued,
        Phase::WaitingForParents => v1::TimelinePhase::WaitingForParents,
        Phase::WaitingForSlot => v1::TimelinePhase::WaitingForSlot,
        Phase::Starting => v1::TimelinePhase::Starting,
        Phase::Running => v1::TimelinePhase::Running,
        Phase::RetryBackoff => v1::TimelinePhase::RetryBackoff,
        Phase::Stopping => v1::TimelinePhase::Stopping,
        Phase::Archiving => v1::TimelinePhase::Archiving,
    };
    v1::TimelineSpan {
        task: span.task.as_ref().map(ToString::to_string).unwrap_or_default(),
        attempt: span.attempt.map_or(0, |attempt| attempt.0),
        phase: phase.into(),
        began_at: Some(timestamp(span.from)),
        ended_at: optional_timestamp(span.to),
        why: span.why.clone(),
    }
}
