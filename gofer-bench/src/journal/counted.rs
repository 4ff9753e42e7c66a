//! Counts what is committed on its way to the database.

use std::ops::Sub;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use gofer_core::entity::{ObjectRecord, ObjectScope, SecretRecord, SecretScope};
use gofer_core::event::NewEvent;
use gofer_core::journal::{
    Catalog, ClaimLimit, Cluster, Commit, Committed, Expirable, Expiry, Hint, Hints, Inserted,
    Journal, JournalError, Lease, Leases, Logs, NewRun, Retention, RunMask, RunSnapshot, Runs,
};
use gofer_core::run::{CancelRequest, LogState, RunState, RunStatus, TaskState};
use gofer_core::{ExecutionId, ObjectKey, RunKey, SecretPath, TaskId, Timestamp};
use tokio::sync::Semaphore;

/// A journal whose commits are counted. A waiter for the end of runs need not ask the database,
/// which has enough to do.
#[derive(Debug)]
pub(super) struct Counted {
    journal: Arc<dyn Journal>,
    /// Gets a permit for each run that ends.
    ended: Arc<Semaphore>,
    unsuccessful: AtomicU64,
    transactions: AtomicU64,
    changes: AtomicU64,
    tasks: AtomicU64,
}

/// The counts so far, or of a period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counts {
    /// Calls of `commit` that took effect: one transaction each.
    pub(super) transactions: u64,
    /// Changes of the state of a run or a task run, the creation of runs included, those of logs
    /// not.
    pub(super) changes: u64,
    /// Task runs that became complete.
    pub(super) tasks: u64,
}

impl Sub for Counts {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            transactions: self.transactions - before.transactions,
            changes: self.changes - before.changes,
            tasks: self.tasks - before.tasks,
        }
    }
}

impl Counted {
    pub(super) fn new(journal: Arc<dyn Journal>, ended: Arc<Semaphore>) -> Self {
        let [unsuccessful, transactions, changes, tasks] = [const { AtomicU64::new(0) }; 4];
        Self { journal, ended, unsuccessful, transactions, changes, tasks }
    }

    /// Runs that ended, but not well.
    pub(super) fn unsuccessful(&self) -> u64 {
        self.unsuccessful.load(Ordering::Relaxed)
    }

    pub(super) fn counts(&self) -> Counts {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Counts {
            transactions: read(&self.transactions),
            changes: read(&self.changes),
            tasks: read(&self.tasks),
        }
    }

    fn add(count: &AtomicU64, more: usize) {
        count.fetch_add(more as u64, Ordering::Relaxed);
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Runs for Counted {
    async fn insert_run(&self, new: NewRun) -> Result<Inserted, JournalError> {
        let inserted = self.journal.insert_run(new).await?;
        // Pending, and running if it was claimed at once; then its tasks without parents begin.
        let begun = inserted.claimed.iter().flat_map(|(_, inserted)| &inserted.spec.tasks);
        let begun = begun.filter(|task| task.depends_on.is_empty()).count();
        Self::add(&self.changes, 1 + usize::from(inserted.claimed.is_some()) + begun);
        Ok(inserted)
    }

    async fn load(&self, key: &RunKey) -> Result<RunSnapshot, JournalError> {
        self.journal.load(key).await
    }

    async fn commit(&self, commits: Vec<Commit>) -> Result<Vec<Committed>, JournalError> {
        let asked: Vec<Asked> = commits.iter().map(Asked::of).collect();
        let committed = self.journal.commit(commits).await?;
        Self::add(&self.transactions, 1);
        for (asked, _) in
            asked.iter().zip(&committed).filter(|(_, committed)| **committed == Committed::Done)
        {
            Self::add(&self.changes, asked.changes);
            Self::add(&self.tasks, asked.tasks);
            if let Some(status) = asked.ended {
                Self::add(&self.unsuccessful, usize::from(status != RunStatus::Successful));
                self.ended.add_permits(1);
            }
        }
        Ok(committed)
    }

    async fn request_cancel(
        &self,
        key: &RunKey,
        task: Option<&TaskId>,
        request: CancelRequest,
    ) -> Result<bool, JournalError> {
        self.journal.request_cancel(key, task, request).await
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Leases for Counted {
    async fn claim(
        &self,
        owner: &str,
        now: Timestamp,
        ttl: Duration,
        limit: ClaimLimit,
    ) -> Result<Vec<Lease>, JournalError> {
        let leases = self.journal.claim(owner, now, ttl, limit).await?;
        Self::add(&self.changes, leases.len());
        Ok(leases)
    }

    async fn renew(
        &self,
        owner: &str,
        now: Timestamp,
        ttl: Duration,
    ) -> Result<usize, JournalError> {
        self.journal.renew(owner, now, ttl).await
    }

    async fn release(&self, owner: &str) -> Result<(), JournalError> {
        self.journal.release(owner).await
    }

    async fn acquire_leadership(
        &self,
        owner: &str,
        now: Timestamp,
        ttl: Duration,
    ) -> Result<bool, JournalError> {
        self.journal.acquire_leadership(owner, now, ttl).await
    }

    async fn heartbeat(
        &self,
        owner: &str,
        now: Timestamp,
        ttl: Duration,
    ) -> Result<Cluster, JournalError> {
        self.journal.heartbeat(owner, now, ttl).await
    }

    async fn clock(&self) -> Result<Option<Timestamp>, JournalError> {
        self.journal.clock().await
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Hints for Counted {
    async fn subscribe_hints(&self) -> Result<BoxStream<'static, Hint>, JournalError> {
        self.journal.subscribe_hints().await
    }

    async fn publish_hint(&self, hint: Hint) -> Result<(), JournalError> {
        self.journal.publish_hint(hint).await
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Logs for Counted {
    async fn live_logs(
        &self,
        before: Timestamp,
        after: Option<ExecutionId>,
        limit: usize,
    ) -> Result<Vec<ExecutionId>, JournalError> {
        self.journal.live_logs(before, after, limit).await
    }

    async fn log_state(&self, id: &ExecutionId) -> Result<Option<LogState>, JournalError> {
        self.journal.log_state(id).await
    }

    async fn set_log_state(
        &self,
        id: &ExecutionId,
        from: LogState,
        to: LogState,
        event: Option<NewEvent>,
    ) -> Result<bool, JournalError> {
        self.journal.set_log_state(id, from, to, event).await
    }

    async fn add_run_mask(&self, mask: RunMask) -> Result<(), JournalError> {
        self.journal.add_run_mask(mask).await
    }

    async fn run_masks(&self, key: &RunKey) -> Result<Vec<SecretPath>, JournalError> {
        self.journal.run_masks(key).await
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Catalog for Counted {
    async fn object(
        &self,
        scope: &ObjectScope,
        key: &ObjectKey,
    ) -> Result<Option<ObjectRecord>, JournalError> {
        self.journal.object(scope, key).await
    }

    async fn secret(
        &self,
        scope: &SecretScope,
        key: &str,
    ) -> Result<Option<SecretRecord>, JournalError> {
        self.journal.secret(scope, key).await
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Expiry for Counted {
    async fn expirable(
        &self,
        policy: &Retention,
        limit: usize,
    ) -> Result<Vec<Expirable>, JournalError> {
        self.journal.expirable(policy, limit).await
    }

    async fn expired(&self, what: &Expirable, at: Timestamp) -> Result<(), JournalError> {
        self.journal.expired(what, at).await
    }
}

/// The changes that a commit asks for.
struct Asked {
    changes: usize,
    /// Task runs that become complete.
    tasks: usize,
    /// The run's status, if it ends.
    ended: Option<RunStatus>,
}

impl Asked {
    fn of(commit: &Commit) -> Self {
        let tasks = commit.tasks.iter().filter(|task| task.from != task.to.state);
        let run = commit.run.as_ref().filter(|run| run.from != run.to);
        let ended = run.and_then(|run| match run.to {
            RunState::Complete(status) => Some(status),
            _ => None,
        });
        Self {
            changes: tasks.clone().count() + usize::from(run.is_some()),
            tasks: tasks.filter(|task| matches!(task.to.state, TaskState::Complete(_))).count(),
            ended,
        }
    }
}
