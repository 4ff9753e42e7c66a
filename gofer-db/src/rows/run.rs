use diesel::prelude::*;
use gofer_core::journal::{Claim, NewRun};
use gofer_core::run::{CancelRequest, Run, RunState, RunStatus};
use gofer_core::{RunKey, RunNumber, Timestamp, Version};

use super::{id, json, name, parsed, parsed_option, signed, unsigned};
use crate::error::DbError;
use crate::schema::runs;

#[derive(Queryable, Selectable)]
#[diesel(table_name = runs)]
pub(crate) struct RunRow {
    pub(crate) id: i64,
    pub(crate) pipeline_id: i64,
    namespace: String,
    pipeline: String,
    number: i64,
    pub(crate) version: i64,
    state: String,
    status: Option<String>,
    reason: Option<String>,
    initiator: String,
    variables: String,
    retry_of: Option<i64>,
    cancel_at: Option<i64>,
    cancel_by: Option<String>,
    cancel_force: Option<bool>,
    cancel_message: Option<String>,
    token_nonce: Vec<u8>,
    created_at: i64,
    started_at: Option<i64>,
    ended_at: Option<i64>,
}

impl RunRow {
    /// When it was committed, and when it left the queue.
    pub(crate) fn waited(&self) -> (i64, Option<i64>) {
        (self.created_at, self.started_at)
    }
}

impl TryFrom<RunRow> for Run {
    type Error = DbError;

    fn try_from(row: RunRow) -> Result<Self, DbError> {
        Ok(Self {
            key: key(&row.namespace, &row.pipeline, row.number)?,
            version: Version(unsigned(row.version)?),
            state: state(&row.state, row.status.as_deref())?,
            reason: parsed_option(row.reason.as_deref())?,
            initiator: parsed(&row.initiator)?,
            variables: parsed(&row.variables)?,
            retry_of: row.retry_of.map(unsigned).transpose()?.map(RunNumber),
            cancel: cancel(row.cancel_at, row.cancel_by, row.cancel_force, row.cancel_message),
            token_nonce: row.token_nonce.try_into().map_err(|_| {
                DbError::corrupt("the database holds a run token's nonce that is not 16 bytes long")
            })?,
            created_at: Timestamp(row.created_at),
            started_at: row.started_at.map(Timestamp),
            ended_at: row.ended_at.map(Timestamp),
        })
    }
}

/// A run as lists show it: everything but its variables, which may be large.
#[derive(Queryable, Selectable)]
#[diesel(table_name = runs)]
pub(crate) struct RunListRow {
    pub(crate) id: i64,
    pub(crate) number: i64,
    namespace: String,
    pipeline: String,
    version: i64,
    state: String,
    status: Option<String>,
    reason: Option<String>,
    initiator: String,
    retry_of: Option<i64>,
    cancel_at: Option<i64>,
    cancel_by: Option<String>,
    cancel_force: Option<bool>,
    cancel_message: Option<String>,
    token_nonce: Vec<u8>,
    created_at: i64,
    started_at: Option<i64>,
    ended_at: Option<i64>,
}

impl TryFrom<RunListRow> for Run {
    type Error = DbError;

    fn try_from(row: RunListRow) -> Result<Self, DbError> {
        RunRow {
            id: row.id,
            pipeline_id: 0,
            namespace: row.namespace,
            pipeline: row.pipeline,
            number: row.number,
            version: row.version,
            state: row.state,
            status: row.status,
            reason: row.reason,
            initiator: row.initiator,
            variables: "{}".to_owned(),
            retry_of: row.retry_of,
            cancel_at: row.cancel_at,
            cancel_by: row.cancel_by,
            cancel_force: row.cancel_force,
            cancel_message: row.cancel_message,
            token_nonce: row.token_nonce,
            created_at: row.created_at,
            started_at: row.started_at,
            ended_at: row.ended_at,
        }
        .try_into()
    }
}

#[derive(Insertable)]
#[diesel(table_name = runs, treat_none_as_default_value = false)]
pub(crate) struct NewRunRow {
    pipeline_id: i64,
    namespace: String,
    pipeline: String,
    number: i64,
    version: i64,
    state: &'static str,
    status: Option<&'static str>,
    reason: Option<String>,
    initiator: String,
    variables: String,
    retry_of: Option<i64>,
    token_nonce: Vec<u8>,
    token_hash: Vec<u8>,
    idempotency_key: Option<String>,
    created_at: i64,
    started_at: Option<i64>,
    ended_at: Option<i64>,
    lease_owner: Option<String>,
    lease_until: i64,
    lease_epoch: i64,
}

impl NewRunRow {
    /// The row of a run, and of its first lease if it is claimed at once.
    pub(crate) fn new(
        pipeline_id: i64,
        new: &NewRun,
        run: &Run,
        claim: Option<&Claim>,
    ) -> Result<Self, DbError> {
        Ok(Self {
            pipeline_id,
            namespace: run.key.namespace.to_string(),
            pipeline: run.key.pipeline.to_string(),
            number: signed(run.key.run.0),
            version: signed(run.version.0),
            state: run.state.name(),
            status: run.state.status().map(RunStatus::as_str),
            reason: super::json_option(run.reason.as_ref())?,
            initiator: json(&run.initiator)?,
            variables: json(&run.variables)?,
            retry_of: run.retry_of.map(|number| signed(number.0)),
            token_nonce: new.token_nonce.to_vec(),
            token_hash: new.token_hash.to_vec(),
            idempotency_key: new.idempotency_key.clone(),
            created_at: run.created_at.0,
            started_at: run.started_at.map(|at| at.0),
            ended_at: run.ended_at.map(|at| at.0),
            lease_owner: claim.map(|claim| claim.owner.clone()),
            lease_until: claim.map_or(NEVER, |claim| new.at.after(claim.ttl).0),
            lease_epoch: i64::from(claim.is_some()),
        })
    }
}

/// `lease_until` of a run that nobody holds.
pub(crate) const NEVER: i64 = i64::MIN;

pub(crate) fn key(namespace: &str, pipeline: &str, number: i64) -> Result<RunKey, DbError> {
    Ok(RunKey {
        namespace: id(namespace)?,
        pipeline: id(pipeline)?,
        run: RunNumber(unsigned(number)?),
    })
}

fn state(state: &str, status: Option<&str>) -> Result<RunState, DbError> {
    let status = status.map(|text| name(text, RunStatus::parse)).transpose()?;
    name(state, |text| RunState::parse(text, status))
}

pub(crate) fn cancel(
    at: Option<i64>,
    by: Option<String>,
    force: Option<bool>,
    message: Option<String>,
) -> Option<CancelRequest> {
    at.map(|at| CancelRequest {
        at: Timestamp(at),
        by: by.unwrap_or_default(),
        force: force.unwrap_or_default(),
        message: message.unwrap_or_default(),
    })
}
