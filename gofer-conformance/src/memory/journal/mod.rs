//! A journal in memory.

mod commit;
mod insert;
mod lease;
mod logs;
mod quota;
mod retention;
mod state;

use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use gofer_core::entity::{ObjectRecord, ObjectScope, SecretRecord, SecretScope};
use gofer_core::event::{Event, NewEvent};
use gofer_core::id::{
    ExecutionId, NamespaceId, ObjectKey, PipelineId, RunKey, SecretPath, TaskId, Version,
};
use gofer_core::journal::{
    Catalog, ClaimLimit, Cluster, Commit, Committed, Expirable, Expiry, Hint, Hints, Inserted,
    JournalError, Lease, Leases, Logs, NewRun, Retention, RunMask, RunSnapshot, Runs,
};
use gofer_core::pipeline::PipelineSpec;
use gofer_core::quota::QuotaKind;
use gofer_core::run::{AttemptRecord, CancelRequest, LogState};
use gofer_core::time::Timestamp;

use super::lock;
use state::State;

/// The whole [`Journal`](gofer_core::journal::Journal) in memory, with what fills it.
///
/// It never waits: every call is done when it is first polled, so it is deterministic under a
/// paused clock. What it keeps outlives whoever uses it, as a database outlives a server.
#[derive(Default)]
pub struct MemoryJournal {
    state: Mutex<State>,
}

impl std::fmt::Debug for MemoryJournal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = lock(&self.state);
        f.debug_struct("MemoryJournal")
            .field("runs", &state.runs.len())
            .field("events", &state.events.len())
            .finish()
    }
}

impl MemoryJournal {
    /// An empty journal.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers a version of a pipeline, enabled or not, and makes its namespace if need be.
    pub fn add_pipeline(
        &self,
        namespace: &NamespaceId,
        spec: PipelineSpec,
        enabled: bool,
    ) -> Version {
        lock(&self.state).add_pipeline(namespace, spec, enabled)
    }

    /// Enables or disables a pipeline; does nothing if there is none.
    pub fn set_pipeline_enabled(
        &self,
        namespace: &NamespaceId,
        pipeline: &PipelineId,
        enabled: bool,
    ) {
        if let Some(pipeline) =
            lock(&self.state).pipelines.get_mut(&(namespace.clone(), pipeline.clone()))
        {
            pipeline.enabled = enabled;
        }
    }

    /// Puts the record of an object, replacing one of the same scope and key.
    pub fn put_object_record(&self, record: ObjectRecord) {
        lock(&self.state).objects.insert(state::object_id(&record.scope, &record.key), record);
    }

    /// Puts the record of a secret, replacing one of the same scope and key.
    pub fn put_secret_record(&self, record: SecretRecord) {
        lock(&self.state).secrets.insert((record.scope.clone(), record.key.clone()), record);
    }

    /// Gives a namespace a limit of its own.
    pub fn set_quota(&self, namespace: &NamespaceId, quota: QuotaKind, limit: u64) {
        lock(&self.state).overrides.entry(namespace.clone()).or_default().insert(quota, limit);
    }

    /// Every event.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        lock(&self.state).events.clone()
    }

    /// The events after the one with this id; 0 is before the first.
    #[must_use]
    pub fn events_after(&self, id: u64) -> Vec<Event> {
        let state = lock(&self.state);
        let seen = usize::try_from(id).unwrap_or(usize::MAX).min(state.events.len());
        state.events[seen..].to_vec()
    }

    /// Every run, oldest first.
    #[must_use]
    pub fn runs(&self) -> Vec<RunKey> {
        lock(&self.state).runs_by_age().map(|run| run.run.key.clone()).collect()
    }

    /// The finished attempts of a task, in order.
    #[must_use]
    pub fn attempts(&self, run: &RunKey, task: &TaskId) -> Vec<AttemptRecord> {
        let state = lock(&self.state);
        let attempts = state.runs.get(run).into_iter().flat_map(|run| &run.attempts);
        attempts.filter(|((of, _), _)| of == task).map(|(_, record)| record.clone()).collect()
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Runs for MemoryJournal {
    async fn insert_run(&self, new: NewRun) -> Result<Inserted, JournalError> {
        lock(&self.state).insert_run(new)
    }

    async fn load(&self, key: &RunKey) -> Result<RunSnapshot, JournalError> {
        Ok(lock(&self.state).run(key)?.snapshot())
    }

    async fn commit(&self, commits: Vec<Commit>) -> Result<Vec<Committed>, JournalError> {
        let mut state = lock(&self.state);
        Ok(commits.into_iter().map(|commit| state.commit(commit)).collect())
    }

    async fn request_cancel(
        &self,
        key: &RunKey,
        task: Option<&TaskId>,
        request: CancelRequest,
    ) -> Result<bool, JournalError> {
        lock(&self.state).request_cancel(key, task, request)
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Leases for MemoryJournal {
    async fn claim(
        &self,
        owner: &str,
        now: Timestamp,
        ttl: Duration,
        limit: ClaimLimit,
    ) -> Result<Vec<Lease>, JournalError> {
        Ok(lock(&self.state).claim(owner, now, ttl, limit))
    }

    async fn renew(
        &self,
        owner: &str,
        now: Timestamp,
        ttl: Duration,
    ) -> Result<usize, JournalError> {
        Ok(lock(&self.state).renew(owner, now, ttl))
    }

    async fn release(&self, owner: &str) -> Result<(), JournalError> {
        lock(&self.state).release(owner);
        Ok(())
    }

    async fn acquire_leadership(
        &self,
        owner: &str,
        now: Timestamp,
        ttl: Duration,
    ) -> Result<bool, JournalError> {
        Ok(lock(&self.state).acquire_leadership(owner, now, ttl))
    }

    async fn heartbeat(
        &self,
        owner: &str,
        now: Timestamp,
        ttl: Duration,
    ) -> Result<Cluster, JournalError> {
        Ok(lock(&self.state).heartbeat(owner, now, ttl))
    }

    async fn clock(&self) -> Result<Option<Timestamp>, JournalError> {
        Ok(None)
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Hints for MemoryJournal {
    async fn subscribe_hints(&self) -> Result<BoxStream<'static, Hint>, JournalError> {
        Ok(lock(&self.state).subscribe_hints())
    }

    async fn publish_hint(&self, hint: Hint) -> Result<(), JournalError> {
        lock(&self.state).publish_hint(&hint);
        Ok(())
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Logs for MemoryJournal {
    async fn live_logs(
        &self,
        before: Timestamp,
        after: Option<ExecutionId>,
        limit: usize,
    ) -> Result<Vec<ExecutionId>, JournalError> {
        Ok(lock(&self.state).live_logs(before, after.as_ref(), limit))
    }

    async fn log_state(&self, id: &ExecutionId) -> Result<Option<LogState>, JournalError> {
        Ok(lock(&self.state).attempt_mut(id).map(|attempt| attempt.log))
    }

    async fn set_log_state(
        &self,
        id: &ExecutionId,
        from: LogState,
        to: LogState,
        event: Option<NewEvent>,
    ) -> Result<bool, JournalError> {
        Ok(lock(&self.state).set_log_state(id, from, to, event))
    }

    async fn add_run_mask(&self, mask: RunMask) -> Result<(), JournalError> {
        lock(&self.state).add_run_mask(mask)
    }

    async fn run_masks(&self, key: &RunKey) -> Result<Vec<SecretPath>, JournalError> {
        Ok(lock(&self.state).run_masks(key))
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Catalog for MemoryJournal {
    async fn object(
        &self,
        scope: &ObjectScope,
        key: &ObjectKey,
    ) -> Result<Option<ObjectRecord>, JournalError> {
        Ok(lock(&self.state).objects.get(&state::object_id(scope, key)).cloned())
    }

    async fn secret(
        &self,
        scope: &SecretScope,
        key: &str,
    ) -> Result<Option<SecretRecord>, JournalError> {
        Ok(lock(&self.state).secrets.get(&(scope.clone(), key.to_owned())).cloned())
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Expiry for MemoryJournal {
    async fn expirable(
        &self,
        policy: &Retention,
        limit: usize,
    ) -> Result<Vec<Expirable>, JournalError> {
        Ok(lock(&self.state).expirable(policy, limit))
    }

    async fn expired(&self, what: &Expirable, at: Timestamp) -> Result<(), JournalError> {
        lock(&self.state).expired(what, at);
        Ok(())
    }
}
