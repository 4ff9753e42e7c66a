use std::future::ready;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use gofer_core::entity::{ObjectRecord, ObjectScope, SecretRecord, SecretScope};
use gofer_core::event::NewEvent;
use gofer_core::id::{ExecutionId, ObjectKey, RunKey, SecretPath, TaskId};
use gofer_core::journal::{
    Catalog, ClaimLimit, Cluster, Commit, Committed, Expirable, Expiry, Hint, Hints, Inserted,
    Journal, JournalError, Lease, Leases, Logs, NewRun, Retention, RunMask, RunSnapshot, Runs,
};
use gofer_core::run::{CancelRequest, LogState};
use gofer_core::time::Timestamp;

use super::Faulty;

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Runs for Faulty<dyn Journal> {
    async fn insert_run(&self, new: NewRun) -> Result<Inserted, JournalError> {
        self.call("insert_run", self.inner.insert_run(new)).await
    }

    async fn load(&self, key: &RunKey) -> Result<RunSnapshot, JournalError> {
        self.call("load", self.inner.load(key)).await
    }

    async fn commit(&self, commits: Vec<Commit>) -> Result<Vec<Committed>, JournalError> {
        self.call("commit", self.inner.commit(commits)).await
    }

    async fn request_cancel(
        &self,
        key: &RunKey,
        task: Option<&TaskId>,
        request: CancelRequest,
    ) -> Result<bool, JournalError> {
        self.call("request_cancel", self.inner.request_cancel(key, task, request)).await
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Leases for Faulty<dyn Journal> {
    async fn claim(
        &self,
        owner: &str,
        now: Timestamp,
        ttl: Duration,
        limit: ClaimLimit,
    ) -> Result<Vec<Lease>, JournalError> {
        self.call("claim", self.inner.claim(owner, now, ttl, limit)).await
    }

    async fn renew(
        &self,
        owner: &str,
        now: Timestamp,
        ttl: Duration,
    ) -> Result<usize, JournalError> {
        self.call("renew", self.inner.renew(owner, now, ttl)).await
    }

    async fn release(&self, owner: &str) -> Result<(), JournalError> {
        self.call("release", self.inner.release(owner)).await
    }

    async fn acquire_leadership(
        &self,
        owner: &str,
        now: Timestamp,
        ttl: Duration,
    ) -> Result<bool, JournalError> {
        self.call("acquire_leadership", self.inner.acquire_leadership(owner, now, ttl)).await
    }

    async fn heartbeat(
        &self,
        owner: &str,
        now: Timestamp,
        ttl: Duration,
    ) -> Result<Cluster, JournalError> {
        self.call("heartbeat", self.inner.heartbeat(owner, now, ttl)).await
    }

    async fn clock(&self) -> Result<Option<Timestamp>, JournalError> {
        self.call("clock", self.inner.clock()).await
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Hints for Faulty<dyn Journal> {
    async fn subscribe_hints(&self) -> Result<BoxStream<'static, Hint>, JournalError> {
        let hints = self.call("subscribe_hints", self.inner.subscribe_hints()).await?;
        // A fault ends the stream, which says that something may have been missed.
        let broken = self.breaking("hints", hints.map(Ok).boxed());
        Ok(broken
            .map(Result::ok)
            .take_while(|hint| ready(hint.is_some()))
            .filter_map(ready)
            .boxed())
    }

    async fn publish_hint(&self, hint: Hint) -> Result<(), JournalError> {
        self.call("publish_hint", self.inner.publish_hint(hint)).await
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Logs for Faulty<dyn Journal> {
    async fn live_logs(
        &self,
        before: Timestamp,
        after: Option<ExecutionId>,
        limit: usize,
    ) -> Result<Vec<ExecutionId>, JournalError> {
        self.call("live_logs", self.inner.live_logs(before, after, limit)).await
    }

    async fn log_state(&self, id: &ExecutionId) -> Result<Option<LogState>, JournalError> {
        self.call("log_state", self.inner.log_state(id)).await
    }

    async fn set_log_state(
        &self,
        id: &ExecutionId,
        from: LogState,
        to: LogState,
        event: Option<NewEvent>,
    ) -> Result<bool, JournalError> {
        self.call("set_log_state", self.inner.set_log_state(id, from, to, event)).await
    }

    async fn add_run_mask(&self, mask: RunMask) -> Result<(), JournalError> {
        self.call("add_run_mask", self.inner.add_run_mask(mask)).await
    }

    async fn run_masks(&self, key: &RunKey) -> Result<Vec<SecretPath>, JournalError> {
        self.call("run_masks", self.inner.run_masks(key)).await
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Catalog for Faulty<dyn Journal> {
    async fn object(
        &self,
        scope: &ObjectScope,
        key: &ObjectKey,
    ) -> Result<Option<ObjectRecord>, JournalError> {
        self.call("object", self.inner.object(scope, key)).await
    }

    async fn secret(
        &self,
        scope: &SecretScope,
        key: &str,
    ) -> Result<Option<SecretRecord>, JournalError> {
        self.call("secret", self.inner.secret(scope, key)).await
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Expiry for Faulty<dyn Journal> {
    async fn expirable(
        &self,
        policy: &Retention,
        limit: usize,
    ) -> Result<Vec<Expirable>, JournalError> {
        self.call("expirable", self.inner.expirable(policy, limit)).await
    }

    async fn expired(&self, what: &Expirable, at: Timestamp) -> Result<(), JournalError> {
        self.call("expired", self.inner.expired(what, at)).await
    }
}
