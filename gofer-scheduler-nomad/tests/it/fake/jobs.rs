//! Registering, parsing, stopping and collecting jobs.

use std::sync::Arc;

use serde_json::{Value, json};

use super::http::{Answer, Failure};
use super::state::{Job, Name, State, is_terminal, now, text};
use super::{Inner, placement};

/// `PUT /v1/jobs`.
pub(super) fn register(inner: &Arc<Inner>, query_namespace: &str, body: &Value) -> Answer {
    if !body["Job"].is_object() {
        return Err(Failure::new(400, "Job must be specified"));
    }

    let spec = canonical(body["Job"].clone(), query_namespace);
    if text(&spec["ID"]).is_empty() {
        return Err(Failure::new(400, "Job ID hasn't been provided"));
    }

    let problems = problems(&spec);
    if !problems.is_empty() {
        return Err(Failure::new(500, &bullets(&problems)));
    }

    let name = (text(&spec["Namespace"]), text(&spec["ID"]));
    let (answer, eval) = inner.change(|state| {
        let existing = state.jobs.get(&name).map(|job| job.spec["JobModifyIndex"].as_u64().unwrap_or(0));
        if body["EnforceIndex"] == true {
            enforce(existing, body["JobModifyIndex"].as_u64().unwrap_or(0))?;
        }

        let index = state.next_index();
        let modified = store(state, index, &name, spec);
        let (eval, event) = placement::new_eval(state, index, &name, "job-register");
        let job = state.job(&name).expect("just stored");
        let registered = json!({"Topic": "Job", "Type": "JobRegistered", "Key": name.1, "Namespace": name.0,
                                "FilterKeys": null, "Index": index, "Payload": {"Job": job}});

        state.publish(index, vec![registered, event]);
        let answer = json!({"EvalID": eval, "EvalCreateIndex": index, "JobModifyIndex": modified, "Warnings": "",
                            "Index": index, "LastContact": 0, "KnownLeader": false, "NextToken": ""});

        Ok::<_, Failure>((answer, eval))
    })?;

    placement::process_later(inner, &eval);
    Ok(answer)
}

fn enforce(existing: Option<u64>, wanted: u64) -> Result<(), Failure> {
    let problem = match existing {
        Some(_) if wanted == 0 => "job already exists".to_owned(),
        Some(index) if index != wanted => {
            format!("job exists with conflicting job modify index: {index}")
        }
        None if wanted != 0 => "job does not exist".to_owned(),
        _ => return Ok(()),
    };
    Err(Failure::new(500, &format!("Enforcing job modify index {wanted}: {problem}")))
}

/// Stores a job, as a new version when it differs; returns the index at which it was changed.
fn store(state: &mut State, index: u64, name: &Name, mut spec: Value) -> u64 {
    const ASSIGNED: [&str; 6] =
        ["Version", "CreateIndex", "ModifyIndex", "JobModifyIndex", "SubmitTime", "Status"];

    let old = state.jobs.remove(name);
    let mut versions = old.as_ref().map_or(Vec::new(), |job| job.versions.clone());
    if let Some(old) = &old {
        let mut same = old.spec.clone();
        for field in ASSIGNED {
            same.as_object_mut().expect("a job").remove(field);
        }

        if same == spec {
            let modified = old.spec["JobModifyIndex"].as_u64().expect("an index");
            state.jobs.extend(old_job(name, &old.spec, versions));
            return modified;
        }
    }

    let version = old.as_ref().map_or(0, |job| job.spec["Version"].as_u64().unwrap_or(0) + 1);
    spec["Version"] = json!(version);
    spec["CreateIndex"] = old.map_or(json!(index), |job| job.spec["CreateIndex"].clone());
    spec["ModifyIndex"] = json!(index);
    spec["JobModifyIndex"] = json!(index);
    spec["SubmitTime"] = json!(now());
    versions.insert(0, spec.clone());
    state.jobs.insert(name.clone(), Job { spec, versions });

    index
}

fn old_job(name: &Name, spec: &Value, versions: Vec<Value>) -> Option<(Name, Job)> {
    Some((name.clone(), Job { spec: spec.clone(), versions }))
}

/// Fills in what a client left out, as the server does.
pub(super) fn canonical(mut job: Value, query_namespace: &str) -> Value {
    let mut default = |field: &str, value: Value| {
        if job[field].is_null() || job[field] == "" || job[field] == 0 {
            job[field] = value;
        }
    };

    default("Namespace", json!(query_namespace));
    default("Region", json!("global"));
    default("Type", json!("service"));
    default("Priority", json!(50));
    default("NodePool", json!("default"));
    default("Datacenters", json!(["*"]));
    default("Stop", json!(false));
    if job["Name"].is_null() || job["Name"] == "" {
        job["Name"] = job["ID"].clone();
    }

    job
}

/// What the server refuses a job for; some of its many rules.
pub(super) fn problems(job: &Value) -> Vec<String> {
    let mut problems = Vec::new();
    let id = text(&job["ID"]);
    if id.contains(' ') {
        problems.push("Job ID contains a space".to_owned());
    }

    if !matches!(job["Type"].as_str(), Some("batch" | "service" | "system" | "sysbatch")) {
        problems.push(format!("Invalid job type: {}", job["Type"]));
    }

    if job["Namespace"] != "default" && job["Namespace"] != "other" {
        problems
            .push(format!("job {id:?} is in nonexistent namespace {:?}", text(&job["Namespace"])));
    }

    let groups = job["TaskGroups"].as_array().map_or(&[][..], Vec::as_slice);
    if groups.is_empty() {
        problems.push("Missing job task groups".to_owned());
    }

    for group in groups {
        let tasks = group["Tasks"].as_array().map_or(&[][..], Vec::as_slice);
        if tasks.is_empty() {
            problems.push(format!(
                "Task group {} validation failed: Missing tasks for group",
                text(&group["Name"])
            ));
        }

        let batch = job["Type"] == "batch";
        if batch && group["Update"].is_object() {
            problems.push("Job type batch does not allow update block".to_owned());
        }

        let restart = &group["RestartPolicy"];
        if restart.is_object() && restart["Attempts"] == 0 && restart["Mode"] != "fail" {
            problems.push("Restart policy \"delay\" with 0 attempts is ambiguous".to_owned());
        }

        let disk = group["EphemeralDisk"]["SizeMB"].as_u64().unwrap_or(300);
        for task in tasks {
            let name = text(&task["Name"]);
            if text(&task["Driver"]).is_empty() {
                problems.push(format!("Task {name} validation failed: Missing task driver"));
            }

            if task["Resources"]["MemoryMB"].as_u64().is_some_and(|memory| memory < 10) {
                problems
                    .push(format!("Task {name} validation failed: minimum MemoryMB value is 10"));
            }

            let log = &task["LogConfig"];
            let logs = log["MaxFiles"].as_u64().unwrap_or(10)
                * log["MaxFileSizeMB"].as_u64().unwrap_or(10);

            if logs >= disk {
                let text = format!(
                    "log storage ({logs} MB) must be less than requested disk capacity ({disk} MB)"
                );
                problems.push(format!("Task {name} validation failed: {text}"));
            }
        }
    }

    problems
}

/// Several problems as Nomad writes them.
pub(super) fn bullets(problems: &[String]) -> String {
    let s = if problems.len() == 1 { "" } else { "s" };
    let lines: Vec<String> = problems.iter().map(|problem| format!("\t* {problem}")).collect();
    format!("{} error{s} occurred:\n{}\n\n", problems.len(), lines.join("\n"))
}

/// `PUT /v1/validate/job`.
pub(super) fn validate(query_namespace: &str, body: &Value) -> Answer {
    let problems = problems(&canonical(body["Job"].clone(), query_namespace));
    let error = if problems.is_empty() { String::new() } else { bullets(&problems) };
    let errors = if problems.is_empty() { Value::Null } else { json!(problems) };
    Ok(
        json!({"DriverConfigValidated": true, "ValidationErrors": errors, "Error": error, "Warnings": ""}),
    )
}

/// `PUT /v1/job/:id/plan`: whether the job is valid, and not where it would run.
pub(super) fn plan(query_namespace: &str, body: &Value) -> Answer {
    let problems = problems(&canonical(body["Job"].clone(), query_namespace));
    if !problems.is_empty() {
        return Err(Failure::new(500, &bullets(&problems)));
    }
    Ok(
        json!({"Annotations": null, "FailedTGAllocs": null, "JobModifyIndex": 0, "Warnings": "", "Diff": null}),
    )
}

/// `PUT /v1/jobs/parse`. Takes the JSON form alone: the HCL that the tests parse is JSON, which
/// HCL2 allows; HCL proper is for the real agent.
pub(super) fn parse(body: &Value) -> Answer {
    let source = text(&body["JobHCL"]);
    if source.trim().is_empty() {
        return Err(Failure::new(400, "Job spec is empty"));
    }

    let failed = |reason: &str| Failure::new(400, &format!("Failed to parse job: {reason}"));
    if source.contains("file(") {
        return Err(failed(
            "Error in function call: Call to function \"file\" failed: filesystem function \
             disabled.",
        ));
    }

    let parsed: Value =
        serde_json::from_str(&source).map_err(|error| failed(&error.to_string()))?;
    let job = if parsed["Job"].is_object() { parsed["Job"].clone() } else { parsed };
    if !job.is_object() {
        return Err(failed("job block not found"));
    }

    Ok(job)
}

/// `DELETE /v1/job/:id`.
pub(super) fn deregister(inner: &Arc<Inner>, name: &Name, purge: bool) -> Answer {
    let (answer, eval) = inner.change(|state| {
        let Some(job) = state.jobs.get_mut(name) else {
            return (json!({"EvalID": "", "EvalCreateIndex": 0, "JobModifyIndex": 0, "Index": state.index}), None);
        };

        job.spec["Stop"] = json!(true);
        let stopped = job.spec.clone();
        let index = state.next_index();
        if purge {
            state.jobs.remove(name);
        } else {
            let version = stopped["Version"].as_u64().unwrap_or(0) + 1;
            let job = state.jobs.get_mut(name).expect("still there");
            job.spec["Version"] = json!(version);
            job.spec["ModifyIndex"] = json!(index);
            job.spec["JobModifyIndex"] = json!(index);
            job.versions.insert(0, job.spec.clone());
        }

        let (eval, event) = placement::new_eval(state, index, name, "job-deregister");
        let gone = json!({"Topic": "Job", "Type": "JobDeregistered", "Key": name.1, "Namespace": name.0,
                          "FilterKeys": null, "Index": index, "Payload": {"Job": stopped, "Deleted": purge}});
        state.publish(index, vec![gone, event]);

        let answer = json!({"EvalID": eval, "EvalCreateIndex": index, "JobModifyIndex": index, "Index": index});
        (answer, Some(eval))
    });

    if let Some(eval) = eval {
        placement::process_later(inner, &eval);
    }

    Ok(answer)
}

/// Collects what is finished, if the switch says so.
pub(super) fn collect(inner: &Arc<Inner>) {
    if inner.fault(|faults| faults.collect_at_once) {
        gc(inner);
    }
}

/// `PUT /v1/system/gc`: dead jobs go, with their evaluations, allocations and logs. Nothing is
/// published.
pub(super) fn gc(inner: &Arc<Inner>) {
    let gone = inner.change(|state| {
        let names: Vec<Name> = state.jobs.keys().cloned().collect();
        let dead = |name: &Name| state.job(name).is_some_and(|job| job["Status"] == "dead");
        let dead: Vec<Name> = names.into_iter().filter(dead).collect();

        for name in &dead {
            state.jobs.remove(name);
        }

        let known = |value: &Value| {
            let name = (text(&value["Namespace"]), text(&value["JobID"]));
            state.jobs.contains_key(&name)
        };

        let allocs = state.allocs.values().map(|alloc| &alloc.value);
        let orphans = allocs
            .filter(|alloc| is_terminal(alloc) && !known(alloc))
            .map(|alloc| text(&alloc["ID"]));
        let orphans: Vec<String> = orphans.collect();
        let evals = state.evals.values().filter(|eval| eval["Status"] != "pending" && !known(eval));
        let evals: Vec<String> = evals.map(|eval| text(&eval["ID"])).collect();

        for id in evals {
            state.evals.remove(&id);
        }

        for id in &orphans {
            state.allocs.remove(id);
        }

        orphans
    });
    for id in gone {
        let _ = std::fs::remove_dir_all(inner.dir.join(id));
    }
}
