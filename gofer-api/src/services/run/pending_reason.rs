//! Why a pending run waits: found when somebody looks, so that waiting costs no write.

use std::collections::HashMap;

use gofer_core::quota::{QuotaKind, QuotaUse};
use gofer_core::run::{Reason, ReasonKind, Run, RunState};
use gofer_core::{NamespaceId, PipelineId, Timestamp};
use gofer_db::PipelineRoom;

use crate::error::ApiError;
use crate::rpc::call::Call;

/// Gives each pending run its reason.
pub(super) async fn explain(call: &Call, runs: &mut [Run]) -> Result<(), ApiError> {
    let stats = call.engine.stats();
    let mut rooms: HashMap<(NamespaceId, PipelineId), PipelineRoom> = HashMap::new();
    let mut quotas: HashMap<NamespaceId, QuotaUse> = HashMap::new();

    for run in runs.iter_mut().filter(|run| run.state == RunState::Pending) {
        let pipeline = (run.key.namespace.clone(), run.key.pipeline.clone());
        if !rooms.contains_key(&pipeline) {
            rooms.insert(pipeline.clone(), call.db.pipeline_room(&pipeline.0, &pipeline.1).await?);
        }

        if !quotas.contains_key(&pipeline.0) {
            let quota =
                call.db.quota_get(&pipeline.0, QuotaKind::ActiveRuns, Timestamp::now()).await?;
            quotas.insert(pipeline.0.clone(), quota);
        }

        let beyond_quota = match &quotas[&pipeline.0] {
            quota if quota.used >= quota.limit && run.cancel.is_none() => {
                Some(of_quota(&pipeline.0, quota))
            }
            _ => None,
        };

        let why =
            why(&rooms[&pipeline], run.cancel.is_some(), stats.active_runs, stats.max_active_runs);
        run.reason = Some(Reason::new(ReasonKind::Waiting, beyond_quota.unwrap_or(why)));
    }

    Ok(())
}

fn of_quota(namespace: &NamespaceId, quota: &QuotaUse) -> String {
    let QuotaUse { quota, limit, used, .. } = quota;
    format!("waiting: {used} of {limit} active runs of namespace {namespace} (quota `{quota}`)")
}

/// A run that is to be cancelled needs no room: it only has to be claimed.
fn why(room: &PipelineRoom, is_cancelled: bool, active: usize, max_active: usize) -> String {
    match room.parallelism {
        Some(limit) if room.running >= limit && !is_cancelled => {
            format!("waiting: parallelism {} of {limit} in use by {}", room.running, named(room))
        }
        _ if active >= max_active && !is_cancelled => {
            format!(
                "waiting: {active} of {max_active} active runs of this server \
                 (`engine.max_active_runs`)"
            )
        }
        _ => "waiting: no server has claimed it yet".to_owned(),
    }
}

fn named(room: &PipelineRoom) -> String {
    let numbers: Vec<String> = room.oldest.iter().map(ToString::to_string).collect();
    let more = match room.running.saturating_sub(numbers.len() as u64) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("{} {}{more}", if room.running == 1 { "run" } else { "runs" }, numbers.join(", "))
}

#[cfg(test)]
mod tests {
    use gofer_core::RunNumber;

    use super::*;

    fn room(parallelism: Option<u64>, running: u64) -> PipelineRoom {
        let oldest = (41..)
            .take(usize::try_from(running).unwrap().min(PipelineRoom::NAMED))
            .map(RunNumber)
            .collect();
        PipelineRoom { parallelism, running, oldest }
    }

    #[test]
    fn the_bound_that_holds_a_run_up_is_named() {
        let bound = room(Some(2), 2);
        assert_eq!(why(&bound, false, 10, 10), "waiting: parallelism 2 of 2 in use by runs 41, 42");
        assert_eq!(
            why(&room(Some(1), 1), false, 0, 10),
            "waiting: parallelism 1 of 1 in use by run 41"
        );
        let many = "waiting: parallelism 7 of 6 in use by runs 41, 42, 43, 44, 45 and 2 more";
        assert_eq!(why(&room(Some(6), 7), false, 0, 10), many);
        let full = "waiting: 10 of 10 active runs of this server (`engine.max_active_runs`)";
        assert_eq!(why(&room(None, 10), false, 10, 10), full);
        let unclaimed = "waiting: no server has claimed it yet";
        assert_eq!(why(&room(Some(3), 2), false, 2, 10), unclaimed);
        assert_eq!(why(&bound, true, 10, 10), unclaimed, "cancelled, it needs no room");
    }
}
