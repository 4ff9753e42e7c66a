//! What retention should delete, and what it has deleted.

use super::state::{ENGINE, RunEntry, State, object_id};
use crate::entity::ObjectScope;
use crate::event::{EventDetails, NewEvent, Subject};
use crate::id::{RunKey, SecretPath};
use crate::journal::{Expirable, JournalError, MAX_RUN_MASK_BYTES, MAX_RUN_MASKS, Retention, RunMask};
use crate::resource::Resource;
use crate::run::LogState;
use crate::time::Timestamp;

impl State {
    pub(super) fn expirable(&self, policy: &Retention, limit: usize) -> Vec<Expirable> {
        let attempts = self.attempts_by_age().into_iter();
        let old = attempts.filter(|(_, record)| record.ended_at < policy.logs_before);
        let logs = old.filter(|(_, record)| record.log == LogState::Archived).map(|(id, _)| Expirable::Log(id));
        let objects = self.objects.iter().filter_map(|((namespace, pipeline, run, key), record)| {
            let run = RunKey { namespace: namespace.clone(), pipeline: pipeline.clone(), run: (*run)? };
            let expires = self.is_old_run(&run, policy.run_objects_keep_runs);
            expires.then(|| Expirable::RunObject { run, key: key.clone(), location: record.location.clone() })
        });
        let masks = self.masks.iter().filter(|(key, _)| !self.needs_masks(key)).flat_map(|(_, of_run)| of_run.keys());
        let masks = masks.map(|location| Expirable::RunMask { location: location.clone() });
        logs.chain(objects).chain(masks).take(limit).collect()
    }

    fn needs_masks(&self, key: &RunKey) -> bool {
        let needs = |entry: &RunEntry| entry.is_active() || entry.attempts.values().any(|one| one.log.is_unsettled());
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
        if known.len() >= MAX_RUN_MASKS || known.values().sum::<u64>() + size_bytes > MAX_RUN_MASK_BYTES {
            return Err(JournalError::TooManyMasks { key: key.to_string() });
        }
        known.insert(location, size_bytes);
        self.record_of_run(&key, None, at, &actor, EventDetails::ValueMasked {});
        Ok(())
    }

    pub(super) fn run_masks(&self, key: &RunKey) -> Vec<SecretPath> {
        self.masks.get(key).into_iter().flat_map(|known| known.keys().cloned()).collect()
    }

    /// Whether the run is complete and as many newer runs of its pipeline exist as are kept.
    fn is_old_run(&self, key: &RunKey, keep: u64) -> bool {
        let newest = self.pipelines.get(&(key.namespace.clone(), key.pipeline.clone())).map_or(0, |p| p.last_run);
        let complete = self.runs.get(key).is_none_or(|entry| !entry.is_active());
        complete && newest.saturating_sub(key.run.0) >= keep
    }

    pub(super) fn expired(&mut self, what: &Expirable, at: Timestamp) {
        match what {
            Expirable::Log(id) => {
                let subject = Subject::of_execution(id);
                let event = NewEvent { at, actor: ENGINE.to_owned(), subject, details: EventDetails::LogExpired {} };
                self.set_log_state(id, LogState::Archived, LogState::Expired, Some(event));
            }
            Expirable::RunObject { run, key, location } => {
                let (namespace, pipeline) = (run.namespace.clone(), run.pipeline.clone());
                let id = object_id(&ObjectScope { namespace, pipeline, run: Some(run.run) }, key);
                if self.objects.get(&id).is_some_and(|record| record.location == *location) {
                    self.objects.remove(&id);
                    self.record_of_run(run, None, at, ENGINE, EventDetails::RunObjectsExpired { count: 1 });
                }
            }
            Expirable::RunMask { location } => {
                for of_run in self.masks.values_mut() {
                    of_run.remove(location);
                }
            }
            // Uploads and puts of secrets are begun by the API, in a database; nothing begins one here.
            Expirable::Upload { .. } | Expirable::SecretValue { .. } => {}
        }
    }
}
