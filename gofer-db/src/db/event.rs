use gofer_core::Timestamp;
use gofer_core::event::{ACTOR, Event, EventDetails, NewEvent, Subject};
use tokio::sync::watch;

use crate::db::{Db, Engine, query, transact};
use crate::error::DbError;
use crate::types::EventFilter;

impl Db {
    /// Events with a greater id than `cursor`, ascending, at most `limit` (and never more than
    /// 1,000). Fewer than `limit` says that there are no more yet.
    ///
    /// # Errors
    /// The database's.
    pub async fn event_list_after(
        &self,
        cursor: u64,
        filter: &EventFilter,
        limit: usize,
    ) -> Result<Vec<Event>, DbError> {
        // Only where commits are seen in their order is it certain that nothing is missing.
        if let Engine::Sqlite(engine) = self.engine()
            && let Some(events) = engine.event_cache().after(cursor, filter, limit)
        {
            return Ok(events);
        }
        let filter = filter.clone();
        query!(self, events::after(cursor, &filter, limit))
    }

    /// Events with a smaller id than `cursor` (`None`: the newest), descending, at most `limit`
    /// (and never more than 1,000).
    ///
    /// # Errors
    /// The database's.
    pub async fn event_list_before(
        &self,
        cursor: Option<u64>,
        filter: &EventFilter,
        limit: usize,
    ) -> Result<Vec<Event>, DbError> {
        let filter = filter.clone();
        query!(self, events::before(cursor, &filter, limit))
    }

    /// The id of the oldest event that is kept, or that the next one will have when there is none.
    ///
    /// # Errors
    /// The database's.
    pub async fn event_oldest(&self) -> Result<u64, DbError> {
        query!(self, events::oldest())
    }

    /// The id of the newest event this process knows to be committed; changes after each commit
    /// that wrote events. Who waits for it and then lists from a cursor misses nothing and never
    /// polls.
    #[must_use]
    pub fn event_watch(&self) -> watch::Receiver<u64> {
        self.watch_events()
    }

    /// Records that a server began to serve.
    ///
    /// # Errors
    /// The database's.
    pub async fn server_started(
        &self,
        server_id: &str,
        version: &str,
        at: Timestamp,
    ) -> Result<(), DbError> {
        let details = EventDetails::ServerStarted {
            server_id: server_id.to_owned(),
            version: version.to_owned(),
        };
        self.event_record(NewEvent {
            at,
            actor: ACTOR.to_owned(),
            subject: Subject::default(),
            details,
        })
        .await
    }

    /// Records something that changes nothing in the database.
    ///
    /// # Errors
    /// The database's.
    pub async fn event_record(&self, event: NewEvent) -> Result<(), DbError> {
        transact!(self, events::record_one(event))
    }
}
