//! Uploads by URL. An upload is open until it is completed or given up, whichever comes first; both
//! compare and set, so that bytes which a record names are never those of an upload that was given
//! up.

use diesel::prelude::*;
use gofer_core::entity::{ObjectRecord, ObjectScope};
use gofer_core::journal::Expirable;
use gofer_core::quota::QuotaKind;
use gofer_core::{Resource, Timestamp};

use super::{Conn, RunQueryDsl, Tx, is_true, objects as object, pipelines as pipeline, quotas};
use crate::error::DbError;
use crate::headroom::QuotaBook;
use crate::rows::upload::{COMPLETE, GIVEN_UP, OPEN, Outcome, UploadRow};
use crate::rows::{id, json, signed};
use crate::schema::{object_uploads, objects, pipelines};
use crate::types::{
    CompletedUpload, MAX_OPEN_UPLOADS, ObjectPut, ObjectUpload, UploadState, UploadedObject,
};

/// The words of the partial index.
const IS_OPEN: &str = "object_uploads.state = 'open'";

/// Until it is completed or given up, it counts with `reserved_bytes`.
pub(crate) async fn begin(
    tx: &mut Tx<'_>,
    upload: &ObjectUpload,
    reserved_bytes: u64,
    at: Timestamp,
    book: &QuotaBook,
) -> Result<(), DbError> {
    let ObjectUpload { scope, key, .. } = upload;
    // The deletion of the pipeline takes the same lock, and gives up what is open.
    let pipeline = object::lock(tx, scope).await?;
    if upload.if_absent && object::find(tx.c, scope, key).await?.is_some() {
        return Err(DbError::exists(Resource::Object, key));
    }

    let open: i64 = object_uploads::table
        .filter(object_uploads::pipeline_id.eq(pipeline.id))
        .filter(is_true(IS_OPEN))
        .count()
        .get_result(tx.c)
        .await?;

    if open >= signed(MAX_OPEN_UPLOADS) {
        return Err(DbError::conflict(format!(
            "pipeline `{}/{}` has {open} uploads that were begun and not completed, and may have \
             {MAX_OPEN_UPLOADS}; complete them, or use PutObject until retention has forgotten \
             them",
            scope.namespace, scope.pipeline
        )));
    }

    quotas::admit(tx, book, &scope.namespace, &[(QuotaKind::ObjectBytes, reserved_bytes)], at)
        .await?;
    let row =
        UploadRow { reserved_bytes: signed(reserved_bytes), ..UploadRow::new(pipeline.id, upload) };
    diesel::insert_into(object_uploads::table).values(row).execute(tx.c).await?;

    quotas::count_objects(tx, pipeline.id, 0, signed(reserved_bytes)).await
}

pub(crate) async fn find(
    c: &mut Conn,
    scope: &ObjectScope,
    id: &str,
) -> Result<ObjectUpload, DbError> {
    let row: Option<UploadRow> = object_uploads::table
        .inner_join(pipelines::table.on(pipelines::id.eq(object_uploads::pipeline_id)))
        .filter(object_uploads::id.eq(id))
        .filter(object_uploads::run.eq(crate::rows::entity::scope_run(scope)))
        .filter(pipelines::namespace.eq(scope.namespace.as_str()))
        .filter(pipelines::name.eq(scope.pipeline.as_str()))
        .select(UploadRow::as_select())
        .get_result(c)
        .await
        .optional()?;
    row.ok_or_else(|| DbError::not_found(Resource::Upload, id))?.upload(scope)
}

/// Makes the bytes an object, exactly as a put does, in the transaction that completes the upload.
pub(crate) async fn complete(
    tx: &mut Tx<'_>,
    scope: &ObjectScope,
    id: &str,
    found: &UploadedObject,
    actor: &str,
    book: &QuotaBook,
) -> Result<CompletedUpload, DbError> {
    // Of two completions at once the second waits here, and sees what the first did.
    let pipeline = pipeline::lock(tx, &scope.namespace, &scope.pipeline).await?;
    let upload = find(tx.c, scope, id).await?;
    match upload.state {
        UploadState::Open => {}
        UploadState::Complete(record, evicted_keys) => {
            return Ok(CompletedUpload { record, evicted_keys, no_longer_named: Vec::new() });
        }
        UploadState::GivenUp => return Err(DbError::not_found(Resource::Upload, id)),
    }

    let record = ObjectRecord {
        scope: scope.clone(),
        key: upload.key,
        location: upload.location,
        size_bytes: found.size_bytes,
        sha256: found.sha256.clone().unwrap_or_default(),
        created_at: found.at,
    };

    // What was reserved is free for what takes its place.
    let reserved: i64 = object_uploads::table
        .find(id)
        .select(object_uploads::reserved_bytes)
        .get_result(tx.c)
        .await?;
    quotas::count_objects(tx, pipeline.id, 0, -reserved).await?;

    let put = ObjectPut { if_absent: upload.if_absent, keep: found.keep };
    let outcome = object::put(tx, &record, put, actor, book).await?;
    let evicted_keys: Vec<String> = outcome.evicted.iter().map(|old| old.key.to_string()).collect();
    let set = diesel::update(object_uploads::table.find(id).filter(object_uploads::state.eq(OPEN)))
        .set((
            object_uploads::state.eq(COMPLETE),
            object_uploads::outcome.eq(json(&Outcome::new(&record, &evicted_keys))?),
        ))
        .execute(tx.c)
        .await?;

    if set == 0 {
        // Retention has given it up; nothing of this transaction stays.
        return Err(DbError::not_found(Resource::Upload, id));
    }

    let no_longer_named = outcome.replaced.into_iter().chain(outcome.evicted).collect();
    Ok(CompletedUpload { record, evicted_keys, no_longer_named })
}

/// Whether it was open, and so will never be completed.
pub(crate) async fn give_up(
    tx: &mut Tx<'_>,
    scope: &ObjectScope,
    id: &str,
) -> Result<bool, DbError> {
    find(tx.c, scope, id).await?;
    set_given_up(tx, id).await
}

async fn set_given_up(tx: &mut Tx<'_>, id: &str) -> Result<bool, DbError> {
    let owner: Option<i64> = object_uploads::table
        .find(id)
        .select(object_uploads::pipeline_id)
        .get_result(tx.c)
        .await
        .optional()?;
    let Some(pipeline_id) = owner else { return Ok(false) };

    // Before the upload's row, as a completion does.
    pipeline::lock_row(tx, pipeline_id).await?;

    let open = object_uploads::table.find(id).filter(object_uploads::state.eq(OPEN));
    let reserved: Option<i64> = diesel::update(open)
        .set(object_uploads::state.eq(GIVEN_UP))
        .returning(object_uploads::reserved_bytes)
        .get_result(tx.c)
        .await
        .optional()?;
    let Some(reserved) = reserved else { return Ok(false) };

    quotas::count_objects(tx, pipeline_id, 0, -reserved).await?;
    Ok(true)
}

/// Gives up whatever is open of a pipeline that is being deleted, under its lock, and counts it no
/// more.
pub(crate) async fn give_up_all(c: &mut Conn, pipeline_id: i64) -> Result<(), DbError> {
    let open = object_uploads::table
        .filter(object_uploads::pipeline_id.eq(pipeline_id))
        .filter(is_true(IS_OPEN));
    diesel::update(open).set(object_uploads::state.eq(GIVEN_UP)).execute(c).await?;
    Ok(())
}

/// Those whose URL ended before, oldest first.
pub(crate) async fn expirable(
    c: &mut Conn,
    before: Timestamp,
    limit: usize,
) -> Result<Vec<Expirable>, DbError> {
    let same = objects::pipeline_id
        .eq(object_uploads::pipeline_id)
        .and(objects::run.eq(object_uploads::run))
        .and(objects::key.eq(object_uploads::key))
        .and(objects::location.eq(object_uploads::location));
    let rows: Vec<(String, String, String, Option<String>)> = object_uploads::table
        .left_join(objects::table.on(same))
        .filter(object_uploads::expires_at.lt(before.0))
        .order((object_uploads::expires_at, object_uploads::id))
        .limit(signed(limit as u64))
        .select((
            object_uploads::id,
            object_uploads::state,
            object_uploads::location,
            objects::key.nullable(),
        ))
        .load(c)
        .await?;
    let found = |(upload, state, location, named_by): (String, String, String, Option<String>)| {
        let may_be_named = state == OPEN || named_by.is_some();
        let location = if may_be_named { None } else { Some(id(&location)?) };
        Ok(Expirable::Upload { id: upload, location })
    };

    rows.into_iter().map(found).collect()
}

pub(crate) async fn expired(
    tx: &mut Tx<'_>,
    id: &str,
    bytes_are_gone: bool,
) -> Result<(), DbError> {
    if !bytes_are_gone && set_given_up(tx, id).await? {
        return Ok(());
    }
    // The bytes of a completed one are its object's; those of one that was given up must be gone
    // first.
    let states: &[&str] = if bytes_are_gone { &[COMPLETE, GIVEN_UP] } else { &[COMPLETE] };
    let ended =
        object_uploads::table.find(id).filter(object_uploads::state.eq_any(states.iter().copied()));
    diesel::delete(ended).execute(tx.c).await?;
    Ok(())
}
