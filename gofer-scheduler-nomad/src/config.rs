//! What an operator can set.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use gofer_core::{BackendError, ErrorKind, NamespaceId};
use secrecy::SecretString;
use serde::{Deserialize, Deserializer};

/// Longest `job_prefix`: a job id has 100 characters, and the rest must stay readable.
const MAX_PREFIX_BYTES: usize = 24;
/// Longest timeout that makes sense for one call.
const MAX_TIMEOUT: Duration = Duration::from_secs(3_600);
/// Nomad's own bounds of a job's priority.
const PRIORITIES: std::ops::RangeInclusive<u32> = 1..=100;
/// The smallest memory Nomad takes, in MiB.
const MIN_MEMORY_MB: u64 = 10;

/// Settings of the Nomad scheduler, the table `[scheduler.nomad]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NomadConfig {
    /// Base addresses of agents, such as `https://nomad.example.com:4646`. Servers or clients; when
    /// one does not answer, the next is asked.
    pub addresses: Vec<String>,
    /// The Nomad namespace of Gofer namespaces that `namespaces` does not name.
    pub namespace: String,
    /// Other Nomad namespaces and job templates, by Gofer namespace.
    pub namespaces: BTreeMap<String, NamespaceOverride>,
    /// The Nomad region; `None` is the agent's own.
    pub region: Option<String>,
    /// An ACL token. Better in a file.
    #[serde(deserialize_with = "secret")]
    pub token: Option<SecretString>,
    /// A file that holds the ACL token; read again when it changes, and when Nomad refuses the
    /// token.
    pub token_file: Option<PathBuf>,
    /// PEM file of the authorities that signed the agents' certificates; without it, the operating
    /// system's.
    pub ca_file: Option<PathBuf>,
    /// PEM file of the client certificate, for agents that verify their clients.
    pub cert_file: Option<PathBuf>,
    /// PEM file of its private key.
    pub key_file: Option<PathBuf>,
    /// The name in the agents' certificates where it is not the name in the address, such as
    /// `server.global.nomad`.
    pub tls_server_name: Option<String>,
    /// Datacenters that jobs may run in; `*` matches any.
    pub datacenters: Vec<String>,
    /// The node pool that jobs run in.
    pub node_pool: String,
    /// Priority of jobs, 1 to 100.
    pub priority: u32,
    /// What every job's id begins with, and the name of this Gofer among those that share a
    /// cluster. Jobs of another prefix are never touched.
    pub job_prefix: String,
    /// The driver of tasks without an image.
    pub host_driver: HostDriver,
    /// The driver of tasks with an image.
    pub image_driver: ImageDriver,
    /// The shell that every image has, such as `/bin/sh`. Gofer puts it before tasks' programs, in
    /// place of an image's entrypoint unless the task names its own: so that Nomad starts no
    /// program twice, secrets are not in its client's state, and nothing of docker's output is
    /// lost. `None` does so only for tasks whose program is a shell.
    pub image_shell: Option<String>,
    /// Each task gets a token that Nomad signs for it, as its `GOFER_API_TOKEN`, in place of its
    /// run's token. Agents must be of version 1.7 or later.
    pub identity: bool,
    /// Where the nodes have the `gofer` binary, such as `/usr/local/bin/gofer`: it supervises tasks
    /// without an image and reports their ends at once. `None`, and a node without the binary,
    /// leave that to Nomad. Needs `identity`.
    pub supervisor: Option<String>,
    /// An HCL job specification that every job is made from.
    pub job_template: Option<PathBuf>,
    /// Calls to Nomad at once; further ones wait.
    pub max_in_flight: usize,
    /// How long a node may be out of reach before what ran on it counts as lost.
    #[serde(with = "humantime_serde")]
    pub node_lost_after: Duration,
    /// How long a node may be down before the logs on it that are not archived yet are given up.
    /// Those on a node that Nomad does not know any more are, at once.
    #[serde(with = "humantime_serde")]
    pub node_gone_after: Duration,
    /// How long one call may take, its repetitions included.
    #[serde(with = "humantime_serde")]
    pub request_timeout: Duration,
    /// The longest grace of a stop that is honoured. Nomad fixes it when a job is registered, and
    /// its clients limit it with `max_kill_timeout` (30 seconds unless set).
    #[serde(with = "humantime_serde")]
    pub max_grace: Duration,
    /// How much of a log Nomad keeps.
    pub log: LogLimits,
    /// CPU of a task that asks for nothing, in MHz.
    pub default_cpu_mhz: u64,
    /// Memory of a task that asks for nothing, in MiB.
    pub default_memory_mb: u64,
    /// What one core counts as, in MHz: Nomad shares out MHz, pipelines ask for thousandths of a
    /// core.
    pub mhz_per_core: u64,
}

/// Where the executions of one Gofer namespace go.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NamespaceOverride {
    /// The Nomad namespace; `None` is the common one.
    pub namespace: Option<String>,
    /// The job template; `None` is the common one.
    pub job_template: Option<PathBuf>,
}

/// The driver of tasks without an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostDriver {
    /// In a chroot and cgroup of its own; the agent must be root.
    #[default]
    Exec,
    /// As a process of the agent, with its rights and no isolation; agents allow it with
    /// `plugin "raw_exec"`.
    RawExec,
}

impl HostDriver {
    /// The driver's name in Nomad.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exec => "exec",
            Self::RawExec => "raw_exec",
        }
    }

    /// Whether it limits memory and cpu.
    pub(crate) fn enforces_limits(self) -> bool {
        self == Self::Exec
    }

    /// Whether a task is kept from the node's other tasks and files: `raw_exec` has the agent's own
    /// rights.
    pub(crate) fn isolates(self) -> bool {
        self == Self::Exec
    }
}

/// The driver of tasks with an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageDriver {
    /// Nomad's own.
    #[default]
    Docker,
    /// The plugin `nomad-driver-podman`.
    Podman,
}

/// How much of a log Nomad keeps on the node, for each of stdout and stderr.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogLimits {
    /// Files; when there are more, the oldest goes, and what was in it is missing from the log.
    pub max_files: u64,
    /// MiB per file.
    pub max_file_size_mb: u64,
    /// MiB of disk that the job asks for. Nomad wants it larger than `max_files` times
    /// `max_file_size_mb`.
    pub disk_mb: u64,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self { max_files: 10, max_file_size_mb: 10, disk_mb: 300 }
    }
}

impl Default for NomadConfig {
    fn default() -> Self {
        Self {
            addresses: vec!["http://127.0.0.1:4646".to_owned()],
            namespace: "default".to_owned(),
            namespaces: BTreeMap::new(),
            region: None,
            token: None,
            token_file: None,
            ca_file: None,
            cert_file: None,
            key_file: None,
            tls_server_name: None,
            datacenters: vec!["*".to_owned()],
            node_pool: "default".to_owned(),
            priority: 50,
            job_prefix: "gofer".to_owned(),
            host_driver: HostDriver::Exec,
            image_driver: ImageDriver::Docker,
            image_shell: None,
            identity: false,
            supervisor: None,
            job_template: None,
            max_in_flight: 16,
            node_lost_after: Duration::from_secs(120),
            node_gone_after: Duration::from_secs(24 * 3_600),
            request_timeout: Duration::from_secs(30),
            max_grace: Duration::from_secs(30),
            log: LogLimits::default(),
            default_cpu_mhz: 100,
            default_memory_mb: 256,
            mhz_per_core: 1_000,
        }
    }
}

impl ImageDriver {
    /// The driver's name in Nomad.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Podman => "podman",
        }
    }
}

impl NomadConfig {
    /// The product's name, in configurations and answers.
    pub const PRODUCT: &'static str = "nomad";
    /// Whether all servers on one database see the same: a cluster has every execution.
    pub const SHARED: bool = true;

    /// Checks every value against its rule.
    ///
    /// # Errors
    /// `Invalid`, naming the key, the value and the rule.
    pub fn validate(&self) -> Result<(), BackendError> {
        let problem = self
            .connection_problem()
            .or_else(|| self.job_problem())
            .or_else(|| self.namespace_problem());
        problem.map_or(Ok(()), |message| Err(BackendError::new(ErrorKind::Invalid, message)))
    }

    /// The Nomad namespace of a Gofer namespace.
    pub(crate) fn namespace_of(&self, namespace: &NamespaceId) -> &str {
        let own = self.namespaces.get(namespace.as_str()).and_then(|own| own.namespace.as_deref());
        own.unwrap_or(&self.namespace)
    }

    /// Every Nomad namespace that is used, once.
    pub(crate) fn nomad_namespaces(&self) -> Vec<String> {
        let named = self.namespaces.values().filter_map(|own| own.namespace.clone());
        let mut all: Vec<String> = named.chain([self.namespace.clone()]).collect();
        all.sort();
        all.dedup();
        all
    }

    fn connection_problem(&self) -> Option<String> {
        if self.addresses.is_empty() {
            return Some(
                "`addresses` is empty: name at least one agent, such as `https://nomad:4646`"
                    .to_owned(),
            );
        }

        for address in &self.addresses {
            let url = reqwest::Url::parse(address).ok();
            let usable = url.is_some_and(|url| {
                matches!(url.scheme(), "http" | "https")
                    && url.has_host()
                    && url.username().is_empty()
            });

            if !usable {
                return Some(format!(
                    "`addresses` names `{address}`: must be like `https://nomad.example.com:4646`"
                ));
            }
        }

        if self.token.is_some() && self.token_file.is_some() {
            return Some(
                "`token` and `token_file` are both set: only one of them is used, leave out the \
                 other"
                    .to_owned(),
            );
        }

        if self.cert_file.is_some() != self.key_file.is_some() {
            return Some("`cert_file` and `key_file` are set together or not at all".to_owned());
        }

        if self.max_in_flight == 0 {
            return Some("`max_in_flight` is `0`: at least 1".to_owned());
        }

        let timeout = self.request_timeout;
        (timeout.is_zero() || timeout > MAX_TIMEOUT)
            .then(|| format!("`request_timeout` is `{timeout:?}`: more than 0 and at most 1 hour"))
    }

    fn job_problem(&self) -> Option<String> {
        let prefix = &self.job_prefix;
        let slug = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if prefix.is_empty()
            || prefix.len() > MAX_PREFIX_BYTES
            || !prefix.bytes().all(slug)
            || prefix.ends_with('-')
        {
            return Some(format!(
                "`job_prefix` is `{prefix}`: 1 to {MAX_PREFIX_BYTES} lower-case letters, digits \
                 and `-`, not ending with `-`"
            ));
        }

        if self.datacenters.is_empty() || self.datacenters.iter().any(String::is_empty) {
            return Some("`datacenters` has no name in it: name some, or `*` for any".to_owned());
        }

        if !PRIORITIES.contains(&self.priority) {
            return Some(format!("`priority` is `{}`: must be 1 to 100", self.priority));
        }

        if let Some(shell) = self.image_shell.as_ref().filter(|shell| !is_absolute(shell)) {
            return Some(format!(
                "`image_shell` is `{shell}`: must be an absolute path in every image, such as \
                 `/bin/sh`"
            ));
        }

        if let Some(supervisor) = &self.supervisor {
            if !is_absolute(supervisor) {
                return Some(format!(
                    "`supervisor` is `{supervisor}`: must be an absolute path on the nodes"
                ));
            }
            if !self.identity {
                return Some(
                    "`supervisor` is set and `identity` is not: a supervisor needs a token to \
                     report with, set `identity = true`"
                        .to_owned(),
                );
            }
        }

        if self.default_memory_mb < MIN_MEMORY_MB {
            return Some(format!(
                "`default_memory_mb` is `{}`: at least {MIN_MEMORY_MB}",
                self.default_memory_mb
            ));
        }

        for (key, value) in
            [("default_cpu_mhz", self.default_cpu_mhz), ("mhz_per_core", self.mhz_per_core)]
        {
            if value == 0 {
                return Some(format!("`{key}` is `0`: at least 1"));
            }
        }

        let LogLimits { max_files, max_file_size_mb, disk_mb } = self.log;
        if max_files == 0
            || max_file_size_mb == 0
            || max_files.saturating_mul(max_file_size_mb) >= disk_mb
        {
            return Some(format!(
                "`log` is {max_files} files of {max_file_size_mb} MiB and `disk_mb` is \
                 `{disk_mb}`: at least one of each, and `disk_mb` must be larger than their \
                 product"
            ));
        }

        None
    }

    fn namespace_problem(&self) -> Option<String> {
        let empty = |key: &str| Some(format!("`{key}` is empty: leave it out for the default"));
        if self.namespace.is_empty() {
            return empty("namespace");
        }

        if self.region.as_ref().is_some_and(String::is_empty) {
            return empty("region");
        }

        for (namespace, own) in &self.namespaces {
            if let Err(error) = NamespaceId::new(namespace) {
                return Some(format!(
                    "`namespaces` names `{namespace}`, which is not a namespace of gofer: {error}"
                ));
            }
            if own.namespace.as_ref().is_some_and(|name| name.is_empty() || name == "*") {
                return Some(format!(
                    "`namespaces.{namespace}.namespace` must be the name of one Nomad namespace"
                ));
            }
        }

        None
    }
}

fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SecretString>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.map(SecretString::from))
}

/// Whether it is a path that means the same wherever the process is.
fn is_absolute(path: &str) -> bool {
    path.starts_with('/') && !path.contains('\0')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<NomadConfig, toml::de::Error> {
        toml::from_str(text)
    }

    #[test]
    fn the_default_is_valid() {
        NomadConfig::default().validate().unwrap();
        parse("").unwrap().validate().unwrap();
    }

    #[test]
    fn every_rule_names_key_and_value() {
        let cases = [
            ("addresses = []", "`addresses` is empty"),
            ("addresses = ['nomad:4646']", "`nomad:4646`"),
            ("addresses = ['ftp://nomad']", "`ftp://nomad`"),
            ("job_prefix = 'Gofer'", "`job_prefix` is `Gofer`"),
            ("job_prefix = 'gofer-'", "`job_prefix` is `gofer-`"),
            ("priority = 0", "`priority` is `0`"),
            ("max_in_flight = 0", "`max_in_flight` is `0`"),
            ("request_timeout = '0s'", "`request_timeout` is `0ns`"),
            ("cert_file = '/c.pem'", "`cert_file` and `key_file`"),
            ("token = 'x'\ntoken_file = '/t'", "`token` and `token_file`"),
            ("datacenters = []", "`datacenters`"),
            ("default_memory_mb = 1", "`default_memory_mb` is `1`"),
            ("[log]\ndisk_mb = 100", "`disk_mb` is `100`"),
            ("[namespaces.Bad]", "`Bad`"),
            ("[namespaces.a]\nnamespace = '*'", "`namespaces.a.namespace`"),
        ];
        for (text, expected) in cases {
            let error = parse(text).unwrap().validate().expect_err(text);
            assert_eq!(error.kind, ErrorKind::Invalid);
            assert!(error.message.contains(expected), "{text}: {}", error.message);
        }
    }

    #[test]
    fn unknown_keys_are_errors_and_tokens_do_not_show() {
        assert!(parse("adresses = []").is_err());
        let config = parse("token = 'canary-4411'\nnode_lost_after = '90s'").unwrap();
        assert_eq!(config.node_lost_after, Duration::from_secs(90));
        assert!(!format!("{config:?}").contains("canary"), "{config:?}");
    }

    #[test]
    fn namespaces_are_mapped() {
        let config =
            parse("namespace = 'ci'\n[namespaces.team-a]\nnamespace = 'a'\n[namespaces.team-b]")
                .unwrap();
        let of = |name: &str| config.namespace_of(&NamespaceId::new(name).unwrap()).to_owned();
        assert_eq!([of("team-a"), of("team-b"), of("other")], ["a", "ci", "ci"]);
        assert_eq!(config.nomad_namespaces(), ["a", "ci"]);
    }
}
