//! Reading jobs, evaluations and allocations.

use std::sync::Arc;

use serde_json::{Value, json};

use super::Inner;
use super::http::{Answer, Call, Failure, Reply};
use super::placement;
use super::state::{Alloc, Name, text};

/// `GET /v1/job/:id`.
pub(super) fn job(inner: &Inner, name: &Name) -> Answer {
    inner.read(|state| state.job(name)).ok_or_else(|| Failure::new(404, "job not found"))
}

/// `GET /v1/jobs`: stubs.
pub(super) fn jobs(inner: &Inner, call: &Call) -> Reply {
    let prefix = call.get("prefix");
    let stubs: Vec<Value> = inner.read(|state| {
        let wanted = |name: &&Name| in_namespace(call, &name.0) && name.1.starts_with(prefix);
        let jobs = state.jobs.keys().filter(wanted).filter_map(|name| state.job(name));
        let stub = |job: Value| {
            const SHOWN: [&str; 12] = [
                "ID",
                "Name",
                "Namespace",
                "Type",
                "Priority",
                "Status",
                "Stop",
                "Version",
                "CreateIndex",
                "ModifyIndex",
                "JobModifyIndex",
                "SubmitTime",
            ];

            let mut stub: Value =
                SHOWN.iter().map(|&field| (field.to_owned(), job[field].clone())).collect();
            if call.flag("meta") {
                stub["Meta"] = job["Meta"].clone();
            }

            stub
        };

        jobs.map(stub).collect()
    });

    page(call, stubs, |job| text(&job["ID"]))
}

/// `POST /v1/jobs/statuses`.
pub(super) fn statuses(inner: &Inner, call: &Call) -> Reply {
    let asked = call.body["Jobs"].as_array().cloned().unwrap_or_default();
    let all = inner.read(|state| {
        let of = |asked: &Value| {
            let name = (text(&asked["Namespace"]), text(&asked["ID"]));
            let job = state.job(&name)?;
            let allocs = state.allocs_of(&name);
            let allocs: Vec<Value> = allocs
                .iter()
                .map(|id| {
                    let alloc = &state.allocs[id].value;
                    json!({"ID": id, "ClientStatus": alloc["ClientStatus"], "NodeID": alloc["NodeID"]})
                })
                .collect();

            Some(json!({"ID": job["ID"], "Namespace": job["Namespace"], "Type": job["Type"], "Stop": job["Stop"],
                        "Status": job["Status"], "Allocs": allocs, "ModifyIndex": job["ModifyIndex"]}))
        };
        asked.iter().filter_map(of).collect::<Vec<_>>()
    });

    json!(all).into()
}

/// `GET /v1/job/:id/versions`.
pub(super) fn job_versions(inner: &Inner, name: &Name) -> Result<Reply, Failure> {
    let versions = inner.read(|state| state.jobs.get(name).map(|job| job.versions.clone()));
    let versions = versions.ok_or_else(|| Failure::new(404, "job versions not found"))?;
    Ok(json!({"Versions": versions, "Diffs": null}).into())
}

/// `GET /v1/job/:id/evaluations`; empty for an unknown job.
pub(super) fn job_evaluations(inner: &Inner, name: &Name) -> Reply {
    let mut evals: Vec<Value> =
        inner.read(|state| state.evals_of(name).into_iter().cloned().collect());
    evals.sort_by_key(|eval| std::cmp::Reverse(eval["ModifyIndex"].as_u64()));
    json!(evals).into()
}

/// `GET /v1/job/:id/allocations`; empty for an unknown job.
pub(super) fn job_allocations(inner: &Inner, name: &Name) -> Reply {
    let behind = inner.happens(|faults| &mut faults.behind);
    let one = |alloc: &Alloc| stub(if behind { &alloc.before } else { &alloc.value }, true);
    let stubs: Vec<Value> =
        inner.read(|state| state.allocs_of(name).iter().map(|id| one(&state.allocs[id])).collect());
    json!(stubs).into()
}

/// `GET /v1/evaluations`.
pub(super) fn evaluations(inner: &Inner, call: &Call) -> Reply {
    let wanted = |eval: &&Value| {
        let status = call.get("status");
        in_namespace(call, &text(&eval["Namespace"]))
            && (call.get("job").is_empty() || eval["JobID"] == call.get("job"))
            && (status.is_empty() || eval["Status"] == status)
            && matches_filter(call.get("filter"), eval)
    };
    let evals = inner.read(|state| state.evals.values().filter(wanted).cloned().collect());
    page(call, evals, |eval| text(&eval["ID"]))
}

/// `GET /v1/evaluation/:id` and `/allocations` below it.
pub(super) fn evaluation(inner: &Inner, id: &str) -> Answer {
    if let Some(id) = id.strip_suffix("/allocations") {
        return Ok(inner.read(|state| {
            let placed = state.allocs.values().filter(|alloc| alloc.value["EvalID"] == id);
            placed.map(|alloc| stub(&alloc.value, true)).collect()
        }));
    }
    inner
        .read(|state| state.evals.get(id).cloned())
        .ok_or_else(|| Failure::new(404, "eval not found"))
}

/// `GET /v1/allocations`: stubs.
pub(super) fn allocations(inner: &Inner, call: &Call) -> Result<Reply, Failure> {
    let filter = call.get("filter");
    if !filter.is_empty() && conditions(filter).is_none() {
        return Err(Failure::new(
            400,
            &format!("failed to read filter expression: the fake does not know {filter}"),
        ));
    }

    let wanted = |alloc: &&Alloc| {
        in_namespace(call, &text(&alloc.value["Namespace"]))
            && text(&alloc.value["ID"]).starts_with(call.get("prefix"))
            && matches_filter(filter, &alloc.value)
    };

    let states = call.get("task_states") != "false";
    let stubs = inner.read(|state| {
        state.allocs.values().filter(wanted).map(|alloc| stub(&alloc.value, states)).collect()
    });

    Ok(page(call, stubs, |alloc| text(&alloc["ID"])))
}

/// `GET /v1/allocation/:id`, and `PUT /v1/allocation/:id/stop`, which has the allocation replaced.
pub(super) fn allocation(inner: &Arc<Inner>, call: &Call, rest: &str) -> Result<Reply, Failure> {
    let not_found = || Failure::new(404, "alloc not found");
    if let Some(id) = rest.strip_suffix("/stop").filter(|_| call.method != "GET") {
        let name = inner.change(|state| {
            let alloc = &state.allocs.get(id)?.value;
            let name = (text(&alloc["Namespace"]), text(&alloc["JobID"]));
            let index = state.next_index();
            let event = state.put_alloc(index, "AllocationUpdateDesiredStatus", id, |alloc| {
                alloc["DesiredStatus"] = json!("stop");
                alloc["DesiredTransition"] = json!({"Migrate": true});
            });

            state.publish(index, vec![event]);
            Some(name)
        });

        let eval = placement::evaluate(inner, &name.ok_or_else(not_found)?, "alloc-stop");
        return Ok(json!({"EvalID": eval}).into());
    }

    let found = inner.read(|state| {
        let alloc = state.allocs.get(rest)?;
        let mut value = alloc.value.clone();
        value["Job"] = alloc.job.clone();
        Some(value)
    });

    found.map(Reply::from).ok_or_else(not_found)
}

/// What lists show of an allocation: not the job, and not what it replaced.
fn stub(alloc: &Value, task_states: bool) -> Value {
    let mut stub = alloc.clone();
    let fields = stub.as_object_mut().expect("an allocation");
    for hidden in [
        "PreviousAllocation",
        "DesiredTransition",
        "AllocModifyIndex",
        "AllocStates",
        "DisconnectExpired",
    ] {
        fields.remove(hidden);
    }

    if !task_states {
        fields.insert("TaskStates".to_owned(), Value::Null);
    }

    stub
}

fn in_namespace(call: &Call, namespace: &str) -> bool {
    call.namespace() == "*" || call.namespace() == namespace
}

/// One page of a list, whose token is where the next one begins.
fn page(call: &Call, mut all: Vec<Value>, key: impl Fn(&Value) -> String) -> Reply {
    all.sort_by_key(&key);
    if call.flag("reverse") {
        all.reverse();
    }
    let token = call.get("next_token");
    let from = all.iter().position(|item| key(item) == token).unwrap_or(0);
    let mut rest = all.split_off(from);
    let size = call.get("per_page").parse().unwrap_or(usize::MAX);
    let next = if rest.len() > size { Some(key(&rest[size])) } else { None };
    rest.truncate(size);
    Reply::Json { value: Value::Array(rest), next_token: next }
}

/// The part of go-bexpr that is used: `Field == "x"`, `Field != "x"`, `Field matches "^x"`,
/// `Field contains "x"`, joined with `and`.
fn conditions(filter: &str) -> Option<Vec<(String, &str, String)>> {
    let condition = |text: &'_ str| {
        let (field, rest) = text.trim().split_once(' ')?;
        let (operand, value) = rest.trim().split_once(' ')?;
        let value: String = serde_json::from_str(value.trim()).ok()?;
        let operand =
            ["==", "!=", "matches", "contains"].into_iter().find(|known| *known == operand)?;
        Some((field.to_owned(), operand, value))
    };
    filter.split(" and ").map(condition).collect()
}

fn matches_filter(filter: &str, item: &Value) -> bool {
    conditions(filter).unwrap_or_default().iter().all(|(field, operand, value)| {
        let path = format!("/{}", field.replace('.', "/"));
        let actual = text(item.pointer(&path).unwrap_or(&Value::Null));
        match *operand {
            "==" => actual == *value,
            "!=" => actual != *value,
            "contains" => actual.contains(value.as_str()),
            _ => match value.strip_prefix('^') {
                Some(prefix) => actual.starts_with(&prefix.replace("\\.", ".").replace("\\-", "-")),
                None => actual.contains(value.as_str()),
            },
        }
    })
}
