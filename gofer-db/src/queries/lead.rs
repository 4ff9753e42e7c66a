//! Who does what one server does for all.

use std::time::Duration;

use diesel::prelude::*;
use gofer_core::Timestamp;

use super::{Conn, RunQueryDsl, Tx, engine};
use crate::error::DbError;
use crate::schema::lead;

/// The time of whoever may share the database; `None` when nobody does.
pub(crate) async fn clock(c: &mut Conn) -> Result<Option<Timestamp>, DbError> {
    engine::clock(c).await
}

pub(crate) async fn take(tx: &mut Tx<'_>, owner: &str, now: Timestamp, ttl: Duration) -> Result<bool, DbError> {
    let until = now.after(ttl).0;
    // The holder's own lead is only ever prolonged: a call that was overtaken on its way shortens nothing.
    let free = lead::until.le(now.0).or(lead::owner.eq(owner).and(lead::until.le(until)));
    let taken = diesel::update(lead::table.find(1).filter(free))
        .set((lead::owner.eq(owner), lead::until.eq(until)))
        .execute(tx.c)
        .await?;
    if taken == 1 {
        return Ok(true);
    }
    let holder: String = lead::table.find(1).select(lead::owner).get_result(tx.c).await?;
    Ok(holder == owner)
}

pub(crate) async fn release(tx: &mut Tx<'_>, owner: &str) -> Result<(), DbError> {
    let held = lead::table.find(1).filter(lead::owner.eq(owner));
    diesel::update(held).set(lead::until.eq(0)).execute(tx.c).await?;
    Ok(())
}
