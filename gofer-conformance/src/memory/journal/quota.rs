//! What namespaces may use, and who shares it.

use std::collections::BTreeSet;
use std::time::Duration;

use gofer_core::admission::ActiveRuns;
use gofer_core::id::NamespaceId;
use gofer_core::journal::{Cluster, NewRun};
use gofer_core::quota::{QuotaExceeded, QuotaKind, Quotas, SMALL_RUN_BYTES, minute, run_bytes};
use gofer_core::run::{Run, RunState};
use gofer_core::time::Timestamp;

use super::state::State;

impl State {
    pub(super) fn limit(&self, namespace: &NamespaceId, quota: QuotaKind) -> u64 {
        let own = self.overrides.get(namespace).cloned().unwrap_or_default();
        Quotas::default().with(&own).get(quota)
    }

    /// Whether there is room for one more that does not begin at once, or with `begins` for one
    /// that does.
    pub(super) fn admit_run(&self, new: &NewRun, begins: bool) -> Result<(), QuotaExceeded> {
        let namespace = &new.namespace;
        let check = |quota: QuotaKind, used, wanted| {
            quota.admit(namespace, self.limit(namespace, quota), used, wanted)
        };

        let of_namespace = || {
            self.runs.values().map(|entry| &entry.run).filter(|run| run.key.namespace == *namespace)
        };

        let this_minute = || of_namespace().filter(|run| minute(run.created_at) == minute(new.at));

        check(QuotaKind::RunsPerMinute, this_minute().count() as u64, 1)?;
        let bytes = run_bytes(&new.variables);
        if bytes > SMALL_RUN_BYTES {
            let used = this_minute().map(|run| run_bytes(&run.variables)).sum();
            check(QuotaKind::RunBytesPerMinute, used, bytes)?;
        }

        if begins {
            return Ok(());
        }

        let waiting = |run: &&Run| run.state == RunState::Pending;
        check(QuotaKind::PendingRuns, of_namespace().filter(waiting).count() as u64, 1)
    }

    /// How many runs of the namespace are running, and may be.
    pub(super) fn active_runs_of(&self, namespace: &NamespaceId) -> ActiveRuns {
        let running =
            |run: &&Run| run.key.namespace == *namespace && run.state == RunState::Running;
        let limit = self.limit(namespace, QuotaKind::ActiveRuns);
        ActiveRuns {
            running: self.runs.values().map(|entry| &entry.run).filter(running).count(),
            limit: usize::try_from(limit).unwrap_or(usize::MAX),
        }
    }

    pub(super) fn heartbeat(&mut self, owner: &str, now: Timestamp, ttl: Duration) -> Cluster {
        let until = self.servers.entry(owner.to_owned()).or_insert(now);
        *until = (*until).max(now.after(ttl));
        self.servers.retain(|_, until| *until > now);

        let executions_of =
            |(namespace, own): (&NamespaceId, &gofer_core::quota::QuotaOverrides)| {
                Some((namespace.clone(), *own.get(&QuotaKind::Executions)?))
            };

        let namespaces: BTreeSet<&NamespaceId> =
            self.pipelines.keys().map(|(namespace, _)| namespace).collect();
        Cluster {
            servers: self.servers.len(),
            namespaces: namespaces.len(),
            executions: Quotas::default().get(QuotaKind::Executions),
            executions_of: self.overrides.iter().filter_map(executions_of).collect(),
        }
    }
}
