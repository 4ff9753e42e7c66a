//! New runs.

use std::sync::Arc;

use gofer_core::Resource;
use gofer_core::admission::{self, ActiveRun, Admission};
use gofer_core::id::{RunKey, RunNumber, Version};
use gofer_core::journal::{Claim, Committed, Inserted, JournalError, NewRun};
use gofer_core::pipeline::PipelineSpec;
use gofer_core::run::{CancelRequest, Run, RunState, TaskRun};
use gofer_core::run_variables;
use gofer_core::time::Timestamp;

use super::state::{PipelineEntry, RunEntry, State};

impl State {
    pub(super) fn insert_run(&mut self, new: NewRun) -> Result<Inserted, JournalError> {
        if let Some(run) = self.known_run(&new) {
            return Ok(Inserted { run, new: false, superseded: Vec::new(), claimed: None });
        }

        let (version, spec) = self.accept(&new)?;
        let (skipped, superseded) = match self.overlap(&new) {
            Admission::Queue => (None, Vec::new()),
            Admission::Skip(reason) => (Some(reason), Vec::new()),
            Admission::Supersede(runs) => (None, runs),
        };
        let claim = self.claim_of(&new).filter(|_| skipped.is_none());
        self.admit_run(&new, skipped.is_some() || claim.is_some())?;

        let key = self.next_key(&new);
        let superseded = self.supersede(&key, superseded, new.at)?;
        let run = Run::created(&new, key.clone(), version, skipped);
        for event in admission::created_events(&new, &run) {
            self.record(event);
        }

        let serial = self.next_serial();
        self.runs.insert(key.clone(), new_entry(&new, run, spec, serial));
        let claimed = claim.map(|claim| {
            let lease = self.take(&key, &claim.owner, new.at, claim.ttl);
            let snapshot = self.runs[&key].snapshot();
            if let Some(commit) = claim.first.and_then(|first| first.of(&lease, &snapshot)) {
                let committed = self.commit(commit);
                assert_eq!(committed, Committed::Done, "the first commit of `{key}` has to hold");
            }

            (lease, snapshot)
        });

        let run = self.runs[&key].run.clone();
        Ok(Inserted { run, new: true, superseded, claimed })
    }

    /// The run that the idempotency key made before.
    fn known_run(&self, new: &NewRun) -> Option<Run> {
        let run = *self.pipeline(new)?.idempotency_keys.get(new.idempotency_key.as_deref()?)?;
        let key = RunKey { namespace: new.namespace.clone(), pipeline: new.pipeline.clone(), run };
        Some(self.runs.get(&key)?.run.clone())
    }

    fn pipeline(&self, new: &NewRun) -> Option<&PipelineEntry> {
        self.pipelines.get(&(new.namespace.clone(), new.pipeline.clone()))
    }

    /// The version that the new run is of, if the pipeline takes it at all.
    fn accept(&self, new: &NewRun) -> Result<(Version, Arc<PipelineSpec>), JournalError> {
        let key = format!("{}/{}", new.namespace, new.pipeline);
        let Some(pipeline) = self.pipeline(new) else {
            return Err(JournalError::NotFound { what: Resource::Pipeline, key });
        };

        if !pipeline.enabled {
            return Err(JournalError::Disabled { key });
        }

        let version = new.version.unwrap_or(Version(pipeline.versions.len() as u64));
        let index = usize::try_from(version.0).unwrap_or(usize::MAX).wrapping_sub(1);
        let Some(spec) = pipeline.versions.get(index) else {
            let key = format!("{key}/{version}");
            return Err(JournalError::NotFound { what: Resource::PipelineVersion, key });
        };

        let refused = run_variables::check(spec, &new.variables);
        if !refused.is_empty() {
            return Err(JournalError::Variables(refused));
        }

        Ok((version, spec.clone()))
    }

    /// What the pipeline's `overlap` makes of the run.
    fn overlap(&self, new: &NewRun) -> Admission {
        let policy = self.latest_spec(&new.namespace, &new.pipeline).overlap;
        let parallelism = self.parallelism(&new.namespace, &new.pipeline);
        let active: Vec<ActiveRun> = self
            .active_runs(&new.namespace, &new.pipeline)
            .map(|RunEntry { run, .. }| ActiveRun {
                run: run.key.run,
                cancelling: run.cancel.is_some(),
            })
            .collect();
        admission::overlap(policy, parallelism, &active)
    }

    /// The claim that comes with a new run, if the run need not wait.
    fn claim_of(&self, new: &NewRun) -> Option<Claim> {
        let parallelism = self.parallelism(&new.namespace, &new.pipeline);
        let in_namespace = self.active_runs_of(&new.namespace);
        let mut active = self.active_runs(&new.namespace, &new.pipeline);

        let free = new.retry_of.is_none()
            && active.all(|entry| entry.run.state == RunState::Running)
            && admission::has_room(parallelism, self.running(&new.namespace, &new.pipeline))
            && in_namespace.running < in_namespace.limit;
        new.claim.clone().filter(|claim| free && self.held(&claim.owner) < claim.most)
    }

    fn next_key(&mut self, new: &NewRun) -> RunKey {
        let pipeline = self.pipelines.get_mut(&(new.namespace.clone(), new.pipeline.clone()));
        let pipeline = pipeline.expect("`accept` has found the pipeline");
        pipeline.last_run += 1;
        let run = RunNumber(pipeline.last_run);

        if let Some(key) = &new.idempotency_key {
            pipeline.idempotency_keys.insert(key.clone(), run);
        }

        RunKey { namespace: new.namespace.clone(), pipeline: new.pipeline.clone(), run }
    }

    /// Asks runs to cancel, to make room for a newer one.
    fn supersede(
        &mut self,
        newer: &RunKey,
        runs: Vec<RunNumber>,
        at: Timestamp,
    ) -> Result<Vec<RunKey>, JournalError> {
        let keys: Vec<RunKey> =
            runs.into_iter().map(|run| RunKey { run, ..newer.clone() }).collect();
        for key in &keys {
            self.request_cancel(key, None, CancelRequest::superseded(newer.run, at))?;
        }
        Ok(keys)
    }
}

fn new_entry(new: &NewRun, run: Run, spec: Arc<PipelineSpec>, serial: usize) -> RunEntry {
    let task_run = |task: &gofer_core::TaskId| match new.retry_of {
        Some(repeated) if new.reused.contains(task) => {
            TaskRun::reused(task.clone(), repeated, new.at)
        }
        _ => run.untouched_task(task.clone()),
    };

    let tasks = spec.tasks.iter().map(|task| (task.id.clone(), task_run(&task.id))).collect();
    RunEntry { run, spec, tasks, attempts: Default::default(), serial, epoch: 0, lease: None }
}
