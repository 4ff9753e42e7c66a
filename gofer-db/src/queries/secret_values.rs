//! Values of secrets that no record names. A value is listed here before it is written, and again
//! when its record goes, so that a crash at any point leaves nothing that retention does not find.

use diesel::prelude::*;
use gofer_core::journal::Expirable;
use gofer_core::{SecretPath, Timestamp};

use super::{Conn, RunQueryDsl, Tx};
use crate::error::DbError;
use crate::rows::{id, signed};
use crate::schema::secret_values;

const BEING_PUT: &str = "being_put";
const UNNAMED: &str = "unnamed";

pub(crate) async fn begin(
    tx: &mut Tx<'_>,
    location: &SecretPath,
    at: Timestamp,
) -> Result<(), DbError> {
    insert(tx, location, BEING_PUT, at).await
}

/// A record names the value from now on; returns whether the put was still under way.
pub(crate) async fn name(tx: &mut Tx<'_>, location: &SecretPath) -> Result<bool, DbError> {
    let being_put =
        secret_values::table.find(location.as_str()).filter(secret_values::state.eq(BEING_PUT));
    Ok(diesel::delete(being_put).execute(tx.c).await? == 1)
}

/// No record names the value any more.
pub(crate) async fn leave(
    tx: &mut Tx<'_>,
    location: &SecretPath,
    at: Timestamp,
) -> Result<(), DbError> {
    insert(tx, location, UNNAMED, at).await
}

/// The value is deleted, and never named again.
pub(crate) async fn forget(tx: &mut Tx<'_>, location: &SecretPath) -> Result<(), DbError> {
    diesel::delete(secret_values::table.find(location.as_str())).execute(tx.c).await?;
    Ok(())
}

async fn insert(
    tx: &mut Tx<'_>,
    location: &SecretPath,
    state: &str,
    at: Timestamp,
) -> Result<(), DbError> {
    let row = (
        secret_values::location.eq(location.as_str()),
        secret_values::state.eq(state),
        secret_values::at.eq(at.0),
    );
    diesel::insert_into(secret_values::table).values(row).execute(tx.c).await?;
    Ok(())
}

/// Those that have been here since before, oldest first.
pub(crate) async fn expirable(
    c: &mut Conn,
    before: Timestamp,
    limit: usize,
) -> Result<Vec<Expirable>, DbError> {
    let rows: Vec<(String, String)> = secret_values::table
        .filter(secret_values::at.lt(before.0))
        .order((secret_values::at, secret_values::location))
        .limit(signed(limit as u64))
        .select((secret_values::location, secret_values::state))
        .load(c)
        .await?;
    let found = |(location, state): (String, String)| {
        Ok(Expirable::SecretValue { location: id(&location)?, being_put: state == BEING_PUT })
    };
    rows.into_iter().map(found).collect()
}

/// Refuses a put that is still under way, or forgets a value that is deleted.
pub(crate) async fn expired(
    tx: &mut Tx<'_>,
    location: &SecretPath,
    being_put: bool,
) -> Result<(), DbError> {
    if being_put {
        let row =
            secret_values::table.find(location.as_str()).filter(secret_values::state.eq(BEING_PUT));
        diesel::update(row).set(secret_values::state.eq(UNNAMED)).execute(tx.c).await?;
        return Ok(());
    }
    forget(tx, location).await
}
