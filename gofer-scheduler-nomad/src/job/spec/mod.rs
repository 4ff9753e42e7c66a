//! From an [`ExecutionSpec`] to a Nomad job. Pure.

use gofer_core::ExecutionId;
use gofer_core::scheduler::{EnvValue, ExecutionKind, ExecutionSpec};
use secrecy::SecretString;
use serde_json::{Map, Value, json};

use crate::config::{HostDriver, ImageDriver, NomadConfig};
use crate::job::container;
use crate::job::guard;
use crate::job::names::{
    self, GROUP, MAIN, META_CONTAINER, META_DOLLAR, META_EXECUTION, META_GUARDED, META_INSTANCE,
    META_KIND, META_PERCENT, META_REFUSED, META_SECRETS, META_SUPERVISED,
};
use crate::job::secrets::{self, Packed, Shell};

/// How long the supervisor lets the task run, in milliseconds. It takes the variable out of the
/// task's environment.
const SUPERVISE_TIMEOUT: &str = "GOFER_SUPERVISE_TIMEOUT_MS";

/// The password of the image registry on its way through the task's environment into the driver's
/// configuration.
const REGISTRY_PASSWORD: &str = "GOFER_REGISTRY_PASSWORD";
const SECOND: i64 = 1_000_000_000;
/// How long Nomad itself waits for a node that is out of reach before it places a replacement:
/// longer than any patience of Gofer's, which acts after `node_lost_after`.
const DISCONNECT_LOST_AFTER: i64 = 6 * 3_600 * SECOND;
/// Nomad's smallest memory of a task, in MiB.
const MIN_MEMORY_MB: u64 = 10;
/// The longest reason kept in a job's metadata.
const MAX_REASON_CHARS: usize = 2_000;

/// A job to register, and the variables to write before.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) job: Value,
    pub(crate) secrets: Option<Packed>,
}

/// Makes the job of an execution from the template (an object, possibly empty).
///
/// A spec that Nomad cannot run becomes a job that runs nothing and says why: the execution exists,
/// and has failed.
pub(crate) fn prepare(
    config: &NomadConfig,
    template: &Value,
    job_id: &str,
    id: &ExecutionId,
    spec: &ExecutionSpec,
) -> Prepared {
    match runnable(config, template, job_id, id, spec) {
        Ok(prepared) => prepared,
        Err(reason) => Prepared { job: refused(config, job_id, id, &reason), secrets: None },
    }
}

fn runnable(
    config: &NomadConfig,
    template: &Value,
    job_id: &str,
    id: &ExecutionId,
    spec: &ExecutionSpec,
) -> Result<Prepared, String> {
    let mut job = object(template);
    identify(&mut job, config, job_id, id);
    set_meta(
        &mut job,
        META_KIND,
        if spec.kind == ExecutionKind::Service { "service" } else { "task" },
    );
    job.insert(
        "Type".into(),
        json!(if spec.kind == ExecutionKind::Service { "service" } else { "batch" }),
    );
    if supervisor(config, spec).is_some() {
        set_meta(&mut job, META_SUPERVISED, "1");
    }

    if spec.image.is_some() {
        set_meta(&mut job, META_CONTAINER, "1");
    }

    let has_shell = spec.image.is_none() || container::shell(config, spec).is_some();
    if spec.kind == ExecutionKind::Task && has_shell {
        set_meta(&mut job, META_GUARDED, "1");
    }

    let mut groups = array(job.get("TaskGroups"));
    let mut group = if groups.is_empty() { Map::new() } else { object(&groups.remove(0)) };
    let mut tasks = array(group.get("Tasks"));
    let place = tasks.iter().position(|task| task["Name"] == MAIN);
    let slot = place.map(|place| object(&tasks[place])).unwrap_or_default();
    let as_agent =
        config.host_driver == HostDriver::RawExec && slot.get("User").is_none_or(|user| user == "");
    let shell = match spec.image {
        _ if !has_shell => Shell::None,
        None if as_agent => Shell::Same,
        _ => Shell::Other,
    };

    let packed = pack_secrets(job_id, spec, shell)?;
    let task = Value::Object(main_task(config, slot, spec, packed.as_ref())?);
    match place {
        Some(place) => tasks[place] = task,
        None => tasks.push(task),
    }

    set_group(config, &mut group, spec.kind);
    group.insert("Tasks".into(), Value::Array(tasks));
    job.insert("TaskGroups".into(), json!([group]));
    if let Some(packed) = &packed {
        set_meta(&mut job, META_SECRETS, &packed.variables.len().to_string());
    }

    let mut job = Value::Object(job);
    let text = job.to_string();
    for (key, value) in [(META_DOLLAR, "$"), (META_PERCENT, "%")] {
        if text.contains(&interpolation(key))
            && let Some(job) = job.as_object_mut()
        {
            set_meta(job, key, value);
        }
    }

    Ok(Prepared { job, secrets: packed })
}

/// A job of no allocation whose metadata says why.
pub(crate) fn refused(config: &NomadConfig, job_id: &str, id: &ExecutionId, reason: &str) -> Value {
    let mut job = Map::new();
    identify(&mut job, config, job_id, id);
    job.insert("Type".into(), json!("batch"));
    let reason: String = reason.chars().take(MAX_REASON_CHARS).collect();
    set_meta(&mut job, META_REFUSED, &reason);
    let task = json!({"Name": MAIN, "Driver": config.host_driver.as_str(), "Config": {"command": "true"},
        "Resources": {"CPU": 1, "MemoryMB": MIN_MEMORY_MB}, "LogConfig": {"MaxFiles": 1, "MaxFileSizeMB": 1}});
    job.insert("TaskGroups".into(), json!([{"Name": GROUP, "Count": 0, "Tasks": [task]}]));
    Value::Object(job)
}

/// What says whose job it is, and where it belongs.
fn identify(job: &mut Map<String, Value>, config: &NomadConfig, job_id: &str, id: &ExecutionId) {
    for (key, value) in [("ID", json!(job_id)), ("Name", json!(job_id))] {
        job.insert(key.into(), value);
    }

    job.insert("Namespace".into(), json!(config.namespace_of(&id.run.namespace)));
    if let Some(region) = &config.region {
        job.insert("Region".into(), json!(region));
    }

    set_default(job, "Datacenters", json!(config.datacenters));
    set_default(job, "NodePool", json!(config.node_pool));
    set_default(job, "Priority", json!(config.priority));

    for (key, value) in [
        (META_EXECUTION, id.to_string()),
        (META_INSTANCE, config.job_prefix.clone()),
        ("gofer_namespace", id.run.namespace.to_string()),
        ("gofer_pipeline", id.run.pipeline.to_string()),
        ("gofer_run", id.run.run.to_string()),
        ("gofer_task", id.task.to_string()),
        ("gofer_attempt", id.attempt.to_string()),
    ] {
        set_meta(job, key, &value);
    }
}

/// A task is never started again by Nomad, wherever; a service always is.
fn set_group(config: &NomadConfig, group: &mut Map<String, Value>, kind: ExecutionKind) {
    group.insert("Name".into(), json!(GROUP));
    group.insert("Count".into(), json!(1));
    let smallest = json!({"SizeMB": config.log.disk_mb, "Sticky": false, "Migrate": false});
    let disk = group.get("EphemeralDisk").and_then(|disk| disk["SizeMB"].as_u64()).unwrap_or(0);
    if disk <= config.log.disk_mb {
        group.insert("EphemeralDisk".into(), smallest);
    }

    let (restart, reschedule) = match kind {
        ExecutionKind::Task => {
            let disconnect = json!({"LostAfter": DISCONNECT_LOST_AFTER, "Replace": false, "Reconcile": "keep_original"});
            group.insert("Disconnect".into(), disconnect);
            let restart = json!({"Attempts": 0, "Mode": "fail", "Interval": 24 * 3_600 * SECOND, "Delay": 15 * SECOND});
            (restart, json!({"Attempts": 0, "Unlimited": false}))
        }
        ExecutionKind::Service => {
            let restart =
                json!({"Attempts": 5, "Mode": "delay", "Interval": 10 * SECOND, "Delay": SECOND});
            let reschedule = json!({"Unlimited": true, "Delay": 5 * SECOND, "DelayFunction": "exponential",
                "MaxDelay": 300 * SECOND});
            (restart, reschedule)
        }
    };

    group.insert("RestartPolicy".into(), restart);
    group.insert("ReschedulePolicy".into(), reschedule);
}

fn main_task(
    config: &NomadConfig,
    mut task: Map<String, Value>,
    spec: &ExecutionSpec,
    packed: Option<&Packed>,
) -> Result<Map<String, Value>, String> {
    let driver = match spec.image {
        Some(_) => config.image_driver.as_str(),
        None => config.host_driver.as_str(),
    };

    // The template's settings of another driver mean nothing to this one.
    let kept = task.get("Driver").is_some_and(|kept| kept == driver);
    let mut settings = task.get("Config").filter(|_| kept).map(object).unwrap_or_default();
    settings.extend(driver_settings(config, spec, packed)?);
    if config.image_driver == ImageDriver::Docker && container::shell(config, spec).is_some() {
        // Process 1 of a container ignores the signals that it sends itself, and adopts what others
        // leave behind.
        settings.entry("init").or_insert(json!(true));
    }

    task.insert("Name".into(), json!(MAIN));
    task.insert("Driver".into(), json!(driver));
    task.insert("Config".into(), Value::Object(settings));
    task.remove("RestartPolicy");

    let mut env = task.get("Env").map(object).unwrap_or_default();
    for (name, value) in &spec.env {
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(format!(
                "variable `{name}` is not a name: it must not be empty or hold `=` or NUL"
            ));
        }
        if let EnvValue::Plain(value) = value {
            if value.contains('\0') {
                return Err(format!(
                    "the value of variable `{name}` holds a NUL byte, which no program can be \
                     given"
                ));
            }
            env.insert(name.clone(), json!(literal(value)));
        } else {
            env.remove(name);
        }
    }

    if config.identity {
        set_identity(config, &mut task)?;
        env.insert("GOFER_API_TOKEN".into(), json!(format!("${{{}}}", names::IDENTITY_VARIABLE)));
    }

    if let Some(timeout) = spec.timeout.filter(|_| supervisor(config, spec).is_some()) {
        env.insert(SUPERVISE_TIMEOUT.into(), json!(timeout.as_millis().to_string()));
    }

    task.insert("Env".into(), Value::Object(env));
    let mut templates = array(task.get("Templates"));
    templates.extend(packed.map(|packed| packed.templates.clone()).unwrap_or_default());
    task.insert("Templates".into(), Value::Array(templates));

    let mut resources = task.get("Resources").map(object).unwrap_or_default();
    set_resources(config, &mut resources, spec);
    task.insert("Resources".into(), Value::Object(resources));
    let log =
        json!({"MaxFiles": config.log.max_files, "MaxFileSizeMB": config.log.max_file_size_mb});
    set_default(&mut task, "LogConfig", log);
    task.insert("KillTimeout".into(), json!(nanos(config.max_grace)));
    task.insert("KillSignal".into(), json!("SIGTERM"));

    Ok(task)
}

/// The program that supervises an execution, if one does.
fn supervisor<'a>(config: &'a NomadConfig, spec: &ExecutionSpec) -> Option<&'a str> {
    let task = spec.image.is_none() && spec.kind == ExecutionKind::Task;
    config.supervisor.as_deref().filter(|_| task && config.identity)
}

/// Adds Gofer's identity to those that the template gives the task.
fn set_identity(config: &NomadConfig, task: &mut Map<String, Value>) -> Result<(), String> {
    let mut identities = array(task.get("Identities"));
    if identities.iter().any(|one| one["Name"] == names::IDENTITY) {
        return Err(format!(
            "the job template gives the task an identity `{}`: name it otherwise",
            names::IDENTITY
        ));
    }

    // Without a user to give the file to, Nomad writes it for everybody on the node to read.
    let has_user = task.get("User").and_then(Value::as_str).is_some_and(|user| !user.is_empty());
    identities.push(json!({
        "Name": names::IDENTITY, "Audience": [names::audience(&config.job_prefix)], "Env": true, "File": has_user,
        "TTL": nanos(names::IDENTITY_LIFETIME), "ChangeMode": "noop",
    }));

    task.insert("Identities".into(), Value::Array(identities));
    Ok(())
}

/// What tells the driver which program to run.
fn driver_settings(
    config: &NomadConfig,
    spec: &ExecutionSpec,
    packed: Option<&Packed>,
) -> Result<Map<String, Value>, String> {
    let mut settings = Map::new();
    let words = |words: &[String]| {
        Value::Array(words.iter().map(|word| json!(config_literal(word))).collect())
    };

    if spec.entrypoint.iter().chain(&spec.command).any(|word| word.contains('\0')) {
        return Err("the command holds a NUL byte, which no program can be given".to_owned());
    }

    let podman = spec.image.is_some() && config.image_driver == ImageDriver::Podman;
    if let Some(dir) = &spec.working_dir {
        if !dir.starts_with('/') {
            return Err(format!("the working directory `{dir}` must be an absolute path"));
        }
        let key = if podman { "working_dir" } else { "work_dir" };
        settings.insert(key.into(), json!(config_literal(dir)));
    }

    let Some(image) = &spec.image else {
        let mut argv: Vec<String> = spec.entrypoint.iter().chain(&spec.command).cloned().collect();
        if argv.first().is_none_or(String::is_empty) {
            return Err("there is no command: name a program in `command`".to_owned());
        }

        let supervisor = supervisor(config, spec);
        let script = match spec.kind {
            ExecutionKind::Task => Some(guard::of_task(packed, supervisor.is_some())),
            ExecutionKind::Service => guard::of_service(packed),
        };

        if let Some(script) = script {
            argv.splice(
                0..0,
                ["/bin/sh", "-c", &script, supervisor.unwrap_or("gofer")].map(str::to_owned),
            );
        }

        settings.insert("command".into(), json!(config_literal(&argv[0])));
        settings.insert("args".into(), words(&argv[1..]));
        return Ok(settings);
    };

    settings.insert("image".into(), json!(config_literal(image)));
    let (entrypoint, command) = container::wrapped(config, spec, packed);
    if !entrypoint.is_empty() {
        settings.insert("entrypoint".into(), words(&entrypoint));
    }

    if let Some((program, arguments)) = command.split_first() {
        settings.insert("command".into(), json!(config_literal(program)));
        settings.insert("args".into(), words(arguments));
    }

    if let Some(login) = &spec.registry_auth {
        let password = format!("${{{REGISTRY_PASSWORD}}}");
        let auth = json!([{"username": config_literal(&login.username), "password": password}]);
        settings.insert("auth".into(), auth);
    }

    Ok(settings)
}

fn pack_secrets(
    job_id: &str,
    spec: &ExecutionSpec,
    shell: Shell,
) -> Result<Option<Packed>, String> {
    let mut values: Vec<(&str, &SecretString)> = Vec::new();
    for (name, value) in &spec.env {
        if let EnvValue::Secret(value) = value {
            values.push((name, value));
        }
    }

    let mut drivers: Vec<(&str, &SecretString)> = Vec::new();
    if let Some(login) = spec.registry_auth.as_ref().filter(|_| spec.image.is_some()) {
        if spec.env.contains_key(REGISTRY_PASSWORD) {
            return Err(format!(
                "variable `{REGISTRY_PASSWORD}` is needed for the image registry: name it \
                 otherwise"
            ));
        }
        drivers.push((REGISTRY_PASSWORD, &login.password));
    }

    if values.is_empty() && drivers.is_empty() {
        return Ok(None);
    }

    secrets::pack(job_id, &values, &drivers, shell).map(Some)
}

fn set_resources(config: &NomadConfig, resources: &mut Map<String, Value>, spec: &ExecutionSpec) {
    match spec.resources.cpu_millis {
        Some(millis) => {
            let mhz = (u64::from(millis) * config.mhz_per_core).div_ceil(1_000).max(1);
            resources.insert("CPU".into(), json!(mhz));
            resources.remove("Cores");
        }
        None if resources.get("Cores").and_then(Value::as_u64).is_some_and(|cores| cores > 0) => {}
        None => set_default(resources, "CPU", json!(config.default_cpu_mhz)),
    }

    match spec.resources.memory_bytes {
        Some(bytes) => {
            let mib = bytes.div_ceil(1024 * 1024).max(MIN_MEMORY_MB);
            resources.insert("MemoryMB".into(), json!(mib));
            resources.remove("MemoryMaxMB");
        }
        None => set_default(resources, "MemoryMB", json!(config.default_memory_mb)),
    }

    resources.remove("DiskMB");
}

/// A text that Nomad must not interpolate, for the environment.
///
/// There is no escape there: Nomad replaces `${name}` where it knows the name and leaves it where
/// it does not. But what it puts in is not looked at again, so each `$` before a `{` comes from
/// metadata.
fn literal(text: &str) -> String {
    guarded(text, &['$'])
}

/// The same for a driver's configuration, which HCL interpolates: there `%{` begins something, too.
fn config_literal(text: &str) -> String {
    guarded(text, &['$', '%'])
}

/// Takes each of the signs that stand, one or more of them, directly before a `{` from metadata.
fn guarded(text: &str, signs: &[char]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut run = String::new();
    for char in text.chars() {
        if signs.contains(&char) {
            run.push(char);
            continue;
        }

        for sign in run.drain(..) {
            match (char, sign) {
                ('{', '$') => out.push_str(&interpolation(META_DOLLAR)),
                ('{', _) => out.push_str(&interpolation(META_PERCENT)),
                (_, sign) => out.push(sign),
            }
        }

        out.push(char);
    }

    out + &run
}

fn interpolation(meta: &str) -> String {
    format!("${{NOMAD_META_{meta}}}")
}

fn nanos(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn object(value: &Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap_or_default()
}

fn array(value: Option<&Value>) -> Vec<Value> {
    value.and_then(Value::as_array).cloned().unwrap_or_default()
}

/// Sets what the template left out.
fn set_default(map: &mut Map<String, Value>, key: &str, value: Value) {
    if map
        .get(key)
        .is_none_or(|known| known.is_null() || known.as_array().is_some_and(Vec::is_empty))
    {
        map.insert(key.to_owned(), value);
    }
}

fn set_meta(job: &mut Map<String, Value>, key: &str, value: &str) {
    let mut meta = job.get("Meta").map(object).unwrap_or_default();
    meta.insert(key.to_owned(), json!(value));
    job.insert("Meta".to_owned(), Value::Object(meta));
}

#[cfg(test)]
mod tests;
