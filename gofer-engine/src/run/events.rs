//! What comes from outside: the scheduler's events, and hints of what other servers did.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use gofer_core::BackendError;
use gofer_core::journal::Hint;
use gofer_core::scheduler::{Observation, WatchEvent};
use tokio::time::Instant;

use super::dispatcher::RunDispatcher;
use crate::commit::news::CommitNews;
use crate::execution::end_reports::EndReports;
use crate::inbox::Message;
use crate::logs::run_masks::RunMasks;
use crate::retry_loop::Backoff;

/// How often everything is asked for though nothing broke off. No scheduler may need it, and a run
/// that stands still for ever because one lost an event is worse than a question every few minutes.
const RECONCILE_PERIOD: Duration = Duration::from_secs(300);

/// Routes the events of the outside world to the drivers.
#[derive(Debug)]
pub(crate) struct RunEvents {
    pub(crate) dispatcher: Arc<RunDispatcher>,
    pub(crate) commits: CommitNews,
    pub(crate) masks: Arc<RunMasks>,
    pub(crate) end_reports: Arc<EndReports>,
}

impl RunEvents {
    /// Watches the scheduler for every run; after each (re)connect all drivers ask for what was
    /// missed.
    pub(crate) async fn watch_scheduler(self: Arc<Self>) {
        let ports = &self.dispatcher.ports;
        let mut backoff = Backoff::new(("listen", &ports.config.server_id));
        loop {
            match ports.scheduler.watch().await {
                Ok(events) => self.route_until_broken(events, &mut backoff).await,
                Err(error) => {
                    tracing::warn!(error = %error.chain(), "cannot listen to the scheduler yet, \
                                                            will retry")
                }
            }
            backoff.wait().await;
        }
    }

    async fn route_until_broken(
        &self,
        mut events: BoxStream<'static, Result<WatchEvent, BackendError>>,
        backoff: &mut Backoff,
    ) {
        loop {
            // On the first turn for what was missed before the connection, and then by the period.
            self.dispatcher.registry.broadcast(|_| true, || Message::Reconcile).await;
            let reconcile = Instant::now() + RECONCILE_PERIOD;

            while let Ok(next) = tokio::time::timeout_at(reconcile, events.next()).await {
                match next {
                    Some(Ok(event)) => {
                        backoff.reset();
                        self.route(event).await;
                    }
                    Some(Err(error)) => {
                        tracing::warn!(error = %error.chain(), "the scheduler's events broke off, \
                                                                will reconnect");
                        return;
                    }
                    None => return,
                }
            }
        }
    }

    async fn route(&self, WatchEvent { id, state, times }: WatchEvent) {
        if let Some(driver) = self.dispatcher.registry.inbox(&id.run) {
            driver.send(Message::Observed(id, Observation { state, times })).await;
        }
    }

    /// Subscribes to the other servers' hints; after each (re)connect everything they may have
    /// changed is looked at.
    pub(crate) async fn follow_hints(self: Arc<Self>) {
        let ports = &self.dispatcher.ports;
        let mut backoff = Backoff::new(("hints", &ports.config.server_id));
        loop {
            match ports.journal.subscribe_hints().await {
                Ok(mut hints) => {
                    self.dispatcher.reload(|_| true).await;
                    self.commits.publish();
                    self.masks.note_added();

                    while let Some(hint) = hints.next().await {
                        backoff.reset();
                        self.handle(hint).await;
                    }
                }
                Err(error) => {
                    tracing::warn!(error = %crate::chain(&error), "cannot hear the other servers \
                                                                   yet, will retry");
                }
            }
            backoff.wait().await;
        }
    }

    async fn handle(&self, hint: Hint) {
        match hint {
            Hint::Claimable => self.dispatcher.leases.want_claim(),
            Hint::Cancel(key) => self.dispatcher.send(&key, Message::Reload).await,
            Hint::Committed => self.commits.publish(),
            Hint::Masked(_) => self.masks.note_added(),
            Hint::Reported(id, end) if self.dispatcher.drives(&id.run) => {
                self.end_reports.accept_forwarded(id, end);
            }
            Hint::Reported(..) => {}
        }
    }
}
