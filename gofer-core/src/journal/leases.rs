//! Leases on runs, the leadership, and the servers that share both.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::{Commit, JournalError, RunSnapshot};
use crate::id::{NamespaceId, RunKey};
use crate::time::Timestamp;

/// Who may change a run, who does what one server does for all, and who lives.
#[async_trait]
pub trait Leases: Debug + Send + Sync + 'static {
    /// Takes leases on unfinished runs whose lease nobody holds at `now`, and returns them oldest
    /// first. Each lease has a higher epoch than any before it.
    ///
    /// Running runs are taken first, then pending ones whose cancellation was requested, each
    /// oldest first. Other pending runs are taken only while fewer runs of their pipeline than its
    /// `parallelism` are running, and in the order of [`ClaimOrder`](crate::admission::ClaimOrder):
    /// next is always a run of the namespace with the fewest running runs, of those one of the
    /// pipeline with the fewest, of those the oldest. Taking a pending run makes it `Running` (with
    /// `run_started`). A namespace that has as many running
    /// runs as its quota of active runs waits.
    async fn claim(
        &self,
        owner: &str,
        now: Timestamp,
        ttl: Duration,
        limit: ClaimLimit,
    ) -> Result<Vec<Lease>, JournalError>;

    /// Prolongs every lease of this owner that it still holds to at least `now + ttl`, and returns
    /// how many that are. A lease that ran out but was not taken by anybody is held.
    async fn renew(
        &self,
        owner: &str,
        now: Timestamp,
        ttl: Duration,
    ) -> Result<usize, JournalError>;

    /// Gives up every lease of this owner, and the leadership if it has it, so that another may take
    /// them at once.
    async fn release(&self, owner: &str) -> Result<(), JournalError>;

    /// Acquires the leadership, or prolongs it to at least `now + ttl`, and returns whether this
    /// owner has it: the right to do what one server does for all. It is free at first, when it was
    /// released, and when it ran out.
    async fn acquire_leadership(
        &self,
        owner: &str,
        now: Timestamp,
        ttl: Duration,
    ) -> Result<bool, JournalError>;

    /// A sign of life, good until `now + ttl`: this owner counts as a server until then, or until
    /// it [releases](Self::release) what it holds. Returns what a server has to know of those it
    /// shares with.
    async fn heartbeat(
        &self,
        owner: &str,
        now: Timestamp,
        ttl: Duration,
    ) -> Result<Cluster, JournalError>;

    /// What time it is for everybody who uses this journal, since the clocks of several hosts are
    /// apart; `None` when nobody else can use it, and one's own will do.
    async fn clock(&self) -> Result<Option<Timestamp>, JournalError>;
}

/// A request for a lease.
#[derive(Debug, Clone)]
pub struct Claim {
    /// Whose it will be.
    pub owner: String,
    /// How long, unless it is renewed.
    pub ttl: Duration,
    /// Nothing is claimed if the owner would hold more runs than these, whatever else it takes at
    /// the same time.
    pub most: usize,
    /// What becomes true with it.
    pub first: Option<FirstCommit>,
}

/// Makes the first commit of a run that is claimed as it is inserted, so that both are one
/// transaction. Called inside of it, and again when it is repeated; a commit that does not hold is
/// an error of the insert, which then changed nothing.
#[derive(Clone)]
pub struct FirstCommit(Arc<OfInserted>);

type OfInserted = dyn Fn(&Lease, &RunSnapshot) -> Option<Commit> + Send + Sync;

impl FirstCommit {
    /// From what to do with the lease and the run as it was inserted.
    pub fn new(
        of: impl Fn(&Lease, &RunSnapshot) -> Option<Commit> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(of))
    }

    /// The commit; `None` leaves it at the insert.
    #[must_use]
    pub fn of(&self, lease: &Lease, inserted: &RunSnapshot) -> Option<Commit> {
        (self.0)(lease, inserted)
    }
}

impl Debug for FirstCommit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FirstCommit")
    }
}

/// How many runs to claim at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClaimLimit {
    /// In all.
    pub runs: usize,
    /// Pending ones that are not merely to be cancelled are taken only as long as the owner holds
    /// no more than these.
    pub held: usize,
}

impl From<usize> for ClaimLimit {
    /// So many, whatever their state, and whatever else the owner holds.
    fn from(runs: usize) -> Self {
        Self { runs, held: usize::MAX }
    }
}

/// The right to change a run, until somebody else takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Which run.
    pub run: RunKey,
    /// Grows with each lease of this run; a commit with an older one is refused (fencing).
    pub epoch: u64,
}

/// What the servers of one journal share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// Servers that live, this one included.
    pub servers: usize,
    /// Namespaces that own or may get pipelines: all but a `default` without any.
    pub namespaces: usize,
    /// How many executions of a namespace may be in flight, in all servers together, where it has
    /// no limit of its own.
    pub executions: u64,
    /// The limits of those that have.
    pub executions_of: BTreeMap<NamespaceId, u64>,
}
