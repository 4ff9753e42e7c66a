use std::collections::HashMap;

use diesel::prelude::*;
use gofer_core::entity::{
    Namespace, ObjectRecord, ObjectScope, Pipeline, SecretRecord, SecretScope, Token, TokenKind,
};
use gofer_core::pipeline::Overlap;
use gofer_core::{NamespaceId, Timestamp};

use super::{id, json, name, parsed, signed, unsigned};
use crate::error::DbError;
use crate::schema::{namespaces, objects, pipelines, secrets, tokens};

#[derive(Queryable, Selectable, Insertable)]
#[diesel(table_name = namespaces)]
pub(crate) struct NamespaceRow {
    pub(crate) id: String,
    pub(crate) uid: String,
    pub(crate) description: String,
    pub(crate) created_at: i64,
    pub(crate) updated_at: i64,
}

impl TryFrom<NamespaceRow> for Namespace {
    type Error = DbError;

    fn try_from(row: NamespaceRow) -> Result<Self, DbError> {
        Ok(Self {
            id: id(&row.id)?,
            description: row.description,
            created_at: Timestamp(row.created_at),
            updated_at: Timestamp(row.updated_at),
        })
    }
}

#[derive(Clone, Queryable, Selectable)]
#[diesel(table_name = pipelines)]
pub(crate) struct PipelineRow {
    pub(crate) id: i64,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) enabled: bool,
    pub(crate) latest_version: i64,
    pub(crate) last_run: i64,
    pub(crate) parallelism: Option<i64>,
    pub(crate) overlap: String,
    pub(crate) created_at: i64,
    pub(crate) updated_at: i64,
    pub(crate) deleted_at: Option<i64>,
    /// The last minute in which runs were started, how many, and the bytes of their variables.
    pub(crate) minute: i64,
    pub(crate) minute_runs: i64,
    pub(crate) minute_bytes: i64,
}

impl TryFrom<PipelineRow> for Pipeline {
    type Error = DbError;

    fn try_from(row: PipelineRow) -> Result<Self, DbError> {
        Ok(Self {
            namespace: id(&row.namespace)?,
            id: id(&row.name)?,
            enabled: row.enabled,
            latest_version: gofer_core::Version(unsigned(row.latest_version)?),
            created_at: Timestamp(row.created_at),
            updated_at: Timestamp(row.updated_at),
        })
    }
}

pub(crate) fn overlap_name(overlap: Overlap) -> &'static str {
    match overlap {
        Overlap::Queue => "queue",
        Overlap::Skip => "skip",
        Overlap::CancelRunning => "cancel_running",
    }
}

pub(crate) fn overlap_of(text: &str) -> Result<Overlap, DbError> {
    name(text, |text| match text {
        "queue" => Some(Overlap::Queue),
        "skip" => Some(Overlap::Skip),
        "cancel_running" => Some(Overlap::CancelRunning),
        _ => None,
    })
}

#[derive(Queryable, Selectable, Insertable)]
#[diesel(table_name = tokens)]
pub(crate) struct TokenRow {
    pub(crate) id: String,
    pub(crate) hash: Vec<u8>,
    pub(crate) kind: String,
    pub(crate) namespaces: String,
    pub(crate) description: String,
    pub(crate) created_by: String,
    pub(crate) created_at: i64,
    pub(crate) expires_at: Option<i64>,
    pub(crate) disabled: bool,
}

impl TokenRow {
    /// `namespaces` are the ids of the token's namespaces.
    pub(crate) fn new(
        token: &Token,
        namespaces: &[String],
        hash: &[u8; 32],
    ) -> Result<Self, DbError> {
        Ok(Self {
            id: token.id.clone(),
            hash: hash.to_vec(),
            kind: token.kind.as_str().to_owned(),
            namespaces: json(&namespaces)?,
            description: token.description.clone(),
            created_by: token.created_by.clone(),
            created_at: token.created_at.0,
            expires_at: token.expires_at.map(|at| at.0),
            disabled: token.disabled,
        })
    }

    /// The ids of its namespaces, of those that are gone, too.
    pub(crate) fn namespace_uids(&self) -> Result<Vec<String>, DbError> {
        parsed(&self.namespaces)
    }

    /// The token; `names` are those of the namespaces that there are, by their ids.
    pub(crate) fn token(self, names: &HashMap<String, NamespaceId>) -> Result<Token, DbError> {
        let namespaces =
            self.namespace_uids()?.iter().filter_map(|uid| names.get(uid).cloned()).collect();
        Ok(Token {
            id: self.id,
            kind: name(&self.kind, TokenKind::parse)?,
            namespaces,
            description: self.description,
            created_by: self.created_by,
            created_at: Timestamp(self.created_at),
            expires_at: self.expires_at.map(Timestamp),
            disabled: self.disabled,
        })
    }
}

#[derive(Queryable, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = objects)]
pub(crate) struct ObjectRow {
    pub(crate) pipeline_id: i64,
    pub(crate) run: i64,
    pub(crate) key: String,
    pub(crate) location: String,
    pub(crate) size_bytes: i64,
    pub(crate) sha256: String,
    pub(crate) created_at: i64,
}

impl ObjectRow {
    pub(crate) fn new(pipeline_id: i64, record: &ObjectRecord) -> Self {
        Self {
            pipeline_id,
            run: scope_run(&record.scope),
            key: record.key.to_string(),
            location: record.location.to_string(),
            size_bytes: signed(record.size_bytes),
            sha256: record.sha256.clone(),
            created_at: record.created_at.0,
        }
    }

    /// The record; the scope is what the row was found by.
    pub(crate) fn record(self, scope: &ObjectScope) -> Result<ObjectRecord, DbError> {
        Ok(ObjectRecord {
            scope: scope.clone(),
            key: id(&self.key)?,
            location: id(&self.location)?,
            size_bytes: unsigned(self.size_bytes)?,
            sha256: self.sha256,
            created_at: Timestamp(self.created_at),
        })
    }
}

/// The `run` column of a scope.
pub(crate) fn scope_run(scope: &ObjectScope) -> i64 {
    scope.run.map_or(0, |run| signed(run.0))
}

#[derive(Queryable, Selectable, Insertable)]
#[diesel(table_name = secrets)]
pub(crate) struct SecretRow {
    pub(crate) pipeline_id: i64,
    pub(crate) key: String,
    pub(crate) location: String,
    pub(crate) allowed_namespaces: String,
    pub(crate) updated_by: String,
    pub(crate) created_at: i64,
    pub(crate) updated_at: i64,
}

impl SecretRow {
    pub(crate) fn new(pipeline_id: i64, record: &SecretRecord) -> Result<Self, DbError> {
        Ok(Self {
            pipeline_id,
            key: record.key.clone(),
            location: record.location.to_string(),
            allowed_namespaces: json(&record.allowed_namespaces)?,
            updated_by: record.updated_by.clone(),
            created_at: record.created_at.0,
            updated_at: record.updated_at.0,
        })
    }

    /// The record; the scope is what the row was found by.
    pub(crate) fn record(self, scope: &SecretScope) -> Result<SecretRecord, DbError> {
        Ok(SecretRecord {
            scope: scope.clone(),
            key: self.key,
            location: id(&self.location)?,
            allowed_namespaces: parsed(&self.allowed_namespaces)?,
            updated_by: self.updated_by,
            created_at: Timestamp(self.created_at),
            updated_at: Timestamp(self.updated_at),
        })
    }
}
