use diesel::prelude::*;
use gofer_core::entity::{ObjectRecord, ObjectScope};
use gofer_core::event::{ACTOR, EventDetails, NewEvent, Subject};
use gofer_core::object_store::ListPage;
use gofer_core::quota::QuotaKind;
use gofer_core::{ObjectKey, Resource, RunKey, Timestamp};

use super::{Conn, RunQueryDsl, Tx, is_true, pipelines as pipeline, quotas, runs as run};
use crate::error::DbError;
use crate::headroom::QuotaBook;
use crate::rows::entity::{ObjectRow, PipelineRow, scope_run};
use crate::rows::{page, page_rows, prefix_end, signed};
use crate::schema::{objects, pipelines};
use crate::types::{ObjectPut, ObjectPutOutcome, Page};

pub(crate) async fn put(
    tx: &mut Tx<'_>,
    record: &ObjectRecord,
    put: ObjectPut,
    actor: &str,
    book: &QuotaBook,
) -> Result<ObjectPutOutcome, DbError> {
    let ObjectRecord { scope, key, created_at: at, .. } = record;
    // Concurrent puts of one pipeline wait here for each other, so that each knows what it
    // replaces.
    let pipeline = lock(tx, scope).await?;
    let replaced = find_row(tx.c, pipeline.id, scope, key).await?;
    if replaced.is_some() && put.if_absent {
        return Err(DbError::exists(Resource::Object, key));
    }

    let row = ObjectRow::new(pipeline.id, record);
    if replaced.is_some() {
        diesel::update(objects::table.find((pipeline.id, scope_run(scope), key.as_str())))
            .set(&row)
            .execute(tx.c)
            .await?;
    } else {
        diesel::insert_into(objects::table).values(row).execute(tx.c).await?;
    }

    let details = EventDetails::ObjectPut {
        key: key.to_string(),
        size_bytes: record.size_bytes,
        sha256: record.sha256.clone(),
    };

    self::record(tx, scope, details, actor, *at);
    let evicted = match put.keep.filter(|_| scope.run.is_none()) {
        Some(keep) => evict(tx, pipeline.id, scope, key, keep, *at).await?,
        None => Vec::new(),
    };

    let outcome =
        ObjectPutOutcome { replaced: replaced.map(|row| row.record(scope)).transpose()?, evicted };
    count(tx, pipeline.id, record, &outcome, book).await?;

    Ok(outcome)
}

/// Counts the object in, and out what it replaced and evicted. Only what makes the namespace use
/// more may be refused.
async fn count(
    tx: &mut Tx<'_>,
    pipeline_id: i64,
    record: &ObjectRecord,
    outcome: &ObjectPutOutcome,
    book: &QuotaBook,
) -> Result<(), DbError> {
    let gone =
        outcome.replaced.iter().chain(&outcome.evicted).map(|old| old.size_bytes).sum::<u64>();
    if let Some(more) = record.size_bytes.checked_sub(gone).filter(|more| *more > 0) {
        let wanted = [(QuotaKind::ObjectBytes, more)];
        quotas::admit(tx, book, &record.scope.namespace, &wanted, record.created_at).await?;
    }
    quotas::count_objects(tx, pipeline_id, signed(record.size_bytes) - signed(gone), 0).await
}

/// Locks the scope's pipeline, and makes sure that the run is there if it is of one.
pub(crate) async fn lock(tx: &mut Tx<'_>, scope: &ObjectScope) -> Result<PipelineRow, DbError> {
    let pipeline = pipeline::lock(tx, &scope.namespace, &scope.pipeline).await?;
    if let Some(number) = scope.run {
        let key = RunKey {
            namespace: scope.namespace.clone(),
            pipeline: scope.pipeline.clone(),
            run: number,
        };
        run::find(tx.c, &key).await?;
    }
    Ok(pipeline)
}

/// Deletes the oldest pipeline-level objects beyond `keep`, but never the one just put.
async fn evict(
    tx: &mut Tx<'_>,
    pipeline_id: i64,
    scope: &ObjectScope,
    just_put: &ObjectKey,
    keep: u64,
    at: Timestamp,
) -> Result<Vec<ObjectRecord>, DbError> {
    let of_pipeline = || {
        objects::table
            .filter(objects::pipeline_id.eq(pipeline_id))
            .filter(is_true("objects.run = 0"))
    };

    let count: i64 = of_pipeline().count().get_result(tx.c).await?;
    let too_many = count.saturating_sub(signed(keep));
    if too_many <= 0 {
        return Ok(Vec::new());
    }

    let oldest: Vec<ObjectRow> = of_pipeline()
        .filter(objects::key.ne(just_put.as_str()))
        .select(ObjectRow::as_select())
        .order((objects::created_at, objects::key))
        .limit(too_many)
        .load(tx.c)
        .await?;
    let mut evicted = Vec::with_capacity(oldest.len());

    for row in oldest {
        diesel::delete(objects::table.find((pipeline_id, 0, &row.key))).execute(tx.c).await?;
        record(tx, scope, EventDetails::ObjectEvicted { key: row.key.clone() }, ACTOR, at);
        evicted.push(row.record(scope)?);
    }

    Ok(evicted)
}

async fn find_row(
    c: &mut Conn,
    pipeline_id: i64,
    scope: &ObjectScope,
    key: &ObjectKey,
) -> Result<Option<ObjectRow>, DbError> {
    let row = objects::table
        .find((pipeline_id, scope_run(scope), key.as_str()))
        .select(ObjectRow::as_select())
        .get_result(c)
        .await
        .optional()?;
    Ok(row)
}

pub(crate) async fn find(
    c: &mut Conn,
    scope: &ObjectScope,
    key: &ObjectKey,
) -> Result<Option<ObjectRecord>, DbError> {
    let row: Option<ObjectRow> = objects::table
        .inner_join(pipelines::table.on(pipelines::id.eq(objects::pipeline_id)))
        .filter(pipelines::namespace.eq(scope.namespace.as_str()))
        .filter(pipelines::name.eq(scope.pipeline.as_str()))
        .filter(objects::run.eq(scope_run(scope)))
        .filter(objects::key.eq(key.as_str()))
        .select(ObjectRow::as_select())
        .get_result(c)
        .await
        .optional()?;
    row.map(|row| row.record(scope)).transpose()
}

pub(crate) async fn list(
    c: &mut Conn,
    scope: &ObjectScope,
    prefix: &str,
    wanted: &ListPage,
) -> Result<Page<ObjectRecord>, DbError> {
    let pipeline = pipeline::find(c, &scope.namespace, &scope.pipeline).await?;
    let rows = objects::table
        .filter(objects::pipeline_id.eq(pipeline.id))
        .filter(objects::run.eq(scope_run(scope)))
        .filter(objects::key.ge(prefix))
        .filter(objects::key.lt(prefix_end(prefix)))
        .filter(objects::key.gt(wanted.after.as_deref().unwrap_or_default()))
        .select(ObjectRow::as_select())
        .order(objects::key)
        .limit(page_rows(wanted.limit))
        .load(c)
        .await?;
    page(rows, wanted.limit, |row: &ObjectRow| row.key.clone(), |row| row.record(scope))
}

pub(crate) async fn delete(
    tx: &mut Tx<'_>,
    scope: &ObjectScope,
    key: &ObjectKey,
    actor: &str,
    at: Timestamp,
) -> Result<Option<ObjectRecord>, DbError> {
    let deleted = remove(tx, scope, key, None).await?;
    if deleted.is_some() {
        record(tx, scope, EventDetails::ObjectDeleted { key: key.to_string() }, actor, at);
    }
    Ok(deleted)
}

/// Deletes the row, without an event; with a location, only if the bytes are still there.
pub(crate) async fn remove(
    tx: &mut Tx<'_>,
    scope: &ObjectScope,
    key: &ObjectKey,
    location: Option<&ObjectKey>,
) -> Result<Option<ObjectRecord>, DbError> {
    // A put that is about to replace this row holds the same lock.
    let pipeline = match pipeline::lock(tx, &scope.namespace, &scope.pipeline).await {
        Err(DbError::NotFound { .. }) => return Ok(None),
        found => found?,
    };

    let mut query =
        diesel::delete(objects::table.find((pipeline.id, scope_run(scope), key.as_str())))
            .into_boxed();
    if let Some(location) = location {
        query = query.filter(objects::location.eq(location.as_str()));
    }

    let row: Option<ObjectRow> =
        query.returning(ObjectRow::as_returning()).get_result(tx.c).await.optional()?;
    if let Some(row) = &row {
        quotas::count_objects(tx, pipeline.id, -row.size_bytes, 0).await?;
    }

    row.map(|row| row.record(scope)).transpose()
}

pub(crate) fn record(
    tx: &mut Tx<'_>,
    scope: &ObjectScope,
    details: EventDetails,
    actor: &str,
    at: Timestamp,
) {
    let subject = Subject {
        namespace: Some(scope.namespace.clone()),
        pipeline: Some(scope.pipeline.clone()),
        run: scope.run,
        ..Subject::default()
    };
    tx.record(NewEvent { at, actor: actor.to_owned(), subject, details });
}
