//! Logs.

use std::fmt::Debug;

use async_trait::async_trait;

use super::JournalError;
use crate::event::NewEvent;
use crate::id::{ExecutionId, RunKey, SecretPath};
use crate::run::LogState;
use crate::time::Timestamp;

/// Where the logs of attempts are, and what is masked in them.
#[async_trait]
pub trait Logs: Debug + Send + Sync + 'static {
    /// Attempts that ended before `before` and whose log is [unsettled](LogState::is_unsettled),
    /// oldest first, after `after`.
    async fn live_logs(
        &self,
        before: Timestamp,
        after: Option<ExecutionId>,
        limit: usize,
    ) -> Result<Vec<ExecutionId>, JournalError>;

    /// The log state of a finished attempt; `None` while it has not finished (or never existed).
    async fn log_state(&self, id: &ExecutionId) -> Result<Option<LogState>, JournalError>;

    /// Sets the log state if it is `from`, with its event if one is given; returns whether it was.
    async fn set_log_state(
        &self,
        id: &ExecutionId,
        from: LogState,
        to: LogState,
        event: Option<NewEvent>,
    ) -> Result<bool, JournalError>;

    /// Records where a value lies that an unfinished run wants masked in its logs, with its event.
    /// A location that is known changes nothing; `NotFound` when there is no such run, or it is
    /// complete; `TooManyMasks` beyond [`MAX_RUN_MASKS`] and [`MAX_RUN_MASK_BYTES`], also of
    /// several at once.
    async fn add_run_mask(&self, mask: RunMask) -> Result<(), JournalError>;

    /// Where the values lie that a run has added to what is masked.
    async fn run_masks(&self, key: &RunKey) -> Result<Vec<SecretPath>, JournalError>;
}

/// Most values that a run may add to what is masked in its logs.
pub const MAX_RUN_MASKS: usize = 100;
/// Most bytes of them together: each reader of a log holds them in memory.
pub const MAX_RUN_MASK_BYTES: u64 = 256 * 1024;

/// A value that a run adds to what is masked in its logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunMask {
    /// Whose logs.
    pub run: RunKey,
    /// Where the value lies, or is about to.
    pub location: SecretPath,
    /// Its length.
    pub size_bytes: u64,
    /// Who wants it.
    pub actor: String,
    /// Now.
    pub at: Timestamp,
}

/// A run masks as many values as a run may.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "run `{run}` has {MAX_RUN_MASKS} values to mask, or {MAX_RUN_MASK_BYTES} bytes of them, and \
     may have no more; put secrets into `gofer secret put`"
)]
pub struct TooManyMasks {
    /// Which.
    pub run: RunKey,
}
