use diesel::prelude::*;
use gofer_core::NamespaceId;
use gofer_core::event::{Event, NewEvent};

use super::{Conn, RunQueryDsl, Tx};
use crate::error::DbError;
use crate::rows::event::EventRow;
use crate::rows::{signed, unsigned};
use crate::schema::{event_counter, events, namespaces};
use crate::types::{EventFilter, MAX_PAGE};

#[derive(Clone, Copy)]
enum Order {
    Ascending,
    Descending,
}

pub(crate) async fn after(
    c: &mut Conn,
    cursor: u64,
    filter: &EventFilter,
    limit: usize,
) -> Result<Vec<Event>, DbError> {
    list(c, signed(cursor), Order::Ascending, filter, limit).await
}

pub(crate) async fn before(
    c: &mut Conn,
    cursor: Option<u64>,
    filter: &EventFilter,
    limit: usize,
) -> Result<Vec<Event>, DbError> {
    list(c, cursor.map_or(i64::MAX, signed), Order::Descending, filter, limit).await
}

/// One walk along an index per namespace, merged: an index that starts with the namespace has the
/// ids of only one in order.
async fn list(
    c: &mut Conn,
    cursor: i64,
    order: Order,
    filter: &EventFilter,
    limit: usize,
) -> Result<Vec<Event>, DbError> {
    let limit = limit.clamp(1, MAX_PAGE);
    let mut rows = match &filter.namespaces {
        None => walk(c, cursor, order, None, filter, limit).await?,
        Some(namespaces) => {
            let mut rows = Vec::new();
            for namespace in namespaces {
                rows.extend(walk(c, cursor, order, Some(namespace), filter, limit).await?);
            }
            rows
        }
    };

    match order {
        Order::Ascending => rows.sort_by_key(|row| row.id),
        Order::Descending => rows.sort_by_key(|row| std::cmp::Reverse(row.id)),
    }

    // A namespace named twice gave its events twice.
    rows.dedup_by_key(|row| row.id);
    rows.truncate(limit);
    rows.into_iter().map(Event::try_from).collect()
}

async fn walk(
    c: &mut Conn,
    cursor: i64,
    order: Order,
    namespace: Option<&NamespaceId>,
    filter: &EventFilter,
    limit: usize,
) -> Result<Vec<EventRow>, DbError> {
    let mut query =
        events::table.select(EventRow::as_select()).limit(signed(limit as u64)).into_boxed();
    if let Some(namespace) = namespace {
        // By the id, so that events of another namespace that had this name before are not among
        // them.
        let present = namespaces::table.filter(namespaces::id.eq(namespace.as_str()));
        query = query
            .filter(events::namespace_uid.eq(present.select(namespaces::uid).single_value()))
            .filter(events::namespace.eq(namespace.as_str()));
    }

    if let Some(pipeline) = &filter.pipeline {
        query = query.filter(events::pipeline.eq(pipeline.as_str()));
    }

    if let Some(run) = filter.run {
        query = query.filter(events::run.eq(signed(run.0)));
    }

    if !filter.types.is_empty() {
        query = query.filter(events::kind.eq_any(filter.types.iter().map(String::as_str)));
    }

    let query = match order {
        Order::Ascending => query.filter(events::id.gt(cursor)).order(events::id.asc()),
        Order::Descending => query.filter(events::id.lt(cursor)).order(events::id.desc()),
    };

    Ok(query.load(c).await?)
}

pub(crate) async fn oldest(c: &mut Conn) -> Result<u64, DbError> {
    let oldest: Option<i64> =
        events::table.select(diesel::dsl::min(events::id)).get_result(c).await?;
    let next = event_counter::table.find(1).select(event_counter::last);
    match oldest {
        Some(oldest) => unsigned(oldest),
        None => unsigned(next.get_result::<i64>(c).await? + 1),
    }
}

pub(crate) async fn record_one(tx: &mut Tx<'_>, event: NewEvent) -> Result<(), DbError> {
    tx.record(event);
    Ok(())
}
