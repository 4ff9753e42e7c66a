//! What retention should delete, and what it has deleted.

use super::state::{ENGINE, State, object_id};
use crate::entity::ObjectScope;
use crate::event::{EventDetails, NewEvent, Subject};
use crate::id::RunKey;
use crate::journal::{Expirable, Retention};
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
        logs.chain(objects).take(limit).collect()
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
            // Uploads and puts of secrets are begun by the API, in a database; nothing begins one here.
            Expirable::Upload { .. } | Expirable::SecretValue { .. } => {}
        }
    }
}
