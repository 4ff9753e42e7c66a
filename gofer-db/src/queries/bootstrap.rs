//! The first management token: for whom it is made, once.

use diesel::prelude::*;
use gofer_core::Timestamp;
use gofer_core::entity::Token;
use gofer_core::event::{EventDetails, NewEvent, Subject};

use super::engine::locked;
use super::markers::{BOOTSTRAPPED, CODE, forget_codes, is_bootstrapped, mark_bootstrapped};
use super::{RunQueryDsl, Tx, tokens};
use crate::error::DbError;
use crate::schema::markers;
use crate::types::BootstrapProof;

/// Makes the first management token; `false` when the proof is none.
pub(crate) async fn bootstrap(
    tx: &mut Tx<'_>,
    token: &Token,
    hash: &[u8; 32],
    proof: &BootstrapProof,
) -> Result<bool, DbError> {
    let already = "this installation has had a management token already; make more with `gofer \
                   token create`, or open bootstrap again with `gofer server --reset-bootstrap`";
    if is_bootstrapped(tx.c).await? {
        return Err(DbError::conflict(already));
    }

    if let BootstrapProof::Code(code) = proof {
        // Of two that bring the same code the second waits here, and then finds it used up.
        if diesel::delete(markers::table.find(code_name(code))).execute(tx.c).await? == 0 {
            return if is_bootstrapped(tx.c).await? {
                Err(DbError::conflict(already))
            } else {
                Ok(false)
            };
        }
    }

    if !mark_bootstrapped(tx, token.created_at).await? {
        return Err(DbError::conflict(already));
    }

    tokens::insert(tx, token, hash).await?;
    Ok(true)
}

/// Lets the bearer of this code bootstrap; `false` when that has been done.
pub(crate) async fn accept(
    tx: &mut Tx<'_>,
    code: &[u8; 32],
    at: Timestamp,
) -> Result<bool, DbError> {
    if is_bootstrapped(tx.c).await? {
        return Ok(false);
    }
    insert_code(tx, code, at).await?;
    Ok(true)
}

/// Opens bootstrap again, for the bearer of this code alone. Tokens stay as they are.
pub(crate) async fn reset(
    tx: &mut Tx<'_>,
    code: &[u8; 32],
    actor: &str,
    at: Timestamp,
) -> Result<(), DbError> {
    // A server that bootstraps or ends tokens at this moment has the mark locked.
    let mark = markers::table.find(BOOTSTRAPPED).select(markers::at);
    let _locked: Option<i64> = locked!(mark).get_result(tx.c).await.optional()?;
    diesel::delete(markers::table.find(BOOTSTRAPPED)).execute(tx.c).await?;

    forget_codes(tx).await?;
    insert_code(tx, code, at).await?;
    let details = EventDetails::BootstrapReset {};
    tx.record(NewEvent { at, actor: actor.to_owned(), subject: Subject::default(), details });
    Ok(())
}

async fn insert_code(tx: &mut Tx<'_>, code: &[u8; 32], at: Timestamp) -> Result<(), DbError> {
    diesel::insert_into(markers::table)
        .values((markers::name.eq(code_name(code)), markers::at.eq(at.0)))
        .on_conflict_do_nothing()
        .execute(tx.c)
        .await?;
    Ok(())
}

fn code_name(code: &[u8; 32]) -> String {
    code.iter().fold(CODE.to_owned(), |name, byte| format!("{name}{byte:02x}"))
}
