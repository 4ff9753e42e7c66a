//! Retention.

use std::fmt::Debug;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::JournalError;
use crate::id::{
    ExecutionId, NamespaceId, ObjectKey, PipelineId, RunKey, RunNumber, SecretPath, Version,
};
use crate::time::Timestamp;

/// What is old enough to be deleted.
#[async_trait]
pub trait Expiry: Debug + Send + Sync + 'static {
    /// What retention should delete now, at most `limit` items.
    async fn expirable(
        &self,
        policy: &Retention,
        limit: usize,
    ) -> Result<Vec<Expirable>, JournalError>;

    /// Records that the thing was deleted, with its event.
    async fn expired(&self, what: &Expirable, at: Timestamp) -> Result<(), JournalError>;
}

/// What is kept, and how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retention {
    /// Archived logs of attempts that ended before this are deleted.
    pub logs_before: Timestamp,
    /// Run objects are kept for this many newest runs of a pipeline.
    pub run_objects_keep_runs: u64,
    /// Runs that ended before this are deleted.
    pub runs_before: Timestamp,
    /// Runs are kept for this many newest runs of a pipeline, younger ones included.
    pub keep_runs: u64,
    /// Events from before this are deleted.
    pub events_before: Timestamp,
    /// Versions are kept for this many newest versions of a pipeline, and those that a kept run is
    /// of.
    pub keep_versions: u64,
    /// Uploads by URL are forgotten whose URL ended before this.
    pub uploads_before: Timestamp,
    /// Values of secrets that were written before this and that no record names are deleted.
    pub secret_values_before: Timestamp,
}

/// Something retention should delete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expirable {
    /// An archived log.
    Log(ExecutionId),
    /// One object of a run, at its location in the store.
    RunObject {
        /// The run.
        run: RunKey,
        /// The user's key.
        key: ObjectKey,
        /// Where the bytes lie.
        location: ObjectKey,
    },
    /// Runs of one pipeline that are complete, have neither archived logs nor objects left, and
    /// that no unfinished run repeats. Their numbers are not used again.
    Runs {
        /// The pipeline's namespace.
        namespace: NamespaceId,
        /// The pipeline.
        pipeline: PipelineId,
        /// Which.
        runs: Vec<RunNumber>,
    },
    /// Versions of a pipeline. Those that a run has begun to use meanwhile stay.
    Versions {
        /// The pipeline's namespace.
        namespace: NamespaceId,
        /// The pipeline.
        pipeline: PipelineId,
        /// Which.
        versions: Vec<Version>,
    },
    /// Every event up to this id.
    Events {
        /// Of the last one.
        up_to: u64,
    },
    /// An upload by URL.
    Upload {
        /// Its id.
        id: String,
        /// Where bytes may lie that no record names or ever will; `None` while a record may.
        /// Without it, recording this ends an upload that is open, so that its bytes are named the
        /// next time, and forgets one whose object is there.
        location: Option<ObjectKey>,
    },
    /// A value that was masked in the logs of a run, all of which are archived.
    RunMask {
        /// Where it lies.
        location: SecretPath,
    },
    /// The value of a secret that no record names.
    SecretValue {
        /// Where it lies.
        location: SecretPath,
        /// Whether a put may still be about to name it. If so, recording this refuses that put, so
        /// that the value is named again the next time, to be deleted.
        being_put: bool,
    },
}
