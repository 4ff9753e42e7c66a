use diesel::prelude::*;
use gofer_core::Timestamp;
use gofer_core::entity::{ObjectRecord, ObjectScope};
use serde::{Deserialize, Serialize};

use super::entity::scope_run;
use super::{id, parsed, signed, unsigned};
use crate::error::DbError;
use crate::schema::object_uploads;
use crate::types::{ObjectUpload, UploadState};

pub(crate) const OPEN: &str = "open";
pub(crate) const COMPLETE: &str = "complete";
pub(crate) const GIVEN_UP: &str = "given_up";

#[derive(Queryable, Selectable, Insertable)]
#[diesel(table_name = object_uploads)]
pub(crate) struct UploadRow {
    pub(crate) id: String,
    pub(crate) pipeline_id: i64,
    pub(crate) run: i64,
    pub(crate) key: String,
    pub(crate) location: String,
    pub(crate) size_bytes: Option<i64>,
    pub(crate) sha256: Option<String>,
    pub(crate) if_absent: bool,
    pub(crate) expires_at: i64,
    pub(crate) state: String,
    pub(crate) outcome: Option<String>,
    pub(crate) reserved_bytes: i64,
}

/// The column `outcome`: of the completion, what is not in the row.
#[derive(Serialize, Deserialize)]
pub(crate) struct Outcome {
    size_bytes: u64,
    sha256: String,
    created_at: i64,
    evicted_keys: Vec<String>,
}

impl Outcome {
    pub(crate) fn new(record: &ObjectRecord, evicted_keys: &[String]) -> Self {
        Self {
            size_bytes: record.size_bytes,
            sha256: record.sha256.clone(),
            created_at: record.created_at.0,
            evicted_keys: evicted_keys.to_vec(),
        }
    }
}

impl UploadRow {
    /// A row of an upload that begins.
    pub(crate) fn new(pipeline_id: i64, upload: &ObjectUpload) -> Self {
        Self {
            id: upload.id.clone(),
            pipeline_id,
            run: scope_run(&upload.scope),
            key: upload.key.to_string(),
            location: upload.location.to_string(),
            size_bytes: upload.size_bytes.map(signed),
            sha256: upload.sha256.clone(),
            if_absent: upload.if_absent,
            expires_at: upload.expires_at.0,
            state: OPEN.to_owned(),
            outcome: None,
            reserved_bytes: 0,
        }
    }

    /// The upload; the scope is what the row was found by.
    pub(crate) fn upload(self, scope: &ObjectScope) -> Result<ObjectUpload, DbError> {
        let state = self.state(scope)?;
        Ok(ObjectUpload {
            id: self.id,
            scope: scope.clone(),
            key: id(&self.key)?,
            location: id(&self.location)?,
            size_bytes: self.size_bytes.map(unsigned).transpose()?,
            sha256: self.sha256,
            if_absent: self.if_absent,
            expires_at: Timestamp(self.expires_at),
            state,
        })
    }

    fn state(&self, scope: &ObjectScope) -> Result<UploadState, DbError> {
        let Some(outcome) = &self.outcome else {
            return Ok(if self.state == OPEN { UploadState::Open } else { UploadState::GivenUp });
        };
        let outcome: Outcome = parsed(outcome)?;
        let record = ObjectRecord {
            scope: scope.clone(),
            key: id(&self.key)?,
            location: id(&self.location)?,
            size_bytes: outcome.size_bytes,
            sha256: outcome.sha256,
            created_at: Timestamp(outcome.created_at),
        };
        Ok(UploadState::Complete(record, outcome.evicted_keys))
    }
}
