//! The configuration: `config/gofer.toml` is whole and true, layers win in order, and mistakes are
//! named.

use std::collections::BTreeSet;
use std::path::Path;

use figment::error::Kind;
use figment::providers::{Format, Toml};
use figment::{Figment, Jail};
use gofer_api::config::{Access, AuthMode, ConfigError, ServerConfig};

const DOCUMENTED: &str = include_str!("../../../config/gofer.toml");

/// The file with its examples switched on: lines that begin with `#` and a key or a table.
fn with_examples() -> String {
    let is_example =
        |rest: &str| rest.starts_with(|first: char| first == '[' || first.is_ascii_lowercase());
    let line = |line: &str| match line.strip_prefix('#') {
        Some(rest) if is_example(rest) => format!("{rest}\n"),
        _ => format!("{line}\n"),
    };
    DOCUMENTED.lines().map(line).collect()
}

fn parse(text: &str) -> Result<ServerConfig, Box<figment::Error>> {
    Ok(Figment::from(Toml::string(text)).extract()?)
}

#[test]
fn the_documented_values_are_the_defaults() {
    let documented = parse(DOCUMENTED).unwrap();
    documented.validate().unwrap();
    assert_eq!(format!("{documented:#?}"), format!("{:#?}", ServerConfig::default()));
}

#[test]
fn every_key_is_documented() {
    parse(&with_examples()).unwrap();
    let keys: toml::Table = with_examples().parse().unwrap();
    let mut missing = Vec::new();
    check_table(&keys, &mut Vec::new(), &mut missing);
    assert!(missing.is_empty(), "config/gofer.toml does not have {missing:?}");
}

/// The samples for other backends than the embedded ones keep every rule that can be checked
/// without them.
#[test]
fn the_samples_are_valid() {
    for sample in [
        include_str!("../../../config/production.toml"),
        include_str!("../../../config/nomad.toml"),
    ] {
        let config = parse(sample).unwrap();
        // Files that are somebody else's machine's are not here.
        let problems = config.validate().map_or_else(|error| error.to_string(), |()| String::new());
        let rest: Vec<&str> = problems
            .lines()
            .filter(|line| line.contains(": ") && !line.contains("cannot read"))
            .collect();
        assert!(rest.is_empty(), "{rest:?}");
    }
}

/// A key that cannot exist makes serde name all that can.
fn check_table(table: &toml::Table, path: &mut Vec<String>, missing: &mut Vec<String>) {
    let known = known_keys(path);
    let documented: BTreeSet<&str> = table.keys().map(String::as_str).collect();
    missing.extend(
        known
            .iter()
            .filter(|key| !documented.contains(*key))
            .map(|key| format!("{}.{key}", path.join("."))),
    );

    for (key, value) in table {
        if let toml::Value::Table(inner) = value {
            path.push(key.clone());
            check_table(inner, path, missing);
            path.pop();
        }
    }
}

fn known_keys(path: &[String]) -> &'static [&'static str] {
    let header = if path.is_empty() { String::new() } else { format!("[{}]\n", path.join(".")) };
    let error = parse(&format!("{header}no_such_key = 1\n")).unwrap_err();
    match error.kind {
        Kind::UnknownField(_, known) | Kind::UnknownVariant(_, known) => known,
        // A table whose keys are names of the user's.
        _ if path.last().is_some_and(|name| name == "namespaces") => &[],
        other => panic!("`{header}` takes unknown keys: {other}"),
    }
}

#[test]
#[expect(clippy::result_large_err, reason = "the error type is figment's")]
fn the_environment_wins_over_the_file_and_flags_over_both() {
    Jail::expect_with(|jail| {
        jail.create_file(
            "gofer.toml",
            "[server]\nlisten = \"127.0.0.1:1\"\n[limits]\npipeline_objects = 7\n",
        )?;
        jail.set_env("GOFER_SERVER__LISTEN", "127.0.0.1:2");
        jail.set_env("GOFER_DATABASE__TLS__REQUIRE", "true");
        jail.set_env("GOFER_LIMITS__CALL_TIMEOUT", "5s");

        // Variables of tasks and clients are no configuration.
        jail.set_env("GOFER_API_TOKEN", "gofer_t_x");
        let config = ServerConfig::load(Some(Path::new("gofer.toml"))).unwrap();
        assert_eq!((config.server.listen.port(), config.limits.pipeline_objects), (2, 7));
        assert!(config.database.tls.require && config.limits.call_timeout.as_secs() == 5);

        let config =
            ServerConfig::load_with(None, |config| config.server.auth = AuthMode::On).unwrap();
        assert_eq!(config.access(), Access::Tokens);

        Ok(())
    });
}

#[expect(clippy::result_large_err, reason = "the error type is figment's")]
fn problems(text: &str) -> String {
    let mut found = None;
    Jail::expect_with(|jail| {
        jail.create_file("gofer.toml", text)?;
        found = Some(ServerConfig::load(Some(Path::new("gofer.toml"))).unwrap_err());
        Ok(())
    });
    let error: ConfigError = found.unwrap();
    error.to_string()
}

#[test]
fn mistakes_are_named_by_key_value_and_rule() {
    let cases: &[(&str, &[&str])] = &[
        ("[server]\nlistn = 1\n", &["server.listn", "no such key", "listen", "gofer.toml"]),
        ("[servr]\n", &["servr", "no such key", "server"]),
        ("[limits]\ncalls_per_connection = \"many\"\n", &["limits.calls_per_connection", "many"]),
        ("[limits]\ncall_timeout = \"soon\"\n", &["limits.call_timeout", "soon"]),
        ("[limits]\ncall_timeout = \"2h\"\n", &["limits.call_timeout", "7200s", "1 hour"]),
        (
            "[server]\nlisten = \"0.0.0.0:1\"\n",
            &["server.listen", "0.0.0.0:1", "allow_insecure_listen"],
        ),
        ("[server.tls]\ncert_file = \"x\"\n", &["server.tls", "key_file"]),
        (
            "[server]\nallow_anonymous = true\nauth = \"on\"\n",
            &["server.allow_anonymous", "contradicts"],
        ),
        ("[server]\ncors_origins = [\"ci.example\"]\n", &["server.cors_origins", "ci.example"]),
        (
            "[server]\nhosts = [\"https://x\"]\n",
            &["server.hosts", "https://x", "gofer.example.com"],
        ),
        (
            "[server]\ntrusted_proxies = [\"10.0.0.0/33\"]\n",
            &["server.trusted_proxies", "10.0.0.0/33", "network"],
        ),
        (
            "[scheduler]\nbackend = \"nomad\"\n[scheduler.nomad]\npriority = 500\n",
            &["scheduler.nomad", "priority", "500", "100"],
        ),
        ("[objects]\nbackend = \"s3\"\n", &["objects.s3", "bucket"]),
        ("[secrets]\nbackend = \"vault\"\n", &["secrets.vault", "address"]),
        ("[scheduler]\nbackend = \"cron\"\n", &["scheduler.backend", "cron", "local"]),
        ("[scheduler.local]\ndir = \"x\"\n", &["scheduler.local", "absolute"]),
        ("[database]\nurl = \"mysql://u:hunter2@h/d\"\n", &["database.url", "mysql"]),
        ("[database]\nreaders = 0\n", &["database.readers", "1 to 64"]),
        ("[engine]\nlease_ttl = \"10ms\"\n", &["engine.lease_ttl", "10ms", "1 second"]),
        ("not toml", &["TOML"]),
    ];

    for (text, words) in cases {
        let message = problems(text);
        for word in *words {
            assert!(message.contains(word), "{text}: `{word}` is not in: {message}");
        }
        assert!(!message.contains("hunter2"), "{message}");
    }

    let all = problems(
        "[server]\nlisten = \"0.0.0.0:1\"\n[engine]\nmax_executions = 0\nmax_active_runs = \
         0\nmax_executions_per_pipeline = 0\n",
    );

    for key in
        ["server.listen:", "max_executions:", "max_executions_per_pipeline:", "max_active_runs:"]
    {
        assert!(all.contains(key), "{key} {all}");
    }
}

#[test]
fn no_secret_is_in_a_debug() {
    let config =
        parse("[database]\nurl = \"postgres://gofer:hunter2@db.example:5432/gofer\"\n").unwrap();
    let shown = format!("{config:?}");
    assert!(!shown.contains("hunter2") && shown.contains("db.example"), "{shown}");
}

#[test]
fn a_missing_file_is_named() {
    let error = ServerConfig::load(Some(Path::new("/no/such/gofer.toml"))).unwrap_err();
    assert!(error.to_string().contains("/no/such/gofer.toml"), "{error}");
}
