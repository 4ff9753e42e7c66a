//! The scheduler: from an evaluation to allocations, or to the reason why there are none.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::state::{Alloc, Name, State, is_terminal, now, text, uuid};
use super::{Inner, runner};

/// Makes an evaluation for a job, and has it processed.
pub(super) fn evaluate(inner: &Arc<Inner>, name: &Name, reason: &str) -> String {
    let id = inner.change(|state| {
        let index = state.next_index();
        let (id, event) = new_eval(state, index, name, reason);
        state.publish(index, vec![event]);
        id
    });
    process_later(inner, &id);
    id
}

/// Makes an evaluation at an index; returns its ID and its event.
pub(super) fn new_eval(
    state: &mut State,
    index: u64,
    name: &Name,
    reason: &str,
) -> (String, Value) {
    let id = uuid();
    let kind = state.jobs.get(name).map_or_else(|| json!("batch"), |job| job.spec["Type"].clone());
    let eval = json!({
        "ID": id, "Namespace": name.0, "JobID": name.1, "Type": kind, "TriggeredBy": reason, "Priority": 50,
        "Status": "pending", "CreateTime": now(), "ModifyTime": now(), "BlockedEval": "", "FailedTGAllocs": null,
    });
    let event = state.put_eval(index, eval);
    (id, event)
}

/// Processes an evaluation as soon as there is a leader.
pub(super) fn process_later(inner: &Arc<Inner>, eval: &str) {
    let (inner, eval) = (inner.clone(), eval.to_owned());
    tokio::spawn(async move {
        let mut changed = inner.changed.subscribe();
        while inner.fault(|faults| faults.no_leader) {
            if changed.changed().await.is_err() {
                return;
            }
        }
        for alloc in inner.change(|state| process(state, &eval)) {
            tokio::spawn(runner::run(inner.clone(), alloc));
        }
        super::jobs::collect(&inner);
    });
}

/// Tries again what waits for a place.
pub(super) fn unblock(inner: &Arc<Inner>) {
    let blocked = inner.read(|state| {
        let blocked = state.evals.values().filter(|eval| eval["Status"] == "blocked");
        blocked.map(|eval| text(&eval["ID"])).collect::<Vec<_>>()
    });
    for eval in blocked {
        process_later(inner, &eval);
    }
}

/// Returns the allocations to run.
fn process(state: &mut State, eval_id: &str) -> Vec<String> {
    let Some(eval) = state.evals.get(eval_id) else { return Vec::new() };
    if eval["Status"] != "pending" && eval["Status"] != "blocked" {
        return Vec::new();
    }

    let name = (text(&eval["Namespace"]), text(&eval["JobID"]));
    let job = state.jobs.get(&name).map(|job| job.spec.clone()).filter(|job| job["Stop"] != true);
    let index = state.next_index();
    let mut events = Vec::new();
    let Some(job) = job else {
        for id in live(state, &name) {
            let alloc = &state.allocs[&id];
            let lost = !state.reaches(&alloc.value)
                && !keeps_waiting(&alloc.value, &alloc.job["TaskGroups"][0]);
            events.push(state.put_alloc(index, "PlanResult", &id, |alloc| {
                stop(alloc, "alloc not needed as job is stopped");
                if lost {
                    alloc["ClientStatus"] = json!("lost");
                }
            }));
        }

        close_evals(state, index, &name, &mut events);
        state.publish(index, events);
        return Vec::new();
    };

    let wanted = placements(state, index, &name, &job, &mut events);
    let mut placed = Vec::new();
    let mut failed: Option<Value> = None;

    for previous in wanted {
        match fit(state, &job) {
            Ok(node) => {
                let (id, event) = place(state, index, eval_id, &job, &node, previous.as_deref());
                events.push(event);
                placed.push(id);
            }
            Err(metric) => failed = Some(metric),
        }
    }

    finish(state, index, eval_id, &name, failed, &mut events);
    state.publish(index, events);
    placed
}

/// What an evaluation becomes: complete, or blocked when something found no place.
fn finish(
    state: &mut State,
    index: u64,
    eval_id: &str,
    name: &Name,
    failed: Option<Value>,
    events: &mut Vec<Value>,
) {
    let mut eval = state.evals[eval_id].clone();
    let Some(metric) = failed else {
        eval["Status"] = json!("complete");
        events.push(state.put_eval(index, eval));
        return;
    };

    let group = text(&state.jobs[name].spec["TaskGroups"][0]["Name"]);
    eval["FailedTGAllocs"] = json!({group: metric});
    if eval["Status"] == "blocked" {
        events.push(state.put_eval(index, eval));
        return;
    }

    let (blocked, _) = new_eval(state, index, name, "queued-allocs");
    let mut waiting = state.evals[&blocked].clone();
    waiting["Status"] = json!("blocked");
    waiting["PreviousEval"] = json!(eval_id);
    waiting["FailedTGAllocs"] = eval["FailedTGAllocs"].clone();
    eval["Status"] = json!("complete");
    eval["BlockedEval"] = json!(blocked);
    events.push(state.put_eval(index, eval));
    events.push(state.put_eval(index, waiting));
}

fn close_evals(state: &mut State, index: u64, name: &Name, events: &mut Vec<Value>) {
    let open = |eval: &&Value| eval["Status"] == "pending" || eval["Status"] == "blocked";
    let evals: Vec<Value> = state.evals_of(name).into_iter().filter(open).cloned().collect();
    for mut eval in evals {
        eval["Status"] = json!(if eval["Status"] == "blocked" { "canceled" } else { "complete" });
        events.push(state.put_eval(index, eval));
    }
}

/// The allocations that are to be placed; of each, the one it replaces. Marks what was lost or is
/// no longer wanted.
fn placements(
    state: &mut State,
    index: u64,
    name: &Name,
    job: &Value,
    events: &mut Vec<Value>,
) -> Vec<Option<String>> {
    let group = &job["TaskGroups"][0];
    let all = state.allocs_of(name);
    let mut wanted = Vec::new();
    let mut have = 0;

    for id in &all {
        let alloc = &state.allocs[id];
        let value = alloc.value.clone();
        let replaced = value["NextAllocation"].as_str().is_some_and(|next| !next.is_empty());
        let same_version = !differs(&alloc.job, job);
        if replaced {
            continue;
        }

        let over = is_terminal(&value) || value["DesiredStatus"] != "run";
        if !over && state.reaches(&value) {
            if same_version {
                state.allocs.get_mut(id).expect("known").job = job.clone();
                have += 1;
            } else {
                events.push(state.put_alloc(index, "PlanResult", id, |alloc| {
                    stop(alloc, "alloc is being updated due to job update");
                }));
                wanted.push(Some(id.clone()));
            }
        } else if !over && keeps_waiting(&value, group) {
            if value["ClientStatus"] != "unknown" {
                events.push(state.put_alloc(index, "PlanResult", id, |alloc| {
                    alloc["ClientStatus"] = json!("unknown");
                    remember(alloc, "unknown");
                    alloc["ClientDescription"] =
                        json!("alloc is unknown since its node is disconnected");
                }));
            }
            have += 1;
        } else if !over {
            events.push(state.put_alloc(index, "PlanResult", id, |alloc| {
                stop(alloc, "alloc is lost since its node is down");
                alloc["ClientStatus"] = json!("lost");
            }));
            wanted.push(Some(id.clone()));
        } else if job["Type"] == "service" && same_version {
            // A service's allocation that ended by itself is placed anew.
            if value["DesiredStatus"] == "run" {
                wanted.push(Some(id.clone()));
            }
        } else if same_version {
            // A batch allocation that ran to its end, well or badly, is not placed again, nor is
            // one that was drained.
            have += 1;
        }
    }

    let count = usize::try_from(group["Count"].as_u64().unwrap_or(1)).expect("a small count");
    while have + wanted.len() < count {
        wanted.push(None);
    }

    wanted
}

/// Whether a running allocation on a disconnected node is waited for.
fn keeps_waiting(alloc: &Value, group: &Value) -> bool {
    let waits = group["Disconnect"]["LostAfter"].as_u64().unwrap_or(0) > 0;
    waits && alloc["DisconnectExpired"] != true && alloc["ClientStatus"] != "pending"
}

/// Keeps a client status that a node's loss or return brought about.
pub(super) fn remember(alloc: &mut Value, status: &str) {
    let state = json!({"Field": 0, "Value": status, "Time": now()});
    match alloc["AllocStates"].as_array_mut() {
        Some(states) => states.push(state),
        None => alloc["AllocStates"] = json!([state]),
    }
}

fn stop(alloc: &mut Value, description: &str) {
    alloc["DesiredStatus"] = json!("stop");
    alloc["DesiredDescription"] = json!(description);
}

fn live(state: &State, name: &Name) -> Vec<String> {
    let live = |id: &String| {
        let alloc = &state.allocs[id].value;
        !is_terminal(alloc) && alloc["DesiredStatus"] == "run"
    };
    state.allocs_of(name).into_iter().filter(live).collect()
}

/// Whether the tasks of a job changed so that they must be started anew.
fn differs(old: &Value, new: &Value) -> bool {
    const IN_PLACE: [&str; 3] = ["KillTimeout", "KillSignal", "ShutdownDelay"];

    let essence = |job: &Value| {
        let mut group = job["TaskGroups"][0].clone();
        if let Some(tasks) = group["Tasks"].as_array_mut() {
            for task in tasks {
                for field in IN_PLACE {
                    task.as_object_mut().map(|task| task.remove(field));
                }
            }
        }

        (
            group["Tasks"].clone(),
            group["EphemeralDisk"].clone(),
            job["Meta"].clone(),
            group["Meta"].clone(),
        )
    };

    essence(old) != essence(new)
}

/// The node for one more allocation, or why there is none.
fn fit(state: &State, job: &Value) -> Result<String, Value> {
    let group = &job["TaskGroups"][0];
    let tasks = group["Tasks"].as_array().map_or(&[][..], Vec::as_slice);
    let sum = |field: &str| {
        tasks.iter().map(|task| task["Resources"][field].as_u64().unwrap_or(0)).sum::<u64>()
    };

    let (memory, cpu) = (sum("MemoryMB"), sum("CPU"));
    let (mut filtered, mut exhausted) =
        (BTreeMap::<String, u64>::new(), BTreeMap::<String, u64>::new());
    let mut evaluated = 0;
    let pool = job["NodePool"] == "default" || job["NodePool"] == "all";

    for (id, node) in state.nodes.iter().filter(|(_, node)| pool && node.connected && node.eligible)
    {
        evaluated += 1;
        if let Some(rule) = broken_constraint(job, &node.name) {
            *filtered.entry(rule).or_default() += 1;
            continue;
        }

        if tasks.iter().any(|task| !node.drivers.contains(&text(&task["Driver"]))) {
            *filtered.entry("missing drivers".to_owned()).or_default() += 1;
            continue;
        }

        let here = |alloc: &&Alloc| {
            alloc.value["NodeID"] == id.as_str()
                && !is_terminal(&alloc.value)
                && alloc.value["DesiredStatus"] == "run"
        };

        let used = |field: &str| {
            let of = |alloc: &Alloc| {
                let tasks =
                    alloc.job["TaskGroups"][0]["Tasks"].as_array().cloned().unwrap_or_default();
                tasks.iter().map(|task| task["Resources"][field].as_u64().unwrap_or(0)).sum::<u64>()
            };
            state.allocs.values().filter(here).map(of).sum::<u64>()
        };

        if used("CPU") + cpu > node.cpu_mhz {
            *exhausted.entry("cpu".to_owned()).or_default() += 1;
        } else if used("MemoryMB") + memory > node.memory_mb {
            *exhausted.entry("memory".to_owned()).or_default() += 1;
        } else {
            return Ok(id.clone());
        }
    }

    Err(json!({
        "NodesEvaluated": evaluated, "NodesFiltered": filtered.values().sum::<u64>(), "NodesInPool": evaluated,
        "NodePool": job["NodePool"], "NodesAvailable": {"dc1": evaluated}, "ClassFiltered": null,
        "ConstraintFiltered": nonempty(&filtered), "NodesExhausted": exhausted.values().sum::<u64>(),
        "ClassExhausted": null, "DimensionExhausted": nonempty(&exhausted), "QuotaExhausted": null,
        "ResourcesExhausted": null, "Scores": null, "AllocationTime": 20_000, "CoalescedFailures": 0,
    }))
}

fn nonempty(counts: &BTreeMap<String, u64>) -> Value {
    if counts.is_empty() { Value::Null } else { json!(counts) }
}

/// The first constraint that a node does not meet, in Nomad's words. Nodes have a kernel and a
/// name.
fn broken_constraint(job: &Value, node: &str) -> Option<String> {
    let group = &job["TaskGroups"][0];
    let of = |value: &Value| value["Constraints"].as_array().cloned().unwrap_or_default();
    let tasks = group["Tasks"].as_array().cloned().unwrap_or_default();
    let all = of(job).into_iter().chain(of(group)).chain(tasks.iter().flat_map(of));
    let mut broken = all.filter(|rule| {
        let right = text(&rule["RTarget"]);
        match rule["LTarget"].as_str() {
            Some("${attr.kernel.name}") => right != "linux",
            Some("${node.unique.name}") => right != node,
            _ => true,
        }
    });

    let operand = |rule: &Value| Some(text(&rule["Operand"])).filter(|text| !text.is_empty());
    broken.next().map(|rule| {
        let operand = operand(&rule).unwrap_or_else(|| "=".to_owned());
        format!("{} {operand} {}", text(&rule["LTarget"]), text(&rule["RTarget"]))
    })
}

fn place(
    state: &mut State,
    index: u64,
    eval: &str,
    job: &Value,
    node: &str,
    previous: Option<&str>,
) -> (String, Value) {
    let id = uuid();
    let group = &job["TaskGroups"][0];
    let value = json!({
        "ID": id, "EvalID": eval, "Name": format!("{}.{}[0]", text(&job["ID"]), text(&group["Name"])),
        "Namespace": job["Namespace"], "NodeID": node, "NodeName": state.nodes[node].name, "JobID": job["ID"],
        "JobType": job["Type"], "JobVersion": job["Version"], "TaskGroup": group["Name"],
        "DesiredStatus": "run", "DesiredDescription": "", "DesiredTransition": {},
        "ClientStatus": "pending", "ClientDescription": "", "TaskStates": null,
        "AllocStates": null, "PreviousAllocation": previous.unwrap_or_default(), "NextAllocation": "", "FollowupEvalID": "",
        "RescheduleTracker": null, "PreemptedByAllocation": "", "PreemptedAllocations": null,
        "CreateIndex": index, "CreateTime": now(),
    });

    state
        .allocs
        .insert(id.clone(), Alloc { before: value.clone(), value, job: job.clone(), unsent: None });
    if let Some(previous) = previous {
        state.put_alloc(index, "PlanResult", previous, |alloc| alloc["NextAllocation"] = json!(id));
    }

    let event = state.put_alloc(index, "PlanResult", &id, |_| {});
    (id, event)
}
