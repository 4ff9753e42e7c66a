//! The engine's port, on a database.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use gofer_core::entity::{ObjectRecord, ObjectScope, SecretRecord, SecretScope};
use gofer_core::event::NewEvent;
use gofer_core::journal::{
    Catalog, ClaimLimit, Cluster, Commit, Committed, Expirable, Expiry, Hint, Hints, Inserted,
    JournalError, Lease, Leases, Logs, NewRun, Retention, RunMask, RunSnapshot, Runs,
};
use gofer_core::run::{CancelRequest, LogState};
use gofer_core::{ExecutionId, ObjectKey, RunKey, SecretPath, TaskId, Timestamp};

use crate::db::{Db, Engine, query, transact};
use crate::error::DbError;

/// What one query can be asked for: more would not make the callers faster.
const MAX_LIMIT: usize = 1_000;

#[async_trait]
impl Runs for Db {
    async fn insert_run(&self, new: NewRun) -> Result<Inserted, JournalError> {
        // Asked first without the writer: a repeated key is then only a read.
        if let Some(key) = new.idempotency_key.clone() {
            let (namespace, pipeline) = (new.namespace.clone(), new.pipeline.clone());
            let known: Option<Inserted> = query!(self, insert::known(&namespace, &pipeline, &key))?;
            if let Some(known) = known {
                return Ok(known);
            }
        }
        let (specs, book) = (Arc::clone(self.specs()), Arc::clone(self.quotas()));
        Ok(transact!(self, insert::insert(&new, &specs, &book))?)
    }

    async fn load(&self, key: &RunKey) -> Result<RunSnapshot, JournalError> {
        let (key, specs) = (key.clone(), Arc::clone(self.specs()));
        Ok(query!(self, tasks::load(&key, &specs))?)
    }

    async fn commit(&self, commits: Vec<Commit>) -> Result<Vec<Committed>, JournalError> {
        if commits.is_empty() {
            return Ok(Vec::new());
        }
        let specs = Arc::clone(self.specs());
        Ok(transact!(self, commit::commit(&commits, &specs))?)
    }

    async fn request_cancel(
        &self,
        key: &RunKey,
        task: Option<&TaskId>,
        request: CancelRequest,
    ) -> Result<bool, JournalError> {
        let (key, specs) = (key.clone(), Arc::clone(self.specs()));
        Ok(match task.cloned() {
            None => transact!(self, cancel::run(&key, &request)),
            Some(task) => transact!(self, cancel::task(&key, &task, &request, &specs)),
        }?)
    }
}

#[async_trait]
impl Leases for Db {
    async fn claim(
        &self,
        owner: &str,
        now: Timestamp,
        ttl: Duration,
        limit: ClaimLimit,
    ) -> Result<Vec<Lease>, JournalError> {
        let owner = owner.to_owned();
        let limit = ClaimLimit { runs: limit.runs.min(MAX_LIMIT), ..limit };
        let book = Arc::clone(self.quotas());
        Ok(transact!(self, leases::claim(&owner, now, ttl, limit, &book))?)
    }

    async fn renew(
        &self,
        owner: &str,
        now: Timestamp,
        ttl: Duration,
    ) -> Result<usize, JournalError> {
        let owner = owner.to_owned();
        Ok(transact!(self, leases::renew(&owner, now, ttl))?)
    }

    async fn release(&self, owner: &str) -> Result<(), JournalError> {
        let owner = owner.to_owned();
        Ok(transact!(self, leases::release(&owner))?)
    }

    async fn acquire_leadership(
        &self,
        owner: &str,
        now: Timestamp,
        ttl: Duration,
    ) -> Result<bool, JournalError> {
        let owner = owner.to_owned();
        Ok(transact!(self, lead::take(&owner, now, ttl))?)
    }

    async fn heartbeat(
        &self,
        owner: &str,
        now: Timestamp,
        ttl: Duration,
    ) -> Result<Cluster, JournalError> {
        let (owner, book) = (owner.to_owned(), Arc::clone(self.quotas()));
        Ok(transact!(self, lead::heartbeat(&owner, now, ttl, &book.defaults))?)
    }

    async fn clock(&self) -> Result<Option<Timestamp>, JournalError> {
        Ok(query!(self, lead::clock())?)
    }
}

#[async_trait]
impl Hints for Db {
    async fn subscribe_hints(&self) -> Result<BoxStream<'static, Hint>, JournalError> {
        match self.engine() {
            // The file is this process's own.
            Engine::Sqlite(_) => Ok(stream::pending().boxed()),
            Engine::Postgres(engine) => Ok(engine.subscribe_hints().await?),
        }
    }

    async fn publish_hint(&self, hint: Hint) -> Result<(), JournalError> {
        match self.engine() {
            Engine::Sqlite(_) => Ok(()),
            Engine::Postgres(engine) => Ok(engine.publish_hint(hint).await?),
        }
    }
}

#[async_trait]
impl Logs for Db {
    async fn live_logs(
        &self,
        before: Timestamp,
        after: Option<ExecutionId>,
        limit: usize,
    ) -> Result<Vec<ExecutionId>, JournalError> {
        Ok(query!(self, logs::live(before, after.as_ref(), limit.min(MAX_LIMIT)))?)
    }

    async fn log_state(&self, id: &ExecutionId) -> Result<Option<LogState>, JournalError> {
        let id = id.clone();
        Ok(query!(self, logs::state(&id))?)
    }

    async fn set_log_state(
        &self,
        id: &ExecutionId,
        from: LogState,
        to: LogState,
        event: Option<NewEvent>,
    ) -> Result<bool, JournalError> {
        let id = id.clone();
        Ok(transact!(self, logs::set_state(&id, from, to, event))?)
    }

    async fn add_run_mask(&self, mask: RunMask) -> Result<(), JournalError> {
        Ok(transact!(self, run_masks::add(&mask))?)
    }

    async fn run_masks(&self, key: &RunKey) -> Result<Vec<SecretPath>, JournalError> {
        let key = key.clone();
        Ok(query!(self, run_masks::list(&key))?)
    }
}

#[async_trait]
impl Catalog for Db {
    async fn object(
        &self,
        scope: &ObjectScope,
        key: &ObjectKey,
    ) -> Result<Option<ObjectRecord>, JournalError> {
        let (scope, key) = (scope.clone(), key.clone());
        Ok(query!(self, objects::find(&scope, &key))?)
    }

    async fn secret(
        &self,
        scope: &SecretScope,
        key: &str,
    ) -> Result<Option<SecretRecord>, JournalError> {
        let (scope, key) = (scope.clone(), key.to_owned());
        Ok(query!(self, secrets::find(&scope, &key))?)
    }
}

#[async_trait]
impl Expiry for Db {
    async fn expirable(
        &self,
        policy: &Retention,
        limit: usize,
    ) -> Result<Vec<Expirable>, JournalError> {
        let policy = policy.clone();
        let book = Arc::clone(self.quotas());
        Ok(query!(self, retention::expirable(&policy, limit.min(MAX_LIMIT), &book.defaults))?)
    }

    async fn expired(&self, what: &Expirable, at: Timestamp) -> Result<(), JournalError> {
        let (what, book) = (what.clone(), Arc::clone(self.quotas()));
        let up_to = if let Expirable::Events { up_to } = what { Some(up_to) } else { None };
        let done: Result<(), DbError> = transact!(self, retention::expired(&what, at, &book));
        done?;
        if let (Some(up_to), Engine::Sqlite(engine)) = (up_to, self.engine()) {
            engine.event_cache().forget(up_to);
        }
        Ok(())
    }
}
