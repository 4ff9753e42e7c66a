//! Written once, compiled twice: `sqlite/mod.rs` and `postgres/mod.rs` both load this folder as `queries`, with another
//! `Conn`. Functions that take a connection read; functions that take a [`Tx`] are a transaction, made by the dispatcher.
//!
//! Both engines must get along with every query: SQLite runs transactions one after the other, PostgreSQL at once at READ
//! COMMITTED. So every change is a compare-and-set in its WHERE, or is made under the lock of the pipeline's or run's row.
//! Rows are locked in the order namespace, pipeline, run, event counter.

pub(crate) mod cancel;
pub(crate) mod commit;
pub(crate) mod events;
pub(crate) mod insert;
pub(crate) mod leases;
pub(crate) mod local_secrets;
pub(crate) mod logs;
pub(crate) mod namespaces;
pub(crate) mod objects;
pub(crate) mod pipelines;
pub(crate) mod removal;
pub(crate) mod retention;
pub(crate) mod runs;
pub(crate) mod secrets;
pub(crate) mod tasks;
pub(crate) mod tokens;

use diesel::sql_types::Bool;
use diesel::{ExpressionMethods as _, QueryDsl as _, expression::SqlLiteral};
use gofer_core::event::NewEvent;

use super::{Conn, RunQueryDsl, engine};
use crate::error::DbError;
use crate::rows::event::EventRow;
use crate::rows::signed;
use crate::schema::event_counter;

/// A transaction: its connection, and the events it will leave.
pub(crate) struct Tx<'c> {
    pub(crate) c: &'c mut Conn,
    pub(crate) events: Vec<NewEvent>,
}

impl<'c> Tx<'c> {
    pub(crate) fn new(c: &'c mut Conn) -> Self {
        Self { c, events: Vec::new() }
    }

    /// The event becomes true with the transaction.
    pub(crate) fn record(&mut self, event: NewEvent) {
        self.events.push(event);
    }

    /// The last step: numbers the events and inserts them; returns the last number. The counter's row stays locked until
    /// the commit, so numbers have no gaps and become visible in order. As the last lock taken it cannot deadlock.
    pub(crate) async fn flush(self) -> Result<Option<u64>, DbError> {
        let count = signed(self.events.len() as u64);
        if count == 0 {
            return Ok(None);
        }
        let last: i64 = diesel::update(event_counter::table.find(1))
            .set(event_counter::last.eq(event_counter::last + count))
            .returning(event_counter::last)
            .get_result(self.c)
            .await?;
        let rows = (last - count + 1..)
            .zip(self.events)
            .map(|(id, event)| EventRow::new(id, event))
            .collect::<Result<_, _>>()?;
        engine::insert_events(self.c, rows).await?;
        crate::rows::unsigned(last).map(Some)
    }
}

/// The condition of a partial index, which both engines find only in the very words of the index.
fn is_true(condition: &'static str) -> SqlLiteral<Bool> {
    diesel::dsl::sql(condition)
}

const UNFINISHED: &str = "runs.state <> 'complete'";
const PENDING: &str = "runs.state = 'pending'";
const RUNNING: &str = "runs.state = 'running'";
