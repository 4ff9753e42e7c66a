use std::collections::BTreeMap;

use gofer_core::pipeline::Resources;
use gofer_core::scheduler::RegistryLogin;

use super::*;

fn id() -> ExecutionId {
    "default/ci/41/build/2".parse().unwrap()
}

fn spec(command: &[&str]) -> ExecutionSpec {
    ExecutionSpec {
        kind: ExecutionKind::Task,
        image: None,
        entrypoint: Vec::new(),
        command: command.iter().map(|&word| word.to_owned()).collect(),
        working_dir: None,
        env: BTreeMap::new(),
        resources: Resources::default(),
        registry_auth: None,
        timeout: None,
        separate_output: false,
    }
}

fn job(template: Value, spec: &ExecutionSpec) -> Value {
    prepare(&NomadConfig::default(), &template, "gofer-x", &id(), spec).job
}

fn words_of(job: &Value) -> Vec<&str> {
    main_of(job)["Config"]["args"]
        .as_array()
        .unwrap()
        .iter()
        .map(|word| word.as_str().unwrap())
        .collect()
}

fn main_of(job: &Value) -> &Value {
    &job["TaskGroups"][0]["Tasks"][0]
}

#[test]
fn a_task_is_never_started_twice_by_nomad() {
    let job = job(json!({}), &spec(&["echo", "hi"]));
    assert_eq!(
        (&job["ID"], &job["Type"], &job["Namespace"]),
        (&json!("gofer-x"), &json!("batch"), &json!("default"))
    );
    assert_eq!(job["Meta"][META_EXECUTION], "default/ci/41/build/2");
    assert_eq!(job["Meta"][META_INSTANCE], "gofer");

    let group = &job["TaskGroups"][0];
    assert_eq!(group["RestartPolicy"]["Attempts"], 0);
    assert_eq!(group["ReschedulePolicy"], json!({"Attempts": 0, "Unlimited": false}));
    assert_eq!(group["Disconnect"]["Replace"], false);
    assert_eq!(main_of(&job)["Driver"], "exec");
    assert_eq!(main_of(&job)["Config"]["command"], "/bin/sh");
    assert_eq!(words_of(&job), ["-c", &guard::of_task(None, false), "gofer", "echo", "hi"]);
    assert_eq!(job["Meta"][META_GUARDED], "1");
    assert_eq!(main_of(&job)["KillSignal"], "SIGTERM");
    assert_eq!(main_of(&job)["KillTimeout"], 30_000_000_000_u64);
    assert_eq!(main_of(&job)["Resources"], json!({"CPU": 100, "MemoryMB": 256}));
}

#[test]
fn a_service_is_kept_alive() {
    let mut service = spec(&["serve"]);
    service.kind = ExecutionKind::Service;
    let job = job(json!({}), &service);
    assert_eq!((&job["Type"], &job["Meta"][META_KIND]), (&json!("service"), &json!("service")));
    assert_eq!(job["TaskGroups"][0]["RestartPolicy"]["Mode"], "delay");
    assert_eq!(job["TaskGroups"][0]["ReschedulePolicy"]["Unlimited"], true);
    assert!(job["TaskGroups"][0]["Disconnect"].is_null());
    assert_eq!(
        (&main_of(&job)["Config"]["command"], &job["Meta"][META_GUARDED]),
        (&json!("serve"), &Value::Null)
    );
}

#[test]
fn nothing_of_the_users_is_interpolated() {
    let mut odd = spec(&["echo", "${HOME} $${x} %{if} $%{y} $ {z} 100% $5 $"]);
    odd.env.insert("A".into(), EnvValue::Plain("${HOME} %{x} $$".into()));
    let job = job(json!({}), &odd);
    let (d, p) = ("${NOMAD_META_gofer_dollar}", "${NOMAD_META_gofer_percent}");
    assert_eq!(
        main_of(&job)["Config"]["args"][4],
        format!("{d}{{HOME}} {d}{d}{{x}} {p}{{if}} {d}{p}{{y}} $ {{z}} 100% $5 $")
    );
    assert_eq!(main_of(&job)["Env"]["A"], format!("{d}{{HOME}} %{{x}} $$"));
    assert_eq!(
        (&job["Meta"]["gofer_dollar"], &job["Meta"]["gofer_percent"]),
        (&json!("$"), &json!("%"))
    );
    assert!(
        self::job(json!({}), &spec(&["true"]))["Meta"]["gofer_dollar"].is_null(),
        "only where it is needed"
    );
}

#[test]
fn secrets_are_not_in_the_job() {
    let mut secret = spec(&["true"]);
    secret.env.insert("A".into(), EnvValue::Secret("canary-1".into()));
    secret.env.insert("B".into(), EnvValue::Secret("canary-2".repeat(10_000).into()));
    secret.image = Some("registry/app:1".into());
    secret.registry_auth =
        Some(RegistryLogin { username: "me".into(), password: "canary-3".into() });

    let refused = job(json!({}), &secret);
    assert!(refused["Meta"][META_REFUSED].as_str().unwrap().contains("`B`"), "{refused}");
    secret.env.remove("B");
    let prepared = prepare(&NomadConfig::default(), &json!({}), "gofer-x", &id(), &secret);
    assert!(!format!("{prepared:?}").contains("canary"), "{prepared:?}");

    let auth = json!([{"username": "me", "password": "${GOFER_REGISTRY_PASSWORD}"}]);
    assert_eq!(main_of(&prepared.job)["Config"]["auth"], auth);
    assert_eq!(prepared.job["Meta"][META_SECRETS], "1");
    assert_eq!(prepared.secrets.unwrap().variables[0].1.len(), 2);
}

#[test]
fn a_secret_goes_through_a_shell_where_there_is_one() {
    let with = |image: Option<&str>, kind: ExecutionKind, command: &[&str]| {
        let mut spec = ExecutionSpec { image: image.map(str::to_owned), kind, ..spec(command) };
        spec.env.insert("A".into(), EnvValue::Secret("canary".into()));
        let job = job(json!({}), &spec);
        let main = main_of(&job);
        let loads = main["Config"].to_string().contains("gofer-secrets.sh");
        (loads, main["Templates"][0]["Envvars"] == true)
    };
    for kind in [ExecutionKind::Task, ExecutionKind::Service] {
        assert_eq!(with(None, kind, &["env"]), (true, false));
        assert_eq!(with(Some("app:1"), kind, &["sh", "-c", "env"]), (true, false));
        assert_eq!(with(Some("app:1"), kind, &["env"]), (false, true), "nobody knows its shell");
    }
}

#[test]
fn what_cannot_be_run_is_a_job_that_runs_nothing() {
    let mut relative = spec(&["true"]);
    relative.working_dir = Some("here".into());
    let mut name = spec(&["true"]);
    name.env.insert("A=B".into(), EnvValue::Plain(String::new()));
    for (spec, expected) in
        [(spec(&[]), "no command"), (spec(&["a\0b"]), "NUL"), (relative, "`here`"), (name, "`A=B`")]
    {
        let job = job(json!({}), &spec);
        assert!(job["Meta"][META_REFUSED].as_str().unwrap().contains(expected), "{job}");
        assert_eq!(job["TaskGroups"][0]["Count"], 0);
        assert_eq!(job["Meta"][META_EXECUTION], "default/ci/41/build/2");
    }
}

#[test]
fn the_template_is_kept_where_it_is_the_operators() {
    let template = json!({
        "Datacenters": ["eu"], "NodePool": null, "Priority": 70, "Constraints": [{"LTarget": "${attr.cpu.arch}"}],
        "Meta": {"team": "a"},
        "TaskGroups": [{
            "Name": GROUP, "Networks": [{"Mode": "bridge"}], "EphemeralDisk": {"SizeMB": 5_000},
            "Tasks": [
                {"Name": "proxy", "Driver": "docker", "Lifecycle": {"Hook": "prestart", "Sidecar": true}},
                {"Name": MAIN, "Driver": "exec", "Config": {"pid_mode": "host", "command": "theirs"}, "User": "ci",
                 "Env": {"A": "template", "PROXY": "x"}, "RestartPolicy": {"Attempts": 3},
                 "Templates": [{"EmbeddedTmpl": "t"}], "Resources": {"CPU": 700, "MemoryMB": 900, "MemoryMaxMB": 1_000}},
            ],
        }],
    });

    let mut task = spec(&["make"]);
    task.env.insert("A".into(), EnvValue::Plain("pipeline".into()));
    task.resources.memory_bytes = Some(1024 * 1024 * 1024 + 1);
    let job = job(template, &task);
    assert_eq!(
        (&job["Datacenters"], &job["NodePool"], &job["Priority"]),
        (&json!(["eu"]), &json!("default"), &json!(70))
    );
    assert_eq!(
        (&job["Meta"]["team"], &job["Constraints"][0]["LTarget"]),
        (&json!("a"), &json!("${attr.cpu.arch}"))
    );

    let group = &job["TaskGroups"][0];
    assert_eq!(group["Networks"][0]["Mode"], "bridge");
    assert_eq!(group["EphemeralDisk"]["SizeMB"], 5_000);
    assert_eq!(group["Tasks"][0]["Name"], "proxy");

    let main = &group["Tasks"][1];
    assert_eq!(
        (&main["Config"]["pid_mode"], &main["Config"]["args"][3]),
        (&json!("host"), &json!("make"))
    );
    assert_eq!(main["Env"], json!({"A": "pipeline", "PROXY": "x"}));
    assert_eq!((&main["User"], &main["RestartPolicy"]), (&json!("ci"), &Value::Null));
    assert_eq!(main["Resources"], json!({"CPU": 700, "MemoryMB": 1_025}));
    assert_eq!(main["Templates"], json!([{"EmbeddedTmpl": "t"}]));

    // The settings of one driver mean nothing to another.
    task.image = Some("app:1".into());
    let image = self::job(json!({"TaskGroups": [group]}), &task);
    assert_eq!(
        image["TaskGroups"][0]["Tasks"][1]["Config"],
        json!({"image": "app:1", "command": "make", "args": []})
    );
}

#[test]
fn identities_of_the_template_are_kept_beside_gofers() {
    let config = NomadConfig { identity: true, ..NomadConfig::default() };
    let with = |identities: Value| {
        let template = json!({"TaskGroups": [{"Name": "g", "Tasks": [{"Name": "main", "Identities": identities}]}]});
        prepare(&config, &template, "gofer-x", &id(), &spec(&["true"])).job
    };

    let made = with(json!([{"Name": "vault", "Audience": ["vault.io"]}]));
    let identities = &main_of(&made)["Identities"];
    assert_eq!(identities[0], json!({"Name": "vault", "Audience": ["vault.io"]}));
    assert_eq!(
        (&identities[1]["Name"], &identities[1]["Audience"]),
        (&json!("gofer"), &json!(["gofer:gofer"]))
    );
    assert_eq!(main_of(&made)["Env"]["GOFER_API_TOKEN"], "${NOMAD_TOKEN_gofer}");
    assert_eq!(
        (&identities[1]["Env"], &identities[1]["File"]),
        (&json!(true), &json!(false)),
        "everybody could read it"
    );

    let template =
        json!({"TaskGroups": [{"Name": "g", "Tasks": [{"Name": "main", "User": "ci"}]}]});
    let made = prepare(&config, &template, "gofer-x", &id(), &spec(&["true"])).job;
    assert_eq!(main_of(&made)["Identities"][0]["File"], true);

    let refused = with(json!([{"Name": "gofer"}]));
    assert!(
        refused["Meta"][META_REFUSED].as_str().unwrap().contains("name it otherwise"),
        "{refused}"
    );
    assert!(main_of(&job(json!({}), &spec(&["true"])))["Identities"].is_null());
}

#[test]
fn a_supervisor_is_for_tasks_without_an_image() {
    let config = NomadConfig {
        identity: true,
        supervisor: Some("/opt/gofer".to_owned()),
        ..NomadConfig::default()
    };

    config.validate().unwrap();
    let with = |spec: &ExecutionSpec| prepare(&config, &json!({}), "gofer-x", &id(), spec).job;
    let host = with(&spec(&["echo", "${x}"]));
    let settings = &main_of(&host)["Config"];
    assert_eq!(settings["command"], "/bin/sh");

    let args: Vec<&str> =
        settings["args"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
    assert_eq!(
        (args[0], &args[2..]),
        ("-c", &["/opt/gofer", "echo", "${NOMAD_META_gofer_dollar}{x}"][..])
    );
    assert_eq!(args[1], guard::of_task(None, true), "nothing of it is interpolated");
    assert_eq!(host["Meta"][META_SUPERVISED], "1");

    let mut limited = spec(&["echo"]);
    limited.timeout = Some(std::time::Duration::from_millis(1_500));
    assert_eq!(main_of(&with(&limited))["Env"]["GOFER_SUPERVISE_TIMEOUT_MS"], "1500");
    let unsupervised = NomadConfig { supervisor: None, ..config.clone() };
    let unsupervised = prepare(&unsupervised, &json!({}), "gofer-x", &id(), &limited).job;
    assert!(
        main_of(&unsupervised)["Env"]["GOFER_SUPERVISE_TIMEOUT_MS"].is_null(),
        "nobody would take it away"
    );

    let mut image = spec(&["echo"]);
    image.image = Some("alpine:3".to_owned());
    let mut service = spec(&["serve"]);
    service.kind = ExecutionKind::Service;

    for other in [image, service] {
        let job = with(&other);
        assert!(
            job["Meta"][META_SUPERVISED].is_null() && !job.to_string().contains("/opt/gofer"),
            "{job}"
        );
    }

    let alone = NomadConfig { identity: false, ..config.clone() };
    assert!(alone.validate().unwrap_err().message.contains("set `identity = true`"));
    let relative = NomadConfig { supervisor: Some("gofer".to_owned()), ..config };
    assert!(relative.validate().unwrap_err().message.contains("absolute"));
}

#[test]
fn a_shell_in_docker_writes_to_nomads_pipes_by_itself() {
    let with = |entrypoint: &[&str], command: &[&str]| {
        let owned = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        ExecutionSpec {
            image: Some("app:1".into()),
            entrypoint: owned(entrypoint),
            ..spec(command)
        }
    };

    let script = with(&["sh", "-euc"], &["make"]);
    let made = job(json!({}), &script);
    let settings = &main_of(&made)["Config"];
    let words = settings["entrypoint"].as_array().unwrap();
    assert_eq!(
        (&words[0], &words[1], &words[3..]),
        (&json!("sh"), &json!("-c"), &[json!("gofer"), json!("sh"), json!("-euc")][..])
    );
    assert!(words[2].as_str().unwrap().ends_with("exec \"$@\""), "{words:?}");
    assert_eq!(
        (&settings["command"], &settings["args"], &settings["init"]),
        (&json!("make"), &json!([]), &json!(true))
    );
    assert_eq!(made["Meta"][META_CONTAINER], "1");

    // The image's own entrypoint stays what it is.
    let command = job(json!({}), &with(&[], &["/bin/bash", "-c", "make"]));
    let settings = &main_of(&command)["Config"];
    assert_eq!(
        (&settings["entrypoint"], &settings["command"]),
        (&Value::Null, &json!("/bin/bash"))
    );
    assert_eq!(
        settings["args"].as_array().unwrap()[2..],
        [json!("gofer"), json!("/bin/bash"), json!("-c"), json!("make")]
    );

    let template = json!({"TaskGroups": [{"Name": "g", "Tasks": [
        {"Name": "main", "Driver": "docker", "Config": {"init": false}}]}]});
    assert_eq!(main_of(&job(template, &script))["Config"]["init"], false, "the operator's word");

    for other in [with(&["make"], &["sh"]), with(&[], &["make"]), with(&[], &[])] {
        let job = job(json!({}), &other);
        assert_eq!(job["Meta"][META_GUARDED], Value::Null);
        let settings = main_of(&job)["Config"].to_string();
        assert!(!settings.contains("fifo") && !settings.contains("init"), "{settings}");
    }

    let podman = NomadConfig { image_driver: ImageDriver::Podman, ..NomadConfig::default() };
    let podman = prepare(&podman, &json!({}), "gofer-x", &id(), &script).job;
    let words = main_of(&podman)["Config"]["entrypoint"].as_array().unwrap();
    assert!(!words[2].as_str().unwrap().contains("fifo"), "podman's log has everything: {words:?}");
    assert_eq!(
        (&words[3..], &podman["Meta"][META_GUARDED]),
        (&json!(["gofer", "sh", "-euc"]).as_array().unwrap()[..], &json!("1"))
    );
}

#[test]
fn the_shell_of_every_image_goes_before_any_program() {
    let config = NomadConfig { image_shell: Some("/bin/sh".to_owned()), ..NomadConfig::default() };
    let of = |image: Option<&str>, entrypoint: &[&str], command: &[&str]| {
        let entrypoint = entrypoint.iter().map(|&word| word.to_owned()).collect();
        let spec = ExecutionSpec { image: image.map(str::to_owned), entrypoint, ..spec(command) };
        main_of(&prepare(&config, &json!({}), "gofer-x", &id(), &spec).job)["Config"].clone()
    };

    let words = |settings: &Value| {
        let words = settings["entrypoint"].as_array().unwrap().clone();
        assert!(words[2].as_str().unwrap().contains("fifo"), "{words:?}");
        [&words[..2], &words[3..]].concat()
    };

    let command = of(Some("app:1"), &[], &["make", "all"]);
    assert_eq!(words(&command), ["/bin/sh", "-c", "gofer"], "in place of the image's entrypoint");
    assert_eq!((&command["command"], &command["args"]), (&json!("make"), &json!(["all"])));
    let entrypoint = of(Some("app:1"), &["python"], &["x.py"]);
    assert_eq!(words(&entrypoint), ["/bin/sh", "-c", "gofer", "python"]);
    assert_eq!((&entrypoint["command"], &entrypoint["init"]), (&json!("x.py"), &json!(true)));

    let script = of(Some("app:1"), &[], &["bash", "-c", "make"]);
    assert_eq!(
        (&script["entrypoint"], &script["command"]),
        (&Value::Null, &json!("bash")),
        "a shell of the task's"
    );

    let unknown = of(Some("app:1"), &[], &[]);
    assert_eq!(
        (&unknown["entrypoint"], &unknown["init"]),
        (&Value::Null, &Value::Null),
        "the image's own command"
    );
    assert_eq!(of(None, &[], &["make"])["args"][3], "make", "no image");

    let relative = NomadConfig { image_shell: Some("sh".to_owned()), ..NomadConfig::default() };
    assert!(
        relative
            .validate()
            .unwrap_err()
            .message
            .contains("`image_shell` is `sh`: must be an absolute path")
    );
}

#[test]
fn a_long_secret_goes_through_the_shell_of_an_image() {
    let mut long =
        ExecutionSpec { image: Some("app:1".into()), ..spec(&["/bin/sh", "-c", "make"]) };
    long.env.insert("A".into(), EnvValue::Secret("canary".repeat(11_000).into()));
    let job = job(json!({}), &long);
    let script = main_of(&job)["Config"]["args"][1].as_str().unwrap();
    assert!(script.contains("gofer-secrets") && !job.to_string().contains("canary"), "{script}");

    let podman = NomadConfig { image_driver: ImageDriver::Podman, ..NomadConfig::default() };
    let podman = prepare(&podman, &json!({}), "gofer-x", &id(), &long).job;
    let settings = &main_of(&podman)["Config"];
    let script = settings["args"][1].as_str().unwrap();
    assert!(
        script.contains("gofer-secrets") && !script.contains("fifo"),
        "podman's log has everything: {script}"
    );
    assert_eq!(settings["init"], Value::Null, "it needs a program on the node");
}
