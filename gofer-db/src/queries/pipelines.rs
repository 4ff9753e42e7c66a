use std::sync::Arc;

use diesel::prelude::*;
use gofer_core::entity::{Pipeline, PipelineVersion};
use gofer_core::event::{EventDetails, NewEvent, Subject};
use gofer_core::object_store::ListPage;
use gofer_core::pipeline::PipelineSpec;
use gofer_core::quota::{QuotaKind, Quotas};
use gofer_core::{NamespaceId, PipelineId, Resource, Timestamp, Version};

use super::engine::locked;
use super::{Conn, RunQueryDsl, Tx, namespaces, quotas};
use crate::error::DbError;
use crate::headroom::QuotaBook;
use crate::rows::entity::{PipelineRow, overlap_name};
use crate::rows::{json, number_cursor, page, page_rows, parsed, signed, unsigned};
use crate::schema::{namespaces as namespaces_table, pipeline_versions, pipelines};
use crate::spec_cache::{KnownSpec, SpecCache};
use crate::types::{Page, PipelineVersionSummary, Registered, Registration};

pub(crate) async fn register(
    tx: &mut Tx<'_>,
    registration: &Registration,
    actor: &str,
    at: Timestamp,
    book: &QuotaBook,
) -> Result<Registered, DbError> {
    let Registration { namespace, spec, digest, expected_version } = registration;
    namespaces::lock(tx, namespace).await?;
    let row = lock_or_make(tx, namespace, &spec.name, at, book).await?;
    let exists = row.deleted_at.is_none();
    let latest = if exists { Version(unsigned(row.latest_version)?) } else { Version(0) };

    if exists {
        let version =
            version_row(tx.c, &row, row.latest_version).await?.ok_or_else(|| lost_version(&row))?;
        if version.digest == *digest {
            let version = version.with_spec(namespace, &spec.name, Arc::clone(spec))?;
            return Ok(Registered { pipeline: row.try_into()?, version, changed: false });
        }
    }

    if let Some(expected) = expected_version.filter(|expected| *expected != latest) {
        return Err(stale(namespace, &spec.name, expected, latest));
    }

    let next = row.latest_version + 1;
    let text = json(&**spec)?;
    let bytes = text.len() as u64;
    let wanted = [(QuotaKind::PipelineVersions, 1), (QuotaKind::PipelineBytes, bytes)];
    quotas::admit(tx, book, namespace, &wanted, at).await?;
    quotas::count_versions(tx, row.id, 1, signed(bytes)).await?;

    let version = VersionRow {
        pipeline_id: row.id,
        version: next,
        digest: digest.clone(),
        registered_by: actor.to_owned(),
        created_at: at.0,
    };

    diesel::insert_into(pipeline_versions::table)
        .values((&version, pipeline_versions::spec.eq(text)))
        .execute(tx.c)
        .await?;

    let row: PipelineRow = diesel::update(pipelines::table.find(row.id))
        .set((
            pipelines::latest_version.eq(next),
            pipelines::parallelism.eq(spec.parallelism.map(i64::from)),
            pipelines::overlap.eq(overlap_name(spec.overlap)),
            pipelines::updated_at.eq(at.0),
            (!exists).then(|| (pipelines::created_at.eq(at.0), pipelines::enabled.eq(true))),
            pipelines::deleted_at.eq(None::<i64>),
        ))
        .returning(PipelineRow::as_returning())
        .get_result(tx.c)
        .await?;
    let details = EventDetails::PipelineRegistered {
        version: Version(unsigned(next)?),
        digest: digest.clone(),
    };

    record(tx, namespace, &spec.name, details, actor, at);
    let version = version.with_spec(namespace, &spec.name, Arc::clone(spec))?;
    Ok(Registered { pipeline: row.try_into()?, version, changed: true })
}

fn stale(
    namespace: &NamespaceId,
    name: &PipelineId,
    expected: Version,
    latest: Version,
) -> DbError {
    DbError::conflict(match (expected, latest) {
        (Version(0), _) => {
            format!("pipeline `{namespace}/{name}` exists already, at version {latest}")
        }
        (_, Version(0)) => format!(
            "pipeline `{namespace}/{name}` does not exist, and version {expected} was expected"
        ),
        _ => format!(
            "pipeline `{namespace}/{name}` is at version {latest}, not {expected}: somebody else \
             registered it; look at the difference again"
        ),
    })
}

/// The pipeline's row, locked. A name that is new gets a row that says deleted, so that one way
/// leads on from both.
async fn lock_or_make(
    tx: &mut Tx<'_>,
    namespace: &NamespaceId,
    name: &PipelineId,
    at: Timestamp,
    book: &QuotaBook,
) -> Result<PipelineRow, DbError> {
    let found: Option<PipelineRow> =
        locked!(named(namespace, name).select(PipelineRow::as_select()))
            .get_result(tx.c)
            .await
            .optional()?;
    if let Some(row) = found {
        return Ok(row);
    }

    quotas::admit(tx, book, namespace, &[(QuotaKind::Pipelines, 1)], at).await?;
    let deleted = (
        pipelines::namespace.eq(namespace.as_str()),
        pipelines::name.eq(name.as_str()),
        pipelines::enabled.eq(true),
        pipelines::latest_version.eq(0),
        pipelines::last_run.eq(0),
        pipelines::overlap.eq("queue"),
        pipelines::created_at.eq(at.0),
        pipelines::updated_at.eq(at.0),
        pipelines::deleted_at.eq(at.0),
    );

    diesel::insert_into(pipelines::table)
        .values(deleted)
        .on_conflict((pipelines::namespace, pipelines::name))
        .do_nothing()
        .execute(tx.c)
        .await?;

    let row =
        locked!(named(namespace, name).select(PipelineRow::as_select())).get_result(tx.c).await?;
    Ok(row)
}

#[diesel::dsl::auto_type]
fn named<'a>(namespace: &'a NamespaceId, name: &'a PipelineId) -> _ {
    let namespace: &'a str = namespace.as_str();
    let name: &'a str = name.as_str();
    pipelines::table.filter(pipelines::namespace.eq(namespace)).filter(pipelines::name.eq(name))
}

/// The pipeline's row; `NotFound` when there is none, or it was deleted.
pub(crate) async fn find(
    c: &mut Conn,
    namespace: &NamespaceId,
    name: &PipelineId,
) -> Result<PipelineRow, DbError> {
    let row: Option<PipelineRow> =
        named(namespace, name).select(PipelineRow::as_select()).get_result(c).await.optional()?;
    living(row, namespace, name)
}

/// The same, locked until the end of the transaction.
pub(crate) async fn lock(
    tx: &mut Tx<'_>,
    namespace: &NamespaceId,
    name: &PipelineId,
) -> Result<PipelineRow, DbError> {
    let row: Option<PipelineRow> = locked!(named(namespace, name).select(PipelineRow::as_select()))
        .get_result(tx.c)
        .await
        .optional()?;
    living(row, namespace, name)
}

/// Locks a row that is there, whether or not its pipeline was deleted.
pub(crate) async fn lock_row(tx: &mut Tx<'_>, id: i64) -> Result<(), DbError> {
    let _: i64 = locked!(pipelines::table.filter(pipelines::id.eq(id)).select(pipelines::id))
        .get_result(tx.c)
        .await?;
    Ok(())
}

/// The same, with the limits of its namespace.
pub(crate) async fn lock_with_limits(
    tx: &mut Tx<'_>,
    namespace: &NamespaceId,
    name: &PipelineId,
    book: &QuotaBook,
) -> Result<(PipelineRow, Quotas), DbError> {
    let own = namespaces_table::table
        .filter(namespaces_table::id.eq(namespace.as_str()))
        .select(namespaces_table::quotas)
        .single_value();
    let found: Option<(PipelineRow, Option<String>)> =
        locked!(named(namespace, name).select((PipelineRow::as_select(), own)))
            .get_result(tx.c)
            .await
            .optional()?;
    let (row, own) = found.unzip();
    let row = living(row, namespace, name)?;
    Ok((row, quotas::limits(&book.defaults, own.flatten().as_deref())?))
}

fn living(
    row: Option<PipelineRow>,
    namespace: &NamespaceId,
    name: &PipelineId,
) -> Result<PipelineRow, DbError> {
    row.filter(|row| row.deleted_at.is_none())
        .ok_or_else(|| DbError::not_found(Resource::Pipeline, format_args!("{namespace}/{name}")))
}

pub(crate) async fn get(
    c: &mut Conn,
    namespace: &NamespaceId,
    name: &PipelineId,
) -> Result<Pipeline, DbError> {
    find(c, namespace, name).await?.try_into()
}

pub(crate) async fn list(
    c: &mut Conn,
    namespace: &NamespaceId,
    wanted: &ListPage,
) -> Result<Page<Pipeline>, DbError> {
    namespaces::require(c, namespace).await?;
    let rows = pipelines::table
        .select(PipelineRow::as_select())
        .filter(pipelines::namespace.eq(namespace.as_str()))
        .filter(pipelines::name.gt(wanted.after.as_deref().unwrap_or_default()))
        .filter(pipelines::deleted_at.is_null())
        .order(pipelines::name)
        .limit(page_rows(wanted.limit))
        .load(c)
        .await?;
    page(rows, wanted.limit, |row: &PipelineRow| row.name.clone(), Pipeline::try_from)
}

#[derive(Queryable, Selectable, Insertable)]
#[diesel(table_name = pipeline_versions)]
struct VersionRow {
    pipeline_id: i64,
    version: i64,
    digest: String,
    registered_by: String,
    created_at: i64,
}

impl VersionRow {
    fn with_spec(
        self,
        namespace: &NamespaceId,
        pipeline: &PipelineId,
        spec: Arc<PipelineSpec>,
    ) -> Result<PipelineVersion, DbError> {
        Ok(PipelineVersion {
            namespace: namespace.clone(),
            pipeline: pipeline.clone(),
            version: Version(unsigned(self.version)?),
            spec,
            digest: self.digest,
            registered_by: self.registered_by,
            created_at: Timestamp(self.created_at),
        })
    }
}

async fn version_row(
    c: &mut Conn,
    pipeline: &PipelineRow,
    version: i64,
) -> Result<Option<VersionRow>, DbError> {
    let row = pipeline_versions::table
        .find((pipeline.id, version))
        .select(VersionRow::as_select())
        .get_result(c)
        .await
        .optional()?;
    Ok(row)
}

fn lost_version(row: &PipelineRow) -> DbError {
    DbError::corrupt(format!(
        "pipeline `{}/{}` has no version {}",
        row.namespace, row.name, row.latest_version
    ))
}

/// A version's spec, from the cache when it was read before.
pub(crate) async fn spec(
    c: &mut Conn,
    pipeline_id: i64,
    version: i64,
    specs: &SpecCache,
) -> Result<Arc<KnownSpec>, DbError> {
    if let Some(spec) = specs.get(pipeline_id, version) {
        return Ok(spec);
    }
    let text: String = pipeline_versions::table
        .find((pipeline_id, version))
        .select(pipeline_versions::spec)
        .get_result(c)
        .await?;
    Ok(specs.put(pipeline_id, version, parsed(&text)?))
}

pub(crate) async fn version_get(
    c: &mut Conn,
    namespace: &NamespaceId,
    name: &PipelineId,
    version: Option<Version>,
    specs: &SpecCache,
) -> Result<PipelineVersion, DbError> {
    let pipeline = find(c, namespace, name).await?;
    let number = version.map_or(pipeline.latest_version, |version| signed(version.0));
    let row = version_row(c, &pipeline, number)
        .await?
        .ok_or_else(|| no_version(namespace, name, number))?;
    let known = spec(c, pipeline.id, number, specs).await?;
    row.with_spec(namespace, name, Arc::clone(&known.spec))
}

pub(crate) fn no_version(namespace: &NamespaceId, name: &PipelineId, version: i64) -> DbError {
    DbError::not_found(Resource::PipelineVersion, format_args!("{namespace}/{name}/{version}"))
}

pub(crate) async fn version_list(
    c: &mut Conn,
    namespace: &NamespaceId,
    name: &PipelineId,
    wanted: &ListPage,
) -> Result<Page<PipelineVersionSummary>, DbError> {
    let pipeline = find(c, namespace, name).await?;
    let before = number_cursor(wanted.after.as_deref())?.unwrap_or(i64::MAX);
    let rows = pipeline_versions::table
        .select(VersionRow::as_select())
        .filter(pipeline_versions::pipeline_id.eq(pipeline.id))
        .filter(pipeline_versions::version.lt(before))
        .order(pipeline_versions::version.desc())
        .limit(page_rows(wanted.limit))
        .load(c)
        .await?;

    page(
        rows,
        wanted.limit,
        |row: &VersionRow| row.version.to_string(),
        |row| {
            Ok(PipelineVersionSummary {
                namespace: namespace.clone(),
                pipeline: name.clone(),
                version: Version(unsigned(row.version)?),
                digest: row.digest,
                registered_by: row.registered_by,
                created_at: Timestamp(row.created_at),
            })
        },
    )
}

pub(crate) async fn set_enabled(
    tx: &mut Tx<'_>,
    namespace: &NamespaceId,
    name: &PipelineId,
    enabled: bool,
    actor: &str,
    at: Timestamp,
) -> Result<Pipeline, DbError> {
    let row: Option<PipelineRow> = diesel::update(named(namespace, name))
        .filter(pipelines::deleted_at.is_null())
        .filter(pipelines::enabled.ne(enabled))
        .set((pipelines::enabled.eq(enabled), pipelines::updated_at.eq(at.0)))
        .returning(PipelineRow::as_returning())
        .get_result(tx.c)
        .await
        .optional()?;
    let Some(row) = row else { return get(tx.c, namespace, name).await };
    let details =
        if enabled { EventDetails::PipelineEnabled {} } else { EventDetails::PipelineDisabled {} };
    record(tx, namespace, name, details, actor, at);
    row.try_into()
}

pub(crate) fn record(
    tx: &mut Tx<'_>,
    namespace: &NamespaceId,
    name: &PipelineId,
    details: EventDetails,
    actor: &str,
    at: Timestamp,
) {
    let subject = Subject {
        namespace: Some(namespace.clone()),
        pipeline: Some(name.clone()),
        ..Subject::default()
    };
    tx.record(NewEvent { at, actor: actor.to_owned(), subject, details });
}
