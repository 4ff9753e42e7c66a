//! A server's journal: the one in memory, with faults before and after, and the model looking at
//! everything it answers.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use gofer_conformance::MemoryJournal;
use gofer_core::entity::{ObjectRecord, ObjectScope, SecretRecord, SecretScope};
use gofer_core::event::NewEvent;
use gofer_core::journal::{
    Catalog, ClaimLimit, Cluster, Commit, Committed, Expirable, Expiry, FirstCommit, Hint, Hints,
    Inserted, JournalError, Lease, Leases, Logs, NewRun, Retention, RunMask, RunSnapshot, Runs,
};
use gofer_core::run::{CancelRequest, LogState, RunState, TaskRun};
use gofer_core::{ExecutionId, ObjectKey, RunKey, SecretPath, TaskId, Timestamp};

use crate::hints;
use crate::link::{Link, unavailable};
use crate::model::Model;
use crate::world::{Part, SECOND, lock};

#[derive(Debug, Clone)]
pub(crate) struct SimJournal {
    pub(crate) link: Arc<Link>,
    pub(crate) stored: Arc<MemoryJournal>,
    pub(crate) model: Arc<Mutex<Model>>,
    pub(crate) hints: Arc<hints::Hints>,
}

impl SimJournal {
    async fn call<T: Send>(
        &self,
        what: &str,
        effect: impl Future<Output = Result<T, JournalError>> + Send,
        look: impl FnOnce(&mut Model, &T) + Send,
    ) -> Result<T, JournalError> {
        let effect = async {
            let result = effect.await?;
            self.hints.said_by(&self.link.name);
            let mut model = lock(&self.model);
            let events = self.stored.events_after(model.last_event);
            model.events(&self.link.world, events);
            look(&mut model, &result);
            Ok(result)
        };
        self.link.call(Part::Journal, what, effect).await
    }

    /// What the model has to know of a run before its events are looked at.
    async fn introduce(&self, inserted: &Inserted) {
        let known = lock(&self.model).runs.contains_key(&inserted.run.key);
        if !known {
            let mut snapshot = self.stored.load(&inserted.run.key).await.expect("it was inserted");
            if inserted.claimed.is_some() {
                // As it was before its second event.
                (snapshot.run.state, snapshot.run.started_at) = (RunState::Pending, None);
                for (id, task) in &mut snapshot.tasks {
                    *task = TaskRun::pending(id.clone());
                }
            }
            lock(&self.model).insert(snapshot);
        }
    }

    async fn insert(&self, mut new: NewRun) -> Result<Inserted, JournalError> {
        let first = Arc::new(Mutex::new(None));
        if let Some(claim) = &mut new.claim {
            let (slot, asked) = (first.clone(), claim.first.take());
            claim.first = Some(FirstCommit::new(move |lease, inserted| {
                let commit = asked.as_ref()?.of(lease, inserted);
                lock(&slot).clone_from(&commit);
                commit
            }));
        }

        let what = format!("insert_run {}", new.pipeline);
        let owner = new.claim.as_ref().map_or_else(String::new, |claim| claim.owner.clone());
        let effect = async {
            let inserted = self.stored.insert_run(new).await?;
            self.introduce(&inserted).await;
            Ok(inserted)
        };

        let look = |model: &mut Model, inserted: &Inserted| {
            self.link.trace(|| format!("inserted {}", inserted.run.key));
            if let Some((lease, _)) = &inserted.claimed {
                model.claimed(&self.link.world, &owner, std::slice::from_ref(lease));
                self.link.trace(|| format!("claims {} @{}", lease.run, lease.epoch));
            }

            if let Some(commit) = lock(&first).take() {
                self.trace_commit(&commit, Committed::Done);
                model.committed(&self.link.world, &commit, Committed::Done);
            }
        };

        self.call(&what, effect, look).await
    }

    fn trace_commit(&self, commit: &Commit, result: Committed) {
        self.link.trace(|| {
            let changes = commit.tasks.iter().map(|change| {
                let stop = if change.to.stop.is_some() { " stopping" } else { "" };
                format!(" {}/{}->{:?}{stop}", change.to.task, change.from_attempt, change.to.state)
            });
            let run = commit
                .run
                .as_ref()
                .map(|change| format!(" RUN->{:?}", change.to))
                .unwrap_or_default();
            let (key, epoch) = (&commit.lease.run, commit.lease.epoch);
            format!("commit {key} @{epoch}: {result:?}{}{run}", changes.collect::<String>())
        });
    }
}

#[async_trait]
impl Runs for SimJournal {
    /// A call that was given up may take effect long after: its connection is gone, and the
    /// database still at it.
    async fn insert_run(&self, new: NewRun) -> Result<Inserted, JournalError> {
        let Some(late_ms) = self.link.world.late_insert() else {
            let inserted = self.insert(new).await;
            self.link.linger(self.link.world.slow_insert().unwrap_or(0)).await;
            return inserted;
        };

        self.link.trace(|| {
            format!("insert_run {} is given up, and takes effect in {late_ms} ms", new.pipeline)
        });

        let (journal, under_way) = (self.clone(), self.link.world.under_way());
        tokio::spawn(async move {
            let _under_way = under_way;
            tokio::time::sleep(Duration::from_millis(late_ms)).await;
            let _ = journal.insert(new).await;
        });

        Err(unavailable("insert_run").into())
    }

    async fn load(&self, key: &RunKey) -> Result<RunSnapshot, JournalError> {
        self.call(&format!("load {key}"), self.stored.load(key), |_, _| {}).await
    }

    async fn commit(&self, commits: Vec<Commit>) -> Result<Vec<Committed>, JournalError> {
        let asked = commits.clone();
        let look = |model: &mut Model, results: &Vec<Committed>| {
            for (commit, result) in asked.iter().zip(results) {
                self.trace_commit(commit, *result);
                model.committed(&self.link.world, commit, *result);
            }
        };
        self.call("commit", self.stored.commit(commits), look).await
    }

    async fn request_cancel(
        &self,
        key: &RunKey,
        task: Option<&TaskId>,
        request: CancelRequest,
    ) -> Result<bool, JournalError> {
        let what = format!("request_cancel {key} {task:?} force={}", request.force);
        self.call(&what, self.stored.request_cancel(key, task, request), |_, _| {}).await
    }
}

#[async_trait]
impl Leases for SimJournal {
    async fn claim(
        &self,
        owner: &str,
        now: Timestamp,
        ttl: Duration,
        limit: ClaimLimit,
    ) -> Result<Vec<Lease>, JournalError> {
        let look = |model: &mut Model, leases: &Vec<Lease>| {
            model.claimed(&self.link.world, owner, leases);
            for lease in leases {
                let until = now.after(ttl).0 as f64 / SECOND as f64;
                self.link
                    .trace(|| format!("claims {} @{} until {until:.3}", lease.run, lease.epoch));
            }
        };
        self.call("claim", self.stored.claim(owner, now, ttl, limit), look).await
    }

    async fn renew(
        &self,
        owner: &str,
        now: Timestamp,
        ttl: Duration,
    ) -> Result<usize, JournalError> {
        self.call("renew", self.stored.renew(owner, now, ttl), |_, _| {}).await
    }

    async fn release(&self, owner: &str) -> Result<(), JournalError> {
        self.call("release", self.stored.release(owner), |_, ()| {}).await
    }

    async fn acquire_leadership(
        &self,
        owner: &str,
        now: Timestamp,
        ttl: Duration,
    ) -> Result<bool, JournalError> {
        self.call("acquire_leadership", self.stored.acquire_leadership(owner, now, ttl), |_, _| {})
            .await
    }

    async fn heartbeat(
        &self,
        owner: &str,
        now: Timestamp,
        ttl: Duration,
    ) -> Result<Cluster, JournalError> {
        self.call("heartbeat", self.stored.heartbeat(owner, now, ttl), |_, _| {}).await
    }

    async fn clock(&self) -> Result<Option<Timestamp>, JournalError> {
        self.call("clock", async { Ok(Some(Timestamp(self.link.now()))) }, |_, _| {}).await
    }
}

#[async_trait]
impl Hints for SimJournal {
    async fn subscribe_hints(&self) -> Result<BoxStream<'static, Hint>, JournalError> {
        self.call("subscribe_hints", async { Ok(self.hints.hear(self.link.clone())) }, |_, _| {})
            .await
    }

    async fn publish_hint(&self, hint: Hint) -> Result<(), JournalError> {
        self.call("publish_hint", self.stored.publish_hint(hint), |_, ()| {}).await
    }
}

#[async_trait]
impl Logs for SimJournal {
    async fn live_logs(
        &self,
        before: Timestamp,
        after: Option<ExecutionId>,
        limit: usize,
    ) -> Result<Vec<ExecutionId>, JournalError> {
        self.call("live_logs", self.stored.live_logs(before, after, limit), |_, _| {}).await
    }

    async fn log_state(&self, id: &ExecutionId) -> Result<Option<LogState>, JournalError> {
        self.call(&format!("log_state {id}"), self.stored.log_state(id), |_, _| {}).await
    }

    async fn set_log_state(
        &self,
        id: &ExecutionId,
        from: LogState,
        to: LogState,
        event: Option<NewEvent>,
    ) -> Result<bool, JournalError> {
        let what = format!("set_log_state {id} {to:?}");
        self.call(&what, self.stored.set_log_state(id, from, to, event), |_, _| {}).await
    }

    async fn add_run_mask(&self, mask: RunMask) -> Result<(), JournalError> {
        self.call("add_run_mask", self.stored.add_run_mask(mask), |_, ()| {}).await
    }

    async fn run_masks(&self, key: &RunKey) -> Result<Vec<SecretPath>, JournalError> {
        self.call("run_masks", self.stored.run_masks(key), |_, _| {}).await
    }
}

#[async_trait]
impl Catalog for SimJournal {
    async fn object(
        &self,
        scope: &ObjectScope,
        key: &ObjectKey,
    ) -> Result<Option<ObjectRecord>, JournalError> {
        self.call("object", self.stored.object(scope, key), |_, _| {}).await
    }

    async fn secret(
        &self,
        scope: &SecretScope,
        key: &str,
    ) -> Result<Option<SecretRecord>, JournalError> {
        self.call("secret", self.stored.secret(scope, key), |_, _| {}).await
    }
}

#[async_trait]
impl Expiry for SimJournal {
    async fn expirable(
        &self,
        policy: &Retention,
        limit: usize,
    ) -> Result<Vec<Expirable>, JournalError> {
        self.call("expirable", self.stored.expirable(policy, limit), |_, _| {}).await
    }

    async fn expired(&self, what: &Expirable, at: Timestamp) -> Result<(), JournalError> {
        self.call("expired", self.stored.expired(what, at), |_, ()| {}).await
    }
}
