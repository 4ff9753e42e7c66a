//! Values that runs have added to what is masked in their logs.

use diesel::dsl::{exists, not};
use diesel::prelude::*;
use gofer_core::event::{EventDetails, NewEvent, Subject};
use gofer_core::journal::{Expirable, MAX_RUN_MASK_BYTES, MAX_RUN_MASKS, RunMask, TooManyMasks};
use gofer_core::{Resource, RunKey, SecretPath};

use super::engine::locked;
use super::{Conn, RunQueryDsl, Tx, UNFINISHED, is_true};
use crate::error::DbError;
use crate::rows::{id, signed, unsigned};
use crate::schema::{attempts, run_masks, runs};

pub(crate) async fn add(tx: &mut Tx<'_>, mask: &RunMask) -> Result<(), DbError> {
    let RunMask { run: key, location, size_bytes, actor, at } = mask;
    // Locked, so that of several at once each counts those before it, and the run does not end
    // meanwhile.
    let unfinished = runs::table
        .filter(runs::namespace.eq(key.namespace.as_str()))
        .filter(runs::pipeline.eq(key.pipeline.as_str()))
        .filter(runs::number.eq(signed(key.run.0)))
        .filter(is_true(UNFINISHED))
        .select(runs::id);
    let found: Option<i64> = locked!(unfinished).get_result(tx.c).await.optional()?;

    found.ok_or_else(|| DbError::not_found(Resource::Run, key))?;

    let known: Vec<(String, i64)> =
        of(key).select((run_masks::location, run_masks::size_bytes)).load(tx.c).await?;
    if known.iter().any(|(there, _)| there == location.as_str()) {
        return Ok(());
    }

    let total = known.iter().map(|(_, size)| unsigned(*size)).sum::<Result<u64, _>>()?;
    if known.len() >= MAX_RUN_MASKS || total + size_bytes > MAX_RUN_MASK_BYTES {
        return Err(TooManyMasks { run: key.clone() }.into());
    }

    let row = (
        run_masks::location.eq(location.as_str()),
        run_masks::namespace.eq(key.namespace.as_str()),
        run_masks::pipeline.eq(key.pipeline.as_str()),
        run_masks::run.eq(signed(key.run.0)),
        run_masks::size_bytes.eq(signed(*size_bytes)),
        run_masks::at.eq(at.0),
    );

    diesel::insert_into(run_masks::table).values(row).execute(tx.c).await?;
    let subject = Subject::of_run(key);
    tx.record(NewEvent {
        at: *at,
        actor: actor.clone(),
        subject,
        details: EventDetails::ValueMasked {},
    });

    Ok(())
}

type OfRun = diesel::dsl::Filter<
    diesel::dsl::Filter<
        diesel::dsl::Filter<run_masks::table, diesel::dsl::Eq<run_masks::namespace, String>>,
        diesel::dsl::Eq<run_masks::pipeline, String>,
    >,
    diesel::dsl::Eq<run_masks::run, i64>,
>;

fn of(key: &RunKey) -> OfRun {
    run_masks::table
        .filter(run_masks::namespace.eq(key.namespace.to_string()))
        .filter(run_masks::pipeline.eq(key.pipeline.to_string()))
        .filter(run_masks::run.eq(signed(key.run.0)))
}

pub(crate) async fn list(c: &mut Conn, key: &RunKey) -> Result<Vec<SecretPath>, DbError> {
    let rows: Vec<String> =
        of(key).select(run_masks::location).order(run_masks::location).load(c).await?;
    rows.iter().map(|location| id(location)).collect()
}

/// Those of runs that are complete, or gone, and none of whose logs is still to be archived.
pub(crate) async fn expirable(c: &mut Conn, limit: usize) -> Result<Vec<Expirable>, DbError> {
    let live = attempts::table
        .filter(attempts::run_id.eq(runs::id))
        .filter(is_true("attempts.log = 'live'"));
    let needed = runs::table
        .filter(runs::namespace.eq(run_masks::namespace))
        .filter(runs::pipeline.eq(run_masks::pipeline))
        .filter(runs::number.eq(run_masks::run))
        .filter(is_true(UNFINISHED).or(exists(live)));
    let rows: Vec<String> = run_masks::table
        .filter(not(exists(needed)))
        .order((run_masks::at, run_masks::location))
        .limit(signed(limit as u64))
        .select(run_masks::location)
        .load(c)
        .await?;
    rows.iter().map(|location| Ok(Expirable::RunMask { location: id(location)? })).collect()
}

/// The value is deleted.
pub(crate) async fn expired(tx: &mut Tx<'_>, location: &SecretPath) -> Result<(), DbError> {
    diesel::delete(run_masks::table.find(location.as_str())).execute(tx.c).await?;
    Ok(())
}
