//! The end of a pipeline.

use diesel::prelude::*;
use gofer_core::entity::{ObjectScope, SecretScope};
use gofer_core::event::EventDetails;
use gofer_core::run::LogState;
use gofer_core::{Attempt, ExecutionId, NamespaceId, PipelineId, RunNumber, Timestamp};

use super::{
    Conn, RunQueryDsl, Tx, UNFINISHED, is_true, pipelines as pipeline, secret_values, uploads,
};
use crate::error::DbError;
use crate::headroom::QuotaBook;
use crate::rows::entity::{ObjectRow, SecretRow};
use crate::rows::{id, small, unsigned};
use crate::schema::{attempts, objects, pipeline_versions, pipelines, runs, secrets};
use crate::types::DeletedPipeline;

pub(crate) async fn delete(
    tx: &mut Tx<'_>,
    namespace: &NamespaceId,
    name: &PipelineId,
    actor: &str,
    at: Timestamp,
    book: &QuotaBook,
) -> Result<DeletedPipeline, DbError> {
    // A new run takes the same lock, so none can come in between.
    let row = pipeline::lock(tx, namespace, name).await?;
    let active: Option<i64> = runs::table
        .filter(runs::namespace.eq(namespace.as_str()))
        .filter(runs::pipeline_id.eq(row.id))
        .filter(is_true(UNFINISHED))
        .select(runs::number)
        .order(runs::id)
        .first(tx.c)
        .await
        .optional()?;

    if let Some(run) = active {
        return Err(DbError::conflict(format!(
            "pipeline `{namespace}/{name}` still has active runs, such as `{run}`; cancel them or \
             wait for their end"
        )));
    }

    let deleted = DeletedPipeline {
        archived_logs: logs(tx.c, namespace, name, LogState::Archived).await?,
        live_logs: logs(tx.c, namespace, name, LogState::Live).await?,
        objects: delete_objects(tx.c, namespace, name, row.id).await?,
        secrets: delete_secrets(tx.c, namespace, name, row.id).await?,
    };

    for secret in &deleted.secrets {
        secret_values::leave(tx, &secret.location, at).await?;
    }

    uploads::give_up_all(tx.c, row.id).await?;
    // Task runs and attempts go with their runs.
    diesel::delete(
        runs::table
            .filter(runs::namespace.eq(namespace.as_str()))
            .filter(runs::pipeline.eq(name.as_str())),
    )
    .execute(tx.c)
    .await?;
    diesel::delete(pipeline_versions::table.filter(pipeline_versions::pipeline_id.eq(row.id)))
        .execute(tx.c)
        .await?;
    book.forget();
    diesel::update(pipelines::table.find(row.id))
        .set((
            pipelines::deleted_at.eq(at.0),
            pipelines::updated_at.eq(at.0),
            pipelines::versions.eq(0),
            pipelines::version_bytes.eq(0),
            pipelines::object_bytes.eq(0),
            pipelines::upload_bytes.eq(0),
        ))
        .execute(tx.c)
        .await?;
    pipeline::record(tx, namespace, name, EventDetails::PipelineDeleted {}, actor, at);

    Ok(deleted)
}

async fn logs(
    c: &mut Conn,
    namespace: &NamespaceId,
    name: &PipelineId,
    log: LogState,
) -> Result<Vec<ExecutionId>, DbError> {
    let rows: Vec<(i64, String, i64)> = attempts::table
        .inner_join(runs::table.on(runs::id.eq(attempts::run_id)))
        .filter(runs::namespace.eq(namespace.as_str()))
        .filter(runs::pipeline.eq(name.as_str()))
        .filter(attempts::log.eq(log.as_str()))
        .select((runs::number, attempts::task, attempts::attempt))
        .load(c)
        .await?;
    let execution = |(run, task, attempt): (i64, String, i64)| {
        let run = gofer_core::RunKey {
            namespace: namespace.clone(),
            pipeline: name.clone(),
            run: RunNumber(unsigned(run)?),
        };
        Ok(ExecutionId { run, task: id(&task)?, attempt: Attempt(small(attempt)?) })
    };

    rows.into_iter().map(execution).collect()
}

async fn delete_objects(
    c: &mut Conn,
    namespace: &NamespaceId,
    name: &PipelineId,
    pipeline_id: i64,
) -> Result<Vec<gofer_core::entity::ObjectRecord>, DbError> {
    let rows: Vec<ObjectRow> =
        diesel::delete(objects::table.filter(objects::pipeline_id.eq(pipeline_id)))
            .returning(ObjectRow::as_returning())
            .load(c)
            .await?;
    let record = |row: ObjectRow| {
        let run = if row.run == 0 { None } else { Some(RunNumber(unsigned(row.run)?)) };
        row.record(&ObjectScope { namespace: namespace.clone(), pipeline: name.clone(), run })
    };
    rows.into_iter().map(record).collect()
}

async fn delete_secrets(
    c: &mut Conn,
    namespace: &NamespaceId,
    name: &PipelineId,
    pipeline_id: i64,
) -> Result<Vec<gofer_core::entity::SecretRecord>, DbError> {
    let rows: Vec<SecretRow> =
        diesel::delete(secrets::table.filter(secrets::pipeline_id.eq(pipeline_id)))
            .returning(SecretRow::as_returning())
            .load(c)
            .await?;
    let scope = SecretScope::Pipeline(namespace.clone(), name.clone());
    rows.into_iter().map(|row| row.record(&scope)).collect()
}
