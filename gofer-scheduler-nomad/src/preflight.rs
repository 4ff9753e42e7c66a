//! What is done before anything runs: job templates are parsed and validated, and the cluster is
//! looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use gofer_core::pipeline::Resources;
use gofer_core::scheduler::{ExecutionKind, ExecutionSpec};
use gofer_core::{
    Attempt, BackendError, ErrorKind, ExecutionId, NamespaceId, PipelineId, RunKey, RunNumber,
    TaskId,
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::calls::{JobCalls, JobKey};
use crate::config::NomadConfig;
use crate::http::client::{Client, Query, encoded};
use crate::http::error::Failure;
use crate::http::types::Node;
use crate::job::names;
use crate::job::spec;
use crate::job::template;

/// The longest job template; Nomad parses it in memory.
const MAX_TEMPLATE_BYTES: usize = 1024 * 1024;

/// Reads the job templates, lets Nomad parse them, and has Nomad validate a task and a trigger made
/// from each.
pub(crate) async fn load_templates(
    config: &NomadConfig,
    client: &Client,
) -> Result<BTreeMap<String, Value>, BackendError> {
    let mut templates = BTreeMap::new();
    if config.job_template.is_some()
        || config.namespaces.values().any(|own| own.job_template.is_some())
    {
        // What is wrong with an address or a token is not the template's fault.
        reach(config, client).await?;
    }

    let named = config
        .namespaces
        .iter()
        .filter_map(|(name, own)| Some((name.as_str(), own.job_template.as_deref()?)));

    for (name, path) in
        config.job_template.as_deref().map(|path| ("", path)).into_iter().chain(named)
    {
        let template = load(config, client, name, path).await?;
        templates.insert(name.to_owned(), template);
    }

    Ok(templates)
}

async fn load(
    config: &NomadConfig,
    client: &Client,
    name: &str,
    path: &Path,
) -> Result<Value, BackendError> {
    let key = if name.is_empty() {
        "job_template".to_owned()
    } else {
        format!("namespaces.{name}.job_template")
    };

    let key = format!("`{key}` is `{}`", path.display());
    let invalid = |text: String| BackendError::new(ErrorKind::Invalid, format!("{key}: {text}"));
    let text = tokio::fs::read_to_string(path)
        .await
        .map_err(|error| invalid("the file cannot be read".to_owned()).with_source(error))?;
    if text.len() > MAX_TEMPLATE_BYTES {
        return Err(invalid(format!("the file is larger than {MAX_TEMPLATE_BYTES} bytes")));
    }

    // The common template serves every namespace that has none of its own.
    let namespaces: BTreeSet<&str> = match config.namespaces.get(name) {
        Some(own) => [own.namespace.as_deref().unwrap_or(&config.namespace)].into(),
        None => {
            let others = config.namespaces.values().filter(|own| own.job_template.is_none());
            others
                .filter_map(|own| own.namespace.as_deref())
                .chain([config.namespace.as_str()])
                .collect()
        }
    };

    let namespace = namespaces.first().copied().unwrap_or(&config.namespace);
    let body = json!({"JobHCL": text, "Canonicalize": false});
    let parsed = client.put::<Value>("/v1/jobs/parse", &Query::namespace(namespace), &body).await;
    let parsed = parsed
        .map_err(|failure| failure.backend(format!("{key}, which nomad does not take")))?
        .value;
    let accepted = template::accept(&parsed, &namespaces.iter().copied().collect::<Vec<_>>())
        .map_err(&invalid)?;

    for kind in [ExecutionKind::Task, ExecutionKind::Service] {
        let job = sample(config, &accepted, name, kind)?;
        if let Some(problem) = validate(client, &job).await? {
            return Err(invalid(format!("nomad finds the job made from it not valid: {problem}")));
        }
    }

    Ok(accepted)
}

/// A job as executions get them.
fn sample(
    config: &NomadConfig,
    template: &Value,
    name: &str,
    kind: ExecutionKind,
) -> Result<Value, BackendError> {
    let id = sample_id(if name.is_empty() { "gofer" } else { name })?;
    let spec = ExecutionSpec {
        kind,
        image: None,
        entrypoint: Vec::new(),
        command: vec!["true".to_owned()],
        working_dir: None,
        env: BTreeMap::new(),
        resources: Resources::default(),
        registry_auth: None,
        timeout: None,
        separate_output: false,
    };
    Ok(spec::prepare(config, template, &names::job_id(&config.job_prefix, &id), &id, &spec).job)
}

fn sample_id(namespace: &str) -> Result<ExecutionId, BackendError> {
    let internal =
        |error| BackendError::new(ErrorKind::Internal, "a name is not one").with_source(error);
    let run = RunKey {
        namespace: NamespaceId::new(namespace).map_err(internal)?,
        pipeline: PipelineId::new("check").map_err(internal)?,
        run: RunNumber(0),
    };
    Ok(ExecutionId { run, task: TaskId::new("check").map_err(internal)?, attempt: Attempt::FIRST })
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Validation {
    validation_errors: Option<Vec<String>>,
    error: String,
}

async fn validate(client: &Client, job: &Value) -> Result<Option<String>, BackendError> {
    let namespace = job["Namespace"].as_str().unwrap_or_default();
    let answer = client
        .put::<Validation>("/v1/validate/job", &Query::namespace(namespace), &json!({"Job": job}))
        .await
        .map_err(|failure| failure.backend("a job cannot be validated"))?
        .value;
    let errors = answer.validation_errors.unwrap_or_default();
    Ok(match (errors.is_empty(), answer.error.is_empty()) {
        (true, true) => None,
        (false, _) => Some(errors.join("; ")),
        (true, false) => Some(answer.error.split_whitespace().collect::<Vec<_>>().join(" ")),
    })
}

/// Looks at the cluster, and tries everything that the token must be allowed to.
pub(crate) async fn check(calls: &JobCalls) -> Result<String, BackendError> {
    let version = reach(&calls.config, &calls.client).await?;
    region(calls).await?;
    for namespace in calls.config.nomad_namespaces() {
        rights(calls, &namespace).await?;
    }
    if calls.config.identity {
        identities(calls, &version).await?;
    }
    let drivers = drivers(calls).await?;
    Ok(format!("nomad {version} at {}, {drivers}", calls.client.address()))
}

/// Asks an agent for its version, which shows whether address, certificates and token are right.
async fn reach(config: &NomadConfig, client: &Client) -> Result<String, BackendError> {
    match client.get::<Value>("/v1/agent/self", &Query::default()).await {
        Ok(answer) => {
            let version = answer.value["config"]["Version"]["Version"].as_str();
            Ok(version.unwrap_or("of unknown version").to_owned())
        }
        Err(failure) if failure.is_denied() && !failure.is_unknown_token() => {
            // The version is good to know, and no more.
            let leader = client.get::<String>("/v1/status/leader", &Query::default()).await;
            leader.map_err(|failure| failure.backend("nomad has no leader"))?;
            Ok("of unknown version (the token lacks `agent:read`)".to_owned())
        }
        Err(failure) => Err(blamed(config, client.address(), failure)),
    }
}

/// A failure to reach an agent, with the setting that is to blame.
fn blamed(config: &NomadConfig, address: &str, failure: Failure) -> BackendError {
    let invalid = |message: String| BackendError::new(ErrorKind::Invalid, message);
    let is_plain = address.starts_with("http://");
    let wants_tls = matches!(&failure, Failure::Refused { status: 400, body } if body.is_empty() || body.contains("HTTPS server"));
    if is_plain && wants_tls {
        return invalid(format!(
            "`addresses` names `{address}`, and the agent there speaks TLS: write `https://`"
        ));
    }

    if failure.is_unknown_token() {
        let key = if config.token_file.is_some() { "token_file" } else { "token" };
        let mut error = failure.backend(format!(
            "nomad at `{address}` does not know the token in `{key}`, or it expired"
        ));
        error.kind = ErrorKind::Denied;
        return error;
    }

    let error = failure.backend(format!("nomad at `{address}` does not answer"));
    let text = error.chain();
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    if !is_plain && says(&["InvalidContentType", "corrupt message"]) {
        return invalid(format!(
            "`addresses` names `{address}`, and what answers there speaks no TLS: write `http://`"
        ));
    }

    let hint = if says(&["UnknownIssuer"]) {
        "its certificate is not trusted; name the authority's PEM file in `ca_file`"
    } else if says(&["NotValidForName"]) {
        "its certificate is for another name; set `tls_server_name`"
    } else if says(&["CertificateRequired", "certificate required"]) {
        "it wants a certificate of gofer's; set `cert_file` and `key_file`"
    } else {
        return error;
    };

    BackendError { message: format!("{}: {hint}", error.message), ..error }
}

/// Whether the agents sign tokens for tasks, and tell how to verify them.
async fn identities(calls: &JobCalls, version: &str) -> Result<(), BackendError> {
    let refused = |why: String| {
        let message =
            format!("`identity` is on, and {why}: leave `identity` out, or upgrade every agent");
        BackendError::new(ErrorKind::Invalid, message)
    };

    // Older ones take the job, ignore what they do not know, and the task has no token.
    if is_before_1_7(version) {
        return Err(refused(format!(
            "nomad {version} gives tasks no identities of their own; 1.7 does"
        )));
    }

    let keys = crate::identity::read_keys(&calls.client).await?;
    if keys.keys.is_empty() {
        return Err(refused("nomad shows no public keys".to_owned()));
    }

    Ok(())
}

/// Of a version that cannot be read nothing is said.
fn is_before_1_7(version: &str) -> bool {
    let mut numbers = version.split('.').map_while(|number| number.parse::<u32>().ok());
    matches!((numbers.next(), numbers.next()), (Some(major), Some(minor)) if (major, minor) < (1, 7))
}

async fn region(calls: &JobCalls) -> Result<(), BackendError> {
    let Some(wanted) = &calls.config.region else { return Ok(()) };
    let known = calls.client.get::<Vec<String>>("/v1/regions", &Query::default()).await;
    let known = known.map_err(|failure| failure.backend("nomad's regions cannot be read"))?.value;
    if known.contains(wanted) {
        return Ok(());
    }
    let message = format!("`region` is `{wanted}`, and nomad knows `{}`", known.join("`, `"));
    Err(BackendError::new(ErrorKind::Invalid, message))
}

/// Tries what gofer does with jobs and variables, without running anything.
async fn rights(calls: &JobCalls, namespace: &str) -> Result<(), BackendError> {
    let failed = |doing: &'static str| {
        move |failure: Failure| {
            failure.backend(format!("in nomad's namespace `{namespace}`, {doing}"))
        }
    };

    let query = Query::namespace(namespace);
    let list = query.clone().with("per_page", "1");
    calls.client.get::<Value>("/v1/jobs", &list).await.map_err(failed("jobs cannot be listed"))?;
    let name =
        calls.config.namespaces.iter().find(|(_, own)| own.namespace.as_deref() == Some(namespace));
    let template = calls.templates.get("").unwrap_or(&Value::Null);
    let name = name.map_or("", |(name, _)| name.as_str());
    let mut job = sample(&calls.config, template, name, ExecutionKind::Task)?;

    job["Namespace"] = json!(namespace);
    let job_id = job["ID"].as_str().unwrap_or_default().to_owned();

    // A plan changes nothing, and needs the right to submit jobs.
    let path = format!("/v1/job/{}/plan", encoded(&job_id));
    let plan = json!({"Job": job, "Diff": false});
    calls
        .client
        .put::<Value>(&path, &query, &plan)
        .await
        .map_err(failed("a job cannot be planned"))?;

    let key = JobKey { namespace: namespace.to_owned(), job_id };
    let path = &crate::job::secrets::paths(&key.job_id)[0];
    let body = json!({"Namespace": namespace, "Path": path, "Items": {"check": "1"}});
    let written = calls.client.put::<Value>(&format!("/v1/var/{path}"), &query, &body).await;
    written.map_err(failed("a variable cannot be written"))?;
    calls.variables(&key, &key.job_id).await.map_err(failed("variables cannot be listed"))?;

    calls.delete_variable(&key, path).await.map_err(failed("a variable cannot be deleted"))
}

/// How many nodes have the drivers that are configured.
async fn drivers(calls: &JobCalls) -> Result<String, BackendError> {
    let nodes = match calls.client.get::<Option<Vec<Node>>>("/v1/nodes", &Query::default()).await {
        Ok(answer) => answer.value.unwrap_or_default(),
        Err(failure) if failure.is_denied() => {
            return Ok("nodes unknown (the token lacks `node:read`)".to_owned());
        }
        Err(failure) => return Err(failure.backend("nomad's nodes cannot be listed")),
    };

    let ready: Vec<&Node> = nodes.iter().filter(|node| node.status == "ready").collect();
    let having = |driver: &str| {
        ready
            .iter()
            .filter(|node| node.drivers.get(driver).is_some_and(|driver| driver.healthy))
            .count()
    };

    let with = |driver: &str| format!("{driver} on {} of {} nodes", having(driver), ready.len());
    let (host, image) = (calls.config.host_driver.as_str(), calls.config.image_driver.as_str());
    let note = |driver: &str, what: &str| {
        if having(driver) == 0 {
            format!(" (tasks {what} an image wait until one has it)")
        } else {
            String::new()
        }
    };

    Ok(format!("{}{}, {}{}", with(host), note(host, "without"), with(image), note(image, "with")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_number() {
        for old in ["1.6.13", "1.0.0", "0.12.1"] {
            assert!(is_before_1_7(old), "{old}");
        }
        for new in ["1.7.0", "1.10.5", "2.0.5", "of unknown version", ""] {
            assert!(!is_before_1_7(new), "{new}");
        }
    }
}
