//! What comes from outside: the scheduler's events, and hints of what other servers did.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use gofer_core::journal::Hint;
use gofer_core::scheduler::Observation;
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::engine::Shared;
use crate::inbox::Message;
use crate::reports;

/// How often everything is asked for though nothing broke off. No scheduler may need it, and a run
/// that stands still for ever because one lost an event is worse than a question every few minutes.
const RECONCILE: Duration = Duration::from_secs(300);

/// Listens to the scheduler for every run; after each (re)connect all drivers ask for what was
/// missed.
pub(crate) async fn scheduler(shared: Arc<Shared>) {
    let mut backoff = Backoff::new(("listen", &shared.config.server_id));
    loop {
        match shared.scheduler.watch().await {
            Ok(mut events) => {
                shared.runs.tell_all(|_| true, || Message::Reconcile).await;
                let mut reconcile = Instant::now() + RECONCILE;
                loop {
                    let Ok(next) = tokio::time::timeout_at(reconcile, events.next()).await else {
                        shared.runs.tell_all(|_| true, || Message::Reconcile).await;
                        reconcile = Instant::now() + RECONCILE;
                        continue;
                    };
                    match next {
                        Some(Ok(event)) => {
                            backoff.reset();
                            if let Some(driver) = shared.runs.inbox(&event.id.run) {
                                let observation =
                                    Observation { state: event.state, times: event.times };
                                driver.tell(Message::Observed(event.id, observation)).await;
                            }
                        }
                        Some(Err(error)) => {
                            tracing::warn!(error = %error.chain(), "the scheduler's events broke \
                                                                    off, will reconnect");
                            break;
                        }
                        None => break,
                    }
                }
            }
            Err(error) => {
                tracing::warn!(error = %error.chain(), "cannot listen to the scheduler yet, will \
                                                        retry")
            }
        }
        backoff.wait().await;
    }
}

/// Listens to the other servers; after each (re)connect it looks at everything they may have
/// changed.
pub(crate) async fn servers(shared: Arc<Shared>) {
    let mut backoff = Backoff::new(("hints", &shared.config.server_id));
    loop {
        match shared.journal.subscribe_hints().await {
            Ok(mut hints) => {
                shared.reload(|_| true).await;
                shared.commits.send_replace(());
                shared.masked.send_replace(());

                while let Some(hint) = hints.next().await {
                    backoff.reset();
                    match hint {
                        Hint::Claimable => shared.claim_wanted.notify_one(),
                        Hint::Cancel(key) => shared.tell(&key, Message::Reload).await,
                        Hint::Committed => {
                            shared.commits.send_replace(());
                        }
                        Hint::Masked(_) => {
                            shared.masked.send_replace(());
                        }
                        Hint::Reported(id, end) => reports::hear(&shared, id, end),
                    }
                }
            }
            Err(error) => {
                tracing::warn!(error = %crate::chain(&error), "cannot hear the other servers yet, \
                                                               will retry");
            }
        }
        backoff.wait().await;
    }
}
