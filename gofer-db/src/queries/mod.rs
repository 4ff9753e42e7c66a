//! Written once, compiled twice: `sqlite/mod.rs` and `postgres/mod.rs` both load this folder as
//! `queries`, with another `Conn`. Functions that take a connection read; functions that take a
//! [`Tx`] are a transaction, made by the dispatcher.
//!
//! Both engines must get along with every query: SQLite runs transactions one after the other,
//! PostgreSQL at once at READ COMMITTED. So every change is a compare-and-set in its WHERE, or is
//! made under the lock of the pipeline's or run's row. Rows are locked in the order namespace,
//! pipeline, run, event counter; the locks that are no row (claims, then an owner's leases, then
//! namespaces' quotas by name) come between pipeline and run.

pub(crate) mod bootstrap;
pub(crate) mod cancel;
pub(crate) mod commit;
pub(crate) mod events;
pub(crate) mod exec;
pub(crate) mod expiry;
mod global_secrets;
pub(crate) mod insert;
pub(crate) mod lead;
pub(crate) mod leases;
pub(crate) mod local_secrets;
pub(crate) mod logs;
mod markers;
pub(crate) mod namespaces;
pub(crate) mod objects;
pub(crate) mod pipeline_delete;
pub(crate) mod pipelines;
pub(crate) mod quotas;
pub(crate) mod retention;
pub(crate) mod run_counts;
pub(crate) mod run_masks;
pub(crate) mod runs;
pub(crate) mod secret_values;
pub(crate) mod secrets;
pub(crate) mod tasks;
pub(crate) mod timeline;
pub(crate) mod tokens;
mod tx;
pub(crate) mod uploads;
pub(crate) mod waiting;

use diesel::expression::SqlLiteral;
use diesel::sql_types::Bool;
use gofer_core::TaskId;

use super::{Conn, RunQueryDsl, engine};
use crate::types::MAX_PAGE;
pub(crate) use tx::Tx;

/// The condition of a partial index, which both engines find only in the very words of the index.
fn is_true(condition: &'static str) -> SqlLiteral<Bool> {
    diesel::dsl::sql(condition)
}

/// What `eq_any` is asked for, made a power of two long by repeating the last: SQLite's text has a
/// mark for each, and few texts stay prepared.
fn padded<'a>(items: impl Iterator<Item = &'a TaskId>) -> Vec<&'a str> {
    let mut items: Vec<&str> = items.take(MAX_PAGE).map(TaskId::as_str).collect();
    if let Some(&last) = items.last() {
        items.resize(items.len().next_power_of_two(), last);
    }
    items
}

const UNFINISHED: &str = "runs.state <> 'complete'";
const PENDING: &str = "runs.state = 'pending'";
const RUNNING: &str = "runs.state = 'running'";
