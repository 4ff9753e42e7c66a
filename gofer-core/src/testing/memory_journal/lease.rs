//! Leases.

use std::collections::BTreeMap;
use std::time::Duration;

use super::state::{ENGINE, Holder, RunEntry, State};
use crate::event::EventDetails;
use crate::id::{NamespaceId, PipelineId, RunKey};
use crate::journal::{ClaimLimit, Lease};
use crate::quota::QuotaKind;
use crate::run::RunState;
use crate::time::Timestamp;

/// Why an unfinished run is claimed.
#[derive(PartialEq, Eq)]
enum Claim {
    /// It runs, and nobody holds it.
    Resume,
    /// It waits, but is to be cancelled: it starts whether or not there is room.
    Cancel,
    /// It waits, and takes one of its pipeline's places if one is free.
    Start,
}

impl Claim {
    fn of(entry: &RunEntry) -> Self {
        match (entry.run.state, &entry.run.cancel) {
            (RunState::Running, _) => Self::Resume,
            (_, Some(_)) => Self::Cancel,
            (_, None) => Self::Start,
        }
    }
}

impl State {
    pub(super) fn claim(
        &mut self,
        owner: &str,
        now: Timestamp,
        ttl: Duration,
        limit: ClaimLimit,
    ) -> Vec<Lease> {
        let free =
            |holder: &Option<Holder>| holder.as_ref().is_none_or(|holder| holder.until <= now);
        let candidates = self.runs_by_age().filter(|entry| entry.is_active() && free(&entry.lease));
        let mut candidates: Vec<(RunKey, Claim)> =
            candidates.map(|entry| (entry.run.key.clone(), Claim::of(entry))).collect();
        let mut leases: Vec<Lease> = Vec::new();

        for how in [Claim::Resume, Claim::Cancel] {
            let found = candidates.iter().filter(|(_, other)| *other == how);
            let chosen: Vec<RunKey> =
                found.take(limit.runs - leases.len()).map(|(key, _)| key.clone()).collect();
            leases.extend(chosen.iter().map(|key| self.take(key, owner, now, ttl)));
        }

        candidates.retain(|(_, how)| *how == Claim::Start);
        let wanted = (limit.runs - leases.len()).min(limit.held.saturating_sub(self.held(owner)));
        for key in self.fairly(candidates.into_iter().map(|(key, _)| key).collect(), wanted) {
            leases.push(self.take(&key, owner, now, ttl));
        }

        leases.sort_by_key(|lease| {
            self.runs.get(&lease.run).map(|entry| (entry.run.created_at, entry.serial))
        });

        leases
    }

    /// The next of these waiting runs, oldest first: always one of the namespace with the fewest
    /// running runs, of those one of the pipeline with the fewest, of those the oldest.
    fn fairly(&self, mut waiting: Vec<RunKey>, wanted: usize) -> Vec<RunKey> {
        let mut of_namespace: BTreeMap<NamespaceId, usize> = BTreeMap::new();
        let mut of_pipeline: BTreeMap<(NamespaceId, PipelineId), usize> = BTreeMap::new();
        let pipeline = |key: &RunKey| (key.namespace.clone(), key.pipeline.clone());

        for entry in self.runs.values().filter(|entry| entry.run.state == RunState::Running) {
            *of_namespace.entry(entry.run.key.namespace.clone()).or_default() += 1;
            *of_pipeline.entry(pipeline(&entry.run.key)).or_default() += 1;
        }

        let mut chosen = Vec::new();
        while chosen.len() < wanted {
            let running = |key: &RunKey| of_pipeline.get(&pipeline(key)).copied().unwrap_or(0);
            let has_room = |key: &RunKey| {
                let limit = self.runs.get(key).and_then(|entry| entry.spec.parallelism);
                limit.is_none_or(|limit| running(key) < limit as usize)
            };

            let within_quota = |key: &RunKey| {
                let running = of_namespace.get(&key.namespace).copied().unwrap_or(0);
                (running as u64) < self.limit(&key.namespace, QuotaKind::ActiveRuns)
            };

            let may =
                waiting.iter().enumerate().filter(|(_, key)| has_room(key) && within_quota(key));
            let turn = |key: &RunKey| {
                (of_namespace.get(&key.namespace).copied().unwrap_or(0), running(key))
            };

            // Of equals the first is taken, which is the oldest.
            let Some((at, _)) = may.min_by_key(|(_, key)| turn(key)) else { break };
            let key = waiting.remove(at);
            *of_namespace.entry(key.namespace.clone()).or_default() += 1;
            *of_pipeline.entry(pipeline(&key)).or_default() += 1;
            chosen.push(key);
        }

        chosen
    }

    pub(super) fn take(
        &mut self,
        key: &RunKey,
        owner: &str,
        now: Timestamp,
        ttl: Duration,
    ) -> Lease {
        let entry = self.runs.get_mut(key).expect("candidates are runs");
        entry.epoch += 1;
        entry.lease = Some(Holder { owner: owner.to_owned(), until: now.after(ttl) });
        let lease = Lease { run: key.clone(), epoch: entry.epoch };
        if entry.run.state == RunState::Pending {
            entry.run.state = RunState::Running;
            entry.run.started_at = Some(now);
            self.record_of_run(key, None, now, ENGINE, EventDetails::RunStarted {});
        }
        lease
    }

    pub(super) fn held(&self, owner: &str) -> usize {
        self.runs
            .values()
            .filter(|entry| entry.lease.as_ref().is_some_and(|holder| holder.owner == owner))
            .count()
    }

    pub(super) fn renew(&mut self, owner: &str, now: Timestamp, ttl: Duration) -> usize {
        let mut renewed = 0;
        for holder in self.runs.values_mut().filter_map(|entry| entry.lease.as_mut()) {
            if holder.owner == owner {
                // A call that was overtaken on its way shortens nothing.
                holder.until = holder.until.max(now.after(ttl));
                renewed += 1;
            }
        }
        renewed
    }

    pub(super) fn lead(&mut self, owner: &str, now: Timestamp, ttl: Duration) -> bool {
        let until = now.after(ttl);
        match &mut self.lead {
            Some(holder) if holder.owner == owner => holder.until = holder.until.max(until),
            Some(holder) if holder.until > now => return false,
            lead => *lead = Some(Holder { owner: owner.to_owned(), until }),
        }
        true
    }

    pub(super) fn release(&mut self, owner: &str) {
        self.servers.remove(owner);
        self.lead.take_if(|holder| holder.owner == owner);
        for entry in self.runs.values_mut() {
            entry.lease.take_if(|holder| holder.owner == owner);
        }
    }
}
