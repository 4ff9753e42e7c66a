//! Leases.

use std::time::Duration;

use super::state::{ENGINE, Holder, State};
use crate::event::EventDetails;
use crate::id::RunKey;
use crate::journal::Lease;
use crate::run::RunState;
use crate::time::Timestamp;

impl State {
    pub(super) fn claim(&mut self, owner: &str, now: Timestamp, ttl: Duration, limit: usize) -> Vec<Lease> {
        let free = |holder: &Option<Holder>| holder.as_ref().is_none_or(|holder| holder.until <= now);
        let candidates = self.runs_by_age().filter(|entry| entry.is_active() && free(&entry.lease));
        let candidates: Vec<RunKey> = candidates.map(|entry| entry.run.key.clone()).collect();
        let mut leases = Vec::new();
        for key in candidates {
            if leases.len() == limit {
                break;
            }
            if self.may_be_taken(&key) {
                leases.push(self.take(&key, owner, now, ttl));
            }
        }
        leases
    }

    /// Whether the run is running already, or its pipeline has room for it, or it only has to be cancelled.
    fn may_be_taken(&self, key: &RunKey) -> bool {
        let Some(entry) = self.runs.get(key) else { return false };
        let admitted = entry.run.state == RunState::Running || entry.run.cancel.is_some();
        admitted || entry.spec.parallelism.is_none_or(|limit| self.running(key) < limit as usize)
    }

    pub(super) fn take(&mut self, key: &RunKey, owner: &str, now: Timestamp, ttl: Duration) -> Lease {
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
        self.lead.take_if(|holder| holder.owner == owner);
        for entry in self.runs.values_mut() {
            entry.lease.take_if(|holder| holder.owner == owner);
        }
    }
}
