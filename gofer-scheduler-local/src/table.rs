//! The executions that have not ended, as this server knows them, and the stream of their changes.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::stream::{self, BoxStream, StreamExt};
use gofer_core::scheduler::{ExecutionState, ExecutionTimes, Observation, WatchEvent};
use gofer_core::{BackendError, ErrorKind, ExecutionId};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Notify, broadcast, watch};

use crate::layout::LiveName;

/// Events a slow watcher may lag behind before its stream ends with an error.
const EVENT_BUFFER: usize = 4096;

/// How far an execution has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Being launched by this server right now.
    Starting,
    /// Its supervisor lives.
    Running,
    /// Its end is recorded.
    Ended,
}

#[derive(Debug)]
struct Known {
    live: LiveName,
    phase: watch::Sender<Phase>,
    /// How it ended, until that is filed away.
    end: Option<Observation>,
    /// Its supervisor died without a record before it answered.
    died: bool,
    died_notify: Arc<Notify>,
}

/// Every unfinished execution; its lock also orders the events.
#[derive(Debug)]
pub(crate) struct Table {
    known: Mutex<HashMap<ExecutionId, Known>>,
    events: broadcast::Sender<WatchEvent>,
}

/// What is known of an execution.
pub(crate) struct Found {
    pub(crate) live: LiveName,
    pub(crate) phase: watch::Receiver<Phase>,
    /// How it ended.
    pub(crate) end: Option<Observation>,
}

/// The answer to a wish to start.
pub(crate) enum Claimed {
    /// The caller, and nobody else, launches it; the notification comes when its supervisor dies
    /// silently.
    New(Arc<Notify>),
    /// Somebody else does or did; wait with [`started`].
    Taken(watch::Receiver<Phase>),
}

impl Table {
    pub(crate) fn new() -> Self {
        Self { known: Mutex::default(), events: broadcast::Sender::new(EVENT_BUFFER) }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ExecutionId, Known>> {
        // No code that holds the lock can leave the map half changed.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The changes from now on. One who lags behind gets an error, and then the end.
    pub(crate) fn watch(&self) -> BoxStream<'static, Result<WatchEvent, BackendError>> {
        let next = |events: Option<broadcast::Receiver<WatchEvent>>| async move {
            let mut events = events?;
            match events.recv().await {
                Ok(event) => Some((Ok(event), Some(events))),
                Err(RecvError::Closed) => None,
                Err(RecvError::Lagged(missed)) => {
                    let message =
                        format!("{missed} events were missed; ask for the states and watch again");
                    Some((Err(BackendError::new(ErrorKind::Unavailable, message)), None))
                }
            }
        };
        stream::unfold(Some(self.events.subscribe()), next).boxed()
    }

    /// Claims the id for a launch.
    pub(crate) fn claim(&self, id: &ExecutionId, live: &LiveName) -> Claimed {
        match self.lock().entry(id.clone()) {
            Entry::Occupied(entry) => Claimed::Taken(entry.get().phase.subscribe()),
            Entry::Vacant(entry) => {
                let known = entry.insert(Known {
                    live: live.clone(),
                    phase: watch::Sender::new(Phase::Starting),
                    end: None,
                    died: false,
                    died_notify: Arc::default(),
                });
                Claimed::New(known.died_notify.clone())
            }
        }
    }

    /// Takes up an execution that an earlier server started.
    pub(crate) fn adopt(&self, id: ExecutionId, live: LiveName) {
        let phase = watch::Sender::new(Phase::Running);
        self.lock()
            .insert(id, Known { live, phase, end: None, died: false, died_notify: Arc::default() });
    }

    /// Gives up a launch of which nothing is left.
    pub(crate) fn abandon(&self, id: &ExecutionId, live: &LiveName) {
        let mut known = self.lock();
        if known
            .get(id)
            .is_some_and(|entry| entry.live == *live && *entry.phase.borrow() == Phase::Starting)
        {
            known.remove(id);
        }
    }

    /// Forgets it: a launch that started nothing, or an end that is filed away.
    pub(crate) fn forget(&self, id: &ExecutionId, live: &LiveName) {
        let mut known = self.lock();
        if known.get(id).is_some_and(|entry| entry.live == *live) {
            known.remove(id);
        }
    }

    /// Nobody can say at the moment what became of the launch: it counts as running until somebody
    /// can.
    pub(crate) fn doubt(&self, id: &ExecutionId, live: &LiveName) {
        if let Some(entry) =
            self.lock().get(id).filter(|entry| entry.live == *live && entry.end.is_none())
        {
            entry.phase.send_replace(Phase::Running);
        }
    }

    /// Its supervisor reported it running. `false` if that supervisor has died meanwhile without a
    /// record.
    pub(crate) fn running(&self, id: &ExecutionId, live: &LiveName, times: ExecutionTimes) -> bool {
        let mut known = self.lock();
        match known.get_mut(id) {
            Some(entry) if entry.live == *live => {
                if entry.died && entry.end.is_none() {
                    return false;
                }
                if entry.end.is_none() {
                    entry.phase.send_replace(Phase::Running);
                    self.send(id, Observation { state: ExecutionState::Running, times });
                }
                true
            }
            // It has ended already, and that was reported and filed away.
            _ => true,
        }
    }

    /// It has ended. Repeating it has no effect. It stays known until it is forgotten.
    pub(crate) fn ended(&self, id: &ExecutionId, live: &LiveName, end: Observation) {
        let mut known = self.lock();
        if let Some(entry) =
            known.get_mut(id).filter(|entry| entry.live == *live && entry.end.is_none())
        {
            entry.end = Some(end.clone());
            entry.phase.send_replace(Phase::Ended);
            self.send(id, end);
        }
    }

    /// Its supervisor is gone and left no record. Says in which phase that happened; in `Starting`
    /// whoever launches it has been told and deals with it.
    pub(crate) fn supervisor_died(&self, id: &ExecutionId, live: &LiveName) -> Option<Phase> {
        let mut known = self.lock();
        let entry = known.get_mut(id).filter(|entry| entry.live == *live)?;
        entry.died = true;
        entry.died_notify.notify_one();
        Some(*entry.phase.borrow())
    }

    /// Where it stands; `None` if its end is filed away or it was never here.
    pub(crate) fn find(&self, id: &ExecutionId) -> Option<Found> {
        self.lock().get(id).map(|entry| Found {
            live: entry.live.clone(),
            phase: entry.phase.subscribe(),
            end: entry.end.clone(),
        })
    }

    /// Whether this launch of it is known and has not ended.
    pub(crate) fn knows(&self, id: &ExecutionId, live: &LiveName) -> bool {
        self.lock().get(id).is_some_and(|entry| entry.live == *live && entry.end.is_none())
    }

    /// All of them.
    pub(crate) fn all(&self) -> Vec<(ExecutionId, LiveName, Phase)> {
        self.lock()
            .iter()
            .map(|(id, entry)| (id.clone(), entry.live.clone(), *entry.phase.borrow()))
            .collect()
    }

    fn send(&self, id: &ExecutionId, now: Observation) {
        // An error only says that nobody watches.
        let _ = self.events.send(WatchEvent::new(id.clone(), now));
    }
}

/// Waits until a launch by somebody else is decided; `false` if it came to nothing.
pub(crate) async fn started(mut phase: watch::Receiver<Phase>) -> bool {
    phase.wait_for(|phase| *phase != Phase::Starting).await.is_ok()
}

/// Waits until the execution has ended.
pub(crate) async fn ended(phase: &mut watch::Receiver<Phase>) {
    // An error says that the entry is gone, which it is after the end.
    let _ = phase.wait_for(|phase| *phase == Phase::Ended).await;
}

/// Waits until the end is filed away.
pub(crate) async fn filed(mut phase: watch::Receiver<Phase>) {
    // Nothing satisfies this but the entry's own end, which is an error.
    let _ = phase.wait_for(|_| false).await;
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn names() -> (ExecutionId, LiveName) {
        let id: ExecutionId = "default/ci/1/build/1".parse().unwrap();
        let live = LiveName::new(&id, 7);
        (id, live)
    }

    #[tokio::test]
    async fn an_end_before_the_answer_hides_running() {
        let (id, live) = names();
        let table = Table::new();
        let mut events = table.watch();
        assert!(matches!(table.claim(&id, &live), Claimed::New(_)));
        table.ended(&id, &live, ExecutionState::Stopped.into());
        table.ended(&id, &live, ExecutionState::Lost.into());
        assert!(table.running(&id, &live, ExecutionTimes::default()));
        assert_eq!(events.next().await.unwrap().unwrap().state, ExecutionState::Stopped);
        assert!(events.next().now_or_never().is_none());
        assert_eq!(table.find(&id).unwrap().end, Some(ExecutionState::Stopped.into()));
        table.forget(&id, &live);
        assert!(table.find(&id).is_none());
    }

    #[tokio::test]
    async fn a_watcher_that_lags_is_told_so_and_the_stream_ends() {
        let (id, live) = names();
        let table = Table::new();
        let mut events = table.watch();
        for _ in 0..=EVENT_BUFFER {
            assert!(matches!(table.claim(&id, &live), Claimed::New(_)));
            table.ended(&id, &live, ExecutionState::Stopped.into());
            table.forget(&id, &live);
        }
        let error = events.next().await.unwrap().unwrap_err();
        assert!(error.is_retryable() && error.message.contains("1 events were missed"), "{error}");
        assert!(events.next().await.is_none());
    }

    #[tokio::test]
    async fn a_claim_given_up_wakes_those_who_wait() {
        let (id, live) = names();
        let table = Table::new();
        assert!(matches!(table.claim(&id, &live), Claimed::New(_)));
        let Claimed::Taken(phase) = table.claim(&id, &live) else { panic!("claimed twice") };
        table.abandon(&id, &live);
        assert!(!started(phase).await);
        assert!(matches!(table.claim(&id, &live), Claimed::New(_)));
        assert_eq!(table.supervisor_died(&id, &live), Some(Phase::Starting));
        assert!(
            !table.running(&id, &live, ExecutionTimes::default()),
            "reported running after its supervisor died"
        );
    }
}
