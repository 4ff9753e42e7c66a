use diesel::prelude::*;
use gofer_core::NamespaceId;
use gofer_core::event::{Event, NewEvent};

use super::{Conn, RunQueryDsl, engine};
use crate::error::DbError;
use crate::prepared::prepared;
use crate::rows::event::EventRow;
use crate::rows::signed;
use crate::schema::{coalesce_text, event_counter, events, namespaces};

/// A transaction: its connection, and the events it will leave.
pub(crate) struct Tx<'c> {
    pub(crate) c: &'c mut Conn,
    pub(crate) events: Vec<NewEvent>,
    /// Namespaces that this transaction has deleted, in order.
    pub(crate) gone: Vec<Gone>,
}

/// A namespace that was deleted, and how many events there were when it was.
pub(crate) struct Gone {
    namespace: NamespaceId,
    uid: String,
    events: usize,
}

impl<'c> Tx<'c> {
    pub(crate) fn new(c: &'c mut Conn) -> Self {
        Self { c, events: Vec::new(), gone: Vec::new() }
    }

    /// The event becomes true with the transaction.
    pub(crate) fn record(&mut self, event: NewEvent) {
        self.events.push(event);
    }

    /// What was recorded so far, the deletion included, is of the namespace that had this name
    /// until now. Without this it would be of the next one of that name: the writer of SQLite has
    /// many changes in one transaction, and a namespace may be made again in it.
    pub(crate) fn namespace_is_gone(&mut self, namespace: &NamespaceId, uid: String) {
        self.gone.push(Gone { namespace: namespace.clone(), uid, events: self.events.len() });
    }

    /// The last step: numbers the events and inserts them; returns them. The counter's row stays
    /// locked until the commit, so numbers have no gaps and become visible in order. As the last
    /// lock taken it cannot deadlock.
    pub(crate) async fn flush(self) -> Result<Vec<Event>, DbError> {
        let count = signed(self.events.len() as u64);
        if count == 0 {
            return Ok(Vec::new());
        }

        let counting = diesel::update(event_counter::table.find(1))
            .set(event_counter::last.eq(event_counter::last + count))
            .returning(event_counter::last);
        let last: i64 = prepared(counting).get_result(self.c).await?;
        let first = last - count + 1;

        let insert = |(at, event): (usize, &NewEvent)| {
            let row = EventRow::new(first + signed(at as u64), event)?;
            let name =
                event.subject.namespace.as_ref().map(NamespaceId::to_string).unwrap_or_default();
            let present = namespaces::table
                .filter(namespaces::id.eq(name))
                .select(namespaces::uid)
                .single_value();
            let uid = coalesce_text(former_uid(&self.gone, at, event), present);

            Ok(diesel::insert_into(events::table).values((row, events::namespace_uid.eq(uid))))
        };

        let inserts = self.events.iter().enumerate().map(insert).collect::<Result<_, DbError>>()?;
        engine::execute_all(self.c, inserts).await?;

        let first = crate::rows::unsigned(first)?;
        Ok((first..).zip(self.events).map(|(id, body)| Event { id, body }).collect())
    }
}

/// The id of the event's namespace, if that was deleted after the event.
fn former_uid(gone: &[Gone], at: usize, event: &NewEvent) -> Option<String> {
    let namespace = event.subject.namespace.as_ref()?;
    gone.iter()
        .find(|gone| gone.namespace == *namespace && at < gone.events)
        .map(|gone| gone.uid.clone())
}
