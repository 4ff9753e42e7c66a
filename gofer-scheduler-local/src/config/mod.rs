//! What an operator can set, and how to run the supervisor code.

mod users;

use std::fmt;
use std::path::PathBuf;

use gofer_core::{BackendError, ErrorKind};
use serde::{Deserialize, Serialize};

use crate::owner::Owner;

pub use users::{UidRange, UsersConfig};

/// Settings of the local scheduler, the table `[scheduler.local]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LocalSchedulerConfig {
    /// Absolute path of the directory for logs, exit codes and working directories. Made if
    /// missing, mode 0700. It must be on a local file system (not NFS), because a lock tells
    /// whether an execution is alive.
    pub dir: PathBuf,
    /// Names of the environment variables that tasks get from the server's own environment.
    pub pass_env: Vec<String>,
    /// A directory put in front of every task's `PATH`: that of the `gofer` binary, so that tasks
    /// can call `gofer`.
    pub path_prepend: Option<PathBuf>,
    /// Bytes of output kept per execution, both streams together. What comes after is dropped, and
    /// one line says so.
    pub max_log_bytes: u64,
    /// Output is dropped while the disk of `dir` has fewer bytes left; 0 is never. Not a key of
    /// this table: it is the server's.
    #[serde(skip)]
    pub free_disk_min: u64,
    /// Where each execution has a cgroup: `auto`, `off`, or the absolute path of a cgroup v2
    /// directory that was delegated to Gofer.
    pub cgroup: Cgroup,
    /// Most processes and threads of one execution, where a cgroup limits them, or of one
    /// namespace's user.
    pub max_processes: u32,
    /// Whether Landlock binds tasks that run as the server's own user.
    pub landlock: LandlockMode,
    /// A user per namespace, for a server that may become any.
    pub users: Option<UsersConfig>,
    /// Everybody who may register a pipeline is trusted with all that the server's user may:
    /// namespaces are no boundary.
    pub trusted: bool,
    /// Files and directories that are no task's business, beside `dir`.
    #[serde(skip)]
    pub protected: Vec<PathBuf>,
    /// Whose end is the end of every execution, too. `None` is the rule for a server: executions
    /// outlive it, and the next server finds them.
    #[serde(skip)]
    pub owner: Option<Owner>,
}

/// What tasks get from the server's environment unless the operator says otherwise.
const DEFAULT_PASS_ENV: [&str; 10] = [
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TZ",
    "USER",
    "LOGNAME",
    "TMPDIR",
    "CARGO_HOME",
    "RUSTUP_HOME",
];

/// Enough for any log a person reads, small enough that a task in a loop does not fill the disk.
const DEFAULT_MAX_LOG_BYTES: u64 = 1 << 30;

/// Enough for a parallel build on a large machine, and a small part of what a kernel has.
const DEFAULT_MAX_PROCESSES: u32 = 4096;

impl Default for LocalSchedulerConfig {
    fn default() -> Self {
        Self {
            dir: PathBuf::new(),
            pass_env: DEFAULT_PASS_ENV.map(String::from).to_vec(),
            path_prepend: None,
            max_log_bytes: DEFAULT_MAX_LOG_BYTES,
            free_disk_min: 0,
            cgroup: Cgroup::Auto,
            max_processes: DEFAULT_MAX_PROCESSES,
            landlock: LandlockMode::Auto,
            users: None,
            trusted: false,
            protected: Vec::new(),
            owner: None,
        }
    }
}

impl LocalSchedulerConfig {
    /// The product's name, in configurations and answers.
    pub const PRODUCT: &'static str = "local";
    /// Whether all servers on one database see the same: processes are one machine's.
    pub const SHARED: bool = false;

    /// Checks every value against its rule.
    ///
    /// # Errors
    /// `Invalid`, naming the key, the value and the rule.
    pub fn validate(&self) -> Result<(), BackendError> {
        let invalid = |message: String| Err(BackendError::new(ErrorKind::Invalid, message));
        for (key, path) in [("dir", Some(&self.dir)), ("path_prepend", self.path_prepend.as_ref())]
        {
            if let Some(path) = path
                && !path.is_absolute()
            {
                return invalid(format!(
                    "`{key}` is `{}`: must be an absolute path",
                    path.display()
                ));
            }
        }

        for name in &self.pass_env {
            if name.is_empty() || name.contains(['=', '\0']) {
                return invalid(format!(
                    "`pass_env` names `{name}`: must be the name of an environment variable"
                ));
            }
        }

        if self.max_processes == 0 {
            return invalid(
                "`max_processes` is `0`: must be at least 1, for the task's own process".to_owned(),
            );
        }

        self.users.as_ref().map_or(Ok(()), UsersConfig::validate)
    }
}

/// Whether Landlock binds tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LandlockMode {
    /// Where the kernel has it, tasks are not trusted and have no user of their own; files only
    /// where tasks would not miss them.
    #[default]
    Auto,
    /// Never.
    Off,
    /// Always, files included; a server on a kernel without it does not start.
    Require,
}

/// Where limits of memory and cpu are set.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Cgroup {
    /// In the server's own cgroup if that was delegated (systemd: `Delegate=yes`) or is the root of
    /// a container, else nowhere.
    #[default]
    Auto,
    /// Nowhere.
    Off,
    /// In this cgroup v2 directory.
    Path(PathBuf),
}

impl TryFrom<String> for Cgroup {
    type Error = String;

    fn try_from(value: String) -> Result<Self, String> {
        match value.as_str() {
            "auto" => Ok(Self::Auto),
            "off" => Ok(Self::Off),
            path if path.starts_with('/') => Ok(Self::Path(path.into())),
            _ => Err(format!("`{value}` is not valid: must be `auto`, `off` or an absolute path")),
        }
    }
}

impl From<Cgroup> for String {
    fn from(value: Cgroup) -> Self {
        value.to_string()
    }
}

impl fmt::Display for Cgroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Off => f.write_str("off"),
            Self::Path(path) => write!(f, "{}", path.display()),
        }
    }
}

/// How to run [`crate::supervisor::main`] in a process of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launcher {
    /// Absolute path of a program that calls it. `/proc/self/exe` is the running binary, also after
    /// it was replaced on disk.
    pub program: PathBuf,
    /// Its arguments, such as `__supervisor`.
    pub args: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejects_what_breaks_a_rule_and_names_it() {
        let relative =
            LocalSchedulerConfig { dir: "state".into(), ..LocalSchedulerConfig::default() };
        assert_eq!(
            relative.validate().unwrap_err().message,
            "`dir` is `state`: must be an absolute path"
        );

        let odd = LocalSchedulerConfig {
            dir: "/s".into(),
            pass_env: vec!["A=B".into()],
            ..Default::default()
        };

        assert!(odd.validate().unwrap_err().message.contains("`A=B`"));
        assert!(serde_json::from_str::<LocalSchedulerConfig>(r#"{"dri":"/x"}"#).is_err());
        let bad: Result<LocalSchedulerConfig, _> = serde_json::from_str(r#"{"cgroup":"here"}"#);
        assert!(bad.unwrap_err().to_string().contains("`here` is not valid"));
    }

    #[test]
    fn round_trips() {
        let config = LocalSchedulerConfig {
            dir: "/s".into(),
            cgroup: Cgroup::Path("/sys/fs/cgroup/gofer".into()),
            ..LocalSchedulerConfig::default()
        };
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<LocalSchedulerConfig>(&text).unwrap(), config);
    }
}
