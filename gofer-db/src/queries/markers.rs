//! What this installation has done once: its first management token, and the codes that allow it.

use diesel::prelude::*;
use gofer_core::Timestamp;

use super::{Conn, RunQueryDsl, Tx};
use crate::error::DbError;
use crate::schema::markers;

/// Set with the first management token. Deleting every token does not unset it; only an operator
/// does, with `bootstrap::reset`.
pub(super) const BOOTSTRAPPED: &str = "bootstrapped";
/// Before the SHA-256, in hex, of a code that lets its bearer bootstrap.
pub(super) const CODE: &str = "bootstrap_code:";

/// Whether the installation has had a management token.
pub(super) async fn is_bootstrapped(c: &mut Conn) -> Result<bool, DbError> {
    let mark: Option<i64> =
        markers::table.find(BOOTSTRAPPED).select(markers::at).get_result(c).await.optional()?;
    Ok(mark.is_some())
}

/// Whether this call set the mark. Of concurrent ones the others wait for the first to commit.
pub(super) async fn mark_bootstrapped(tx: &mut Tx<'_>, at: Timestamp) -> Result<bool, DbError> {
    let inserted = diesel::insert_into(markers::table)
        .values((markers::name.eq(BOOTSTRAPPED), markers::at.eq(at.0)))
        .on_conflict_do_nothing()
        .execute(tx.c)
        .await?;
    if inserted == 1 {
        forget_codes(tx).await?;
    }
    Ok(inserted == 1)
}

/// Makes every code that was handed out worthless.
pub(super) async fn forget_codes(tx: &mut Tx<'_>) -> Result<(), DbError> {
    let end = crate::rows::prefix_end(CODE);
    diesel::delete(markers::table.filter(markers::name.ge(CODE)).filter(markers::name.lt(end)))
        .execute(tx.c)
        .await?;
    Ok(())
}
