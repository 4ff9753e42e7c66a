//! The engine's only door to storage: one trait per role, and [`Journal`] for all of them.

mod catalog;
mod expiry;
mod hints;
mod leases;
mod logs;
mod runs;

pub use catalog::Catalog;
pub use expiry::{Expirable, Expiry, Retention};
pub use hints::{Hint, Hints};
pub use leases::{Claim, ClaimLimit, Cluster, FirstCommit, Lease, Leases};
pub use logs::{Logs, MAX_RUN_MASK_BYTES, MAX_RUN_MASKS, RunMask, TooManyMasks};
pub use runs::{
    Commit, Committed, Inserted, NewRun, RunSnapshot, RunTransition, Runs, TaskTransition,
};

use crate::error::BackendError;
use crate::quota::QuotaExceeded;
use crate::resource::Resource;
use crate::validate::Violation;

/// Durable storage of runs, by role.
///
/// Every change is a compare-and-set inside one transaction with its events; when a call returns
/// `Ok`, it is durable. A call whose caller goes away takes effect whole or not at all. Errors are
/// retryable unless their kind says otherwise, and after an error the change may or may not have
/// happened: every call is safe to repeat.
///
/// Whatever has all the roles is a journal.
pub trait Journal: Runs + Leases + Hints + Logs + Catalog + Expiry {}

impl<T: Runs + Leases + Hints + Logs + Catalog + Expiry> Journal for T {}

/// Why the journal did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The named thing does not exist.
    #[error("{what} `{key}` does not exist")]
    NotFound {
        /// Of which kind.
        what: Resource,
        /// Its name.
        key: String,
    },
    /// The pipeline is disabled.
    #[error("pipeline `{key}` is disabled; enable it with `gofer pipeline enable`")]
    Disabled {
        /// `namespace/pipeline`.
        key: String,
    },
    /// The run's variables are not what its pipeline's version takes.
    #[error("{}", crate::validate::joined(.0))]
    Variables(Vec<Violation>),
    /// The run masks as many values as a run may.
    #[error(transparent)]
    TooManyMasks(#[from] TooManyMasks),
    /// The namespace has as much as it may.
    #[error(transparent)]
    Quota(#[from] QuotaExceeded),
    /// The storage's own error.
    #[error(transparent)]
    Backend(#[from] BackendError),
}

impl JournalError {
    /// Whether the same call may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Backend(error) if error.is_retryable())
    }
}
