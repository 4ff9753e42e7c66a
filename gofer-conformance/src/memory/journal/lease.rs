//! Leases.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use gofer_core::admission::{ClaimOrder, WaitingPipeline};
use gofer_core::event::{ACTOR, EventDetails};
use gofer_core::id::{NamespaceId, PipelineId, RunKey};
use gofer_core::journal::{ClaimLimit, Lease};
use gofer_core::run::RunState;
use gofer_core::time::Timestamp;

use super::state::{Holder, RunEntry, State};

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

        leases.sort_by_key(|lease| self.runs.get(&lease.run).map(|entry| entry.serial));
        leases
    }

    /// The runs to start of these that wait, oldest first; at most so many.
    fn fairly(&self, waiting: Vec<RunKey>, wanted: usize) -> Vec<RunKey> {
        let mut queues: BTreeMap<(NamespaceId, PipelineId), VecDeque<RunKey>> = BTreeMap::new();
        for key in waiting {
            let pipeline = (key.namespace.clone(), key.pipeline.clone());
            queues.entry(pipeline).or_default().push_back(key);
        }

        let serial = |queue: &VecDeque<RunKey>| Some(self.runs.get(queue.front()?)?.serial);
        let pipelines = queues.iter().map(|((namespace, pipeline), queue)| WaitingPipeline {
            namespace: namespace.clone(),
            parallelism: self.parallelism(namespace, pipeline),
            running: self.running(namespace, pipeline),
            oldest: serial(queue),
        });
        let active = queues.keys().map(|(name, _)| (name.clone(), self.active_runs_of(name)));
        let mut order = ClaimOrder::new(pipelines.collect(), &active.collect());

        let mut queues: Vec<VecDeque<RunKey>> = queues.into_values().collect();
        let mut chosen = Vec::new();
        while chosen.len() < wanted
            && let Some(at) = order.next()
        {
            chosen.extend(queues[at].pop_front());
            order.claimed(at, serial(&queues[at]));
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
            self.record_of_run(key, None, now, ACTOR, EventDetails::RunStarted {});
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

    pub(super) fn acquire_leadership(
        &mut self,
        owner: &str,
        now: Timestamp,
        ttl: Duration,
    ) -> bool {
        let until = now.after(ttl);
        match &mut self.leadership {
            Some(holder) if holder.owner == owner => holder.until = holder.until.max(until),
            Some(holder) if holder.until > now => return false,
            free => *free = Some(Holder { owner: owner.to_owned(), until }),
        }
        true
    }

    pub(super) fn release(&mut self, owner: &str) {
        self.servers.remove(owner);
        self.leadership.take_if(|holder| holder.owner == owner);
        for entry in self.runs.values_mut() {
            entry.lease.take_if(|holder| holder.owner == owner);
        }
    }
}
