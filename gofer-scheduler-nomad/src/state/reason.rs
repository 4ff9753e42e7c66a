//! Why an execution waits, in words for the person who waits for it.

use crate::http::types::{Alloc, Evaluation, Job, Metric, Task};
use crate::job::names::MAIN;

/// What the scheduler said last of why the job is not placed; empty when it has said nothing yet.
pub(crate) fn of_placement(job: &Job, evaluations: &[Evaluation]) -> String {
    let latest =
        evaluations.iter().filter(|one| !one.failed.is_empty()).max_by_key(|one| one.modify_index);
    let asked = job.task_groups.first().map(|group| group.tasks.as_slice()).unwrap_or_default();
    match latest.and_then(|one| one.failed.values().next()) {
        Some(metric) => of_metric(metric, asked),
        None => match evaluations.iter().max_by_key(|one| one.create_index) {
            Some(one) if one.status == "failed" => {
                format!("nomad's scheduler gave up and will try again: {}", one.status_description)
            }
            _ => String::new(),
        },
    }
}

/// What the node does with the allocation before its process runs.
pub(crate) fn of_pending(alloc: &Alloc) -> String {
    let on = format!("on node `{}`", alloc.node_name);
    let last = alloc.task_states.get(MAIN).and_then(|task| task.events.last());
    match last {
        Some(event) if !event.display_message.is_empty() => {
            format!("{on}: {}", event.display_message)
        }
        Some(event) => format!("{on}: {}", event.kind.to_lowercase()),
        None => on,
    }
}

fn of_metric(metric: &Metric, tasks: &[Task]) -> String {
    let total = metric.nodes_evaluated;
    if total == 0 {
        let available: Vec<String> = metric
            .nodes_available
            .iter()
            .map(|(name, count)| format!("{count} in `{name}`"))
            .collect();
        let seen = if available.is_empty() {
            String::new()
        } else {
            format!(" (ready: {})", available.join(", "))
        };

        return format!(
            "no node is eligible: none is ready in the job's datacenters and node pool{seen}"
        );
    }

    let mut parts = Vec::new();
    for (constraint, count) in &metric.constraint_filtered {
        parts.push(match constraint.as_str() {
            "missing drivers" => {
                format!("{count} of {total} {} driver {}", lack(*count), drivers(tasks))
            }
            "missing compatible host volumes" => {
                format!("{count} of {total} {} a host volume of the job", lack(*count))
            }
            "missing devices" => format!("{count} of {total} {} a device of the job", lack(*count)),
            other => format!("{count} of {total} {} the constraint `{other}`", fail(*count)),
        });
    }

    for (class, count) in &metric.class_filtered {
        // Nomad counts each of them under its constraint, too.
        if metric.constraint_filtered.is_empty() && !class.is_empty() {
            parts.push(format!("{count} of {total} {} are of class `{class}`", nodes(*count)));
        }
    }

    for (dimension, count) in &metric.dimension_exhausted {
        let sum = |of: fn(&Task) -> i64| tasks.iter().map(of).sum::<i64>();
        let needs = match dimension.as_str() {
            "memory" => format!(" (needs {} MB)", sum(|task| task.resources.memory_mb)),
            "cpu" => format!(" (needs {} MHz)", sum(|task| task.resources.cpu)),
            _ => String::new(),
        };
        let (nodes, are) = (nodes(*count), if *count == 1 { "is" } else { "are" });
        parts.push(format!("{count} of {total} {nodes} {are} out of {dimension}{needs}"));
    }

    for quota in &metric.quota_exhausted {
        parts.push(format!("the quota is used up: {quota}"));
    }

    if parts.is_empty() {
        "no node fits".to_owned()
    } else {
        format!("no node fits: {}", parts.join("; "))
    }
}

fn drivers(tasks: &[Task]) -> String {
    let mut names: Vec<&str> = tasks.iter().map(|task| task.driver.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    names.join(" or ")
}

fn nodes(count: u64) -> &'static str {
    if count == 1 { "node" } else { "nodes" }
}

fn fail(count: u64) -> &'static str {
    if count == 1 { "node fails" } else { "nodes fail" }
}

fn lack(count: u64) -> &'static str {
    if count == 1 { "node lacks" } else { "nodes lack" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job() -> Job {
        serde_json::from_value(serde_json::json!({
            "ID": "gofer-a", "Meta": null, "Stop": null,
            "TaskGroups": [{"Tasks": [{"Driver": "docker", "Resources": {"CPU": 500, "MemoryMB": 4096}}]}],
        }))
        .unwrap()
    }

    fn reason(metric: serde_json::Value) -> String {
        let evaluation = serde_json::json!({"Status": "blocked", "ModifyIndex": 7, "FailedTGAllocs": {"g": metric}});
        of_placement(&job(), &[serde_json::from_value(evaluation).unwrap()])
    }

    #[test]
    fn a_person_learns_what_is_missing() {
        let metric = serde_json::json!({
            "NodesEvaluated": 5, "NodesFiltered": 3, "NodesExhausted": 2, "ClassFiltered": null, "QuotaExhausted": null,
            "ConstraintFiltered": {"missing drivers": 3}, "DimensionExhausted": {"memory": 2},
        });

        assert_eq!(
            reason(metric),
            "no node fits: 3 of 5 nodes lack driver docker; 2 of 5 nodes are out of memory (needs \
             4096 MB)"
        );

        let metric = serde_json::json!({
            "NodesEvaluated": 1, "ConstraintFiltered": {"${attr.cpu.arch} = arm64": 1}, "DimensionExhausted": {"cpu": 1},
        });

        assert_eq!(
            reason(metric),
            "no node fits: 1 of 1 node fails the constraint `${attr.cpu.arch} = arm64`; 1 of 1 \
             node is out of cpu (needs 500 MHz)"
        );
    }

    #[test]
    fn no_node_at_all_is_said_so() {
        let metric = serde_json::json!({"NodesEvaluated": 0, "NodesAvailable": {"dc1": 0}});
        assert_eq!(
            reason(metric),
            "no node is eligible: none is ready in the job's datacenters and node pool (ready: 0 \
             in `dc1`)"
        );
        assert_eq!(of_placement(&job(), &[]), "");
    }

    #[test]
    fn a_pending_allocation_tells_its_last_event() {
        let alloc: Alloc = serde_json::from_value(serde_json::json!({
            "NodeName": "n1", "ClientStatus": "pending",
            "TaskStates": {"main": {"Events": [{"Type": "Received"}, {"Type": "Driver", "DisplayMessage": "Downloading image"}]}},
        }))
        .unwrap();
        assert_eq!(of_pending(&alloc), "on node `n1`: Downloading image");
        assert_eq!(
            of_pending(&Alloc { node_name: "n1".into(), ..Alloc::default() }),
            "on node `n1`"
        );
    }
}
