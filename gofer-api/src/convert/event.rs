//! Events.

use std::collections::{BTreeSet, HashSet};

use gofer_core::event::{Event, EventDetails};
use gofer_proto::v1;
use gofer_proto::v1::event::Details;

use super::entity::token_kind;
use super::run::{initiator, run_status_to_wire, task_status_to_wire};
use super::{reason, timestamp};
use crate::error::ApiError;

/// An event.
pub(crate) fn event(event: Event) -> v1::Event {
    let Event { id, body } = event;
    let text = |value: Option<&dyn ToString>| value.map(ToString::to_string).unwrap_or_default();
    v1::Event {
        id,
        at: Some(timestamp(body.at)),
        namespace: text(body.subject.namespace.as_ref().map(|id| id as &dyn ToString)),
        pipeline: text(body.subject.pipeline.as_ref().map(|id| id as &dyn ToString)),
        run: body.subject.run.map_or(0, |run| run.0),
        task: text(body.subject.task.as_ref().map(|id| id as &dyn ToString)),
        attempt: body.subject.attempt.map_or(0, |attempt| attempt.0),
        actor: body.actor,
        details: Some(details(body.details)),
    }
}

/// Event types to filter by, each known to the contract.
///
/// # Errors
/// A violation for the first that is not.
pub(crate) fn event_types(types: &[String]) -> Result<Vec<String>, ApiError> {
    let message = gofer_proto::json::descriptor_pool()
        .get_message_by_name("gofer.v1.Event")
        .expect("the contract has events");
    let details = message.oneofs().next().expect("an event has details");
    let known: HashSet<String> = details.fields().map(|field| field.name().to_owned()).collect();
    if let Some((at, wanted)) =
        types.iter().enumerate().find(|(_, wanted)| !known.contains(*wanted))
    {
        let rule = "the name of a field of `Event.details`, such as `run_completed`";
        return Err(ApiError::invalid(format!("types[{at}]"), wanted, rule));
    }
    // Each once: a request may repeat one a hundred thousand times, and a query has room for some.
    Ok(types.iter().cloned().collect::<BTreeSet<_>>().into_iter().collect())
}

fn details(details: EventDetails) -> Details {
    let ids = |namespaces: Vec<gofer_core::NamespaceId>| {
        namespaces.iter().map(ToString::to_string).collect()
    };
    match details {
        EventDetails::ServerStarted { server_id, version } => {
            Details::ServerStarted(v1::ServerStarted { server_id, version })
        }
        EventDetails::NamespaceCreated { description } => {
            Details::NamespaceCreated(v1::NamespaceCreated { description })
        }
        EventDetails::NamespaceUpdated { description } => {
            Details::NamespaceUpdated(v1::NamespaceUpdated { description })
        }
        EventDetails::NamespaceQuotaUpdated { quota, limit } => {
            Details::NamespaceQuotaUpdated(v1::NamespaceQuotaUpdated {
                quota: quota.name().to_owned(),
                limit,
            })
        }
        EventDetails::NamespaceDeleted {} => Details::NamespaceDeleted(v1::NamespaceDeleted {}),
        EventDetails::PipelineRegistered { version, digest } => {
            Details::PipelineRegistered(v1::PipelineRegistered { version: version.0, digest })
        }
        EventDetails::PipelineEnabled {} => Details::PipelineEnabled(v1::PipelineEnabled {}),
        EventDetails::PipelineDisabled {} => Details::PipelineDisabled(v1::PipelineDisabled {}),
        EventDetails::PipelineDeleted {} => {
            Details::PipelineDeleted(v1::PipelineDeleted::default())
        }
        EventDetails::PipelineVersionsExpired { count, last } => {
            Details::PipelineVersionsExpired(v1::PipelineVersionsExpired { count, last: last.0 })
        }
        EventDetails::RunsExpired { count, last } => {
            Details::RunsExpired(v1::RunsExpired { count, last: last.0 })
        }
        EventDetails::EventsExpired { up_to } => {
            Details::EventsExpired(v1::EventsExpired { up_to })
        }
        EventDetails::RunCreated { version, initiator: by, retry_of } => {
            Details::RunCreated(v1::RunCreated {
                version: version.0,
                initiator: Some(initiator(&by, retry_of.is_some())),
                retry_of: retry_of.map_or(0, |run| run.0),
            })
        }
        EventDetails::RunStarted {} => Details::RunStarted(v1::RunStarted {}),
        EventDetails::RunCancelRequested { force, message } => {
            Details::RunCancelRequested(v1::RunCancelRequested { force, reason: message })
        }
        EventDetails::RunCompleted { status, reason: why } => {
            Details::RunCompleted(v1::RunCompleted {
                status: run_status_to_wire(Some(status)).into(),
                reason: why.as_ref().map(reason),
            })
        }
        EventDetails::TaskRunStarting {} => Details::TaskRunStarting(v1::TaskRunStarting {}),
        EventDetails::TaskRunWaiting { reason: why } => {
            Details::TaskRunWaiting(v1::TaskRunWaiting { reason: Some(reason(&why)) })
        }
        EventDetails::TaskRunSlotAcquired {} => {
            Details::TaskRunSlotAcquired(v1::TaskRunSlotAcquired {})
        }
        EventDetails::TaskRunRunning {} => Details::TaskRunRunning(v1::TaskRunRunning {}),
        EventDetails::TaskRunStopRequested { reason: why } => {
            Details::TaskRunStopRequested(v1::TaskRunStopRequested { reason: Some(reason(&why)) })
        }
        EventDetails::TaskRunCancelRequested { force, message } => {
            Details::TaskRunCancelRequested(v1::TaskRunCancelRequested { force, reason: message })
        }
        EventDetails::TaskRunExecRequested { command, terminal } => {
            Details::TaskRunExecRequested(v1::TaskRunExecRequested { command, terminal })
        }
        EventDetails::TaskRunRetryScheduled {
            status,
            reason: why,
            exit_code,
            next_attempt,
            not_before,
        } => Details::TaskRunRetryScheduled(v1::TaskRunRetryScheduled {
            status: task_status_to_wire(Some(status)).into(),
            reason: why.as_ref().map(reason),
            exit_code,
            next_attempt: next_attempt.0,
            not_before: Some(timestamp(not_before)),
        }),
        EventDetails::TaskRunCompleted { status, reason: why, exit_code } => {
            Details::TaskRunCompleted(v1::TaskRunCompleted {
                status: task_status_to_wire(Some(status)).into(),
                reason: why.as_ref().map(reason),
                exit_code,
            })
        }
        EventDetails::LogArchived { size_bytes } => {
            Details::LogArchived(v1::LogArchived { size_bytes })
        }
        EventDetails::LogExpired {} => Details::LogExpired(v1::LogExpired {}),
        EventDetails::ObjectPut { key, size_bytes, sha256 } => {
            Details::ObjectPut(v1::ObjectPut { key, size_bytes, sha256 })
        }
        EventDetails::ObjectDeleted { key } => Details::ObjectDeleted(v1::ObjectDeleted { key }),
        EventDetails::ObjectEvicted { key } => Details::ObjectEvicted(v1::ObjectEvicted { key }),
        EventDetails::ObjectUrlIssued { key, upload, expires_at } => {
            Details::ObjectUrlIssued(v1::ObjectUrlIssued {
                key,
                upload,
                expires_at: Some(timestamp(expires_at)),
            })
        }
        EventDetails::ValueMasked {} => Details::ValueMasked(v1::ValueMasked {}),
        EventDetails::RunObjectsExpired { count } => {
            Details::RunObjectsExpired(v1::RunObjectsExpired { count })
        }
        EventDetails::SecretPut { key, allowed_namespaces } => {
            Details::SecretPut(v1::SecretPut { key, allowed_namespaces: ids(allowed_namespaces) })
        }
        EventDetails::SecretDeleted { key } => Details::SecretDeleted(v1::SecretDeleted { key }),
        EventDetails::TokenCreated { token_id, kind, namespaces } => {
            Details::TokenCreated(v1::TokenCreated {
                token_id,
                kind: token_kind(kind).into(),
                namespaces: ids(namespaces),
                expires_at: None,
            })
        }
        EventDetails::TokenDisabled { token_id } => {
            Details::TokenDisabled(v1::TokenDisabled { token_id })
        }
        EventDetails::TokenEnabled { token_id } => {
            Details::TokenEnabled(v1::TokenEnabled { token_id })
        }
        EventDetails::TokenDeleted { token_id } => {
            Details::TokenDeleted(v1::TokenDeleted { token_id })
        }
        EventDetails::BootstrapReset {} => Details::BootstrapReset(v1::BootstrapReset {}),
    }
}
