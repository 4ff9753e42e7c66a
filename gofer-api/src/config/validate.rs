//! The rules a configuration obeys beyond the types of its keys.

use std::time::Duration;

use super::{AuthMode, ConfigError, ServerConfig};

/// Longest timeout that makes sense for one call or one silence.
const MAX_TIMEOUT: Duration = Duration::from_secs(3600);

impl ServerConfig {
    /// Every broken rule, or nothing.
    ///
    /// # Errors
    /// [`ConfigError`], which names each key, its value and the rule.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let mut problems = Vec::new();
        self.validate_exposure(&mut problems);
        self.validate_limits(&mut problems);
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
}
