//! New runs.

use std::sync::Arc;

use super::state::{ENGINE, RunEntry, State};
use crate::event::EventDetails;
use crate::id::{RunKey, RunNumber, Version};
use crate::journal::{Claim, Committed, Inserted, JournalError, NewRun};
use crate::pipeline::{Overlap, PipelineSpec};
use crate::resource::Resource;
use crate::run::{
    CancelRequest, Initiator, Reason, ReasonKind, Run, RunState, RunStatus, TaskRun, TaskState,
    TaskStatus,
};
use crate::run_variables;

impl State {
    pub(super) fn insert_run(&mut self, new: NewRun) -> Result<Inserted, JournalError> {
        if let Some(run) = self.known_run(&new) {
            return Ok(Inserted { run, new: false, superseded: Vec::new(), claimed: None });
        }

        let (version, spec) = self.admit(&new)?;
        let parallelism = spec.parallelism.map_or(usize::MAX, |limit| limit as usize);
        let active = self.active_runs(&new.namespace, &new.pipeline).count();
        let skipped = spec.overlap == Overlap::Skip && active >= parallelism;
        let begins = skipped || self.claim_of(&new, &spec).is_some();
        self.admit_run(&new, begins)?;

        let key = self.next_key(&new);
        let superseded = match spec.overlap {
            Overlap::CancelRunning => self.make_room(&new, &key, parallelism),
            Overlap::Queue | Overlap::Skip => Vec::new(),
        };

        let mut entry = new_entry(&new, key.clone(), version, spec.clone(), self.next_serial());
        if skipped {
            complete_as_skipped(&mut entry, &new, parallelism);
        }

        let run = entry.run.clone();
        let claimed = self.claim_of(&new, &spec).filter(|_| run.state == RunState::Pending);
        self.runs.insert(key.clone(), entry);
        self.record_insert(&new, &run);
        self.record_superseded(&superseded, &new, &key);

        let claimed = claimed.map(|claim| {
            let lease = self.take(&key, &claim.owner, new.at, claim.ttl);
            let snapshot = self.runs[&key].snapshot();
            if let Some(commit) = claim.first.and_then(|first| first.of(&lease, &snapshot)) {
                assert_eq!(
                    self.commit(commit),
                    Committed::Done,
                    "the first commit of `{key}` has to hold"
                );
            }

            (lease, snapshot)
        });

        let run = self.runs[&key].run.clone();
        Ok(Inserted { run, new: true, superseded, claimed })
    }

    /// The claim that comes with a new run, if the run need not wait.
    fn claim_of(&self, new: &NewRun, spec: &PipelineSpec) -> Option<Claim> {
        let waits =
            |entry: &RunEntry| entry.run.state == RunState::Pending && entry.run.cancel.is_none();
        let running = || self.running(&new.namespace, &new.pipeline);
        let free = new.retry_of.is_none()
            && !self.active_runs(&new.namespace, &new.pipeline).any(waits)
            && spec.parallelism.is_none_or(|limit| running() < limit as usize)
            && self.may_run_one_more(&new.namespace);
        new.claim.clone().filter(|claim| free && self.held(&claim.owner) < claim.most)
    }

    /// The run that the idempotency key made before.
    fn known_run(&self, new: &NewRun) -> Option<Run> {
        let pipeline = self.pipelines.get(&(new.namespace.clone(), new.pipeline.clone()))?;
        let run = *pipeline.idempotency_keys.get(new.idempotency_key.as_deref()?)?;
        let key = RunKey { namespace: new.namespace.clone(), pipeline: new.pipeline.clone(), run };
        Some(self.runs.get(&key)?.run.clone())
    }

    /// The version that the new run is of, if the pipeline takes runs at all.
    fn admit(&self, new: &NewRun) -> Result<(Version, Arc<PipelineSpec>), JournalError> {
        let name = format!("{}/{}", new.namespace, new.pipeline);
        let Some(pipeline) = self.pipelines.get(&(new.namespace.clone(), new.pipeline.clone()))
        else {
            return Err(JournalError::NotFound { what: Resource::Pipeline, key: name });
        };

        let version = new.version.unwrap_or(Version(pipeline.versions.len() as u64));
        let index = usize::try_from(version.0).unwrap_or(usize::MAX).wrapping_sub(1);
        let Some(spec) = pipeline.versions.get(index) else {
            return Err(JournalError::NotFound {
                what: Resource::PipelineVersion,
                key: format!("{name}@{version}"),
            });
        };

        if !pipeline.enabled {
            return Err(JournalError::Disabled { key: name });
        }

        let refused = run_variables::check(spec, &new.variables);
        if !refused.is_empty() {
            return Err(JournalError::Variables(refused));
        }

        Ok((version, spec.clone()))
    }

    fn next_key(&mut self, new: &NewRun) -> RunKey {
        let pipeline = self.pipelines.get_mut(&(new.namespace.clone(), new.pipeline.clone()));
        let pipeline = pipeline.expect("`admit` has found the pipeline");
        pipeline.last_run += 1;
        let run = RunNumber(pipeline.last_run);
        if let Some(key) = &new.idempotency_key {
            pipeline.idempotency_keys.insert(key.clone(), run);
        }
        RunKey { namespace: new.namespace.clone(), pipeline: new.pipeline.clone(), run }
    }

    /// Asks the oldest active runs to cancel until there is room for one more; those asked before
    /// make room already.
    fn make_room(&mut self, new: &NewRun, newer: &RunKey, parallelism: usize) -> Vec<RunKey> {
        let staying = self
            .active_runs(&new.namespace, &new.pipeline)
            .filter(|entry| entry.run.cancel.is_none());
        let staying: Vec<RunKey> = staying.map(|entry| entry.run.key.clone()).collect();
        let too_many = (staying.len() + 1).saturating_sub(parallelism);
        let superseded: Vec<RunKey> = staying.into_iter().take(too_many).collect();
        for key in &superseded {
            if let Some(entry) = self.runs.get_mut(key) {
                entry.run.cancel = Some(supersede(new, newer));
            }
        }
        superseded
    }

    fn record_insert(&mut self, new: &NewRun, run: &Run) {
        let (Initiator::Token(actor) | Initiator::Trigger(actor)) = &new.initiator;
        let (version, initiator) = (run.version, new.initiator.clone());
        let created = EventDetails::RunCreated { version, initiator, retry_of: new.retry_of };
        self.record_of_run(&run.key, None, new.at, actor, created);
        if let RunState::Complete(status) = run.state {
            let completed = EventDetails::RunCompleted { status, reason: run.reason.clone() };
            self.record_of_run(&run.key, None, new.at, ENGINE, completed);
        }
    }

    fn record_superseded(&mut self, superseded: &[RunKey], new: &NewRun, newer: &RunKey) {
        for key in superseded {
            let CancelRequest { force, message, .. } = supersede(new, newer);
            let requested = EventDetails::RunCancelRequested { force, message };
            self.record_of_run(key, None, new.at, ENGINE, requested);
        }
    }
}

fn supersede(new: &NewRun, newer: &RunKey) -> CancelRequest {
    let message = format!("superseded by run {}", newer.run);
    CancelRequest { at: new.at, by: ENGINE.to_owned(), force: false, message }
}

fn new_entry(
    new: &NewRun,
    key: RunKey,
    version: Version,
    spec: Arc<PipelineSpec>,
    serial: usize,
) -> RunEntry {
    let run = Run {
        key,
        version,
        state: RunState::Pending,
        reason: None,
        initiator: new.initiator.clone(),
        variables: new.variables.clone(),
        retry_of: new.retry_of,
        cancel: None,
        token_nonce: new.token_nonce,
        created_at: new.at,
        started_at: None,
        ended_at: None,
    };

    let task_run = |id: &crate::TaskId| {
        let mut task = TaskRun::pending(id.clone());
        if new.reused.contains(id) {
            let message =
                new.retry_of.map_or_else(String::new, |run| format!("successful in run {run}"));
            complete(
                &mut task,
                new,
                TaskStatus::Successful,
                Reason::new(ReasonKind::Reused, message),
            );
        }

        (id.clone(), task)
    };

    let tasks = spec.tasks.iter().map(|task| task_run(&task.id)).collect();
    RunEntry { run, spec, tasks, attempts: Default::default(), serial, epoch: 0, lease: None }
}

fn complete_as_skipped(entry: &mut RunEntry, new: &NewRun, parallelism: usize) {
    let message = format!("{parallelism} runs were active, as many as `parallelism` allows");
    let reason = Reason::new(ReasonKind::OverlapSkipped, message);
    for task in entry.tasks.values_mut().filter(|task| !task.state.is_complete()) {
        complete(task, new, TaskStatus::Cancelled, reason.clone());
    }
    entry.run.state = RunState::Complete(RunStatus::Cancelled);
    entry.run.reason = Some(reason);
    entry.run.ended_at = Some(new.at);
}

fn complete(task: &mut TaskRun, new: &NewRun, status: TaskStatus, reason: Reason) {
    task.state = TaskState::Complete(status);
    task.reason = Some(reason);
    task.ended_at = Some(new.at);
}
