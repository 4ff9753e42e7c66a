//! The engine's port, on a database.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use gofer_core::entity::{ObjectRecord, ObjectScope};
use gofer_core::event::NewEvent;
use gofer_core::journal::{
    Commit, Committed, Expirable, Inserted, Journal, JournalError, Lease, NewRun, Retention, RunSnapshot,
};
use gofer_core::run::{CancelRequest, LogState};
use gofer_core::{ExecutionId, NamespaceId, ObjectKey, RunKey, TaskId, Timestamp};

use crate::db::{Db, query, transact};
use crate::error::DbError;

/// What one query can be asked for: more would not make the callers faster.
const MAX_LIMIT: usize = 1_000;

#[async_trait]
impl Journal for Db {
    async fn insert_run(&self, new: NewRun) -> Result<Inserted, JournalError> {
        unimplemented!()
    }

    async fn claim(
        &self,
        owner: &str,
        now: Timestamp,
        ttl: Duration,
        limit: usize,
    ) -> Result<Vec<Lease>, JournalError> {
        unimplemented!()
    }

    async fn renew(&self, owner: &str, now: Timestamp, ttl: Duration) -> Result<usize, JournalError> {
        unimplemented!()
    }

    async fn release(&self, owner: &str) -> Result<(), JournalError> {
        unimplemented!()
    }

    async fn load(&self, key: &RunKey) -> Result<RunSnapshot, JournalError> {
        unimplemented!()
    }

    async fn commit(&self, commits: Vec<Commit>) -> Result<Vec<Committed>, JournalError> {
        unimplemented!()
    }

    async fn request_cancel(
        &self,
        key: &RunKey,
        task: Option<&TaskId>,
        request: CancelRequest,
    ) -> Result<bool, JournalError> {
        unimplemented!()
    }

    async fn live_logs(&self, after: Option<ExecutionId>, limit: usize) -> Result<Vec<ExecutionId>, JournalError> {
        unimplemented!()
    }

    async fn log_state(&self, id: &ExecutionId) -> Result<Option<LogState>, JournalError> {
        unimplemented!()
    }

    async fn set_log_state(
        &self,
        id: &ExecutionId,
        from: LogState,
        to: LogState,
        event: Option<NewEvent>,
    ) -> Result<bool, JournalError> {
        unimplemented!()
    }

    async fn object(&self, scope: &ObjectScope, key: &ObjectKey) -> Result<Option<ObjectRecord>, JournalError> {
        unimplemented!()
    }

    async fn global_secret(&self, key: &str) -> Result<Option<Vec<NamespaceId>>, JournalError> {
        unimplemented!()
    }

    async fn expirable(&self, policy: &Retention, limit: usize) -> Result<Vec<Expirable>, JournalError> {
        unimplemented!()
    }

    async fn expired(&self, what: &Expirable, at: Timestamp) -> Result<(), JournalError> {
        unimplemented!()
    }
}
