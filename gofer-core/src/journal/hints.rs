//! Hints between servers.

use std::fmt::Debug;

use async_trait::async_trait;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};

use super::JournalError;
use crate::event::{EventDetails, NewEvent};
use crate::id::{ExecutionId, RunKey};
use crate::scheduler::ReportedEnd;

/// Where to look, because another user of the journal changed something.
#[async_trait]
pub trait Hints: Debug + Send + Sync + 'static {
    /// What others change from now on; and every cancel request, also one's own, since a call that
    /// was given up may take effect later. The stream ends when something may have been missed;
    /// whoever follows it then looks at everything, and follows again. A journal that nobody else
    /// can use has a stream that never says anything.
    async fn subscribe_hints(&self) -> Result<BoxStream<'static, Hint>, JournalError>;

    /// Tells the others what no event does. It may be lost, and a journal that nobody else
    /// can use drops it.
    async fn publish_hint(&self, hint: Hint) -> Result<(), JournalError>;
}

/// Where to look, because another user of the journal changed something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hint {
    /// There may be something to claim: a run was committed, or one ended and made room.
    Claimable,
    /// A cancel request of this run, or of a task of it, was recorded.
    Cancel(RunKey),
    /// A run added a value to what is masked in its logs. No event tells that, since the value
    /// comes after the event.
    Masked(RunKey),
    /// Something was committed with events.
    Committed,
    /// An execution told its own end to a server that does not drive its run. A report is not the
    /// truth, and is not stored.
    Reported(ExecutionId, ReportedEnd),
}

impl Hint {
    /// What events that were committed together hint at, without repetition.
    #[must_use]
    pub fn of<'a>(events: impl IntoIterator<Item = &'a NewEvent>) -> Vec<Self> {
        let mut hints = Vec::new();
        for event in events {
            let hint = match &event.details {
                EventDetails::RunCreated { .. } | EventDetails::RunCompleted { .. } => {
                    Some(Self::Claimable)
                }
                EventDetails::RunCancelRequested { .. }
                | EventDetails::TaskRunCancelRequested { .. } => {
                    event.subject.run_key().map(Self::Cancel)
                }
                _ => None,
            };
            for hint in hint.into_iter().chain([Self::Committed]) {
                if !hints.contains(&hint) {
                    hints.push(hint);
                }
            }
        }

        hints
    }
}
