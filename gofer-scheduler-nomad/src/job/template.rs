//! The job specification that an operator gives: what of it is used, and what is refused.

use serde_json::{Map, Value, json};

use crate::job::names::{GROUP, MAIN};

/// Task metadata that marks the task which becomes the execution.
const SLOT: &str = "gofer.slot";

/// Takes a parsed job specification as the template of every job, its group named `g` and its task
/// `main`.
///
/// # Errors
/// The stanza and the rule it breaks.
pub(crate) fn accept(parsed: &Value, nomad_namespaces: &[&str]) -> Result<Value, String> {
    let mut job = parsed.as_object().cloned().ok_or("it is not a job")?;
    for (key, stanza) in [
        ("Periodic", "job.periodic"),
        ("ParameterizedJob", "job.parameterized"),
        ("Multiregion", "job.multiregion"),
        ("Payload", "job.payload"),
        ("Update", "job.update"),
    ] {
        reject(
            &job,
            key,
            &format!("`{stanza}`"),
            "gofer decides when and how often a job runs: leave it out",
        )?;
    }

    if let Some(kind) =
        job.get("Type").and_then(Value::as_str).filter(|kind| !matches!(*kind, "batch" | "service"))
    {
        return Err(format!(
            "`job.type`: `{kind}` cannot be a task or a trigger: leave it out, gofer sets it"
        ));
    }

    if let Some(namespace) = text(&job, "Namespace")
        && !nomad_namespaces.contains(&namespace)
    {
        return Err(format!(
            "`job.namespace`: `{namespace}` is not the namespace that the configuration gives \
             these jobs (`{}`): leave it out, or set `scheduler.nomad.namespace` or `namespaces`",
            nomad_namespaces.join("`, `")
        ));
    }

    let groups = job.get("TaskGroups").and_then(Value::as_array).cloned().unwrap_or_default();
    let [group] = &groups[..] else {
        return Err(format!(
            "`job.group`: there are {}, and an execution is exactly one",
            groups.len()
        ));
    };

    let group = accept_group(group.as_object().cloned().unwrap_or_default())?;
    job.insert("TaskGroups".into(), json!([group]));

    // What identifies the job, and what a running cluster adds to it.
    for key in ["ID", "Name", "Type", "Stop", "Status", "Version", "Namespace"] {
        job.remove(key);
    }

    job.retain(|_, value| !value.is_null());
    Ok(Value::Object(job))
}

fn accept_group(mut group: Map<String, Value>) -> Result<Map<String, Value>, String> {
    let stanza = format!("group `{}`", text(&group, "Name").unwrap_or_default());
    reject(
        &group,
        "Update",
        &format!("{stanza}, `update`"),
        "tasks are not rolled out: leave it out",
    )?;
    reject(
        &group,
        "Migrate",
        &format!("{stanza}, `migrate`"),
        "gofer starts a new attempt instead: leave it out",
    )?;
    reject(
        &group,
        "Scaling",
        &format!("{stanza}, `scaling`"),
        "an execution is exactly one: leave it out",
    )?;

    for (key, name) in [
        ("MaxRunDuration", "max_run_duration"),
        ("StopAfterClientDisconnect", "stop_after_client_disconnect"),
        ("MaxClientDisconnect", "max_client_disconnect"),
    ] {
        let rule = "gofer keeps the time, and decides on lost nodes: leave it out";
        reject(&group, key, &format!("{stanza}, `{name}`"), rule)?;
    }

    if let Some(count) = group.get("Count").and_then(Value::as_i64).filter(|count| *count != 1) {
        return Err(format!(
            "{stanza}, `count`: `{count}` is not possible, an execution is exactly one"
        ));
    }

    let mut tasks: Vec<Map<String, Value>> = group
        .get("Tasks")
        .and_then(Value::as_array)
        .map(|tasks| tasks.iter().filter_map(|task| task.as_object().cloned()).collect())
        .unwrap_or_default();
    let slot = slot(&stanza, &tasks)?;
    let old_name = text(&tasks[slot], "Name").unwrap_or_default().to_owned();

    for (index, task) in tasks.iter().enumerate() {
        let name = text(task, "Name").unwrap_or_default();
        if index != slot && (name == "alloc" || name == MAIN) {
            return Err(format!("{stanza}, task `{name}`: the name is taken: name it otherwise"));
        }
    }

    accept_slot(&stanza, &tasks[slot])?;
    tasks[slot].insert("Name".into(), json!(MAIN));
    for task in &mut tasks {
        rename_services(task, &old_name);
        task.retain(|_, value| !value.is_null());
    }

    rename_services(&mut group, &old_name);
    group.insert("Name".into(), json!(GROUP));
    group.insert("Tasks".into(), json!(tasks));
    group.retain(|_, value| !value.is_null());

    Ok(group)
}

/// The task that becomes the execution: the one marked, or the only one that is not there for
/// another.
fn slot(stanza: &str, tasks: &[Map<String, Value>]) -> Result<usize, String> {
    let marked = |task: &Map<String, Value>| {
        task.get("Meta").and_then(|meta| meta.get(SLOT)).is_some_and(|mark| mark == MAIN)
    };

    let beside = |task: &Map<String, Value>| {
        task.get("Lifecycle").is_some_and(|lifecycle| !lifecycle.is_null())
    };

    let marks: Vec<usize> = (0..tasks.len()).filter(|index| marked(&tasks[*index])).collect();
    let mains: Vec<usize> = (0..tasks.len()).filter(|index| !beside(&tasks[*index])).collect();
    match (&marks[..], &mains[..]) {
        ([one], _) if beside(&tasks[*one]) => Err(format!(
            "{stanza}: the task marked `{SLOT} = \"{MAIN}\"` has a `lifecycle`, which the \
             execution cannot have"
        )),
        ([one], [only]) if one == only => Ok(*one),
        ([one], _) if tasks[*one].get("Leader") == Some(&json!(true)) => Ok(*one),
        ([_], _) => Err(format!(
            "{stanza}: beside the task marked `{SLOT}` there is another without a `lifecycle`: set \
             `leader = true` on the marked one, or give the other a `lifecycle`"
        )),
        ([], [only]) => Ok(*only),
        _ => Err(format!(
            "{stanza}: {} tasks could be the execution: give all but one a `lifecycle`, or one \
             `meta {{ \"{SLOT}\" = \"{MAIN}\" }}` and `leader = true`",
            mains.len().max(marks.len())
        )),
    }
}

fn accept_slot(stanza: &str, task: &Map<String, Value>) -> Result<(), String> {
    let name = text(task, "Name").unwrap_or_default();
    let stanza = format!("{stanza}, task `{name}`");
    let disabled =
        task.get("LogConfig").and_then(|log| log.get("Disabled")).and_then(Value::as_bool);

    if disabled == Some(true) {
        return Err(format!(
            "{stanza}, `logs`: `disabled = true` would leave runs without logs: leave it out"
        ));
    }

    let dispatched = task.get("DispatchPayload").is_some_and(|payload| !payload.is_null());
    if dispatched {
        return Err(format!(
            "{stanza}, `dispatch_payload`: the job is not dispatched: leave it out"
        ));
    }

    Ok(())
}

/// Services name the task they belong to.
fn rename_services(owner: &mut Map<String, Value>, old_name: &str) {
    let Some(services) = owner.get_mut("Services").and_then(Value::as_array_mut) else { return };
    for service in services {
        if service.get("TaskName").and_then(Value::as_str) == Some(old_name) {
            service["TaskName"] = json!(MAIN);
        }
    }
}

fn reject(map: &Map<String, Value>, key: &str, stanza: &str, rule: &str) -> Result<(), String> {
    let set = match map.get(key) {
        None | Some(Value::Null) => false,
        Some(Value::Array(all)) => !all.is_empty(),
        Some(Value::String(text)) => !text.is_empty(),
        Some(_) => true,
    };
    if set { Err(format!("{stanza}: {rule}")) } else { Ok(()) }
}

fn text<'a>(map: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    map.get(key).and_then(Value::as_str).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(change: impl FnOnce(&mut Value)) -> Value {
        let mut job = json!({
            "ID": "template", "Name": "template", "Type": null, "Periodic": null, "Update": null, "Payload": null,
            "TaskGroups": [{
                "Name": "work", "Count": 1, "Update": null, "Services": [{"Name": "s", "TaskName": "run"}],
                "Tasks": [
                    {"Name": "run", "Driver": "docker", "Lifecycle": null},
                    {"Name": "proxy", "Driver": "docker", "Lifecycle": {"Hook": "prestart", "Sidecar": true}},
                ],
            }],
        });
        change(&mut job);
        job
    }

    #[test]
    fn group_and_task_get_the_names_gofer_knows() {
        let accepted = accept(&job(|_| {}), &["default"]).unwrap();
        let group = &accepted["TaskGroups"][0];
        assert_eq!((&group["Name"], &group["Tasks"][0]["Name"]), (&json!(GROUP), &json!(MAIN)));
        assert_eq!(group["Tasks"][1]["Name"], "proxy");
        assert_eq!(group["Services"][0]["TaskName"], MAIN);
        assert!(accepted["ID"].is_null() && accepted["Type"].is_null());
    }

    #[test]
    fn a_marked_task_that_leads_is_the_slot() {
        let two = job(|job| {
            job["TaskGroups"][0]["Tasks"][1]["Lifecycle"] = Value::Null;
            job["TaskGroups"][0]["Tasks"][1]["Meta"] = json!({SLOT: MAIN});
            job["TaskGroups"][0]["Tasks"][1]["Leader"] = json!(true);
        });
        let accepted = accept(&two, &["default"]).unwrap();
        assert_eq!(accepted["TaskGroups"][0]["Tasks"][1]["Name"], MAIN);
        assert_eq!(accepted["TaskGroups"][0]["Tasks"][0]["Name"], "run");
    }

    #[test]
    fn what_would_take_the_decision_from_gofer_is_rejected_with_stanza_and_rule() {
        type Change = fn(&mut Value);

        let cases: [(Change, &str); 14] = [
            (|job| job["Periodic"] = json!({"Spec": "@daily"}), "`job.periodic`"),
            (|job| job["ParameterizedJob"] = json!({}), "`job.parameterized`"),
            (|job| job["Multiregion"] = json!({}), "`job.multiregion`"),
            (|job| job["Payload"] = json!("eA=="), "`job.payload`"),
            (|job| job["Update"] = json!({}), "`job.update`"),
            (|job| job["Type"] = json!("system"), "`job.type`: `system`"),
            (|job| job["Namespace"] = json!("other"), "`job.namespace`: `other`"),
            (|job| job["TaskGroups"] = json!([]), "`job.group`: there are 0"),
            (|job| job["TaskGroups"][0]["Update"] = json!({}), "group `work`, `update`"),
            (|job| job["TaskGroups"][0]["Count"] = json!(2), "`count`: `2`"),
            (|job| job["TaskGroups"][0]["MaxRunDuration"] = json!(1), "`max_run_duration`"),
            (
                |job| job["TaskGroups"][0]["Tasks"][1]["Lifecycle"] = Value::Null,
                "2 tasks could be the execution",
            ),
            (|job| job["TaskGroups"][0]["Tasks"][1]["Name"] = json!("alloc"), "task `alloc`"),
            (
                |job| job["TaskGroups"][0]["Tasks"][0]["LogConfig"] = json!({"Disabled": true}),
                "task `run`, `logs`",
            ),
        ];

        for (change, expected) in cases {
            let error = accept(&job(change), &["default"]).unwrap_err();
            assert!(error.contains(expected), "{expected}: {error}");
        }
    }
}
