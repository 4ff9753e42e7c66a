use std::collections::{BTreeMap, HashMap};

use diesel::dsl::exists;
use diesel::prelude::*;
use gofer_core::entity::Namespace;
use gofer_core::event::{EventDetails, NewEvent, Subject};
use gofer_core::object_store::ListPage;
use gofer_core::quota::QuotaKind;
use gofer_core::{NamespaceId, Resource, Timestamp};

use super::engine::locked;
use super::{Conn, RunQueryDsl, Tx, global_secrets};
use crate::error::DbError;
use crate::rows::entity::NamespaceRow;
use crate::rows::{json, page, page_rows, parsed};
use crate::schema::{namespaces, pipelines};
use crate::types::{MAX_PAGE, Page};

/// The namespace every database begins with; it cannot be deleted.
pub(crate) const DEFAULT: &str = "default";

pub(crate) async fn create(
    tx: &mut Tx<'_>,
    id: &NamespaceId,
    description: &str,
    actor: &str,
    at: Timestamp,
) -> Result<Namespace, DbError> {
    let row = NamespaceRow {
        id: id.to_string(),
        uid: format!("{:032x}", rand::random::<u128>()),
        description: description.to_owned(),
        created_at: at.0,
        updated_at: at.0,
    };

    let inserted = diesel::insert_into(namespaces::table)
        .values(row)
        .on_conflict_do_nothing()
        .execute(tx.c)
        .await?;
    if inserted == 0 {
        return Err(DbError::exists(Resource::Namespace, id));
    }

    record(
        tx,
        id,
        EventDetails::NamespaceCreated { description: description.to_owned() },
        actor,
        at,
    );

    get(tx.c, id).await
}

pub(crate) async fn get(c: &mut Conn, id: &NamespaceId) -> Result<Namespace, DbError> {
    let row: Option<NamespaceRow> = namespaces::table
        .find(id.as_str())
        .select(NamespaceRow::as_select())
        .get_result(c)
        .await
        .optional()?;
    row.ok_or_else(|| DbError::not_found(Resource::Namespace, id))?.try_into()
}

/// Fails unless the namespace exists.
pub(crate) async fn require(c: &mut Conn, id: &NamespaceId) -> Result<(), DbError> {
    let found: bool =
        diesel::select(exists(namespaces::table.filter(namespaces::id.eq(id.as_str()))))
            .get_result(c)
            .await?;
    if found { Ok(()) } else { Err(DbError::not_found(Resource::Namespace, id)) }
}

/// Fails unless the namespace exists, and keeps it there until the end of the transaction.
pub(crate) async fn lock(tx: &mut Tx<'_>, id: &NamespaceId) -> Result<(), DbError> {
    let found: Option<String> =
        locked!(namespaces::table.filter(namespaces::id.eq(id.as_str())).select(namespaces::id))
            .get_result(tx.c)
            .await
            .optional()?;
    found.map(drop).ok_or_else(|| DbError::not_found(Resource::Namespace, id))
}

pub(crate) async fn list(
    c: &mut Conn,
    only: Option<&[NamespaceId]>,
    wanted: &ListPage,
) -> Result<Page<Namespace>, DbError> {
    let mut query = namespaces::table.select(NamespaceRow::as_select()).into_boxed();
    if let Some(only) = only {
        query = query.filter(namespaces::id.eq_any(only.iter().map(NamespaceId::as_str)));
    }
    if let Some(after) = &wanted.after {
        query = query.filter(namespaces::id.gt(after.as_str()));
    }
    let rows = query.order(namespaces::id).limit(page_rows(wanted.limit)).load(c).await?;
    page(rows, wanted.limit, |row: &NamespaceRow| row.id.clone(), Namespace::try_from)
}

pub(crate) async fn update(
    tx: &mut Tx<'_>,
    id: &NamespaceId,
    description: &str,
    actor: &str,
    at: Timestamp,
) -> Result<Namespace, DbError> {
    let row: Option<NamespaceRow> = diesel::update(namespaces::table.find(id.as_str()))
        .set((namespaces::description.eq(description), namespaces::updated_at.eq(at.0)))
        .returning(NamespaceRow::as_returning())
        .get_result(tx.c)
        .await
        .optional()?;
    let row = row.ok_or_else(|| DbError::not_found(Resource::Namespace, id))?;

    record(
        tx,
        id,
        EventDetails::NamespaceUpdated { description: description.to_owned() },
        actor,
        at,
    );
    row.try_into()
}

/// Gives the namespace limits of its own, or takes them away (`None`), each with an event if that
/// changes anything. Limits that are not named stay: those of concurrent calls add up.
pub(crate) async fn set_quotas(
    tx: &mut Tx<'_>,
    id: &NamespaceId,
    changes: &[(QuotaKind, Option<u64>)],
    actor: &str,
    at: Timestamp,
) -> Result<(), DbError> {
    let row = namespaces::table.filter(namespaces::id.eq(id.as_str())).select(namespaces::quotas);
    let text: Option<String> = locked!(row).get_result(tx.c).await.optional()?;
    let text = text.ok_or_else(|| DbError::not_found(Resource::Namespace, id))?;

    // As it is stored: a limit of a kind that this version does not know stays, too.
    let mut own: BTreeMap<String, u64> = parsed(&text)?;

    for (quota, limit) in changes {
        let before = match limit {
            Some(limit) => own.insert(quota.name().to_owned(), *limit),
            None => own.remove(quota.name()),
        };
        if before != *limit {
            record(
                tx,
                id,
                EventDetails::NamespaceQuotaUpdated { quota: *quota, limit: *limit },
                actor,
                at,
            );
        }
    }

    diesel::update(namespaces::table.find(id.as_str()))
        .set(namespaces::quotas.eq(json(&own)?))
        .execute(tx.c)
        .await?;

    Ok(())
}

pub(crate) async fn delete(
    tx: &mut Tx<'_>,
    id: &NamespaceId,
    actor: &str,
    at: Timestamp,
) -> Result<(), DbError> {
    if id.as_str() == DEFAULT {
        return Err(DbError::conflict("namespace `default` cannot be deleted"));
    }

    // A registration holds the same lock, so no pipeline can come in between.
    lock(tx, id).await?;
    let pipeline: Option<String> = pipelines::table
        .filter(pipelines::namespace.eq(id.as_str()))
        .filter(pipelines::deleted_at.is_null())
        .select(pipelines::name)
        .order(pipelines::name)
        .first(tx.c)
        .await
        .optional()?;

    if let Some(pipeline) = pipeline {
        return Err(DbError::conflict(format!(
            "namespace `{id}` still owns pipelines, such as `{pipeline}`; delete them first"
        )));
    }

    global_secrets::forget_namespace(tx, id).await?;
    let uid: String = diesel::delete(namespaces::table.find(id.as_str()))
        .returning(namespaces::uid)
        .get_result(tx.c)
        .await?;
    record(tx, id, EventDetails::NamespaceDeleted {}, actor, at);
    tx.namespace_is_gone(id, uid);

    Ok(())
}

/// The ids of these namespaces, in their order.
pub(crate) async fn uids(c: &mut Conn, names: &[NamespaceId]) -> Result<Vec<String>, DbError> {
    let mut uids = Vec::with_capacity(names.len());
    for name in names {
        let uid: Option<String> = namespaces::table
            .find(name.as_str())
            .select(namespaces::uid)
            .get_result(c)
            .await
            .optional()?;
        uids.push(uid.ok_or_else(|| DbError::not_found(Resource::Namespace, name))?);
    }
    Ok(uids)
}

/// The names of those of these namespaces that there are.
pub(crate) async fn names(
    c: &mut Conn,
    uids: &[String],
) -> Result<HashMap<String, NamespaceId>, DbError> {
    let mut names = HashMap::new();
    for uids in uids.chunks(MAX_PAGE) {
        let found: Vec<(String, String)> = namespaces::table
            .filter(namespaces::uid.eq_any(uids))
            .select((namespaces::uid, namespaces::id))
            .load(c)
            .await?;
        for (uid, name) in found {
            names.insert(uid, crate::rows::id(&name)?);
        }
    }
    Ok(names)
}

fn record(tx: &mut Tx<'_>, id: &NamespaceId, details: EventDetails, actor: &str, at: Timestamp) {
    let subject = Subject { namespace: Some(id.clone()), ..Subject::default() };
    tx.record(NewEvent { at, actor: actor.to_owned(), subject, details });
}
