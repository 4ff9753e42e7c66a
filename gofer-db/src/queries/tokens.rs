use diesel::prelude::*;
use gofer_core::entity::{Token, TokenKind};
use gofer_core::event::{EventDetails, NewEvent, Subject};
use gofer_core::object_store::ListPage;
use gofer_core::{Resource, Timestamp};

use super::engine::locked;
use super::markers::{BOOTSTRAPPED, mark_bootstrapped};
use super::{Conn, RunQueryDsl, Tx, namespaces};
use crate::error::DbError;
use crate::rows::entity::TokenRow;
use crate::rows::{bad_cursor, page, page_rows};
use crate::schema::{markers, tokens};
use crate::types::{MAX_PAGE, ManagementEnd, Page};

pub(crate) async fn insert(tx: &mut Tx<'_>, token: &Token, hash: &[u8; 32]) -> Result<(), DbError> {
    if token.kind == TokenKind::Management {
        mark_bootstrapped(tx, token.created_at).await?;
    }

    let namespaces = namespaces::uids(tx.c, &token.namespaces).await?;
    let inserted = diesel::insert_into(tokens::table)
        .values(TokenRow::new(token, &namespaces, hash)?)
        .on_conflict_do_nothing()
        .execute(tx.c)
        .await?;

    if inserted == 0 {
        return Err(DbError::exists(Resource::Token, &token.id));
    }

    let details = EventDetails::TokenCreated {
        token_id: token.id.clone(),
        kind: token.kind,
        namespaces: token.namespaces.clone(),
    };

    record(tx, details, &token.created_by, token.created_at);
    Ok(())
}

/// Token rows as tokens, with the names of their namespaces.
async fn named(c: &mut Conn, rows: Vec<TokenRow>) -> Result<Vec<Token>, DbError> {
    let mut uids = Vec::new();
    for row in &rows {
        uids.extend(row.namespace_uids()?);
    }
    let names = namespaces::names(c, &uids).await?;
    rows.into_iter().map(|row| row.token(&names)).collect()
}

async fn named_one(c: &mut Conn, row: TokenRow) -> Result<Token, DbError> {
    let names = namespaces::names(c, &row.namespace_uids()?).await?;
    row.token(&names)
}

pub(crate) async fn by_hash(c: &mut Conn, hash: &[u8; 32]) -> Result<Option<Token>, DbError> {
    let row: Option<TokenRow> = tokens::table
        .filter(tokens::hash.eq(&hash[..]))
        .select(TokenRow::as_select())
        .get_result(c)
        .await
        .optional()?;
    match row {
        Some(row) => named_one(c, row).await.map(Some),
        None => Ok(None),
    }
}

/// Those of these tokens that there are, in no order.
pub(crate) async fn some(c: &mut Conn, ids: &[String]) -> Result<Vec<Token>, DbError> {
    let mut rows: Vec<TokenRow> = Vec::new();
    for ids in ids.chunks(MAX_PAGE) {
        let found = tokens::table.filter(tokens::id.eq_any(ids)).select(TokenRow::as_select());
        rows.extend(found.load(c).await?);
    }
    named(c, rows).await
}

pub(crate) async fn get(c: &mut Conn, id: &str) -> Result<Token, DbError> {
    let row: Option<TokenRow> =
        tokens::table.find(id).select(TokenRow::as_select()).get_result(c).await.optional()?;
    let row = row.ok_or_else(|| DbError::not_found(Resource::Token, id))?;
    named_one(c, row).await
}

pub(crate) async fn list(
    c: &mut Conn,
    kinds: &[TokenKind],
    wanted: &ListPage,
) -> Result<Page<Token>, DbError> {
    let mut query = tokens::table.select(TokenRow::as_select()).into_boxed();
    if !kinds.is_empty() {
        query = query.filter(tokens::kind.eq_any(kinds.iter().map(|kind| kind.as_str())));
    }

    if let Some(after) = wanted.after.as_deref() {
        let (at, id) = after.split_once('/').ok_or_else(|| bad_cursor(after))?;
        let at: i64 = at.parse().map_err(|_| bad_cursor(after))?;
        query = query.filter(
            tokens::created_at
                .lt(at)
                .or(tokens::created_at.eq(at).and(tokens::id.lt(id.to_owned()))),
        );
    }

    let rows = query
        .order((tokens::created_at.desc(), tokens::id.desc()))
        .limit(page_rows(wanted.limit))
        .load(c)
        .await?;
    let rows =
        page(rows, wanted.limit, |row: &TokenRow| format!("{}/{}", row.created_at, row.id), Ok)?;

    Ok(Page { items: named(c, rows.items).await?, next: rows.next })
}

pub(crate) async fn set_disabled(
    tx: &mut Tx<'_>,
    id: &str,
    disabled: bool,
    actor: &str,
    at: Timestamp,
) -> Result<Token, DbError> {
    if disabled {
        keep_one_management_token(tx, id, at).await?;
    }

    let row: Option<TokenRow> =
        diesel::update(tokens::table.find(id).filter(tokens::disabled.ne(disabled)))
            .set(tokens::disabled.eq(disabled))
            .returning(TokenRow::as_returning())
            .get_result(tx.c)
            .await
            .optional()?;
    let Some(row) = row else { return get(tx.c, id).await };
    let token_id = id.to_owned();
    let details = if disabled {
        EventDetails::TokenDisabled { token_id }
    } else {
        EventDetails::TokenEnabled { token_id }
    };

    record(tx, details, actor, at);
    named_one(tx.c, row).await
}

pub(crate) async fn delete(
    tx: &mut Tx<'_>,
    id: &str,
    actor: &str,
    at: Timestamp,
) -> Result<(), DbError> {
    keep_one_management_token(tx, id, at).await?;
    if diesel::delete(tokens::table.find(id)).execute(tx.c).await? == 0 {
        return Err(DbError::not_found(Resource::Token, id));
    }
    record(tx, EventDetails::TokenDeleted { token_id: id.to_owned() }, actor, at);
    Ok(())
}

/// When the last management token expires, as it is now.
pub(crate) async fn management_end(c: &mut Conn, at: Timestamp) -> Result<ManagementEnd, DbError> {
    let expiries: Vec<Option<i64>> = tokens::table
        .filter(tokens::kind.eq(TokenKind::Management.as_str()))
        .filter(tokens::disabled.eq(false))
        .filter(tokens::expires_at.is_null().or(tokens::expires_at.gt(at.0)))
        .select(tokens::expires_at)
        .load(c)
        .await?;

    if expiries.contains(&None) {
        return Ok(ManagementEnd::Never);
    }

    Ok(expiries
        .into_iter()
        .flatten()
        .max()
        .map_or(ManagementEnd::None, |end| ManagementEnd::At(Timestamp(end))))
}

/// Without a management token only the operator could make one again, with `--reset-bootstrap`.
///
/// Two servers may disable the last two tokens at once. Without the lock each would still see the
/// other's token at work. The mark is set with the first management token, so there is a row to
/// lock; what is read after it is locked is what the transaction before has left.
async fn keep_one_management_token(
    tx: &mut Tx<'_>,
    leaving: &str,
    at: Timestamp,
) -> Result<(), DbError> {
    let mark = markers::table.find(BOOTSTRAPPED).select(markers::at);
    let _locked: Option<i64> = locked!(mark).get_result(tx.c).await.optional()?;

    let working = || {
        tokens::table
            .filter(tokens::kind.eq(TokenKind::Management.as_str()))
            .filter(tokens::disabled.eq(false))
            .filter(tokens::expires_at.is_null().or(tokens::expires_at.gt(at.0)))
    };

    let is_working: i64 = working().filter(tokens::id.eq(leaving)).count().get_result(tx.c).await?;
    let others: i64 = working().filter(tokens::id.ne(leaving)).count().get_result(tx.c).await?;
    if is_working > 0 && others == 0 {
        return Err(DbError::LastManagementToken { id: leaving.to_owned() });
    }

    Ok(())
}

fn record(tx: &mut Tx<'_>, details: EventDetails, actor: &str, at: Timestamp) {
    tx.record(NewEvent { at, actor: actor.to_owned(), subject: Subject::default(), details });
}
