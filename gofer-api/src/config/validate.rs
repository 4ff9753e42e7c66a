//! The rules a configuration obeys beyond the types of its keys.

use std::time::Duration;

use super::{AuthMode, ConfigError, ServerConfig};

/// Longest timeout that makes sense for one call or one silence.
const MAX_TIMEOUT: Duration = Duration::from_secs(3600);
/// Shortest lease: it is renewed three times as often, with a write to the database each time.
const MIN_LEASE: Duration = Duration::from_secs(1);

impl ServerConfig {
    /// Every broken rule, or nothing.
    ///
    /// # Errors
    /// [`ConfigError`], which names each key, its value and the rule.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let mut problems = Vec::new();
        self.validate_exposure(&mut problems);
        self.validate_limits(&mut problems);
        self.validate_backends(&mut problems);
        if problems.is_empty() { Ok(()) } else { Err(ConfigError { problems }) }
    }

    fn validate_exposure(&self, problems: &mut Vec<String>) {
        let server = &self.server;
        let (listen, loopback) = (server.listen, server.listen.ip().is_loopback());
        if server.tls.cert_file.is_some() != server.tls.key_file.is_some() {
            problems.push("server.tls: `cert_file` and `key_file` are set together or not at all".to_owned());
        }
        if !loopback && !self.serves_tls() && !server.allow_insecure_listen {
            problems.push(format!(
                "server.listen: `{listen}` is not a loopback address and there is no TLS; set `server.tls.cert_file` \
                 and `key_file`, or `server.allow_insecure_listen = true` when something in front of it does TLS"
            ));
        }
        if server.allow_anonymous && server.auth == AuthMode::On {
            problems.push("server.allow_anonymous: `true` contradicts `server.auth = \"on\"`".to_owned());
        }
        if server.data_dir.as_ref().is_some_and(|dir| dir.as_os_str().is_empty()) {
            problems.push("server.data_dir: `` names no directory; leave it out for the default".to_owned());
        }
        for origin in &server.cors_origins {
            if !(origin.starts_with("http://") || origin.starts_with("https://")) || origin.ends_with('/') {
                problems.push(format!(
                    "server.cors_origins: `{origin}` is not an origin, such as `https://ci.example.com`"
                ));
            }
        }
    }

    fn validate_limits(&self, problems: &mut Vec<String>) {
        let limits = &self.limits;
        let counts = [
            ("limits.object_max_bytes", limits.object_max_bytes),
            ("limits.pipeline_objects", limits.pipeline_objects),
            ("limits.calls_per_connection", limits.calls_per_connection as u64),
            ("limits.upload_min_rate", limits.upload_min_rate),
            ("limits.exec_sessions", limits.exec_sessions as u64),
            ("retention.keep_runs", self.retention.keep_runs),
            ("retention.keep_pipeline_versions", self.retention.keep_pipeline_versions),
        ];
        for (key, value) in counts {
            if value == 0 {
                problems.push(format!("{key}: `0` is not possible; at least 1"));
            }
        }
        let timeouts = [
            ("limits.call_timeout", limits.call_timeout),
            ("limits.idle_timeout", limits.idle_timeout),
            ("limits.shutdown_grace", limits.shutdown_grace),
        ];
        for (key, value) in timeouts {
            if value.is_zero() || value > MAX_TIMEOUT {
                problems.push(format!("{key}: `{value:?}` is not possible; more than 0 and at most 1 hour"));
            }
        }
    }

    fn validate_backends(&self, problems: &mut Vec<String>) {
        let bounds = [
            ("engine.max_executions", Some(self.engine.max_executions)),
            ("engine.max_executions_per_pipeline", self.engine.max_executions_per_pipeline),
            ("engine.max_active_runs", Some(self.engine.max_active_runs)),
        ];
        for (key, _) in bounds.iter().filter(|(_, value)| *value == Some(0)) {
            problems.push(format!("{key}: `0` is not possible; at least 1"));
        }
        let lease_ttl = self.engine.lease_ttl;
        if !(MIN_LEASE..=MAX_TIMEOUT).contains(&lease_ttl) {
            problems.push(format!("engine.lease_ttl: `{lease_ttl:?}` is not possible; 1 second to 1 hour"));
        }
        for (key, value) in [("retention.runs", self.retention.runs), ("retention.events", self.retention.events)] {
            if value.is_zero() {
                problems.push(format!("{key}: `0s` would delete them at once; say how long they are kept"));
            }
        }
        for quota in gofer_core::quota::QuotaKind::ALL {
            let limit = self.quota.get(*quota);
            if limit > gofer_core::quota::MAX_LIMIT {
                let most = gofer_core::quota::MAX_LIMIT;
                problems.push(format!("quota.{quota}: `{limit}` is not possible; at most {most}"));
            }
        }
        if self.retention.logs.is_zero() {
            problems.push("retention.logs: `0s` would delete every log at once; say how long logs are kept".to_owned());
        }
        if self.retention.uploads.is_zero() {
            let rule = "would delete what is still being uploaded; say how long an upload may last at most";
            problems.push(format!("retention.uploads: `0s` {rule}"));
        }
        let database = self.resolved_database();
        if let Err(error) = database.target() {
            problems.push(format!("database.{error}"));
        }
        for (table, result) in crate::compose::validate(self) {
            if let Err(error) = result {
                problems.push(format!("{table}: {}", error.message));
            }
        }
    }
}
