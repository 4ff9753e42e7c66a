//! What the memory journal keeps.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use futures::StreamExt;
use futures::channel::mpsc;
use futures::stream::BoxStream;
use gofer_core::Resource;
use gofer_core::entity::{ObjectRecord, ObjectScope, SecretRecord, SecretScope};
use gofer_core::event::{Event, EventDetails, NewEvent, Subject};
use gofer_core::id::{
    Attempt, ExecutionId, NamespaceId, ObjectKey, PipelineId, RunKey, RunNumber, SecretPath,
    TaskId, Version,
};
use gofer_core::journal::{Hint, JournalError, RunSnapshot};
use gofer_core::pipeline::PipelineSpec;
use gofer_core::quota::QuotaOverrides;
use gofer_core::run::{AttemptRecord, Run, RunState, TaskRun};
use gofer_core::time::Timestamp;

#[derive(Default)]
pub(super) struct State {
    pub(super) pipelines: BTreeMap<(NamespaceId, PipelineId), PipelineEntry>,
    pub(super) runs: BTreeMap<RunKey, RunEntry>,
    pub(super) objects: BTreeMap<ObjectId, ObjectRecord>,
    pub(super) secrets: HashMap<(SecretScope, String), SecretRecord>,
    /// With their lengths.
    pub(super) masks: BTreeMap<RunKey, BTreeMap<SecretPath, u64>>,
    pub(super) events: Vec<Event>,
    pub(super) leadership: Option<Holder>,
    /// Until when each server counts as living.
    pub(super) servers: BTreeMap<String, Timestamp>,
    /// The namespaces' own limits.
    pub(super) overrides: BTreeMap<NamespaceId, QuotaOverrides>,
    followers: Vec<mpsc::Sender<Hint>>,
}

/// Hints that may wait for one follower; one that is further behind has missed something.
const HINTS: usize = 1_024;

/// Scope and key of an object, in the order of retention.
pub(super) type ObjectId = (NamespaceId, PipelineId, Option<RunNumber>, ObjectKey);

pub(super) fn object_id(scope: &ObjectScope, key: &ObjectKey) -> ObjectId {
    (scope.namespace.clone(), scope.pipeline.clone(), scope.run, key.clone())
}

pub(super) struct PipelineEntry {
    pub(super) enabled: bool,
    /// Version 1 first.
    pub(super) versions: Vec<Arc<PipelineSpec>>,
    pub(super) last_run: u64,
    pub(super) idempotency_keys: BTreeMap<String, RunNumber>,
}

#[derive(Clone)]
pub(super) struct RunEntry {
    pub(super) run: Run,
    pub(super) spec: Arc<PipelineSpec>,
    pub(super) tasks: BTreeMap<TaskId, TaskRun>,
    pub(super) attempts: BTreeMap<(TaskId, Attempt), AttemptRecord>,
    /// Counts up with every run, whatever its pipeline.
    pub(super) serial: usize,
    /// The epoch of the last lease; 0 before the first.
    pub(super) epoch: u64,
    pub(super) lease: Option<Holder>,
}

/// Who has the lease, and how long.
#[derive(Clone)]
pub(super) struct Holder {
    pub(super) owner: String,
    pub(super) until: Timestamp,
}

impl RunEntry {
    pub(super) fn snapshot(&self) -> RunSnapshot {
        RunSnapshot { run: self.run.clone(), spec: self.spec.clone(), tasks: self.tasks.clone() }
    }

    pub(super) fn is_active(&self) -> bool {
        !self.run.state.is_complete()
    }
}

impl State {
    pub(super) fn add_pipeline(
        &mut self,
        namespace: &NamespaceId,
        spec: PipelineSpec,
        enabled: bool,
    ) -> Version {
        let empty = || PipelineEntry {
            enabled,
            versions: Vec::new(),
            last_run: 0,
            idempotency_keys: BTreeMap::new(),
        };
        let pipeline =
            self.pipelines.entry((namespace.clone(), spec.name.clone())).or_insert_with(empty);
        pipeline.enabled = enabled;
        pipeline.versions.push(Arc::new(spec));
        Version(pipeline.versions.len() as u64)
    }

    pub(super) fn run(&self, key: &RunKey) -> Result<&RunEntry, JournalError> {
        self.runs
            .get(key)
            .ok_or_else(|| JournalError::NotFound { what: Resource::Run, key: key.to_string() })
    }

    pub(super) fn run_mut(&mut self, key: &RunKey) -> Result<&mut RunEntry, JournalError> {
        self.runs
            .get_mut(key)
            .ok_or_else(|| JournalError::NotFound { what: Resource::Run, key: key.to_string() })
    }

    pub(super) fn attempt_mut(&mut self, id: &ExecutionId) -> Option<&mut AttemptRecord> {
        self.runs.get_mut(&id.run)?.attempts.get_mut(&(id.task.clone(), id.attempt))
    }

    /// Every run, oldest first.
    pub(super) fn runs_by_age(&self) -> impl Iterator<Item = &RunEntry> {
        let mut runs: Vec<&RunEntry> = self.runs.values().collect();
        runs.sort_by_key(|entry| entry.serial);
        runs.into_iter()
    }

    /// The runs of a pipeline that are not complete, oldest first.
    pub(super) fn active_runs<'a>(
        &'a self,
        namespace: &'a NamespaceId,
        pipeline: &'a PipelineId,
    ) -> impl Iterator<Item = &'a RunEntry> {
        let of_pipeline = |entry: &&RunEntry| {
            entry.run.key.namespace == *namespace
                && entry.run.key.pipeline == *pipeline
                && entry.is_active()
        };
        self.runs_by_age().filter(of_pipeline)
    }

    /// The latest version of a pipeline that exists.
    pub(super) fn latest_spec(
        &self,
        namespace: &NamespaceId,
        pipeline: &PipelineId,
    ) -> &PipelineSpec {
        let pipeline = self.pipelines.get(&(namespace.clone(), pipeline.clone()));
        let latest = pipeline.and_then(|pipeline| pipeline.versions.last());
        latest.expect("a pipeline has a version from the start, and none is ever removed")
    }

    /// How many runs of the pipeline may be running.
    pub(super) fn parallelism(
        &self,
        namespace: &NamespaceId,
        pipeline: &PipelineId,
    ) -> Option<usize> {
        self.latest_spec(namespace, pipeline).parallelism.map(|limit| limit as usize)
    }

    /// How many runs of the pipeline are in state `Running`.
    pub(super) fn running(&self, namespace: &NamespaceId, pipeline: &PipelineId) -> usize {
        let running = |entry: &&RunEntry| entry.run.state == RunState::Running;
        self.active_runs(namespace, pipeline).filter(running).count()
    }

    /// Greater than that of every run there ever was.
    pub(super) fn next_serial(&self) -> usize {
        self.pipelines
            .values()
            .map(|pipeline| usize::try_from(pipeline.last_run).unwrap_or(usize::MAX))
            .sum()
    }

    /// What is committed from now on.
    pub(super) fn subscribe_hints(&mut self) -> BoxStream<'static, Hint> {
        let (sender, receiver) = mpsc::channel(HINTS);
        self.followers.push(sender);
        receiver.boxed()
    }

    pub(super) fn publish_hint(&mut self, hint: &Hint) {
        // Dropping the sender of one that is too far behind ends its stream.
        self.followers.retain_mut(|follower| follower.try_send(hint.clone()).is_ok());
    }

    /// Numbers the event.
    pub(super) fn record(&mut self, body: NewEvent) {
        for hint in Hint::of([&body]) {
            self.publish_hint(&hint);
        }
        let id = self.events.len() as u64 + 1;
        self.events.push(Event { id, body });
    }

    /// Records what happened to a run, or to one task of it.
    pub(super) fn record_of_run(
        &mut self,
        key: &RunKey,
        task: Option<&TaskId>,
        at: Timestamp,
        actor: &str,
        details: EventDetails,
    ) {
        let subject = Subject::of_task(key, task);
        self.record(NewEvent { at, actor: actor.to_owned(), subject, details });
    }
}
