use diesel::prelude::*;
use gofer_core::entity::{SecretRecord, SecretScope};
use gofer_core::event::{EventDetails, NewEvent, Subject};
use gofer_core::object_store::ListPage;
use gofer_core::quota::QuotaKind;
use gofer_core::{Resource, SecretPath, Timestamp};

use super::engine::locked;
use super::global_secrets::GLOBAL;
use super::{Conn, RunQueryDsl, Tx, pipelines as pipeline, quotas, secret_values as values};
use crate::error::DbError;
use crate::headroom::QuotaBook;
use crate::rows::entity::SecretRow;
use crate::rows::{id, page, page_rows, prefix_end};
use crate::schema::secrets;
use crate::types::{Page, SecretPutOutcome};

/// Makes the value that was begun at the record's location the secret's.
pub(crate) async fn put(
    tx: &mut Tx<'_>,
    record: &SecretRecord,
    if_absent: bool,
    book: &QuotaBook,
) -> Result<SecretPutOutcome, DbError> {
    let scope = match &record.scope {
        SecretScope::Global => GLOBAL,
        // Locked, so that the pipeline is not deleted before the commit.
        SecretScope::Pipeline(namespace, name) => pipeline::lock(tx, namespace, name).await?.id,
    };

    let row = SecretRow::new(scope, record)?;
    let (row, replaced) = set(tx, row, if_absent).await?;
    if let (SecretScope::Pipeline(namespace, _), None) = (&record.scope, &replaced) {
        quotas::admit_counted(tx, book, namespace, QuotaKind::Secrets, record.updated_at).await?;
    }

    if !values::name(tx, &record.location).await? {
        // Retention has given it up; nothing of this transaction stays.
        let message =
            format!("storing secret `{}` took too long and was given up; put it again", record.key);
        return Err(DbError::Unavailable { message, source: None });
    }

    if let Some(replaced) = &replaced {
        values::leave(tx, replaced, record.updated_at).await?;
    }

    let details = EventDetails::SecretPut {
        key: record.key.clone(),
        allowed_namespaces: record.allowed_namespaces.clone(),
    };

    self::record(tx, &record.scope, details, &record.updated_by, record.updated_at);
    Ok(SecretPutOutcome { record: row.record(&record.scope)?, replaced })
}

/// Inserts the row, or replaces one and returns where its value lies.
///
/// Of two puts at once one waits for the other at the row, and then replaces what the other has
/// set. Without the lock both would believe that they replaced the same value, and one value would
/// stay in the store for good.
async fn set(
    tx: &mut Tx<'_>,
    row: SecretRow,
    if_absent: bool,
) -> Result<(SecretRow, Option<SecretPath>), DbError> {
    loop {
        let there = secrets::table.find((row.pipeline_id, &row.key)).select(secrets::location);
        let replaced: Option<String> = locked!(there).get_result(tx.c).await.optional()?;

        if let Some(replaced) = replaced {
            if if_absent {
                return Err(DbError::exists(Resource::Secret, &row.key));
            }

            let updated = diesel::update(secrets::table.find((row.pipeline_id, &row.key)))
                .set((
                    secrets::location.eq(&row.location),
                    secrets::allowed_namespaces.eq(&row.allowed_namespaces),
                    secrets::updated_by.eq(&row.updated_by),
                    secrets::updated_at.eq(row.updated_at),
                ))
                .returning(SecretRow::as_returning())
                .get_result(tx.c)
                .await?;
            return Ok((updated, Some(id(&replaced)?)));
        }

        let inserted = diesel::insert_into(secrets::table)
            .values(&row)
            .on_conflict_do_nothing()
            .returning(SecretRow::as_returning())
            .get_result(tx.c)
            .await
            .optional()?;

        if let Some(inserted) = inserted {
            return Ok((inserted, None));
        }
        // Another put has inserted one in between, which the next turn sees.
    }
}

async fn scope_id(c: &mut Conn, scope: &SecretScope) -> Result<i64, DbError> {
    match scope {
        SecretScope::Global => Ok(GLOBAL),
        SecretScope::Pipeline(namespace, name) => Ok(pipeline::find(c, namespace, name).await?.id),
    }
}

pub(crate) async fn get(
    c: &mut Conn,
    scope: &SecretScope,
    key: &str,
) -> Result<SecretRecord, DbError> {
    let scope_id = scope_id(c, scope).await?;
    let row: Option<SecretRow> = secrets::table
        .find((scope_id, key))
        .select(SecretRow::as_select())
        .get_result(c)
        .await
        .optional()?;
    row.ok_or_else(|| DbError::not_found(Resource::Secret, key))?.record(scope)
}

/// The record; `None` also when there is no such pipeline.
pub(crate) async fn find(
    c: &mut Conn,
    scope: &SecretScope,
    key: &str,
) -> Result<Option<SecretRecord>, DbError> {
    match get(c, scope, key).await {
        Err(DbError::NotFound { .. }) => Ok(None),
        found => found.map(Some),
    }
}

pub(crate) async fn list(
    c: &mut Conn,
    scope: &SecretScope,
    prefix: &str,
    wanted: &ListPage,
) -> Result<Page<SecretRecord>, DbError> {
    let scope_id = scope_id(c, scope).await?;
    let rows = secrets::table
        .filter(secrets::pipeline_id.eq(scope_id))
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
    let scope_id = match scope_id(tx.c, scope).await {
        Err(DbError::NotFound { .. }) => return Ok(None),
        found => found?,
    };
    let row: Option<SecretRow> = diesel::delete(secrets::table.find((scope_id, key)))
        .returning(SecretRow::as_returning())
        .get_result(tx.c)
        .await
        .optional()?;
    let Some(row) = row else { return Ok(None) };
    let deleted = row.record(scope)?;
    values::leave(tx, &deleted.location, at).await?;
    record(tx, scope, EventDetails::SecretDeleted { key: key.to_owned() }, actor, at);
    Ok(Some(deleted))
}

fn record(tx: &mut Tx<'_>, scope: &SecretScope, details: EventDetails, actor: &str, at: Timestamp) {
    let subject = match scope {
        SecretScope::Global => Subject::default(),
        SecretScope::Pipeline(namespace, pipeline) => Subject {
            namespace: Some(namespace.clone()),
            pipeline: Some(pipeline.clone()),
            ..Subject::default()
        },
    };
    tx.record(NewEvent { at, actor: actor.to_owned(), subject, details });
}
