//! What retention should delete, and what it has deleted.

use gofer_core::Resource;
use gofer_core::entity::ObjectScope;
use gofer_core::event::{ACTOR, EventDetails, NewEvent, Subject};
use gofer_core::id::{NamespaceId, PipelineId, RunKey, RunNumber, SecretPath};
use gofer_core::journal::{
    Expirable, JournalError, MAX_RUN_MASK_BYTES, MAX_RUN_MASKS, Retention, RunMask, TooManyMasks,
};
use gofer_core::run::{AttemptRecord, LogState};
use gofer_core::time::Timestamp;

use super::state::{ObjectId, RunEntry, State, object_id};

impl State {
    pub(super) fn expirable(&self, policy: &Retention, limit: usize) -> Vec<Expirable> {
        let attempts = self.attempts_by_age().into_iter();
        let old = attempts.filter(|(id, record)| {
            record.ended_at < policy.logs_before || self.expires(&id.run, policy)
        });

        let logs = old
            .filter(|(_, record)| record.log == LogState::Archived)
            .map(|(id, _)| Expirable::Log(id));
        let objects =
            self.objects.iter().filter_map(|((namespace, pipeline, run, key), record)| {
                let run = RunKey {
                    namespace: namespace.clone(),
                    pipeline: pipeline.clone(),
                    run: (*run)?,
                };

                let expires = self.is_old_run(&run, policy.run_objects_keep_runs)
                    || self.expires(&run, policy);
                expires.then(|| Expirable::RunObject {
                    run,
                    key: key.clone(),
                    location: record.location.clone(),
                })
            });

        let masks = self
            .masks
            .iter()
            .filter(|(key, _)| !self.needs_masks(key))
            .flat_map(|(_, of_run)| of_run.keys());
        let masks = masks.map(|location| Expirable::RunMask { location: location.clone() });
        let runs =
            self.runs.keys().filter(|key| self.expires(key, policy) && !self.holds_bytes(key));
        let runs = runs.map(|RunKey { namespace, pipeline, run }| Expirable::Runs {
            namespace: namespace.clone(),
            pipeline: pipeline.clone(),
            runs: vec![*run],
        });

        logs.chain(objects).chain(masks).chain(runs).take(limit).collect()
    }

    fn needs_masks(&self, key: &RunKey) -> bool {
        let needs = |entry: &RunEntry| {
            entry.is_active() || entry.attempts.values().any(|one| one.log.is_unsettled())
        };
        self.runs.get(key).is_some_and(needs)
    }

    pub(super) fn add_run_mask(&mut self, mask: RunMask) -> Result<(), JournalError> {
        let RunMask { run: key, location, size_bytes, actor, at } = mask;
        if !self.run(&key)?.is_active() {
            return Err(JournalError::NotFound { what: Resource::Run, key: key.to_string() });
        }

        let known = self.masks.entry(key.clone()).or_default();
        if known.contains_key(&location) {
            return Ok(());
        }

        if known.len() >= MAX_RUN_MASKS
            || known.values().sum::<u64>() + size_bytes > MAX_RUN_MASK_BYTES
        {
            return Err(TooManyMasks { run: key }.into());
        }

        known.insert(location, size_bytes);
        self.record_of_run(&key, None, at, &actor, EventDetails::ValueMasked {});
        Ok(())
    }

    pub(super) fn run_masks(&self, key: &RunKey) -> Vec<SecretPath> {
        self.masks.get(key).into_iter().flat_map(|known| known.keys().cloned()).collect()
    }

    /// Whether the run is old enough, or has enough newer ones, and no unfinished run repeats it.
    fn expires(&self, key: &RunKey, policy: &Retention) -> bool {
        let Some(entry) = self.runs.get(key) else { return false };
        let is_old = entry.run.ended_at.is_some_and(|ended_at| ended_at < policy.runs_before);
        let mut unfinished = self.active_runs(&key.namespace, &key.pipeline);
        (is_old || self.is_old_run(key, policy.keep_runs))
            && !entry.is_active()
            && !unfinished.any(|other| other.run.retry_of == Some(key.run))
    }

    /// Whether a store or the scheduler still holds something of the run.
    fn holds_bytes(&self, key: &RunKey) -> bool {
        let of_run = |(namespace, pipeline, run, _): &ObjectId| {
            *namespace == key.namespace && *pipeline == key.pipeline && *run == Some(key.run)
        };
        let log =
            |record: &AttemptRecord| record.log.is_unsettled() || record.log == LogState::Archived;
        self.objects.keys().any(of_run)
            || self.runs.get(key).is_some_and(|entry| entry.attempts.values().any(log))
    }

    /// Whether the run is complete and as many newer runs of its pipeline exist as are kept.
    fn is_old_run(&self, key: &RunKey, keep: u64) -> bool {
        let newest = self
            .pipelines
            .get(&(key.namespace.clone(), key.pipeline.clone()))
            .map_or(0, |p| p.last_run);
        let complete = self.runs.get(key).is_none_or(|entry| !entry.is_active());
        complete && newest.saturating_sub(key.run.0) >= keep
    }

    pub(super) fn expired(&mut self, what: &Expirable, at: Timestamp) {
        match what {
            Expirable::Log(id) => {
                let subject = Subject::of_execution(id);
                let event = NewEvent {
                    at,
                    actor: ACTOR.to_owned(),
                    subject,
                    details: EventDetails::LogExpired {},
                };
                self.set_log_state(id, LogState::Archived, LogState::Expired, Some(event));
            }
            Expirable::RunObject { run, key, location } => {
                let (namespace, pipeline) = (run.namespace.clone(), run.pipeline.clone());
                let id = object_id(&ObjectScope { namespace, pipeline, run: Some(run.run) }, key);
                if self.objects.get(&id).is_some_and(|record| record.location == *location) {
                    self.objects.remove(&id);
                    self.record_of_run(
                        run,
                        None,
                        at,
                        ACTOR,
                        EventDetails::RunObjectsExpired { count: 1 },
                    );
                }
            }
            Expirable::RunMask { location } => {
                for of_run in self.masks.values_mut() {
                    of_run.remove(location);
                }
            }
            Expirable::Runs { namespace, pipeline, runs } => {
                self.expire_runs(namespace, pipeline, runs, at)
            }
            // What the API or an administrator makes, in a database; nothing here expires.
            Expirable::Upload { .. }
            | Expirable::SecretValue { .. }
            | Expirable::Versions { .. }
            | Expirable::Events { .. } => {}
        }
    }

    fn expire_runs(
        &mut self,
        namespace: &NamespaceId,
        pipeline: &PipelineId,
        runs: &[RunNumber],
        at: Timestamp,
    ) {
        let key = |run: RunNumber| RunKey {
            namespace: namespace.clone(),
            pipeline: pipeline.clone(),
            run,
        };
        let gone: Vec<RunNumber> =
            runs.iter().copied().filter(|run| self.runs.remove(&key(*run)).is_some()).collect();
        if let Some(last) = gone.iter().max() {
            let (namespace, pipeline) = (Some(namespace.clone()), Some(pipeline.clone()));
            let subject = Subject { namespace, pipeline, ..Subject::default() };
            let details = EventDetails::RunsExpired { count: gone.len() as u64, last: *last };
            self.record(NewEvent { at, actor: ACTOR.to_owned(), subject, details });
        }
    }
}
