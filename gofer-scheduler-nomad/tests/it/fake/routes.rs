//! From a path to what is done.

use std::sync::Arc;

use serde_json::{Value, json};

use super::http::{Call, Failure, Reply};
use super::state::Name;
use super::{Inner, events, files, jobs, nodes, reads, tasks, variables};

/// Does what a call asks for.
pub(super) fn route(inner: &Arc<Inner>, call: &Call) -> Result<Reply, Failure> {
    if call.path == "/.well-known/jwks.json" {
        return Ok(inner.signer.jwks().into());
    }

    let path =
        call.path.strip_prefix("/v1/").ok_or_else(|| Failure::new(404, "404 page not found"))?;
    let (first, rest) = path.split_once('/').unwrap_or((path, ""));
    let write = call.method == "PUT" || call.method == "POST";

    match (first, rest) {
        ("jobs", "") if write => {
            jobs::register(inner, call.namespace(), &call.body).map(Reply::from)
        }
        ("jobs", "") => Ok(reads::jobs(inner, call)),
        ("jobs", "parse") if write => jobs::parse(&call.body).map(Reply::from),
        ("jobs", "statuses") if write => Ok(reads::statuses(inner, call)),
        ("validate", "job") if write => {
            jobs::validate(call.namespace(), &call.body).map(Reply::from)
        }
        ("job", _) => job(inner, call, rest),
        ("evaluations", "") => Ok(reads::evaluations(inner, call)),
        ("evaluation", id) => reads::evaluation(inner, id).map(Reply::from),
        ("allocations", "") => reads::allocations(inner, call),
        ("allocation", _) => reads::allocation(inner, call, rest),
        ("client", _) => client(inner, call, rest),
        ("event", "stream") => Ok(events::stream(inner, call)),
        ("vars", "") => Ok(variables::list(inner, call.namespace(), call.get("prefix")).into()),
        ("var", path) => variable(inner, call, path),
        ("nodes", "") => Ok(inner
            .read(|state| state.nodes.keys().map(|id| nodes::stub(state, id)).collect::<Value>())
            .into()),
        ("node", id) => {
            let node =
                inner.read(|state| state.nodes.contains_key(id).then(|| nodes::stub(state, id)));
            node.map(Reply::from).ok_or_else(|| Failure::new(404, "node not found"))
        }
        ("namespaces", "") => Ok(json!([{"Name": "default"}, {"Name": "other"}]).into()),
        ("namespace", name @ ("default" | "other")) => Ok(json!({"Name": name}).into()),
        ("namespace", _) => Err(Failure::new(404, "Namespace not found")),
        ("status", "leader") if inner.fault(|faults| faults.no_leader) => {
            Err(Failure::new(500, "No cluster leader"))
        }
        ("status", "leader") => Ok(json!("127.0.0.1:4647").into()),
        ("agent", "self") => Ok(agent().into()),
        ("agent", "members") => {
            Ok(json!({"Members": [{"Name": "fake.global", "Tags": {"build": "2.0.5"}}]}).into())
        }
        ("agent", "health") => Ok(json!({"server": {"ok": true, "message": "ok"}}).into()),
        ("regions", "") => Ok(json!(["global"]).into()),
        ("system", "gc") if write => {
            jobs::gc(inner);
            Ok(Value::Null.into())
        }
        _ => {
            Err(Failure::new(404, &format!("the fake does not know {} {}", call.method, call.path)))
        }
    }
}

/// Paths are routed by their ends, since a job's ID may hold slashes.
fn job(inner: &Arc<Inner>, call: &Call, rest: &str) -> Result<Reply, Failure> {
    let name = |id: &str| -> Name { (call.namespace().to_owned(), id.to_owned()) };
    if let Some(id) = rest.strip_suffix("/allocations") {
        return Ok(reads::job_allocations(inner, &name(id)));
    }

    if let Some(id) = rest.strip_suffix("/evaluations") {
        return Ok(reads::job_evaluations(inner, &name(id)));
    }

    if rest.ends_with("/plan") {
        return jobs::plan(call.namespace(), &call.body).map(Reply::from);
    }

    if let Some(id) = rest.strip_suffix("/versions") {
        return reads::job_versions(inner, &name(id));
    }

    match call.method.as_str() {
        "DELETE" => {
            jobs::deregister(inner, &name(rest), call.get("purge") == "true").map(Reply::from)
        }
        _ => reads::job(inner, &name(rest)).map(Reply::from),
    }
}

fn client(inner: &Arc<Inner>, call: &Call, rest: &str) -> Result<Reply, Failure> {
    if let Some(rest) = rest.strip_prefix("fs/") {
        let (what, id) = rest.split_once('/').unwrap_or((rest, ""));
        return files::route(inner, call, what, id);
    }
    let rest = rest.strip_prefix("allocation/").unwrap_or_default();
    let Some(id) = rest.strip_suffix("/signal") else {
        return Err(Failure::new(404, &format!("the fake does not know {}", call.path)));
    };
    files::reachable(inner, id)?;
    let pid = inner.processes.lock().expect("the processes").get(id).copied();
    let pid = pid.ok_or_else(|| Failure::new(500, "Task not running"))?;
    tasks::signal(pid, call.body["Signal"].as_str().unwrap_or_default());
    Ok(Value::Null.into())
}

fn variable(inner: &Inner, call: &Call, path: &str) -> Result<Reply, Failure> {
    let name = (call.namespace().to_owned(), path.to_owned());
    let cas = call.get("cas").parse().ok();
    match call.method.as_str() {
        "GET" => variables::get(inner, &name).map(Reply::from),
        "DELETE" => variables::delete(inner, &name, cas).map(|()| Reply::Nothing),
        _ => variables::put(inner, &name, cas, &call.body).map(Reply::from),
    }
}

fn agent() -> Value {
    json!({
        "config": {"Region": "global", "Datacenter": "dc1", "Version": {"Version": "2.0.5", "VersionPrerelease": ""},
                   "ACL": {"Enabled": true}},
        "member": {"Name": "fake.global", "Tags": {"build": "2.0.5", "region": "global"}},
        "stats": {"nomad": {"server": "true", "leader": "true"}},
    })
}
