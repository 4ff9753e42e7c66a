//! Why runs wait.

use diesel::prelude::*;
use gofer_core::{NamespaceId, PipelineId, Resource, RunNumber};

use super::{Conn, RUNNING, RunQueryDsl, is_true, run_counts};
use crate::error::DbError;
use crate::rows::{signed, unsigned};
use crate::schema::{pipelines, runs};
use crate::types::PipelineRoom;

pub(crate) async fn room(
    c: &mut Conn,
    namespace: &NamespaceId,
    pipeline: &PipelineId,
) -> Result<PipelineRoom, DbError> {
    let row: Option<(i64, Option<i64>)> = pipelines::table
        .filter(pipelines::namespace.eq(namespace.as_str()))
        .filter(pipelines::name.eq(pipeline.as_str()))
        .select((pipelines::id, pipelines::parallelism))
        .get_result(c)
        .await
        .optional()?;
    let (id, parallelism) = row.ok_or_else(|| {
        DbError::not_found(Resource::Pipeline, format_args!("{namespace}/{pipeline}"))
    })?;

    let count = run_counts::of_pipeline(c, id).await?;
    let oldest: Vec<i64> = runs::table
        .filter(is_true(RUNNING))
        .filter(runs::pipeline_id.eq(id))
        .select(runs::number)
        .order(runs::id)
        .limit(signed(PipelineRoom::NAMED as u64))
        .load(c)
        .await?;

    Ok(PipelineRoom {
        parallelism: parallelism.map(unsigned).transpose()?,
        running: unsigned(count)?,
        oldest: oldest
            .into_iter()
            .map(|number| Ok(RunNumber(unsigned(number)?)))
            .collect::<Result<_, DbError>>()?,
    })
}
