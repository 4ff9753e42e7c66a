//! What `Db`'s methods take and return, beside the domain's own types.

use std::sync::Arc;

use gofer_core::entity::{ObjectRecord, ObjectScope, Pipeline, PipelineVersion, SecretRecord};
use gofer_core::pipeline::PipelineSpec;
use gofer_core::run::{AttemptRecord, Run, RunState, RunStatus, TaskRun};
use gofer_core::{
    ExecutionId, NamespaceId, ObjectKey, PipelineId, RunNumber, SecretPath, TaskId, Timestamp,
    Version,
};

/// Most items of one page, whatever the caller asks for.
pub const MAX_PAGE: usize = 1_000;

/// A part of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// In the list's order.
    pub items: Vec<T>,
    /// What `after` of the next request must be; `None` at the end of the list. Opaque, and safe to
    /// hand out.
    pub next: Option<String>,
}

impl<T> Page<T> {
    /// The same page of something else.
    pub fn map<U>(self, change: impl FnMut(T) -> U) -> Page<U> {
        Page { items: self.items.into_iter().map(change).collect(), next: self.next }
    }
}

/// What lets a caller make the first management token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootstrapProof {
    /// The SHA-256 of a code that was accepted ([`crate::Db::bootstrap_accept`]).
    Code([u8; 32]),
    /// The caller may do everything already.
    Management,
}

/// When the last management token that works expires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ManagementEnd {
    /// None works.
    None,
    /// One of them has no end.
    Never,
    /// Then.
    At(Timestamp),
}

/// A run and some of its task runs.
#[derive(Debug, Clone, PartialEq)]
pub struct SomeTasks {
    /// The run.
    pub run: Run,
    /// Those of the wanted tasks that its pipeline has, in the wanted order.
    pub tasks: Vec<TaskRun>,
    /// Their finished attempts, by task id and attempt, ascending.
    pub attempts: Vec<(TaskId, AttemptRecord)>,
}

/// A pipeline to be registered.
#[derive(Debug, Clone)]
pub struct Registration {
    /// In which namespace; it must exist.
    pub namespace: NamespaceId,
    /// The validated spec; its name is the pipeline's.
    pub spec: Arc<PipelineSpec>,
    /// SHA-256 of the spec's canonical form, in hex.
    pub digest: String,
    /// The version the caller has seen as the latest; `Version(0)` says that the pipeline must not
    /// exist.
    pub expected_version: Option<Version>,
}

/// What became of a [`Registration`].
#[derive(Debug, Clone)]
pub struct Registered {
    /// The pipeline, as committed.
    pub pipeline: Pipeline,
    /// Its latest version.
    pub version: PipelineVersion,
    /// `false`: the digest was that of the latest version, and nothing was changed.
    pub changed: bool,
}

/// A pipeline version without its spec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PipelineVersionSummary {
    /// Its namespace.
    pub namespace: NamespaceId,
    /// Its pipeline.
    pub pipeline: PipelineId,
    /// Its number.
    pub version: Version,
    /// SHA-256 of the spec's canonical form, in hex.
    pub digest: String,
    /// Who registered it.
    pub registered_by: String,
    /// When.
    pub created_at: Timestamp,
}

/// What the stores still hold of a deleted pipeline; the caller deletes it there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeletedPipeline {
    /// Objects of the pipeline and its runs.
    pub objects: Vec<ObjectRecord>,
    /// The pipeline's secrets.
    pub secrets: Vec<SecretRecord>,
    /// Finished attempts whose log is archived.
    pub archived_logs: Vec<ExecutionId>,
    /// Finished attempts whose log is still with the scheduler.
    pub live_logs: Vec<ExecutionId>,
}

/// Which runs to list.
#[derive(Debug, Clone, Default)]
pub struct RunFilter {
    /// Only of this pipeline.
    pub pipeline: Option<PipelineId>,
    /// Only in one of these states (the status inside is ignored); empty is any.
    pub states: Vec<RunState>,
    /// Only complete ones that ended so; empty is any.
    pub statuses: Vec<RunStatus>,
}

/// Which events to list. Conditions that are set must all hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventFilter {
    /// Only of these namespaces; `None` is all, and those of no namespace.
    pub namespaces: Option<Vec<NamespaceId>>,
    /// Only of pipelines of this name.
    pub pipeline: Option<PipelineId>,
    /// Only of runs of this number.
    pub run: Option<RunNumber>,
    /// Only of these types ([`gofer_core::event::EventDetails::type_name`]); empty is any. A rare
    /// type is searched for event by event.
    pub types: Vec<String>,
}

/// How many runs of a pipeline are running, and how many may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PipelineRoom {
    /// Of the latest version; `None` is no limit.
    pub parallelism: Option<u64>,
    /// How many are running.
    pub running: u64,
    /// The oldest of those, at most [`PipelineRoom::NAMED`].
    pub oldest: Vec<RunNumber>,
}

impl PipelineRoom {
    /// How many running runs are named.
    pub const NAMED: usize = 5;
}

/// What is recorded of a run's time beside its row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RunRecords {
    /// Logs that are still with the scheduler.
    pub live_logs: u64,
    /// When the newest log was archived.
    pub last_archived: Option<Timestamp>,
    /// The last run of the same pipeline that ended while this one waited, among the thousand
    /// before it.
    pub ended_before: Option<RunNumber>,
}

/// How to record an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ObjectPut {
    /// Only if the key is free.
    pub if_absent: bool,
    /// Pipeline level: how many keys are kept; the oldest beyond are evicted. `None` is all.
    pub keep: Option<u64>,
}

/// What a put left behind in the store; the caller deletes it there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObjectPutOutcome {
    /// What had the key before.
    pub replaced: Option<ObjectRecord>,
    /// The oldest objects, evicted because of [`ObjectPut::keep`].
    pub evicted: Vec<ObjectRecord>,
}

/// What a put of a secret did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretPutOutcome {
    /// The record as it is now.
    pub record: SecretRecord,
    /// Where the value lies that had the key before; the caller deletes it there.
    pub replaced: Option<SecretPath>,
}

/// Most uploads by URL that a pipeline may have open: each is a row until retention forgets it.
pub const MAX_OPEN_UPLOADS: u64 = 1_000;

/// An upload by URL: the bytes go to the store without passing through the server, and become an
/// object when the upload is completed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectUpload {
    /// Random, and no credential.
    pub id: String,
    /// Whose object it will be.
    pub scope: ObjectScope,
    /// The user's key.
    pub key: ObjectKey,
    /// Where the bytes go.
    pub location: ObjectKey,
    /// Their number, if it was declared.
    pub size_bytes: Option<u64>,
    /// Their SHA-256 in hex, if it was declared.
    pub sha256: Option<String>,
    /// Only if the key is free when it is completed.
    pub if_absent: bool,
    /// When the URL ends.
    pub expires_at: Timestamp,
    /// How far it is.
    pub state: UploadState,
}

/// How far an upload by URL is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UploadState {
    /// It may be completed.
    Open,
    /// It was: the object as it was recorded then, and the keys that were evicted.
    Complete(ObjectRecord, Vec<String>),
    /// It never will be.
    GivenUp,
}

/// What the store has found of an upload's bytes, and how to record them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadedObject {
    /// Their number.
    pub size_bytes: u64,
    /// Their SHA-256 in hex, if the store tells.
    pub sha256: Option<String>,
    /// As in [`ObjectPut::keep`].
    pub keep: Option<u64>,
    /// Now.
    pub at: Timestamp,
}

/// What completing an upload came to; the same each time it is asked for, but for what is to be
/// deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompletedUpload {
    /// The object.
    pub record: ObjectRecord,
    /// Keys that were evicted, oldest first.
    pub evicted_keys: Vec<String>,
    /// What this left behind in the store; the caller deletes it there. Empty when it was complete
    /// before.
    pub no_longer_named: Vec<ObjectRecord>,
}

/// A value of the embedded secret store, encrypted by it.
#[derive(Clone, PartialEq, Eq)]
pub struct LocalSecret {
    /// Which key decrypts it.
    pub key_id: String,
    /// Nonce and ciphertext, in the store's own format.
    pub ciphertext: Vec<u8>,
}

impl std::fmt::Debug for LocalSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalSecret")
            .field("key_id", &self.key_id)
            .field("ciphertext_bytes", &self.ciphertext.len())
            .finish()
    }
}

/// How much is going on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Runs that wait.
    pub pending_runs: u64,
    /// Runs whose tasks are being executed.
    pub running_runs: u64,
    /// The newest event; 0 when there is none.
    pub last_event_id: u64,
}
