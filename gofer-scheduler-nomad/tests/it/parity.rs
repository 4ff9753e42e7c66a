//! What the fake answers is what a real agent answers: the calls whose answers Gofer decides by, on
//! both.

use reqwest::Method;
use serde_json::{Value, json};

use crate::agent::Agent;
use crate::fake::FakeNomad;
use crate::support::prefix;

/// A call, the status of its answer, and a part of the answer's text.
type Exchange = (Method, String, Value, u16, &'static str);

fn job(id: &str) -> Value {
    json!({
        "ID": id, "Type": "batch", "Datacenters": ["*"],
        "TaskGroups": [{
            "Name": "g", "Count": 0, "EphemeralDisk": {"SizeMB": 150},
            "Tasks": [{"Name": "main", "Driver": "raw_exec", "Config": {"command": "true"},
                       "LogConfig": {"MaxFiles": 1, "MaxFileSizeMB": 1}}],
        }],
    })
}

/// In this order: later ones see what earlier ones did.
fn exchanges(id: &str) -> Vec<Exchange> {
    let unknown = "00000000-0000-0000-0000-000000000000";
    let create = json!({"EnforceIndex": true, "JobModifyIndex": 0, "Job": job(id)});
    let stale = json!({"EnforceIndex": true, "JobModifyIndex": 7, "Job": job(id)});
    let new_stale =
        json!({"EnforceIndex": true, "JobModifyIndex": 7, "Job": job(&format!("{id}-new"))});
    let with = |change: fn(&mut Value)| {
        let mut job = job(&format!("{id}-bad"));
        change(&mut job);
        json!({ "Job": job })
    };

    let path = format!("/v1/var/nomad/jobs/{id}");
    let items = |size: usize| json!({"Items": {"key": "x".repeat(size)}});
    let (get, put, delete) = (Method::GET, Method::PUT, Method::DELETE);
    let one = |method: &Method, path: &str, body: Value, status, text| {
        (method.clone(), path.to_owned(), body, status, text)
    };

    let none = || Value::Null;
    let about = |rest: &str| format!("/v1/job/{id}{rest}");
    vec![
        one(&get, &about(""), none(), 404, "job not found"),
        one(&get, &about("/allocations"), none(), 200, "[]"),
        one(&get, &about("/evaluations"), none(), 200, "[]"),
        one(&delete, &about("?purge=false"), none(), 200, "\"EvalID\":\"\""),
        one(&put, "/v1/jobs", new_stale, 500, "Enforcing job modify index 7: job does not exist"),
        one(&put, "/v1/jobs", create.clone(), 200, "\"EvalID\":\""),
        one(&put, "/v1/jobs", create, 500, "Enforcing job modify index 0: job already exists"),
        one(
            &put,
            "/v1/jobs",
            stale,
            500,
            "Enforcing job modify index 7: job exists with conflicting job modify index",
        ),
        one(&get, &about(""), none(), 200, "\"Stop\":false"),
        one(&delete, &about("?purge=false"), none(), 200, "\"EvalID\":\""),
        one(&get, &about(""), none(), 200, "\"Stop\":true"),
        one(&delete, &about("?purge=true"), none(), 200, "\"EvalID\":\""),
        one(&get, &about(""), none(), 404, "job not found"),
        one(&put, "/v1/jobs", with(|job| job["TaskGroups"] = json!([])), 500, "error occurred:"),
        one(
            &put,
            "/v1/jobs",
            with(|job| job["TaskGroups"][0]["EphemeralDisk"]["SizeMB"] = json!(1)),
            500,
            "occurred:",
        ),
        one(
            &put,
            "/v1/jobs",
            with(|job| job["Namespace"] = json!("nowhere")),
            500,
            "nonexistent namespace",
        ),
        one(
            &put,
            "/v1/validate/job",
            with(|job| job["TaskGroups"] = json!([])),
            200,
            "Missing job task groups",
        ),
        one(&put, "/v1/jobs/parse", json!({"JobHCL": "{"}), 400, "Failed to parse job"),
        one(&get, &format!("/v1/allocation/{unknown}"), none(), 404, "alloc not found"),
        one(&get, &format!("/v1/evaluation/{unknown}"), none(), 404, "eval not found"),
        one(
            &get,
            &format!("/v1/client/fs/ls/{unknown}?path=alloc/logs"),
            none(),
            404,
            "nknown allocation",
        ),
        one(
            &get,
            "/v1/allocations?filter=JobID%20matches%20%22%5Enobody-%22&per_page=5",
            none(),
            200,
            "[]",
        ),
        one(&get, &path, none(), 404, "variable not found"),
        one(&put, &path, json!({"Items": {}}), 400, "variable missing required Items object"),
        one(&put, &path, items(65_537), 400, "variables are limited to 64KiB in total size"),
        one(&put, &format!("{path}?cas=0"), items(3), 200, "\"ModifyIndex\":"),
        one(&put, &format!("{path}?cas=0"), items(4), 409, "\"key\":\"xxx\""),
        one(&get, &format!("/v1/vars?prefix=nomad/jobs/{id}"), none(), 200, "\"Path\":"),
        one(&delete, &path, none(), 204, ""),
        one(&delete, &path, none(), 204, ""),
        one(&get, &format!("/v1/vars?prefix=nomad/jobs/{id}"), none(), 200, "[]"),
        one(&get, "/v1/regions", none(), 200, "[\"global\"]"),
        one(&get, "/v1/no/such/path", none(), 404, ""),
    ]
}

async fn answers(agent: &Agent) {
    let mut others = Vec::new();
    for (method, path, body, status, text) in exchanges(&prefix()) {
        let sent = Some(&body).filter(|body| !body.is_null());
        let (is, answer) = agent.call(method.clone(), &path, sent).await.expect("an answer");
        if is != status || !answer.contains(text) {
            others.push(format!("{method} {path}: {is} `{answer}`, not {status} `{text}`"));
        }
    }
    assert!(others.is_empty(), "{}", others.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fake_answers_like_an_agent() {
    let fake = FakeNomad::start().await;
    answers(&Agent::at(&fake.address(), "")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_answers_like_the_fake_on_a_real_agent() {
    let Some(agent) = Agent::find("an_agent_answers_like_the_fake on a real agent") else { return };
    answers(&agent).await;
}
