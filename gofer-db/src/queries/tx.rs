use diesel::prelude::*;
use gofer_core::event::{Event, NewEvent};

use super::{Conn, RunQueryDsl, engine};
use crate::cached::cached;
use crate::error::DbError;
use crate::rows::event::EventRow;
use crate::rows::signed;
use crate::schema::{event_counter, events};

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

    /// The last step: numbers the events and inserts them; returns them. The counter's row stays locked until
    /// the commit, so numbers have no gaps and become visible in order. As the last lock taken it cannot deadlock.
    pub(crate) async fn flush(self) -> Result<Vec<Event>, DbError> {
        let count = signed(self.events.len() as u64);
        if count == 0 {
            return Ok(Vec::new());
        }
        let counting = diesel::update(event_counter::table.find(1))
            .set(event_counter::last.eq(event_counter::last + count))
            .returning(event_counter::last);
        let last: i64 = cached(counting).get_result(self.c).await?;
        let first = last - count + 1;
        let insert = |(id, event)| Ok(diesel::insert_into(events::table).values(EventRow::new(id, event)?));
        let inserts = (first..).zip(&self.events).map(insert).collect::<Result<_, DbError>>()?;
        engine::execute_all(self.c, inserts).await?;
        let first = crate::rows::unsigned(first)?;
        Ok((first..).zip(self.events).map(|(id, body)| Event { id, body }).collect())
    }
}
