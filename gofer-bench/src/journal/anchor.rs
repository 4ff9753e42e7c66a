//! The speed of the disk, and of SQLite alone.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use diesel::connection::SimpleConnection as _;
use diesel::{Connection as _, SqliteConnection};

use crate::machine::fdatasync_us;

/// How long each kind of update is repeated.
const WINDOW: Duration = Duration::from_secs(1);
const BATCH: u32 = 50;

/// Appended and synced pages per second, one after the other.
pub(super) fn syncs(dir: &Path) -> Result<f64> {
    let summary = fdatasync_us(dir)?;
    Ok(1e6 / summary.p50)
}

/// Updates of one row per second: one, and fifty, in each transaction; durable as in Gofer.
pub(super) fn updates(dir: &Path) -> Result<(f64, f64)> {
    let path = dir.join("anchor.db");
    let mut db = SqliteConnection::establish(
        path.to_str().context("the path of the database is not UTF-8")?,
    )?;
    db.batch_execute(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
         CREATE TABLE IF NOT EXISTS tasks (id INTEGER PRIMARY KEY, state INTEGER NOT NULL) STRICT;
         INSERT OR REPLACE INTO tasks (id, state)
             SELECT value, 0 FROM (WITH RECURSIVE n(value) AS (SELECT 0 UNION ALL SELECT value + 1 FROM n WHERE value < 9999)
                                   SELECT value FROM n)",
    )?;
    Ok((per_second(&mut db, 1)?, per_second(&mut db, BATCH)?))
}

fn per_second(db: &mut SqliteConnection, batch: u32) -> Result<f64> {
    let start = Instant::now();
    let mut count: u32 = 0;
    while start.elapsed() < WINDOW {
        let updates: String = (count..count + batch)
            .map(|row| format!("UPDATE tasks SET state = state + 1 WHERE id = {};", row % 10_000))
            .collect();
        db.batch_execute(&format!("BEGIN IMMEDIATE;{updates}COMMIT"))?;
        count += batch;
    }
    Ok(f64::from(count) / start.elapsed().as_secs_f64())
}
