use diesel::prelude::*;
use gofer_core::entity::{SecretRecord, SecretScope};
use gofer_core::event::{EventDetails, NewEvent, Subject};
use gofer_core::object_store::ListPage;
use gofer_core::{NamespaceId, Timestamp};

use super::{Conn, RunQueryDsl, Tx, pipelines as pipeline};
use crate::error::DbError;
use crate::rows::entity::SecretRow;
use crate::rows::{page, page_rows, parsed, prefix_end};
use crate::schema::secrets;
use crate::types::Page;

/// `pipeline_id` of global secrets.
const GLOBAL: i64 = 0;

pub(crate) async fn put(tx: &mut Tx<'_>, record: &SecretRecord, if_absent: bool) -> Result<SecretRecord, DbError> {
    let scope = match &record.scope {
        SecretScope::Global => GLOBAL,
        // Locked, so that the pipeline is not deleted meanwhile.
        SecretScope::Pipeline(namespace, name) => pipeline::lock(tx, namespace, name).await?.id,
    };
    let row = SecretRow::new(scope, record)?;
    let insert = diesel::insert_into(secrets::table).values(&row);
    let row: SecretRow = if if_absent {
        let inserted = insert.on_conflict_do_nothing().returning(SecretRow::as_returning()).get_result(tx.c).await;
        inserted.optional()?.ok_or_else(|| DbError::exists("secret", &record.key))?
    } else {
        insert
            .on_conflict((secrets::pipeline_id, secrets::key))
            .do_update()
            .set((
                secrets::allowed_namespaces.eq(&row.allowed_namespaces),
                secrets::updated_by.eq(&row.updated_by),
                secrets::updated_at.eq(row.updated_at),
            ))
            .returning(SecretRow::as_returning())
            .get_result(tx.c)
            .await?
    };
    let details =
        EventDetails::SecretPut { key: record.key.clone(), allowed_namespaces: record.allowed_namespaces.clone() };
    self::record(tx, &record.scope, details, &record.updated_by, record.updated_at);
    row.record(&record.scope)
}

async fn scope_id(c: &mut Conn, scope: &SecretScope) -> Result<i64, DbError> {
    match scope {
        SecretScope::Global => Ok(GLOBAL),
        SecretScope::Pipeline(namespace, name) => Ok(pipeline::find(c, namespace, name).await?.id),
    }
}

pub(crate) async fn get(c: &mut Conn, scope: &SecretScope, key: &str) -> Result<SecretRecord, DbError> {
    let id = scope_id(c, scope).await?;
    let row: Option<SecretRow> =
        secrets::table.find((id, key)).select(SecretRow::as_select()).get_result(c).await.optional()?;
    row.ok_or_else(|| DbError::not_found("secret", key))?.record(scope)
}

pub(crate) async fn global(c: &mut Conn, key: &str) -> Result<Option<Vec<NamespaceId>>, DbError> {
    let allowed: Option<String> =
        secrets::table.find((GLOBAL, key)).select(secrets::allowed_namespaces).get_result(c).await.optional()?;
    allowed.as_deref().map(parsed).transpose()
}

pub(crate) async fn list(
    c: &mut Conn,
    scope: &SecretScope,
    prefix: &str,
    wanted: &ListPage,
) -> Result<Page<SecretRecord>, DbError> {
    let id = scope_id(c, scope).await?;
    let rows = secrets::table
        .filter(secrets::pipeline_id.eq(id))
        .filter(secrets::key.ge(prefix))
        .filter(secrets::key.lt(prefix_end(prefix)))
        .filter(secrets::key.gt(wanted.after.as_deref().unwrap_or_default()))
        .select(SecretRow::as_select())
        .order(secrets::key)
        .limit(page_rows(wanted.limit))
        .load(c)
        .await?;
    page(rows, wanted.limit, |row: &SecretRow| row.key.clone(), |row| row.record(scope))
}

pub(crate) async fn delete(
    tx: &mut Tx<'_>,
    scope: &SecretScope,
    key: &str,
    actor: &str,
    at: Timestamp,
) -> Result<Option<SecretRecord>, DbError> {
    let id = match scope_id(tx.c, scope).await {
        Err(DbError::NotFound { .. }) => return Ok(None),
        found => found?,
    };
    let row: Option<SecretRow> = diesel::delete(secrets::table.find((id, key)))
        .returning(SecretRow::as_returning())
        .get_result(tx.c)
        .await
        .optional()?;
    let Some(row) = row else { return Ok(None) };
    record(tx, scope, EventDetails::SecretDeleted { key: key.to_owned() }, actor, at);
    row.record(scope).map(Some)
}

fn record(tx: &mut Tx<'_>, scope: &SecretScope, details: EventDetails, actor: &str, at: Timestamp) {
    let subject = match scope {
        SecretScope::Global => Subject::default(),
        SecretScope::Pipeline(namespace, pipeline) => {
            Subject { namespace: Some(namespace.clone()), pipeline: Some(pipeline.clone()), ..Subject::default() }
        }
    };
    tx.record(NewEvent { at, actor: actor.to_owned(), subject, details });
}
