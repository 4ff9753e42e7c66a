use diesel::prelude::*;
use gofer_core::event::{Event, NewEvent, Subject};
use gofer_core::{Attempt, RunNumber, Timestamp};

use super::{id, json, parsed, signed, small, unsigned};
use crate::error::DbError;
use crate::schema::events;

#[derive(Queryable, Selectable, Insertable)]
#[diesel(table_name = events, treat_none_as_default_value = false)]
pub(crate) struct EventRow {
    pub(crate) id: i64,
    at: i64,
    actor: String,
    namespace: Option<String>,
    pipeline: Option<String>,
    run: Option<i64>,
    task: Option<String>,
    attempt: Option<i64>,
    kind: String,
    details: String,
}

impl EventRow {
    pub(crate) fn new(id: i64, event: &NewEvent) -> Result<Self, DbError> {
        let Subject { namespace, pipeline, run, task, attempt } = &event.subject;
        Ok(Self {
            id,
            at: event.at.0,
            actor: event.actor.clone(),
            namespace: namespace.as_ref().map(ToString::to_string),
            pipeline: pipeline.as_ref().map(ToString::to_string),
            run: run.map(|run| signed(run.0)),
            task: task.as_ref().map(ToString::to_string),
            attempt: attempt.map(|attempt| i64::from(attempt.0)),
            kind: event.details.type_name().to_owned(),
            details: json(&event.details)?,
        })
    }
}

impl TryFrom<EventRow> for Event {
    type Error = DbError;

    fn try_from(row: EventRow) -> Result<Self, DbError> {
        let subject = Subject {
            namespace: row.namespace.as_deref().map(id).transpose()?,
            pipeline: row.pipeline.as_deref().map(id).transpose()?,
            run: row.run.map(unsigned).transpose()?.map(RunNumber),
            task: row.task.as_deref().map(id).transpose()?,
            attempt: row.attempt.map(small).transpose()?.map(Attempt),
        };
        let details = parsed(&row.details)?;
        let body = NewEvent { at: Timestamp(row.at), actor: row.actor, subject, details };
        Ok(Self { id: unsigned(row.id)?, body })
    }
}
