//! Inserts a run, and where its turn has come makes its first decision in the same commit.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use gofer_core::journal::{Claim, FirstCommit, NewRun};
use gofer_core::run::{Initiator, Run};
use gofer_core::{NamespaceId, PipelineId};
use secrecy::ExposeSecret;

use super::dispatcher::RunDispatcher;
use super::first_step::{FirstStep, facts};
use crate::error::EngineError;
use crate::inbox::Message;
use crate::lease::deadline::{LeaseDeadline, safe_until};
use crate::lock;
use crate::run_token::run_token_hash;

impl RunDispatcher {
    /// A run with a token of its own, to be claimed at once if there is room.
    pub(crate) fn new_run(
        &self,
        namespace: NamespaceId,
        pipeline: PipelineId,
        variables: BTreeMap<String, String>,
        initiator: Initiator,
    ) -> NewRun {
        let config = &self.ports.config;
        let token_nonce = rand::random();
        let token = self.ports.tokens.token(&token_nonce);
        NewRun {
            namespace,
            pipeline,
            version: None,
            variables,
            initiator,
            retry_of: None,
            reused: Vec::new(),
            idempotency_key: None,
            token_nonce,
            token_hash: run_token_hash(token.expose_secret()),
            at: self.ports.clock.now(),
            claim: self.has_room().then(|| Claim {
                owner: config.server_id.clone(),
                ttl: config.lease_ttl,
                most: config.max_active_runs,
                first: None,
            }),
        }
    }

    /// Inserts a run. To its end, also when the caller goes away: a run that was claimed as it was
    /// inserted has to be driven.
    pub(crate) async fn insert(self: &Arc<Self>, new: NewRun) -> Result<Run, EngineError> {
        if self.ports.shutdown.is_requested() {
            return Err(EngineError::Stopped);
        }
        let dispatcher = self.clone();
        let inserted = self.ports.shutdown.spawn(async move { dispatcher.insert_now(new).await });
        inserted.await.unwrap_or(Err(EngineError::Stopped))
    }

    async fn insert_now(self: &Arc<Self>, mut new: NewRun) -> Result<Run, EngineError> {
        let (namespace, pipeline) = (new.namespace.clone(), new.pipeline.clone());
        let _inserting = self.leases.inserting().await;

        // Now, and not before the wait: what the journal stores of the lease begins with this, and
        // so does what is made of it.
        new.at = self.ports.clock.now();
        let until = safe_until(new.at, self.ports.config.lease_ttl);
        let first_step = self.first_step_with_insert(&mut new);
        let undelivered = self.registry.undelivered_epoch();

        let inserted = match self.ports.journal.insert_run(new).await {
            Ok(inserted) => inserted,
            Err(error) => {
                // It may have taken effect, taken a lease, and superseded any of them.
                self.leases.note_maybe_orphaned();
                self.reload(|key| key.namespace == namespace && key.pipeline == pipeline).await;
                return Err(error.into());
            }
        };

        if inserted.new {
            self.ports.config.metrics.run_created(&inserted.run);
        }
        for superseded in &inserted.superseded {
            self.send(superseded, Message::Reload).await;
        }

        match inserted.claimed {
            Some((lease, snapshot)) => {
                let scheduler = facts(&*self.ports.scheduler);
                let known = lock(&first_step).take();
                let known = known.unwrap_or_else(|| FirstStep::from_snapshot(snapshot, scheduler));
                self.spawn_driver(lease, LeaseDeadline::at(until), Some(known));

                // A client or a newer run may have cancelled it before its driver was registered.
                // Without this, that message would be lost.
                if self.registry.undelivered_epoch() != undelivered
                    && let Some(driver) = self.registry.inbox(&inserted.run.key)
                {
                    driver.send(Message::Reload).await;
                }
            }
            None if inserted.new => self.leases.want_claim(),
            None => {}
        }

        Ok(inserted.run)
    }

    /// Lets the run's first decision be committed with the run itself: where to go on once it is.
    ///
    /// The journal calls it back inside its transaction, when the run has its number and its lease.
    fn first_step_with_insert(&self, new: &mut NewRun) -> Arc<Mutex<Option<FirstStep>>> {
        let made = Arc::new(Mutex::new(None));
        if let Some(claim) = &mut new.claim {
            let (first_step, at) = (made.clone(), new.at);
            let scheduler = facts(&*self.ports.scheduler);
            claim.first = Some(FirstCommit::new(move |lease, inserted| {
                let (step, commit) = FirstStep::with_insert(at, lease, inserted, scheduler)?;
                *lock(&first_step) = Some(step);
                Some(commit)
            }));
        }
        made
    }
}
