//! Between the words of the wire (`gofer_proto`) and the words of the domain (`gofer_core`).
//! Nothing else knows both.
//!
//! ```text
//! services ── request ──▶ entity, run, event, pipeline ──▶ ids, scopes, filters, specs
//! services ◀── answer ─── entity, run, event, pipeline, timeline ◀── records, runs, events, spans
//! services ◀── changes ── spec_diff ◀── two specs, in their canonical form on the wire
//! ```
//!
//! What is wrong with a request is every broken rule, by field.

use std::time::Duration;

use gofer_core::Timestamp;
use gofer_core::id::{InvalidId, NamespaceId, ObjectKey, PipelineId, RunKey, RunNumber, TaskId};
use gofer_core::run::Reason;
use gofer_core::validate::{self, Violation};
use gofer_proto::v1;

use crate::error::ApiError;

mod entity;
mod event;
mod pipeline;
mod run;
pub(crate) mod spec_diff;
#[cfg(test)]
mod tests;
mod timeline;

pub(crate) use entity::{
    backend, namespace, object, object_scope, quota, secret, secret_scope, token,
};
pub(crate) use event::{event, event_types};
pub(crate) use pipeline::{
    pipeline, pipeline_spec_from_wire, pipeline_spec_to_wire, version, version_summary,
};
pub(crate) use run::{
    attempts_of, cancel_request, log_chunk, log_cursor, run, run_state, run_status, run_summary,
    task_run,
};
pub(crate) use timeline::timeline_span;

/// Longest text of a reason that a caller gives.
pub(crate) const REASON_MAX_BYTES: usize = 1024;
/// Longest description of a namespace or a token.
pub(crate) const DESCRIPTION_MAX_BYTES: usize = 4 * 1024;

/// An identifier from a field.
pub(crate) fn id<T>(
    field: &str,
    value: &str,
    parse: impl FnOnce(&str) -> Result<T, InvalidId>,
) -> Result<T, ApiError> {
    parse(value).map_err(|error| ApiError::bad_id(field, &error))
}

/// The field `namespace`.
pub(crate) fn namespace_id(value: &str) -> Result<NamespaceId, ApiError> {
    id("namespace", value, |value| NamespaceId::new(value))
}

/// The fields `namespace` and another that names a pipeline.
pub(crate) fn pipeline_key(
    namespace: &str,
    field: &str,
    pipeline: &str,
) -> Result<(NamespaceId, PipelineId), ApiError> {
    match (namespace_id(namespace), id(field, pipeline, |value| PipelineId::new(value))) {
        (Ok(namespace), Ok(pipeline)) => Ok((namespace, pipeline)),
        (namespace, pipeline) => Err(together([namespace.err(), pipeline.err()])),
    }
}

/// The fields `namespace`, `pipeline` and `run` of a request about one run.
pub(crate) fn run_key(namespace: &str, pipeline: &str, run: u64) -> Result<RunKey, ApiError> {
    let number = match run {
        0 => Err(ApiError::invalid("run", "0", "the number of a run, from 1")),
        _ => Ok(RunNumber(run)),
    };
    match (pipeline_key(namespace, "pipeline", pipeline), number) {
        (Ok((namespace, pipeline)), Ok(run)) => Ok(RunKey { namespace, pipeline, run }),
        (key, number) => Err(together([key.err(), number.err()])),
    }
}

/// The field `task`.
pub(crate) fn task_id(value: &str) -> Result<TaskId, ApiError> {
    id("task", value, |value| TaskId::new(value))
}

/// The field `key` of a request about an object.
pub(crate) fn object_key(value: &str) -> Result<ObjectKey, ApiError> {
    id("key", value, |value| ObjectKey::new(value))
}

/// A text of a limited length.
pub(crate) fn text(field: &str, value: &str, max_bytes: usize) -> Result<(), ApiError> {
    if value.len() <= max_bytes {
        return Ok(());
    }
    Err(ApiError::invalid(
        field,
        format!("{} bytes", value.len()),
        format!("at most {max_bytes} bytes"),
    ))
}

/// A text for people, of a limited length: nothing in it commands the terminal that shows it.
pub(crate) fn free_text(field: &str, value: &str, max_bytes: usize) -> Result<(), ApiError> {
    let mut found = Vec::new();
    validate::free_text(field, value, max_bytes, &mut found);
    if found.is_empty() { Ok(()) } else { Err(ApiError::Invalid(found)) }
}

/// All broken rules of several fields in one error.
fn together(errors: impl IntoIterator<Item = Option<ApiError>>) -> ApiError {
    let mut all: Vec<Violation> = Vec::new();
    for error in errors.into_iter().flatten() {
        match error {
            ApiError::Invalid(violations) => all.extend(violations),
            other => return other,
        }
    }
    ApiError::Invalid(all)
}

/// An instant.
pub(crate) fn timestamp(at: Timestamp) -> prost_types::Timestamp {
    let nanos = at.0.rem_euclid(1_000_000) * 1000;
    prost_types::Timestamp {
        seconds: at.0.div_euclid(1_000_000),
        nanos: i32::try_from(nanos).expect("less than a second"),
    }
}

/// An instant of a request; absent stays absent.
pub(crate) fn from_timestamp(
    field: &str,
    at: Option<&prost_types::Timestamp>,
) -> Result<Option<Timestamp>, ApiError> {
    let Some(at) = at else { return Ok(None) };
    let micros = at
        .seconds
        .checked_mul(1_000_000)
        .and_then(|micros| micros.checked_add(i64::from(at.nanos / 1_000)));
    let refused = || {
        ApiError::invalid(
            field,
            format!("{} s", at.seconds),
            "must be within 292,000 years of 1970",
        )
    };
    micros.map(|micros| Some(Timestamp(micros))).ok_or_else(refused)
}

/// An instant that may be missing.
pub(crate) fn optional_timestamp(at: Option<Timestamp>) -> Option<prost_types::Timestamp> {
    at.map(timestamp)
}

/// A duration to the wire.
fn duration_to_wire(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).expect("less than a second"),
    }
}

/// A duration from the wire; negative ones are none.
pub(crate) fn duration_from_wire(
    field: &str,
    duration: &prost_types::Duration,
) -> Result<Duration, Violation> {
    Duration::try_from(*duration).map_err(|_| {
        let value = format!("{}.{:09}s", duration.seconds, duration.nanos.unsigned_abs());
        Violation::new(field, value, "a duration is not negative")
    })
}

/// Why something is as it is.
pub(crate) fn reason(reason: &Reason) -> v1::Reason {
    v1::Reason { kind: reason.kind.as_str().to_owned(), message: reason.message.clone() }
}
