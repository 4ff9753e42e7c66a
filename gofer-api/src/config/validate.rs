//! The rules a configuration obeys beyond the types of its keys.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use super::{AuthMode, ConfigError, ServerConfig};

/// Longest timeout that makes sense for one call or one silence.
const TIMEOUT_MAX: Duration = Duration::from_secs(3600);
/// The longest that a signature of S3 is good for.
const URL_TTL_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// Shortest lease: it is renewed three times as often, with a write to the database each time.
const LEASE_TTL_MIN: Duration = Duration::from_secs(1);
/// Youngest connection that is asked to end: a new one costs a handshake.
const CONNECTION_AGE_MIN: Duration = Duration::from_secs(10);
/// Least memory for requests: one caller has a quarter of it, which must hold the largest request.
const REQUEST_MEMORY_MIN_BYTES: usize = 128 * 1024 * 1024;

/// An address, or a network such as `10.0.0.0/8`.
pub(crate) fn network(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

/// No scheme, no port, no path.
fn is_name(host: &str) -> bool {
    !host.is_empty()
        && host
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
}

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
            problems.push(
                "server.tls: `cert_file` and `key_file` are set together or not at all".to_owned(),
            );
        }

        if server.tls.client_ca_file.is_some() && !self.serves_tls() {
            problems
                .push("server.tls: `client_ca_file` needs `cert_file` and `key_file`".to_owned());
        }

        if !loopback && !self.serves_tls() && !server.allow_insecure_listen {
            problems.push(format!(
                "server.listen: `{listen}` is not a loopback address and there is no TLS; set \
                 `server.tls.cert_file` and `key_file`, or `server.allow_insecure_listen = true` \
                 when something in front of it does TLS"
            ));
        }

        self.validate_metrics(problems);
        if server.allow_anonymous && server.auth == AuthMode::On {
            problems.push(
                "server.allow_anonymous: `true` contradicts `server.auth = \"on\"`".to_owned(),
            );
        }

        if server.data_dir.as_ref().is_some_and(|dir| dir.as_os_str().is_empty()) {
            problems.push(
                "server.data_dir: `` names no directory; leave it out for the default".to_owned(),
            );
        }

        for proxy in server.trusted_proxies.iter().filter(|proxy| network(proxy).is_none()) {
            problems.push(format!(
                "server.trusted_proxies: `{proxy}` is neither an address nor a network, such as \
                 `10.0.0.0/8`"
            ));
        }

        for host in server.hosts.iter().filter(|host| !is_name(host)) {
            problems.push(format!(
                "server.hosts: `{host}` is not the name of a host, such as `gofer.example.com`"
            ));
        }

        for origin in &server.cors_origins {
            if !(origin.starts_with("http://") || origin.starts_with("https://"))
                || origin.ends_with('/')
            {
                problems.push(format!(
                    "server.cors_origins: `{origin}` is not an origin, such as \
                     `https://ci.example.com`"
                ));
            }
        }
    }

    fn validate_metrics(&self, problems: &mut Vec<String>) {
        let (server, metrics) = (&self.server, &self.server.metrics);
        let Some(listen) = metrics.listen.filter(|listen| !listen.ip().is_loopback()) else {
            return;
        };

        if metrics.token_file.is_none() {
            problems.push(format!(
                "server.metrics.listen: `{listen}` is not a loopback address; set \
                 `server.metrics.token_file`, whose token scrapers send"
            ));
        }
        if !self.serves_tls() && !server.allow_insecure_listen {
            problems.push(format!(
                "server.metrics.listen: `{listen}` is not a loopback address and there is no TLS; \
                 set `server.tls.cert_file` and `key_file`, or `server.allow_insecure_listen = \
                 true` when something in front of it does TLS"
            ));
        }
    }

    fn validate_limits(&self, problems: &mut Vec<String>) {
        let limits = &self.limits;
        let counts = [
            ("limits.object_max_bytes", limits.object_max_bytes),
            ("limits.pipeline_objects", limits.pipeline_objects),
            ("limits.calls_per_connection", limits.calls_per_connection as u64),
            ("limits.connections", limits.connections.map_or(1, |count| count as u64)),
            (
                "limits.connections_per_address",
                limits.connections_per_address.map_or(1, |count| count as u64),
            ),
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

        if !(Duration::from_secs(1)..=URL_TTL_MAX).contains(&limits.url_ttl) {
            problems.push(format!(
                "limits.url_ttl: `{:?}` is not possible; 1 second to 7 days",
                limits.url_ttl
            ));
        }

        let timeouts = [
            ("limits.call_timeout", limits.call_timeout),
            ("limits.idle_timeout", limits.idle_timeout),
            ("limits.shutdown_grace", limits.shutdown_grace),
        ];
        let memory = limits.request_memory;

        if memory < REQUEST_MEMORY_MIN_BYTES {
            problems.push(format!(
                "limits.request_memory: `{memory}` is not possible; at least {REQUEST_MEMORY_MIN_BYTES}"
            ));
        }

        if limits.connection_age < CONNECTION_AGE_MIN {
            let age = limits.connection_age;
            problems.push(format!(
                "limits.connection_age: `{age:?}` is not possible; at least {CONNECTION_AGE_MIN:?}"
            ));
        }

        for (key, value) in timeouts {
            if value.is_zero() || value > TIMEOUT_MAX {
                problems.push(format!(
                    "{key}: `{value:?}` is not possible; more than 0 and at most 1 hour"
                ));
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
        if !(LEASE_TTL_MIN..=TIMEOUT_MAX).contains(&lease_ttl) {
            problems.push(format!(
                "engine.lease_ttl: `{lease_ttl:?}` is not possible; 1 second to 1 hour"
            ));
        }

        for (key, value) in
            [("retention.runs", self.retention.runs), ("retention.events", self.retention.events)]
        {
            if value.is_zero() {
                problems.push(format!(
                    "{key}: `0s` would delete them at once; say how long they are kept"
                ));
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
            problems.push(
                "retention.logs: `0s` would delete every log at once; say how long logs are kept"
                    .to_owned(),
            );
        }

        if self.retention.uploads.is_zero() {
            let rule = "would delete what is still being uploaded; say how long an upload may last \
                        at most";
            problems.push(format!("retention.uploads: `0s` {rule}"));
        }

        let database = self.resolved_database();
        if let Err(error) = database.target() {
            problems.push(format!("database.{error}"));
        }

        let selected = [
            ("scheduler", self.selected_scheduler()),
            ("objects", self.selected_objects()),
            ("secrets", self.selected_secrets()),
        ];
        for (kind, selected) in selected {
            if let Err(error) = (selected.validate)(self) {
                problems.push(format!("{kind}.{}: {}", selected.product, error.message));
            }
        }
    }
}
